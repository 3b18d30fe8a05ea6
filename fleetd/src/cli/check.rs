//! `fleetd check`.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;

use super::Failure;
use crate::check::{self, Finding, Level};
use crate::clock::Clock;
use crate::config::{Config, DEFAULT_PATH};

/// Looks at an installation.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Read every page of the database: seconds for each gigabyte.
    #[arg(long)]
    thorough: bool,
    /// As JSON, for programs.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments, config: &Config, file: Option<&Path>) -> Result<(), Failure> {
    let default = Path::new(DEFAULT_PATH);
    let file = file.or_else(|| default.exists().then_some(default));
    let findings = check::run(config, file, arguments.thorough, Clock::system().now_ms());
    let mut out = io::stdout().lock();
    if arguments.json {
        serde_json::to_writer_pretty(&mut out, &findings)?;
        writeln!(out)?;
    } else {
        let colour = out.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        for finding in &findings {
            write!(out, "{}", line(finding, colour))?;
        }
    }
    out.flush()?;
    match findings.iter().filter(|finding| finding.level == Level::Error).count() {
        0 => Ok(()),
        1 => Err("there is an error to be mended".into()),
        errors => Err(format!("there are {errors} errors to be mended").into()),
    }
}

fn line(finding: &Finding, colour: bool) -> String {
    let (word, paint) = match finding.level {
        Level::Ok => ("ok", "32"),
        Level::Warning => ("warning", "33"),
        Level::Error => ("error", "31"),
    };
    let (on, off) = if colour { (format!("\x1b[{paint}m"), "\x1b[0m") } else { (String::new(), "") };
    let advice = finding.advice.iter().map(|advice| format!("{:24}→ {advice}\n", "")).collect::<String>();
    format!("{on}{word:8}{off}{:16}{}\n{advice}", finding.subject, finding.seen)
}
