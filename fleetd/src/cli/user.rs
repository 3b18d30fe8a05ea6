//! `fleetd user`.

use clap::Subcommand;
use protocol::id::{OrgSlug, Role, UserName};
use protocol::message::rfc3339;

use super::database::{SOURCE, print_table, with_store};
use super::{Failure, password};
use crate::config::Config;
use crate::domain::org::DEFAULT_ORG;
use crate::domain::user::Email;
use crate::service::accounts::{self, NewUser};
use crate::store::users;

/// People's accounts.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Add a person. The password is asked for, or read from standard input.
    Add {
        /// The e-mail address, with which the person signs in.
        #[arg(long)]
        email: Email,
        /// The person's name.
        #[arg(long)]
        name: String,
        /// What the person may do: viewer (look), operator (also send commands), admin (everything).
        #[arg(long)]
        role: Role,
        /// The organisation.
        #[arg(long, default_value = DEFAULT_ORG)]
        org: OrgSlug,
        /// The name for MQTT; made from the e-mail address if not given.
        #[arg(long)]
        username: Option<UserName>,
        /// The person also manages organisations.
        #[arg(long)]
        superadmin: bool,
    },
    /// List the accounts.
    List {
        /// Only those of this organisation.
        #[arg(long)]
        org: Option<OrgSlug>,
    },
    /// Disable an account: its tokens and keys stop working and its connections end.
    Disable {
        /// The e-mail address.
        #[arg(long)]
        email: Email,
    },
}

pub(super) fn run(command: Command, config: &Config) -> Result<(), Failure> {
    match command {
        Command::Add { email, name, role, org, username, superadmin } => {
            let password = password::read_new()?;
            let new = NewUser { org, email, username, name, role, is_superadmin: superadmin };
            let user = with_store(config, |store, now_ms| async move {
                accounts::add_user(&store, new, password, now_ms).await
            })?;
            println!(
                "added {} as {} of {} (MQTT name {}/{})",
                user.email.as_str(),
                user.role,
                user.org.slug,
                user.org.slug,
                user.username
            );
        }
        Command::List { org } => {
            let found =
                with_store(config, |store, _| async move { Ok(users::all(&store, org.as_ref()).await?) })?;
            let rows: Vec<_> = found
                .iter()
                .map(|user| {
                    vec![
                        user.email.as_str().to_owned(),
                        user.org.slug.to_string(),
                        user.username.to_string(),
                        user.role.to_string(),
                        if user.is_active { "active" } else { "disabled" }.to_owned(),
                        user.last_login_at.map_or_else(|| "never".to_owned(), rfc3339),
                        user.name.clone(),
                    ]
                })
                .collect();
            print_table(&["EMAIL", "ORG", "USERNAME", "ROLE", "STATE", "LAST LOGIN", "NAME"], &rows);
        }
        Command::Disable { email } => {
            let user = with_store(config, |store, now_ms| async move {
                accounts::disable_user(&store, &email, SOURCE, now_ms).await
            })?;
            println!("disabled {}", user.email.as_str());
        }
    }
    Ok(())
}
