//! The router's logs as the gate sees them: who reads them, and how much is in them that somebody has still to take.
//!
//! A log of the router drops its oldest messages when it is full, taken or not. So no more is let in than fits: who
//! publishes reserves room in every log that a message goes to, and waits where there is none, in the order of asking. The
//! room comes back when all readers of the log have taken the message. A reader takes messages as they come; what its
//! client does with them is the business of its session. One that takes nothing for a while all the same is not waited
//! for until it has caught up.

mod log;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use protocol::id::OrgSlug;
use protocol::topic::Topic;
use tokio::sync::OwnedSemaphorePermit;

use crate::channel::{Kind, Kinds, Scope, org_of};
use crate::message::Message;
use crate::router::RouterGone;
use log::Log;

/// Segments of each of the router's logs.
pub(crate) const SEGMENTS: usize = 10;
/// Bytes of one segment of a log that services read, and of the others.
pub(crate) const SERVICE_SEGMENT_BYTES: usize = 1024 * 1024;
pub(crate) const SMALL_SEGMENT_BYTES: usize = 64 * 1024;
/// So many segments' worth may be in a log and not taken. A reader may seem to be ahead by as much while its subscription
/// is new or when it is waited for again, so that four segments may be full of what it has not taken.
const ROOM_SEGMENTS: usize = 2;

/// A log for each kind of message.
type OfKinds = [Option<Arc<Log>>; Kind::ALL.len()];

/// All logs that were ever read: three for each kind at most, and one for each organisation and kind.
pub(crate) struct Logs {
    table: RwLock<Table>,
    /// Changes when a log gets its first reader or loses its last one.
    generation: Arc<AtomicU64>,
}

#[derive(Default)]
struct Table {
    /// What services read: messages of everybody.
    services: OfKinds,
    /// What people read of messages that belong to no organisation.
    people: OfKinds,
    organisations: HashMap<OrgSlug, OfKinds>,
}

/// Where a message is in the logs that it goes to: up to where each is taken once it is. That of services comes first.
pub(crate) type Places = [u64; 2];

/// The logs that messages of one kind go to, as of one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Route {
    logs: [Option<Arc<Log>>; 2],
    generation: u64,
}

impl Logs {
    pub(crate) fn new() -> Logs {
        Logs { table: RwLock::default(), generation: Arc::default() }
    }

    /// The logs for a message of this topic that somebody reads now; `None` for one that is not of the protocol.
    pub(crate) fn route(&self, topic: Option<&Topic>) -> Route {
        // Looked at first: if it changes meanwhile, the route is looked up again.
        let generation = self.generation();
        let kind = topic.map_or(Kind::Other, Kind::of);
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let people = match topic.and_then(org_of) {
            Some(org) if !table.organisations.is_empty() => table.organisations.get(org),
            Some(_) => None,
            None => Some(&table.people),
        };
        let logs = [Some(&table.services), people].map(|of_kinds| {
            of_kinds.and_then(|of_kinds| of_kinds[kind as usize].clone()).filter(|log| log.is_read())
        });
        Route { logs, generation }
    }

    /// The logs for what services alone get.
    pub(crate) fn route_unknown(&self) -> Route {
        let generation = self.generation();
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let log = table.services[Kind::Unknown as usize].clone().filter(|log| log.is_read());
        Route { logs: [log, None], generation }
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether a route is still what [`Logs::route`] would say.
    pub(crate) fn is_current(&self, route: &Route) -> bool {
        route.generation == self.generation()
    }

    /// One more reader of a log, for which the router is asked with `token`. What is published from now on is waited for
    /// until it has taken it.
    fn reader(&self, scope: &Scope, kind: Kind, token: u16) -> Reader {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let (column, of_kinds) = match scope {
            Scope::All => (0, &mut table.services),
            Scope::Org { .. } if kind.is_of_no_org() => (1, &mut table.people),
            Scope::Org { org, .. } => (1, table.organisations.entry(org.clone()).or_default()),
        };
        let segment = if column == 0 { SERVICE_SEGMENT_BYTES } else { SMALL_SEGMENT_BYTES };
        let log = of_kinds[kind as usize].get_or_insert_with(|| {
            Arc::new(Log::new(scope.channel(kind), segment * ROOM_SEGMENTS, self.generation.clone()))
        });
        let (slot, taken) = log.join();
        Reader { log: log.clone(), kind, column, slot, taken, told: taken, offset: None, asked: Some(token) }
    }

    /// Who has taken nothing since the last call, though there was something, is not waited for any more.
    pub(crate) fn forsake_stuck_readers(&self) {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let of_orgs = table.organisations.values();
        for log in of_orgs.chain([&table.services, &table.people]).flatten().flatten() {
            log.forsake_stuck_readers();
        }
    }

    /// The router has gone: nobody waits any more.
    pub(crate) fn close(&self) {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let of_orgs = table.organisations.values();
        for log in of_orgs.chain([&table.services, &table.people]).flatten().flatten() {
            log.close();
        }
    }
}

impl Route {
    fn logs(&self) -> impl Iterator<Item = &Arc<Log>> {
        self.logs.iter().flatten()
    }

    /// Nobody reads it.
    pub(crate) fn is_empty(&self) -> bool {
        self.logs().next().is_none()
    }

    /// The router's names of the logs.
    pub(crate) fn channels(&self) -> impl Iterator<Item = &Bytes> {
        self.logs().map(|log| log.channel())
    }

    /// Gives a message of so many bytes its places, if there is room now.
    pub(crate) fn try_enter(&self, bytes: usize) -> Option<Places> {
        match &self.logs {
            [None, None] => Some([0, 0]),
            [Some(log), None] => Some([log.try_enter(bytes)?, 0]),
            [None, Some(log)] => Some([0, log.try_enter(bytes)?]),
            [Some(first), Some(second)] => {
                let room = first.try_reserve(bytes)?;
                let second = second.try_enter(bytes)?;
                Some([first.enter(room, bytes), second])
            }
        }
    }

    /// Gives a message its places, whether or not there is room: for the few that cannot wait.
    pub(crate) fn enter_at_once(&self, bytes: usize) -> Places {
        self.logs.each_ref().map(|log| log.as_ref().map_or(0, |log| log.enter_at_once(bytes)))
    }

    /// Waits for room for `bytes`, which are to be those of one message or more, in the order of asking.
    pub(crate) async fn reserve(self, bytes: usize) -> Result<Room, RouterGone> {
        let mut permits = [None, None];
        // Always in this order: nobody who has the second waits for the first.
        for (log, permit) in self.logs.iter().zip(&mut permits) {
            if let Some(log) = log {
                *permit = Some(log.reserve(bytes).await?);
            }
        }
        Ok(Room { route: self, permits })
    }
}

/// Room that waits for its messages; given back when dropped.
#[derive(Debug)]
pub(crate) struct Room {
    route: Route,
    permits: [Option<OwnedSemaphorePermit>; 2],
}

impl Room {
    /// Gives a message its places out of this room, if it goes to the same logs and there is enough left.
    pub(crate) fn enter(&mut self, route: &Route, bytes: usize) -> Option<Places> {
        let own = self.route.logs.iter().zip(&self.permits);
        let fits = own.zip(&route.logs).all(|((own, permit), log)| match (own, permit, log) {
            (None, _, None) => true,
            (Some(own), Some(permit), Some(log)) => {
                Arc::ptr_eq(own, log) && permit.num_permits() >= log.cost(bytes)
            }
            _ => false,
        });
        if !fits {
            return None;
        }
        let mut places = [0, 0];
        for ((log, permit), place) in self.route.logs.iter().zip(&mut self.permits).zip(&mut places) {
            if let (Some(log), Some(permit)) = (log, permit) {
                *place = log.enter_reserved(permit, bytes);
            }
        }
        Some(places)
    }
}

/// One reader's place in one log; it leaves when dropped.
pub(crate) struct Reader {
    log: Arc<Log>,
    kind: Kind,
    column: usize,
    slot: usize,
    /// Up to where it has taken everything, and what the log knows of it.
    taken: u64,
    told: u64,
    /// The router's own number of the last message, to notice what was missed.
    offset: Option<u64>,
    /// The token of its subscription, until the router has confirmed that.
    asked: Option<u16>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.log.leave(self.slot);
    }
}

/// The logs that one link reads.
#[derive(Default)]
pub(crate) struct Readers(Vec<Reader>);

impl Readers {
    pub(crate) fn kinds(&self) -> Kinds {
        self.0.iter().fold(Kinds::default(), |kinds, reader| kinds.with(reader.kind))
    }

    /// The router's names of the logs.
    pub(crate) fn channels(&self) -> Vec<String> {
        self.0.iter().map(|reader| reader.log.name()).collect()
    }

    /// Begins to read more logs, for which the router is asked with `token`; their names.
    pub(crate) fn join(&mut self, logs: &Logs, scope: &Scope, kinds: Kinds, token: u16) -> Vec<String> {
        let before = self.0.len();
        self.0.extend(kinds.iter().map(|kind| logs.reader(scope, kind, token)));
        self.0[before..].iter().map(|reader| reader.log.name()).collect()
    }

    /// Stops to read some of them; their names.
    pub(crate) fn leave(&mut self, kinds: Kinds) -> Vec<String> {
        let (gone, kept) = std::mem::take(&mut self.0).into_iter().partition(|r| kinds.contains(r.kind));
        self.0 = kept;
        Readers(gone).channels()
    }

    /// The router has the subscriptions with this token: whatever was published before may have missed them.
    pub(crate) fn confirm(&mut self, token: u16) {
        for reader in self.0.iter_mut().filter(|reader| reader.asked == Some(token)) {
            reader.asked = None;
            reader.offset = None;
            reader.taken = reader.taken.max(reader.log.end());
        }
        self.settle();
    }

    /// A message was taken; [`Readers::settle`] tells the log. Returns of which kind it is, and how many the router has lost
    /// before it.
    pub(crate) fn took(
        &mut self,
        channel: &Bytes,
        offset: Option<u64>,
        message: &Message,
    ) -> Option<(Kind, u64)> {
        // A channel's name is the same block of bytes all the way, mostly.
        let of_channel = |reader: &&mut Reader| {
            let own = reader.log.channel();
            own.as_ptr() == channel.as_ptr() || own == channel
        };
        let reader = self.0.iter_mut().find(of_channel)?;
        reader.taken = reader.taken.max(message.places()[reader.column]);
        let last = std::mem::replace(&mut reader.offset, offset);
        let lost = offset.zip(last).map_or(0, |(offset, last)| offset.saturating_sub(last + 1));
        Some((reader.kind, lost))
    }

    /// Tells the logs what was taken.
    pub(crate) fn settle(&mut self) {
        for reader in self.0.iter_mut().filter(|reader| reader.told < reader.taken) {
            reader.log.took(reader.slot, reader.taken);
            reader.told = reader.taken;
        }
    }
}
