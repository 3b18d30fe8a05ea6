#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::thread::JoinHandle;

use super::*;

const KEY: &str = "enroll-key-0123456789";

/// A peer that answers as many requests as there are answers, and gives back what it was asked.
struct Peer {
    server: HttpUrl,
    requests: JoinHandle<Vec<String>>,
}

fn peer(answers: Vec<String>) -> Peer {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let requests = std::thread::spawn(move || {
        answers
            .into_iter()
            .map(|answer| {
                let (stream, _) = listener.accept().unwrap();
                let mut reader = BufReader::new(stream);
                let mut request = String::new();
                let mut length = 0;
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).unwrap();
                    if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    request.push_str(&line);
                    if line.trim().is_empty() {
                        break;
                    }
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                request.push_str(&String::from_utf8(body).unwrap());
                let _ = reader.get_mut().write_all(answer.as_bytes());
                request
            })
            .collect()
    });
    Peer { server, requests }
}

fn response(status: u16, kind: &str, more: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n{more}connection: close\r\n\r\n{body}"
    )
}

fn problem(status: u16, detail: &str) -> String {
    response(status, "application/problem+json", "", &json!({"title": "t", "detail": detail}).to_string())
}

fn registered(id: &str, status: &str) -> String {
    let body = json!({"device_id": id, "org": "acme", "fleet_url": "https://f.example", "status": status});
    response(201, "application/json", "", &body.to_string())
}

fn request<'a>(server: &HttpUrl, file: &'a Path) -> Request<'a> {
    Request {
        server: server.clone(),
        credential: Credential::Key(Secret::new(KEY.to_owned())),
        device_id: Some(DeviceId::new("studio-1").unwrap()),
        ca: None,
        config_file: Some(file),
    }
}

fn token_in(file: &Path) -> String {
    Config::load(Some(file)).unwrap().device_token.unwrap().expose().to_owned()
}

#[test]
fn a_new_device_makes_its_own_token_and_sends_only_its_hash() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("etc/fleet.conf");
    let peer = peer(vec![registered("studio-1", "awaiting_approval")]);
    let enrolled = enroll(&request(&peer.server, &file)).unwrap();
    assert_eq!((enrolled.org.as_str(), enrolled.status.as_str()), ("acme", "awaiting_approval"));

    let token = token_in(&file);
    let sent = peer.requests.join().unwrap().remove(0);
    assert!(sent.starts_with("POST /api/v1/devices/register HTTP/1.1"), "{sent}");
    assert!(sent.to_ascii_lowercase().contains(&format!("x-enrollment-key: {KEY}")), "{sent}");
    assert!(sent.contains(&hex(&Sha256::digest(&token))) && !sent.contains(&token), "{sent}");

    let config = Config::load(Some(&file)).unwrap();
    assert_eq!((config.org.as_str(), config.device_id.as_str()), ("acme", "studio-1"));
    assert_eq!(config.fleet_url, Some(peer.server));
    assert!(config.is_enrolled() && config.warnings.is_empty(), "{config:?}");
    assert!(fs::read_to_string(&file).unwrap().contains("# --- How often ---"));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn after_a_lost_answer_or_a_refusal_the_same_hash_is_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fleet.conf");
    let peer = peer(vec![String::new(), problem(503, "later"), registered("studio-1", "online")]);
    enroll(&request(&peer.server, &file)).unwrap_err();
    enroll(&request(&peer.server, &file)).unwrap_err();
    let waiting = fs::metadata(folder.path().join("fleet.conf.enrolling")).unwrap();
    assert_eq!(waiting.permissions().mode() & 0o777, 0o600);
    assert!(!file.exists());
    enroll(&request(&peer.server, &file)).unwrap();
    let hash = hex(&Sha256::digest(token_in(&file)));
    let sent = peer.requests.join().unwrap();
    assert!(sent.iter().all(|request| request.contains(&hash)), "{sent:?}");
}

#[test]
fn enrolling_again_at_the_same_server_keeps_the_token() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fleet.conf");
    let peer = peer(vec![registered("studio-1", "online"), registered("studio-1", "online")]);
    enroll(&request(&peer.server, &file)).unwrap();
    let (token, text) = (token_in(&file), fs::read_to_string(&file).unwrap());
    enroll(&request(&peer.server, &file)).unwrap();
    assert_eq!((token_in(&file), fs::read_to_string(&file).unwrap()), (token, text));
}

#[test]
fn a_refusal_by_another_server_leaves_the_enrolment_in_force_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fleet.conf");
    let old = "# mine\nFLEET_URL=https://old.example\nDEVICE_ID=studio-1\nDEVICE_TOKEN=";
    let old = format!("{old}{}\n", "a".repeat(64));
    fs::write(&file, &old).unwrap();
    let peer = peer(vec![problem(403, "used up"), registered("studio-1", "online")]);
    enroll(&request(&peer.server, &file)).unwrap_err();
    assert_eq!(fs::read_to_string(&file).unwrap(), old);
    enroll(&request(&peer.server, &file)).unwrap();
    assert_ne!(token_in(&file), "a".repeat(64));
    assert!(fs::read_to_string(&file).unwrap().starts_with("# mine\n"));
}

#[test]
fn every_refusal_says_what_to_do_and_never_shows_the_key() {
    let html = "<html>Welcome to our Wi-Fi</html>";
    let cases = [
        (problem(401, "unknown"), "does not accept this enrolment key: unknown. Copy it again"),
        (problem(403, "used up"), "refuses: used up. Run this again with a new key"),
        (problem(404, "no"), "there is no fleet server at"),
        (problem(409, "taken"), "the id studio-1: taken. Once an admin has allowed"),
        (
            response(
                422,
                "application/problem+json",
                "",
                r#"{"title":"bad","errors":[{"field":"arch","message":"odd"}]}"#,
            ),
            "bad; arch: odd",
        ),
        (response(429, "application/problem+json", "retry-after: 60\r\n", "{}"), "asks to wait 60 s"),
        (problem(500, "oops"), "trouble of its own (HTTP 500: oops)"),
        (response(200, "text/html; charset=utf-8", "", html), "wants a login first"),
        (response(511, "text/plain", "", ""), "wants a login first"),
        (
            response(302, "text/plain", "location: http://portal.example/\r\n", ""),
            "points to http://portal.example/",
        ),
        (response(200, "application/json", "", "[]"), "does not answer like a fleet server"),
        (registered("other", "online"), "it registered another id"),
        (response(201, "application/json", "", &"x".repeat(70_000)), "too long for a fleet server's"),
    ];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fleet.conf");
    for (answer, part) in cases {
        let peer = peer(vec![answer.clone()]);
        let error = enroll(&request(&peer.server, &file)).unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(error.to_string().contains(part), "{answer}: {error}");
        assert!(!text.contains(KEY), "{text}");
        assert!(!file.exists());
    }
}

#[test]
fn a_server_that_is_not_there_is_told_from_a_name_that_is_not_known() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fleet.conf");
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let at = |address: &str| enroll(&request(&address.parse().unwrap(), &file)).unwrap_err().to_string();
    let refused = at(&format!("http://{unused}"));
    assert!(refused.contains("127.0.0.1 refuses connections on port"), "{refused}");
    let unknown = at("http://no-such-host.invalid");
    assert!(unknown.contains("the name no-such-host.invalid is not known here"), "{unknown}");
}

#[test]
fn a_peer_without_proper_tls_is_not_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fleet.conf");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        let _ = stream.read(&mut [0; 1024]);
    });
    let error = enroll(&request(&format!("https://{address}").parse().unwrap(), &file)).unwrap_err();
    let text = error.to_string();
    // Without the system's list of authorities it fails even earlier, and says so.
    assert!(text.contains("no encrypted connection to") || text.contains("ca-certificates"), "{text}");
    drop(std::net::TcpStream::connect(address));
    thread.join().unwrap();
}

#[test]
fn a_key_that_is_none_is_noticed_before_anything_is_sent_or_written() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fleet.conf");
    let server: HttpUrl = "http://127.0.0.1:1".parse().unwrap();
    for bad in [String::new(), "two words".into(), "k".repeat(300), "k\u{e4}".into()] {
        let request = Request { credential: Credential::Key(Secret::new(bad)), ..request(&server, &file) };
        assert!(matches!(enroll(&request), Err(EnrollError::KeyForm)));
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
