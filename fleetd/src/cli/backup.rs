//! `fleetd backup`.

use std::path::PathBuf;

use clap::Args;

use super::Failure;
use crate::{
    backup::{self, Progress, Target},
    clock::Clock,
    config::Config,
};

/// Where the backup goes.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The file to write, which must not be there yet; a folder, to have the file named by the time; or - for standard
    /// output.
    #[arg(value_name = "TO")]
    to: PathBuf,
}

pub(super) fn run(arguments: Arguments, config: &Config) -> Result<(), Failure> {
    let target = if arguments.to.as_os_str() == "-" { Target::Stdout } else { Target::File(arguments.to) };
    let made = backup::create(config, &target, &Clock::system(), &mut Progress::stderr())?;
    if let Some(path) = made.path {
        println!("{}", path.display());
    }
    Ok(())
}
