//! What becomes of a link by HTTP exchange when the server answers this or that.
#![allow(clippy::unwrap_used)]

use protocol::id::{DeviceId, OrgSlug};
use protocol::topic::{Downlink, Topic};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;
use crate::config::{Config, Secret};
use crate::link::Link;
use crate::uplink::PacketId;

const TOKEN: &str = "abababababababab";
const SOON: Duration = Duration::from_secs(10);

/// The other end.
struct Server {
    listener: TcpListener,
}

/// One request.
#[derive(Debug)]
struct Request {
    socket: TcpStream,
    path: String,
    messages: Exchange,
}

impl Server {
    async fn new() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    fn link(&self) -> Link {
        let url = format!("http://{}", self.listener.local_addr().unwrap());
        let text = format!("FLEET_URL={url}\n");
        let config =
            Config::from_parts(Some((std::path::Path::new("x"), &text)), &Vec::new(), "host").unwrap();
        let server: HttpUrl = url.parse().unwrap();
        let settings = LinkSettings {
            http: Some(http::client(&config, &server).unwrap()),
            to: Address::Exchange(server),
            org: OrgSlug::new("acme").unwrap(),
            device: DeviceId::new("studio-001").unwrap(),
            token: Some(Secret::new(TOKEN.to_owned())),
            connection: 7,
            will: Vec::new(),
            tls: None,
            proxy: None,
            patience: Duration::from_secs(5),
        };
        Link::open(settings).unwrap().0
    }

    async fn request(&self) -> Request {
        let (mut socket, _) = timeout(SOON, self.listener.accept()).await.unwrap().unwrap();
        let mut bytes = Vec::new();
        loop {
            let mut headers = [httparse::EMPTY_HEADER; 32];
            let mut head = httparse::Request::new(&mut headers);
            if let httparse::Status::Complete(length) = head.parse(&bytes).unwrap() {
                let header = |name: &str| {
                    head.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name)).map(|h| h.value)
                };
                let announced =
                    std::str::from_utf8(header("content-length").unwrap()).unwrap().parse::<usize>().unwrap();
                if bytes.len() >= length + announced {
                    assert_eq!(header("x-device-token"), Some(TOKEN.as_bytes()));
                    let messages = codec::decode(&bytes[length..], limit::EXCHANGE_BYTES).unwrap();
                    return Request { path: head.path.unwrap().to_owned(), messages, socket };
                }
            }
            assert!(socket.read_buf(&mut bytes).await.unwrap() > 0);
        }
    }

    /// Answers the first question, whether the way is free.
    async fn welcome(&self) -> Link {
        let mut link = self.link();
        let first = self.request().await;
        assert_eq!(first.path, "/api/v1/devices/studio-001/exchange?wait_seconds=0&connection=7");
        assert!(first.messages.0.is_empty());
        first.answer(&[]).await;
        assert!(matches!(link.event().await, LinkEvent::Up));
        link
    }

    /// As [`Self::welcome`], and takes a birth.
    async fn begin(&self) -> (Link, Request) {
        let mut link = self.welcome().await;
        assert!(link.publish(Tag::Packet(PacketId(1)), Uplink::Birth, vec![1]));
        let birth = self.request().await;
        assert_eq!(birth.messages.0, [message("birth", &[1])]);
        birth.answer(&[]).await;
        assert!(matches!(link.event().await, LinkEvent::Receipt(Tag::Packet(PacketId(1)))));
        let poll = self.request().await;
        assert!(poll.path.contains("wait_seconds=55") && poll.messages.0.is_empty(), "{}", poll.path);
        (link, poll)
    }
}

impl Request {
    async fn answer(self, messages: &[ExchangeMessage]) {
        let body = codec::encode_named(&Exchange(messages.to_vec())).unwrap();
        self.say("200 OK", "application/cbor", &body).await;
    }

    async fn say(mut self, status: &str, kind: &str, body: &[u8]) {
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        self.socket.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
    }
}

fn message(suffix: &str, payload: &[u8]) -> ExchangeMessage {
    ExchangeMessage(suffix.to_owned(), Bytes(payload.to_vec()))
}

async fn end(link: &mut Link) -> LinkError {
    loop {
        if let LinkEvent::Down(error) = timeout(SOON, link.event()).await.unwrap() {
            assert!(!format!("{error} {error:?}").contains(TOKEN));
            return error;
        }
    }
}

#[test]
fn a_network_that_swallows_packets_is_noticed_within_90_s() {
    assert!(LONGEST_WAIT + SLACK <= Duration::from_secs(90) && SEND_TIMEOUT <= Duration::from_secs(90));
}

#[tokio::test]
async fn what_is_said_gets_a_receipt_and_what_the_server_says_is_heard_at_once() {
    let server = Server::new().await;
    let (mut link, poll) = server.begin().await;
    poll.answer(&[message("ack", b"a"), message("newer", b"n"), message("server/fleet-1", b"{}")]).await;
    for expected in ["fleet/v1/acme/device/studio-001/ack", "fleet/v1/server/fleet-1"] {
        let event = timeout(SOON, link.event()).await.unwrap();
        assert!(
            matches!(event, LinkEvent::Message { topic, .. } if topic.to_string() == expected),
            "{expected}"
        );
    }
    // It waits again at once, and says things meanwhile.
    let _poll = server.request().await;
    for n in 2..5 {
        assert!(link.publish(Tag::Packet(PacketId(n)), Uplink::Heartbeat, vec![9]));
    }
    let mut said = 0;
    while said < 3 {
        let request = server.request().await;
        said += request.messages.0.len();
        request.answer(&[message("command", b"c")]).await;
    }
    let mut receipts = Vec::new();
    while receipts.len() < 3 {
        match timeout(SOON, link.event()).await.unwrap() {
            LinkEvent::Receipt(Tag::Packet(id)) => receipts.push(id.0),
            LinkEvent::Message { topic: Topic::ToDevice { downlink, .. }, .. } => {
                assert_eq!(downlink, Downlink::Command)
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(receipts, [2, 3, 4]);
}

#[tokio::test]
async fn every_answer_that_is_none_says_what_to_do() {
    for (status, kind, words) in [
        ("401 Unauthorized", "application/problem+json", "refuses this device's token"),
        ("404 Not Found", "application/problem+json", "has no HTTP exchange"),
        ("409 Conflict", "application/problem+json", "closed the connection"),
        ("503 Service Unavailable", "application/problem+json", "answered 503"),
        ("200 OK", "text/html", "web page"),
        ("511 Network Authentication Required", "text/plain", "wants a login"),
        ("200 OK", "application/cbor", "does not keep to"),
    ] {
        let server = Server::new().await;
        let mut link = server.link();
        server.request().await.say(status, kind, b"").await;
        let error = end(&mut link).await;
        assert!(error.to_string().contains(words), "{status}: {error}");
        assert_eq!(error.is_credentials(), status.starts_with("401"));
    }
    let server = Server::new().await;
    let mut link = server.link();
    drop(server.request().await);
    assert!(matches!(end(&mut link).await, LinkError::Closed { .. }));
    let mut link = server.link();
    drop(server);
    let error = end(&mut link).await.to_string();
    assert!(error.contains("refuses connections") || error.contains("closed the connection"), "{error}");
}

#[tokio::test]
async fn a_server_that_does_not_know_the_connection_any_more_ends_the_link() {
    let server = Server::new().await;
    let (mut link, poll) = server.begin().await;
    poll.say("409 Conflict", "application/problem+json", b"{}").await;
    assert!(matches!(end(&mut link).await, LinkError::Closed { .. }));
}

#[tokio::test]
async fn a_link_that_is_dropped_hangs_up_at_once_and_waits_for_nothing() {
    let server = Server::new().await;
    let (link, mut poll) = server.begin().await;
    drop(link);
    let read = timeout(SOON, poll.socket.read_u8()).await.expect("the request is cut off");
    assert!(read.is_err());
}

#[tokio::test]
async fn a_goodbye_is_said_and_its_receipt_is_waited_for() {
    let server = Server::new().await;
    let (link, _poll) = server.begin().await;
    let closing = tokio::spawn(link.close(vec![0], SOON));
    let goodbye = server.request().await;
    assert_eq!(goodbye.messages.0, [message("presence", &[0])]);
    goodbye.answer(&[]).await;
    timeout(SOON, closing).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_cuts_what_stands_idle_gets_shorter_requests_until_they_are_too_short() {
    let (_orders, orders) = mpsc::channel(1);
    let server = Server { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() };
    let url = format!("http://{}", server.listener.local_addr().unwrap());
    let settings = LinkSettings {
        http: Some(ureq::Agent::new_with_defaults()),
        to: Address::Exchange(url.parse().unwrap()),
        org: OrgSlug::new("acme").unwrap(),
        device: DeviceId::new("studio-001").unwrap(),
        token: Some(Secret::new(TOKEN.to_owned())),
        connection: 7,
        will: Vec::new(),
        tls: None,
        proxy: None,
        patience: SOON,
    };
    let to = settings.to.clone();
    let mut connection = Connection::new(settings, orders).unwrap();
    let closed = || LinkError::Closed { url: to.clone() };
    let gateway = || LinkError::Status { url: to.clone(), status: 504, detail: String::new() };
    assert!(connection.wait_less(closed(), Duration::from_secs(1)).is_err(), "that was no idleness");
    assert!(connection.wait_less(closed(), Duration::from_secs(30)).is_ok());
    assert_eq!(connection.wait, Duration::from_secs(15));
    assert!(connection.wait_less(gateway(), Duration::from_secs(6)).is_ok());
    assert_eq!(connection.wait, SHORTEST_WAIT);
    assert!(connection.wait_less(closed(), Duration::from_secs(5)).is_err());
    let silent = LinkError::Silent { url: to.clone(), waited: SOON };
    connection.wait = LONGEST_WAIT;
    assert!(
        connection.wait_less(silent, Duration::from_secs(30)).is_err(),
        "a network that swallows packets"
    );
}
