//! `fleetd check`, run as a person runs it: what is sound, what is not, and what to do about it.
#![allow(clippy::unwrap_used)]

mod process;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use process::{Server, fleetd, output};
use serde_json::Value;

/// Exit status, findings as (level, subject, seen, advice), and what went to standard error.
fn check(
    data: &Path,
    variables: &[(&str, &str)],
    options: &[&str],
) -> (Option<i32>, Vec<[String; 4]>, String) {
    let mut command = fleetd(data);
    command.envs(variables.iter().copied()).args(["check", "--json"]).args(options);
    let output = output(command, "");
    let findings: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let findings =
        findings.iter().map(|one| ["level", "subject", "seen", "advice"].map(|key| text(one, key)));
    (output.status.code(), findings.collect(), String::from_utf8(output.stderr).unwrap())
}

#[track_caller]
fn has(findings: &[[String; 4]], level: &str, subject: &str, words: &str) {
    let found = findings.iter().any(|[l, s, seen, advice]| {
        l == level && s == subject && (seen.contains(words) || advice.contains(words))
    });
    assert!(found, "no {level} about {subject} with {words:?} in {findings:#?}");
}

#[test]
fn a_sound_installation_has_no_error_beside_its_running_server_and_without_it() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let (status, findings, _) = check(data.path(), &[("FLEET_PUBLIC_URL", "https://fleet.example.org")], &[]);
    assert_eq!(status, Some(0), "{findings:#?}");
    has(&findings, "ok", "server", "running and ready");
    has(&findings, "ok", "database", "schema");
    has(&findings, "ok", "accounts", "active admins: 1");
    assert!(findings.iter().all(|[level, ..]| level != "error"));
    assert!(server.terminate());
    let (status, findings, _) = check(data.path(), &[], &["--thorough"]);
    assert_eq!(status, Some(0), "{findings:#?}");
    has(&findings, "ok", "server", "not running");
    has(&findings, "ok", "database", "every page sound");
    has(&findings, "warning", "public URL", "FLEET_PUBLIC_URL");
}

#[test]
fn before_the_first_start_nothing_is_made() {
    let above = tempfile::tempdir().unwrap();
    let data = above.path().join("data");
    let (status, findings, _) = check(&data, &[], &[]);
    assert_eq!(status, Some(0), "{findings:#?}");
    has(&findings, "ok", "data folder", "will be made");
    assert!(!data.exists());
}

#[test]
fn secrets_that_others_may_read_are_errors_that_say_how_to_close_them() {
    let data = tempfile::tempdir().unwrap();
    Server::start(data.path()).kill();
    let open = |name: &str, mode| {
        fs::set_permissions(data.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    open("jwt-secret", 0o644);
    open("fleet.db", 0o640);
    open("", 0o775);
    let (status, findings, told) = check(data.path(), &[], &[]);
    assert_eq!(status, Some(1));
    assert!(told.contains("3 errors"), "{told}");
    has(&findings, "error", "secrets", "jwt-secret can be read");
    has(&findings, "error", "secrets", "chmod 600");
    has(&findings, "error", "secrets", "fleet.db");
    has(&findings, "error", "data folder", "chmod 700");
    for (name, mode) in [("jwt-secret", 0o600), ("fleet.db", 0o600), ("", 0o700)] {
        open(name, mode);
    }
    assert_eq!(check(data.path(), &[], &[]).0, Some(0));

    let config = data.path().join("fleetd.toml");
    fs::write(&config, format!("jwt_secret = \"{}\"\n", "s3cret".repeat(8))).unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).unwrap();
    let (status, findings, told) = check(data.path(), &[], &["--config", config.to_str().unwrap()]);
    assert_eq!(status, Some(1));
    has(&findings, "error", "secrets", "fleetd.toml can be read");
    assert!(!format!("{findings:?}{told}").contains("s3cret"));
}

#[test]
fn a_taken_port_a_foreign_database_and_open_plaintext_are_told() {
    let data = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    fs::set_permissions(data.path(), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(data.path().join("fleet.db"), "no database at all, but a letter to somebody").unwrap();
    fs::set_permissions(data.path().join("fleet.db"), fs::Permissions::from_mode(0o600)).unwrap();
    let variables = [
        ("FLEET_HTTP_LISTEN", address.as_str()),
        ("FLEET_MQTT_LISTEN", "0.0.0.0:0"),
        ("FLEET_ALLOW_PLAINTEXT", "1"),
    ];
    let (status, findings, _) = check(data.path(), &variables, &[]);
    assert_eq!(status, Some(1));
    has(&findings, "error", "listen", "FLEET_HTTP_LISTEN");
    has(&findings, "error", "database", "no SQLite database");
    has(&findings, "warning", "encryption", "FLEET_TRUSTED_PROXIES");

    let variables = [("FLEET_PUBLIC_URL", "http://fleet.example.org")];
    has(&check(data.path(), &variables, &[]).1, "error", "public URL", "not encrypted");
}

#[test]
fn a_first_password_that_was_not_changed_is_a_warning() {
    let data = tempfile::tempdir().unwrap();
    let nobody = [("FLEET_ADMIN_EMAIL", ""), ("FLEET_ADMIN_PASSWORD", "")];
    Server::start_with(data.path(), &nobody).kill();
    let (status, findings, _) = check(data.path(), &nobody, &[]);
    assert_eq!(status, Some(0), "{findings:#?}");
    has(&findings, "warning", "first account", "first-admin-password");
    has(&findings, "warning", "accounts", "not changed yet");
}

#[test]
fn people_read_a_line_for_each_finding_and_a_wrong_configuration_is_the_first_of_them() {
    let data = tempfile::tempdir().unwrap();
    let mut command = fleetd(data.path());
    command.arg("check");
    let told = String::from_utf8(output(command, "").stdout).unwrap();
    assert!(told.lines().any(|line| line.starts_with("ok      config")), "{told}");
    assert!(!told.contains('\x1b'), "no colour in a pipe: {told}");
    let mut command = fleetd(data.path());
    command.arg("check").env("FLEET_HTTP_LISTEN", "everywhere");
    let output = output(command, "");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("FLEET_HTTP_LISTEN"));
}
