//! A client's place in the registry: taken by its connection, given back at its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout;

use crate::counters::Counter;
use crate::gate::Gate;
use crate::logs::Room;
use crate::principal::{Principal, PrincipalKey, Transport};
use crate::registry::{ConnectionInfo, Kick, OpenError, Opened, SessionLimit, Will};
use crate::session::Session;

/// How long a new connection waits for the one that it replaces. That one is told to end at once and has nothing to
/// wait for, so this is for a machine that stands still.
const TAKEOVER_TIME: Duration = Duration::from_secs(10);

/// A connection's place; given back when dropped.
pub(crate) struct Place {
    gate: Arc<Gate>,
    pub(crate) key: PrincipalKey,
    pub(crate) client_id: String,
    number: u64,
    pub(crate) session: Option<Arc<Session>>,
    /// How long the session is kept.
    pub(crate) keep: Duration,
    pub(crate) will: Option<Will>,
    /// For the will, if it should be due.
    pub(crate) room: Option<Box<Room>>,
    gauges: [fn(&Gate) -> &Counter; 2],
    /// Dropped after everything else: it tells the next connection that this one has left.
    pub(crate) kicked: watch::Receiver<Option<Kick>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let origin = self.session.as_ref().map_or(0, |session| session.id);
        let due = self.gate.registry.release(
            &self.key,
            &self.client_id,
            self.number,
            self.session.as_ref(),
            self.keep,
            self.will.take(),
        );
        if let Some(will) = due {
            self.gate.publish_will_now(origin, &will, self.room.take().map(|room| *room));
        }
        self.gauges.iter().for_each(|gauge| gauge(&self.gate).take(1));
    }
}

impl Place {
    /// The session for this place: the one that waits, unless `clean`, or a new one.
    pub(crate) fn open_session(
        &self,
        principal: &Principal,
        clean: bool,
        keeps: bool,
    ) -> Result<Opened, OpenError> {
        let limits = &self.gate.limits;
        let limit = SessionLimit {
            total: limits.sessions,
            per_principal: limits.sessions_per_principal,
            connections: limits.connections_per_principal,
            account_bytes: limits.account_bytes,
        };
        let queue = match principal {
            Principal::Device { .. } => limits.device_queued_bytes,
            _ => limits.queued_bytes,
        };
        self.gate.registry.open(&self.key, &self.client_id, self.number, clean, limit, |account| {
            Session::new(self.gate.number(), principal, keeps, queue, account)
        })
    }
}

/// Takes the client's place, and waits until the connection that had it has left. `None`: yet another one came.
/// `asked_at` is before the credentials were looked at.
pub(crate) async fn take(
    gate: &Arc<Gate>,
    principal: &Principal,
    info: ConnectionInfo,
    asked_at: Instant,
) -> Option<Place> {
    let (key, client_id, peer) = (principal.key(), info.client_id.clone(), info.peer);
    let gauges = [of_kind(principal), of_transport(info.transport)];
    gauges.iter().for_each(|gauge| gauge(gate).one());
    let credential = match principal {
        Principal::Person { credential, .. } | Principal::Device { credential, .. } => credential.clone(),
        Principal::Service { .. } => None,
    };
    let claim = gate.registry.claim(&key, credential, gate.number(), info, asked_at);
    let place = Place {
        gate: gate.clone(),
        key,
        client_id,
        number: claim.number,
        session: None,
        keep: Duration::ZERO,
        will: None,
        room: None,
        gauges,
        kicked: claim.kicked,
    };
    if let Some((other, times)) = claim.conflict {
        gate.counters.identity_conflicts.one();
        if let Some(left_out) = gate.may_log_conflict() {
            tracing::warn!(
                client = %place.key, client_id = ?place.client_id, %peer, %other, times, left_out,
                "connections of one client replace each other again and again: are there two with the same identity?"
            );
        }
    }
    if let Some(previous) = claim.previous {
        gate.counters.takeovers.one();
        if timeout(TAKEOVER_TIME, previous.closed()).await.is_err() {
            tracing::error!(client = %place.key, "the connection that was replaced does not leave");
            return None;
        }
    }
    place.kicked.borrow().is_none().then_some(())?;
    Some(place)
}

fn of_kind(principal: &Principal) -> fn(&Gate) -> &Counter {
    match principal {
        Principal::Device { .. } => |gate| &gate.counters.connections_devices,
        Principal::Person { .. } => |gate| &gate.counters.connections_people,
        Principal::Service { .. } => |gate| &gate.counters.connections_services,
    }
}

fn of_transport(transport: Transport) -> fn(&Gate) -> &Counter {
    match transport {
        Transport::Tcp => |gate| &gate.counters.connections_tcp,
        Transport::Tls => |gate| &gate.counters.connections_tls,
        Transport::WebSocket => |gate| &gate.counters.connections_websocket,
        Transport::Exchange => |gate| &gate.counters.connections_exchange,
    }
}

/// Waits until the connection is told to end.
pub(crate) async fn kick(kicked: &mut watch::Receiver<Option<Kick>>) -> Kick {
    match kicked.wait_for(Option::is_some).await {
        Ok(kick) => kick.unwrap_or(Kick::ShuttingDown),
        // The table has gone, and the gate with it.
        Err(_) => Kick::ShuttingDown,
    }
}
