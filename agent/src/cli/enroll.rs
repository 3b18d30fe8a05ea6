//! `enroll`.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use protocol::message::rfc3339;
use serde_json::{Value, json};

use super::{EnrollArguments, FAILED, failure, say, secret, with_causes};
use crate::config::{Key, Scheme};
use crate::enroll::{Credential, Enrolled, Request, enroll};

/// The service that has to read the new configuration.
const UNIT: &str = "r58-fleet-agent.service";

pub(super) fn run(arguments: EnrollArguments, config_file: Option<&Path>) -> ExitCode {
    let EnrollArguments { server, key, key_file, token, token_file, ca, device_id, no_restart, json } =
        arguments;
    let credential = if token.is_some() || token_file.is_some() {
        secret::read("device's token", token, token_file.as_deref()).map(Credential::Token)
    } else {
        secret::read("enrolment key", key, key_file.as_deref()).map(Credential::Key)
    };
    let credential = match credential {
        Ok(credential) => credential,
        Err(error) => return failed(&error, json),
    };
    if server.scheme() == Scheme::Http && !server.is_loopback() {
        eprintln!(
            "r58-fleet-agent: warning: {server} is not encrypted, so everybody on the way can read what it is sent; use https:// \
             if you can"
        );
    }
    match enroll(&Request { server, credential, device_id, ca, config_file }) {
        Err(error) => failed(&error, json),
        Ok(enrolled) => {
            // A service reads the file in its usual place, and no other.
            let restarted = config_file.is_none() && !no_restart && restart_service();
            say(&if json { as_json(&enrolled, restarted) } else { as_text(&enrolled, restarted) });
            if let Some(Err(problem)) = &enrolled.certificate {
                eprintln!(
                    "r58-fleet-agent: warning: no certificate yet: {problem}. The agent asks again, and uses its token until then"
                );
            }
            for key in &enrolled.overridden {
                eprintln!(
                    "r58-fleet-agent: warning: the environment variable {name} says something else and overrides the file; \
                     unset it",
                    name = key.name()
                );
            }
            ExitCode::SUCCESS
        }
    }
}

fn failed(error: &dyn std::error::Error, json: bool) -> ExitCode {
    if json {
        say(&format!("{:#}\n", json!({"error": with_causes(error)})));
        return ExitCode::from(FAILED);
    }
    failure(error)
}

fn as_json(enrolled: &Enrolled, restarted: bool) -> String {
    let authority = enrolled.authority.as_ref();
    let overridden: Vec<&str> = enrolled.overridden.iter().map(|key: &Key| key.name()).collect();
    let value = json!({
        "device_id": enrolled.device_id,
        "org": enrolled.org,
        "server": enrolled.server.to_string(),
        "status": enrolled.status,
        "file": enrolled.file,
        "changed": enrolled.changed,
        "certificate": match &enrolled.certificate {
            None => Value::Null,
            Some(Ok(until)) => json!({"expires_at": rfc3339(*until), "error": null}),
            Some(Err(problem)) => json!({"expires_at": null, "error": problem}),
        },
        "authority": authority.map(|it| json!({"file": it.file, "sha256": it.fingerprints})),
        "service": if restarted { "restarted" } else { "not_restarted" },
        "overridden": overridden,
    });
    format!("{value:#}\n")
}

/// What was done, line by line, and what is next.
fn as_text(enrolled: &Enrolled, restarted: bool) -> String {
    let Enrolled { device_id, org, server, status, file, changed, authority, certificate, .. } = enrolled;
    let file = file.display();
    let written = if *changed {
        format!("Written to {file}.")
    } else {
        format!("{file} said so already and was not changed.")
    };
    let mut text = format!("This device is {device_id} of the organisation {org} at {server}. {written}\n");
    if let Some(authority) = authority {
        text.push_str(&format!(
            "Trusted from now on: the authority in {} alone, SHA-256 {}.\n",
            authority.file.display(),
            authority.fingerprints.join(", ")
        ));
    }
    text.push_str(&match status.as_str() {
        "awaiting_approval" => {
            "Status: awaiting_approval. An admin has to approve it; until then it is seen and gets no commands.\n".to_owned()
        }
        "offline" | "registered" => {
            "Status: registered. It is online as soon as the agent has connected.\n".to_owned()
        }
        other => {
            let clean: String = other.chars().filter(|c| !c.is_control()).take(40).collect();
            format!("Status: {clean}.\n")
        }
    });
    if let Some(Ok(until)) = certificate {
        text.push_str(&format!("It has a certificate, good until {}.\n", rfc3339(*until)));
    }
    text.push_str(if restarted {
        "The agent's service was restarted and runs with it now. See: r58-fleet-agent status. If it does not connect: \
         r58-fleet-agent doctor\n"
    } else {
        "Now start the agent: systemctl restart r58-fleet-agent (or, without systemd: r58-fleet-agent run). Then see: \
         r58-fleet-agent status\n"
    });
    text
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
