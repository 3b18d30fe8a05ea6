//! Looks, names, connections and handshakes with time limits. The thin edge: what it finds is judged elsewhere.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ProtocolVersion, StreamOwned};

use super::certificate::Facts;
use super::judge::{Attempt, Handshake, Lookup, Problem, Spoken};
use super::mqtt::{self, Upgraded};
use crate::certificate::{self, Issued};
use crate::config::Config;
use crate::tls::{self, Identity};

/// How long a name may take.
const DNS_TIME: Duration = Duration::from_secs(6);
/// How long one address may take.
const TCP_TIME: Duration = Duration::from_secs(5);
/// How long a handshake or an answer may take.
const ANSWER_TIME: Duration = Duration::from_secs(6);
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 3;

/// When the steps of one address have to be over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(Instant);

impl Deadline {
    pub(super) fn after(time: Duration) -> Self {
        Self(Instant::now() + time)
    }

    /// What is left, at most `most`.
    pub(super) fn left(self, most: Duration) -> Duration {
        self.0.saturating_duration_since(Instant::now()).min(most)
    }
}

/// Looks a name up, on a thread that is left alone when it takes too long.
pub(super) fn look_up(host: &str, port: u16, deadline: Deadline) -> Lookup {
    let (found, answer) = mpsc::sync_channel(1);
    let name = host.to_owned();
    let time = deadline.left(DNS_TIME);
    let looker = std::thread::Builder::new().name("dns".to_owned()).spawn(move || {
        // Nobody waits any more: nobody wants to know.
        let _ = found.send((name.as_str(), port).to_socket_addrs().map(Iterator::collect));
    });
    if let Err(error) = looker {
        return Lookup::Failed(format!("the system gives no thread: {error}"));
    }
    match answer.recv_timeout(time) {
        Ok(Ok(addresses)) => Lookup::Found(addresses),
        Ok(Err(error)) => {
            let text = error.to_string();
            Lookup::Failed(text.rsplit(": ").next().unwrap_or(&text).to_owned())
        }
        Err(_) => Lookup::TimedOut(time),
    }
}

/// Tries one address after the other, as the agent does.
pub(super) fn connect(addresses: &[SocketAddr], deadline: Deadline) -> (Vec<Attempt>, Option<TcpStream>) {
    let mut attempts = Vec::new();
    for address in addresses.iter().take(ADDRESSES_MAX) {
        let time = deadline.left(TCP_TIME);
        if time.is_zero() {
            break;
        }
        let began = Instant::now();
        match TcpStream::connect_timeout(address, time) {
            Ok(stream) => {
                attempts.push((*address, Ok(began.elapsed())));
                return (attempts, Some(stream));
            }
            Err(error) => attempts.push((*address, Err(error))),
        }
    }
    (attempts, None)
}

/// A connection whose every wait ends in time.
#[derive(Debug)]
pub(super) struct Timed {
    stream: TcpStream,
    deadline: Deadline,
}

impl Timed {
    pub(super) fn new(stream: TcpStream, deadline: Deadline) -> Self {
        Self { stream, deadline: Deadline::after(deadline.left(ANSWER_TIME)) }
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.deadline.left(ANSWER_TIME);
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(buffer)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// With encryption or without.
pub(super) trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// Begins an encrypted connection. What the peer shows is kept although it may not be trusted; nothing is said to it then.
pub(super) fn encrypt(
    config: &Config,
    host: &str,
    mut stream: Box<dyn Stream>,
) -> (Handshake, Option<Box<dyn Stream>>) {
    let failed = |problem| Handshake { version: None, certificate: None, problem: Some(problem) };
    // One of the agent's own that cannot be used counts as none, as the agent has it.
    let identity = match certificate::is_ours(config) {
        true => Ok(Issued::stored(config).map(|issued| issued.identity)),
        false => Identity::configured(config),
    };
    let (client, witness) = match identity.and_then(|identity| tls::witnessed_config(config, identity)) {
        Ok(made) => made,
        Err(error) => return (failed(Problem::Setup(crate::http::with_causes(&error))), None),
    };
    let made = ServerName::try_from(host.to_owned())
        .map_err(|error| error.to_string())
        .and_then(|name| ClientConnection::new(client, name).map_err(|error| error.to_string()));
    let mut connection = match made {
        Ok(connection) => connection,
        Err(problem) => return (failed(Problem::Setup(problem)), None),
    };
    let mut outcome = Ok(());
    while connection.is_handshaking() && outcome.is_ok() {
        outcome = connection.complete_io(&mut stream).map(drop);
    }
    let version = match connection.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => Some("TLS 1.3"),
        Some(ProtocolVersion::TLSv1_2) => Some("TLS 1.2"),
        _ => None,
    };
    let certificate = witness.certificate().and_then(Facts::of);
    match outcome {
        Ok(()) => {
            let handshake = Handshake { version, certificate, problem: None };
            (handshake, Some(Box::new(StreamOwned::new(connection, stream))))
        }
        Err(error) => {
            let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).cloned();
            let problem = tls.map_or_else(|| Problem::Io(error), Problem::Tls);
            (Handshake { version, certificate, problem: Some(problem) }, None)
        }
    }
}

/// Where MQTT is spoken: bare, or in a WebSocket at this host and path.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inside<'a> {
    pub(super) websocket: Option<(&'a str, &'a str)>,
}

/// Says `connect` and hears the answer; says goodbye after a log-in.
pub(super) fn speak(stream: &mut dyn Stream, inside: Inside<'_>, connect: &[u8]) -> Spoken {
    speak_or_fail(stream, inside, connect).unwrap_or_else(|error| match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Spoken::Silent,
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            Spoken::Closed
        }
        _ => Spoken::Failed(error.to_string()),
    })
}

fn speak_or_fail(stream: &mut dyn Stream, inside: Inside<'_>, connect: &[u8]) -> io::Result<Spoken> {
    let mut heard = Vec::new();
    if let Some((host, path)) = inside.websocket {
        stream.write_all(mqtt::upgrade(host, path).as_bytes())?;
        stream.flush()?;
        loop {
            hear(stream, &mut heard)?;
            match mqtt::upgraded(&heard) {
                Upgraded::NotYet => {}
                Upgraded::Yes(len) => {
                    heard.drain(..len);
                    break;
                }
                Upgraded::No { status, hint } => return Ok(Spoken::NoUpgrade { status, hint }),
                Upgraded::Garbage => return Ok(Spoken::Garbage),
            }
        }
    }
    let is_framed = inside.websocket.is_some();
    let packed = |bytes: &[u8]| if is_framed { mqtt::frame(bytes) } else { bytes.to_vec() };
    stream.write_all(&packed(connect))?;
    stream.flush()?;
    loop {
        let said = if is_framed { mqtt::payload(&heard) } else { Some(heard.clone()) };
        match said.as_deref().map(mqtt::welcome) {
            None => return Ok(Spoken::Closed),
            Some(Err(())) => return Ok(Spoken::Garbage),
            Some(Ok(Some(welcome))) => {
                // The answer is there; whoever does not hear the goodbye sees the connection end.
                let _ = stream.write_all(&packed(&mqtt::GOODBYE)).and_then(|()| stream.flush());
                return Ok(Spoken::Welcome(welcome));
            }
            Some(Ok(None)) => hear(stream, &mut heard)?,
        }
    }
}

fn hear(stream: &mut dyn Stream, heard: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 2048];
    if heard.len() > mqtt::HEAD_MAX_LEN {
        return Err(io::Error::other("the answer is too long"));
    }
    match stream.read(&mut buffer)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        read => {
            heard.extend(&buffer[..read]);
            Ok(())
        }
    }
}
