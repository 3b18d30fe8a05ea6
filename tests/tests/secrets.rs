//! Where secrets are while everything runs, and where they are not: command lines, logs, files that others may read, the
//! database, core dumps.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use end_to_end::{ADMIN_PASSWORD, Agent, Server, Signal, program, wait_for};
use serde_json::json;

const SOON: Duration = Duration::from_secs(60);

/// Every file below a folder.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let all = entries.map(|entry| entry.unwrap().path());
    all.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

fn holds(content: &[u8], secret: &str) -> bool {
    content.windows(secret.len()).any(|part| part == secret.as_bytes())
}

#[test]
fn secrets_are_on_no_command_line_in_no_log_and_on_no_disk_but_where_they_are_needed() {
    let mut server = Server::start_with(&[("FLEET_LOG", "trace")]);
    let enrolment_key = server.enrollment_key();
    let mut agent = Agent::unenrolled("studio-001").with("RUST_LOG", "trace");
    let arguments = ["enroll", &server.url(), "--key", "-", "--device-id", "studio-001"];
    let output = agent.run(&arguments, &enrolment_key);
    assert!(output.status.success());
    let told = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    agent.start();
    let api = server.api();
    wait_for("heartbeats", SOON, || (api.heartbeat_seqs("studio-001").len() >= 2).then_some(()));
    let new_password = "a tractor under quiet lamps";
    let person =
        json!({"email": "eve@example.com", "name": "Eve", "role": "viewer", "password": new_password});
    assert_eq!(api.post("/users", &person).0, 201);
    let (_, made) = api.post("/api-keys", &json!({"name": "a tool"}));
    let api_key = made["key"].as_str().unwrap().to_owned();
    let _watcher = server.watch("fleet/v1/default/view/+");

    let config = fs::read_to_string(agent.config_file()).unwrap();
    let token = config
        .lines()
        .find_map(|line| line.strip_prefix("DEVICE_TOKEN="))
        .unwrap()
        .trim_matches('"')
        .to_owned();
    assert_eq!(token.len(), 64);
    let signing_key = fs::read_to_string(server.data_dir().join("jwt-secret")).unwrap().trim().to_owned();
    let secrets = [ADMIN_PASSWORD, new_password, &enrolment_key, &api_key, &token, &signing_key];

    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let is_ours = [b"fleetd".as_slice(), b"r58-fleet"]
            .iter()
            .any(|name| line.windows(name.len()).any(|part| part == *name));
        assert!(
            !is_ours || !secrets.iter().any(|secret| holds(&line, secret)),
            "{}",
            String::from_utf8_lossy(&line)
        );
    }
    assert!(agent.stop().success());
    assert!(server.stop().success());
    for (log, word) in [(server.log(), "HTTP request"), (agent.log(), "connected"), (told, "studio-001")] {
        assert!(log.contains(word), "the log is not talkative: {log}");
        assert!(!secrets.iter().any(|secret| log.contains(secret)), "a secret is in a log");
    }
    let allowed = [(agent.config_file(), &token), (server.data_dir().join("jwt-secret"), &signing_key)];
    let folders = [server.folder().to_owned(), agent.config_file().parent().unwrap().to_owned()];
    let all: Vec<_> = folders.iter().flat_map(|folder| files_below(folder)).collect();
    assert!(
        all.iter().any(|path| path.ends_with("fleet.db"))
            && all.iter().any(|path| path.ends_with("state.db"))
    );
    for path in all {
        let content = fs::read(&path).unwrap();
        for secret in secrets {
            let may = allowed.iter().any(|(place, its)| *place == path && its.as_str() == secret);
            assert!(may || !holds(&content, secret), "a secret is in {}", path.display());
        }
    }
    for (place, _) in allowed {
        assert_eq!(fs::metadata(&place).unwrap().permissions().mode() & 0o777, 0o600, "{}", place.display());
    }
}

/// How a program ends that is told to abort, where core dumps are allowed: whether it left one.
fn leaves_core(
    program: &Path,
    arguments: &[&str],
    environment: &[(&str, &Path)],
    has_begun: impl Fn() -> bool,
) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new("sh")
        .args(["-c", "ulimit -c unlimited && exec \"$0\" \"$@\""])
        .arg(program)
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .envs(environment.iter().copied())
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the program", SOON, || has_begun().then_some(()));
    let process = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(process, Signal::SIGABRT).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), Some(Signal::SIGABRT as i32), "{status}");
    status.core_dumped()
        || files_below(folder.path()).iter().any(|path| path.to_string_lossy().contains("core"))
}

#[test]
fn a_program_that_dies_leaves_no_core_dump() {
    let sleeping = || {
        std::thread::sleep(Duration::from_millis(300));
        true
    };
    if !leaves_core(Path::new("/bin/sleep"), &["60"], &[], sleeping) {
        eprintln!("this system writes no core dumps at all");
    }
    let data = tempfile::tempdir().unwrap();
    let folder = data.path().to_owned();
    let listens = move || folder.join("addresses.json").exists();
    let anywhere = Path::new("127.0.0.1:0");
    let environment =
        [("FLEET_DATA_DIR", data.path()), ("FLEET_HTTP_LISTEN", anywhere), ("FLEET_MQTT_LISTEN", anywhere)];
    assert!(!leaves_core(&program("fleetd"), &["serve"], &environment, listens));

    let state = tempfile::tempdir().unwrap();
    let config = state.path().join("fleet.conf");
    let token = "7".repeat(64);
    let text = format!("FLEET_URL=http://127.0.0.1:9\nDEVICE_ID=studio-001\nDEVICE_TOKEN={token}\n");
    fs::write(&config, text).unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    let environment = [("STATE_DIR", state.path()), ("RUNTIME_DIRECTORY", state.path())];
    let folder = state.path().to_owned();
    let runs = move || folder.join("db/state.db").exists();
    let arguments = ["run", "--config", config.to_str().unwrap()];
    assert!(!leaves_core(&program("r58-fleet-agent"), &arguments, &environment, runs));
}
