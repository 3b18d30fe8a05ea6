//! One log: the room in it, and its readers.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::router::{RouterGone, lock};

/// What a message takes in a log beside its own bytes.
const ENTRY_BYTES: usize = 64;

/// Nobody reads it.
const UNREAD: u8 = 0;
/// Publishers wait for its readers.
const AWAITED: u8 = 1;
/// It is read, and none of its readers is waited for.
const FORSAKEN: u8 = 2;

/// One log of the router.
#[derive(Debug)]
pub(super) struct Log {
    channel: Bytes,
    /// How much may be in it that somebody has still to take.
    size: usize,
    /// What is left of that.
    room: Arc<Semaphore>,
    /// The cost of all that was ever published on it.
    end: AtomicU64,
    state: AtomicU8,
    readers: Mutex<Readers>,
    generation: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Readers {
    places: Vec<Option<Place>>,
    /// Up to here everybody who is waited for has taken everything, and the room has been given back.
    taken: u64,
    /// What was published without room since: it does not give any back.
    overdraft: u64,
}

#[derive(Debug)]
struct Place {
    taken: u64,
    is_awaited: bool,
    /// Where it was at the last look.
    seen: u64,
}

impl Log {
    pub(super) fn new(name: String, size: usize, generation: Arc<AtomicU64>) -> Log {
        Log {
            channel: name.into(),
            size,
            room: Arc::new(Semaphore::new(size)),
            end: AtomicU64::new(0),
            state: AtomicU8::new(UNREAD),
            readers: Mutex::default(),
            generation,
        }
    }

    pub(super) fn channel(&self) -> &Bytes {
        &self.channel
    }

    pub(super) fn name(&self) -> String {
        // Made from one.
        String::from_utf8_lossy(&self.channel).into_owned()
    }

    pub(super) fn is_read(&self) -> bool {
        self.state.load(Ordering::Acquire) != UNREAD
    }

    fn is_awaited(&self) -> bool {
        self.state.load(Ordering::Acquire) == AWAITED
    }

    pub(super) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// What a message of so many bytes takes. The largest ones have the log for themselves.
    pub(super) fn cost(&self, bytes: usize) -> usize {
        (bytes + ENTRY_BYTES).min(self.size)
    }

    fn advance(&self, cost: usize) -> u64 {
        let cost = cost as u64;
        self.end.fetch_add(cost, Ordering::AcqRel) + cost
    }

    /// Room for one message, if there is some now.
    pub(super) fn try_reserve(&self, bytes: usize) -> Option<SemaphorePermit<'_>> {
        if !self.is_awaited() {
            return self.room.try_acquire_many(0).ok();
        }
        // A cost is at most the size, which is small.
        self.room.try_acquire_many(self.cost(bytes) as u32).ok()
    }

    /// Room for `bytes` of messages, after everybody who asked before.
    pub(super) async fn reserve(&self, bytes: usize) -> Result<OwnedSemaphorePermit, RouterGone> {
        let cost = self.cost(bytes) as u32;
        self.room.clone().acquire_many_owned(cost).await.map_err(|_| RouterGone)
    }

    pub(super) fn try_enter(&self, bytes: usize) -> Option<u64> {
        let room = self.try_reserve(bytes)?;
        Some(self.enter(room, bytes))
    }

    /// The place of a message whose room is reserved.
    pub(super) fn enter(&self, room: SemaphorePermit<'_>, bytes: usize) -> u64 {
        if room.num_permits() < self.cost(bytes) || !self.is_awaited() {
            return self.enter_at_once(bytes);
        }
        room.forget();
        self.advance(self.cost(bytes))
    }

    /// As [`Log::enter`], out of a larger room.
    pub(super) fn enter_reserved(&self, room: &mut OwnedSemaphorePermit, bytes: usize) -> u64 {
        match room.split(self.cost(bytes)) {
            Some(part) if self.is_awaited() => {
                part.forget();
                self.advance(self.cost(bytes))
            }
            // Then its room goes back at once.
            _ => self.enter_at_once(bytes),
        }
    }

    /// The place of a message that has no room.
    pub(super) fn enter_at_once(&self, bytes: usize) -> u64 {
        let cost = self.cost(bytes);
        let mut readers = lock(&self.readers);
        readers.overdraft += cost as u64;
        self.advance(cost)
    }

    /// One more reader, who takes everything from now on: its slot, and where it begins.
    pub(super) fn join(&self) -> (usize, u64) {
        let mut readers = lock(&self.readers);
        let end = self.end();
        let place = Place { taken: end, is_awaited: true, seen: end };
        let slot = readers.places.iter().position(Option::is_none).unwrap_or(readers.places.len());
        if slot == readers.places.len() {
            readers.places.push(None);
        }
        readers.places[slot] = Some(place);
        self.settle(&mut readers);
        (slot, end)
    }

    pub(super) fn leave(&self, slot: usize) {
        let mut readers = lock(&self.readers);
        readers.places[slot] = None;
        self.settle(&mut readers);
    }

    /// The reader has taken everything up to there.
    pub(super) fn took(&self, slot: usize, taken: u64) {
        let mut readers = lock(&self.readers);
        let last = readers.taken;
        let Some(place) = &mut readers.places[slot] else { return };
        let was_last = place.is_awaited && place.taken <= last;
        place.taken = taken;
        if !place.is_awaited && self.end().saturating_sub(taken) <= self.size as u64 / 2 {
            place.is_awaited = true;
            self.settle(&mut readers);
        } else if was_last {
            self.settle(&mut readers);
        }
    }

    /// Gives back the room of what everybody has taken, and tells publishers whom to wait for.
    fn settle(&self, readers: &mut Readers) {
        let all = || readers.places.iter().flatten();
        let awaited = all().filter(|place| place.is_awaited).map(|place| place.taken).min();
        let state = match awaited {
            Some(_) => AWAITED,
            None if all().next().is_some() => FORSAKEN,
            None => UNREAD,
        };
        let taken = awaited.unwrap_or_else(|| self.end());
        // One that is waited for again may be behind what the others have given back.
        let back = taken.saturating_sub(readers.taken);
        let without_room = readers.overdraft.min(back);
        readers.overdraft -= without_room;
        readers.taken += back;
        let before = self.state.swap(state, Ordering::AcqRel);
        if (before == UNREAD) != (state == UNREAD) {
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
        // At most what was taken of the room, which is small.
        self.room.add_permits((back - without_room) as usize);
    }

    /// Who has taken nothing since the last look, though there was something, is not waited for any more.
    pub(super) fn forsake_stuck_readers(&self) {
        let mut readers = lock(&self.readers);
        let end = self.end();
        let mut found = false;
        for place in readers.places.iter_mut().flatten() {
            if place.is_awaited && place.seen == place.taken && place.taken < end {
                place.is_awaited = false;
                found = true;
            }
            place.seen = place.taken;
        }
        if found {
            self.settle(&mut readers);
        }
    }

    pub(super) fn close(&self) {
        self.room.close();
    }
}
