//! `config`, and the config part of what the server wants.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::thread;

use serde_json::json;

use super::fake::*;
use crate::config::{self, Config};
use crate::effect::*;

const TEXT: &str = "# Studio 1\nexport HEARTBEAT_INTERVAL = '60'  # every minute\n\nDEVICE_ID=studio-001\n\
                    ; the last\nR58_DEBUG=no\nALLOWED_CONFIG_KEYS=HEARTBEAT_INTERVAL,R58_DEBUG,R58_NEW,APP_UNIT,\
                    DEVICE_TOKEN,CLIENT_KEY,ALLOWED_SERVICES,ALLOWED_CONFIG_KEYS,SCRIPTS_DIR\n";

struct Device {
    folder: tempfile::TempDir,
}

impl Device {
    fn new() -> Self {
        let device = Self { folder: tempfile::tempdir().unwrap() };
        fs::write(device.file(), TEXT).unwrap();
        device
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("fleet.conf")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.file()).unwrap()
    }

    fn config(&self) -> Config {
        Config::load(Some(&self.file())).unwrap()
    }

    fn prepare(&self, changes: Value) -> Result<Prepared, Refusal> {
        let payload = json!({ "changes": changes });
        prepare(Payload::parse("config".parse().unwrap(), &payload).unwrap(), &self.config())
    }

    fn refusal(&self, changes: Value) -> String {
        let refusal = self.prepare(changes).unwrap_err().to_string();
        assert_eq!(self.text(), TEXT);
        refusal
    }
}

fn wanted(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn keys_are_changed_and_comments_order_mode_and_everything_else_stay() {
    let device = Device::new();
    fs::set_permissions(device.file(), fs::Permissions::from_mode(0o640)).unwrap();
    let prepared =
        device.prepare(json!({"HEARTBEAT_INTERVAL": 5, "R58_DEBUG": true, "R58_NEW": "a b"})).unwrap();
    assert!(!prepared.is_disruptive());
    let observed = from_journal(&prepared.observe(&kernel()));
    assert_eq!(observed.probe(&kernel()), Probed::NotDone);
    let Outcome::Completed(result) = prepared.run(&observed, LONG, &context()) else { panic!() };
    assert_eq!(result["changed"], json!(["HEARTBEAT_INTERVAL", "R58_DEBUG", "R58_NEW"]));
    let expected = TEXT.replace("'60'", "5").replace("DEBUG=no", "DEBUG=true") + "R58_NEW=\"a b\"\n";
    assert_eq!(device.text(), expected);
    assert_eq!(fs::metadata(device.file()).unwrap().mode() & 0o777, 0o640);
    assert_eq!(device.config().heartbeat_interval_seconds, 5);
    assert_eq!(observed.probe(&kernel()), Probed::Done(result));
}

#[test]
fn a_value_that_is_there_already_changes_nothing() {
    let device = Device::new();
    let inode = fs::metadata(device.file()).unwrap().ino();
    let prepared = device.prepare(json!({"HEARTBEAT_INTERVAL": "60"})).unwrap();
    let Outcome::Completed(result) = prepared.run(&prepared.observe(&kernel()), LONG, &context()) else {
        panic!()
    };
    assert_eq!(result["changed"], json!([]));
    assert_eq!((device.text().as_str(), fs::metadata(device.file()).unwrap().ino()), (TEXT, inode));
}

#[test]
fn a_key_that_is_not_listed_is_refused_and_some_are_even_if_they_are() {
    let device = Device::new();
    let refusal = device.refusal(json!({"HEARTBEAT_INTERVAL": 5, "FLEET_URL": "https://evil.example"}));
    assert!(
        refusal.starts_with("not allowed: FLEET_URL is not in this device's ALLOWED_CONFIG_KEYS (HEARTBEAT_")
    );
    for key in ["DEVICE_TOKEN", "CLIENT_KEY", "ALLOWED_SERVICES", "ALLOWED_CONFIG_KEYS", "SCRIPTS_DIR"] {
        let refusal = device.refusal(json!({ key: "x" }));
        assert_eq!(
            refusal,
            format!("not allowed: {key} is never changed from afar; change it on the device")
        );
    }
    for key in ["heartbeat_interval", "HEARTBEAT_INTERVAL ", "A=B", "", "#A", "R58_DEBUG\u{a0}"] {
        assert!(device.refusal(json!({ key: "1" })).starts_with("not allowed: "), "{key}");
    }
}

#[test]
fn a_bad_value_is_refused_with_file_key_and_what_is_expected() {
    let device = Device::new();
    let refusal = device.refusal(json!({"R58_DEBUG": "yes", "HEARTBEAT_INTERVAL": "soon"}));
    assert_eq!(
        refusal,
        format!(
            "invalid: {}, line 2: HEARTBEAT_INTERVAL is \"soon\"; expected a whole number of seconds, 1 or more",
            device.file().display()
        )
    );
    for value in ["0", "-1", "", "1 # x", "60\u{2028}"] {
        assert!(device.refusal(json!({"HEARTBEAT_INTERVAL": value})).starts_with("invalid: "), "{value:?}");
    }
    assert!(device.refusal(json!({"APP_UNIT": "--now"})).contains("APP_UNIT"));
}

#[test]
fn a_file_that_is_broken_already_is_not_made_worse() {
    let device = Device::new();
    let prepared = device.prepare(json!({"R58_DEBUG": "yes"})).unwrap();
    let observed = prepared.observe(&kernel());
    fs::write(device.file(), "no assignment\nR58_DEBUG=no\n").unwrap();
    let Outcome::Failed { error, .. } = prepared.run(&observed, LONG, &context()) else { panic!() };
    assert!(error.contains("line 1: this is neither KEY=VALUE nor a comment"), "{error}");
    fs::remove_file(device.file()).unwrap();
    let Outcome::Failed { error, .. } = prepared.run(&observed, LONG, &context()) else { panic!() };
    assert!(error.contains("does not exist"), "{error}");
    assert!(!device.file().exists());
    assert!(matches!(observed.probe(&kernel()), Probed::Unknown(_)));
}

#[test]
fn a_file_with_ten_thousand_mistakes_is_told_of_in_a_few_words() {
    let device = Device::new();
    let config = device.config();
    fs::write(device.file(), "no assignment\n".repeat(10_000)).unwrap();
    let payload = Payload::parse("config".parse().unwrap(), &json!({"changes": {"R58_DEBUG": "1"}})).unwrap();
    let refusal = prepare(payload, &config).unwrap_err().to_string();
    assert!(refusal.len() < 1100, "{}", refusal.len());
    let errors = apply_config(&wanted(&[("R58_DEBUG", "1")]), &config);
    assert!(errors["R58_DEBUG"].len() < 1100);
}

#[test]
fn a_file_that_somebody_else_has_changed_since_is_not_guessed_at() {
    let device = Device::new();
    let observed =
        device.prepare(json!({"HEARTBEAT_INTERVAL": 5, "R58_DEBUG": 1})).unwrap().observe(&kernel());
    fs::write(device.file(), TEXT.replace("'60'", "5")).unwrap();
    assert!(matches!(observed.probe(&kernel()), Probed::Unknown(_)));
}

#[test]
fn a_device_without_a_file_says_so() {
    let mut config = config("");
    config.file = None;
    let payload = Payload::parse("config".parse().unwrap(), &json!({"changes": {"R58_DEBUG": "1"}})).unwrap();
    assert!(prepare(payload, &config).unwrap_err().to_string().contains("no fleet.conf"));
    let errors = apply_config(&wanted(&[("R58_DEBUG", "1")]), &config);
    assert!(errors["R58_DEBUG"].contains("no fleet.conf"));
}

#[test]
fn what_the_server_wants_is_applied_as_far_as_it_is_right() {
    let device = Device::new();
    let keys =
        [("HEARTBEAT_INTERVAL", "0"), ("R58_DEBUG", "1"), ("APP_UNIT", "my-app"), ("MQTT_URL", "mqtt://x")];
    let errors = apply_config(&wanted(&keys), &device.config());
    assert_eq!(errors.keys().collect::<Vec<_>>(), ["HEARTBEAT_INTERVAL", "MQTT_URL"]);
    assert!(errors["HEARTBEAT_INTERVAL"].ends_with("expected a whole number of seconds, 1 or more"));
    assert!(errors["MQTT_URL"].contains("ALLOWED_CONFIG_KEYS"));
    let config = device.config();
    assert_eq!((config.heartbeat_interval_seconds, config.app_unit.as_str()), (60, "my-app"));
    assert!(device.text().contains("\nR58_DEBUG=1\n"));
    // Once more, and nothing is written.
    let inode = fs::metadata(device.file()).unwrap().ino();
    assert_eq!(apply_config(&wanted(&keys), &config), errors);
    assert_eq!(fs::metadata(device.file()).unwrap().ino(), inode);
    assert_eq!(apply_config(&BTreeMap::new(), &config), BTreeMap::new());
}

#[test]
fn changes_at_the_same_time_lose_nothing() {
    let device = Device::new();
    let config = device.config();
    thread::scope(|scope| {
        for key in ["R58_DEBUG", "R58_NEW"] {
            let config = &config;
            scope.spawn(move || {
                for round in 0..20 {
                    let errors = apply_config(&wanted(&[(key, &round.to_string())]), config);
                    assert_eq!(errors, BTreeMap::new());
                }
            });
        }
        scope.spawn(|| {
            for round in 60..80_u32 {
                let value = round.to_string();
                config::update_file(&device.file(), "", &[("HEARTBEAT_INTERVAL", &value)]).unwrap();
            }
        });
    });
    let text = device.text();
    for line in ["R58_DEBUG=19", "R58_NEW=19", "HEARTBEAT_INTERVAL = 79 "] {
        assert!(text.contains(line), "{line}: {text}");
    }
}
