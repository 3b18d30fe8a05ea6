//! The program as a person runs it, beside a running server.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use super::{PASSWORD, Server};

/// The program on the data of a running server, its output piped.
pub fn command(server: &Server, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fleetd"));
    command
        .args(arguments)
        .env_clear()
        .env("FLEET_DATA_DIR", server.folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs it to its end.
pub fn fleetd(server: &Server, arguments: &[&str], input: &str) -> Output {
    let mut child = command(server, arguments).spawn().unwrap();
    // A command that reads nothing may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// Gives the standard output of a run that went well.
#[track_caller]
pub fn succeeds(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Fails unless the run failed, with this reason and without a secret.
#[track_caller]
pub fn fails(output: &Output, with: &str) {
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains(with), "{told}");
    assert!(!told.contains("panicked") && !told.contains(PASSWORD), "{told}");
}
