//! What becomes of a link when the other end is not as it should be. Time is paused and jumps whenever nothing can
//! happen, so that long time-outs pass at once.
#![allow(clippy::unwrap_used)]

use protocol::topic::Downlink;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::*;

const CONNACK: [u8; 4] = [0x20, 2, 0, 0];
/// Allows all four filters of the second packet that a client sends; rumqttc numbers it 1.
const SUBACK: [u8; 8] = [0x90, 6, 0, 1, 1, 1, 1, 1];
const TOKEN: &str = "abababababababab";

fn settings(url: &str) -> LinkSettings {
    LinkSettings {
        to: Address::Broker(url.parse().unwrap()),
        org: OrgSlug::new("acme").unwrap(),
        device: DeviceId::new("studio-001").unwrap(),
        token: Some(Secret::new(TOKEN.to_owned())),
        connection: 1,
        will: b"will".to_vec(),
        tls: None,
        proxy: None,
        http: None,
        patience: Duration::from_secs(60),
    }
}

/// A link to a listener of ours, and the listener's end of it after these answers, one to each packet.
async fn connect(answers: &[&[u8]]) -> (Link, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("mqtt://{}", listener.local_addr().unwrap());
    let (link, transport) = Link::open(settings(&url)).unwrap();
    assert_eq!(transport, Transport::Mqtt);
    let (mut socket, _) = listener.accept().await.unwrap();
    let mut buffer = [0; 4096];
    for answer in answers {
        assert!(socket.read(&mut buffer).await.unwrap() > 0);
        socket.write_all(answer).await.unwrap();
    }
    (link, socket)
}

async fn end(link: &mut Link) -> String {
    loop {
        if let LinkEvent::Down(error) = link.event().await {
            assert!(!error.to_string().contains(TOKEN));
            return error.to_string();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_never_answers_the_connect_is_given_up_after_60_s() {
    let began = Instant::now();
    let (mut link, _socket) = connect(&[]).await;
    let error = end(&mut link).await;
    assert!(error.contains("does not answer (waited 60 s)"), "{error}");
    assert!(began.elapsed() >= Duration::from_secs(60) && began.elapsed() < Duration::from_secs(66));
}

#[tokio::test(start_paused = true)]
async fn a_network_that_swallows_packets_is_noticed_within_90_s() {
    let (mut link, _socket) = connect(&[&CONNACK, &SUBACK]).await;
    assert!(matches!(link.event().await, LinkEvent::Up));
    let began = Instant::now();
    let error = end(&mut link).await;
    assert!(error.contains("does not answer"), "{error}");
    assert!(began.elapsed() <= Duration::from_secs(90), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn only_a_link_that_has_said_nothing_else_pings() {
    let (mut link, mut socket) = connect(&[&CONNACK, &SUBACK]).await;
    assert!(matches!(link.event().await, LinkEvent::Up));
    let mut buffer = [0; 4096];
    let mut last = Instant::now();
    for publishes in [false, true, false] {
        if publishes {
            tokio::time::sleep(Duration::from_secs(25)).await;
            assert!(link.publish(Tag::Presence, Uplink::Presence, vec![1]));
            assert!(socket.read(&mut buffer).await.unwrap() > 0);
            assert_eq!(buffer[0], 0x33, "a retained publish, and no ping before it");
            socket.write_all(&[0x40, 2, 0, 2]).await.unwrap();
            assert!(matches!(link.event().await, LinkEvent::Receipt(Tag::Presence)));
            last = Instant::now();
        }
        assert_eq!(socket.read(&mut buffer).await.unwrap(), 2);
        assert_eq!(buffer[0], 0xc0, "a ping");
        let silence = last.elapsed().as_secs_f32();
        assert!((30.0..45.0).contains(&silence), "within the time that the broker allows: {silence} s");
        socket.write_all(&[0xd0, 0]).await.unwrap();
        last = Instant::now();
    }
}

#[tokio::test]
async fn a_filter_that_is_refused_ends_the_link_and_is_named() {
    let refused = [0x90, 6, 0, 1, 1, 1, 0x80, 1];
    let (mut link, _socket) = connect(&[&CONNACK, &refused]).await;
    let error = end(&mut link).await;
    assert!(error.contains("subscribe to fleet/v1/acme/device/studio-001/ack"), "{error}");
}

#[tokio::test]
async fn every_refusal_of_the_connect_says_what_to_do() {
    for (code, words) in [
        (1, "does not speak MQTT 3.1.1"),
        (2, "does not like the device's name"),
        (3, "not ready"),
        (4, "enrol it again"),
        (5, "enrol it again"),
    ] {
        let (mut link, _socket) = connect(&[&[0x20, 2, 0, code]]).await;
        let error = end(&mut link).await;
        assert!(error.contains(words), "{code}: {error}");
    }
}

#[tokio::test]
async fn an_end_that_speaks_no_mqtt_is_named_and_its_words_are_cut_short() {
    let page = format!("HTTP/1.1 400 Bad Request\r\nContent-Length: 900\r\n\r\n{}", "x".repeat(900));
    let (mut link, _socket) = connect(&[page.as_bytes()]).await;
    let error = end(&mut link).await;
    assert!(error.contains("does not keep to MQTT") && error.len() < 500, "{error}");
}

#[tokio::test]
async fn a_packet_over_the_limit_ends_the_link_before_it_is_taken_in() {
    // A publish that announces 128 MiB.
    let (mut link, mut socket) = connect(&[&CONNACK, &SUBACK]).await;
    socket.write_all(&[0x30, 0xff, 0xff, 0xff, 0x3f]).await.unwrap();
    let error = end(&mut link).await;
    assert!(error.contains("does not keep to MQTT"), "{error}");
}

#[tokio::test]
async fn a_closed_connection_and_a_closed_port_are_told_apart() {
    let (mut link, socket) = connect(&[&CONNACK, &SUBACK]).await;
    drop(socket);
    let error = end(&mut link).await;
    assert!(error.contains("closed the connection"), "{error}");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("mqtt://{}", listener.local_addr().unwrap());
    drop(listener);
    let (mut link, _) = Link::open(settings(&url)).unwrap();
    let error = end(&mut link).await;
    assert!(error.contains("cannot reach") && error.contains("firewall"), "{error}");
    assert!(matches!(link.event().await, LinkEvent::Down(LinkError::Ended)), "and nothing follows");
}

#[tokio::test]
async fn a_name_that_nobody_knows_is_named() {
    // No name ends in a label that is reserved for this (RFC 6761).
    let (mut link, _) = Link::open(settings("mqtt://nobody.invalid")).unwrap();
    let error = end(&mut link).await;
    assert!(error.contains("the name nobody.invalid is not known") && error.contains("DNS"), "{error}");
}

#[tokio::test]
async fn a_certificate_of_somebody_else_is_told_in_the_same_words_with_and_without_a_web_socket() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let chain = vec![key.cert.der().clone()];
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key.signing_key.serialize_der().try_into().unwrap())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            // The client ends it.
            let _ = acceptor.accept(socket).await;
        }
    });
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let client = Arc::new(client);
    for scheme in ["mqtts", "wss"] {
        let url = format!("{scheme}://localhost:{port}{}", if scheme == "wss" { "/mqtt" } else { "" });
        let tls = Some(Arc::clone(&client));
        let (mut link, _) = Link::open(LinkSettings { tls, ..settings(&url) }).unwrap();
        let error = end(&mut link).await;
        assert!(error.contains("UnknownIssuer") && error.contains("wants a login first"), "{error}");
    }
}

#[tokio::test]
async fn receipts_name_the_packets_that_they_are_for_in_whatever_order_they_come() {
    let (mut link, mut socket) = connect(&[&CONNACK, &SUBACK]).await;
    assert!(matches!(link.event().await, LinkEvent::Up));
    assert!(link.publish(Tag::Packet(PacketId(7)), Uplink::Birth, vec![1]));
    assert!(link.publish(Tag::Packet(PacketId(8)), Uplink::Event, vec![2]));
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    while seen.windows(6).filter(|window| window == b"acme/d").count() < 2 {
        let read = socket.read(&mut buffer).await.unwrap();
        seen.extend_from_slice(&buffer[..read]);
    }
    // The subscription was number 1, so these are 2 and 3.
    socket.write_all(&[0x40, 2, 0, 3, 0x40, 2, 0, 2]).await.unwrap();
    for expected in [8, 7] {
        match link.event().await {
            LinkEvent::Receipt(tag) => assert_eq!(tag, Tag::Packet(PacketId(expected))),
            other => panic!("a receipt, not {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_topic_of_a_newer_server_is_passed_over() {
    let (mut link, mut socket) = connect(&[&CONNACK, &SUBACK]).await;
    assert!(matches!(link.event().await, LinkEvent::Up));
    for topic in ["fleet/v1/acme/device/studio-001/newer", "fleet/v1/acme/device/studio-001/ack"] {
        let length = u8::try_from(topic.len()).unwrap();
        socket.write_all(&[0x30, length + 2 + 1, 0, length]).await.unwrap();
        socket.write_all(topic.as_bytes()).await.unwrap();
        socket.write_all(b"x").await.unwrap();
    }
    match link.event().await {
        LinkEvent::Message { topic: Topic::ToDevice { downlink, .. }, payload, retained } => {
            assert_eq!((downlink, payload.as_slice(), retained), (Downlink::Ack, &b"x"[..], false));
        }
        other => panic!("the acknowledgement, not {other:?}"),
    }
}

#[test]
fn an_address_that_this_agent_cannot_connect_to_is_refused_by_name() {
    for url in ["mqtts://broker.example", "wss://broker.example/mqtt", "ws://broker.example/mqtt"] {
        let error = Link::open(settings(url)).unwrap_err().to_string();
        assert!(error.contains(url), "{error}");
    }
}

#[test]
fn the_settings_do_not_show_the_token() {
    assert!(!format!("{:?}", settings("mqtt://broker.example")).contains(TOKEN));
}
