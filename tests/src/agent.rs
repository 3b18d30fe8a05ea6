//! An `r58-fleet-agent` with a config file and state of its own.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::Duration;

use crate::Server;
use crate::process::{self, Folder, Process, Signal, program, wait_for};
use rusqlite::{Connection, OpenFlags};

/// An agent that can be stopped, killed and started again on the same state.
pub struct Agent {
    program: PathBuf,
    device: String,
    settings: BTreeMap<String, String>,
    process: Option<Process>,
    log: PathBuf,
    /// Last, so that the log is still there when a failing test prints it.
    folder: Folder,
}

impl Agent {
    /// Enrols `device` at `server`, as an installer would; does not start it.
    pub fn enroll(server: &Server, device: &str) -> Self {
        Self::unenrolled(device).enrolled(server)
    }

    /// As [`Self::enroll`], with its files in `folder` and its log in `log`, both outlive it.
    pub fn enroll_in(server: &Server, device: &str, folder: &Path, log: &Path) -> Self {
        Self::unenrolled_in(device, folder, log).enrolled(server)
    }

    fn enrolled(self, server: &Server) -> Self {
        let agent = self;
        let device = &agent.device;
        let output = agent
            .run(&["enroll", &server.url(), "--key", "-", "--device-id", device], &server.enrollment_key());
        assert!(output.status.success(), "enrol: {}", String::from_utf8_lossy(&output.stderr));
        agent
    }

    /// An agent with an empty config file.
    pub fn unenrolled(device: &str) -> Self {
        let folder = Folder::temporary();
        let log = folder.path().join("agent.log");
        Self::new(device, folder, log)
    }

    /// As [`Self::unenrolled`], with its files in `folder` and its log in `log`, both outlive it.
    pub fn unenrolled_in(device: &str, folder: &Path, log: &Path) -> Self {
        Self::new(device, Folder::at(folder), log.to_owned())
    }

    fn new(device: &str, folder: Folder, log: PathBuf) -> Self {
        std::fs::create_dir(folder.path().join("state")).expect("a folder in our own");
        std::fs::create_dir(folder.path().join("run")).expect("a folder in our own");
        let settings = BTreeMap::new();
        let program = program("r58-fleet-agent");
        let agent = Self { program, folder, log, device: device.to_owned(), settings, process: None };
        agent.write_config("# an agent under test\n");
        agent
    }

    /// Another agent with the same config file, but a state of its own.
    pub fn twin(&self) -> Self {
        let twin = Self::unenrolled(&self.device);
        twin.write_config(&std::fs::read_to_string(self.config_file()).expect("the config file"));
        twin
    }

    /// The program that is built for release: fast, and without what tests put into it.
    #[must_use]
    pub fn for_release(mut self) -> Self {
        self.program = process::release_program("r58-fleet-agent");
        self
    }

    /// Sets an environment variable for the next start.
    #[must_use]
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.settings.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sets an environment variable for the next start, or takes it away.
    pub fn set(&mut self, key: &str, value: Option<&str>) {
        match value {
            Some(value) => self.settings.insert(key.to_owned(), value.to_owned()),
            None => self.settings.remove(key),
        };
    }

    /// Starts the agent.
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "the agent still runs");
        let mut command = self.command(&["run"]);
        self.process = Some(Process::start(&mut command, &self.log));
    }

    /// The agent's program with this agent's files.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .arg("--config")
            .arg(self.config_file())
            .env("STATE_DIR", self.state_dir())
            .env("RUNTIME_DIRECTORY", self.folder.path().join("run"))
            .env("HEARTBEAT_INTERVAL", "1")
            // Nobody answers there: tests that want an application set their own.
            .env("APP_STATUS_URL", "http://127.0.0.1:9/status")
            .envs(&self.settings);
        command
    }

    /// Runs a subcommand with `input` on its standard input.
    pub fn run(&self, arguments: &[&str], input: &str) -> Output {
        process::run(&mut self.command(arguments), input)
    }

    /// The readable id of the device.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// The config file.
    pub fn config_file(&self) -> PathBuf {
        self.folder.path().join("fleet.conf")
    }

    /// Replaces the config file.
    pub fn write_config(&self, text: &str) {
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = std::fs::File::options();
        let file = options.create(true).write(true).truncate(true).mode(0o600).open(self.config_file());
        file.and_then(|mut file| file.write_all(text.as_bytes())).expect("a file in our own folder");
    }

    /// The state folder.
    pub fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// The state database.
    pub fn state_file(&self) -> PathBuf {
        self.state_dir().join("db/state.db")
    }

    /// Where the running agent says how it is.
    pub fn status_file(&self) -> PathBuf {
        self.folder.path().join("run/status.json")
    }

    /// What the agent has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What `status --json` says, if the agent runs.
    pub fn status(&self) -> Option<serde_json::Value> {
        let output = self.run(&["status", "--json"], "");
        serde_json::from_slice(&output.stdout).ok()
    }

    /// Every record of the outbox, committed or not: sequence number and the first bytes of its kind.
    ///
    /// Reads the agent's own database, beside the running agent.
    pub fn outbox_seqs(&self) -> Vec<u64> {
        let open = || -> rusqlite::Result<Vec<u64>> {
            let database = Connection::open_with_flags(self.state_file(), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            database.busy_timeout(Duration::from_secs(5))?;
            let mut rows = database.prepare("SELECT seq FROM outbox ORDER BY seq")?;
            rows.query_map([], |row| row.get::<_, i64>(0).map(i64::cast_unsigned))?.collect()
        };
        open().unwrap_or_default()
    }

    /// Waits until the outbox holds a record with a number past `seq`; returns the last number.
    pub fn wait_for_record_past(&self, seq: u64) -> u64 {
        wait_for("new record in the outbox", Duration::from_secs(30), || {
            self.outbox_seqs().last().copied().filter(|last| *last > seq)
        })
    }

    /// Ends it as a power cut does; it may have ended by itself.
    pub fn kill(&mut self) {
        self.process.take().expect("a started agent").kill_hard();
    }

    /// Asks it to end, and waits.
    pub fn stop(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("a running agent");
        process.signal(Signal::SIGTERM);
        process.wait(Duration::from_secs(20))
    }

    /// Sends a signal, to freeze it for example.
    pub fn signal(&self, signal: Signal) {
        self.process.as_ref().expect("a running agent").signal(signal);
    }

    /// Processor time that the running agent has taken.
    pub fn cpu_time(&self) -> Duration {
        self.process.as_ref().map_or(Duration::ZERO, Process::cpu_time)
    }

    /// Memory of the running agent that it shares with nobody, in KiB.
    pub fn own_memory_kib(&self) -> u64 {
        self.process.as_ref().and_then(Process::own_memory_kib).unwrap_or(0)
    }

    /// The exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.as_mut().and_then(Process::ended)
    }
}
