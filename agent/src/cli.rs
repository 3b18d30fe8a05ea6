//! The command line.

mod doctor;
mod enroll;
mod import;
mod run;
mod secret;
mod status;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::error::Error;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use protocol::id::DeviceId;
use serde_json::json;

use crate::config::{HttpUrl, Secret};

/// What went wrong has been said on standard error.
const FAILED: u8 = 1;

const EXIT_STATUS: &str = "\
Exit status:
  0   done; for status: running and connected; for doctor: no step failed; for run: stopped as asked, or FLEET_ENABLED is false
  1   failed, with the reason on standard error; for doctor: a step failed
  2   the command line is wrong
  3   status: the agent is not running
  4   status: the agent is running and not connected
  78  run: the configuration is wrong, or the device is not enrolled yet

Files:
  /etc/r58-fleet-agent/fleet.conf              configuration, or
  /opt/r58-app/shared/config/fleet.conf        where only that exists
  /var/lib/r58-fleet-agent                     state: what the server has not confirmed yet
  journalctl -u r58-fleet-agent                the log";

/// Connects this device to an R58 fleet server: says how it is, keeps what could not be told until it can.
#[derive(Debug, Parser)]
#[command(name = "r58-fleet-agent", version, after_long_help = EXIT_STATUS, disable_help_subcommand = true)]
struct Cli {
    /// Configuration file, instead of the one in its usual place
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent, until it is asked to stop (SIGTERM, Ctrl-C)
    ///
    /// As systemd starts it. The log goes to the journal there, else to standard error; the variable R58_LOG sets what is
    /// logged, like R58_LOG=info,agent::uplink=debug.
    Run {
        /// Log what is of use when looking for a fault
        #[arg(long, short)]
        verbose: bool,
    },
    /// Make this machine a device of a fleet
    ///
    /// Makes the device's own token, registers the device with the server and writes both into the configuration file.
    /// Safe to repeat whenever it did not work or the power failed. Needs an enrolment key, which an admin makes with
    /// `fleetd enrollment-key add`; without --key and --key-file it is read from standard input.
    ///
    /// A device that an admin has registered (or given a new token) is enrolled with that token: --token-file, or --token - for
    /// standard input. The server is asked whose token it is, and nothing is registered.
    Enroll(EnrollArguments),
    /// Take over the configuration of an earlier agent
    ///
    /// Sets in this agent's configuration what the earlier one's says, if it does not enrol this device already; the earlier file
    /// stays as it is. Safe to repeat. The package does this when it is installed.
    Import(ImportArguments),
    /// Show how the running agent is
    ///
    /// For a person on site: connected or not and since when, what the server has not got yet, the last error, what the
    /// application is doing. The exit status says it as well (see r58-fleet-agent --help).
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Find out why this device is not online
    ///
    /// Looks at the device (configuration, secrets, state folder, service, application, network), then walks the way to the
    /// server: DNS, TCP, TLS, HTTP or MQTT, the token, the clock. Says which step fails and what to do. Changes nothing, does
    /// not disturb a running agent, and takes a minute at most. Exit status 0: no step failed; 1: one did.
    Doctor {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the version
    Version {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the completions for a shell
    ///
    /// For bash: r58-fleet-agent completion bash > /usr/share/bash-completion/completions/r58-fleet-agent
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, of the program or of one command
    Man {
        /// The command
        command: Option<String>,
    },
}

#[derive(Debug, clap::Args)]
struct EnrollArguments {
    /// The fleet server's address, like https://fleet.example.com
    #[arg(value_name = "URL")]
    server: HttpUrl,
    /// The enrolment key, or - to read it from standard input. A key given here can be seen by every user of this machine
    /// while the command runs: better use --key-file or standard input
    #[arg(long, value_name = "KEY", conflicts_with = "key_file", value_parser = secret)]
    key: Option<Secret>,
    /// File that holds the enrolment key, or - for standard input
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// The token of a device that an admin has registered, in place of a key; or - to read it from standard input, which is
    /// better: a token given here can be seen by every user of this machine while the command runs
    #[arg(long, value_name = "TOKEN", conflicts_with_all = ["key", "key_file", "token_file"], value_parser = secret)]
    token: Option<Secret>,
    /// File that holds that token, or - for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["key", "key_file"])]
    token_file: Option<PathBuf>,
    /// File with the authority that the server's certificate is of, in PEM form, if it is one of your own (fleetd tls init). It
    /// is kept beside fleet.conf, and from then on no other is trusted
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// This device's id: a-z, 0-9, '-' and '_'. Default: the configured one, else r58-<hostname>
    #[arg(long, value_name = "ID")]
    device_id: Option<DeviceId>,
    /// Do not restart the service afterwards
    #[arg(long)]
    no_restart: bool,
    /// Say what was done as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct ImportArguments {
    /// The earlier agent's file. Default: /opt/r58-app/shared/config/fleet.conf
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Also where this device is enrolled already: take over who it is, from an earlier agent that is running
    #[arg(long)]
    identity: bool,
    /// The other way: write the device's present token into the earlier agent's file, and nothing else
    #[arg(long, conflicts_with = "identity")]
    token_back: bool,
}

fn secret(text: &str) -> Result<Secret, Infallible> {
    Ok(Secret::new(text.to_owned()))
}

/// Does what the command line asks for.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let config = cli.config.as_deref();
    match cli.command {
        Command::Run { verbose } => run::run(config, verbose),
        Command::Enroll(arguments) => enroll::run(arguments, config),
        Command::Import(arguments) => import::run(&arguments, config),
        Command::Status { json } => status::run(config, json),
        Command::Doctor { json } => doctor::run(config, json),
        Command::Version { json } => {
            let (version, arch) = (env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
            say(&if json {
                let value = json!({"name": "r58-fleet-agent", "version": version, "arch": arch});
                format!("{value:#}\n")
            } else {
                format!("r58-fleet-agent {version} ({arch})\n")
            });
            ExitCode::SUCCESS
        }
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "r58-fleet-agent", &mut script);
            say(&String::from_utf8_lossy(&script));
            ExitCode::SUCCESS
        }
        Command::Man { command } => match man(command.as_deref()) {
            Ok(page) => {
                say(&page);
                ExitCode::SUCCESS
            }
            Err(error) => failure(error.as_ref()),
        },
    }
}

/// The manual page of the program, or of one of its commands.
fn man(command: Option<&str>) -> Result<String, Box<dyn Error>> {
    let mut program = Cli::command();
    program.build();
    let page = match command {
        None => program,
        Some(name) => {
            program.find_subcommand(name).ok_or_else(|| format!("there is no command {name}"))?.clone()
        }
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page).render(&mut text)?;
    Ok(String::from_utf8(text)?)
}

/// Writes to standard output. Whoever closes it early does not want the rest.
fn say(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

/// Tells a person what went wrong, with the causes.
fn failure(error: &dyn Error) -> ExitCode {
    eprintln!("r58-fleet-agent: {}", with_causes(error));
    ExitCode::from(FAILED)
}

/// An error and its causes in one text.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        text.push_str(&format!(": {deeper}"));
        cause = deeper.source();
    }
    text
}
