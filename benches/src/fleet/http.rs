//! A lean HTTP/1.1 client: one connection that stays open, so that only the server's time is measured.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::{Value, json};

use super::Result;

/// A logged-in connection.
pub(crate) struct Http {
    stream: TcpStream,
    host: SocketAddr,
    token: String,
    buffer: Vec<u8>,
}

impl Http {
    /// Connects and logs in.
    pub(crate) fn log_in(address: SocketAddr, email: &str, password: &str) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut http = Self { stream, host: address, token: String::new(), buffer: Vec::new() };
        let body = json!({"email": email, "password": password}).to_string();
        let answer: Value = serde_json::from_slice(&http.ask("POST", "/auth/login", &body)?)?;
        answer["access_token"].as_str().ok_or("no token in the answer")?.clone_into(&mut http.token);
        Ok(http)
    }

    /// The body of a successful answer. `path` is below `/api/v1`.
    pub(crate) fn ask(&mut self, method: &str, path: &str, body: &str) -> Result<Vec<u8>> {
        let content = if body.is_empty() { "" } else { "content-type: application/json\r\n" };
        let request = format!(
            "{method} /api/v1{path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\n{content}content-length: {}\r\n\r\n{body}",
            self.host,
            self.token,
            body.len()
        );
        self.stream.write_all(request.as_bytes())?;
        self.buffer.clear();
        let mut part = [0; 65_536];
        let (head, length) = loop {
            if let Some(found) = head(&self.buffer)? {
                break found;
            }
            self.fill(&mut part)?;
        };
        while self.buffer.len() < head + length {
            self.fill(&mut part)?;
        }
        if !self.buffer.starts_with(b"HTTP/1.1 2") {
            return Err(format!("{method} {path}: {}", String::from_utf8_lossy(&self.buffer)).into());
        }
        Ok(self.buffer.get(head..).unwrap_or_default().to_vec())
    }

    /// As [`Self::ask`] with GET.
    pub(crate) fn get(&mut self, path: &str) -> Result<Vec<u8>> {
        self.ask("GET", path, "")
    }

    fn fill(&mut self, part: &mut [u8]) -> Result<()> {
        let read = self.stream.read(part)?;
        if read == 0 {
            return Err("the server has closed the connection".into());
        }
        self.buffer.extend_from_slice(part.get(..read).unwrap_or_default());
        Ok(())
    }
}

/// The lengths of head and body, once the head is there.
fn head(buffer: &[u8]) -> Result<Option<(usize, usize)>> {
    let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let text = String::from_utf8_lossy(buffer.get(..end).unwrap_or_default()).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length = length.ok_or("an answer without a length")?.trim().parse()?;
    Ok(Some((end + 4, length)))
}
