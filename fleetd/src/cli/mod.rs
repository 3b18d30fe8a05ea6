//! The command line.

mod api_key;
mod audit;
mod backup;
mod check;
mod database;
mod decode;
mod device;
mod enrollment_key;
mod org;
mod password;
mod restore;
mod serve;
mod service_account;
mod tls;
mod user;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{CommandFactory, Parser, Subcommand};

use crate::{config::Config, service::ingest::error_chain};

/// The server of R58 Fleet: takes what devices report, stores it, and shows it.
#[derive(Debug, Parser)]
#[command(name = "fleetd", version, about, arg_required_else_help = true)]
pub struct Cli {
    /// Config file; without it /etc/r58-fleet/fleetd.toml is read if it is there.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server: HTTP, the MQTT broker and the database, in the foreground.
    Serve,
    /// People who sign in to the dashboard, the API and MQTT.
    #[command(subcommand)]
    User(user::Command),
    /// Accounts of programs, which have keys and no password.
    #[command(subcommand)]
    ServiceAccount(service_account::Command),
    /// Keys that programs and MQTT tools show in place of a password.
    #[command(subcommand)]
    ApiKey(api_key::Command),
    /// Organisations.
    #[command(subcommand)]
    Org(org::Command),
    /// Devices.
    #[command(subcommand)]
    Device(device::Command),
    /// Keys with which devices register themselves.
    #[command(subcommand)]
    EnrollmentKey(enrollment_key::Command),
    /// The audit log: who changed what.
    #[command(subcommand)]
    Audit(audit::Command),
    /// Say whether this installation is sound: files, database, accounts, ports, encryption. Works beside a running server.
    Check(check::Arguments),
    /// Encryption without a public certificate authority.
    #[command(subcommand)]
    Tls(tls::Command),
    /// Save the database and all files of the server in one file. Works beside a running server.
    Backup(backup::Arguments),
    /// Put a backup in the place of the server's data. The server must be stopped.
    Restore(restore::Arguments),
    /// Print an MQTT message as JSON, whatever its encoding.
    Decode(decode::Arguments),
    /// Print the OpenAPI document of the HTTP API, as JSON.
    Openapi,
    /// Print a completion script for a shell.
    Completion {
        /// bash, zsh, fish, elvish or powershell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page.
    Man,
}

/// What the program understands, for its man pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Runs what the command line says; a failure is printed with its causes.
#[must_use]
pub fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has gone (`| head`).
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fleetd: {}", error_chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &Failure) -> bool {
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    kind == Some(io::ErrorKind::BrokenPipe)
}

fn run(cli: Cli) -> Result<(), Failure> {
    let config = || Config::load(cli.config.as_deref(), |name| std::env::var(name).ok());
    match cli.command {
        Command::Serve => Ok(serve::run(config()?)?),
        Command::User(command) => user::run(command, &config()?),
        Command::ServiceAccount(command) => service_account::run(command, &config()?),
        Command::ApiKey(command) => api_key::run(command, &config()?),
        Command::Org(command) => org::run(command, &config()?),
        Command::Device(command) => device::run(command, &config()?),
        Command::EnrollmentKey(command) => enrollment_key::run(command, &config()?),
        Command::Audit(command) => audit::run(command, &config()?),
        Command::Check(arguments) => check::run(&arguments, &config()?, cli.config.as_deref()),
        Command::Tls(command) => tls::run(command, &config()?),
        Command::Backup(arguments) => backup::run(arguments, &config()?),
        Command::Restore(arguments) => restore::run(arguments, &config()?),
        Command::Decode(arguments) => Ok(decode::run(&arguments, &mut io::stdout().lock())?),
        Command::Openapi => Ok(io::stdout().lock().write_all(crate::http::openapi())?),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "fleetd", &mut script);
            Ok(io::stdout().lock().write_all(&script)?)
        }
        Command::Man => Ok(clap_mangen::Man::new(Cli::command()).render(&mut io::stdout().lock())?),
    }
}
