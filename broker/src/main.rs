//! `fleet-broker`: the broker as a program of its own.

mod hash;
mod run;

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use broker::cli::{self, Cli, Command, ConfigArgs};
use broker::config::{Config, DEFAULT_PATH};
use broker::credentials;
use clap::Parser;

fn main() -> ExitCode {
    broker::core_dumps::forbid();
    let outcome = match Cli::parse().command {
        Command::Run(args) => load(&args).and_then(run::run),
        Command::Check(args) => check(&args),
        Command::Hash { kind } => hash::hash(kind),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut cli::command(), "fleet-broker", &mut script);
            print(&script)
        }
        Command::Man => {
            let mut page = Vec::new();
            clap_mangen::Man::new(cli::command())
                .render(&mut page)
                .map_err(Into::into)
                .and_then(|()| print(&page))
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fleet-broker: {}", with_causes(&*error));
            ExitCode::FAILURE
        }
    }
}

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn load(args: &ConfigArgs) -> Outcome<Config> {
    let path = args.config.as_deref();
    let config = Config::load(path.unwrap_or(Path::new(DEFAULT_PATH)), path.is_some(), |name| {
        std::env::var(name).ok()
    })?;
    Ok(config)
}

fn check(args: &ConfigArgs) -> Outcome<()> {
    let config = load(args)?;
    let (devices, people, services) = credentials::file::load(&config.credentials)?.counts();
    let Config { listen, plaintext, .. } = config;
    let mut text = format!(
        "config: good, listens on {listen}\ncredentials: good, {devices} devices, {people} people, {services} services\n"
    );
    if plaintext.allow_all {
        text += "note: passwords and tokens are taken over unencrypted connections from everywhere\n";
    }
    print(text.as_bytes())
}

/// To standard output; a reader that has gone (`| head`) is no error.
fn print(bytes: &[u8]) -> Outcome<()> {
    match std::io::stdout().lock().write_all(bytes) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// An error and what caused it, in one line.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
