//! The command line of `fleet-broker`.

use std::path::PathBuf;

use broker::config::DEFAULT_PATH;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

/// The MQTT broker of R58 Fleet as a program of its own.
///
/// fleetd has this broker built in; fleet-broker is for installations where the broker runs apart from it.
#[derive(Debug, Parser)]
#[command(name = "fleet-broker", version, about, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
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

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// The config file. Without this option the usual one is read if it exists.
    #[arg(long, value_name = "FILE", help = format!("The config file [default: {DEFAULT_PATH}, if it exists]"))]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SecretKind {
    /// A device token, an API key or a service's secret: SHA-256 (for random secrets).
    Token,
    /// A password that a person chose: Argon2id (slow on purpose).
    Password,
}
