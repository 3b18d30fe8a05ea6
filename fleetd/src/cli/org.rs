//! `fleetd org`.

use clap::Subcommand;
use protocol::id::OrgSlug;

use super::Failure;
use super::database::{print_json, print_table, with_store};
use crate::config::Config;
use crate::service::accounts;
use crate::store::orgs;

/// Organisations.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Add an organisation.
    Add {
        /// The short name in topics and URLs: small letters, digits, `-` and `_`.
        #[arg(long)]
        slug: OrgSlug,
        /// The name for people.
        #[arg(long)]
        name: String,
    },
    /// List the organisations.
    List {
        /// As JSON, for programs.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(command: Command, config: &Config) -> Result<(), Failure> {
    match command {
        Command::Add { slug, name } => {
            let org = with_store(config, |store, now_ms| async move {
                accounts::add_org(&store, slug, &name, now_ms).await
            })?;
            println!("added {}", org.slug);
        }
        Command::List { json } => {
            let found = with_store(config, |store, _| async move { Ok(orgs::all(&store).await?) })?;
            if json {
                return print_json(&found);
            }
            let rows: Vec<_> = found.iter().map(|org| vec![org.slug.to_string(), org.name.clone()]).collect();
            print_table(&["SLUG", "NAME"], &rows)?;
        }
    }
    Ok(())
}
