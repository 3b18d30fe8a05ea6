//! Failed logins, counted for each (address, user name).
//!
//! A venue's boxes share an address, so one box with a wrong token must not lock out the others: only the pair is held
//! back, and only after several failures. Pure; takes the time of each call. Bounded: when there is no room the pair
//! that failed longest ago is forgotten.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How many pairs are remembered.
const MAX_PAIRS: usize = 16 * 1024;

/// Who fails from where. User names come from anybody and may be long, so only their hash is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Pair {
    address: IpAddr,
    user: u64,
}

#[derive(Clone, Copy, Debug)]
struct Failed {
    count: u32,
    since: Instant,
}

/// The failures of the last while.
#[derive(Debug)]
pub(crate) struct Failures {
    hasher: RandomState,
    pairs: HashMap<Pair, Failed>,
    limit: u32,
    window: Duration,
}

impl Failures {
    /// Allows `limit` failures of a pair within `window`.
    pub(crate) fn new(limit: u32, window: Duration) -> Failures {
        Failures { hasher: RandomState::new(), pairs: HashMap::new(), limit, window }
    }

    fn pair(&self, address: IpAddr, user: &str) -> Pair {
        Pair { address, user: self.hasher.hash_one(user) }
    }

    /// True if the pair has failed so often that its password is not looked at now.
    pub(crate) fn is_held_back(&self, address: IpAddr, user: &str, now: Instant) -> bool {
        self.pairs.get(&self.pair(address, user)).is_some_and(|failed| {
            failed.count >= self.limit && now.saturating_duration_since(failed.since) < self.window
        })
    }

    /// Counts a failure.
    pub(crate) fn failed(&mut self, address: IpAddr, user: &str, now: Instant) {
        let pair = self.pair(address, user);
        if self.pairs.len() >= MAX_PAIRS && !self.pairs.contains_key(&pair) {
            let window = self.window;
            self.pairs.retain(|_, failed| now.saturating_duration_since(failed.since) < window);
            if self.pairs.len() >= MAX_PAIRS
                && let Some(oldest) =
                    self.pairs.iter().min_by_key(|(_, failed)| failed.since).map(|(pair, _)| *pair)
            {
                self.pairs.remove(&oldest);
            }
        }
        let failed = self.pairs.entry(pair).or_insert(Failed { count: 0, since: now });
        if now.saturating_duration_since(failed.since) >= self.window {
            *failed = Failed { count: 0, since: now };
        }
        failed.count = failed.count.saturating_add(1);
    }

    /// Forgets the pair's failures.
    pub(crate) fn succeeded(&mut self, address: IpAddr, user: &str) {
        self.pairs.remove(&self.pair(address, user));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VENUE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));
    const WINDOW: Duration = Duration::from_secs(60);

    #[test]
    fn only_the_failing_account_of_an_address_is_held_back() {
        let now = Instant::now();
        let mut failures = Failures::new(3, WINDOW);
        for _ in 0..3 {
            assert!(!failures.is_held_back(VENUE, "acme/a", now));
            failures.failed(VENUE, "acme/a", now);
        }
        assert!(failures.is_held_back(VENUE, "acme/a", now));
        assert!(!failures.is_held_back(VENUE, "acme/b", now));
        assert!(!failures.is_held_back([198, 51, 100, 1].into(), "acme/a", now));
    }

    #[test]
    fn the_window_ends() {
        let now = Instant::now();
        let mut failures = Failures::new(1, WINDOW);
        failures.failed(VENUE, "acme/a", now);
        assert!(failures.is_held_back(VENUE, "acme/a", now + WINDOW / 2));
        assert!(!failures.is_held_back(VENUE, "acme/a", now + WINDOW));
    }

    #[test]
    fn a_success_forgets_the_failures() {
        let now = Instant::now();
        let mut failures = Failures::new(2, WINDOW);
        failures.failed(VENUE, "acme/a", now);
        failures.succeeded(VENUE, "acme/a");
        failures.failed(VENUE, "acme/a", now);
        assert!(!failures.is_held_back(VENUE, "acme/a", now));
    }

    #[test]
    fn guessed_names_without_end_do_not_fill_the_memory() {
        let start = Instant::now();
        let mut failures = Failures::new(1, WINDOW);
        for n in 0..MAX_PAIRS as u32 + 10 {
            failures.failed(VENUE, &n.to_string(), start + Duration::from_micros(u64::from(n)));
        }
        assert_eq!(failures.pairs.len(), MAX_PAIRS);
        assert!(!failures.is_held_back(VENUE, "0", start), "the oldest is forgotten");
    }
}
