//! MQTT tools that people use, as child processes with a deadline.

use std::ffi::OsStr;
use std::io::Read;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::PATIENCE;

/// What a tool did.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// A tool that still runs; it is killed when dropped.
pub struct Running {
    name: String,
    child: Child,
    stdout: mpsc::Receiver<String>,
    stderr: mpsc::Receiver<String>,
}

/// Starts a tool. A missing one fails the test and says what installs it.
pub fn start<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, arguments: impl IntoIterator<Item = S>) -> Running {
    let name = program.as_ref().to_string_lossy().into_owned();
    let mut child = Command::new(&program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("cannot start {name}: {error}; run `make setup`, which installs what tests need")
        });
    let (stdout, stderr) = (collect(child.stdout.take().unwrap()), collect(child.stderr.take().unwrap()));
    Running { name, child, stdout, stderr }
}

/// Reads a pipe to its end on a thread, so that a full one never blocks the tool.
fn collect(mut pipe: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}

impl Running {
    /// Waits for its end.
    pub fn finish(mut self) -> Finished {
        let deadline = Instant::now() + PATIENCE * 2;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let said = (self.stdout.recv(), self.stderr.recv());
                panic!("{} does not end; it said {said:?}", self.name);
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let stdout = self.stdout.recv_timeout(PATIENCE).unwrap();
        let stderr = self.stderr.recv_timeout(PATIENCE).unwrap();
        Finished { status, stdout, stderr }
    }

    /// Kills it at once (SIGKILL): no goodbye to the broker.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `mosquitto_pub` or `mosquitto_sub` as somebody, in one version (`mqttv311`, `mqttv5`).
pub fn mosquitto(
    tool: &str,
    address: SocketAddr,
    version: &str,
    login: (&str, &str),
    more: &[&str],
) -> Running {
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let (username, password) = login;
    let common = ["-h", &host, "-p", &port, "-V", version, "-u", username, "-P", password];
    start(tool, common.iter().chain(more))
}

/// The Python that has paho-mqtt: `FLEET_TEST_PYTHON`, or the one of the workspace's virtual environment.
pub fn python() -> PathBuf {
    let usual = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/venv/bin/python");
    std::env::var_os("FLEET_TEST_PYTHON").map_or_else(|| usual.into(), PathBuf::from)
}
