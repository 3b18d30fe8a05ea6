//! What holds for every route, whoever asks: bounds, careful headers, no other origins.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::common::{Answer, Server};

fn paths() -> Vec<(String, String)> {
    let fill = |path: &str| {
        let named = path.split('/').map(|part| if part.starts_with('{') { "cam-1" } else { part });
        named.collect::<Vec<_>>().join("/")
    };
    fleetd::http::paths().iter().map(|(method, path)| (method.to_string(), fill(path))).collect()
}

fn careful(answer: &Answer, what: &str) {
    let header = |name: &str| answer.headers.get(name).map(String::as_str).unwrap_or_default();
    assert_eq!(header("x-content-type-options"), "nosniff", "{what}");
    assert_eq!(header("x-frame-options"), "DENY", "{what}");
    assert_eq!(header("referrer-policy"), "no-referrer", "{what}");
    assert_eq!(header("cross-origin-opener-policy"), "same-origin", "{what}");
    let policy = header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{what}: {policy}");
    let shared = answer.headers.keys().find(|name| name.starts_with("access-control-"));
    assert!(shared.is_none(), "{what}: {shared:?}");
}

#[test]
fn every_route_is_bounded_has_careful_headers_and_no_other_origin() {
    let server = Server::start_with(|config| config.rate_limit_requests = 100_000);
    server.superadmin("default", "anna");
    let device = server.device("anna", "cam-1");
    let big = vec![b' '; 70 * 1024];
    let evil = "https://evil.example";
    for (method, path) in paths() {
        let what = format!("{method} {path}");
        let call = |method: &str| server.call(method, &path).header("origin", evil);
        // Without credentials, with those that will do, by another method, and as a browser asks before.
        careful(&call(&method).send(), &what);
        careful(&call("BREW").send(), &what);
        let preflight = call("OPTIONS").header("access-control-request-method", &method);
        let preflight = preflight.header("access-control-request-headers", "authorization").send();
        preflight.is_problem(405);
        careful(&preflight, &what);
        let long =
            server.call(&method, &format!("{path}?q={}", "a".repeat(9000))).header("origin", evil).send();
        long.is_problem(414);
        careful(&long, &what);
        // The exchange takes more: `exchange.rs`.
        if method != "GET" && !path.ends_with("/exchange") {
            let json =
                |call: crate::common::Call<'_>| call.header("content-type", "application/json").bytes(&big);
            let by_person = json(call(&method).by_person("anna"));
            let answer =
                if by_person.status == 403 { json(call(&method).by_device(&device)) } else { by_person };
            assert_eq!(answer.status, 413, "{what}: {}", answer.text);
            careful(&answer, &what);
        }
    }
    assert_eq!(
        server.get("/api/v1/devices/cam-1").by_person("anna").send().status,
        200,
        "nothing was changed"
    );
}

/// Sends bytes and gives what comes back until the end.
fn raw(server: &Server, bytes: &[u8]) -> (String, Duration) {
    let begun = Instant::now();
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // It may be refused before all of it was sent.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    (String::from_utf8_lossy(&answer).into_owned(), begun.elapsed())
}

#[test]
fn headers_that_are_too_large_or_too_many_are_431() {
    let server = Server::start();
    let large = format!("GET /health HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "a".repeat(100_000));
    let many: String = (0..100).map(|n| format!("x-{n}: y\r\n")).collect();
    for request in [large, format!("GET /health HTTP/1.1\r\nhost: x\r\n{many}\r\n")] {
        let (answer, _) = raw(&server, request.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
    assert_eq!(server.get("/health").send().status, 200);
}

#[test]
fn a_body_or_a_header_that_never_ends_is_given_up() {
    let server = Server::start();
    let head = "POST /api/v1/auth/login HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n";
    std::thread::scope(|scope| {
        let body = scope.spawn(|| raw(&server, format!("{head}content-length: 100\r\n\r\n{{").as_bytes()));
        let chunked = scope
            .spawn(|| raw(&server, format!("{head}transfer-encoding: chunked\r\n\r\n5\r\n{{").as_bytes()));
        let header = scope.spawn(|| raw(&server, head.as_bytes()));
        for (answer, took) in [body.join().unwrap(), chunked.join().unwrap()] {
            assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("nosniff"), "{answer}");
            assert!(took < Duration::from_secs(40), "{took:?}");
        }
        let (_, took) = header.join().unwrap();
        assert!(took < Duration::from_secs(40), "{took:?}");
    });
}
