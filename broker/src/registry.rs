//! Who is connected, and whose session waits for its client.
//!
//! One table of clients by principal and client id. A client has at most one connection: a new one puts itself in the
//! old one's place, ends it, and goes on only when it has left. The lock is held for single steps and never over a
//! wait.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use protocol::id::{DeviceId, OrgSlug};
use tokio::sync::watch;

use crate::account::Account;
use crate::message::Draft;
use crate::principal::{PrincipalKey, Transport};
use crate::router::lock;
use crate::session::Session;

/// Longer than any login takes.
const LOGIN_TIME: Duration = Duration::from_secs(120);

/// What is known about a live connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// The other end.
    pub peer: SocketAddr,
    /// When the client logged in.
    pub since: SystemTime,
    /// 4 for MQTT 3.1.1, 5 for MQTT 5, 0 without MQTT.
    pub protocol_level: u8,
    /// What carries the connection.
    pub transport: Transport,
    /// The client id.
    pub client_id: String,
}

/// Why a connection is ended from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kick {
    /// Another connection of the same client.
    TakenOver,
    /// The principal's connections are to end (token changed, user disabled, device decommissioned).
    Revoked,
    /// The device does not take its messages.
    QueueFull,
    /// The server stops.
    ShuttingDown,
}

/// A will, kept until it is published or not needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Will {
    pub(crate) topic: String,
    pub(crate) properties: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) expiry_seconds: Option<u32>,
    pub(crate) delay: Duration,
}

impl Will {
    pub(crate) fn draft(&self) -> Draft<'_> {
        Draft {
            topic: &self.topic,
            properties: &self.properties,
            payload: &self.payload,
            qos: self.qos,
            retain: self.retain,
            expiry_seconds: self.expiry_seconds,
        }
    }
}

struct Live {
    number: u64,
    /// What it was made with, if that can be taken back by itself.
    credential: Option<String>,
    kick: watch::Sender<Option<Kick>>,
    info: ConnectionInfo,
}

/// A session without a connection.
struct Absent {
    since: Instant,
    expires: Instant,
    will: Option<(Instant, u64, Will)>,
}

struct Client {
    client_id: String,
    session: Option<Arc<Session>>,
    live: Option<Live>,
    absent: Option<Absent>,
    /// Takeovers within a minute from its first.
    takeovers: u32,
    takeovers_since: Instant,
}

#[derive(Default)]
struct Table {
    clients: HashMap<PrincipalKey, Vec<Client>>,
    /// Sessions of people and services.
    sessions: usize,
    /// When the connections of each principal, or those made with one of its credentials, were last ended, for as long as a
    /// login begun before may still be under way.
    revoked: HashMap<(PrincipalKey, Option<String>), Instant>,
}

/// The table.
#[derive(Default)]
pub(crate) struct Registry(Mutex<Table>);

/// A connection's place in the table.
pub(crate) struct Claim {
    /// The connection's number.
    pub(crate) number: u64,
    /// Turns to a reason when the connection is to end. Dropping it says that the connection has left.
    pub(crate) kicked: watch::Receiver<Option<Kick>>,
    /// The connection that had the place before: it has been told to end.
    pub(crate) previous: Option<watch::Sender<Option<Kick>>>,
    /// Set with every third takeover within a minute: the addresses of both.
    pub(crate) conflict: Option<(SocketAddr, u32)>,
}

/// A session for a connection.
pub(crate) struct Opened {
    pub(crate) session: Arc<Session>,
    /// It is a resumed one.
    pub(crate) present: bool,
    /// Wills of sessions that this one replaced or that made room for it.
    pub(crate) orphaned_wills: Vec<(u64, Will)>,
}

/// Why there is no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpenError {
    /// Yet another connection has taken the place.
    TakenOver,
    /// As many sessions or connections as are allowed.
    Full,
}

impl Registry {
    /// Puts a new connection, whose credentials were looked at after `asked_at`, in its client's place.
    pub(crate) fn claim(
        &self,
        key: &PrincipalKey,
        credential: Option<String>,
        number: u64,
        info: ConnectionInfo,
        asked_at: Instant,
    ) -> Claim {
        let now = Instant::now();
        let mut table = lock(&self.0);
        // What was right then may not be so since.
        let ended = |credential: Option<String>| {
            let revoked_at = table.revoked.get(&(key.clone(), credential));
            revoked_at.is_some_and(|revoked_at| *revoked_at >= asked_at)
        };
        let is_stale = ended(None) || credential.is_some() && ended(credential.clone());
        let (kick, kicked) = watch::channel(is_stale.then_some(Kick::Revoked));
        let clients = table.clients.entry(key.clone()).or_default();
        let index =
            clients.iter().position(|client| client.client_id == info.client_id).unwrap_or_else(|| {
                clients.push(Client {
                    client_id: info.client_id.clone(),
                    session: None,
                    live: None,
                    absent: None,
                    takeovers: 0,
                    takeovers_since: now,
                });
                clients.len() - 1
            });
        let client = &mut clients[index];
        let old = client.live.replace(Live { number, credential, kick, info });
        let mut conflict = None;
        if let Some(old) = &old {
            if now.saturating_duration_since(client.takeovers_since) > Duration::from_secs(60) {
                (client.takeovers, client.takeovers_since) = (0, now);
            }
            client.takeovers += 1;
            conflict = (client.takeovers == 3).then_some((old.info.peer, client.takeovers));
            old.kick.send_replace(Some(Kick::TakenOver));
        }
        Claim { number, kicked, previous: old.map(|old| old.kick), conflict }
    }

    /// The session for the connection that holds the place: the one that waits, unless `clean`, or a new one.
    pub(crate) fn open(
        &self,
        key: &PrincipalKey,
        client_id: &str,
        number: u64,
        clean: bool,
        limit: SessionLimit,
        make: impl FnOnce(Option<Arc<Account>>) -> Session,
    ) -> Result<Opened, OpenError> {
        let mut ended = Vec::new();
        let result = {
            let mut table = lock(&self.0);
            let result = table.open(key, client_id, number, clean, limit, make, &mut ended);
            if result.is_err() {
                table.forget_empty(key);
            }
            result
        };
        for session in ended {
            session.end();
        }
        result
    }

    /// A connection has left. Its session is kept for `keep` unless that is zero; the will, if any, is kept with it.
    /// Returns the will if it is due now.
    pub(crate) fn release(
        &self,
        key: &PrincipalKey,
        client_id: &str,
        number: u64,
        session: Option<&Arc<Session>>,
        keep: Duration,
        will: Option<Will>,
    ) -> Option<Will> {
        let now = Instant::now();
        let mut ended = None;
        let mut due = will;
        {
            let mut table = lock(&self.0);
            let Table { clients, sessions, .. } = &mut *table;
            if let Some(client) =
                clients.get_mut(key).and_then(|list| list.iter_mut().find(|c| c.client_id == client_id))
            {
                let own_session = match (&client.session, session) {
                    (Some(known), Some(ours)) => Arc::ptr_eq(known, ours),
                    _ => false,
                };
                let holds_place = client.live.as_ref().is_some_and(|live| live.number == number);
                if holds_place {
                    client.live = None;
                }
                if own_session && keep.is_zero() {
                    ended = client.session.take();
                    if !is_device(key) {
                        *sessions -= 1;
                    }
                } else if own_session {
                    let delayed = due.take_if(|will| !will.delay.is_zero());
                    let id = session.map_or(0, |session| session.id);
                    client.absent = Some(Absent {
                        since: now,
                        expires: now + keep,
                        will: delayed.map(|will| (now + will.delay.min(keep), id, will)),
                    });
                    // Before anybody else can find it and attach to it.
                    if let Some(session) = session {
                        session.detach();
                    }
                }
            }
            table.forget_empty(key);
        }
        if let Some(session) = ended {
            session.end();
        }
        due
    }

    /// Ends all live connections of a principal, and those whose login is under way; returns how many were live.
    pub(crate) fn revoke(&self, key: &PrincipalKey) -> usize {
        let mut table = lock(&self.0);
        table.revoked.insert((key.clone(), None), Instant::now());
        end_all(table.clients.get(key).into_iter().flatten(), Kick::Revoked)
    }

    /// The same for those that were made with one of the principal's credentials.
    pub(crate) fn revoke_credential(&self, key: &PrincipalKey, credential: &str) -> usize {
        let mut table = lock(&self.0);
        table.revoked.insert((key.clone(), Some(credential.to_owned())), Instant::now());
        let made_with = |client: &&Client| {
            client.live.as_ref().is_some_and(|live| live.credential.as_deref() == Some(credential))
        };
        end_all(table.clients.get(key).into_iter().flatten().filter(made_with), Kick::Revoked)
    }

    /// Ends all live connections of a principal; returns how many.
    pub(crate) fn kick(&self, key: &PrincipalKey, why: Kick) -> usize {
        let table = lock(&self.0);
        end_all(table.clients.get(key).into_iter().flatten(), why)
    }

    /// Ends every live connection; returns how many.
    pub(crate) fn kick_all(&self, why: Kick) -> usize {
        let table = lock(&self.0);
        end_all(table.clients.values().flatten(), why)
    }

    /// The session of a connected device.
    pub(crate) fn device(&self, key: &PrincipalKey) -> Option<Arc<Session>> {
        let table = lock(&self.0);
        table.clients.get(key)?.iter().find(|client| client.live.is_some())?.session.clone()
    }

    /// The sessions of all connected devices.
    pub(crate) fn devices(&self) -> Vec<Arc<Session>> {
        let table = lock(&self.0);
        let devices = table.clients.iter().filter(|(key, _)| is_device(key)).flat_map(|(_, list)| list);
        devices.filter_map(|client| client.session.clone()).collect()
    }

    /// The live connection of a device.
    pub(crate) fn device_connection(&self, org: &OrgSlug, device: &DeviceId) -> Option<ConnectionInfo> {
        let key = PrincipalKey::Device { org: org.clone(), device: device.clone() };
        let table = lock(&self.0);
        table.clients.get(&key)?.iter().find_map(|client| client.live.as_ref()).map(|live| live.info.clone())
    }

    /// Sessions of people and services.
    pub(crate) fn sessions(&self) -> usize {
        lock(&self.0).sessions
    }

    /// Ends the absent sessions whose time is over; returns the wills that are due.
    pub(crate) fn sweep(&self, now: Instant) -> Vec<(u64, Will)> {
        let (mut ended, mut wills) = (Vec::new(), Vec::new());
        {
            let mut table = lock(&self.0);
            let Table { clients, sessions, revoked } = &mut *table;
            revoked.retain(|_, at| now.saturating_duration_since(*at) < LOGIN_TIME);
            for list in clients.values_mut() {
                for client in list.iter_mut() {
                    // A claimed place decides for itself.
                    if client.live.is_some() {
                        continue;
                    }
                    let Some(absent) = &mut client.absent else { continue };
                    let expired = absent.expires <= now;
                    if let Some((_, id, will)) = absent.will.take_if(|(due, ..)| expired || *due <= now) {
                        wills.push((id, will));
                    }
                    if expired {
                        client.absent = None;
                        if let Some(session) = client.session.take() {
                            *sessions -= 1;
                            ended.push(session);
                        }
                    }
                }
                list.retain(|client| client.live.is_some() || client.session.is_some());
            }
            clients.retain(|_, list| !list.is_empty());
        }
        for session in ended {
            session.end();
        }
        wills
    }
}

/// Bounds on the sessions of people and services.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionLimit {
    pub(crate) total: usize,
    /// Absent ones of one principal.
    pub(crate) per_principal: usize,
    /// Live connections of one principal.
    pub(crate) connections: usize,
    /// What they hold together, see [`Account`].
    pub(crate) account_bytes: usize,
}

impl Table {
    #[allow(clippy::too_many_arguments)]
    fn open(
        &mut self,
        key: &PrincipalKey,
        client_id: &str,
        number: u64,
        clean: bool,
        limit: SessionLimit,
        make: impl FnOnce(Option<Arc<Account>>) -> Session,
        ended: &mut Vec<Arc<Session>>,
    ) -> Result<Opened, OpenError> {
        let counts = !is_device(key);
        let list = self.clients.get_mut(key).ok_or(OpenError::TakenOver)?;
        let index = list
            .iter()
            .position(|c| c.client_id == client_id && c.live.as_ref().is_some_and(|l| l.number == number))
            .ok_or(OpenError::TakenOver)?;
        let absent = list[index].absent.take();
        if !clean && let Some(session) = &list[index].session {
            return Ok(Opened { session: session.clone(), present: true, orphaned_wills: Vec::new() });
        }
        let mut orphaned_wills = Vec::new();
        orphaned_wills.extend(absent.and_then(|absent| absent.will).map(|(_, id, will)| (id, will)));
        if let Some(old) = list[index].session.take() {
            ended.push(old);
            self.sessions -= usize::from(counts);
        }
        if counts {
            if list.iter().filter(|client| client.live.is_some()).count() > limit.connections {
                return Err(OpenError::Full);
            }
            let waiting = list.iter().filter(|client| client.absent.is_some()).count();
            if waiting >= limit.per_principal {
                let oldest = list
                    .iter_mut()
                    .filter(|client| client.live.is_none())
                    .filter_map(|client| {
                        client.absent.as_ref().map(|absent| absent.since).map(|at| (at, client))
                    })
                    .min_by_key(|(since, _)| *since);
                if let Some((_, oldest)) = oldest
                    && let Some(session) = oldest.session.take()
                {
                    let will = oldest.absent.take().and_then(|absent| absent.will);
                    orphaned_wills.extend(will.map(|(_, id, will)| (id, will)));
                    ended.push(session);
                    self.sessions -= 1;
                }
            }
            if self.sessions >= limit.total {
                orphaned_wills.extend(self.end_longest_absent(ended));
            }
            if self.sessions >= limit.total {
                return Err(OpenError::Full);
            }
            self.sessions += 1;
        }
        // Nothing has left the list since the client was found in it.
        let list = self.clients.get_mut(key).ok_or(OpenError::TakenOver)?;
        let account = counts.then(|| {
            let mut sessions = list.iter().filter_map(|client| client.session.as_ref());
            let known = sessions.find_map(|session| session.account());
            known.unwrap_or_else(|| Account::new(limit.account_bytes))
        });
        let session = Arc::new(make(account));
        list[index].session = Some(session.clone());
        Ok(Opened { session, present: false, orphaned_wills })
    }

    /// Ends the session that has waited longest of the principal with the most that wait, so that nobody's waiting
    /// sessions keep others out. Returns its will.
    fn end_longest_absent(&mut self, ended: &mut Vec<Arc<Session>>) -> Option<(u64, Will)> {
        let waits = |client: &Client| client.live.is_none() && client.absent.is_some();
        let people = self.clients.iter_mut().filter(|(key, _)| !is_device(key)).map(|(_, list)| list);
        let most = people.max_by_key(|list| list.iter().filter(|client| waits(client)).count())?;
        let longest = most
            .iter_mut()
            .filter(|client| waits(client))
            .min_by_key(|client| client.absent.as_ref().map(|absent| absent.since))?;
        ended.push(longest.session.take()?);
        self.sessions -= 1;
        let (_, id, will) = longest.absent.take()?.will?;
        Some((id, will))
    }

    fn forget_empty(&mut self, key: &PrincipalKey) {
        if let Some(list) = self.clients.get_mut(key) {
            list.retain(|client| client.live.is_some() || client.session.is_some());
            if list.is_empty() {
                self.clients.remove(key);
            }
        }
    }
}

fn end_all<'a>(clients: impl Iterator<Item = &'a Client>, why: Kick) -> usize {
    let mut ended = 0;
    for live in clients.filter_map(|client| client.live.as_ref()) {
        // One that is ending already keeps its reason.
        let is_first = live.kick.send_if_modified(|kick| {
            let is_first = kick.is_none();
            kick.get_or_insert(why);
            is_first
        });
        ended += usize::from(is_first);
    }
    ended
}

fn is_device(key: &PrincipalKey) -> bool {
    matches!(key, PrincipalKey::Device { .. })
}
