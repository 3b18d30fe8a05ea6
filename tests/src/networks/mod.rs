//! Networks that fight back: a real server and a real agent, each in a network of its own, with a router between them that
//! loses, delays, resets, forbids and lies. See `docs/networks.md`.
//!
//! [`run`] runs scenarios side by side: [`scenarios`] says what happens, [`course`] makes it happen and looks on, the checker of
//! the chaos compares at the end.

mod backlog;
mod boxes;
mod course;
mod dns;
mod fleet;
mod namespace;
mod report;
mod scenarios;
mod site;
mod venue;
mod week;

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use report::Row;

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

/// What happens in a run.
#[derive(Debug)]
pub enum Told<'a> {
    /// A scenario begins.
    Begins(&'a str),
    /// It has ended, after so long; what must not be is told.
    Ended(&'a str, Duration, &'a [String]),
}

/// A run that has ended.
#[derive(Debug)]
pub struct Outcome {
    /// What must not be; empty if all is well.
    pub complaints: Vec<String>,
    /// The table of what was measured.
    pub table: String,
}

/// What one scenario leaves.
#[derive(Default)]
struct Part {
    row: Option<Row>,
    /// What is no row of the table.
    text: Option<String>,
    complaints: Vec<String>,
}

/// A scenario, whatever its course.
struct Entry {
    name: &'static str,
    what: &'static str,
    /// About, for their order.
    takes: Duration,
    run: Box<dyn Fn(&course::Options<'_>) -> Part + Send + Sync>,
}

fn all() -> Vec<Entry> {
    let row = |(row, complaints)| Part { row: Some(row), text: None, complaints };
    let mut all: Vec<Entry> = scenarios::all()
        .into_iter()
        .map(|scenario| Entry {
            name: scenario.name,
            what: scenario.what,
            takes: scenario.lasts,
            run: Box::new(move |options| {
                let lasts = if options.quick { scenario.quick } else { scenario.lasts };
                let begun = Row::new(scenario.name, scenario.what, lasts);
                row(course::run(begun, options, |course, row| course::fault(&scenario, lasts, course, row)))
            }),
        })
        .collect();
    all.push(Entry {
        name: week::NAME,
        what: week::WHAT,
        takes: Duration::from_secs(300),
        run: Box::new(move |options| row(course::run(week::row(), options, week::middle))),
    });
    all.push(Entry {
        name: fleet::NAME,
        what: fleet::WHAT,
        takes: Duration::from_secs(700),
        run: Box::new(|options| {
            let (text, complaints) = fleet::run(options);
            Part { row: None, text: Some(text), complaints }
        }),
    });
    all
}

/// The names of all scenarios, and what happens in them.
#[must_use]
pub fn list() -> Vec<(&'static str, &'static str)> {
    all().iter().map(|entry| (entry.name, entry.what)).collect()
}

/// Runs scenarios; `tell` is told of each that begins and ends.
pub fn run(options: &Options<'_>, tell: &(dyn Fn(Told<'_>) + Sync)) -> Outcome {
    let is_wanted =
        |entry: &Entry| options.only.is_empty() || options.only.iter().any(|name| name == entry.name);
    let wanted: Vec<Entry> = all().into_iter().filter(is_wanted).collect();
    let course = course::Options {
        seed: options.seed,
        quick: options.quick,
        folder: options.folder,
        stop: options.stop,
    };
    // The longest first.
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by_key(|n| std::cmp::Reverse(wanted[*n].takes));
    let waiting = Mutex::new(VecDeque::from(order));
    let done = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for worker in 0..options.jobs.clamp(1, wanted.len().max(1)) {
            let (waiting, done, wanted, course) = (&waiting, &done, &wanted, &course);
            scope.spawn(move || {
                // Not all at the same moment.
                thread::sleep(Duration::from_secs(worker as u64));
                while !options.stop.load(Ordering::SeqCst) {
                    let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some(n) = next else { return };
                    let part = one(&wanted[n], course, tell);
                    done.lock().unwrap_or_else(PoisonError::into_inner).insert(n, part);
                }
            });
        }
    });
    let mut outcome = Outcome { complaints: Vec::new(), table: String::new() };
    let mut rows = Vec::new();
    let mut texts = Vec::new();
    for (n, part) in done.into_inner().unwrap_or_else(PoisonError::into_inner) {
        let complaints = part.complaints.into_iter();
        outcome.complaints.extend(complaints.map(|complaint| format!("{}: {complaint}", wanted[n].name)));
        rows.extend(part.row);
        texts.extend(part.text);
    }
    if options.stop.load(Ordering::SeqCst) {
        outcome.complaints.push("stopped by a signal before its end".to_owned());
    }
    outcome.table = format!("{}\n{}", report::table(&rows), texts.join("\n"));
    outcome
}

/// One scenario on a thread of its own: the thread moves into the scenario's network.
fn one(entry: &Entry, options: &course::Options<'_>, tell: &(dyn Fn(Told<'_>) + Sync)) -> Part {
    let began = Instant::now();
    tell(Told::Begins(entry.name));
    let ended = thread::scope(|scope| {
        // What fails in the middle leaves as much to look at as a complaint.
        let run = || catch_unwind(AssertUnwindSafe(|| (entry.run)(options)));
        scope.spawn(run).join().unwrap_or_else(Err)
    });
    let part = ended.unwrap_or_else(|panic| {
        let complaint = course::said(&*panic);
        Part { complaints: vec![complaint], ..Part::default() }
    });
    tell(Told::Ended(entry.name, began.elapsed(), &part.complaints));
    part
}

/// The page with the table.
#[must_use]
pub fn page(table: &str, seed: u64) -> String {
    include_str!("page.md").replace("@SEED@", &seed.to_string()).replace("@TABLE@", table)
}
