//! What holds for every route: problems, limits, headers, methods.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::{PASSWORD, Server};
use protocol::id::Role;
use serde_json::{Value, json};

fn server_with_everybody() -> (Server, String) {
    let server = Server::start();
    server.person("default", "vera", Role::Viewer);
    server.person("default", "otto", Role::Operator);
    server.person("default", "anna", Role::Admin);
    let token = server.device("anna", "cam-1");
    (server, token)
}

#[test]
fn an_unknown_path_and_a_wrong_method_are_problems() {
    let server = Server::start();
    for path in [
        "/nope",
        "/api",
        "/api/v1",
        "/api/v2/devices",
        "/api/v1/devices/a/b/c",
        "/api/v1//devices",
        "/%00",
        "/..%2f",
    ] {
        server.get(path).send().is_problem(404);
    }
    for (method, path, allow) in [
        ("POST", "/health", "GET, HEAD"),
        ("PUT", "/api/v1/devices", "GET, HEAD"),
        ("POST", "/api/v1/devices/cam-1", "GET, HEAD, PATCH, DELETE"),
        ("GET", "/api/devices/cam-1/approve", "POST"),
        ("OPTIONS", "/api/v1/devices", "GET, HEAD"),
        ("BREW", "/api/v1/auth/login", "POST"),
    ] {
        let answer = server.call(method, path).send();
        answer.is_problem(405);
        assert_eq!(answer.headers["allow"], allow, "{method} {path}");
    }
    server.get("/ws").send().is_problem(410);
    let head = server.call("HEAD", "/health").send();
    assert_eq!((head.status, head.text.as_str()), (200, ""));
}

#[test]
fn the_alias_without_version_answers_the_same() {
    let (server, token) = server_with_everybody();
    let (a, b) = (server.get("/api/devices/cam-1"), server.get("/api/v1/devices/cam-1"));
    assert_eq!(a.by_device(&token).send().body, b.by_device(&token).send().body);
    assert_eq!(server.get("/api/devices?page_size=1").by_person("vera").send().body["total"], 1);
}

#[test]
fn a_body_is_bounded_before_it_is_read() {
    let (server, token) = server_with_everybody();
    let big = vec![b' '; 70 * 1024];
    let json_type = ("content-type", "application/json");
    let path = "/api/v1/devices/cam-1/heartbeat";
    server.post(path).by_device(&token).header(json_type.0, json_type.1).bytes(&big).is_problem(413);
    server.post("/api/v1/auth/login").header(json_type.0, json_type.1).bytes(&big).is_problem(413);
    // Announced, but never sent: the answer does not wait for it.
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
        .write_all(b"POST /api/v1/auth/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 999999999999\r\n\r\n")
        .unwrap();
    let mut start = [0; 12];
    stream.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 413");
    // Without a length: counted as it comes.
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
        .write_all(b"POST /api/v1/auth/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
        .unwrap();
    let chunk = [b"4000\r\n".as_slice(), &[b' '; 0x4000], b"\r\n"].concat();
    for _ in 0..5 {
        if stream.write_all(&chunk).is_err() {
            break;
        }
    }
    stream.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 413");
}

#[test]
fn a_request_that_is_no_http_or_too_long_does_no_harm() {
    let server = Server::start();
    for bytes in [
        b"\x16\x03\x01\x02\x00\x01\x00\x01".to_vec(),
        b"\0\0\0\0\r\n\r\n".to_vec(),
        [b"GET / HTTP/1.1\r\nhost: x\r\nx: ".as_slice(), &vec![b'a'; 10_0000], b"\r\n\r\n"].concat(),
        (0..500)
            .map(|n| format!("x-{n}: y\r\n"))
            .fold("GET / HTTP/1.1\r\n".to_owned(), |a, b| a + &b)
            .into_bytes(),
        b"POST /api/v1/auth/login HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n".to_vec(),
    ] {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    let long = format!("/api/v1/devices?q={}", "a".repeat(10_000));
    server.get(&long).send().is_problem(414);
    assert_eq!(server.get("/health").send().status, 200);
}

#[test]
fn bad_bodies_are_400_415_or_422() {
    let (server, _) = server_with_everybody();
    let patch = || {
        server
            .call("PATCH", "/api/v1/devices/cam-1")
            .by_person("anna")
            .header("content-type", "application/json")
    };
    for bad in [b"".as_slice(), b"{", b"\xff\xfe", b"{\"name\":}", b"nul", "[".repeat(10_000).as_bytes()] {
        patch().bytes(bad).is_problem(400);
    }
    for bad in [
        b"null".as_slice(),
        b"[]",
        b"5",
        b"\"x\"",
        b"{\"name\":5}",
        b"{\"nmae\":\"x\"}",
        b"{\"name\":\"a\\u0000b\"}",
    ] {
        patch().bytes(bad).is_problem(422);
    }
    let call = || server.call("PATCH", "/api/v1/devices/cam-1").by_person("anna");
    for content_type in
        ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", "multipart/form-data"]
    {
        call().header("content-type", content_type).bytes(b"{}").is_problem(415);
    }
    assert_eq!(call().header("content-type", "Application/JSON; charset=utf-8").bytes(b"{}").status, 200);
    let approve = || server.post("/api/v1/devices/cam-1/approve").by_person("anna");
    assert_eq!(approve().json(&json!({})).status, 200);
    approve().json(&json!({"force": true})).is_problem(422);
}

#[test]
fn every_answer_has_careful_headers_and_other_origins_are_shut_out() {
    let server = Server::start();
    for path in ["/", "/health", "/api/v1/devices", "/nope", "/dashboard.js"] {
        let answer = server.get(path).header("origin", "https://evil.example").send();
        assert_eq!(answer.headers["x-content-type-options"], "nosniff", "{path}");
        assert_eq!(answer.headers["x-frame-options"], "DENY", "{path}");
        assert_eq!(answer.headers["referrer-policy"], "no-referrer", "{path}");
        let policy = &answer.headers["content-security-policy"];
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{path}: {policy}");
        assert!(!answer.headers.contains_key("access-control-allow-origin"), "{path}");
    }
    let page = server.get("/").send();
    assert!(page.headers["content-type"].starts_with("text/html") && page.text.contains("/dashboard.js"));
    for inline in ["<script>", "onclick=", "style=", "<style"] {
        assert!(!page.text.contains(inline), "{inline}");
    }
}

#[test]
fn a_configured_origin_may_call_the_api() {
    let server = Server::start_with(|config| config.cors_origins = vec!["https://wall.example".to_owned()]);
    let preflight = server
        .call("OPTIONS", "/api/v1/devices")
        .header("origin", "https://wall.example")
        .header("access-control-request-method", "GET")
        .send();
    assert_eq!(preflight.status, 204);
    assert_eq!(preflight.headers["access-control-allow-origin"], "https://wall.example");
    assert!(preflight.headers["access-control-allow-headers"].contains("authorization"));
    let other = server
        .call("OPTIONS", "/api/v1/devices")
        .header("origin", "https://wall.example.evil.example")
        .header("access-control-request-method", "GET")
        .send();
    assert!(other.status == 405 && !other.headers.contains_key("access-control-allow-origin"));
    let get = server.get("/api/v1/devices").header("origin", "https://wall.example").send();
    assert_eq!(
        (get.status, get.headers["access-control-allow-origin"].as_str()),
        (401, "https://wall.example")
    );
}

#[test]
fn health_readiness_and_metrics_tell_how_it_is() {
    let (server, _) = server_with_everybody();
    assert_eq!(server.get("/health").send().body["status"], "ok");
    let ready = server.get("/ready").send();
    assert_eq!(
        (ready.status, &ready.body["database"], &ready.body["broker"]),
        (200, &json!("ok"), &json!("ok"))
    );
    let metrics = server.get("/metrics").send();
    assert!(metrics.headers["content-type"].starts_with("text/plain"));
    assert!(metrics.text.contains("fleet_devices{status=\"offline\"} 1\n"), "{}", metrics.text);
    assert!(metrics.text.contains("fleet_http_requests_total{status=\"2xx\"}"), "{}", metrics.text);
    server.app.store.close();
    let away = server.get("/ready").send();
    away.is_problem(503);
    assert!(away.headers.contains_key("retry-after"));
    let login = json!({"email": "vera@example.org", "password": PASSWORD});
    server.post("/api/v1/auth/login").json(&login).is_problem(503);
    assert_eq!(server.get("/health").send().status, 200);
}

#[test]
fn the_server_lets_a_request_finish_and_then_stops() {
    let mut server = Server::start();
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let body = json!({"email": "x@example.org", "password": "wrong wrong"}).to_string();
    let head = format!(
        "POST /api/v1/auth/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    server.stop();
    stream.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(server.address).is_ok() {
        assert!(Instant::now() < deadline, "it still listens");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_heartbeat_by_http_shows_at_once_everywhere() {
    let (server, token) = server_with_everybody();
    let beat = json!({
        "ts": "2025-12-28T10:00:00Z", "version": "1.0.0", "uptime_seconds": 86400,
        "metrics": {"cpu_percent": 15.2, "mem_percent": 45.0, "disk_free_gb": 2.8, "disk_total_gb": 29.1,
                    "temperature_c": null, "load_avg": [0.4, 0.3, 0.2], "fan_rpm": 900},
        "status": {"recording_active": true, "mixer_active": true, "active_inputs": ["cam1"], "degradation_level": 0},
        "errors": [], "something_new": {"x": 1},
    });
    let answer = server.post("/api/v1/devices/cam-1/heartbeat").by_device(&token).json(&beat);
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.body["ack"], true);
    assert_eq!(answer.body["commands_pending"], 0);
    assert_eq!(answer.body["target_version"], Value::Null);
    let device = server.get("/api/v1/devices/cam-1").by_person("vera").send().body;
    assert_eq!(device["status"], "online", "{device}");
    assert_eq!(
        (&device["cpu_percent"], &device["recording_active"], &device["uptime_seconds"]),
        (&json!(15.2), &json!(true), &json!(86400))
    );
    assert_eq!((&device["current_version"], &device["transport"]), (&json!("1.0.0"), &json!("http")));
    assert!(device.get("temperature_c").is_none());
    let beats = server.get("/api/v1/devices/cam-1/heartbeats").by_person("vera").send().body;
    assert_eq!(beats["total"], 1, "{beats}");
    assert_eq!(beats["items"][0]["ts"], "2025-12-28T10:00:00Z");
    assert_eq!(beats["items"][0]["status"]["active_inputs"], json!(["cam1"]));
    let metrics = server.get("/api/v1/devices/cam-1/metrics?hours=1").by_person("vera").send().body;
    let point = &metrics["points"].as_array().unwrap()[0];
    assert_eq!(
        (&point["cpu_percent"]["avg"], &point["disk_free_gb"]["min"]),
        (&json!(15.2), &json!(2.8)),
        "{metrics}"
    );
    assert!(metrics["step_seconds"].as_i64().unwrap() >= 60 && metrics["recording_minutes"].is_i64());
    let records = server.get("/api/v1/devices/cam-1/records").by_person("vera").send();
    assert_eq!(records.body["items"], json!([]));
    let list = server.get("/api/v1/devices?status=online&version=1.0.0").by_person("vera").send().body;
    assert_eq!(list["total"], 1);
    for (bad, field) in [
        (json!({}), "ts"),
        (json!({"ts": "now"}), "ts"),
        (json!({"ts": "2025-12-28T10:00:00Z", "metrics": {"cpu_percent": 250}}), "metrics.cpu_percent"),
    ] {
        let answer = server.post("/api/v1/devices/cam-1/heartbeat").by_device(&token).json(&bad);
        assert_eq!(answer.is_problem(422).fields(), [field]);
    }
    for bad in ["?since=x", "?since=2030-01-01T00:00:00Z&until=2020-01-01T00:00:00Z", "?page=0", "?limit=5"] {
        server
            .get(&format!("/api/v1/devices/cam-1/heartbeats{bad}"))
            .by_person("vera")
            .send()
            .is_problem(400);
    }
    for bad in [
        "?hours=0",
        "?hours=1&from=2025-01-01T00:00:00Z",
        "?step=1",
        "?from=2030-01-01T00:00:00Z&to=2020-01-01T00:00:00Z",
    ] {
        server.get(&format!("/api/v1/devices/cam-1/metrics{bad}")).by_person("vera").send().is_problem(400);
    }
}

#[test]
fn a_parameter_that_a_route_does_not_know_is_an_error_whatever_the_method() {
    let (server, _) = server_with_everybody();
    for (method, path, body) in [
        ("GET", "/api/v1/auth/me?x=1", None),
        ("PATCH", "/api/v1/devices/cam-1?x=1", Some(json!({}))),
        ("POST", "/api/v1/devices/cam-1/commands?dry_run=true", Some(json!({"type": "ping"}))),
        ("POST", "/api/v1/commands?dryrun=true", Some(json!({"to": "*", "type": "ping"}))),
        ("DELETE", "/api/v1/devices/cam-1?dry_run=true", None),
    ] {
        let call = server.call(method, path).by_person("anna");
        let answer = match body {
            Some(body) => call.json(&body),
            None => call.send(),
        };
        answer.is_problem(400);
    }
    assert_eq!(server.get("/api/v1/devices/cam-1").by_person("anna").send().status, 200);
    assert_eq!(server.get("/api/v1/commands").by_person("anna").send().body["total"], 0);
}

#[test]
fn an_empty_value_is_an_error_but_for_free_text() {
    let (server, _) = server_with_everybody();
    let to_all = json!({"to": "*", "type": "ping"});
    server.post("/api/v1/commands?dry_run=").by_person("anna").json(&to_all).is_problem(400);
    assert_eq!(server.get("/api/v1/commands").by_person("anna").send().body["total"], 0);
    for empty in ["status", "page", "page_size", "sort"] {
        server.get(&format!("/api/v1/devices?{empty}=")).by_person("anna").send().is_problem(400);
    }
    for empty in ["since", "org", "format"] {
        server.get(&format!("/api/v1/audit?{empty}=")).by_person("anna").send().is_problem(400);
    }
    for empty in ["tag", "version", "q"] {
        assert_eq!(
            server.get(&format!("/api/v1/devices?{empty}=")).by_person("anna").send().body["total"],
            1
        );
    }
}

#[test]
fn the_documentation_names_every_route() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/api.md")).unwrap();
    for (method, path) in fleetd::http::paths() {
        if path.starts_with("/api/devices") {
            continue;
        }
        let documented =
            [format!("`{method} {path}`"), format!("`{path}`")].iter().any(|name| text.contains(name));
        assert!(documented, "{method} {path} is missing in docs/api.md");
    }
}
