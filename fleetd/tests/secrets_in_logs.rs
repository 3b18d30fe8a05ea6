//! The real program with the most talkative log: no secret may be in it.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

const PASSWORD: &str = "correct horse battery";

/// An answer's status and JSON; an error status is no error.
fn call(method: &str, url: &str, headers: &[(&str, &str)], body: &Value) -> (u16, Value) {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(30)))
        .build()
        .into();
    let mut request =
        ureq::http::Request::builder().method(method).uri(url).header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut response = agent.run(request.body(body.to_string()).unwrap()).unwrap();
    let text = response.body_mut().read_to_string().unwrap();
    (response.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::Null))
}

#[test]
fn the_most_talkative_log_has_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Command::new(env!("CARGO_BIN_EXE_fleetd"))
        .arg("serve")
        .env_clear()
        .env("FLEET_DATA_DIR", folder.path())
        .env("FLEET_HTTP_LISTEN", "127.0.0.1:0")
        .env("FLEET_MQTT_LISTEN", "127.0.0.1:0")
        .env("FLEET_LOG", "trace")
        .env("FLEET_ADMIN_EMAIL", "anna@example.org")
        .env("FLEET_ADMIN_PASSWORD", PASSWORD)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(server.stderr.take().unwrap());
    let mut log = String::new();
    let address = loop {
        let mut line = String::new();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "the server ended: {log}");
        log.push_str(&line);
        if let Some((_, rest)) = line.split_once("http=") {
            break rest.split_whitespace().next().unwrap().to_owned();
        }
    };
    let rest = std::thread::spawn(move || {
        let mut rest = String::new();
        stderr.read_to_string(&mut rest).unwrap();
        rest
    });

    let url = |path: &str| format!("http://{address}/api/v1{path}");
    let login =
        call("POST", &url("/auth/login"), &[], &json!({"email": "anna@example.org", "password": PASSWORD})).1;
    let [access, refresh] =
        ["access_token", "refresh_token"].map(|name| login[name].as_str().unwrap().to_owned());
    let bearer = format!("Bearer {access}");
    let as_anna = [("authorization", bearer.as_str())];
    let registered = call("POST", &url("/devices/register"), &as_anna, &json!({"device_id": "cam-1"})).1;
    let token = registered["token"].as_str().unwrap().to_owned();
    let wrong = "a wrong password of somebody";
    assert_eq!(
        call("POST", &url("/auth/login"), &[], &json!({"email": "anna@example.org", "password": wrong})).0,
        401
    );
    let beat = json!({"ts": "2025-12-28T10:00:00Z"});
    let as_device = [("x-device-token", token.as_str())];
    assert_eq!(call("POST", &url("/devices/cam-1/heartbeat"), &as_device, &beat).0, 200);
    assert_eq!(call("POST", &url("/devices/cam-1/heartbeat"), &[("x-device-token", wrong)], &beat).0, 401);
    assert_eq!(
        call("POST", &url("/devices/register"), &[("x-enrollment-key", wrong)], &json!({"device_id": "x"})).0,
        401
    );
    assert_eq!(call("POST", &url("/auth/refresh"), &[], &json!({"refresh_token": refresh})).0, 200);

    let process = nix::unistd::Pid::from_raw(i32::try_from(server.id()).unwrap());
    nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(server.wait().unwrap().success());
    log.push_str(&rest.join().unwrap());
    assert!(log.contains("HTTP request"), "the log is not talkative: {log}");
    for secret in [PASSWORD, wrong, &access, &refresh, &token] {
        assert!(!log.contains(secret), "a secret is in the log");
    }
}
