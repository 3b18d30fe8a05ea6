//! `fleetd api-key`.

use clap::{Args, Subcommand};
use protocol::id::{OrgSlug, UserName};
use protocol::message::rfc3339;

use super::Failure;
use super::database::{print_json, print_table, with_desk};
use crate::auth::policy::SCOPES;
use crate::config::Config;
use crate::domain::api_key::KEY_NAME_MAX_CHARS;
use crate::domain::fields;
use crate::domain::org::DEFAULT_ORG;
use crate::domain::user::{Email, User};
use crate::service::accounts::{find_org, find_person, find_service};
use crate::service::api_keys::{self as service, NewKey};
use crate::service::{Desk, Error};
use crate::store::{api_keys, users};

const DAY_MS: i64 = 86_400_000;

/// Keys that programs and MQTT tools show in place of a password.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a key and print it, alone, on standard output. It is shown only once.
    Add {
        #[command(flatten)]
        owner: Owner,
        /// The organisation of a service account.
        #[arg(long, default_value = DEFAULT_ORG)]
        org: OrgSlug,
        /// What the key is for, for people.
        #[arg(long)]
        name: String,
        /// Limit the key to this; may be given several times. Without it the key may do all that its owner may.
        #[arg(long = "scope", value_name = "SCOPE", value_parser = clap::builder::PossibleValuesParser::new(SCOPES))]
        scopes: Vec<String>,
        /// For how many days it works; for ever if not given.
        #[arg(long, value_name = "D", value_parser = clap::value_parser!(i64).range(1..=3650))]
        expires_in_days: Option<i64>,
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
    /// Take a key back: it stops working, and the live connections of its owner end.
    Revoke {
        /// The id, as `fleetd api-key list` shows it.
        id: String,
        /// The organisation.
        #[arg(long, default_value = DEFAULT_ORG)]
        org: OrgSlug,
    },
}

/// Whose key it is.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Owner {
    /// The key is this person's.
    #[arg(long, value_name = "EMAIL")]
    user: Option<Email>,
    /// The key is this service account's.
    #[arg(long, value_name = "NAME")]
    service_account: Option<UserName>,
}

pub(super) fn run(command: Command, config: &Config) -> Result<(), Failure> {
    match command {
        Command::Add { owner, org, name, scopes, expires_in_days } => {
            let (key, text) = with_desk(config, async move |desk: Desk<'_>| {
                let owner = owner.find(desk, &org).await?;
                let name = fields::name(KEY_NAME_MAX_CHARS)(name.into())
                    .map_err(|message| Error::field("name", message))?;
                let expires_at =
                    expires_in_days.map(|days| desk.now_ms.saturating_add(days.saturating_mul(DAY_MS)));
                service::create(desk, &owner, NewKey { name, scopes, expires_at }).await
            })?;
            eprintln!("made a key of {} (id {}); the key itself, shown this once:", key.owner, key.id);
            println!("{}", text.expose());
        }
        Command::List { org, json } => {
            let found = with_desk(config, async move |desk: Desk<'_>| {
                let org = find_org(desk.store, &org).await?;
                Ok(api_keys::all(desk.store, &org.id).await?)
            })?;
            if json {
                return print_json(&found);
            }
            let rows: Vec<_> = found
                .iter()
                .map(|key| {
                    let scopes =
                        if key.scopes.is_empty() { "everything".to_owned() } else { key.scopes.join(",") };
                    let or = |at: Option<i64>, nothing: &str| at.map_or_else(|| nothing.to_owned(), rfc3339);
                    vec![
                        key.id.clone(),
                        key.key_prefix.clone(),
                        key.owner.clone(),
                        scopes,
                        or(key.expires_at, "never"),
                        or(key.last_used_at, "never"),
                        key.name.clone(),
                    ]
                })
                .collect();
            print_table(&["ID", "KEY", "OWNER", "SCOPES", "EXPIRES", "LAST USED", "NAME"], &rows)?;
        }
        Command::Revoke { id, org } => {
            let key = with_desk(config, async move |desk: Desk<'_>| {
                let org = find_org(desk.store, &org).await?;
                let unknown = || Error::NotFound(format!("there is no API key of this id in {}", org.slug));
                let key = api_keys::by_id(desk.store, &org.id, &id).await?.ok_or_else(unknown)?;
                let owner = users::by_id(desk.store, &key.owner_id).await?.ok_or_else(unknown)?.user;
                service::revoke(desk, &key, &owner).await.map(|()| key)
            })?;
            println!("took {} of {} back", key.key_prefix, key.owner);
        }
    }
    Ok(())
}

impl Owner {
    async fn find(&self, desk: Desk<'_>, org: &OrgSlug) -> Result<User, Error> {
        match (&self.user, &self.service_account) {
            (Some(email), _) => find_person(desk.store, email).await,
            (None, Some(name)) => find_service(desk.store, org, name).await,
            // The command line takes exactly one of them.
            (None, None) => Err(Error::field("user", "a person or a service account is expected")),
        }
    }
}
