//! Child processes: where the programs are, signals, logs, waiting.

use std::fs::File;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal;
use nix::unistd::Pid;

pub use nix::sys::signal::Signal;

/// The program of this name, built beside this test; for the agent the one that `FLEET_TEST_AGENT` names, if it is set: one that is built for another
/// processor, say, and a script that runs it.
///
/// # Panics
/// It has not been built.
pub fn program(name: &str) -> PathBuf {
    if name == "r58-fleet-agent"
        && let Some(agent) = std::env::var_os("FLEET_TEST_AGENT")
    {
        return agent.into();
    }
    let ours = std::env::current_exe().expect("a running program has a path");
    // Tests are in target/<profile>/deps, programs in target/<profile>.
    let mut places = ours.ancestors().skip(1).take(2).map(|folder| folder.join(name));
    places.find(|path| path.exists()).unwrap_or_else(|| {
        panic!("{name} is missing beside {}: run `cargo build --workspace` first", ours.display())
    })
}

/// The same program, built for release.
///
/// # Panics
/// It has not been built.
pub(crate) fn release_program(name: &str) -> PathBuf {
    let debug = program(name);
    let target = debug.ancestors().nth(2).expect("programs are in a folder of the target folder");
    let release = target.join("release").join(name);
    assert!(release.exists(), "{} is missing: run `cargo build --release` first", release.display());
    release
}

/// A port that nobody listens on. It stays the same over restarts, which port 0 would not.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    listener.local_addr().expect("a bound socket has an address").port()
}

/// Tries until there is a value.
///
/// # Panics
/// There is none in time; the message says what was waited for.
pub fn wait_for<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < deadline, "no {what} within {limit:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Runs `command` to its end with `input` on its standard input. No variable of the caller's that configures ours is
/// passed on.
pub(crate) fn run(command: &mut Command, input: &str) -> Output {
    let mut child = clean(command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
    // A command that does not read its input may have ended already.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    child.wait_with_output().expect("our own child")
}

/// A folder of a test: a temporary one that goes with its handle, or one that somebody else looks after.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    _temporary: Option<tempfile::TempDir>,
}

impl Folder {
    pub(crate) fn temporary() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self { path: folder.path().to_owned(), _temporary: Some(folder) }
    }

    /// Makes the folder, if it is not there.
    pub(crate) fn at(path: &Path) -> Self {
        std::fs::create_dir_all(path).expect("a folder of the test's");
        Self { path: path.to_owned(), _temporary: None }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// A running program whose output goes to a file.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; its output is appended to `log`. No variable of the caller's that configures ours is passed on.
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let open = || File::options().create(true).append(true).open(log).expect("a log in our own folder");
        let child = clean(command)
            .stdin(Stdio::null())
            .stdout(open())
            .stderr(open())
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
        Self { child, log: log.to_owned() }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("process ids are positive");
        signal::kill(Pid::from_raw(pid), signal).expect("our own child, not yet waited for");
    }

    /// The exit status, once it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("our own child")
    }

    pub(crate) fn wait(&mut self, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(Instant::now() < deadline, "still running after {limit:?}; its log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn kill_hard(&mut self) {
        if self.ended().is_none() {
            self.signal(Signal::SIGKILL);
            self.child.wait().expect("our own child");
        }
    }

    /// Processor time so far, as the kernel counts it: in hundredths of a second.
    pub(crate) fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        // After the name, which is in brackets: the state is the first field, utime and stime are the twelfth and thirteenth.
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let ticks = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok());
        Duration::from_millis(10 * ticks.sum::<u64>())
    }

    /// Memory that is no file's, in KiB.
    pub(crate) fn own_memory_kib(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let own = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
        own.split_whitespace().next()?.parse().ok()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_hard();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.log());
        }
        keep(&self.log);
    }
}

/// `make test` looks through everything that the programs have logged for secrets: scripts/check-secrets.sh.
fn keep(log: &Path) {
    static KEPT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let Some(folder) = std::env::var_os("FLEET_TEST_LOGS") else { return };
    let number = KEPT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let name = format!("end-to-end-{}-{number}.log", std::process::id());
    std::fs::copy(log, Path::new(&folder).join(name)).expect("the folder of FLEET_TEST_LOGS takes logs");
}

/// Removes from a command's environment whatever would configure our programs.
fn clean(command: &mut Command) -> &mut Command {
    const AGENT_KEYS: [&str; 18] = [
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
        "HTTP_PROXY",
        "http_proxy",
        "HTTPS_PROXY",
        "https_proxy",
        "ALL_PROXY",
        "all_proxy",
        "NO_PROXY",
        "no_proxy",
    ];
    // What the test itself has set stays.
    let set: Vec<_> = command.get_envs().map(|(key, _)| key.to_owned()).collect();
    let foreign = std::env::vars_os().map(|(key, _)| key).filter(|key| {
        let name = key.to_string_lossy();
        name.starts_with("FLEET_") || AGENT_KEYS.contains(&name.as_ref())
    });
    for key in foreign.filter(|key| !set.contains(key)) {
        command.env_remove(key);
    }
    command
}
