#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::child::new_mark;

/// A folder whose `systemctl` is `script`.
fn with(script: &str) -> (tempfile::TempDir, Systemd) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("systemctl");
    fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", folder.path().display());
    (folder, Systemd::on_path(path))
}

#[test]
fn what_systemctl_shows_is_read() {
    let (_folder, systemd) = with(
        "echo LoadState=loaded; echo ActiveState=active; echo SubState=running; echo Type=notify; \
         echo Result=success; echo InvocationID=0123456789abcdef0123456789abcdef; \
         echo ActiveEnterTimestampMonotonic=1234; echo Job=77",
    );
    let unit = systemd.unit("a.service").unwrap();
    assert_eq!(
        (unit.load.as_str(), unit.active.as_str(), unit.sub.as_str()),
        ("loaded", "active", "running")
    );
    assert_eq!((unit.kind.as_str(), unit.result.as_str()), ("notify", "success"));
    assert_eq!(unit.invocation.as_deref(), Some("0123456789abcdef0123456789abcdef"));
    assert_eq!((unit.active_since_us, unit.has_job), (Some(1234), true));
    let (_folder, systemd) = with("echo InvocationID=; echo ActiveEnterTimestampMonotonic=0");
    assert_eq!(systemd.unit("a.service").unwrap(), Unit::default());
}

#[test]
fn the_calls_are_the_documented_ones() {
    let (folder, systemd) = with("echo \"$@\" >> \"$(dirname \"$0\")/calls\"");
    let limit = Duration::from_secs(30);
    systemd.unit("a.service").unwrap();
    systemd.restart("a.service", false, limit, &new_mark()).unwrap();
    systemd.restart("a.service", true, limit, &new_mark()).unwrap();
    systemd.reboot(limit, &new_mark()).unwrap();
    systemd.is_stopping().unwrap();
    let calls = fs::read_to_string(folder.path().join("calls")).unwrap();
    let calls: Vec<_> = calls.lines().collect();
    assert!(calls[0].starts_with("show --property=LoadState ") && calls[0].ends_with(" -- a.service"));
    assert_eq!(
        calls[1..],
        [
            "--no-ask-password restart -- a.service",
            "--no-ask-password --no-block restart -- a.service",
            "--no-ask-password reboot",
            "is-system-running"
        ]
    );
}

#[test]
fn a_refusal_is_told_in_systemds_words_and_a_signal_is_none() {
    let limit = Duration::from_secs(30);
    let (_folder, systemd) = with("echo 'Unit a.service not found.' >&2; exit 5");
    let refused = SystemdError::Refused("Unit a.service not found.".to_owned());
    assert_eq!(systemd.restart("a.service", false, limit, &new_mark()), Err(refused));
    let (_folder, systemd) = with("kill -TERM $$");
    assert_eq!(systemd.restart("a.service", false, limit, &new_mark()), Err(SystemdError::Interrupted));
    let (_folder, systemd) = with("exec sleep 600");
    let limit = Duration::from_millis(100);
    assert_eq!(systemd.restart("a.service", false, limit, &new_mark()), Err(SystemdError::TimedOut(limit)));
}

#[test]
fn a_machine_that_goes_down_says_so_with_an_exit_code_that_does_not_count() {
    assert_eq!(with("echo stopping; exit 1").1.is_stopping(), Ok(true));
    assert_eq!(with("echo degraded; exit 1").1.is_stopping(), Ok(false));
}

/// Run in a system with a real systemd, with the name of a unit that may be restarted in `R58_FLEET_TEST_UNIT`; nothing
/// without it.
#[test]
fn a_real_systemd_does_the_same_over_d_bus() {
    let Ok(name) = std::env::var("R58_FLEET_TEST_UNIT") else { return };
    let systemd = Systemd::on_path("/nonexistent");
    let before = systemd.unit(&name).unwrap();
    assert_eq!((before.load.as_str(), before.active.as_str()), ("loaded", "active"), "{before:?}");
    assert_eq!(before.invocation.as_ref().map(String::len), Some(32));
    assert!(before.active_since_us.is_some() && !before.kind.is_empty() && !before.sub.is_empty());
    systemd.restart(&name, false, PATIENCE, &new_mark()).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    let after = loop {
        let unit = systemd.unit(&name).unwrap();
        if !unit.has_job && unit.active == "active" && unit.invocation != before.invocation {
            break unit;
        }
        assert!(std::time::Instant::now() < deadline, "{unit:?}");
    };
    assert!(after.active_since_us > before.active_since_us);
    assert_eq!(systemd.is_stopping(), Ok(false));
    assert_eq!(systemd.unit("no-such-unit.service").unwrap().load, "not-found");
    let refused = systemd.restart("no-such-unit.service", false, PATIENCE, &new_mark()).unwrap_err();
    assert_eq!(refused.to_string(), "Unit no-such-unit.service not found.");
}
