//! `fleetd audit`.

use std::io::{self, Write as _};

use clap::{Args, Subcommand, ValueEnum};
use futures_util::{TryStreamExt as _, pin_mut};
use protocol::id::OrgSlug;
use protocol::message::{parse_rfc3339, rfc3339};
use serde_json::json;

use super::Failure;
use super::database::{print_table, with_store};
use crate::backup::Progress;
use crate::config::Config;
use crate::domain::audit_chain::{Fault, Head};
use crate::domain::audit_entry::{AuditFormat, AuditLogEntry};
use crate::service::accounts::find_org;
use crate::service::{Error, audit as service};
use crate::store::audit::Selection;

/// The audit log.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Check that every entry is as it was written, and print the head: note it down elsewhere.
    Verify(Verify),
    /// List entries, the newest first.
    List(List),
}

#[derive(Debug, Args)]
pub(super) struct Verify {
    /// An entry that an earlier check printed as the head: whether it is still there. May be given several times.
    #[arg(long, value_name = "NUMBER:HASH")]
    expect: Vec<Head>,
    /// Print the outcome as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Only those of this organisation.
    #[arg(long)]
    org: Option<OrgSlug>,
    /// Only this action, such as device.register, or this group of actions, such as device.
    #[arg(long)]
    action: Option<String>,
    /// Only what this person (an e-mail address) did, or what was done to the account.
    #[arg(long)]
    user: Option<String>,
    /// Only what this device did, or what was done to it.
    #[arg(long)]
    device: Option<String>,
    /// Only from this time on, such as 2025-12-28T10:00:00Z.
    #[arg(long, value_parser = time)]
    since: Option<i64>,
    /// Only before this time.
    #[arg(long, value_parser = time)]
    until: Option<i64>,
    /// How to write them. A table has the newest 100, or as many as --limit says; the others have everything.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Rows of the table at most.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..=10_000))]
    limit: i64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// Columns for people.
    Table,
    /// Comma-separated values.
    Csv,
    /// A JSON object on each line.
    Jsonl,
}

fn time(text: &str) -> Result<i64, &'static str> {
    parse_rfc3339(text).map_err(|_| "an RFC 3339 time such as 2025-12-28T10:00:00Z is expected")
}

pub(super) fn run(command: Command, config: &Config) -> Result<(), Failure> {
    if !config.database.exists() {
        return Err(format!(
            "{}: there is no database; set FLEET_DATA_DIR, or --config, to what the server uses",
            config.database.display()
        )
        .into());
    }
    match command {
        Command::Verify(arguments) => verify(&arguments, config),
        Command::List(arguments) => list(arguments, config),
    }
}

fn verify(arguments: &Verify, config: &Config) -> Result<(), Failure> {
    let mut progress = Progress::stderr();
    let count = |number: i64| u64::try_from(number).unwrap_or(0);
    let (found, restore) = with_store(config, async |store, _| {
        let found = service::verify(&store, &arguments.expect, |done, all| {
            progress.at("verifying", count(done), count(all));
        })
        .await?;
        let noted = matches!(found.fault, Some(Fault::Cut { .. } | Fault::Rewritten { .. }));
        let restore = if noted { service::last_restore(&store).await? } else { None };
        Ok((found, restore))
    })?;
    progress.end();
    if arguments.json {
        let mut told =
            json!({"whole": found.fault.is_none(), "entries": found.head.number, "head": found.head});
        if let Some(fault) = &found.fault {
            told["fault"] = json!(fault);
            told["reason"] = json!(fault.to_string());
        }
        writeln!(io::stdout().lock(), "{told}")?;
    } else if found.fault.is_none() {
        writeln!(io::stdout().lock(), "{}", whole(&found.head))?;
    }
    match found.fault {
        None => Ok(()),
        Some(fault) => Err(broken(&fault, &found.head, restore.as_ref()).into()),
    }
}

fn whole(head: &Head) -> String {
    match head.number {
        0 => "0 entries, whole".to_owned(),
        1 => format!("1 entry, whole; head {head}"),
        number => format!("{number} entries, whole; head {head}"),
    }
}

fn broken(fault: &Fault, head: &Head, restore: Option<&AuditLogEntry>) -> String {
    let sound = match (fault, head.number) {
        (_, 0) => "no entry before it is".to_owned(),
        (Fault::Cut { .. } | Fault::Rewritten { .. }, number) => {
            format!("the chain of the {number} entries that are there is")
        }
        (_, number) => format!("entries 1 to {number} are"),
    };
    let restored = restore.map_or_else(String::new, |entry| {
        format!(
            "; note that entry {} says that a backup of {} was restored on {}",
            entry.number,
            entry.resource_id,
            rfc3339(entry.at)
        )
    });
    format!("the audit log is not whole: {fault}; {sound} as written{restored}")
}

fn list(arguments: List, config: &Config) -> Result<(), Failure> {
    let List { org, action, user, device, since, until, format, limit } = arguments;
    let format = match format {
        Format::Table => None,
        Format::Csv => Some(AuditFormat::Csv),
        Format::Jsonl => Some(AuditFormat::Jsonl),
    };
    let entries = with_store(config, async |store, _| {
        let org = match org {
            Some(slug) => Some(find_org(&store, &slug).await?.id),
            None => None,
        };
        let selection = Selection { org, action, user, device, since, until };
        let Some(format) = format else { return Ok(service::page(&store, &selection, 0, limit).await?.0) };
        let pieces = service::export(store, selection, format);
        pin_mut!(pieces);
        while let Some(piece) = pieces.try_next().await? {
            io::stdout().lock().write_all(piece.as_bytes()).map_err(Error::internal)?;
        }
        Ok(Vec::new())
    })?;
    if format.is_none() {
        let rows: Vec<_> = entries.iter().map(row).collect();
        print_table(&["NUMBER", "AT", "ORG", "ACTOR", "ACTION", "RESOURCE", "OUTCOME", "FROM"], &rows)?;
    }
    Ok(())
}

fn row(entry: &AuditLogEntry) -> Vec<String> {
    vec![
        entry.number.to_string(),
        rfc3339(entry.at),
        entry.org.clone().unwrap_or_else(|| "-".to_owned()),
        entry.actor.clone(),
        entry.action.clone(),
        format!("{} {}", entry.resource_type, entry.resource_id),
        entry.outcome.clone(),
        entry.ip_address.clone().unwrap_or_else(|| "-".to_owned()),
    ]
}
