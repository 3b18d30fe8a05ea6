//! `fleetd user`.

use clap::Subcommand;
use protocol::id::{OrgSlug, Role, UserName};
use protocol::message::rfc3339;

use super::database::{SOURCE, print_json, print_table, with_desk, with_store};
use super::{Failure, password};
use crate::auth::password::generate;
use crate::config::Config;
use crate::domain::org::DEFAULT_ORG;
use crate::domain::user::{Email, Kind, User, UserPatch};
use crate::service::accounts::{self, NewUser};
use crate::service::{Desk, Error};
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
        /// The password has to be changed when the person signs in with it.
        #[arg(long)]
        must_change_password: bool,
    },
    /// List the accounts.
    List {
        /// Only those of this organisation.
        #[arg(long)]
        org: Option<OrgSlug>,
        /// As JSON, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Disable an account: its tokens and keys stop working and its connections end.
    Disable {
        /// The e-mail address.
        #[arg(long)]
        email: Email,
    },
    /// Enable a disabled account. Its API keys work again; the person has to sign in anew.
    Enable {
        /// The e-mail address.
        #[arg(long)]
        email: Email,
    },
    /// Give a person a new password; every session and connection of the person ends. It is asked for, or read from standard input.
    ResetPassword {
        /// The e-mail address.
        #[arg(long)]
        email: Email,
        /// Make one, and print it, alone, on standard output.
        #[arg(long)]
        generate: bool,
        /// It has to be changed when the person signs in with it.
        #[arg(long)]
        must_change_password: bool,
    },
    /// Give a person another role. The person's MQTT connections end, and come back with the new one.
    SetRole {
        /// The e-mail address.
        #[arg(long)]
        email: Email,
        /// viewer, operator or admin.
        #[arg(long)]
        role: Role,
    },
}

pub(super) fn run(command: Command, config: &Config) -> Result<(), Failure> {
    match command {
        Command::Add { email, name, role, org, username, superadmin, must_change_password } => {
            let password = password::read_new()?;
            let new =
                NewUser { org, email, username, name, role, is_superadmin: superadmin, must_change_password };
            let user = with_store(config, |store, now_ms| async move {
                accounts::add_user(&store, new, password, now_ms).await
            })?;
            println!(
                "added {} as {} of {} (MQTT name {}/{})",
                user.label(),
                user.role,
                user.org.slug,
                user.org.slug,
                user.username
            );
        }
        Command::List { org, json } => list(config, Kind::Person, org, json)?,
        Command::Disable { email } => {
            let user = with_store(config, |store, now_ms| async move {
                accounts::disable_user(&store, &email, SOURCE, now_ms).await
            })?;
            println!("disabled {}", user.label());
        }
        Command::Enable { email } => {
            let patch = UserPatch { is_active: Some(true), ..UserPatch::default() };
            println!("enabled {}", change(config, &email, &patch)?.label());
        }
        Command::ResetPassword { email, generate: make, must_change_password } => {
            let password = if make { generate()? } else { password::read_new()? };
            let given = password.clone();
            let user = with_desk(config, async move |desk: Desk<'_>| {
                let user = accounts::find_person(desk.store, &email).await?;
                let hash = accounts::hash_here(&user, given).await?;
                accounts::set_password(desk, &user, &hash, must_change_password).await.map(|()| user)
            })?;
            eprintln!("{} has a new password", user.label());
            if make {
                println!("{}", password.expose());
            }
        }
        Command::SetRole { email, role } => {
            let user = change(config, &email, &UserPatch { role: Some(role), ..UserPatch::default() })?;
            println!("{} is {} of {}", user.label(), user.role, user.org.slug);
        }
    }
    Ok(())
}

fn change(config: &Config, email: &Email, patch: &UserPatch) -> Result<User, Failure> {
    with_desk(config, async |desk: Desk<'_>| {
        let user = accounts::find_person(desk.store, email).await?;
        Ok::<_, Error>(accounts::change(desk, None, &user.org.id, Kind::Person, &user.id, patch).await?.after)
    })
}

/// Lists the accounts of a kind.
pub(super) fn list(config: &Config, kind: Kind, org: Option<OrgSlug>, json: bool) -> Result<(), Failure> {
    let found =
        with_store(config, |store, _| async move { Ok(users::all(&store, kind, org.as_ref()).await?) })?;
    if json {
        return print_json(&found.iter().map(User::view).collect::<Vec<_>>());
    }
    let rows: Vec<_> = found
        .iter()
        .map(|user| {
            let mut row = vec![
                user.org.slug.to_string(),
                user.username.to_string(),
                user.role.to_string(),
                if user.is_active { "active" } else { "disabled" }.to_owned(),
                user.name.clone(),
            ];
            if kind == Kind::Person {
                row.insert(0, user.label());
                row.insert(5, user.last_login_at.map_or_else(|| "never".to_owned(), rfc3339));
            }
            row
        })
        .collect();
    match kind {
        Kind::Person => {
            print_table(&["EMAIL", "ORG", "USERNAME", "ROLE", "STATE", "LAST LOGIN", "NAME"], &rows)
        }
        Kind::Service => print_table(&["ORG", "USERNAME", "ROLE", "STATE", "NAME"], &rows),
    }
}
