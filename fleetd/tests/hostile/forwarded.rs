//! Where a request comes from, as a proxy says or as somebody would like it to be.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::json;

use crate::common::Server;

/// Fails to sign in with these raw header lines, and gives the address that the audit log has.
fn address(server: &Server, account: &str, lines: &[&[u8]]) -> String {
    let body = json!({"email": account, "password": "wrong wrong"}).to_string();
    let head = format!(
        "POST /api/v1/auth/login HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n",
        body.len()
    );
    let mut request = head.into_bytes();
    for line in lines {
        request.extend_from_slice(line);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    request.extend_from_slice(body.as_bytes());
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(&request).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    let sql = "SELECT ip_address FROM audit_log WHERE resource_id = ?1";
    let rows = server.runtime.block_on(server.app.store.query(sql, fleetd::values![account])).unwrap();
    rows[0].text("ip_address").unwrap()
}

const GARBAGE: &[&[u8]] = &[
    b"X-Forwarded-For: ",
    b"X-Forwarded-For: ,,,,",
    b"X-Forwarded-For: unknown",
    b"X-Forwarded-For: \xff\xfe\x80",
    b"X-Forwarded-For: 999.999.999.999",
    b"X-Forwarded-For: 1.2.3.4:99999",
    b"X-Forwarded-For: 127.0.0.1%0d%0aX: y",
    b"X-Forwarded-For: [::1",
    b"X-Forwarded-For: ' OR 1=1 --",
    b"X-Forwarded-For: 0x7f000001",
];

#[test]
fn nobody_else_is_believed_about_where_a_request_comes_from() {
    let server = Server::start();
    let forged: &[&[u8]] = &[
        b"X-Forwarded-For: 198.51.100.9",
        b"X-Forwarded-For: 127.0.0.1, 198.51.100.9",
        b"x-forwarded-for: ::1",
        b"Forwarded: for=198.51.100.9;proto=https",
        b"X-Real-IP: 198.51.100.9",
        b"X-Client-IP: 198.51.100.9",
        b"True-Client-IP: 198.51.100.9",
    ];
    for (n, line) in forged.iter().chain(GARBAGE).enumerate() {
        assert_eq!(address(&server, &format!("a{n}@example.org"), &[line]), "127.0.0.1");
    }
}

#[test]
fn behind_trusted_proxies_it_is_the_last_address_that_is_none_of_them() {
    let server = Server::start_with(|config| {
        config.trusted_proxies = vec!["127.0.0.1".parse().unwrap(), "192.0.2.0/24".parse().unwrap()];
    });
    let chains: &[(&[&[u8]], &str)] = &[
        (&[b"X-Forwarded-For: 198.51.100.9"], "198.51.100.9"),
        (&[b"X-Forwarded-For: 127.0.0.1, 198.51.100.9, 192.0.2.7"], "198.51.100.9"),
        (
            &[b"X-Forwarded-For: 10.0.0.1", b"X-Forwarded-For: 198.51.100.9", b"X-Forwarded-For: 192.0.2.7"],
            "198.51.100.9",
        ),
        (&[b"X-Forwarded-For: 192.0.2.8, 192.0.2.7"], "192.0.2.8"),
        (&[b"X-Forwarded-For: [2001:db8::1]:4711"], "2001:db8::1"),
        (&[b"X-Forwarded-For: ::ffff:198.51.100.9"], "198.51.100.9"),
        // What the client wrote before the proxy did: it hides nobody.
        (&[b"X-Forwarded-For: \xff\xfe, 198.51.100.9"], "198.51.100.9"),
        (&[b"X-Forwarded-For: \xff\xfe", b"X-Forwarded-For: 198.51.100.9"], "198.51.100.9"),
        (&[b"X-Forwarded-For: , , 198.51.100.9"], "198.51.100.9"),
        // Another header is not read: only one of them is what the proxy wrote.
        (&[b"Forwarded: for=203.0.113.66", b"X-Forwarded-For: 198.51.100.9"], "198.51.100.9"),
        (&[b"Forwarded: for=203.0.113.66"], "127.0.0.1"),
    ];
    for (n, (lines, expected)) in chains.iter().enumerate() {
        assert_eq!(address(&server, &format!("b{n}@example.org"), lines), *expected, "{n}");
    }
    for (n, line) in GARBAGE.iter().enumerate() {
        assert_eq!(address(&server, &format!("c{n}@example.org"), &[line]), "127.0.0.1", "{n}");
    }
    let long =
        [b"X-Forwarded-For: ".as_slice(), "192.0.2.1, ".repeat(2000).as_bytes(), b"192.0.2.1"].concat();
    assert_eq!(address(&server, "d@example.org", &[&long]), "192.0.2.1");
}
