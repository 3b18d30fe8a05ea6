//! Machines in the router that take connections in the server's place: a line that is slow, a box that lets nothing but plain
//! HTTPS requests through, a portal that wants a login first.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use broker::tls::Certificates;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::namespace::Namespace;
use super::venue::{NAME, SERVER};

const CHUNK_BYTES: usize = 16 * 1024;
/// What a delayed direction holds at most.
const CHUNKS: usize = 64;
/// Longest head of a request.
const HEAD_BYTES: usize = 64 * 1024;
/// Nobody keeps a box waiting for longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// Takes connections on a port of all addresses of `router`, and does `with_each` for each.
fn listen<F, W>(router: &Namespace, port: u16, with_each: F) -> io::Result<()>
where
    F: Fn(TcpStream) -> W + Send + 'static,
    W: Future<Output = io::Result<()>> + Send + 'static,
{
    let (send, bound) = sync_channel(1);
    router.spawn(async move {
        let listener = match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await {
            Ok(listener) => listener,
            Err(error) => return send.send(Err(error)).unwrap_or_default(),
        };
        let _ = send.send(Ok(()));
        while let Ok((client, _)) = listener.accept().await {
            let work = with_each(client);
            tokio::spawn(async move {
                // Either side may end it at any time.
                let _ = work.await;
            });
        }
    });
    bound.recv().map_err(io::Error::other)?
}

/// A line to the server on which every byte is late, by the same time in both directions. The set-up of a connection takes two
/// ways more, as packets for it would.
#[derive(Debug, Clone)]
pub(super) struct LateLine {
    delay: Arc<Mutex<Duration>>,
    cut: Arc<Notify>,
}

impl LateLine {
    /// One for these ports; nothing is late yet.
    pub(super) fn start(router: &Namespace, ports: &[u16]) -> io::Result<Self> {
        let line = Self { delay: Arc::default(), cut: Arc::default() };
        for &port in ports {
            let of_port = line.clone();
            listen(router, port, move |client| of_port.clone().carry(client, port))?;
        }
        Ok(line)
    }

    /// How late everything is from now on.
    pub(super) fn set(&self, delay: Duration) {
        *self.delay.lock().unwrap_or_else(PoisonError::into_inner) = delay;
    }

    /// Ends the connections that there are.
    pub(super) fn cut(&self) {
        self.cut.notify_waiters();
    }

    fn delay(&self) -> Duration {
        *self.delay.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn carry(self, client: TcpStream, port: u16) -> io::Result<()> {
        sleep(2 * self.delay()).await;
        let server = TcpStream::connect((SERVER, port)).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let carried = async {
            tokio::try_join!(self.late(from_client, to_server), self.late(from_server, to_client)).map(drop)
        };
        tokio::select! {
            ended = carried => ended,
            () = self.cut.notified() => Ok(()),
        }
    }

    async fn late(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
    ) -> io::Result<()> {
        let (send, mut late) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS);
        let read = async {
            loop {
                let mut chunk = vec![0; CHUNK_BYTES];
                let length = from.read(&mut chunk).await?;
                chunk.truncate(length);
                let due = Instant::now() + self.delay();
                if send.send((due, chunk)).await.is_err() || length == 0 {
                    return Ok(());
                }
            }
        };
        let write = async {
            while let Some((due, chunk)) = late.recv().await {
                sleep_until(due).await;
                match chunk.as_slice() {
                    [] => return to.shutdown().await,
                    chunk => to.write_all(chunk).await?,
                }
            }
            Ok(())
        };
        tokio::try_join!(read, write).map(drop)
    }
}

/// A box of a network's owner that opens HTTPS with a certificate that devices trust, and passes plain requests alone: `Upgrade`, with
/// which a WebSocket begins, is taken out, as by proxies that do not know it.
pub(super) fn plain_https(router: &Namespace, tls: &Path) -> io::Result<()> {
    let config = server_config(tls)?;
    let mut trusted = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(tls.join("ca.pem")).map_err(io::Error::other)?.flatten()
    {
        trusted.add(certificate).map_err(io::Error::other)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(trusted)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(client));
    listen(router, 443, move |client| {
        let (acceptor, connector) = (config.clone(), connector.clone());
        async move {
            let mut client = acceptor.accept(client).await?;
            let mut head = Vec::new();
            let Some(end) = read_head(&mut client, &mut head).await? else { return Ok(()) };
            let server = TcpStream::connect((SERVER, 443)).await?;
            let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
            let mut server = connector.connect(name, server).await?;
            server.write_all(&plain(&head[..end])).await?;
            server.write_all(&head[end..]).await?;
            copy_bidirectional(&mut client, &mut server).await.map(drop)
        }
    })
}

/// The head of a request without what asks for another protocol; one request for each connection.
fn plain(head: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(head);
    let mut plain = String::new();
    for line in text.trim_end().lines() {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        if !matches!(name.as_str(), "upgrade" | "connection") {
            plain.push_str(line);
            plain.push_str("\r\n");
        }
    }
    plain.push_str("Connection: close\r\n\r\n");
    plain.into_bytes()
}

/// Reads on until a request's head is there; where it ends.
async fn read_head(from: &mut (impl AsyncRead + Unpin), into: &mut Vec<u8>) -> io::Result<Option<usize>> {
    loop {
        if let Some(at) = into.windows(4).position(|four| four == b"\r\n\r\n") {
            return Ok(Some(at + 4));
        }
        let room = HEAD_BYTES.saturating_sub(into.len());
        let read = timeout(PATIENCE, (&mut *from).take(room as u64).read_buf(into)).await;
        if read.map_err(io::Error::other)?? == 0 {
            return Ok(None);
        }
    }
}

/// A portal: it has every name and every address, and answers every request, encrypted or not, with a page of its own. It
/// notes what it is told.
#[derive(Debug, Clone, Default)]
pub(super) struct Portal {
    heard: Arc<Mutex<Heard>>,
}

/// What a portal was told.
#[derive(Debug, Default, Clone)]
pub(super) struct Heard {
    /// Connections.
    pub(super) connections: usize,
    /// Everything that could be read.
    pub(super) bytes: Vec<u8>,
}

impl Portal {
    const PAGE: &'static str = "<html><body>Welcome! Please accept our terms.</body></html>";

    /// Starts it, with a certificate that nobody has given it.
    pub(super) fn start(router: &Namespace) -> io::Result<Self> {
        let own = rcgen::generate_simple_self_signed([NAME.to_owned()]).map_err(io::Error::other)?;
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).map_err(io::Error::other)?;
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .map_err(io::Error::other)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let portal = Self::default();
        for port in [80, 443, 1883, 8883] {
            let (portal, acceptor) = (portal.clone(), acceptor.clone());
            listen(router, port, move |client| portal.clone().answer(client, acceptor.clone()))?;
        }
        Ok(portal)
    }

    /// What it was told so far.
    pub(super) fn heard(&self) -> Heard {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn answer(self, client: TcpStream, acceptor: TlsAcceptor) -> io::Result<()> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).connections += 1;
        let mut first = [0; 1];
        timeout(PATIENCE, client.peek(&mut first)).await.map_err(io::Error::other)??;
        if first[0] == 0x16 {
            self.page(acceptor.accept(client).await?).await
        } else {
            self.page(client).await
        }
    }

    async fn page(&self, mut client: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
        let mut request = vec![0; CHUNK_BYTES];
        let read = timeout(PATIENCE, client.read(&mut request)).await.map_err(io::Error::other)??;
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).bytes.extend(&request[..read]);
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}",
            Self::PAGE.len(),
            Self::PAGE
        );
        client.write_all(answer.as_bytes()).await?;
        client.shutdown().await
    }
}

fn server_config(tls: &Path) -> io::Result<TlsAcceptor> {
    let certificates = Certificates::load(&tls.join("server.pem"), &tls.join("server.key"));
    let config = certificates.and_then(|certificates| certificates.server_config(Some("http/1.1"), None));
    config.map(TlsAcceptor::from).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_is_taken_out_and_everything_else_passes() {
        let asked =
            b"GET /mqtt HTTP/1.1\r\nHost: fleet.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        let passed = String::from_utf8(plain(asked)).unwrap();
        assert_eq!(passed, "GET /mqtt HTTP/1.1\r\nHost: fleet.test\r\nConnection: close\r\n\r\n");
    }
}
