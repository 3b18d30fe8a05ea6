//! Runs a program with a time limit and a bound on what is kept of its output.
//!
//! The program leads a process group of its own, and whatever it leaves behind is ended with it: at its own end, or at
//! the time limit. Nothing that it does can hold the caller up: an output pipe that somebody keeps open is not waited
//! for, and a process that not even SIGKILL ends (the kernel waits for a disk) is left to a thread.
//!
//! What is reached when processes are ended: everything in the group, everything below a process of it, and everything
//! that was started with the mark ([`MARK_VARIABLE`]) in its environment, in whatever session and however orphaned. (Without
//! a mark it is the group alone: a question to `systemctl` is not worth a look at every process.) What is not: a process that made its own group, cleared its environment *and* lost its parent. Where the agent is a systemd
//! service, systemd ends such a one together with the agent.

mod output;
mod processes;
#[cfg(test)]
mod tests;

use std::io::{self, PipeReader, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

pub(crate) use output::Output;
pub(crate) use processes::{MARK_VARIABLE, end_marked, new_mark};

use output::Capture;
use processes::Family;

/// Between SIGTERM and SIGKILL.
const TERM_GRACE: Duration = Duration::from_secs(5);
/// How long output is waited for after the program has ended: somebody else may hold the pipe.
const DRAIN_GRACE: Duration = Duration::from_secs(1);
/// How long a killed process may take to go.
const KILL_GRACE: Duration = Duration::from_secs(3);
/// How often a program that has just started is looked after while it says nothing, milliseconds.
const LOOK_MIN_MS: u16 = 20;
/// And one that runs for long.
const LOOK_MAX_MS: u16 = 250;

/// How a program is run.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Then it is ended.
    pub(crate) time: Duration,
    /// How much of its output is kept: so many bytes of the beginning, and so many of the end.
    pub(crate) keep: usize,
    /// Whether its standard error is kept with its standard output, or dropped.
    pub(crate) with_stderr: bool,
    /// The value of [`MARK_VARIABLE`], by which its descendants are found; none for a program that starts nothing.
    pub(crate) mark: Option<String>,
}

/// What became of a program.
#[derive(Debug)]
pub(crate) struct Ended {
    /// How it ended; absent if not even SIGKILL has ended it.
    pub(crate) status: Option<ExitStatus>,
    /// Whether the time limit ended it.
    pub(crate) timed_out: bool,
    /// What it wrote.
    pub(crate) output: Output,
    /// From its start to its end.
    pub(crate) took: Duration,
    /// Whether it left processes behind, which were ended.
    pub(crate) left_behind: bool,
}

/// Runs `command`; standard input is empty. Blocks for at most the time limit and about ten seconds more.
///
/// # Errors
/// When the program cannot be started.
pub(crate) fn run(mut command: Command, limits: &Limits) -> io::Result<Ended> {
    let (pipe, writer) = io::pipe()?;
    let flags = OFlag::from_bits_retain(fcntl(&pipe, FcntlArg::F_GETFL)?) | OFlag::O_NONBLOCK;
    fcntl(&pipe, FcntlArg::F_SETFL(flags))?;
    let stderr = if limits.with_stderr { Stdio::from(writer.try_clone()?) } else { Stdio::null() };
    command.stdin(Stdio::null()).stdout(writer).stderr(stderr).process_group(0);
    // What systemd gave to the agent is for the agent alone: nobody else may say that it is ready or alive.
    for name in ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"] {
        command.env_remove(name);
    }
    if let Some(mark) = &limits.mark {
        command.env(MARK_VARIABLE, mark);
    }
    let started = Instant::now();
    let child = command.spawn()?;
    if limits.mark.is_some() {
        // Where memory runs out, a script goes before the agent. Refused, it may be the other way round.
        let _ = std::fs::write(format!("/proc/{}/oom_score_adj", child.id()), "500");
    }
    // It holds ends of the pipe, which would never be at its end.
    drop(command);
    Ok(Watch::new(child, pipe, limits, started).until_its_end(limits.time))
}

struct Watch {
    child: Child,
    family: Family,
    pipe: Option<PipeReader>,
    capture: Capture,
    started: Instant,
}

impl Watch {
    fn new(child: Child, pipe: PipeReader, limits: &Limits, started: Instant) -> Self {
        // Process ids are small positive numbers in a kernel that gives them as a C int.
        let leader = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
        let family = Family { leader, mark: limits.mark.clone() };
        Self { child, family, pipe: Some(pipe), capture: Capture::new(limits.keep), started }
    }

    fn until_its_end(mut self, limit: Duration) -> Ended {
        let by_itself = self.look_until(self.started + limit, |watch| watch.has_ended());
        let took = self.started.elapsed();
        let mut left_behind = false;
        if by_itself {
            left_behind = !self.look_until(Instant::now() + DRAIN_GRACE, |watch| watch.pipe.is_none());
        } else {
            self.family.signal(Signal::SIGTERM);
            self.look_until(Instant::now() + TERM_GRACE, |watch| {
                watch.has_ended() && watch.pipe.is_none() && watch.family.others().is_empty()
            });
        }
        // The leader is not reaped yet, so that its number still means this group and no other.
        left_behind |= self.family.kill_all() > 0;
        self.look_until(Instant::now() + KILL_GRACE, |watch| watch.has_ended());
        self.read();
        let status = self.child.try_wait().ok().flatten();
        let Self { mut child, capture, .. } = self;
        if status.is_none() {
            // It goes when the kernel lets it; without the thread it would stay as a zombie.
            let _ = std::thread::Builder::new().name("late end".to_owned()).spawn(move || child.wait());
        }
        let output = capture.finish();
        Ended { status, timed_out: !by_itself, output, took, left_behind: by_itself && left_behind }
    }

    /// Reads output until `done`, at most until `end`; says whether it was done.
    fn look_until(&mut self, end: Instant, done: impl Fn(&Self) -> bool) -> bool {
        loop {
            self.read();
            if done(self) {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            // A tenth of its age: nobody waits long for a short one, and a long one costs nothing.
            let age = u16::try_from(self.started.elapsed().as_millis() / 10).unwrap_or(u16::MAX);
            let wait_ms = age.clamp(LOOK_MIN_MS, LOOK_MAX_MS);
            match &self.pipe {
                Some(pipe) => {
                    let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
                    // An interrupted wait is a short one.
                    let _ = poll(&mut fds, PollTimeout::from(wait_ms));
                }
                None => std::thread::sleep(Duration::from_millis(wait_ms.into())),
            }
        }
    }

    /// Takes what is in the pipe now. Bounded, so that a program that writes without end is looked after all the same.
    fn read(&mut self) {
        const CHUNK: usize = 64 * 1024;
        let Some(pipe) = &mut self.pipe else { return };
        let mut buffer = [0_u8; CHUNK];
        for _ in 0..16 {
            match pipe.read(&mut buffer) {
                Ok(0) => {
                    self.pipe = None;
                    return;
                }
                Ok(len) => self.capture.take(&buffer[..len]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.pipe = None;
                    return;
                }
            }
        }
    }

    /// Whether the program itself has ended. It is not reaped by this.
    fn has_ended(&self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        match waitid(Id::Pid(self.family.leader), flags) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => false,
            Ok(_) | Err(_) => true,
        }
    }
}
