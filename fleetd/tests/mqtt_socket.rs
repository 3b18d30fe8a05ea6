//! MQTT over WebSocket on the HTTP port: MQTT 3.1.1 and 5, section 6.
#![allow(clippy::unwrap_used)]

mod process;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use process::{PASSWORD, Server};
use tokio_tungstenite::tungstenite::handshake::client::{Request, generate_key};
use tokio_tungstenite::tungstenite::{self, Message, WebSocket};

type Refusal = tungstenite::http::Response<Option<Vec<u8>>>;

/// CONNECT of MQTT 3.1.1 as a person.
fn connect_packet() -> Vec<u8> {
    let text = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat();
    let body = [
        &text(b"MQTT")[..],
        &[4, 0b1100_0010, 0, 30],
        &text(b"a tool"),
        &text(b"admin@example.org"),
        &text(PASSWORD.as_bytes()),
    ]
    .concat();
    [&[0x10, u8::try_from(body.len()).unwrap()][..], &body].concat()
}

/// The WebSocket, or the status and headers of the refusal.
fn open(server: &Server, protocol: Option<&str>) -> Result<WebSocket<TcpStream>, Box<Refusal>> {
    let mut request = Request::builder()
        .uri(format!("ws://{}/mqtt", server.http))
        .header("host", server.http.to_string())
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", generate_key());
    if let Some(protocol) = protocol {
        request = request.header("sec-websocket-protocol", protocol);
    }
    let stream = TcpStream::connect(server.http).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    match tungstenite::client(request.body(()).unwrap(), stream) {
        Ok((socket, answer)) => {
            assert_eq!(answer.headers()["sec-websocket-protocol"], "mqtt");
            Ok(socket)
        }
        Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(answer))) => Err(answer),
        Err(other) => panic!("{other}"),
    }
}

/// The next binary frame; `None`: the end.
fn next(socket: &mut WebSocket<TcpStream>) -> Option<Vec<u8>> {
    loop {
        match socket.read() {
            Ok(Message::Binary(bytes)) => return Some(bytes.to_vec()),
            Ok(Message::Close(_)) | Err(_) => return None,
            Ok(_) => {}
        }
    }
}

#[test]
fn packets_come_in_frames_of_any_size() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let mut socket = open(&server, Some("chat, mqtt")).unwrap();
    for byte in connect_packet() {
        socket.send(Message::binary(vec![byte])).unwrap();
    }
    assert_eq!(next(&mut socket).unwrap(), [0x20, 2, 0, 0]);
    // Three pings in one frame, and a ping of the WebSocket between them and the answers.
    socket.send(Message::binary([0xc0, 0, 0xc0, 0, 0xc0, 0].to_vec())).unwrap();
    socket.send(Message::Ping(Vec::new().into())).unwrap();
    let mut answers = Vec::new();
    while answers.len() < 6 {
        answers.extend(next(&mut socket).unwrap());
    }
    assert_eq!(answers, [0xd0, 0, 0xd0, 0, 0xd0, 0]);
    socket.send(Message::binary([0xe0, 0].to_vec())).unwrap();
    assert_eq!(next(&mut socket), None);
}

#[test]
fn a_text_frame_ends_the_connection() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let mut socket = open(&server, Some("mqtt")).unwrap();
    socket.send(Message::binary(connect_packet())).unwrap();
    assert_eq!(next(&mut socket).unwrap(), [0x20, 2, 0, 0]);
    socket.send(Message::text("hello")).unwrap();
    assert_eq!(next(&mut socket), None);
}

#[test]
fn a_frame_larger_than_any_packet_ends_the_connection_and_the_server_lives() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let mut socket = open(&server, Some("mqtt")).unwrap();
    socket.send(Message::binary(connect_packet())).unwrap();
    assert_eq!(next(&mut socket).unwrap(), [0x20, 2, 0, 0]);
    // It may be cut off while it is sent.
    let _ = socket.send(Message::binary(vec![0; 2 << 20]));
    assert_eq!(next(&mut socket), None);
    assert!(open(&server, Some("mqtt")).is_ok());
}

#[test]
fn before_the_log_in_no_more_is_taken_than_a_log_in_has_and_after_it_large_packets_come_through() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    // A frame that says that it is long, and brings much of it: the rest stays with the client, until its time is over.
    let socket = open(&server, Some("mqtt")).unwrap();
    let mut stream = socket.into_inner();
    stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    let head = [&[0x82, 0x80 | 127][..], &290_000_u64.to_be_bytes(), &[0; 4]].concat();
    stream.write_all(&head).unwrap();
    // The system's own buffers take some of it.
    let _ = stream.write_all(&vec![0; 290_000 - 1]);
    let began = std::time::Instant::now();
    assert_eq!(stream.read(&mut [0; 64]).unwrap_or(0), 0, "it is closed without an answer");
    assert!(began.elapsed() > Duration::from_secs(5), "it was waited for: {:?}", began.elapsed());

    let mut socket = open(&server, Some("mqtt")).unwrap();
    socket.send(Message::binary(connect_packet())).unwrap();
    assert_eq!(next(&mut socket).unwrap(), [0x20, 2, 0, 0]);
    let topic = b"fleet/v1/default/operator/admin/command";
    let payload = vec![b' '; 250_000];
    let body =
        [&u16::try_from(topic.len()).unwrap().to_be_bytes()[..], topic, &1_u16.to_be_bytes(), &payload]
            .concat();
    let mut len = body.len();
    let mut packet = vec![0x32];
    while len >= 128 {
        packet.push(u8::try_from(len % 128).unwrap() | 128);
        len /= 128;
    }
    packet.push(u8::try_from(len).unwrap());
    packet.extend(body);
    socket.send(Message::binary(packet)).unwrap();
    assert_eq!(next(&mut socket).unwrap(), [0x40, 2, 0, 1]);
}

#[test]
fn what_is_no_websocket_or_not_for_mqtt_is_refused_with_what_to_do() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    for protocol in [None, Some("chat")] {
        assert_eq!(open(&server, protocol).unwrap_err().status(), 400);
    }
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let url = format!("http://{}/mqtt", server.http);
    let answer = agent.get(&url).call().unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["upgrade"].to_str().unwrap()), (426, "websocket"));
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    let answer = agent.post(&url).send_empty().unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["allow"].to_str().unwrap()), (405, "GET"));
    let answer =
        agent.get(&url).header("upgrade", "websocket").header("sec-websocket-protocol", "mqtt").call();
    assert_eq!(answer.unwrap().status().as_u16(), 400);
}
