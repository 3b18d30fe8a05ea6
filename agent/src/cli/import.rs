//! `import`.

use std::path::Path;
use std::process::ExitCode;

use super::{ImportArguments, failure, say};
use crate::config::{self, Imported};

pub(super) fn run(arguments: &ImportArguments, config_file: Option<&Path>) -> ExitCode {
    let theirs = arguments.file.as_deref().unwrap_or_else(|| Path::new(config::APP_FILE));
    let ours = config_file.unwrap_or_else(|| Path::new(config::SYSTEM_FILE));
    let done = if arguments.token_back {
        config::give_token_back(ours, theirs).map(|changed| {
            if changed {
                say(&format!("The device's present token is written to {}.\n", theirs.display()));
            }
        })
    } else {
        config::import(theirs, ours, arguments.identity).map(|imported| match imported {
            Imported::IsEnrolled => {
                say(&format!("{} enrols this device already; it stays as it is.\n", ours.display()));
            }
            Imported::Written(odd) => {
                odd.iter().for_each(|text| eprintln!("r58-fleet-agent: warning: {text}"));
                say(&format!("Imported {} into {}.\n", theirs.display(), ours.display()));
            }
        })
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure(&error),
    }
}
