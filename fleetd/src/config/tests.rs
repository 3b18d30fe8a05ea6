#![allow(clippy::unwrap_used)]

use std::path::Path;

use super::*;

const EXAMPLE: &str = include_str!("../../../config/fleetd.toml");

fn none(_: &str) -> Option<String> {
    None
}

fn resolve(text: &str) -> Result<Config, String> {
    Config::resolve(Path::new("/etc/x.toml"), text, none).map_err(|error| error.to_string())
}

fn with_variable(name: &'static str, value: &'static str) -> Result<Config, String> {
    let environment = |asked: &str| (asked == name).then(|| value.to_owned());
    Config::resolve(Path::new("/etc/x.toml"), "", environment).map_err(|error| error.to_string())
}

/// The example with every `#key = value` line switched on.
fn example_switched_on() -> String {
    let on = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.contains(" = ") && !rest.starts_with(' ') => rest.to_owned(),
        _ => line.to_owned(),
    };
    EXAMPLE.lines().map(|line| on(line) + "\n").collect()
}

#[test]
fn the_example_as_shipped_gives_the_defaults() {
    let shipped = resolve(EXAMPLE).unwrap();
    assert_eq!(format!("{shipped:?}"), format!("{:?}", Config::new("/var/lib/r58-fleet".into())));
}

#[test]
fn the_example_with_every_line_switched_on_is_good_and_names_every_key_and_variable() {
    resolve(&example_switched_on()).unwrap();
    for key in raw::KEYS {
        assert!(EXAMPLE.contains(&format!("#{} = ", key.key)), "{}", key.key);
        assert!(EXAMPLE.contains(key.variable), "{}", key.variable);
    }
}

#[test]
fn an_unknown_key_and_a_bad_value_name_file_line_and_key() {
    let unknown = resolve("\nhttp_listn = \"127.0.0.1:1\"\n").unwrap_err();
    assert!(unknown.starts_with("/etc/x.toml, line 2, key http_listn"), "{unknown}");
    let bad = resolve("data_dir = \"/x\"\nhttp_listen = \"here\"\n").unwrap_err();
    assert!(bad.starts_with("/etc/x.toml, line 2, key http_listen"), "{bad}");
    assert!(bad.contains("expected an address and a port"), "{bad}");
    let range = resolve("heartbeat_retention_days = 0\n").unwrap_err();
    assert!(range.contains("expected 1 to 3650"), "{range}");
    assert!(resolve("trusted_proxies = [\"10.0.0.0/99\"]").is_err());
}

#[test]
fn a_bad_variable_is_named_and_a_secret_in_it_is_not_shown() {
    let bad = with_variable("FLEET_HEARTBEAT_TIMEOUT_SECONDS", "soon").unwrap_err();
    assert!(bad.starts_with("environment variable FLEET_HEARTBEAT_TIMEOUT_SECONDS"), "{bad}");
    let short = with_variable("FLEET_JWT_SECRET", "hunter2").unwrap_err();
    assert!(short.contains("FLEET_JWT_SECRET") && !short.contains("hunter2"), "{short}");
    let broker = with_variable("FLEET_BROKER_URL", "mqtts://cluster").unwrap_err();
    assert!(broker.contains("has its own broker alone"), "{broker}");
    let half = with_variable("FLEET_TLS_CERT", "/etc/x.pem").unwrap_err();
    assert!(half.contains("FLEET_TLS_KEY"), "{half}");
}

#[test]
fn a_variable_wins_over_the_file() {
    let environment = |name: &str| (name == "FLEET_HTTP_LISTEN").then(|| "127.0.0.1:9".to_owned());
    let config = Config::resolve(Path::new("x"), "http_listen = \"127.0.0.1:8\"", environment).unwrap();
    assert_eq!(config.http_listen.port(), 9);
}

#[test]
fn an_empty_mqtt_address_switches_plain_mqtt_off() {
    assert_eq!(with_variable("FLEET_MQTT_LISTEN", "").unwrap().mqtt_listen, None);
}

#[test]
fn the_public_address_of_mqtt_is_an_mqtts_url_without_path_or_credentials() {
    let config = with_variable("FLEET_PUBLIC_MQTTS_URL", "mqtts://fleet.example.org:8883/").unwrap();
    assert_eq!(config.public_mqtts_url.as_deref(), Some("mqtts://fleet.example.org:8883"));
    for bad in ["mqtt://fleet", "mqtts://", "mqtts://a/b", "mqtts://me:secret@fleet", "https://fleet"] {
        let environment = |asked: &str| (asked == "FLEET_PUBLIC_MQTTS_URL").then(|| bad.to_owned());
        let error = Config::resolve(Path::new("x"), "", environment).unwrap_err().to_string();
        assert!(error.contains("FLEET_PUBLIC_MQTTS_URL") && !error.contains("secret"), "{error}");
    }
}

#[test]
fn a_first_admin_needs_an_address_and_may_go_without_a_password() {
    assert!(
        with_variable("FLEET_ADMIN_PASSWORD", "correct horse").unwrap_err().contains("FLEET_ADMIN_EMAIL")
    );
    let admin = with_variable("FLEET_ADMIN_EMAIL", "a@example.org").unwrap().admin.unwrap();
    assert_eq!((admin.email.as_str(), admin.password), ("a@example.org", None));
}

#[test]
fn another_database_than_sqlite_is_refused_with_what_is_possible() {
    let error = with_variable("FLEET_DATABASE_URL", "postgresql://h/d").unwrap_err();
    assert!(error.contains("sqlite:"), "{error}");
    let config = with_variable("FLEET_DATABASE_URL", "sqlite:/x/y.db").unwrap();
    assert_eq!(config.database, Path::new("/x/y.db"));
}

#[test]
fn debug_output_shows_no_secret() {
    let text = "admin_email = \"a@b.c\"\nadmin_password = \"correct horse\"\n\
                jwt_secret = \"0123456789012345678901234567890123456789\"\n";
    let shown = format!("{:?}", resolve(text).unwrap());
    assert!(!shown.contains("horse") && !shown.contains("0123456789"), "{shown}");
}

#[test]
fn an_unreadable_file_is_named() {
    let error = Config::load(Some(Path::new("/nonexistent/fleetd.toml")), none).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/fleetd.toml"), "{error}");
}
