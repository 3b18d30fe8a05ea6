//! `enroll`.

use std::fs::File;
use std::io::{IsTerminal as _, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use protocol::message::rfc3339;

use super::{EnrollArguments, failure, say};
use crate::config::{Scheme, Secret};
use crate::enroll::{Enrolled, Request, enroll};

/// Longest text that is read for a key, in bytes.
const KEY_TEXT_MAX_LEN: u64 = 1024;
/// The service that has to read the new configuration.
const UNIT: &str = "r58-fleet-agent.service";

/// The key cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the enrolment key from {from}")]
struct KeyError {
    from: String,
    source: std::io::Error,
}

pub(super) fn run(arguments: EnrollArguments, config_file: Option<&Path>) -> ExitCode {
    let EnrollArguments { server, key, key_file, ca, device_id, no_restart } = arguments;
    let key = match read_key(key, key_file) {
        Ok(key) => key,
        Err(error) => return failure(&error),
    };
    if server.scheme() == Scheme::Http && !server.is_loopback() {
        eprintln!(
            "r58-fleet-agent: warning: {server} is not encrypted, so everybody on the way can read the key; use https:// \
             if you can"
        );
    }
    match enroll(&Request { server, key, device_id, ca, config_file }) {
        Err(error) => failure(&error),
        Ok(enrolled) => {
            report(&enrolled);
            // A service reads the file in its usual place, and no other.
            let restarted = config_file.is_none() && !no_restart && restart_service();
            say(if restarted {
                "The agent runs with it now. See: r58-fleet-agent status\n"
            } else {
                "Now start the agent: systemctl restart r58-fleet-agent (or, without systemd: r58-fleet-agent run)\n"
            });
            ExitCode::SUCCESS
        }
    }
}

fn report(enrolled: &Enrolled) {
    let Enrolled { device_id, org, status, file, certificate, overridden } = enrolled;
    say(&format!("This device is {device_id} of the organisation {org}. Written to {}.\n", file.display()));
    match status.as_str() {
        "awaiting_approval" => {
            say(
                "Status: awaiting_approval. An admin has to approve it; until then it is seen and gets no commands.\n",
            );
        }
        "offline" => say("Status: registered. It is online as soon as the agent has connected.\n"),
        other => {
            let clean: String = other.chars().filter(|c| !c.is_control()).take(40).collect();
            say(&format!("Status: {clean}.\n"));
        }
    }
    match certificate {
        Some(Ok(until)) => say(&format!("It has a certificate, good until {}.\n", rfc3339(*until))),
        Some(Err(problem)) => {
            eprintln!(
                "r58-fleet-agent: warning: no certificate yet: {problem}. The agent asks again, and uses its token until then"
            );
        }
        None => {}
    }
    for key in overridden {
        eprintln!(
            "r58-fleet-agent: warning: the environment variable {name} says something else and overrides the file; \
             unset it",
            name = key.name()
        );
    }
}

/// The key from where the arguments say, without the blanks and line ends around it.
fn read_key(key: Option<Secret>, file: Option<PathBuf>) -> Result<Secret, KeyError> {
    let text = match (key, file) {
        (Some(key), _) if key.expose() != "-" => key,
        (_, Some(path)) if path != Path::new("-") => {
            let failed = |source| KeyError { from: path.display().to_string(), source };
            bounded(File::open(&path).map_err(failed)?).map_err(failed)?
        }
        _ => {
            let failed = |source| KeyError { from: "standard input".to_owned(), source };
            let stdin = std::io::stdin();
            if stdin.is_terminal() {
                eprint!("Enrolment key: ");
                let _ = std::io::stderr().flush();
                let mut line = String::new();
                stdin.read_line(&mut line).map_err(failed)?;
                Secret::new(line)
            } else {
                bounded(stdin.lock()).map_err(failed)?
            }
        }
    };
    Ok(Secret::new(text.expose().trim().to_owned()))
}

fn bounded(from: impl Read) -> std::io::Result<Secret> {
    let mut text = String::new();
    from.take(KEY_TEXT_MAX_LEN).read_to_string(&mut text)?;
    Ok(Secret::new(text))
}

/// Restarts the service if this machine has it; says whether that worked.
fn restart_service() -> bool {
    let systemd_runs = systemd::daemon::booted().unwrap_or(false);
    let systemctl = |arguments: &[&str]| {
        let mut command = Command::new("systemctl");
        command.args(["--no-ask-password", "--quiet"]).args(arguments).arg(UNIT);
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        quiet.status().is_ok_and(|status| status.success())
    };
    systemd_runs && systemctl(&["cat", "--"]) && systemctl(&["restart", "--"])
}
