//! `r58-fleet-agent doctor` and `enroll --token` against a real server.
#![allow(clippy::unwrap_used)]

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use end_to_end::{Agent, Server, free_port, wait_for};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);

/// A server with an authority of its own and both encrypted ports; the address of the one for HTTPS.
fn secure() -> (Server, String, String) {
    let (https, mqtts) = (free_port(), free_port());
    let mut server = Server::start();
    assert!(server.stop().success());
    server.run_ok(&["tls", "init", "--name", "localhost", "--name", "127.0.0.1"], "");
    server.set("FLEET_HTTPS_LISTEN", Some(&format!("127.0.0.1:{https}")));
    server.set("FLEET_MQTTS_LISTEN", Some(&format!("127.0.0.1:{mqtts}")));
    server.start_again();
    let authority = server.data_dir().join("tls/ca.pem").to_str().unwrap().to_owned();
    (server, format!("https://localhost:{https}"), authority)
}

/// What doctor finds, and its exit status. No secret may be in what it says.
fn doctor(agent: &Agent) -> (Value, i32) {
    let text = agent.run(&["doctor"], "");
    let output = agent.run(&["doctor", "--json"], "");
    let token = token(agent);
    for said in [&text.stdout, &text.stderr, &output.stdout, &output.stderr] {
        let said = String::from_utf8_lossy(said);
        assert!(!said.contains(&token), "{said}");
        assert!(!said.contains('\u{1b}'), "colours without a terminal: {said}");
    }
    assert_eq!(text.status.code(), output.status.code());
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    (report, output.status.code().unwrap())
}

fn token(agent: &Agent) -> String {
    let text = std::fs::read_to_string(agent.config_file()).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix("DEVICE_TOKEN="));
    value.map_or_else(|| "none at all".to_owned(), |value| value.trim_matches('"').to_owned())
}

/// The outcome of a step in the section of this kind whose address starts so.
fn outcome(report: &Value, kind: &str, address: &str, name: &str) -> String {
    let sections = report["sections"].as_array().unwrap();
    let section = sections.iter().find(|section| {
        section["kind"] == kind && section["address"].as_str().unwrap_or_default().starts_with(address)
    });
    let steps =
        section.unwrap_or_else(|| panic!("no {kind} {address} in {report:#}"))["steps"].as_array().unwrap();
    let step =
        steps.iter().find(|step| step["name"] == name).unwrap_or_else(|| panic!("no {name} in {steps:#?}"));
    step["outcome"].as_str().unwrap().to_owned()
}

fn is_online(agent: &Agent) {
    wait_for("the agent connected", SOON, || {
        (agent.status()?["status"]["connection"] == "connected").then_some(())
    });
}

#[test]
fn every_way_of_a_healthy_device_is_good_and_a_running_agent_keeps_its_connection() {
    let (server, url, authority) = secure();
    let mut agent = Agent::unenrolled("studio-001");
    let enroll = ["enroll", &url, "--key", "-", "--device-id", "studio-001", "--ca", &authority, "--json"];
    let key = server.enrollment_key();
    let first = agent.run(&enroll, &key);
    let told: Value = serde_json::from_slice(&first.stdout).unwrap_or_else(|_| panic!("{first:?}"));
    assert_eq!((&told["device_id"], &told["changed"]), (&json!("studio-001"), &json!(true)), "{told:#}");
    let fingerprint = told["authority"]["sha256"][0].as_str().unwrap();
    assert_eq!((fingerprint.len(), fingerprint.matches(':').count()), (95, 31), "{fingerprint}");
    let again = agent.run(&enroll, &key);
    let told: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(told["changed"], json!(false), "{told:#}");

    // Nobody runs: every way logs in.
    let (report, status) = doctor(&agent);
    assert_eq!((status, &report["ok"]), (1, &json!(false)), "the agent does not run");
    assert_eq!(outcome(&report, "device", "", "agent"), "failed");
    for way in ["mqtts://", "wss://", "mqtt://"] {
        assert_eq!(outcome(&report, "link", way, "auth"), "ok", "{report:#}");
    }

    agent.start();
    is_online(&agent);
    let api = server.api();
    let connection = || api.get("/devices/studio-001/records")["items"].clone();
    let since = agent.status().unwrap()["status"]["since_ms"].clone();
    let before = connection();
    for _ in 0..3 {
        let (report, status) = doctor(&agent);
        assert_eq!((status, &report["ok"]), (0, &json!(true)), "{report:#}");
        assert_eq!(outcome(&report, "server", "https://", "auth"), "ok");
        for (way, name, expected) in [
            ("mqtts://", "tls", "ok"),
            ("mqtts://", "mqtt", "ok"),
            ("mqtts://", "auth", "skipped"),
            ("wss://", "mqtt", "ok"),
            ("wss://", "auth", "skipped"),
        ] {
            assert_eq!(outcome(&report, "link", way, name), expected, "{way} {name}: {report:#}");
        }
        assert_eq!(outcome(&report, "link", "https://", "exchange"), "ok");
        assert_eq!(outcome(&report, "clock", "", "offset"), "ok");
    }
    let status = agent.status().unwrap();
    assert_eq!(status["status"]["since_ms"], since, "the connection is the same: {status:#}");
    assert_eq!(status["status"]["transport"], "mqtts", "{status:#}");
    assert_eq!(connection()[0]["state_id"], before[0]["state_id"]);
    assert!(agent.stop().success());
}

#[test]
fn a_token_that_died_is_told_on_every_way_and_a_new_one_is_enrolled_without_a_key() {
    let (server, url, authority) = secure();
    let mut agent = Agent::unenrolled("studio-001");
    let key = server.enrollment_key();
    let output =
        agent.run(&["enroll", &url, "--key", "-", "--device-id", "studio-001", "--ca", &authority], &key);
    assert!(output.status.success(), "{output:?}");
    let api = server.api();
    let (status, rotated) = api.post("/devices/studio-001/rotate-token", &json!({}));
    assert_eq!(status, 200, "{rotated}");
    let new = rotated["token"].as_str().unwrap().to_owned();
    let (report, status) = doctor(&agent);
    assert_eq!(status, 1);
    assert_eq!(outcome(&report, "server", "https://", "http"), "ok");
    assert_eq!(outcome(&report, "server", "https://", "auth"), "failed", "{report:#}");
    assert!(report.to_string().contains("make a token and enrol with --token"), "{report:#}");

    let before = std::fs::read_to_string(agent.config_file()).unwrap();
    let enroll = ["enroll", &url, "--token", "-", "--no-restart"];
    for (token, more, part) in [
        ("short", &[][..], "a device's token has 64 characters"),
        (&"0".repeat(64), &[], "does not accept this token"),
        (&new, &["--device-id", "studio-002"], "this token is that of the device studio-001"),
    ] {
        let output = agent.run(&[&enroll, more].concat(), token);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(part), "{text}");
        assert!(!text.contains(&new), "{text}");
        assert_eq!(std::fs::read_to_string(agent.config_file()).unwrap(), before);
    }
    for changed in [true, false] {
        let output = agent.run(&[&enroll[..], &["--json"]].concat(), &new);
        let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        assert_eq!((&told["device_id"], &told["org"]), (&json!("studio-001"), &json!("default")), "{told:#}");
        assert_eq!(told["changed"], json!(changed), "{told:#}");
        assert!(!told.to_string().contains(&new));
    }
    agent.start();
    is_online(&agent);
    assert!(agent.stop().success());
}

#[test]
fn a_device_that_an_admin_has_registered_is_enrolled_by_its_token_alone() {
    let server = Server::start();
    let (status, registered) = server.api().post("/devices/register", &json!({"device_id": "studio-007"}));
    assert_eq!(status, 201, "{registered}");
    let mut agent = Agent::unenrolled("studio-007");
    let file = agent.config_file().with_file_name("token");
    std::fs::write(&file, registered["token"].as_str().unwrap()).unwrap();
    let output = agent.run(&["enroll", &server.url(), "--token-file", file.to_str().unwrap()], "");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("This device is studio-007 of the organisation default"), "{output:?}");
    agent.start();
    is_online(&agent);
    assert!(agent.stop().success());
}

/// A peer that answers every connection with `answer`, or with nothing at all.
fn peer(answer: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(answer.as_bytes());
                if answer.is_empty() {
                    let _ = stream.set_read_timeout(Some(Duration::from_secs(120)));
                    while stream.read(&mut [0; 4096]).is_ok_and(|read| read > 0) {}
                }
            });
        }
    });
    port
}

fn device(config: &str) -> Agent {
    let agent = Agent::unenrolled("studio-001");
    let token = "b".repeat(64);
    agent.write_config(&format!("DEVICE_ID=studio-001\nDEVICE_TOKEN={token}\n{config}"));
    agent
}

#[test]
fn a_captive_portal_a_wrong_port_and_a_stranger_are_told_apart() {
    let page =
        "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi";
    let portal = peer(page);
    let agent = device(&format!("FLEET_URL=http://127.0.0.1:{portal}\n"));
    let (report, status) = doctor(&agent);
    assert_eq!((status, outcome(&report, "server", "http://", "http").as_str()), (1, "failed"), "{report:#}");
    assert!(report.to_string().contains("captive portal"), "{report:#}");

    let agent =
        device(&format!("FLEET_URL=https://127.0.0.1:{portal}\nMQTT_URL=mqtt://127.0.0.1:{portal}\n"));
    let (report, _) = doctor(&agent);
    assert_eq!(outcome(&report, "server", "https://", "tls"), "failed", "{report:#}");
    assert_eq!(outcome(&report, "server", "https://", "auth"), "skipped", "{report:#}");
    assert_eq!(outcome(&report, "link", "mqtt://", "mqtt"), "failed", "{report:#}");

    let agent = device(&format!("FLEET_URL=http://127.0.0.1:{}\n", free_port()));
    let (report, _) = doctor(&agent);
    assert_eq!(outcome(&report, "server", "http://", "tcp"), "failed", "{report:#}");

    // Somebody who is trusted by nobody here.
    let (_server, url, _) = secure();
    let agent = device(&format!("FLEET_URL={url}\n"));
    let (report, _) = doctor(&agent);
    assert_eq!(outcome(&report, "server", "https://", "tls"), "failed", "{report:#}");
    assert!(report.to_string().contains("certificate of localhost by R58 Fleet authority"), "{report:#}");
}

#[test]
fn a_network_that_swallows_everything_costs_a_minute_at_most() {
    let silent = peer("");
    let agent = device(&format!(
        "FLEET_URL=https://127.0.0.1:{silent}\nMQTT_URL=mqtts://127.0.0.1:{silent}\nAPP_STATUS_URL=http://127.0.0.1:{silent}/\n"
    ));
    let began = Instant::now();
    let output = agent.run(&["doctor", "--json"], "");
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    for (kind, address) in [("server", "https://"), ("link", "mqtts://")] {
        assert_eq!(outcome(&report, kind, address, "tcp"), "ok");
        assert_eq!(outcome(&report, kind, address, "tls"), "failed");
    }
}
