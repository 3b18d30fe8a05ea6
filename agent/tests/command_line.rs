//! The program as a person or systemd starts it.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// A folder with a configuration, and the program in an environment of its own.
struct Device {
    folder: TempDir,
}

impl Device {
    fn new(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("fleet.conf"), config).unwrap();
        Self { folder }
    }

    fn enrolled() -> Self {
        let token = "0".repeat(64);
        // Nobody listens on port 1, so it runs and never connects.
        Self::new(&format!(
            "FLEET_URL=http://127.0.0.1:1\nDEVICE_ID=studio-1\nDEVICE_TOKEN={token}\nAPP_STATUS_URL=\n"
        ))
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("fleet.conf")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_r58-fleet-agent"));
        command.args(arguments).arg("--config").arg(self.config()).env_clear();
        command.env("PATH", "/usr/bin:/bin").env("STATE_DIR", self.folder.path().join("state"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> (i32, String) {
        said(self.command(arguments).output().unwrap())
    }
}

fn said(output: Output) -> (i32, String) {
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8(text).unwrap())
}

/// Ends with the test, whatever comes of it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let give_up_at = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(Instant::now() < give_up_at, "{what} did not happen within 30 s");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_wrong_configuration_ends_with_78_and_the_place() {
    let device = Device::new("# first\nHEARTBEAT_INTERVAL=soon\nSTATE_DIR=x\n");
    let (status, text) = device.run(&["run"]);
    assert_eq!(status, 78, "{text}");
    let place = device.config();
    assert!(text.contains(&format!("{}, line 2: HEARTBEAT_INTERVAL is \"soon\"", place.display())), "{text}");
}

#[test]
fn a_device_that_is_not_enrolled_says_how_to_enrol_it() {
    let (status, text) = Device::new("").run(&["run"]);
    assert_eq!(status, 78, "{text}");
    assert!(text.contains("not enrolled; run: r58-fleet-agent enroll URL"), "{text}");
}

#[test]
fn an_agent_that_is_switched_off_ends_well_and_says_why() {
    let (status, text) = Device::new("FLEET_ENABLED=no\n").run(&["run"]);
    assert_eq!(status, 0, "{text}");
    assert!(text.contains("FLEET_ENABLED is false"), "{text}");
}

#[test]
fn status_tells_a_running_agent_from_one_that_is_not_and_sigterm_ends_it_well() {
    let device = Device::enrolled();
    let (status, text) = device.run(&["status"]);
    assert_eq!(status, 3, "{text}");
    assert!(text.contains("The agent is not running"), "{text}");

    let mut agent =
        Running(device.command(&["run"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let text = wait_for("a status with an error", || {
        let (status, text) = device.run(&["status"]);
        (status == 4 && text.contains("refuses connections on port 1")).then_some(text)
    });
    assert!(text.contains("studio-1, organisation default"), "{text}");
    let (_, json) = device.run(&["status", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["running"], &json["pid"]), (&true.into(), &agent.0.id().into()));

    let (status, text) = device.run(&["run"]);
    assert_eq!(status, 1, "{text}");
    assert!(text.contains(&format!("another agent (process {}) runs on", agent.0.id())), "{text}");

    kill(Pid::from_raw(agent.0.id().cast_signed()), Signal::SIGTERM).unwrap();
    let ended = wait_for("the end", || agent.0.try_wait().unwrap());
    assert_eq!(ended.code(), Some(0));
    assert_eq!(device.run(&["status"]).0, 3);
}

#[test]
fn a_killed_agent_is_not_running_though_its_status_file_is_still_there() {
    let device = Device::enrolled();
    let mut agent =
        Running(device.command(&["run"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    wait_for("a status", || (device.run(&["status"]).0 == 4).then_some(()));
    wait_for("a status file", || device.folder.path().join("state/status.json").exists().then_some(()));
    agent.0.kill().unwrap();
    agent.0.wait().unwrap();
    assert!(device.folder.path().join("state/status.json").exists());
    assert_eq!(device.run(&["status"]).0, 3);
}

#[test]
fn a_key_from_standard_input_or_a_file_is_used_and_never_shown() {
    let device = Device::new("");
    let key_file = device.folder.path().join("key");
    fs::write(&key_file, "secret-key\n").unwrap();
    let server = "http://127.0.0.1:1";
    let from_file = device.run(&["enroll", server, "--key-file", key_file.to_str().unwrap()]);
    let piped = |arguments: &[&str]| {
        let mut child = device.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"secret-key\n").unwrap();
        said(child.wait_with_output().unwrap())
    };
    for (status, text) in [from_file, piped(&["enroll", server]), piped(&["enroll", server, "--key", "-"])] {
        assert_eq!(status, 1, "{text}");
        assert!(text.contains("refuses connections on port 1") && !text.contains("secret-key"), "{text}");
    }
    let (status, text) = device.run(&["enroll", server, "--key-file", "/no/key"]);
    assert_eq!(status, 1);
    assert!(text.contains("cannot read the enrolment key from /no/key"), "{text}");
    let (status, text) = device.run(&["enroll", server]);
    assert_eq!(status, 1);
    assert!(text.contains("the enrolment key is empty"), "{text}");
}

#[test]
fn version_needs_no_configuration() {
    let (status, text) = Device::new("nonsense").run(&["version"]);
    assert_eq!((status, text.starts_with("r58-fleet-agent 0.")), (0, true), "{text}");
}

#[test]
fn a_device_without_the_systems_authorities_is_told_what_to_install() {
    let device = Device::new("");
    let mut enroll = device.command(&["enroll", "https://127.0.0.1:1", "--key", "k"]);
    let (status, text) = said(enroll.env("SSL_CERT_FILE", "/no/certificates").output().unwrap());
    assert_eq!(status, 1, "{text}");
    assert!(
        text.contains("/no/certificates does not exist: install the package ca-certificates, or set CA_FILE"),
        "{text}"
    );
}
