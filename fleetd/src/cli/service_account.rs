//! `fleetd service-account`.

use clap::Subcommand;
use protocol::id::{OrgSlug, Role, UserName};

use super::Failure;
use super::database::with_desk;
use super::user::list;
use crate::config::Config;
use crate::domain::org::DEFAULT_ORG;
use crate::domain::user::{Kind, UserPatch};
use crate::service::Desk;
use crate::service::accounts::{self, NewService, find_org};

/// Accounts of programs: they have API keys and no password.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Add a service account; give it a key with `fleetd api-key add`.
    Add {
        /// The name, also for MQTT: small letters, digits, `-` and `_`.
        #[arg(long)]
        username: UserName,
        /// The name for people; the other name if not given.
        #[arg(long)]
        name: Option<String>,
        /// What it may do: viewer (look), operator (also send commands), admin (everything).
        #[arg(long)]
        role: Role,
        /// The organisation.
        #[arg(long, default_value = DEFAULT_ORG)]
        org: OrgSlug,
    },
    /// List the service accounts.
    List {
        /// Only those of this organisation.
        #[arg(long)]
        org: Option<OrgSlug>,
        /// As JSON, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Disable a service account: its keys stop working and its connections end.
    Disable {
        /// The name.
        #[arg(long)]
        username: UserName,
        /// The organisation.
        #[arg(long, default_value = DEFAULT_ORG)]
        org: OrgSlug,
    },
}

pub(super) fn run(command: Command, config: &Config) -> Result<(), Failure> {
    match command {
        Command::Add { username, name, role, org } => {
            let made = with_desk(config, async move |desk: Desk<'_>| {
                let org = find_org(desk.store, &org).await?;
                let new = NewService { name: name.unwrap_or_else(|| username.to_string()), username, role };
                accounts::add(desk, accounts::draft_service(org, new, desk.now_ms)?, None).await
            })?;
            println!("added {} as {}", made.label(), made.role);
        }
        Command::List { org, json } => list(config, Kind::Service, org, json)?,
        Command::Disable { username, org } => {
            let changed = with_desk(config, async move |desk: Desk<'_>| {
                let account = accounts::find_service(desk.store, &org, &username).await?;
                let patch = UserPatch { is_active: Some(false), ..UserPatch::default() };
                accounts::change(desk, None, &account.org.id, Kind::Service, &account.id, &patch).await
            })?;
            println!("disabled {}", changed.after.label());
        }
    }
    Ok(())
}
