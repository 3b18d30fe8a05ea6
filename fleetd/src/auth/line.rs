//! The line of passwords that wait to be checked. Pure: it holds no password, task or clock of its own.
//!
//! Checking a password is slow on purpose, so under a flood of guesses attempts have to wait, and who floods must wait
//! for himself. The next to be checked is the one whose address was served longest ago; within an address the account
//! that was served longest ago; within an account the first that came. One of each (address, account) is checked at a
//! time. When the line is full, the longest queue loses its last attempt, so that nobody is crowded out by somebody
//! else's flood.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use super::limiter::FailureKey;
use super::verifiers::Guess;

/// How many different guesses of one (address, account) may wait.
pub const QUEUE_MAX: usize = 400;
/// How many may wait in all.
pub const LINE_MAX: usize = 2048;

/// Attempts that wait, by address and account. `T` is what is waiting.
#[derive(Debug)]
pub struct Line<T> {
    queues: HashMap<FailureKey, Queue<T>>,
    sites: HashMap<IpAddr, Site>,
    waiting: usize,
    /// Counts turns; the time by which "longest ago" is told.
    turns: u64,
}

#[derive(Debug)]
struct Queue<T> {
    attempts: VecDeque<Attempt<T>>,
    served_at: u64,
    /// Between its turn and [`Line::rested`].
    busy: bool,
}

#[derive(Debug)]
struct Attempt<T> {
    guess: Guess,
    came_at: u64,
    item: T,
}

/// An address with at least one queue.
#[derive(Debug, Default)]
struct Site {
    served_at: u64,
    queues: usize,
    waiting: usize,
}

/// What became of an attempt that came.
#[derive(Debug, PartialEq, Eq)]
pub enum Joined<T> {
    /// It waits.
    Waiting,
    /// It waits, and this one had to leave for it.
    Instead(T),
    /// Its own queue is the one that is too long.
    Full(T),
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self { queues: HashMap::new(), sites: HashMap::new(), waiting: 0, turns: 0 }
    }
}

impl<T> Line<T> {
    /// The attempt that waits with the same guess at the same account from the same address.
    pub fn same(&mut self, key: &FailureKey, guess: &Guess) -> Option<&mut T> {
        let queue = self.queues.get_mut(key)?;
        queue.attempts.iter_mut().find(|attempt| attempt.guess == *guess).map(|attempt| &mut attempt.item)
    }

    /// Puts an attempt at the end of its queue.
    pub fn join(&mut self, key: &FailureKey, guess: Guess, item: T) -> Joined<T> {
        let length = self.queues.get(key).map_or(0, |queue| queue.attempts.len());
        if length >= QUEUE_MAX {
            return Joined::Full(item);
        }
        let mut instead = None;
        if self.waiting >= LINE_MAX {
            match self.longest() {
                Some(longest) if longest != *key => instead = self.take_last(&longest),
                _ => return Joined::Full(item),
            }
        }
        self.turns += 1;
        let came_at = self.turns;
        let site = self.sites.entry(key.address()).or_default();
        site.waiting += 1;
        site.queues += usize::from(!self.queues.contains_key(key));
        let fresh = || Queue { attempts: VecDeque::new(), served_at: 0, busy: false };
        let queue = self.queues.entry(key.clone()).or_insert_with(fresh);
        queue.attempts.push_back(Attempt { guess, came_at, item });
        self.waiting += 1;
        instead.map_or(Joined::Waiting, Joined::Instead)
    }

    /// Whose turn it is, if anybody may be checked now. The queue stands still until [`Line::rested`].
    pub fn call(&mut self) -> Option<(FailureKey, T)> {
        let key = self
            .queues
            .iter()
            .filter(|(_, queue)| !queue.busy)
            .filter_map(|(key, queue)| {
                let site_served_at = self.sites.get(&key.address()).map_or(0, |site| site.served_at);
                Some(((site_served_at, queue.served_at, queue.attempts.front()?.came_at), key))
            })
            .min_by_key(|(order, _)| *order)
            .map(|(_, key)| key.clone())?;
        self.turns += 1;
        if let Some(site) = self.sites.get_mut(&key.address()) {
            site.served_at = self.turns;
            site.waiting -= 1;
        }
        let queue = self.queues.get_mut(&key)?;
        queue.served_at = self.turns;
        let attempt = queue.attempts.pop_front()?;
        queue.busy = true;
        self.waiting -= 1;
        Some((key, attempt.item))
    }

    /// The next of this queue may have its turn.
    pub fn rested(&mut self, key: &FailureKey) {
        if let Some(queue) = self.queues.get_mut(key) {
            queue.busy = false;
        }
        self.forget_if_empty(key);
    }

    /// The longest queue of the address where most wait; of several the one where somebody came last.
    fn longest(&self) -> Option<FailureKey> {
        let waiting = |key: &FailureKey| self.sites.get(&key.address()).map_or(0, |site| site.waiting);
        self.queues
            .iter()
            .max_by_key(|(key, queue)| {
                (waiting(key), queue.attempts.len(), queue.attempts.back().map(|attempt| attempt.came_at))
            })
            .map(|(key, _)| key.clone())
    }

    fn take_last(&mut self, key: &FailureKey) -> Option<T> {
        let attempt = self.queues.get_mut(key)?.attempts.pop_back()?;
        self.waiting -= 1;
        if let Some(site) = self.sites.get_mut(&key.address()) {
            site.waiting -= 1;
        }
        self.forget_if_empty(key);
        Some(attempt.item)
    }

    fn forget_if_empty(&mut self, key: &FailureKey) {
        if !self.queues.get(key).is_some_and(|queue| queue.attempts.is_empty() && !queue.busy) {
            return;
        }
        self.queues.remove(key);
        if let Some(site) = self.sites.get_mut(&key.address()) {
            site.queues -= 1;
            if site.queues == 0 {
                self.sites.remove(&key.address());
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn key(address: u32, account: &str) -> FailureKey {
        FailureKey::new(std::net::Ipv4Addr::from(address).into(), account)
    }

    fn guess(n: usize) -> Guess {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&n.to_be_bytes());
        Guess::from(bytes)
    }

    #[test]
    fn an_address_that_floods_one_account_waits_for_itself() {
        let mut line = Line::default();
        for n in 0..300 {
            assert_eq!(line.join(&key(1, "anna"), guess(n), "flood"), Joined::Waiting);
        }
        line.join(&key(1, "otto"), guess(0), "neighbour");
        line.join(&key(2, "anna"), guess(0), "from elsewhere");
        assert_eq!(line.call().unwrap().1, "flood");
        assert_eq!(line.call().unwrap().1, "from elsewhere");
        assert_eq!(line.call().unwrap().1, "neighbour");
        assert!(line.call().is_none(), "one of each pair at a time");
        line.rested(&key(1, "anna"));
        assert_eq!(line.call().unwrap().1, "flood");
    }

    #[test]
    fn everybody_in_a_queue_has_a_turn_in_the_order_of_coming() {
        let mut line = Line::default();
        for n in 0..QUEUE_MAX {
            assert_eq!(line.join(&key(1, "anna"), guess(n), n), Joined::Waiting);
        }
        assert_eq!(line.join(&key(1, "anna"), guess(QUEUE_MAX), QUEUE_MAX), Joined::Full(QUEUE_MAX));
        for n in 0..QUEUE_MAX {
            assert_eq!(line.call().unwrap().1, n);
            line.rested(&key(1, "anna"));
        }
        assert!(line.call().is_none());
        assert!(line.queues.is_empty() && line.sites.is_empty() && line.waiting == 0);
    }

    #[test]
    fn the_line_is_bounded_and_a_full_one_still_takes_who_does_not_flood() {
        let mut line = Line::default();
        let mut turned_away = 0;
        for n in 0..3 * LINE_MAX {
            match line.join(&key(1, &format!("account {}", n % 16)), guess(n), "flood") {
                Joined::Waiting => {}
                Joined::Instead(_) | Joined::Full(_) => turned_away += 1,
            }
            assert!(line.waiting <= LINE_MAX);
        }
        assert_eq!(turned_away, 2 * LINE_MAX);
        assert_eq!(line.join(&key(2, "anna"), guess(0), "from elsewhere"), Joined::Instead("flood"));
        assert_eq!(line.join(&key(1, "anna"), guess(0), "neighbour"), Joined::Instead("flood"));
        let first: Vec<_> = (0..18).filter_map(|_| line.call()).map(|(_, item)| item).collect();
        assert_eq!(first[..2], ["flood", "from elsewhere"]);
        assert!(first.contains(&"neighbour"));
    }

    #[test]
    fn the_same_guess_is_found_only_at_the_same_account_and_address() {
        let mut line = Line::default();
        line.join(&key(1, "anna"), guess(7), "it");
        assert!(line.same(&key(1, "anna"), &guess(7)).is_some());
        assert!(line.same(&key(1, "anna"), &guess(8)).is_none());
        assert!(line.same(&key(2, "anna"), &guess(7)).is_none());
        assert!(line.same(&key(1, "otto"), &guess(7)).is_none());
    }
}
