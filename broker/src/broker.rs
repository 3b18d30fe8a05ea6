//! The handle that programs hold: start, listen, link, end connections, count, stop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::id::{DeviceId, OrgSlug, UserName};
use protocol::topic::{Uplink, uplink_filter};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::connection;
use crate::counters::CountersSnapshot;
use crate::descriptors;
use crate::device_link::{self, DeviceLink, DeviceLinkError, DeviceLogin, DevicePlace};
use crate::gate::Gate;
use crate::limits::Limits;
use crate::listen;
use crate::log_pace::LogPace;
use crate::principal::{Authenticator, Origin, PrincipalKey, Transport};
use crate::registry::{ConnectionInfo, Kick};
use crate::router::{RouterGone, lock};
use crate::service::{self, ServicePublisher, ServiceSubscriber};
use crate::tls::{PeerCertificate, TlsServerStream};

/// How long [`Broker::shutdown`] waits for connections to end.
const SHUTDOWN_TIME: Duration = Duration::from_secs(5);
/// Refused requests that wait to be told of.
const REFUSED_RETAINS: usize = 1_000;
/// How long the accept loop rests after an error.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How many connections before login are closed where there is no descriptor for the next one, and how long the accept
/// loop waits until they have left.
const MAKE_ROOM: usize = 16;
const MAKE_ROOM_PAUSE: Duration = Duration::from_millis(5);

/// What can go wrong with the broker itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// The broker was started, or asked for a link, outside of a tokio runtime.
    #[error("the broker needs a tokio runtime")]
    NoRuntime,
    /// The router thread has stopped: the process has to be started again.
    #[error("the MQTT router has stopped")]
    RouterGone,
    /// As many links as sessions are allowed.
    #[error("no room for another link to the MQTT router; raise the limit on sessions")]
    NoLink,
    /// Not a topic to publish on.
    #[error("{0:?} is not a topic to publish on")]
    BadTopic(String),
    /// The topic keeps no retained message.
    #[error("nothing is retained on {0:?}")]
    NotRetained(String),
    /// Not a topic filter.
    #[error("{0:?} is not a topic filter")]
    BadFilter(String),
}

impl From<RouterGone> for BrokerError {
    fn from(_: RouterGone) -> BrokerError {
        BrokerError::RouterGone
    }
}

/// A running broker. Cheap to clone; every clone is the same broker.
#[derive(Clone)]
pub struct Broker {
    gate: Arc<Gate>,
}

impl Broker {
    /// Starts the router thread. Nothing listens yet.
    ///
    /// # Errors
    /// There is no tokio runtime, or the router does not start.
    pub fn start(limits: Limits, auth: Arc<dyn Authenticator>) -> Result<Broker, BrokerError> {
        tokio::runtime::Handle::try_current().map_err(|_| BrokerError::NoRuntime)?;
        Ok(Broker { gate: Gate::start(limits, auth)? })
    }

    /// Accepts MQTT over plain TCP until [`Broker::shutdown`].
    pub async fn serve(&self, listener: TcpListener) {
        self.accept(listener, Transport::Tcp, |stream| (stream, PeerCertificate::default())).await;
    }

    /// Accepts MQTT over TLS until [`Broker::shutdown`].
    pub async fn serve_tls(&self, listener: TcpListener, config: Arc<ServerConfig>) {
        let wrap = |stream| {
            let stream = TlsServerStream::new(stream, config.clone());
            let certificate = stream.peer_certificate();
            (stream, certificate)
        };
        self.accept(listener, Transport::Tls, wrap).await;
    }

    async fn accept<S>(
        &self,
        listener: TcpListener,
        transport: Transport,
        wrap: impl Fn(TcpStream) -> (S, PeerCertificate),
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut stopping = self.gate.stopping.subscribe();
        let mut log = LogPace::new(Instant::now());
        let mut accepted_count = 0u32;
        loop {
            let accepted = tokio::select! {
                _ = stopping.wait_for(|stopping| *stopping) => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    // Without it a small answer waits for the client's delayed acknowledgement.
                    let prepared = stream.set_nodelay(true).and_then(|()| listen::notice_absence(&stream));
                    if let Err(error) = prepared {
                        tracing::debug!(%peer, %error, "the connection was reset at once");
                        continue;
                    }
                    let (stream, certificate) = wrap(stream);
                    let from = Origin { peer, transport, certificate };
                    tokio::spawn(connection::run(self.gate.clone(), stream, from));
                    accepted_count = accepted_count.wrapping_add(1);
                    if accepted_count.is_multiple_of(32) {
                        // Those that make room for them get their turn to close.
                        tokio::task::yield_now().await;
                    }
                }
                Err(error) => {
                    // A reset before accept, or no file descriptor left: neither ends the listener.
                    let pause = if descriptors::are_used_up(&error) {
                        self.gate.make_room(MAKE_ROOM);
                        MAKE_ROOM_PAUSE
                    } else {
                        ACCEPT_PAUSE
                    };
                    if let Some(left_out) = log.admit(Instant::now()) {
                        tracing::error!(%error, left_out, "connections cannot be accepted; trying again");
                    }
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// Serves one connection over any stream (WebSocket, a test's pipe) until it ends.
    pub async fn serve_stream<S>(&self, io: S, from: Origin)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        connection::run(self.gate.clone(), io, from).await;
    }

    /// Makes an in-process link for a part of the server, which may publish and receive everything. Messages that were
    /// retained on its filters come first.
    ///
    /// # Errors
    /// A filter is malformed, there is no runtime or no room, or the router has stopped.
    pub fn service_link(
        &self,
        name: &str,
        filters: &[&str],
    ) -> Result<(ServicePublisher, ServiceSubscriber), BrokerError> {
        service::link(&self.gate, name, filters, false)
    }

    /// As [`Broker::service_link`], for everything that devices publish: on the topics of this version, and on topics in
    /// their own subtree that only a newer version knows.
    ///
    /// # Errors
    /// There is no runtime or no room, or the router has stopped.
    pub fn uplink_link(&self, name: &str) -> Result<(ServicePublisher, ServiceSubscriber), BrokerError> {
        let filters: Vec<String> = Uplink::ALL.iter().map(|uplink| uplink_filter(*uplink)).collect();
        let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
        service::link(&self.gate, name, &filters, true)
    }

    /// Whose requests on `operator/{user}/command` are refused from now on since they are retained, so that the server can
    /// say why. The last caller hears of them. What is not taken in time is left out.
    pub fn refused_retains(&self) -> mpsc::Receiver<(OrgSlug, UserName)> {
        let (told, heard) = mpsc::channel(REFUSED_RETAINS);
        *lock(&self.gate.refused_retains) = Some(told);
        heard
    }

    /// Connects a device that does not speak MQTT to this broker. Ends the connection that it had.
    ///
    /// # Errors
    /// [`DeviceLinkError`].
    pub async fn device_link(
        &self,
        login: DeviceLogin,
    ) -> Result<(DeviceLink, DevicePlace), DeviceLinkError> {
        device_link::connect(&self.gate, login).await
    }

    /// Ends all live connections of a principal, within a second; returns how many there were. Whether it may come back
    /// is up to the authenticator.
    pub fn end_connections(&self, who: &PrincipalKey) -> usize {
        self.gate.registry.revoke(who)
    }

    /// The same for the connections that a principal has made with one of its credentials, as [`Principal::Person`] names it.
    pub fn end_connections_with(&self, who: &PrincipalKey, credential: &str) -> usize {
        self.gate.registry.revoke_credential(who, credential)
    }

    /// How a device is connected now.
    pub fn device_connection(&self, org: &OrgSlug, device: &DeviceId) -> Option<ConnectionInfo> {
        self.gate.registry.device_connection(org, device)
    }

    /// The counters of now.
    pub fn counters(&self) -> CountersSnapshot {
        let mut snapshot = self.gate.counters.snapshot();
        let retained = lock(&self.gate.retained);
        snapshot.retained_messages = retained.len() as u64;
        snapshot.retained_bytes = retained.bytes() as u64;
        drop(retained);
        snapshot.sessions = self.gate.registry.sessions() as u64;
        snapshot
    }

    /// True while the router thread works and no shutdown has begun.
    pub fn healthy(&self) -> bool {
        self.gate.router.is_alive() && !*self.gate.stopping.borrow()
    }

    /// Resolves when the router thread is gone. The process should then exit, to be started again.
    pub async fn router_gone(&self) {
        self.gate.router.gone().await;
    }

    /// Stops listening and ends every connection; waits for them a few seconds at most.
    pub async fn shutdown(&self) {
        self.gate.stopping.send_replace(true);
        let gate = &self.gate;
        let ended = async {
            // A connection that was just logging in may come later than the first call.
            while gate.connections() > 0 {
                gate.registry.kick_all(Kick::ShuttingDown);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(SHUTDOWN_TIME, ended).await.is_err() {
            tracing::warn!(connections = gate.connections(), "connections are still open at shutdown");
        }
    }
}
