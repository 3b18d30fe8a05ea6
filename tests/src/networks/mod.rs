//! Networks that fight back: a real server and a real agent, each in a network of its own, with a router between them that
//! loses, delays, resets, forbids and lies. See `docs/networks.md`.
//!
//! [`run`] runs scenarios side by side: [`scenarios`] says what happens, [`course`] makes it happen and looks on, the checker of
//! the chaos compares at the end.

mod boxes;
mod course;
mod dns;
mod namespace;
mod report;
mod scenarios;
mod site;
mod venue;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use report::Row;
use scenarios::Scenario;

/// What is run.
#[derive(Debug)]
pub struct Options<'a> {
    /// Draws when commands come.
    pub seed: u64,
    /// Shorter faults.
    pub quick: bool,
    /// Names of scenarios; all if empty.
    pub only: Vec<String>,
    /// At the same time.
    pub jobs: usize,
    /// Where everything is.
    pub folder: &'a Path,
    /// Ends the run early.
    pub stop: &'a AtomicBool,
}

/// A run that has ended.
#[derive(Debug)]
pub struct Outcome {
    /// What must not be; empty if all is well.
    pub complaints: Vec<String>,
    /// The table of what was measured.
    pub table: String,
}

/// The names of all scenarios, and what happens in them.
#[must_use]
pub fn list() -> Vec<(&'static str, &'static str)> {
    scenarios::all().iter().map(|scenario| (scenario.name, scenario.what)).collect()
}

/// Runs scenarios; `tell` is told of each that begins and ends.
pub fn run(options: &Options<'_>, tell: &(dyn Fn(&str) + Sync)) -> Outcome {
    let all = scenarios::all();
    let wanted: Vec<&Scenario> = all
        .iter()
        .filter(|scenario| options.only.is_empty() || options.only.iter().any(|name| name == scenario.name))
        .collect();
    let course = course::Options {
        seed: options.seed,
        quick: options.quick,
        folder: options.folder,
        stop: options.stop,
    };
    // The longest first.
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by_key(|n| std::cmp::Reverse(wanted[*n].lasts));
    let waiting = Mutex::new(order);
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for worker in 0..options.jobs.clamp(1, wanted.len().max(1)) {
            let (waiting, done, wanted, course) = (&waiting, &done, &wanted, &course);
            scope.spawn(move || {
                // Not all at the same moment.
                thread::sleep(Duration::from_secs(worker as u64));
                loop {
                    let mut order = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                    if order.is_empty() || options.stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let n = order.remove(0);
                    drop(order);
                    let outcome = one(wanted[n], course, tell);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((n, outcome));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(n, _)| *n);
    let mut complaints = Vec::new();
    let mut rows = Vec::new();
    for (n, (row, of_it)) in done {
        rows.extend(row);
        complaints.extend(of_it.into_iter().map(|complaint| format!("{}: {complaint}", wanted[n].name)));
    }
    if options.stop.load(Ordering::SeqCst) {
        complaints.push("stopped by a signal before its end".to_owned());
    }
    Outcome { complaints, table: report::table(&rows) }
}

/// One scenario on a thread of its own: the thread moves into the scenario's network.
fn one(
    scenario: &Scenario,
    options: &course::Options<'_>,
    tell: &(dyn Fn(&str) + Sync),
) -> (Option<Row>, Vec<String>) {
    let began = Instant::now();
    tell(&format!("{}: begins", scenario.name));
    let outcome = thread::scope(|scope| {
        // What fails in the middle leaves as much to look at as a complaint.
        let run = || catch_unwind(AssertUnwindSafe(|| course::run(scenario, options)));
        scope.spawn(run).join().unwrap_or_else(Err)
    });
    let outcome = match outcome {
        Ok((row, complaints)) => (Some(row), complaints),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            (None, vec![format!("could not be run to its end: {}", text.unwrap_or_default())])
        }
    };
    let how = if outcome.1.is_empty() { "is well".to_owned() } else { format!("{:#?}", outcome.1) };
    tell(&format!("{}: {how} after {} s", scenario.name, began.elapsed().as_secs()));
    outcome
}

/// The page with the table.
#[must_use]
pub fn page(table: &str, seed: u64) -> String {
    include_str!("page.md").replace("@SEED@", &seed.to_string()).replace("@TABLE@", table)
}
