//! Whether a better way to the server is open, found out beside the one that is in use: a connection up to where it would be
//! used, and no further, since a log-in would end the one in use.

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::Address;
use super::dial::dial;
use crate::config::{MqttUrl, Scheme};
use crate::proxy::{self, Proxy};

/// For all of it.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest head of a server's answer, in bytes.
const HEAD_MAX_BYTES: usize = 16 * 1024;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Connects, with TLS and a certificate that is good where that belongs to it; a WebSocket has to be opened as well.
///
/// # Errors
/// How far it came, for the log.
pub(crate) async fn try_way(
    to: &Address,
    tls: Option<Arc<ClientConfig>>,
    proxy: Option<&Proxy>,
) -> Result<(), String> {
    match timeout(PATIENCE, connect(to, tls, proxy)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("nothing came of it in {} s", PATIENCE.as_secs())),
    }
}

async fn connect(to: &Address, tls: Option<Arc<ClientConfig>>, proxy: Option<&Proxy>) -> Result<(), String> {
    let (host, port) = proxy.map_or((to.host(), to.port()), |proxy| (proxy.host.as_str(), proxy.port));
    let tcp = dial(host, port).await.map_err(|error| format!("TCP: {error}"))?;
    let mut stream: Box<dyn Stream> = Box::new(tcp);
    if let Some(proxy) = proxy {
        if proxy.is_encrypted {
            stream = encrypt(stream, &proxy.host, tls.clone()).await?;
        }
        let through = proxy::through(&mut stream, proxy, to.host(), to.port()).await;
        through.map_err(|error| format!("proxy {proxy}: {error}"))?;
    }
    if to.scheme().is_encrypted() {
        stream = encrypt(stream, to.host(), tls).await?;
    }
    match to {
        Address::Broker(url) if url.scheme() == Scheme::Wss => upgrade(&mut stream, url).await,
        _ => Ok(()),
    }
}

async fn encrypt(
    stream: Box<dyn Stream>,
    host: &str,
    tls: Option<Arc<ClientConfig>>,
) -> Result<Box<dyn Stream>, String> {
    let config = tls.ok_or("TLS: there is no list of authorities")?;
    let name = ServerName::try_from(host.to_owned()).map_err(|error| format!("TLS: {error}"))?;
    let connected = TlsConnector::from(config).connect(name, stream).await;
    Ok(Box::new(connected.map_err(|error| format!("TLS: {error}"))?))
}

/// Asks for a WebSocket (RFC 6455, section 4.1), and leaves it at that.
async fn upgrade(stream: &mut Box<dyn Stream>, url: &MqttUrl) -> Result<(), String> {
    let host = if url.host().contains(':') { format!("[{}]", url.host()) } else { url.host().to_owned() };
    let path = if url.path().is_empty() { "/" } else { url.path() };
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}:{}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n",
        url.port()
    );
    let failed = |error: std::io::Error| format!("WebSocket: {error}");
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    stream.flush().await.map_err(failed)?;
    let mut head = Vec::with_capacity(512);
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == HEAD_MAX_BYTES {
            return Err("WebSocket: the answer has no end".to_owned());
        }
        head.push(stream.read_u8().await.map_err(failed)?);
    }
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    response.parse(&head).map_err(|error| format!("WebSocket: {error}"))?;
    match response.code {
        Some(101) => Ok(()),
        code => Err(format!("WebSocket: answered {}", code.unwrap_or(0))),
    }
}
