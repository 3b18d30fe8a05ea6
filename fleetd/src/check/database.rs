//! The database, and whether somebody can sign in.

use super::Finding;
use crate::config::Config;
use crate::service::ingest::error_chain;
use crate::store::inspect::{Contents, inspect};
use crate::store::known_version;

/// The clock may be behind the newest entry of the audit log by this much, in ms: another machine may have written it.
const CLOCK_SLACK_MS: i64 = 60_000;

pub(super) fn look(config: &Config, thorough: bool, now_ms: i64) -> Vec<Finding> {
    let name = config.database.display();
    if !config.database.exists() {
        return vec![Finding::ok("database", format!("{name} will be made at the first start"))];
    }
    let seen = match inspect(&config.database, thorough) {
        Ok(seen) => seen,
        Err(error) => {
            let advice = "see docs/backup.md for how to put a backup in its place";
            return vec![Finding::error("database", error_chain(&error), advice)];
        }
    };
    let checked = if thorough { ", every page sound" } else { "" };
    let schema = format!("{name}, schema {}{checked}", seen.schema_version);
    match seen.contents {
        None => {
            let known = known_version();
            vec![Finding::ok("database", format!("{schema}; the next start brings it to {known}"))]
        }
        Some(contents) => {
            let mut findings = vec![Finding::ok("database", schema)];
            findings.push(people(&contents));
            findings.push(clock(&contents, now_ms));
            findings
        }
    }
}

fn people(contents: &Contents) -> Finding {
    match contents.admins {
        0 => Finding::warning(
            "accounts",
            "no active admin",
            "the next start makes one if there is no account at all; else: fleetd user add --role admin …",
        ),
        admins if contents.first_passwords > 0 => Finding::warning(
            "accounts",
            format!(
                "active admins: {admins}; passwords that were given and not changed yet: {}",
                contents.first_passwords
            ),
            "have them changed: at the next sign-in the dashboard asks for it",
        ),
        admins => Finding::ok("accounts", format!("active admins: {admins}")),
    }
}

fn clock(contents: &Contents, now_ms: i64) -> Finding {
    if contents.newest_ms > now_ms + CLOCK_SLACK_MS {
        let behind = (contents.newest_ms - now_ms) / 1000;
        let advice = "set the clock (timedatectl): sessions end and commands expire by it";
        return Finding::error(
            "clock",
            format!("{behind} s behind the newest entry of the database"),
            advice,
        );
    }
    Finding::ok("clock", "not behind the database")
}
