//! What the commands that change the database share. They work beside a running server.

use std::future::Future;
use std::io::{self, Write as _};

use super::Failure;
use serde::Serialize;

use crate::clock::Clock;
use crate::config::Config;
use crate::domain::audit::AuditContext;
use crate::service::{Desk, Error};
use crate::store::{Store, make_data_dir};

/// Names this process in notes that a running server reads.
pub(super) const SOURCE: &str = "command line";

/// Opens the database, making it if it is not there, and runs `work` with it and the time.
pub(super) fn with_store<T, F>(config: &Config, work: impl FnOnce(Store, i64) -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Error>>,
{
    make_data_dir(&config.data_dir)?;
    let store = Store::open(&config.database, None)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(work(store.clone(), Clock::system().now_ms()));
    store.close();
    outcome.map_err(explain)
}

/// As [`with_store`], for what a server beside this command has to hear of.
pub(super) fn with_desk<T>(
    config: &Config,
    work: impl AsyncFnOnce(Desk<'_>) -> Result<T, Error>,
) -> Result<T, Failure> {
    with_store(config, |store, now_ms| async move {
        let context = AuditContext::system();
        work(Desk { store: &store, now_ms, source: SOURCE, context: &context }).await
    })
}

/// Prints rows as JSON, for programs.
pub(super) fn print_json(rows: &impl Serialize) -> Result<(), Failure> {
    writeln!(io::stdout(), "{}", serde_json::to_string_pretty(rows)?)?;
    Ok(())
}

/// Wrong fields are named with what is wrong with them.
fn explain(error: Error) -> Failure {
    match error {
        Error::Invalid(errors) => {
            let lines: Vec<String> =
                errors.iter().map(|error| format!("{}: {}", error.field, error.message)).collect();
            lines.join("; ").into()
        }
        other => other.into(),
    }
}

/// Prints rows under a heading, in columns. Control characters become `?`: names come from other people.
pub(super) fn print_table(heading: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
    let clean = |text: &str| text.chars().map(|c| if c.is_control() { '?' } else { c }).collect::<String>();
    let mut lines: Vec<Vec<String>> = vec![heading.iter().map(|&text| text.to_owned()).collect()];
    lines.extend(rows.iter().map(|row| row.iter().map(|text| clean(text)).collect()));
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let mut stdout = io::stdout().lock();
    for line in &lines {
        let padded: Vec<String> =
            line.iter().zip(&widths).map(|(text, &width)| format!("{text:width$}")).collect();
        writeln!(stdout, "{}", padded.join("  ").trim_end())?;
    }
    Ok(())
}
