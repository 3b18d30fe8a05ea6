//! The listener: connections with bounds on their number, headers and time, and an end that lets requests finish.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use broker::tls::{PeerCertificate, TlsServerStream};
use http::{Method, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tower_service::Service as _;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::problem::Problem;
use super::request::Peer;
use super::{headers, mqtt_socket, routes};
use crate::app::AppState;
use crate::domain::network::Proxies;

/// Connections at the same time; the next one waits until one has ended.
const CONNECTIONS_MAX: usize = 4096;
/// Connections at the same time from one address, unless it is a trusted proxy or this machine. The next one is closed.
const CONNECTIONS_PER_ADDRESS: usize = 512;
/// How long a client may take for its headers, and how long a connection may stand idle.
const HEADERS_TIME: Duration = Duration::from_secs(15);
/// Most bytes of a request's line and headers.
const HEADERS_MAX_BYTES: usize = 32 * 1024;
/// Most headers of a request.
const HEADERS_MAX: usize = 64;
/// Longest path with query, in bytes.
const PATH_MAX_BYTES: usize = 8 * 1024;
/// How long requests may take to finish when the server stops.
const SHUTDOWN_TIME: Duration = Duration::from_secs(10);
/// Pause after a failed accept (no file descriptor left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves HTTP, over TLS if there is a configuration for it, until `shutdown` resolves, then lets the requests that run
/// finish, for some seconds.
pub async fn serve(
    listener: TcpListener,
    app: Arc<AppState>,
    tls: Option<Arc<ServerConfig>>,
    shutdown: impl Future<Output = ()>,
) {
    let places = Places { proxies: app.auth.proxies.clone(), taken: Arc::default() };
    let front = Front::new(&app);
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let stopping = watch::Sender::new(false);
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        // The semaphore is never closed.
        let slot = tokio::select! {
            () = &mut shutdown => break,
            Ok(slot) = slots.clone().acquire_owned() => slot,
        };
        let (stream, address) = tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an HTTP connection; trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let Some(place) = places.take(address.ip()) else {
            tracing::debug!(peer = %address, "too many HTTP connections from this address");
            continue;
        };
        let stream = no_delay(stream);
        let held = (slot, place);
        match &tls {
            Some(config) => {
                let stream = TlsServerStream::new(stream, config.clone());
                let service = front.service.for_peer(address, Some(stream.peer_certificate()));
                begin(&front.builder, &stopping, stream, service, held);
            }
            None => begin(&front.builder, &stopping, stream, front.service.for_peer(address, None), held),
        }
    }
    drop(listener);
    stopping.send_replace(true);
    // All places are free again when every connection has ended.
    let ended = slots.acquire_many(u32::try_from(CONNECTIONS_MAX).unwrap_or(u32::MAX));
    if tokio::time::timeout(SHUTDOWN_TIME, ended).await.is_err() {
        tracing::warn!("some HTTP requests did not finish in time and were cut off");
    }
}

/// The server's side of a connection, whoever has accepted it.
pub struct Front {
    service: Service,
    builder: http1::Builder,
}

impl Front {
    /// Every route of the server.
    #[must_use]
    pub fn new(app: &Arc<AppState>) -> Self {
        let service = Service { routes: routes::filter(app), app: app.clone() };
        Self { service, builder: protocol(HEADERS_TIME) }
    }

    /// Answers on a plain connection until it ends.
    ///
    /// # Errors
    /// What was wrong with the connection, or that it was no HTTP.
    pub async fn serve_stream<S>(&self, stream: S, peer: SocketAddr) -> hyper::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.builder
            .serve_connection(TokioIo::new(stream), self.service.for_peer(peer, None))
            .with_upgrades()
            .await
    }
}

/// Serves one connection in a task of its own. `held` is given back at its end, also where it becomes a WebSocket: the
/// broker has limits of its own.
fn begin<S>(
    builder: &http1::Builder,
    stopping: &watch::Sender<bool>,
    stream: S,
    service: PeerService,
    held: impl Send + 'static,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let peer = service.peer.address;
    let connection = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
    let mut stopping = stopping.subscribe();
    tokio::spawn(async move {
        let _held = held;
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = async { drop(stopping.wait_for(|stopping| *stopping).await) } => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "an HTTP connection ended with an error");
        }
    });
}

/// HTTP/1 alone: waiting to see which version a client speaks has no time limit of its own, and neither has an idle
/// connection of HTTP/2, so that clients who say nothing could take every place for ever. No browser speaks HTTP/2 in
/// plain text.
fn protocol(headers_time: Duration) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(headers_time)
        .max_buf_size(HEADERS_MAX_BYTES)
        .max_headers(HEADERS_MAX);
    builder
}

/// What one customer of a network gets: an IPv4 address, or the /64 network of an IPv6 address.
fn customer(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

/// How many connections each address has.
struct Places {
    proxies: Proxies,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Places {
    /// A place for one more connection; `None` when the address has too many.
    fn take(&self, address: IpAddr) -> Option<Place> {
        let is_limited = !self.proxies.speaks_for_others(address.to_canonical());
        let address = customer(address);
        let mut taken = lock(&self.taken);
        let count = taken.entry(address).or_insert(0);
        if *count >= CONNECTIONS_PER_ADDRESS && is_limited {
            return None;
        }
        *count += 1;
        Some(Place { address, taken: self.taken.clone() })
    }
}

/// A place that is taken; given back when dropped.
struct Place {
    address: IpAddr,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        if let Some(count) = taken.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.address);
            }
        }
    }
}

/// A poisoned count is still a count.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn no_delay(stream: TcpStream) -> TcpStream {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "the connection was reset at once");
    }
    stream
}

#[derive(Clone)]
struct Service {
    routes: BoxedFilter<(Response,)>,
    app: Arc<AppState>,
}

/// The service of one connection.
struct PeerService {
    service: Service,
    peer: Peer,
}

impl Service {
    /// `tls`: what the other end of an encrypted connection shows.
    fn for_peer(&self, address: SocketAddr, tls: Option<PeerCertificate>) -> PeerService {
        let peer = Peer { address, encrypted: tls.is_some(), certificate: tls.unwrap_or_default() };
        PeerService { service: self.clone(), peer }
    }
}

impl hyper::service::Service<http::Request<Incoming>> for PeerService {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        Box::pin(answer(self.service.clone(), self.peer.clone(), request))
    }
}

/// What happens around the routes: bounds, HEAD, cross-origin requests, careful headers, one line in the log.
async fn answer(
    service: Service,
    peer: Peer,
    mut request: http::Request<Incoming>,
) -> Result<Response, Infallible> {
    let origin = headers::allowed_origin(request.headers(), &service.app.config.cors_origins);
    let method = request.method().clone();
    // The path can hold what a client typed by mistake, but never a secret of ours; the query is left out.
    let path: String = request.uri().path().chars().take(200).collect();
    let mut response =
        if request.uri().path_and_query().is_some_and(|path| path.as_str().len() > PATH_MAX_BYTES) {
            let detail = format!("path and query may have at most {PATH_MAX_BYTES} bytes");
            Problem::new(StatusCode::URI_TOO_LONG, detail).into_response()
        } else if mqtt_socket::is_meant(&request) {
            mqtt_socket::answer(&service.app, &peer, &mut request)
        } else if origin.is_some() && headers::is_preflight(&method, request.headers()) {
            headers::preflight()
        } else {
            // The body of the answer to HEAD is left out by the connection.
            if method == Method::HEAD {
                *request.method_mut() = Method::GET;
            }
            request.extensions_mut().insert(peer.clone());
            let Ok(response) = warp::service(service.routes).call(request).await;
            response
        };
    headers::secure(response.headers_mut(), peer.encrypted);
    if let Some(origin) = origin {
        headers::share(response.headers_mut(), origin);
    }
    let status = response.status();
    service.app.metrics.add_labelled("fleet_http_requests_total", "status", class(status), 1);
    tracing::debug!(%method, path, status = status.as_u16(), peer = %peer.address, "HTTP request");
    Ok(response)
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_every_connection() {
        let places = Places { proxies: Proxies::default(), taken: Arc::default() };
        let far: IpAddr = "203.0.113.5".parse().unwrap();
        let held: Vec<_> = (0..CONNECTIONS_PER_ADDRESS).map(|_| places.take(far).unwrap()).collect();
        assert!(places.take(far).is_none());
        assert!(places.take("203.0.113.6".parse().unwrap()).is_some());
        drop(held);
        assert!(places.take(far).is_some());
        let near: IpAddr = "127.0.0.1".parse().unwrap();
        let held: Vec<_> = (0..=CONNECTIONS_PER_ADDRESS).map(|_| places.take(near).unwrap()).collect();
        assert_eq!(held.len(), CONNECTIONS_PER_ADDRESS + 1);
        drop(held);
        assert!(lock(&places.taken).is_empty());
        let host = |n: usize| IpAddr::V6(Ipv6Addr::from((0x2001_0db8 << 96) + n as u128));
        let held: Vec<_> = (0..CONNECTIONS_PER_ADDRESS).map(|n| places.take(host(n)).unwrap()).collect();
        assert!(places.take(host(0xffff)).is_none(), "another address of the same network");
        drop(held);
    }

    #[tokio::test]
    async fn a_client_that_says_nothing_or_only_how_http2_begins_is_closed() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        for said in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
            let (mut client, server) = tokio::io::duplex(1024);
            let service = hyper::service::service_fn(|_: http::Request<Incoming>| async {
                Ok::<_, Infallible>(Response::default())
            });
            let builder = protocol(Duration::from_millis(50));
            let connection = builder.serve_connection(TokioIo::new(server), service);
            let connection = tokio::spawn(async move { drop(connection.await) });
            client.write_all(said).await.unwrap();
            tokio::time::timeout(Duration::from_secs(10), connection).await.unwrap().unwrap();
            let mut rest = Vec::new();
            client.read_to_end(&mut rest).await.unwrap();
        }
    }
}
