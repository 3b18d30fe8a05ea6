//! One network connection, from its first byte to its end.
//!
//! [`handshake`] finds out who it is, this module gives it its place and its session, [`serve`] passes packets, and
//! every way out ends here: the place is given back (by a guard, whatever happens), the will is published or kept, and
//! the client is told why as far as its version can be told.

mod handshake;
pub(crate) mod place;
mod serve;
#[cfg(test)]
mod tests;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::codec::encode::{self, ConnAckProperties};
use crate::codec::reason::Reason;
use crate::codec::{DecodeError, Version};
use crate::gate::Gate;
use crate::principal::{Origin, Transport};
use crate::registry::{ConnectionInfo, Kick, OpenError};
use handshake::Accepted;
use place::{Place, kick};
use wire::Wire;

/// Why a connection ended.
#[derive(Debug)]
enum End {
    /// The client said goodbye.
    Left {
        with_will: bool,
    },
    /// The client went without a word.
    Closed(io::Error),
    /// The client broke the protocol or a limit.
    Broken(Reason, &'static str),
    KeepAlive,
    Kicked(Kick),
    RouterGone,
}

impl From<DecodeError> for End {
    fn from(error: DecodeError) -> End {
        let why = match error {
            DecodeError::Malformed(why) | DecodeError::Protocol(why) => why,
            DecodeError::TooLarge { .. } => "packet too large",
            DecodeError::TopicName => "not a topic name",
            DecodeError::TopicAlias => "topic aliases are not available",
            DecodeError::SubscriptionIdentifier => "subscription identifiers are not available",
        };
        End::Broken(error.reason(), why)
    }
}

impl End {
    /// What an MQTT 5 client is told.
    fn reason(&self) -> Option<(Reason, &'static str)> {
        Some(match self {
            End::Left { .. } | End::Closed(_) => return None,
            End::Broken(reason, why) => (*reason, why),
            End::KeepAlive => (Reason::KeepAliveTimeout, ""),
            End::Kicked(Kick::TakenOver) => (Reason::SessionTakenOver, ""),
            End::Kicked(Kick::Revoked) => (Reason::AdministrativeAction, "ended by the server"),
            End::Kicked(Kick::QueueFull) => (Reason::QuotaExceeded, "messages were not taken"),
            End::Kicked(Kick::ShuttingDown) | End::RouterGone => (Reason::ServerShuttingDown, ""),
        })
    }
}

/// Serves one connection until it has ended.
pub(crate) async fn run<S>(gate: Arc<Gate>, io: S, from: Origin)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Origin { peer, transport, .. } = from;
    let (mut admission, told_to_leave) = gate.admit(peer.ip());
    let mut wire = Wire::new(io, gate.limits.write_time);
    let login = async {
        // Boxed, so that an idle connection does not pay for the size of its beginning.
        let accepted = Box::pin(handshake::handshake(&gate, &mut admission, &mut wire, from)).await;
        if accepted.is_none() && !wire.out.is_empty() {
            Box::pin(wire.close()).await;
            return None;
        }
        accepted.map(|accepted| (wire, accepted))
    };
    let accepted = tokio::select! {
        biased;
        accepted = login => accepted,
        Ok(()) = told_to_leave => None,
    };
    drop(admission);
    if let Some((wire, accepted)) = accepted {
        // Boxed for the same reason.
        let live = Box::pin(open(&gate, wire, peer, transport, accepted)).await;
        if let Some(live) = live {
            Box::pin(serve(gate, live)).await;
        }
    }
}

/// A connection that has its place and its session.
struct Live<S> {
    client: serve::Client<S>,
    place: Place,
    peer: SocketAddr,
    version: Version,
    maximum_packet_bytes: usize,
}

/// Takes the place and the session, and tells the client. `None`: it did not come about, and the client knows.
async fn open<S>(
    gate: &Arc<Gate>,
    mut wire: Wire<S>,
    peer: SocketAddr,
    transport: Transport,
    accepted: Accepted,
) -> Option<Box<Live<S>>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (version, limit) = (accepted.version, accepted.maximum_packet_bytes);
    let info = ConnectionInfo {
        peer,
        since: SystemTime::now(),
        protocol_level: if version == Version::V5 { 5 } else { 4 },
        transport,
        client_id: accepted.client_id.clone(),
    };
    let Some(mut place) = place::take(gate, &accepted.principal, info, accepted.asked_at).await else {
        let why = "replaced by another connection";
        encode::connack_refused(&mut wire.out, version, Reason::ServerBusy, why, limit);
        close(gate, wire).await;
        return None;
    };
    let opened =
        match place.open_session(&accepted.principal, accepted.clean, !accepted.session_expiry.is_zero()) {
            Ok(opened) => opened,
            Err(error) => {
                drop(place);
                let (reason, why) = match error {
                    OpenError::TakenOver => (Reason::ServerBusy, "replaced by another connection"),
                    OpenError::Full => (Reason::QuotaExceeded, "too many connections or sessions"),
                };
                gate.counters.refused_busy.one();
                encode::connack_refused(&mut wire.out, version, reason, why, limit);
                close(gate, wire).await;
                return None;
            }
        };
    let session = opened.session;
    place.session = Some(session.clone());
    place.keep = accepted.session_expiry;
    place.will = accepted.will;
    gate.counters.connects.one();
    for (origin, will) in &opened.orphaned_wills {
        gate.publish_will(*origin, will).await;
    }
    if opened.present {
        session.attach(&gate.logs, &accepted.principal, !place.keep.is_zero());
    }
    tracing::debug!(client = %place.key, client_id = ?place.client_id, %peer, ?version, "connected");
    let properties = ConnAckProperties {
        session_expiry_seconds: accepted.tell_expiry.then_some(place.keep.as_secs() as u32),
        receive_maximum: gate.limits.inflight_in,
        maximum_packet_bytes: gate.limits.packet_bytes as u32,
        assigned_client_id: accepted.assigned.then_some(place.client_id.as_str()),
    };
    if !encode::connack_accepted(&mut wire.out, version, opened.present, properties, limit) {
        place.will = None;
        drop(place);
        encode::connack_refused(&mut wire.out, version, Reason::PacketTooLarge, "", limit);
        close(gate, wire).await;
        return None;
    }
    // Nothing may be said before it, so a connection that is replaced already just ends.
    tokio::select! {
        biased;
        _ = kick(&mut place.kicked) => return None,
        written = wire.flush() => if written.is_err() {
            return None;
        },
    }

    let client = serve::Client::new(
        gate.clone(),
        wire,
        session,
        accepted.principal,
        serve::Terms {
            version,
            keep_alive: accepted.keep_alive,
            window: usize::from(accepted.receive_maximum.min(gate.limits.inflight_out)),
            maximum_packet_bytes: accepted.maximum_packet_bytes,
        },
        place.keep,
    );
    Some(Box::new(Live { client, place, peer, version, maximum_packet_bytes: limit }))
}

/// Passes packets until the end, and says goodbye.
async fn serve<S>(gate: Arc<Gate>, mut live: Box<Live<S>>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // A kick comes before everything else, a blocked write included.
    let mut end = tokio::select! {
        biased;
        kick = kick(&mut live.place.kicked) => End::Kicked(kick),
        end = live.client.run() => end,
    };
    if matches!(end, End::Kicked(Kick::TakenOver))
        && let Some(goodbye) = Box::pin(live.client.unread_goodbye()).await
    {
        end = goodbye;
    }
    // Boxed, so that an idle connection does not pay for the size of its end.
    Box::pin(leave(gate, live, end)).await;
}

/// Gives the place back and says goodbye.
async fn leave<S>(gate: Arc<Gate>, live: Box<Live<S>>, end: End)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Live { client, mut place, peer, version, maximum_packet_bytes } = *live;
    place.keep = client.session_expiry();
    // A server that stops knows nothing about its clients: they are there, and will be back.
    if matches!(end, End::Left { with_will: false } | End::Kicked(Kick::ShuttingDown)) {
        place.will = None;
    }
    if let Some(will) = &place.will {
        place.room = gate.room_for(will).await.map(Box::new);
    }
    count_end(&gate, &end);
    tracing::debug!(client = %place.key, client_id = ?place.client_id, %peer, ?end, "disconnected");
    drop(place);
    say_goodbye(&gate, client.into_wire(), version, &end, maximum_packet_bytes).await;
}

fn count_end(gate: &Gate, end: &End) {
    match end {
        End::Broken(..) => gate.counters.protocol_errors.one(),
        End::KeepAlive => gate.counters.keep_alive_timeouts.one(),
        End::Closed(error) if error.kind() == io::ErrorKind::TimedOut => gate.counters.write_timeouts.one(),
        End::Kicked(Kick::Revoked) => gate.counters.kicks.one(),
        _ => {}
    }
}

async fn say_goodbye<S>(gate: &Gate, mut wire: Wire<S>, version: Version, end: &End, limit: usize)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Some((reason, why)) = end.reason() else { return };
    // Behind half a packet nothing can be said. What was not written yet is not: the client may not take it.
    if wire.is_whole() {
        if !matches!(end, End::Broken(..)) {
            wire.out.clear();
        }
        encode::disconnect(&mut wire.out, version, reason, why, limit);
        close(gate, wire).await;
    }
}

/// Lets the client read why it ends, unless too many others do that just now: they have no place any more that would
/// bound them.
async fn close<S>(gate: &Gate, wire: Wire<S>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match gate.goodbyes.try_acquire() {
        Ok(_permit) => wire.close().await,
        Err(_) => wire.close_now(),
    }
}
