//! The file, its errors, and the environment over it.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use super::*;

fn resolve(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
    let variable = |name: &str| {
        environment.iter().find(|(variable, _)| *variable == name).map(|(_, value)| (*value).to_owned())
    };
    Config::resolve(Path::new("/etc/b.toml"), text, variable).map_err(|error| error.to_string())
}

fn example() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/fleet-broker.toml");
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn the_example_is_valid_and_shows_every_key_with_its_default() {
    let defaults = format!("{:?}", resolve("", &[]).unwrap());
    assert_eq!(format!("{:?}", resolve(&example(), &[]).unwrap()), defaults);
    let shown: String = example()
        .lines()
        .map(|line| {
            line.strip_prefix('#')
                .filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
                .unwrap_or(line)
        })
        .map(|line| format!("{line}\n"))
        .collect();
    for Key { variable, key, .. } in KEYS {
        let name = key.rsplit('.').next().unwrap();
        assert!(shown.lines().any(|line| line.starts_with(&format!("{name} = "))), "{key} is missing");
        assert!(shown.contains(variable), "{variable} is missing");
    }
    // The proxies are an example; nothing else differs.
    let shown = resolve(&shown, &[("FLEET_TRUSTED_PROXIES", "")]).unwrap();
    assert_eq!(format!("{shown:?}"), defaults);
}

#[test]
fn the_credentials_example_is_valid() {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../config/fleet-broker-credentials.toml"));
    let text = std::fs::read_to_string(path).unwrap();
    let credentials = crate::credentials::Credentials::parse(path, &text).unwrap();
    assert_eq!(credentials.counts(), (1, 2, 1));
    assert!(credentials.find("anna@example.org").is_some());
}

#[test]
fn every_key_can_be_set_by_its_variable_and_the_variable_wins() {
    for Key { variable, key, kind } in KEYS {
        let (in_file, in_variable) = match (*key, kind) {
            ("listen", _) => ("\"127.0.0.1:1\"", "127.0.0.1:2"),
            ("log", _) => ("\"warn\"", "debug"),
            (_, Kind::Text | Kind::TrimmedText) => ("\"/one\"", "/two"),
            (_, Kind::Switch) => ("false", "1"),
            (_, Kind::List) => ("[\"10.0.0.1\"]", "10.0.0.2, 10.1.0.0/16"),
            (
                "limits.packet_bytes"
                | "limits.queued_bytes"
                | "limits.device_queued_bytes"
                | "limits.account_bytes"
                | "limits.retained_bytes",
                _,
            ) => ("16384", "32768"),
            (_, Kind::Number) => ("7", "8"),
        };
        let file = match key.split_once('.') {
            Some((table, name)) => format!("[{table}]\n{name} = {in_file}\n"),
            None => format!("{key} = {in_file}\n"),
        };
        let alone = format!("{:?}", resolve("", &[(variable, in_variable)]).unwrap());
        let both = format!("{:?}", resolve(&file, &[(variable, in_variable)]).unwrap());
        let by_file = format!("{:?}", resolve(&file, &[]).unwrap());
        assert_eq!(alone, both, "{variable} wins over {key}");
        assert_ne!(both, by_file, "{variable} and {key} set the same thing");
    }
}

#[test]
fn values_land_where_they_belong() {
    let text =
        "listen = \"[::]:1884\"\nallow_plaintext = true\n[limits]\nhandshake_seconds = 3\nfailures = 5\n";
    let config = resolve(text, &[("FLEET_DEVICE_MESSAGES_PER_SECOND", "0")]).unwrap();
    assert_eq!(config.listen, "[::]:1884".parse().unwrap());
    assert!(config.plaintext.allow_all);
    assert_eq!(config.limits.handshake_time, Duration::from_secs(3));
    assert_eq!((config.limits.failures, config.limits.device_messages_per_second), (5, 0));
    assert_eq!(config.limits.sessions, Limits::default().sessions);
}

#[test]
fn every_mistake_names_file_line_and_key_or_the_variable() {
    for (text, expected) in [
        (
            "\nlisen = \"127.0.0.1:1\"\n",
            "/etc/b.toml, line 2, key lisen: unknown field `lisen`, expected one of `listen`",
        ),
        ("listen = \"1883\"", "line 1, key listen: invalid socket address syntax"),
        ("listen = 1883", "line 1, key listen: an integer stands here, expected"),
        ("log = \"inof\"", "line 1, key log: \"inof\" is no log filter"),
        ("log = \"broker=loud\"", "line 1, key log: \"broker=loud\" is no log filter"),
        (
            "trusted_proxies = [\n\"10.0.0.0/8\",\n\"venue\"]",
            "line 1, key trusted_proxies: \"venue\" is not an IP address",
        ),
        ("[limits]\nfailures = 0", "line 2, key failures: 0 is out of range, expected 1 to 1000000"),
        ("[limits]\npacket_bytes = -1", "line 2, key packet_bytes: -1 is out of range"),
        ("[limits]\nfailure = 3", "line 2, key failure: unknown field `failure`"),
        ("[limit]\nfailures = 3", "line 1, key [limit]: unknown field `limit`"),
        ("listen = ", "/etc/b.toml, line 1, key listen: "),
    ] {
        let error = resolve(text, &[]).unwrap_err();
        assert!(error.contains(expected), "{error}\nexpected: {expected}");
    }
    for (variable, value, expected) in [
        (
            "FLEET_MQTT_LISTEN",
            "1883",
            "environment variable FLEET_MQTT_LISTEN: invalid socket address syntax",
        ),
        ("FLEET_BROKER_FAILURES", "many", "FLEET_BROKER_FAILURES: \"many\" is not a whole number"),
        ("FLEET_BROKER_FAILURES", "0", "FLEET_BROKER_FAILURES: 0 is out of range, expected 1 to"),
        ("FLEET_ALLOW_PLAINTEXT", "yes", "FLEET_ALLOW_PLAINTEXT: \"yes\" is neither 1 nor 0"),
        ("FLEET_TRUSTED_PROXIES", "10.0.0.1,venue", "FLEET_TRUSTED_PROXIES: \"venue\" is not an IP address"),
    ] {
        let error = resolve("", &[(variable, value)]).unwrap_err();
        assert!(error.contains(expected), "{error}\nexpected: {expected}");
    }
}

#[test]
fn a_missing_file_is_an_error_only_if_it_was_asked_for() {
    let nowhere = Path::new("/nonexistent/fleet-broker.toml");
    assert!(Config::load(nowhere, false, |_| None).is_ok());
    let error = Config::load(nowhere, true, |_| None).unwrap_err().to_string();
    assert_eq!(error, "cannot read the config file /nonexistent/fleet-broker.toml");
}
