//! The usual way to the application: HTTP without encryption, at an address of this machine that nobody has to look up.
//!
//! It is gone six times a minute for years, so it is one request on one connection, without the threads, the pool and the
//! buffers of a client for everything. The connection ends with the answer: one kept open would say nothing about who
//! listens now, and would be in the way of an application that serves one at a time or waits for all to end.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::config::{HttpUrl, Scheme};

/// Longest head of an answer, in bytes.
const HEAD_MAX_LEN: usize = 16 * 1024;
/// Most lines in the head of an answer.
const HEAD_MAX_LINES: usize = 64;
/// Read at a time, in bytes.
const PART_LEN: usize = 4096;

/// What came instead of an answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nobody listens there.
    Refused,
    /// It took too long.
    TimedOut,
    /// Why, in words.
    Other(String),
}

/// An address, and what is asked there.
#[derive(Debug)]
pub(super) struct PlainHttp {
    addresses: Vec<SocketAddr>,
    request: String,
}

impl PlainHttp {
    /// The way to `url`, if this is one.
    pub(super) fn to(url: &HttpUrl) -> Option<Self> {
        if url.scheme() != Scheme::Http {
            return None;
        }
        let hosts = match url.host() {
            "localhost" => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            host => vec![host.parse::<IpAddr>().ok()?],
        };
        let addresses = hosts.into_iter().map(|host| SocketAddr::new(host, url.port())).collect();
        let text = url.to_string();
        let (authority, path) = (text.strip_prefix("http://")?.strip_suffix(url.path())?, url.path());
        let path = if path.is_empty() { "/" } else { path };
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {authority}\r\nAccept: application/json\r\nUser-Agent: r58-fleet-agent/{}\r\n\
             Connection: close\r\n\r\n",
            env!("CARGO_PKG_VERSION")
        );
        Some(Self { addresses, request })
    }

    /// Status and body of the answer, which has at most `max_len` bytes and is complete within `patience`.
    pub(super) fn get(&self, patience: Duration, max_len: usize) -> Result<(u16, Vec<u8>), Failure> {
        let until = Instant::now() + patience;
        let mut stream = self.connect(until)?;
        // The first of it fits into the socket: this does not wait.
        stream.write_all(self.request.as_bytes()).map_err(failure)?;
        let mut answer = Answer::new(max_len);
        let mut part = [0; PART_LEN];
        loop {
            stream.set_read_timeout(Some(time_left(until)?)).map_err(failure)?;
            let len = match stream.read(&mut part) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read.map_err(failure)?,
            };
            let done = match part.get(..len) {
                Some(part @ [_, ..]) => answer.take(part),
                _ => answer.end().map(Some),
            };
            if let Some(done) = done.map_err(Failure::Other)? {
                return Ok(done);
            }
        }
    }

    fn connect(&self, until: Instant) -> Result<TcpStream, Failure> {
        let mut last = None;
        for address in &self.addresses {
            match TcpStream::connect_timeout(address, time_left(until)?) {
                Ok(stream) => return Ok(stream),
                // On a machine without IPv6: what the other address said counts.
                Err(error) if last.is_some() && is_absent(&error) => {}
                Err(error) => last = Some(failure(error)),
            }
        }
        Err(last.unwrap_or(Failure::Refused))
    }
}

/// Whether this machine has no such address, so that nobody can listen there.
fn is_absent(error: &io::Error) -> bool {
    let kinds = [io::ErrorKind::AddrNotAvailable, io::ErrorKind::NetworkUnreachable];
    kinds.contains(&error.kind()) || error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32)
}

fn time_left(until: Instant) -> Result<Duration, Failure> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(Failure::TimedOut) } else { Ok(left) }
}

fn failure(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Failure::Refused,
        // The second is what a socket says whose time is up.
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Failure::TimedOut,
        _ => Failure::Other(error.to_string()),
    }
}

/// An answer as far as it has come. Pure.
#[derive(Debug)]
struct Answer {
    max_len: usize,
    /// The head until it is complete, then what has come of the body and is not in `body` yet.
    pending: Vec<u8>,
    status: Option<u16>,
    length: Length,
    body: Vec<u8>,
}

/// How the end of the body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    /// So many bytes.
    Known(usize),
    /// It comes in chunks, and the last one is empty.
    Chunked,
    /// The connection ends with it.
    ToTheEnd,
}

/// Status and body, once both are complete.
type Complete = (u16, Vec<u8>);

impl Answer {
    fn new(max_len: usize) -> Self {
        Self { max_len, pending: Vec::new(), status: None, length: Length::ToTheEnd, body: Vec::new() }
    }

    /// More of it has come. Returns it when that was all; an error if it is no answer.
    fn take(&mut self, part: &[u8]) -> Result<Option<Complete>, String> {
        self.pending.extend_from_slice(part);
        let status = match self.status {
            Some(status) => status,
            None => match self.head()? {
                Some(status) => *self.status.insert(status),
                None => return Ok(None),
            },
        };
        let complete = match self.length {
            Length::Known(len) => {
                self.body.append(&mut self.pending);
                self.body.truncate(len);
                self.body.len() == len
            }
            Length::Chunked => self.chunks()?,
            Length::ToTheEnd => {
                self.body.append(&mut self.pending);
                false
            }
        };
        if self.body.len() > self.max_len {
            return Err(self.too_long());
        }
        Ok(complete.then(|| (status, std::mem::take(&mut self.body))))
    }

    /// The connection has ended.
    fn end(&mut self) -> Result<Complete, String> {
        match self.status {
            Some(status) if self.length == Length::ToTheEnd => Ok((status, std::mem::take(&mut self.body))),
            _ => Err("the connection ended before the answer did".to_owned()),
        }
    }

    /// Takes the head out of what is pending, and heads that only say that one will come. Returns the status.
    fn head(&mut self) -> Result<Option<u16>, String> {
        loop {
            let mut lines = [httparse::EMPTY_HEADER; HEAD_MAX_LINES];
            let mut head = httparse::Response::new(&mut lines);
            let parsed = head.parse(&self.pending).map_err(|error| format!("no HTTP: {error}"))?;
            let httparse::Status::Complete(len) = parsed else {
                let too_long = self.pending.len() > HEAD_MAX_LEN;
                return if too_long {
                    Err("the head of its answer is too long".to_owned())
                } else {
                    Ok(None)
                };
            };
            let status = head.code.ok_or("no HTTP status")?;
            let length = length(status, head.headers)?;
            self.pending.drain(..len);
            if (100..200).contains(&status) {
                continue;
            }
            if matches!(length, Length::Known(len) if len > self.max_len) {
                return Err(self.too_long());
            }
            self.length = length;
            return Ok(Some(status));
        }
    }

    /// Takes whole chunks out of what is pending. Returns whether the last one was among them.
    fn chunks(&mut self) -> Result<bool, String> {
        let mut at = 0;
        let last = loop {
            let rest = self.pending.get(at..).unwrap_or_default();
            let size = httparse::parse_chunk_size(rest).map_err(|_| "a chunk of its answer has no size")?;
            let httparse::Status::Complete((head_len, size)) = size else {
                // A size takes a few digits; what follows them has no meaning.
                if rest.len() > PART_LEN {
                    return Err("a chunk of its answer has no size".to_owned());
                }
                break false;
            };
            if size == 0 {
                break true;
            }
            let size = usize::try_from(size).ok().filter(|size| *size <= self.max_len);
            let size = size.ok_or_else(|| self.too_long())?;
            // The chunk, and the end of its line.
            let Some(chunk) = rest.get(head_len..head_len + size + 2) else { break false };
            self.body.extend_from_slice(chunk.get(..size).unwrap_or_default());
            if self.body.len() > self.max_len {
                return Err(self.too_long());
            }
            at += head_len + size + 2;
        };
        self.pending.drain(..at);
        Ok(last)
    }

    fn too_long(&self) -> String {
        format!("its answer is longer than {} KiB", self.max_len / 1024)
    }
}

fn length(status: u16, lines: &[httparse::Header<'_>]) -> Result<Length, String> {
    if matches!(status, 204 | 304) {
        return Ok(Length::Known(0));
    }
    let value = |name: &str| {
        let line = lines.iter().find(|line| line.name.eq_ignore_ascii_case(name))?;
        Some(str::from_utf8(line.value).unwrap_or_default().trim())
    };
    match (value("transfer-encoding"), value("content-length")) {
        (Some(coding), _) if coding.eq_ignore_ascii_case("chunked") => Ok(Length::Chunked),
        (Some(coding), _) => Err(format!("its answer is encoded as {coding:?}, which nobody asked for")),
        (None, Some(digits)) => {
            digits.parse().map(Length::Known).map_err(|_| format!("{digits:?} is no length of an answer"))
        }
        (None, None) => Ok(Length::ToTheEnd),
    }
}

/// What has come in these parts before the end of the connection.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_answer<'a>(
    parts: impl IntoIterator<Item = &'a [u8]>,
    max_len: usize,
) -> Result<Complete, String> {
    let mut answer = Answer::new(max_len);
    for part in parts {
        if let Some(complete) = answer.take(part)? {
            return Ok(complete);
        }
    }
    answer.end()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn in_parts(text: &[u8], size: usize) -> Result<Complete, String> {
        read_answer(text.chunks(size), 64)
    }

    #[test]
    fn an_answer_is_whole_however_it_is_cut_and_whichever_way_it_tells_its_end() {
        let answers: [&[u8]; 5] = [
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhellomore",
            b"HTTP/1.1 200 OK\r\nTRANSFER-ENCODING: Chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n",
            b"HTTP/1.0 200 OK\r\n\r\nhello",
            b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length:5\r\n\r\nhello",
            b"HTTP/1.1 503 Busy\r\ncontent-length: 5\r\n\r\nhello",
        ];
        for text in answers {
            for size in 1..text.len() {
                let (status, body) = in_parts(text, size).unwrap();
                assert_eq!(body, b"hello", "{}", String::from_utf8_lossy(text));
                assert!(matches!(status, 200 | 503));
            }
        }
        assert_eq!(
            in_parts(b"HTTP/1.1 204 No Content\r\ncontent-length: 3\r\n\r\n", 9).unwrap(),
            (204, vec![])
        );
    }

    #[test]
    fn what_is_cut_off_too_long_or_no_http_is_an_error() {
        let long = [b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), &[b'x'; 65]].concat();
        let chunks = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n40\r\n".as_slice();
        let long_chunks = [chunks, &[b'x'; 64], b"\r\n1\r\nx\r\n0\r\n\r\n"].concat();
        let endless = [b"HTTP/1.1 200 OK\r\nx: ".as_slice(), &[b'x'; HEAD_MAX_LEN]].concat();
        let sizeless =
            [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;".as_slice(), &[b'x'; 5000]].concat();
        let answers: [(&[u8], &str); 9] = [
            (b"", "ended before"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhello", "ended before"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 65\r\n\r\n", "longer than"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", "no length"),
            (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n", "nobody asked"),
            (b"SSH-2.0-OpenSSH_9.2\r\n", "no HTTP"),
            (&long, "longer than"),
            (&long_chunks, "longer than"),
            (&endless, "head of its answer"),
        ];
        for (text, problem) in answers {
            for size in [1, 7, text.len().max(1)] {
                let said = in_parts(text, size).unwrap_err();
                assert!(said.contains(problem), "{said}: {}", String::from_utf8_lossy(text));
            }
        }
        in_parts(&sizeless, 100).unwrap_err();
    }

    #[test]
    fn only_addresses_that_need_no_look_up_and_no_encryption_are_gone_to() {
        let to = |url: &str| PlainHttp::to(&url.parse().unwrap());
        let local = to("http://localhost:8000/api/v1/sessions/status?full=1").unwrap();
        let addresses: Vec<String> = local.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["127.0.0.1:8000", "[::1]:8000"]);
        let lines: Vec<&str> = local.request.lines().collect();
        assert_eq!(lines[..2], ["GET /api/v1/sessions/status?full=1 HTTP/1.1", "Host: localhost:8000"]);
        let six = to("http://[::1]").unwrap();
        assert!(six.request.starts_with("GET / HTTP/1.1\r\nHost: [::1]\r\n"), "{}", six.request);
        assert!(to("https://127.0.0.1/").is_none());
        assert!(to("http://app.example/").is_none());
    }

    #[test]
    fn an_application_that_hangs_or_drips_is_left_when_the_time_is_up() {
        for drips in [false, true] {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
            let peer = std::thread::spawn(move || {
                let mut stream = listener.accept().unwrap().0;
                stream.write_all(b"HTTP/1.1 200 OK\r\nx: ").unwrap();
                while drips && stream.write_all(b"y").is_ok() {
                    std::thread::sleep(Duration::from_millis(20));
                }
                stream
            });
            let asked = Instant::now();
            let failure = PlainHttp::to(&url).unwrap().get(Duration::from_millis(200), 64).unwrap_err();
            assert!(matches!(failure, Failure::TimedOut), "{failure:?}");
            assert!(asked.elapsed() < Duration::from_secs(2));
            drop(peer.join());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_keep_more_than_it_may(
            head in prop_oneof![Just(""), Just("HTTP/1.1 200 OK\r\n\r\n"), Just("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")],
            rest in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'\r'), Just(b'\n'), b'0'..=b'9'], 0..300),
            size in 1usize..50,
        ) {
            if let Ok((_, body)) = in_parts(&[head.as_bytes(), &rest].concat(), size) {
                prop_assert!(body.len() <= 64);
            }
        }
    }
}
