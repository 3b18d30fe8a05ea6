//! A connection through a proxy: `CONNECT` (RFC 9110, section 9.3.6).

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::Proxy;

/// Longest answer of a proxy, in bytes.
const ANSWER_MAX_BYTES: usize = 8 * 1024;
/// Most headers of it.
const HEADERS_MAX: usize = 64;

/// The proxy does not connect.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TunnelError {
    /// The connection to it fails.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// It refuses.
    #[error("it answers {0}")]
    Refused(u16),
    /// What it says is no HTTP.
    #[error("its answer cannot be understood")]
    Answer,
}

/// Asks the proxy at the other end of `stream` to connect it to this host and port.
///
/// # Errors
/// It does not.
pub(crate) async fn through<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    proxy: &Proxy,
    host: &str,
    port: u16,
) -> Result<(), TunnelError> {
    stream.write_all(request(proxy, host, port).as_bytes()).await?;
    stream.flush().await?;
    // Byte by byte: what comes after the answer is the other end's.
    let mut answer = Vec::with_capacity(256);
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() == ANSWER_MAX_BYTES {
            return Err(TunnelError::Answer);
        }
        answer.push(stream.read_u8().await?);
    }
    judge(&answer)
}

/// The same where waiting is done by blocking.
///
/// # Errors
/// It does not.
pub(crate) fn through_blocking(
    stream: &mut (impl std::io::Read + std::io::Write),
    proxy: &Proxy,
    host: &str,
    port: u16,
) -> Result<(), TunnelError> {
    stream.write_all(request(proxy, host, port).as_bytes())?;
    stream.flush()?;
    let mut answer = Vec::with_capacity(256);
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() == ANSWER_MAX_BYTES {
            return Err(TunnelError::Answer);
        }
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        answer.extend(byte);
    }
    judge(&answer)
}

fn request(proxy: &Proxy, host: &str, port: u16) -> String {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let mut request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n");
    if let Some((name, password)) = &proxy.login {
        let credentials = STANDARD.encode(format!("{name}:{}", password.expose()));
        // Writing to a String cannot fail.
        let _ = write!(request, "Proxy-Authorization: Basic {credentials}\r\n");
    }
    request.push_str("\r\n");
    request
}

pub(crate) fn judge(answer: &[u8]) -> Result<(), TunnelError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    response.parse(answer).map_err(|_| TunnelError::Answer)?;
    match response.code {
        Some(200..=299) => Ok(()),
        Some(code) => Err(TunnelError::Refused(code)),
        None => Err(TunnelError::Answer),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::Secret;

    async fn ask(answer: &[u8]) -> (Result<(), TunnelError>, String, Vec<u8>) {
        let (mut client, mut server) = tokio::io::duplex(16 * 1024);
        let login = Some(("ann".to_owned(), Secret::new("p w".to_owned())));
        let proxy = Proxy { is_encrypted: false, host: "p".into(), port: 1, login };
        server.write_all(answer).await.unwrap();
        let outcome = through(&mut client, &proxy, "::1", 8883).await;
        let mut heard = vec![0; 1024];
        let read = server.read(&mut heard).await.unwrap();
        let mut rest = Vec::new();
        drop(server);
        client.read_to_end(&mut rest).await.unwrap();
        (outcome, String::from_utf8_lossy(&heard[..read]).into_owned(), rest)
    }

    #[tokio::test]
    async fn what_follows_the_proxys_answer_is_left_to_the_connection() {
        let (outcome, heard, rest) = ask(b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\nhello").await;
        outcome.unwrap();
        assert_eq!(
            heard,
            "CONNECT [::1]:8883 HTTP/1.1\r\nHost: [::1]:8883\r\nProxy-Authorization: Basic YW5uOnAgdw==\r\n\r\n"
        );
        assert_eq!(rest, b"hello");
    }

    #[tokio::test]
    async fn a_proxy_that_refuses_or_says_no_http_or_never_ends_is_an_error() {
        let (outcome, ..) = ask(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await;
        assert!(matches!(outcome, Err(TunnelError::Refused(407))));
        let (outcome, ..) = ask(b"SSH-2.0-OpenSSH\r\n\r\n").await;
        assert!(matches!(outcome, Err(TunnelError::Answer)));
        let (outcome, ..) = ask(&[b'x'; ANSWER_MAX_BYTES + 1]).await;
        assert!(matches!(outcome, Err(TunnelError::Answer)));
    }
}
