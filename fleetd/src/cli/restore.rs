//! `fleetd restore`.

use std::path::PathBuf;

use clap::Args;

use super::Failure;
use crate::{
    backup::{self, Options, Progress},
    clock::Clock,
    config::Config,
};

/// What to restore.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The file that `fleetd backup` has made, or - for standard input.
    #[arg(value_name = "FROM")]
    from: PathBuf,
    /// Set a database aside that is there already. It is kept beside the new one, under a name that is printed.
    #[arg(long)]
    force: bool,
}

pub(super) fn run(arguments: Arguments, config: &Config) -> Result<(), Failure> {
    let Arguments { from, force } = arguments;
    let options = Options { from: Some(from).filter(|from| from.as_os_str() != "-"), force };
    let done = backup::restore(config, &options, &Clock::system(), &mut Progress::stderr())?;
    let made_at = &done.manifest.created_at;
    println!("restored {} as it was at {made_at}", config.database.display());
    for aside in &done.aside {
        println!("the data from before is in {}; nothing removes it but you", aside.display());
    }
    println!("{} open commands: their devices are asked first what became of them", done.open_commands);
    println!(
        "everybody has to log in again. Accounts, passwords, devices, their tokens and enrolment keys are as they were \
         at {made_at}: what was revoked, disabled or decommissioned since has to be so again, and devices that were \
         registered since have to enrol again. Commands made since are forgotten here, and carried out by devices that have \
         them"
    );
    Ok(())
}
