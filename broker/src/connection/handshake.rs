//! From the first byte to a known client: CONNECT, and everything that can refuse it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::wire::Wire;
use crate::access::{self, PublishDecision};
use crate::codec::connect::{self, Connect, ConnectError};
use crate::codec::frame::Header;
use crate::codec::reason::Reason;
use crate::codec::{Version, encode};
use crate::failures::Failure;
use crate::gate::{Admission, Gate};
use crate::places;
use crate::principal::{ConnectAttempt, Origin, Principal, Refusal, Secret};
use crate::registry::Will;
use crate::router::lock;

/// A check that takes longer waits in a place of its own, so that those that take longer do not hinder the others.
const SHORT_CHECK: Duration = Duration::from_millis(250);

/// A CONNECT of more bytes is a large one, of which there may be only some at a time.
const SMALL_CONNECT_BYTES: usize = 4 * 1024;

/// A client that has logged in.
pub(super) struct Accepted {
    pub(super) principal: Principal,
    /// Before the credentials were looked at.
    pub(super) asked_at: Instant,
    pub(super) version: Version,
    pub(super) client_id: String,
    /// The client sent no id and has to be told this one.
    pub(super) assigned: bool,
    pub(super) clean: bool,
    pub(super) keep_alive: Duration,
    /// Zero: the session ends with the connection.
    pub(super) session_expiry: Duration,
    /// What the client asked for, if it gets something else.
    pub(super) tell_expiry: bool,
    pub(super) will: Option<Will>,
    pub(super) receive_maximum: u16,
    pub(super) maximum_packet_bytes: usize,
}

/// A CONNECT that is refused with an answer.
struct Refused {
    version: Version,
    reason: Reason,
    why: &'static str,
}

/// Reads the CONNECT and checks everything in it. `None`: the client has got its answer, if any.
pub(super) async fn handshake<S>(
    gate: &Arc<Gate>,
    admission: &mut Admission,
    wire: &mut Wire<S>,
    from: Origin,
) -> Option<Accepted>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let peer = from.peer;
    let time = gate.limits.handshake_time;
    let Ok(Some((header, body))) = timeout(time, first_packet(gate, admission, wire)).await else {
        gate.counters.refused_handshake.one();
        tracing::debug!(%peer, "closed: no CONNECT");
        return None;
    };
    admission.renew();
    let connect = match connect::decode(header, &body) {
        Ok(connect) => connect,
        Err(error) => {
            refuse_malformed(gate, wire, error, peer);
            return None;
        }
    };
    match accept(gate, admission, wire, &connect, body.len(), &from).await {
        Ok(accepted) => Some(accepted),
        Err(refused) => {
            // Names are hostile text of any length: escaped, and only as much as helps.
            let username: Option<String> = connect.username.map(|name| name.chars().take(130).collect());
            if let Some(left_out) = gate.may_log_refusal() {
                tracing::info!(%peer, ?username, reason = refused.why, left_out, "connection refused");
            }
            let limit = connect.maximum_packet_bytes;
            encode::connack_refused(&mut wire.out, refused.version, refused.reason, refused.why, limit);
            None
        }
    }
}

/// The first packet, which has to be a CONNECT.
async fn first_packet<S>(
    gate: &Gate,
    admission: &mut Admission,
    wire: &mut Wire<S>,
) -> Option<(Header, bytes::BytesMut)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        if wire.first_byte().is_some_and(|first| first != 0x10) {
            return None;
        }
        match wire.packet(gate.limits.connect_bytes) {
            Ok(Some(packet)) => return Some(packet),
            Ok(None) if wire.read().await.ok()? > 0 => {}
            _ => return None,
        }
        if wire.unread_bytes() > SMALL_CONNECT_BYTES && !admission.begin_large_connect() {
            return None;
        }
    }
}

fn refuse_malformed<S>(gate: &Gate, wire: &mut Wire<S>, error: ConnectError, peer: SocketAddr)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match error {
        ConnectError::Version(level) => {
            gate.counters.refused_version.one();
            if let Some(left_out) = gate.may_log_refusal() {
                tracing::info!(%peer, level, left_out, "connection refused: neither MQTT 3.1.1 nor 5");
            }
            // A client of a later version reads the form of 5, an earlier one that of 3.1.1. Bridges set the high bit.
            let version = if level & 0x7f > 5 { Version::V5 } else { Version::V311 };
            encode::connack_refused(
                &mut wire.out,
                version,
                Reason::UnsupportedProtocolVersion,
                "",
                usize::MAX,
            );
        }
        ConnectError::Decode(version, error) => {
            gate.counters.refused_handshake.one();
            tracing::debug!(%peer, %error, "closed: bad CONNECT");
            if version == Some(Version::V5) {
                encode::connack_refused(&mut wire.out, Version::V5, error.reason(), "", usize::MAX);
            }
        }
    }
}

async fn accept<S>(
    gate: &Arc<Gate>,
    admission: &mut Admission,
    wire: &mut Wire<S>,
    connect: &Connect<'_>,
    connect_bytes: usize,
    from: &Origin,
) -> Result<Accepted, Refused>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let version = connect.version;
    let refuse = |reason, why| Refused { version, reason, why };
    let counters = &gate.counters;
    if connect.enhanced_authentication {
        counters.refused_credentials.one();
        return Err(refuse(Reason::BadAuthenticationMethod, "use a user name and a password"));
    }
    if connect.client_id.len() > gate.limits.client_id_bytes
        || (connect.client_id.is_empty() && version == Version::V311 && !connect.clean)
    {
        counters.refused_client_id.one();
        return Err(refuse(Reason::ClientIdentifierNotValid, "client id missing or too long"));
    }
    let attempt = ConnectAttempt {
        client_id: connect.client_id.to_owned(),
        username: connect.username.map(str::to_owned),
        password: connect.password.map(Secret::new),
        peer: from.peer,
        transport: from.transport,
        // The packet came over it, so its handshake is done.
        certificate: from.certificate.get(),
    };
    let asked_at = Instant::now();
    let result = authenticate(gate, admission, wire, attempt, connect_bytes).await;
    let principal = result.map_err(|refusal| {
        let (counter, reason, why) = match refusal {
            Refusal::BadCredentials => {
                (&counters.refused_credentials, Reason::BadUserNameOrPassword, "wrong user name or password")
            }
            Refusal::NotAuthorized => {
                (&counters.refused_not_authorized, Reason::NotAuthorized, "not allowed to connect")
            }
            Refusal::TooManyFailures => (
                &counters.refused_too_many_failures,
                Reason::ConnectionRateExceeded,
                "too many failed attempts, try again later",
            ),
            Refusal::PlaintextForbidden => {
                (&counters.refused_not_authorized, Reason::NotAuthorized, "passwords need TLS here")
            }
            Refusal::Unavailable => {
                (&counters.refused_unavailable, Reason::ServerUnavailable, "try again later")
            }
        };
        counter.one();
        refuse(reason, why)
    })?;
    let (client_id, assigned) = client_id(gate, connect, &principal).map_err(|(reason, why)| {
        counters.refused_client_id.one();
        refuse(reason, why)
    })?;
    let will = will(gate, connect, &principal).map_err(|why| {
        counters.refused_will.one();
        refuse(Reason::NotAuthorized, why)
    })?;
    if gate.connections() >= gate.limits.connections as u64 || *gate.stopping.borrow() {
        counters.refused_busy.one();
        return Err(refuse(Reason::ServerBusy, "too many connections"));
    }
    let is_device = matches!(principal, Principal::Device { .. });
    let asked = Duration::from_secs(u64::from(connect.session_expiry_seconds));
    let session_expiry = if is_device { Duration::ZERO } else { asked.min(gate.limits.session_expiry) };
    Ok(Accepted {
        principal,
        asked_at,
        version,
        client_id,
        assigned,
        clean: connect.clean || is_device,
        keep_alive: Duration::from_secs(u64::from(connect.keep_alive_seconds)),
        session_expiry,
        tell_expiry: session_expiry != asked,
        will,
        receive_maximum: connect.receive_maximum,
        maximum_packet_bytes: connect.maximum_packet_bytes,
    })
}

/// Asks the authenticator, always. A failure of an address that has failed too often with this user name is answered
/// as one too many, and later.
async fn authenticate<S>(
    gate: &Arc<Gate>,
    admission: &mut Admission,
    wire: &mut Wire<S>,
    attempt: ConnectAttempt,
    connect_bytes: usize,
) -> Result<Principal, Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let address = places::site(attempt.peer.ip());
    // Who shows a certificate alone need not say a name.
    let user = attempt.username.clone().unwrap_or_else(|| attempt.client_id.clone());
    let result = check(gate, admission, wire, attempt, connect_bytes).await;
    match result {
        Ok(_) => {
            lock(&gate.failures).succeeded(address, &user);
            result
        }
        Err(Refusal::BadCredentials | Refusal::TooManyFailures) => {
            let failure = lock(&gate.failures).failed(address, &user, Instant::now());
            let Failure::TooMany(answer_at) = failure else { return result };
            // Who waited for a long check has waited, and its place is wanted. Any other's place can be taken.
            if !admission.is_long() {
                gate.counters.answers_held_back.one();
                tokio::time::sleep_until(answer_at.into()).await;
            }
            Err(Refusal::TooManyFailures)
        }
        Err(_) => result,
    }
}

/// The authenticator's answer. A password may have to wait for its turn, so it has thrice the time of a handshake.
async fn check<S>(
    gate: &Arc<Gate>,
    admission: &mut Admission,
    wire: &mut Wire<S>,
    attempt: ConnectAttempt,
    connect_bytes: usize,
) -> Result<Principal, Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut answer = gate.auth.authenticate(attempt);
    let time = gate.limits.handshake_time;
    if let Ok(result) = timeout(SHORT_CHECK.min(time), &mut answer).await {
        return result;
    }
    if !admission.begin_long_check(connect_bytes) {
        return Err(Refusal::Unavailable);
    }
    tokio::select! {
        result = timeout(3 * time, answer) => result.unwrap_or(Err(Refusal::Unavailable)),
        // Then nobody has to be told, and the check is not needed.
        () = wire.gone() => Err(Refusal::Unavailable),
    }
}

/// A device's client id and user name are its principal's; anybody else may use any client id, or none.
fn client_id(
    gate: &Gate,
    connect: &Connect<'_>,
    principal: &Principal,
) -> Result<(String, bool), (Reason, &'static str)> {
    if let Principal::Device { org, device, .. } = principal {
        let id = format!("{org}/{device}");
        if connect.client_id != id {
            return Err((Reason::ClientIdentifierNotValid, "a device's client id is ORG/DEVICE"));
        }
        if connect.username.is_some_and(|username| username != id) {
            return Err((Reason::NotAuthorized, "a device's user name is ORG/DEVICE"));
        }
        return Ok((id, false));
    }
    if connect.client_id.is_empty() {
        return Ok((format!("auto-{}-{:x}", gate.number(), gate.now_ms()), true));
    }
    Ok((connect.client_id.to_owned(), false))
}

/// The will, if the client may publish it. One that would be for services alone is left out.
fn will(gate: &Gate, connect: &Connect<'_>, principal: &Principal) -> Result<Option<Will>, &'static str> {
    let Some(will) = &connect.will else { return Ok(None) };
    match access::publish(principal, will.topic, will.retain) {
        PublishDecision::Allow => {}
        PublishDecision::ServicesOnly => return Ok(None),
        PublishDecision::Deny => return Err("the will's topic is not yours to publish"),
        PublishDecision::DenyRetain => return Err("the will's topic keeps no retained message"),
    }
    let delay = Duration::from_secs(u64::from(will.properties.will_delay_seconds));
    Ok(Some(Will {
        topic: will.topic.to_owned(),
        properties: will.properties.forward.to_vec(),
        payload: will.payload.to_vec(),
        qos: will.qos,
        retain: will.retain,
        expiry_seconds: will.properties.expiry_seconds,
        delay: delay.min(gate.limits.will_delay),
    }))
}
