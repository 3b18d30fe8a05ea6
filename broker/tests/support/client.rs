//! A blocking MQTT client that sends whatever it is told to, right or wrong, and waits with a deadline.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::wire::{self, Connect, Publish, Received, Version, kind};

/// How long an answer may take on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How long to look for something that must not come.
pub const SILENCE: Duration = Duration::from_millis(250);

/// What a wait ended with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A packet.
    Packet(Received),
    /// The server closed or reset the connection.
    Closed,
    /// Nothing came in time.
    Silence,
}

/// One connection.
pub struct Client {
    stream: TcpStream,
    version: Version,
    buffer: Vec<u8>,
    /// Packets that came while another one was waited for.
    early: VecDeque<Received>,
    next_id: u16,
}

impl Client {
    /// A TCP connection that has sent nothing.
    pub fn silent(address: SocketAddr, version: Version) -> Client {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Client { stream, version, buffer: Vec::new(), early: VecDeque::new(), next_id: 0 }
    }

    /// Sends a CONNECT and returns the client with the CONNACK's code and "session present".
    pub fn attempt(address: SocketAddr, connect: &Connect) -> (Client, u8, bool) {
        let mut client = Client::silent(address, connect.version);
        client.send(connect.encode());
        match client.receive() {
            Received::ConnAck { code, session_present, .. } => (client, code, session_present),
            other => panic!("expected CONNACK, got {other:?}"),
        }
    }

    /// Connects; panics unless the server accepts.
    pub fn connect(address: SocketAddr, connect: &Connect) -> Client {
        let (client, code, _) = Client::attempt(address, connect);
        assert_eq!(code, 0, "refused: {connect:?}");
        client
    }

    /// The TCP stream, for socket options and half-closing.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// A packet id not used before on this connection.
    pub fn next_id(&mut self) -> u16 {
        self.next_id += 1;
        self.next_id
    }

    /// Sends bytes; panics if the server has gone.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// Sends bytes, whether or not the server still reads.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// Waits for the next packet, the end, or the deadline.
    pub fn wait(&mut self, within: Duration) -> Outcome {
        match self.early.pop_front() {
            Some(packet) => Outcome::Packet(packet),
            None => self.wait_for_new(within),
        }
    }

    /// Waits for one packet and keeps what comes before it for [`Client::wait`].
    pub fn receive_first(&mut self, wanted: &Received) {
        let mut before = VecDeque::new();
        loop {
            match self.wait(PATIENCE) {
                Outcome::Packet(packet) if packet == *wanted => break,
                Outcome::Packet(packet) => before.push_back(packet),
                other => panic!("expected {wanted:?}, got {other:?} after {before:?}"),
            }
        }
        before.append(&mut self.early);
        self.early = before;
    }

    fn wait_for_new(&mut self, within: Duration) -> Outcome {
        let deadline = Instant::now() + within;
        loop {
            if let Some((first, body)) = wire::take_frame(&mut self.buffer) {
                return Outcome::Packet(wire::parse(self.version, first, &body));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Outcome::Silence;
            }
            self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1)))).unwrap();
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Outcome::Closed,
                Ok(count) => self.buffer.extend(&chunk[..count]),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {}
                    _ => return Outcome::Closed,
                },
            }
        }
    }

    /// Everything up to the end of the connection as bytes; `None` if it stays open.
    pub fn wait_raw(&mut self, within: Duration) -> Option<Vec<u8>> {
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            self.stream.set_read_timeout(Some(left)).unwrap();
            let mut chunk = [0; 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Some(std::mem::take(&mut self.buffer)),
                Ok(count) => self.buffer.extend(&chunk[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return Some(std::mem::take(&mut self.buffer)),
            }
        }
    }

    /// The next packet; panics on an end or on silence.
    pub fn receive(&mut self) -> Received {
        match self.wait(PATIENCE) {
            Outcome::Packet(packet) => packet,
            other => panic!("expected a packet, got {other:?}"),
        }
    }

    /// The next packet, which must be a PUBLISH: topic, payload, QoS, retain. It is acknowledged as its QoS wants.
    pub fn message(&mut self) -> Message {
        let received = self.receive();
        self.accept(received)
    }

    /// Like [`Client::message`] for a packet already received.
    pub fn accept(&mut self, received: Received) -> Message {
        let Received::Publish { topic, payload, qos, retain, id, properties, .. } = received else {
            panic!("expected PUBLISH, got {received:?}");
        };
        match qos {
            0 => {}
            1 => self.send(wire::acknowledge(kind::PUBACK, id)),
            _ => {
                self.send(wire::acknowledge(kind::PUBREC, id));
                self.receive_first(&Received::PubRel { id, code: 0 });
                self.send(wire::acknowledge(kind::PUBCOMP, id));
            }
        }
        Message { topic, payload: payload.0, qos, retain, properties }
    }

    /// Asserts that nothing comes for [`SILENCE`] and that the connection stays open.
    pub fn expect_silence(&mut self) {
        assert_eq!(self.wait(SILENCE), Outcome::Silence);
    }

    /// Asserts that the server closes: in MQTT 5 after a DISCONNECT with one of `codes` (an empty slice: any, or none).
    pub fn expect_end(&mut self, codes: &[u8]) {
        let mut said = None;
        loop {
            match self.wait(PATIENCE) {
                Outcome::Packet(Received::Disconnect { code }) => said = Some(code),
                Outcome::Packet(_) => {}
                Outcome::Closed => break,
                Outcome::Silence => panic!("the connection stays open"),
            }
        }
        if self.version == Version::V5 && !codes.is_empty() {
            let code = said.expect("a DISCONNECT with its reason before the end");
            assert!(codes.contains(&code), "DISCONNECT {code:#04x}, expected one of {codes:#04x?}");
        }
    }

    /// Subscribes at a QoS; returns the codes of SUBACK.
    pub fn subscribe(&mut self, filters: &[&str], qos: u8) -> Vec<u8> {
        let filters: Vec<_> = filters.iter().map(|filter| (*filter, qos)).collect();
        let id = self.next_id();
        self.send(wire::subscribe(self.version, id, &filters, &[]));
        match self.receive() {
            Received::SubAck { id: of, codes } if of == id => codes,
            other => panic!("expected SUBACK {id}, got {other:?}"),
        }
    }

    /// Unsubscribes; returns the codes of UNSUBACK (none in MQTT 3.1.1).
    pub fn unsubscribe(&mut self, filters: &[&str]) -> Vec<u8> {
        let id = self.next_id();
        self.send(wire::unsubscribe(self.version, id, filters));
        match self.receive() {
            Received::UnsubAck { id: of, codes } if of == id => codes,
            other => panic!("expected UNSUBACK {id}, got {other:?}"),
        }
    }

    /// Publishes to the end of its QoS; returns the code of PUBACK or PUBREC (0 for QoS 0).
    pub fn publish(&mut self, mut publish: Publish) -> u8 {
        if publish.qos > 0 && publish.id == 0 {
            publish.id = self.next_id();
        }
        self.send(publish.encode(self.version));
        let id = publish.id;
        match publish.qos {
            0 => 0,
            1 => match self.receive() {
                Received::PubAck { id: of, code } if of == id => code,
                other => panic!("expected PUBACK {id}, got {other:?}"),
            },
            _ => match self.receive() {
                Received::PubRec { id: of, code } if of == id && code >= 0x80 => code,
                Received::PubRec { id: of, code } if of == id => {
                    self.send(wire::acknowledge(kind::PUBREL, id));
                    assert_eq!(self.receive(), Received::PubComp { id, code: 0 });
                    code
                }
                other => panic!("expected PUBREC {id}, got {other:?}"),
            },
        }
    }

    /// One round trip: everything that was sent before has been handled.
    pub fn ping(&mut self) {
        self.send([kind::PINGREQ, 0]);
        assert_eq!(self.receive(), Received::PingResp);
    }

    /// Says goodbye and closes. The will is not published.
    pub fn disconnect(mut self) {
        self.send([kind::DISCONNECT, 0]);
    }

    /// Closes without goodbye, by FIN.
    pub fn vanish(self) {}

    /// Resets the connection (RST).
    pub fn reset(self) {
        nix::sys::socket::setsockopt(
            &self.stream,
            nix::sys::socket::sockopt::Linger,
            &nix::libc::linger { l_onoff: 1, l_linger: 0 },
        )
        .unwrap();
    }
}

/// A message as delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
    pub properties: Vec<u8>,
}

impl Message {
    /// The payload as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }
}
