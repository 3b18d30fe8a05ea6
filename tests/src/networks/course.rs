//! The course of one scenario: all is well, the network fights, all is well again; then everything is compared.

use std::any::Any;
use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::report::{Commands, Row};
use super::scenarios::{Expect, Scenario};
use super::site::{Look, Site};
use crate::chaos::random::Random;

/// How often things are looked at.
const LOOK: Duration = Duration::from_millis(250);
/// A connection that has lasted for a minute is a good one to the agent; most are, when something happens to them.
const SETTLE: Duration = Duration::from_secs(63);
/// The longest wait between two attempts (5 min), and the longest attempt (60 s).
const RECOVERY: Duration = Duration::from_secs(300 + 60 + 30);
/// Until a backlog has drained and every command has ended.
const REST: Duration = Duration::from_secs(240);
/// A black hole is to be noticed within this time.
pub(super) const NOTICED: Duration = Duration::from_secs(90);

/// How a run is made.
pub(super) struct Options<'a> {
    pub(super) seed: u64,
    pub(super) quick: bool,
    pub(super) folder: &'a Path,
    pub(super) stop: &'a AtomicBool,
}

/// A run that goes on, and what was seen in it.
pub(super) struct Course<'a> {
    pub(super) site: Site,
    pub(super) random: Random,
    pub(super) complaints: Vec<String>,
    options: &'a Options<'a>,
    journal: fs::File,
    began: Instant,
}

/// What was seen while a fault lasted.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// When the agent first said that it is not connected, after the fault began.
    pub(super) noticed: Option<Duration>,
    /// When it was connected again, while the fault lasted.
    pub(super) back: Option<Duration>,
    /// When the server first counted the device as offline.
    pub(super) offline: Option<Duration>,
    /// The links over which the agent was connected after it had noticed.
    pub(super) rungs: BTreeSet<String>,
    /// Over which link it was connected at the end, if it was.
    pub(super) last_rung: Option<String>,
    /// How long commands of the middle of the fault took until they had ended, if they did while it lasted.
    pub(super) commands: Option<Duration>,
    /// Errors that it told of.
    pub(super) errors: BTreeSet<String>,
}

impl Seen {
    fn take(&mut self, look: &Look, since: Duration) {
        let Some(status) = &look.status else { return };
        let link = status.link.as_deref().and_then(|link| link.split_once("://")).map(|(scheme, _)| scheme);
        if look.connected() {
            self.last_rung = link.map(str::to_owned);
            if self.noticed.is_some() {
                self.rungs.extend(self.last_rung.clone());
                self.back.get_or_insert(since);
            }
        } else {
            self.last_rung = None;
            self.noticed.get_or_insert(since);
        }
        if !look.online {
            self.offline.get_or_insert(since);
        }
        self.errors.extend(status.last_error.clone());
    }
}

impl<'a> Course<'a> {
    pub(super) fn new(name: &str, options: &'a Options<'a>) -> Self {
        let folder = options.folder.join(name);
        fs::create_dir_all(&folder).expect("a folder of the run's");
        let journal = fs::File::create(folder.join("course.log")).expect("a file of the run's");
        // Each scenario has its own numbers, whatever others run beside it.
        let own =
            name.bytes().fold(options.seed, |seed, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
        Self {
            site: Site::new(&folder),
            random: Random::new(own),
            complaints: Vec::new(),
            options,
            journal,
            began: Instant::now(),
        }
    }

    pub(super) fn note(&mut self, text: &str) {
        use std::io::Write as _;
        let _ = writeln!(self.journal, "{:9.3} {text}", self.began.elapsed().as_secs_f64());
    }

    pub(super) fn complain(&mut self, text: String) {
        self.note(&format!("complaint: {text}"));
        self.complaints.push(text);
    }

    /// # Panics
    /// The whole run is to end: the caller of the course knows.
    fn heed_stop(&self) {
        assert!(!self.options.stop.load(Ordering::SeqCst), "stopped by a signal");
    }

    /// Looks on until `enough` says so. Whether it did in time.
    pub(super) fn watch(&mut self, limit: Duration, mut enough: impl FnMut(&Self, &Look) -> bool) -> bool {
        let began = Instant::now();
        let mut last = None;
        loop {
            self.heed_stop();
            let look = self.site.look();
            let state = look.status.as_ref().map(|s| (s.connection, s.link.clone(), s.last_error.clone()));
            let now = (state, look.online);
            if last.as_ref() != Some(&now) {
                self.note(&format!("{now:?}"));
                last = Some(now);
            }
            if enough(self, &look) {
                return true;
            }
            if began.elapsed() >= limit {
                return false;
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Three commands, and all that were asked for so far end.
    pub(super) fn commands_end(&mut self, when: &str) {
        self.site.ask();
        if !self.watch(REST, |_, look| look.open == 0) {
            self.complain(format!("{when}: commands are open after {} s", REST.as_secs()));
        }
    }

    /// Lets a fault last, with commands in the middle of it, at a moment that the seed draws.
    pub(super) fn endure(&mut self, lasts: Duration, commands: bool) -> Seen {
        let began = Instant::now();
        let mut seen = Seen::default();
        let ask_at = lasts.mul_f64(0.2 + 0.005 * self.random.below(100) as f64);
        let mut asks = commands;
        let asks = &mut asks;
        self.watch(lasts, |_, look| {
            seen.take(look, began.elapsed());
            *asks && began.elapsed() >= ask_at
        });
        if *asks {
            self.note("commands");
            self.site.ask();
            let asked = Instant::now();
            self.watch(lasts.saturating_sub(began.elapsed()), |_, look| {
                seen.take(look, began.elapsed());
                if look.open == 0 {
                    seen.commands.get_or_insert(asked.elapsed());
                }
                false
            });
        }
        seen
    }

    /// The fault is over: waits until the device is there again, and until the backlog has drained. How long each took.
    pub(super) fn recover(&mut self) -> (Option<Duration>, Option<Duration>) {
        let before = self.site.last_record();
        self.site.mark();
        let began = Instant::now();
        let is_back = |_: &Self, look: &Look| {
            look.online && look.connected() && look.committed.max().is_some_and(|max| max > before)
        };
        let online = self.watch(RECOVERY, is_back).then(|| began.elapsed());
        if online.is_none() {
            self.complain(format!("not online again {} s after the fault", RECOVERY.as_secs()));
            return (None, None);
        }
        let drained = self.watch(REST, |course, look| course.site.waiting(look) == 0);
        let drained = drained.then(|| began.elapsed());
        if drained.is_none() {
            self.complain(format!("the backlog has not drained within {} s", REST.as_secs()));
        }
        (online, drained)
    }

    /// Ends everything and compares it.
    fn finish(&mut self, row: &mut Row) {
        self.commands_end("after the fault");
        self.site.mark();
        if !self.watch(REST, |course, look| course.site.waiting(look) == 0) {
            self.complain("records are not committed at the end".to_owned());
        }
        self.site.agent.stop();
        let checked = self.site.check();
        row.records = Some((checked.spooled, checked.stored));
        row.commands = Some(Commands { asked: self.site.asked(), ended: checked.report.commands.clone() });
        for complaint in checked.report.complaints {
            self.complain(complaint);
        }
    }
}

/// What a panic said.
pub(super) fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    format!("it could not be run to its end: {}", text.unwrap_or_default())
}

/// Runs one scenario: `middle` after a beginning that is the same for all, and then the comparison.
pub(super) fn run(
    mut row: Row,
    options: &Options<'_>,
    middle: impl FnOnce(&mut Course<'_>, &mut Row),
) -> (Row, Vec<String>) {
    let mut course = Course::new(row.name, options);
    // What fails in the middle is a complaint, and leaves as much to look at.
    let done = catch_unwind(AssertUnwindSafe(|| {
        middle(&mut course, &mut row);
        course.finish(&mut row);
    }));
    if let Err(panic) = done {
        course.complain(said(&*panic));
    }
    (row, course.complaints)
}

/// The course of a fault that begins and ends while the server is there.
pub(super) fn fault(scenario: &Scenario, lasts: Duration, course: &mut Course<'_>, row: &mut Row) {
    (scenario.prepare)(&mut course.site);
    course.site.start();
    course.commands_end("before the fault");
    course.watch(SETTLE, |_, _| false);

    course.note("fault on");
    let (counted, failures) = (course.site.net.counted(), course.site.failures());
    (scenario.on)(&mut course.site);
    let cpu = course.site.agent.cpu_time();
    let seen = course.endure(lasts, true);
    let said = course.site.status_text();
    (scenario.off)(&mut course.site);
    course.note("fault off");
    row.counted = Some(course.site.net.counted().since(counted));
    row.attempts = Some(course.site.failures() - failures);
    row.cost = Some((course.site.agent.cpu_time().saturating_sub(cpu), course.site.agent.own_memory_kib()));
    (row.online, row.drained) = course.recover();
    row.seen = seen;
    expect(&scenario.expect, course, &said, lasts, row);
    for complaint in (scenario.check)(&course.site) {
        course.complain(complaint);
    }
}

/// Holds what was seen to what is expected of it.
fn expect(expect: &Expect, course: &mut Course<'_>, said: &str, lasts: Duration, row: &Row) {
    let seen = &row.seen;
    let mut complaints = Vec::new();
    if let Some(limit) = expect.noticed_within {
        match seen.noticed {
            Some(after) if after <= limit => {}
            Some(after) => complaints.push(format!("noticed after {:.1} s only", after.as_secs_f64())),
            None if lasts > limit => complaints.push("not noticed at all".to_owned()),
            None => {}
        }
    }
    let is_wanted = |rung: &str| expect.rungs.contains(&rung);
    if !expect.rungs.is_empty() && !seen.last_rung.as_deref().is_some_and(is_wanted) {
        let (was, wanted) = (&seen.last_rung, expect.rungs);
        complaints.push(format!("connected over {was:?} at the end of the fault, not {wanted:?}"));
    }
    for words in expect.says {
        if !said.contains(words) && !seen.errors.iter().any(|error| error.contains(words)) {
            complaints.push(format!("status does not say {words:?}: {:?}\n{said}", seen.errors));
        }
    }
    complaints.into_iter().for_each(|complaint| course.complain(complaint));
    hold_to_pace(course, row, lasts);
    // A twentieth of a processor, in a debug build.
    if let Some((cpu, own_kib)) = row.cost
        && (cpu > Duration::from_secs(2) + lasts / 20 || own_kib > 32 * 1024)
    {
        course.complain(format!("the agent took {cpu:?} of processor time and {own_kib} KiB of memory"));
    }
}

/// No more attempts than a back-off leaves room for: with full jitter a wait is 1 s at least, and half a minute on average once
/// the first few attempts have failed.
pub(super) fn hold_to_pace(course: &mut Course<'_>, row: &Row, lasts: Duration) {
    let (attempts, most) = (row.attempts.unwrap_or(0), 10 + lasts.as_secs() as usize / 15);
    if attempts > most {
        course
            .complain(format!("{attempts} attempts in {} s are too many (at most {most})", lasts.as_secs()));
    }
}
