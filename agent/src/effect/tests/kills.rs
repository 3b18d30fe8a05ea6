//! A process that changes files is killed at every place where it writes. It is this test program, started once more.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use protocol::failpoint::VARIABLE;
use serde_json::json;

use super::fake::*;
use super::rotation::{Device, OLD, command};
use crate::config::{Config, FILE_FAILPOINTS};
use crate::effect::rotation::{FAILPOINTS, Rotation, Standing};
use crate::effect::*;

/// Names the file of the device that the started process works on.
const DEVICE: &str = "R58_TEST_DEVICE";
/// And what it does.
const WORK: &str = "R58_TEST_WORK";

/// What the started process does; nothing in an ordinary run of the tests.
#[test]
fn the_process_that_is_killed() {
    let Some(file) = std::env::var_os(DEVICE).map(PathBuf::from) else { return };
    match std::env::var(WORK).unwrap().as_str() {
        "change" => {
            let (prepared, observed) = change(&file);
            assert!(matches!(prepared.run(&observed, LONG, &context()), Outcome::Completed(_)));
        }
        "rotate" => rotate(&Rotation::of(&Config::load(Some(&file)).unwrap()).unwrap()),
        "fall back" => fall_back(&Rotation::of(&Config::load(Some(&file)).unwrap()).unwrap()),
        other => panic!("{other}"),
    }
}

fn change(file: &Path) -> (Prepared, Observed) {
    let payload = json!({"changes": {"HEARTBEAT_INTERVAL": 7, "R58_DEBUG": "on"}});
    let payload = Payload::parse("config".parse().unwrap(), &payload).unwrap();
    let prepared = prepare(payload, &Config::load(Some(file)).unwrap()).unwrap();
    let observed = prepared.observe(&kernel());
    (prepared, observed)
}

fn rotate(files: &Rotation) {
    files.make(&command()).unwrap();
    files.switch().unwrap();
    files.confirm().unwrap();
}

fn fall_back(files: &Rotation) {
    files.make(&command()).unwrap();
    files.switch().unwrap();
    files.fall_back().unwrap();
}

fn process(work: &str, file: &Path, failpoint: &str) -> ExitStatus {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "effect::tests::kills::the_process_that_is_killed"])
        .env(DEVICE, file)
        .env(WORK, work)
        .env(VARIABLE, failpoint)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap()
}

/// Kills the work at each place, each time that it comes by there; `check` looks at what is left.
fn kill_everywhere(work: &str, failpoints: &[&str], mut check: impl FnMut(&str, &Device)) {
    for name in failpoints {
        for time in 1.. {
            let place = format!("{name}#{time}");
            let device = Device::new();
            let status = process(work, &device.path("fleet.conf"), &place);
            if status.success() {
                assert!(time > 1, "{work} never comes by {name}");
                break;
            }
            assert_eq!(status.signal(), Some(6), "{place}: {status}");
            check(&place, &device);
        }
    }
}

#[test]
fn a_change_that_is_cut_off_leaves_the_old_file_or_the_new_one() {
    let mut seen = BTreeSet::new();
    kill_everywhere("change", &FILE_FAILPOINTS, |place, device| {
        let file = device.path("fleet.conf");
        let fresh = Device::new();
        let state = |text: String| {
            text.replace(&fresh.path("").display().to_string(), "")
                .replace(&device.path("").display().to_string(), "")
        };
        let old = state(fs::read_to_string(fresh.path("fleet.conf")).unwrap());
        let (_, noted) = change(&fresh.path("fleet.conf"));
        let noted = Observed::from_text(
            &noted
                .to_text()
                .replace(&fresh.path("").display().to_string(), &device.path("").display().to_string()),
        )
        .unwrap();
        assert!(matches!(process("change", &fresh.path("fleet.conf"), "").code(), Some(0)));
        let new = state(fs::read_to_string(fresh.path("fleet.conf")).unwrap());
        let found = state(fs::read_to_string(&file).unwrap());
        let probed = noted.probe(&kernel());
        if found == old {
            assert_eq!(probed, Probed::NotDone, "{place}");
        } else {
            assert_eq!(found, new, "{place}");
            assert!(matches!(probed, Probed::Done(_)), "{place}: {probed:?}");
        }
        seen.insert(found == old);
        // Nothing that was left behind is in the way.
        assert!(process("change", &file, "").success(), "{place}");
        assert_eq!(state(fs::read_to_string(&file).unwrap()), new, "{place}");
    });
    assert_eq!(seen.len(), 2, "both were met");
}

#[test]
fn a_rotation_that_is_cut_off_can_always_go_on() {
    let places: Vec<_> = FILE_FAILPOINTS
        .iter()
        .chain(&FAILPOINTS)
        .filter(|name| !name.ends_with("fallen-back"))
        .copied()
        .collect();
    kill_everywhere("rotate", &places, |place, device| {
        let files = device.files();
        let standing = files.standing().unwrap();
        let used = device.token();
        let known = match &standing {
            Standing::Nothing | Standing::Made(_) => {
                assert_eq!(used, OLD, "{place}");
                None
            }
            Standing::Switched(made) => {
                assert_eq!(device.previous().unwrap().trim(), OLD, "{place}");
                Some(made.clone())
            }
        };
        let made = files.make(&command()).unwrap();
        match standing {
            // Its hash may be known to the server already.
            Standing::Made(before) => assert_eq!(before, made, "{place}"),
            _ => assert!(known.is_none_or(|known| known == made), "{place}"),
        }
        rotate(&files);
        assert_eq!(files.standing().unwrap(), Standing::Nothing, "{place}");
        assert_ne!(device.token(), OLD, "{place}");
        assert_eq!(device.previous().unwrap().trim(), OLD, "{place}");
    });
}

#[test]
fn a_rotation_that_is_cut_off_can_always_go_back() {
    let places: Vec<_> = FILE_FAILPOINTS.iter().chain(&FAILPOINTS).copied().collect();
    kill_everywhere("fall back", &places, |place, device| {
        device.files().fall_back().unwrap();
        assert_eq!(device.files().standing().unwrap(), Standing::Nothing, "{place}");
        assert_eq!(device.token(), OLD, "{place}");
    });
}
