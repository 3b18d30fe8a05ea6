//! The command line of `fleet-broker`.

use std::path::PathBuf;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::config::DEFAULT_PATH;

/// The MQTT broker of R58 Fleet as a program of its own.
///
/// fleetd has this broker built in; fleet-broker is for installations where the broker runs apart from it.
#[derive(Debug, Parser)]
#[command(name = "fleet-broker", version, about, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program understands, for its man pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// What the program does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the broker until SIGTERM or Ctrl-C. SIGHUP reads the credentials file again.
    Run(ConfigArgs),
    /// Read the config and the credentials file, and say whether they are good. Changes nothing.
    Check(ConfigArgs),
    /// Print the hash of a secret for the credentials file.
    ///
    /// The secret is read from standard input, one line; never put it on a command line, where everybody on the machine
    /// can see it. Example: fleet-broker hash token < token.txt
    Hash {
        /// What the secret is.
        #[arg(value_enum)]
        kind: SecretKind,
    },
    /// Print the completion script for a shell.
    Completion {
        /// Which shell.
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Print the manual page (roff); read it with: fleet-broker man | man -l -
    Man,
}

/// Where the config is.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// The config file. Without this option the usual one is read if it exists.
    #[arg(long, value_name = "FILE", help = format!("The config file [default: {DEFAULT_PATH}, if it exists]"))]
    pub config: Option<PathBuf>,
}

/// What can be hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SecretKind {
    /// A device token, an API key or a service's secret: SHA-256 (for random secrets).
    Token,
    /// A password that a person chose: Argon2id (slow on purpose).
    Password,
}
