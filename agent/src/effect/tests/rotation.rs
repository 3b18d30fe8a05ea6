//! The files of `rotate_token`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::fake::*;
use crate::config::{Config, Key};
use crate::effect::rotation::*;
use crate::effect::*;

pub(super) const OLD: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

pub(super) struct Device {
    folder: tempfile::TempDir,
}

impl Device {
    pub(super) fn new() -> Self {
        let device = Self { folder: tempfile::tempdir().unwrap() };
        let state = device.path("state");
        fs::create_dir(&state).unwrap();
        let text =
            format!("# Studio 1\nDEVICE_TOKEN={OLD} # secret\nSTATE_DIR={}\nR58_DEBUG=1\n", state.display());
        fs::write(device.path("fleet.conf"), text).unwrap();
        device
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn config(&self) -> Config {
        Config::load(Some(&self.path("fleet.conf"))).unwrap()
    }

    pub(super) fn files(&self) -> Rotation {
        Rotation::of(&self.config()).unwrap()
    }

    pub(super) fn token(&self) -> String {
        self.config().device_token.unwrap().expose().to_owned()
    }

    pub(super) fn previous(&self) -> Option<String> {
        fs::read_to_string(self.path("state/token-previous")).ok()
    }

    fn prepare(&self) -> Prepared {
        prepare(Payload::RotateToken, &self.config()).unwrap()
    }
}

pub(super) fn command() -> CommandId {
    "c-1".parse().unwrap()
}

#[test]
fn a_rotation_goes_from_the_old_token_to_the_new_one_step_by_step() {
    let device = Device::new();
    let files = device.files();
    assert_eq!(files.standing().unwrap(), Standing::Nothing);
    let prepared = device.prepare();
    assert!(!prepared.is_disruptive());
    let observed = from_journal(&prepared.observe(&kernel()));
    assert_eq!(observed.probe(&kernel()), Probed::NotDone);
    let Outcome::TokenMade(made) = prepared.run(&observed, LONG, &context()) else { panic!() };
    assert_eq!(files.standing().unwrap(), Standing::Made(made.clone()));
    assert_eq!((device.token().as_str(), device.previous()), (OLD, None));
    assert_eq!(observed.probe(&kernel()), Probed::StillGoing);
    // The same command once more makes no other token.
    assert_eq!(prepared.run(&observed, LONG, &context()), Outcome::TokenMade(made.clone()));

    files.switch().unwrap();
    assert_eq!(files.standing().unwrap(), Standing::Switched(made.clone()));
    let new = device.token();
    assert!(new != OLD && new.len() == 64);
    assert_eq!(made.sha256[..], Sha256::digest(&new)[..]);
    files.switch().unwrap();
    assert_eq!(device.previous().unwrap().trim(), OLD);
    for name in ["state/token-next", "state/token-previous"] {
        assert_eq!(fs::metadata(device.path(name)).unwrap().mode() & 0o777, 0o600, "{name}");
    }

    files.confirm().unwrap();
    files.confirm().unwrap();
    assert_eq!(files.standing().unwrap(), Standing::Nothing);
    assert_eq!(device.token(), new);
    assert!(matches!(observed.probe(&kernel()), Probed::Done(_)));
    let text = fs::read_to_string(device.path("fleet.conf")).unwrap();
    assert!(text.starts_with("# Studio 1\n") && text.contains(" # secret\n"), "{text}");
}

#[test]
fn a_token_that_is_refused_gives_way_to_the_one_before() {
    let device = Device::new();
    let files = device.files();
    files.make(&command()).unwrap();
    files.switch().unwrap();
    files.fall_back().unwrap();
    assert_eq!((device.token().as_str(), files.standing().unwrap()), (OLD, Standing::Nothing));
    files.fall_back().unwrap();
    // Before the switch there is nothing to put back.
    files.make(&command()).unwrap();
    files.fall_back().unwrap();
    assert_eq!((device.token().as_str(), files.standing().unwrap()), (OLD, Standing::Nothing));
    assert!(matches!(files.switch(), Err(RotationError::Missing(_))));
}

#[test]
fn what_a_rotation_has_left_behind_does_not_hold_up_the_next() {
    let device = Device::new();
    let files = device.files();
    let first = files.make(&command()).unwrap();
    let second = files.make(&"c-2".parse().unwrap()).unwrap();
    assert_ne!(first.sha256, second.sha256);
    files.switch().unwrap();
    // The end of the second was never written down; its token is in use.
    let used = device.token();
    files.make(&"c-3".parse().unwrap()).unwrap();
    assert_eq!(device.token(), used);
    files.switch().unwrap();
    assert_eq!(device.previous().unwrap().trim(), used);
}

#[test]
fn a_damaged_file_counts_as_none() {
    let device = Device::new();
    let files = device.files();
    for damage in [&b""[..], b"c-1\n", b"c-1\n1234\n", b"c-1\n\xff\xfe\n", b"../x y\n0\n", &[b'x'; 5000]] {
        fs::write(device.path("state/token-next"), damage).unwrap();
        assert_eq!(files.standing().unwrap(), Standing::Nothing);
    }
    files.make(&command()).unwrap();
    assert!(matches!(files.standing().unwrap(), Standing::Made(_)));
}

#[test]
fn a_token_that_cannot_be_changed_in_the_file_is_not_rotated() {
    let device = Device::new();
    let refusal = |config: &Config| prepare(Payload::RotateToken, config).unwrap_err().to_string();
    let path = device.path("fleet.conf");
    let environment = [(Key::DeviceToken, OLD.to_owned())];
    let config = Config::from_parts(Some((&path, "")), &environment, "box").unwrap();
    assert!(refusal(&config).contains("environment"));
    let config = Config::from_parts(Some((&path, "")), &[], "box").unwrap();
    assert!(refusal(&config).contains("has no token"));
    let mut config = device.config();
    config.file = None;
    assert!(refusal(&config).contains("no fleet.conf"));
}

#[test]
fn no_token_is_shown_by_debug_or_written_to_the_journal() {
    let device = Device::new();
    let files = device.files();
    let prepared = device.prepare();
    let observed = prepared.observe(&kernel());
    let outcome = prepared.run(&observed, LONG, &context());
    files.switch().unwrap();
    let new = device.token();
    let error = RotationError::Missing("x".to_owned());
    let standing = files.standing().unwrap();
    let shown = format!("{prepared:?} {observed:?} {outcome:?} {files:?} {error:?} {standing:?}");
    let shown = shown + &observed.to_text() + &json!(observed.to_text()).to_string();
    assert!(!shown.contains(OLD) && !shown.contains(&new));
}
