//! The first start without any configuration: somebody can sign in, with a password that nobody else knows and that has to be
//! changed.
#![allow(clippy::unwrap_used)]

mod process;

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use process::{Server, eventually, fleetd, output};
use serde_json::{Value, json};

/// No account is named: an empty variable is an unset one.
const NOBODY: [(&str, &str); 2] = [("FLEET_ADMIN_EMAIL", ""), ("FLEET_ADMIN_PASSWORD", "")];

fn call(server: &Server, method: &str, path: &str, token: Option<&str>, body: &Value) -> (u16, Value) {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut request = ureq::http::Request::builder()
        .method(method)
        .uri(format!("http://{}/api/v1{path}", server.http))
        .header("content-type", "application/json");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let text = if body.is_null() { String::new() } else { body.to_string() };
    let mut answer = agent.run(request.body(text).unwrap()).unwrap();
    let text = answer.body_mut().read_to_string().unwrap();
    (answer.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::Null))
}

fn sign_in(server: &Server, email: &str, password: &str) -> String {
    let body = json!({"email": email, "password": password});
    let (status, answer) = call(server, "POST", "/auth/login", None, &body);
    assert_eq!(status, 200, "{answer}");
    answer["access_token"].as_str().unwrap().to_owned()
}

/// Address and password as they are told.
fn account_in(text: &str) -> (String, String) {
    let after = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_else(|| panic!("{text}"))
            .trim()
            .to_owned()
    };
    (after("e-mail:"), after("password:"))
}

fn file_of(data: &Path) -> std::path::PathBuf {
    data.join("first-admin-password")
}

#[test]
fn a_server_without_configuration_makes_an_admin_whose_password_is_in_a_private_file_until_it_is_changed() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start_with(data.path(), &NOBODY);
    let path = file_of(data.path());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let (email, password) = account_in(&fs::read_to_string(&path).unwrap());
    assert_eq!(email, "admin@localhost");
    let log = fs::read_to_string(data.path().join("log")).unwrap();
    assert!(log.contains("first-admin-password") && !log.contains(&password), "{log}");

    let token = sign_in(&server, &email, &password);
    let me = call(&server, "GET", "/auth/me", Some(&token), &Value::Null).1;
    assert_eq!(
        (&me["role"], &me["is_superadmin"], &me["must_change_password"]),
        (&json!("admin"), &json!(true), &json!(true))
    );
    for (method, path, body) in [
        ("GET", "/devices", Value::Null),
        ("POST", "/api-keys", json!({"name": "way round"})),
        ("POST", "/users", json!({"email": "eve@example.org", "name": "Eve", "role": "admin"})),
        ("POST", "/devices/register", json!({"device_id": "cam-1"})),
    ] {
        let (status, answer) = call(&server, method, path, Some(&token), &body);
        assert!(
            status == 403 && answer["detail"].as_str().unwrap().contains("/auth/password"),
            "{path}: {answer}"
        );
    }

    let change = |new: &str| json!({"old": password, "new": new});
    let (status, answer) = call(&server, "POST", "/auth/password", Some(&token), &change(&password));
    assert!(status == 422 && answer["errors"][0]["field"] == "new", "{answer}");
    let new = "a tractor under quiet lamps";
    assert_eq!(call(&server, "POST", "/auth/password", Some(&token), &change(new)).0, 204);
    assert!(!path.exists(), "the file has served");
    let token = sign_in(&server, &email, new);
    assert_eq!(call(&server, "GET", "/devices", Some(&token), &Value::Null).0, 200);
    let me = call(&server, "GET", "/auth/me", Some(&token), &Value::Null).1;
    assert_eq!(me.get("must_change_password"), None);
}

#[test]
fn a_password_that_has_to_be_changed_opens_no_mqtt_connection() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start_with(data.path(), &NOBODY);
    let (email, password) = account_in(&fs::read_to_string(file_of(data.path())).unwrap());
    let mut options = rumqttc::MqttOptions::new("tool", "127.0.0.1", server.mqtt.port());
    options.set_credentials(email, password).set_keep_alive(Duration::from_secs(30));
    let (_client, mut connection) = rumqttc::Client::new(options, 10);
    let answer = connection.iter().next().unwrap();
    let refused = rumqttc::ConnectionError::ConnectionRefused(rumqttc::ConnectReturnCode::NotAuthorized);
    assert_eq!(answer.unwrap_err().to_string(), refused.to_string());
}

#[test]
fn a_crash_between_the_account_and_its_telling_loses_no_password() {
    let data = tempfile::tempdir().unwrap();
    Server::start_with(data.path(), &NOBODY).kill();
    let before = account_in(&fs::read_to_string(file_of(data.path())).unwrap());
    let server = Server::start_with(data.path(), &NOBODY);
    assert_eq!(account_in(&fs::read_to_string(file_of(data.path())).unwrap()), before);
    sign_in(&server, &before.0, &before.1);
}

#[test]
fn a_file_whose_password_is_no_longer_in_force_goes_at_the_next_start() {
    let data = tempfile::tempdir().unwrap();
    Server::start_with(data.path(), &NOBODY).kill();
    let mut reset = fleetd(data.path());
    reset.args(["user", "reset-password", "--email", "admin@localhost"]);
    assert!(output(reset, "a tractor under quiet lamps").status.success());
    let server = Server::start_with(data.path(), &NOBODY);
    assert!(!file_of(data.path()).exists());
    sign_in(&server, "admin@localhost", "a tractor under quiet lamps");
}

#[test]
fn at_a_terminal_the_password_is_shown_once_and_no_file_stays() {
    let data = tempfile::tempdir().unwrap();
    let pty = nix::pty::openpty(None, None).unwrap();
    let terminal = || Stdio::from(pty.slave.try_clone().unwrap());
    let mut child = fleetd(data.path())
        .envs([("FLEET_ADMIN_EMAIL", "olga@example.org"), ("FLEET_ADMIN_PASSWORD", "")])
        .arg("serve")
        .stdin(terminal())
        .stdout(terminal())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("it listens", || fs::read(data.path().join("addresses.json")).ok());
    child.kill().unwrap();
    child.wait().unwrap();
    drop(pty.slave);
    let mut shown = Vec::new();
    // A terminal that nobody has open any more ends with an error.
    let _ = File::from(pty.master).read_to_end(&mut shown);
    let shown = String::from_utf8(shown).unwrap().replace('\r', "");
    let (email, password) = account_in(&shown);
    assert_eq!((email.as_str(), shown.matches(&password).count()), ("olga@example.org", 1), "{shown}");
    assert!(!file_of(data.path()).exists());

    let server = Server::start_with(data.path(), &NOBODY);
    assert!(!file_of(data.path()).exists(), "it was told");
    sign_in(&server, &email, &password);
}

#[test]
fn a_password_alone_has_no_account_to_belong_to() {
    let data = tempfile::tempdir().unwrap();
    let mut command = fleetd(data.path());
    command.arg("serve").env("FLEET_ADMIN_EMAIL", "");
    let output = output(command, "");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("set FLEET_ADMIN_EMAIL"));
}
