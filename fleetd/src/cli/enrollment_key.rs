//! `fleetd enrollment-key`.

use clap::Subcommand;
use protocol::id::OrgSlug;

use super::Failure;
use super::database::with_store;
use crate::config::Config;
use crate::domain::org::DEFAULT_ORG;
use crate::service::accounts::{self, KeyTerms};

/// Keys with which devices register themselves.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a key and print it, alone, on standard output. It is shown only once.
    Add {
        /// The organisation that the devices will belong to.
        #[arg(long, default_value = DEFAULT_ORG)]
        org: OrgSlug,
        /// How many devices may use it; any number if not given.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..=1_000_000))]
        uses: Option<i64>,
        /// For how many hours it works; for ever if not given.
        #[arg(long, value_name = "H", value_parser = clap::value_parser!(i64).range(1..=87_600))]
        expires_in_hours: Option<i64>,
        /// An admin has to approve each device before it gets commands.
        #[arg(long)]
        require_approval: bool,
    },
}

pub(super) fn run(command: Command, config: &Config) -> Result<(), Failure> {
    let Command::Add { org, uses, expires_in_hours, require_approval } = command;
    let terms = KeyTerms { max_uses: uses, expires_in_hours, require_approval };
    let key = with_store(config, |store, now_ms| async move {
        accounts::add_enrollment_key(&store, &org, &terms, now_ms).await
    })?;
    println!("{}", key.expose());
    Ok(())
}
