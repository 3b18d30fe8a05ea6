//! The programs that are measured: started with a clean environment, ended whatever happens, read through `/proc`.

use std::fs::{File, read_to_string};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};

use crate::outcome::{Failure, Outcome, Tell};

/// How long a program may take to be there, and to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running program. Killed when dropped.
pub(crate) struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

/// What `/proc` says about memory, in kB.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// All that is resident.
    pub(crate) rss_kb: u64,
    /// Of that, what belongs to the process alone: heap and stacks.
    pub(crate) anon_kb: u64,
    /// The most that was ever resident.
    pub(crate) peak_kb: u64,
}

impl Process {
    /// Starts `command`; what it says goes to `log`. No variable of the caller's that configures ours is passed on.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Outcome<Process> {
        let name = command.get_program().to_string_lossy().into_owned();
        let open =
            || File::options().create(true).append(true).open(log).tell(format!("open {}", log.display()));
        let child = clean(command).stdin(Stdio::null()).stdout(open()?).stderr(open()?).spawn();
        Ok(Process { child: child.tell(format!("start {name}"))?, name, log: log.to_owned() })
    }

    /// Waits until `ready` says so.
    pub(crate) fn wait_until(&mut self, ready: impl Fn() -> bool) -> Outcome<()> {
        let deadline = Instant::now() + PATIENCE;
        while !ready() {
            if let Some(status) = self.child.try_wait().tell(format!("wait for {}", self.name))? {
                return Err(Failure::new(format!("{} ended with {status}:\n{}", self.name, self.log())));
            }
            if Instant::now() > deadline {
                return Err(Failure::new(format!("{} is not ready:\n{}", self.name, self.log())));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Waits until something listens at `address`.
    pub(crate) fn wait_for_port(&mut self, address: SocketAddr) -> Outcome<()> {
        self.wait_until(|| TcpStream::connect(address).is_ok())
    }

    /// Asks it to end, and waits.
    pub(crate) fn stop(mut self) -> Outcome<()> {
        let pid = i32::try_from(self.child.id()).tell("read a process id")?;
        kill(Pid::from_raw(pid), Signal::SIGTERM).tell(format!("end {}", self.name))?;
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait().tell(format!("wait for {}", self.name))?.is_none() {
            if Instant::now() > deadline {
                return Err(Failure::new(format!("{} does not end:\n{}", self.name, self.log())));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its memory now.
    pub(crate) fn memory(&self) -> Outcome<Memory> {
        let path = format!("/proc/{}/status", self.id());
        let text = read_to_string(&path).tell(format!("read {path}"))?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        Ok(Memory { rss_kb: field("VmRSS"), anon_kb: field("RssAnon"), peak_kb: field("VmHWM") })
    }

    /// Processor time that it has used so far, in user and kernel mode together. Granular to a clock tick (10 ms).
    pub(crate) fn cpu(&self) -> Outcome<Duration> {
        cpu_of(&self.id().to_string())
    }

    /// The end of what it has said.
    pub(crate) fn log(&self) -> String {
        let text = read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

/// Processor time of a process (`self`: of this one) so far, in user and kernel mode together.
pub(crate) fn cpu_of(process: &str) -> Outcome<Duration> {
    let path = format!("/proc/{process}/stat");
    let text = read_to_string(&path).tell(format!("read {path}"))?;
    // The name, in parentheses, may hold blanks; what follows may not.
    let (_, rest) = text.rsplit_once(')').tell(format!("understand {path}"))?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    Ok(Duration::from_secs_f64((ticks(11) + ticks(12)) as f64 / per_second as f64))
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A loopback address that nobody listens on.
pub(crate) fn free_address() -> Outcome<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").tell("find a free port")?;
    listener.local_addr().tell("find a free port")
}

/// Removes from a command's environment whatever would configure our programs and was not set for it.
fn clean(command: &mut Command) -> &mut Command {
    const OTHERS: [&str; 10] = [
        "DEVICE_ID",
        "DEVICE_TOKEN",
        "MQTT_URL",
        "STATE_DIR",
        "HEARTBEAT_INTERVAL",
        "RUNTIME_DIRECTORY",
        "STATE_DIRECTORY",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "RUST_LOG",
    ];
    let set: Vec<_> = command.get_envs().map(|(key, _)| key.to_owned()).collect();
    let foreign = std::env::vars_os().map(|(key, _)| key).filter(|key| {
        let name = key.to_string_lossy();
        name.starts_with("FLEET_") || OTHERS.contains(&name.as_ref())
    });
    for key in foreign.filter(|key| !set.contains(key)) {
        command.env_remove(key);
    }
    command
}
