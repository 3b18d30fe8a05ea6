//! Starts `fleet-broker` with files of its own.

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::support::{PATIENCE, until};

/// A folder with a config and a credentials file.
pub(crate) struct Files {
    pub(crate) folder: TempDir,
}

impl Files {
    /// A config that listens on a free port, and the given credentials, closed to others.
    pub(crate) fn new(credentials: &str) -> Files {
        let files = Files { folder: tempfile::tempdir().unwrap() };
        let config = format!("listen = \"127.0.0.1:0\"\ncredentials = {:?}\n", files.credentials());
        files.write_config(&config);
        files.write_credentials(credentials);
        files
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.folder.path().join("fleet-broker.toml")
    }

    pub(crate) fn credentials(&self) -> PathBuf {
        self.folder.path().join("credentials.toml")
    }

    pub(crate) fn write_config(&self, text: &str) {
        std::fs::write(self.config(), text).unwrap();
    }

    pub(crate) fn write_credentials(&self, text: &str) {
        std::fs::write(self.credentials(), text).unwrap();
        self.set_mode(0o600);
    }

    pub(crate) fn set_mode(&self, mode: u32) {
        std::fs::set_permissions(self.credentials(), Permissions::from_mode(mode)).unwrap();
    }
}

/// `fleet-broker` with arguments, and none of the caller's settings.
pub(crate) fn fleet_broker(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fleet-broker"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("FLEET_")) {
        command.env_remove(name);
    }
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a command that ends by itself, with some standard input.
pub(crate) fn output(mut command: Command, input: &str) -> Output {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    // It may not want it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// A running broker; killed when dropped.
pub(crate) struct Broker {
    child: Child,
    log: Receiver<String>,
    seen: String,
    pub(crate) address: SocketAddr,
}

impl Broker {
    /// Starts `fleet-broker run` and waits until it listens.
    pub(crate) fn start(files: &Files) -> Broker {
        Broker::from(fleet_broker(&["run", "--config", files.config().to_str().unwrap()]))
    }

    /// Waits until the command listens.
    pub(crate) fn from(mut command: Command) -> Broker {
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (sender, log) = sync_channel(10_000);
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut broker = Broker { child, log, seen: String::new(), address: ([0, 0, 0, 0], 0).into() };
        let line = broker.wait_for_log("listening");
        let address = line.rsplit_once("address=").unwrap().1.split_whitespace().next().unwrap();
        broker.address = address.parse().unwrap();
        broker
    }

    /// Waits for a line of the log that contains `text`.
    pub(crate) fn wait_for_log(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.log.recv_timeout(left) {
                Ok(line) => {
                    self.seen += &format!("{line}\n");
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(_) => panic!("no line with {text:?} in the log:\n{}", self.seen),
            }
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Reads the log to its end, which comes with that of the program.
    fn read_on(&mut self) {
        while let Ok(line) = self.log.recv() {
            self.seen += &format!("{line}\n");
        }
    }

    /// Waits for its end; returns the status and the whole log.
    pub(crate) fn finish(mut self) -> (ExitStatus, String) {
        let mut status = None;
        until("the broker has ended", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        self.read_on();
        (status.unwrap(), self.seen.clone())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.read_on();
        keep_log(self.child.id(), &self.seen);
    }
}

/// `make test` looks through what the programs have logged for secrets: scripts/check-secrets.sh.
pub(crate) fn keep_log(process: u32, log: &str) {
    if let Some(folder) = std::env::var_os("FLEET_TEST_LOGS") {
        std::fs::write(std::path::Path::new(&folder).join(format!("broker-{process}.log")), log).unwrap();
    }
}
