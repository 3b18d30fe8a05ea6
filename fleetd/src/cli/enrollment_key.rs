//! `fleetd enrollment-key`.

use clap::Subcommand;
use protocol::id::OrgSlug;
use protocol::message::rfc3339;

use super::Failure;
use super::database::{print_json, print_table, with_desk, with_store};
use crate::config::Config;
use crate::domain::enrollment::MAX_USES_MAX;
use crate::domain::org::DEFAULT_ORG;
use crate::service::Desk;
use crate::service::accounts::{self, KeyTerms, find_org};
use crate::service::enrollment_keys as service;
use crate::store::enrollment_keys;

/// Keys with which devices register themselves.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a key and print it, alone, on standard output. It is shown only once.
    Add {
        /// The organisation that the devices will belong to.
        #[arg(long, default_value = DEFAULT_ORG)]
        org: OrgSlug,
        /// How many devices may use it; any number if not given.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..=MAX_USES_MAX))]
        uses: Option<i64>,
        /// For how many hours it works; for ever if not given.
        #[arg(long, value_name = "H", value_parser = clap::value_parser!(i64).range(1..=87_600))]
        expires_in_hours: Option<i64>,
        /// An admin has to approve each device before it gets commands.
        #[arg(long)]
        require_approval: bool,
    },
    /// List the keys of an organisation.
    List {
        /// The organisation.
        #[arg(long, default_value = DEFAULT_ORG)]
        org: OrgSlug,
        /// As JSON, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Take a key back. Devices that enrolled with it keep their own tokens.
    Revoke {
        /// The id, as `fleetd enrollment-key list` shows it.
        id: String,
        /// The organisation.
        #[arg(long, default_value = DEFAULT_ORG)]
        org: OrgSlug,
    },
}

pub(super) fn run(command: Command, config: &Config) -> Result<(), Failure> {
    match command {
        Command::Add { org, uses, expires_in_hours, require_approval } => {
            let terms = KeyTerms { max_uses: uses, expires_in_hours, require_approval };
            let key = with_store(config, |store, now_ms| async move {
                accounts::add_enrollment_key(&store, &org, &terms, now_ms).await
            })?;
            println!("{}", key.expose());
        }
        Command::List { org, json } => {
            let found = with_desk(config, async move |desk: Desk<'_>| {
                let org = find_org(desk.store, &org).await?;
                Ok(enrollment_keys::all(desk.store, &org.id).await?)
            })?;
            if json {
                return print_json(&found);
            }
            let rows: Vec<_> = found
                .iter()
                .map(|key| {
                    let most = key.max_uses.map_or_else(|| "any".to_owned(), |most| most.to_string());
                    vec![
                        key.id.clone(),
                        key.key_prefix.clone(),
                        format!("{} of {most}", key.uses),
                        key.expires_at.map_or_else(|| "never".to_owned(), rfc3339),
                        if key.require_approval { "by an admin" } else { "at once" }.to_owned(),
                    ]
                })
                .collect();
            print_table(&["ID", "KEY", "USES", "EXPIRES", "APPROVED"], &rows)?;
        }
        Command::Revoke { id, org } => {
            let key = with_desk(config, async move |desk: Desk<'_>| {
                let org = find_org(desk.store, &org).await?;
                service::revoke(desk, &org.id, &id).await
            })?;
            println!("took {} back", key.key_prefix);
        }
    }
    Ok(())
}
