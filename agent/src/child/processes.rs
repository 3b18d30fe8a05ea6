//! The processes that a program has started, found in `/proc`.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// The environment variable that a program hands down to everything that it starts.
pub(crate) const MARK_VARIABLE: &str = "R58_RUN_MARK";

/// How much of a process's environment is looked at, in bytes.
const ENVIRONMENT_MAX_LEN: u64 = 1024 * 1024;
/// How often processes are looked for and killed: one may start another while this is done.
const ROUNDS: u32 = 20;
/// Between two such looks.
const PAUSE: Duration = Duration::from_millis(20);

/// A program and what it has started.
#[derive(Debug)]
pub(super) struct Family {
    /// The program; its number is the number of its group.
    pub(super) leader: Pid,
    /// The value of [`MARK_VARIABLE`].
    pub(super) mark: Option<String>,
}

impl Family {
    /// Those that live and are not the leader; not looked for without a mark.
    pub(super) fn others(&self) -> Vec<Pid> {
        if self.mark.is_none() {
            return Vec::new();
        }
        members(&processes(), Some(self.leader), self.mark.as_deref())
    }

    /// Sends `signal` to all.
    pub(super) fn signal(&self, signal: Signal) {
        let others = self.others();
        // Whoever has ended in the meantime needs no signal.
        let _ = killpg(self.leader, signal);
        for pid in others {
            let _ = kill(pid, signal);
        }
    }

    /// Kills all until none is left, and says how many others there were.
    pub(super) fn kill_all(&self) -> usize {
        let mut killed = HashSet::new();
        for _ in 0..ROUNDS {
            let others = self.others();
            self.signal(Signal::SIGKILL);
            if others.is_empty() {
                break;
            }
            killed.extend(others);
            std::thread::sleep(PAUSE);
        }
        killed.len()
    }
}

/// A value of [`MARK_VARIABLE`] that nobody has had before.
pub(crate) fn new_mark() -> String {
    // Without random numbers it says less, and an interrupted command could end what another one has started.
    format!("{:016x}", getrandom::u64().unwrap_or(0))
}

/// Kills every process that was started with this mark, and what is below it: for what an agent that is gone has left
/// behind. Says how many there were.
pub(crate) fn end_marked(mark: &str) -> usize {
    let mut killed = HashSet::new();
    for _ in 0..ROUNDS {
        let found = members(&processes(), None, Some(mark));
        if found.is_empty() {
            break;
        }
        for pid in &found {
            let _ = kill(*pid, Signal::SIGKILL);
        }
        killed.extend(found);
        std::thread::sleep(PAUSE);
    }
    killed.len()
}

/// One line of the table of processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    pid: Pid,
    parent: Pid,
    group: Pid,
    /// Ended, and not yet reaped by its parent.
    zombie: bool,
}

/// All processes that can be seen.
fn processes() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    numbers
        .filter_map(|pid: i32| {
            let stat = bounded(&format!("/proc/{pid}/stat"), 4096).ok()?;
            parse_stat(Pid::from_raw(pid), &stat)
        })
        .collect()
}

/// The group of `leader`, those with the mark, and everything below them or the leader; without the leader, this process
/// and those that have ended.
fn members(all: &[Process], leader: Option<Pid>, mark: Option<&str>) -> Vec<Pid> {
    let own = nix::unistd::getpid();
    let belongs = |process: &&Process| {
        Some(process.group) == leader
            || mark.is_some_and(|mark| !process.zombie && is_marked(process.pid, mark))
    };
    let mut found: HashSet<Pid> = all.iter().filter(belongs).map(|process| process.pid).collect();
    found.extend(leader);
    found.remove(&own);
    loop {
        let below = |process: &&Process| found.contains(&process.parent) && !found.contains(&process.pid);
        let more: Vec<Pid> = all.iter().filter(below).map(|process| process.pid).collect();
        if more.is_empty() {
            break;
        }
        found.extend(more);
    }
    let counts = |process: &&Process| {
        found.contains(&process.pid) && !process.zombie && Some(process.pid) != leader && process.pid != own
    };
    all.iter().filter(counts).map(|process| process.pid).collect()
}

/// `pid (name) state parent group …`; the name may have blanks and brackets in it.
fn parse_stat(pid: Pid, stat: &[u8]) -> Option<Process> {
    let text = String::from_utf8_lossy(stat);
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    let mut number = || fields.next()?.parse().ok().map(Pid::from_raw);
    Some(Process { pid, parent: number()?, group: number()?, zombie: matches!(state, "Z" | "X") })
}

fn is_marked(pid: Pid, mark: &str) -> bool {
    let Ok(environment) = bounded(&format!("/proc/{pid}/environ"), ENVIRONMENT_MAX_LEN) else { return false };
    let wanted = format!("{MARK_VARIABLE}={mark}");
    environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
}

fn bounded(path: &str, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn process(pid: i32, parent: i32, group: i32) -> Process {
        let [pid, parent, group] = [pid, parent, group].map(Pid::from_raw);
        Process { pid, parent, group, zombie: false }
    }

    #[test]
    fn a_name_with_brackets_and_blanks_does_not_confuse() {
        let parsed = parse_stat(Pid::from_raw(7), b"7 (a) (b c) Z 3 5 5 0 -1").unwrap();
        assert_eq!(parsed, Process { zombie: true, ..process(7, 3, 5) });
        assert_eq!(parse_stat(Pid::from_raw(7), b"7 (a"), None);
    }

    #[test]
    fn the_group_and_everything_below_it_belong_together() {
        let ended = Process { zombie: true, ..process(1_000_006, 1_000_000, 1_000_000) };
        let all = [
            process(1_000_000, 1, 1_000_000),
            process(1_000_001, 1_000_000, 1_000_000),
            process(1_000_002, 1_000_001, 1_000_002),
            process(1_000_003, 1_000_002, 1_000_003),
            process(1_000_004, 1, 1_000_000),
            process(1_000_005, 1, 1_000_005),
            ended,
        ];
        let found = members(&all, Some(Pid::from_raw(1_000_000)), None);
        assert_eq!(found, [1_000_001, 1_000_002, 1_000_003, 1_000_004].map(Pid::from_raw));
    }
}
