//! Failed logins, counted for each (address, user name).
//!
//! A venue's boxes share an address, so one box with a wrong token must not lock out the others, nor somebody who
//! guesses at a box's name the box itself. So every login is looked at, and what is limited is the failure alone: after
//! several of a pair the next one is answered as one too many, and later, one after another, so that a client that
//! tries again and again does so slowly. Pure; takes the time of each call. Bounded, in memory and in the work for a call:
//! when there is no room, those that did not fail for longest are forgotten, all at once.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Between two answers to a pair that has failed too often.
const SPACING: Duration = Duration::from_millis(500);
/// The longest that an answer is held back; when so many wait already, the next is given at once.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// How many pairs are remembered at most, half of them by each generation.
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
    /// When the last answer that is held back will be given.
    answered_at: Instant,
}

/// How a failure is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// As what it is, at once.
    Plain,
    /// As one too many, not before this time.
    TooMany(Instant),
}

/// The failures of the last while.
#[derive(Debug)]
pub(crate) struct Failures {
    hasher: RandomState,
    /// Pairs that have failed since the older ones were put aside, and those.
    young: HashMap<Pair, Failed>,
    old: HashMap<Pair, Failed>,
    limit: u32,
    window: Duration,
}

impl Failures {
    /// Allows `limit` failures of a pair within `window`.
    pub(crate) fn new(limit: u32, window: Duration) -> Failures {
        Failures { hasher: RandomState::new(), young: HashMap::new(), old: HashMap::new(), limit, window }
    }

    fn pair(&self, address: IpAddr, user: &str) -> Pair {
        Pair { address, user: self.hasher.hash_one(user) }
    }

    /// Counts a failure.
    pub(crate) fn failed(&mut self, address: IpAddr, user: &str, now: Instant) -> Failure {
        let pair = self.pair(address, user);
        if self.young.len() >= MAX_PAIRS / 2 && !self.young.contains_key(&pair) {
            self.old = std::mem::take(&mut self.young);
        }
        let fresh = Failed { count: 0, since: now, answered_at: now };
        let known = self.old.remove(&pair);
        let failed = self.young.entry(pair).or_insert(known.unwrap_or(fresh));
        if now.saturating_duration_since(failed.since) >= self.window {
            *failed = fresh;
        }
        failed.count = failed.count.saturating_add(1);
        if failed.count <= self.limit {
            return Failure::Plain;
        }
        let answer_at = failed.answered_at.max(now) + SPACING;
        if answer_at.saturating_duration_since(now) > LONGEST_WAIT {
            return Failure::TooMany(now);
        }
        failed.answered_at = answer_at;
        Failure::TooMany(answer_at)
    }

    /// Forgets the pair's failures.
    pub(crate) fn succeeded(&mut self, address: IpAddr, user: &str) {
        let pair = self.pair(address, user);
        self.young.remove(&pair);
        self.old.remove(&pair);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VENUE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));
    const WINDOW: Duration = Duration::from_secs(60);

    #[test]
    fn only_the_failing_account_of_an_address_is_answered_later() {
        let now = Instant::now();
        let mut failures = Failures::new(3, WINDOW);
        for _ in 0..3 {
            assert_eq!(failures.failed(VENUE, "acme/a", now), Failure::Plain);
        }
        assert_eq!(failures.failed(VENUE, "acme/a", now), Failure::TooMany(now + SPACING));
        assert_eq!(failures.failed(VENUE, "acme/b", now), Failure::Plain);
        assert_eq!(failures.failed([198, 51, 100, 1].into(), "acme/a", now), Failure::Plain);
    }

    #[test]
    fn failures_of_a_pair_are_answered_one_after_another_until_too_many_wait() {
        let now = Instant::now();
        let mut failures = Failures::new(1, WINDOW);
        failures.failed(VENUE, "acme/a", now);
        let answers: Vec<Failure> = (0..12).map(|_| failures.failed(VENUE, "acme/a", now)).collect();
        assert_eq!(answers[..2], [1, 2].map(|n| Failure::TooMany(now + n * SPACING)));
        assert_eq!(
            answers[9..],
            [LONGEST_WAIT, Duration::ZERO, Duration::ZERO].map(|wait| Failure::TooMany(now + wait))
        );
        // Time that nobody waited for does not add up.
        let later = now + 2 * LONGEST_WAIT;
        assert_eq!(failures.failed(VENUE, "acme/a", later), Failure::TooMany(later + SPACING));
    }

    #[test]
    fn the_window_ends() {
        let now = Instant::now();
        let mut failures = Failures::new(1, WINDOW);
        failures.failed(VENUE, "acme/a", now);
        assert_eq!(failures.failed(VENUE, "acme/a", now), Failure::TooMany(now + SPACING));
        assert_eq!(failures.failed(VENUE, "acme/a", now + WINDOW), Failure::Plain);
    }

    #[test]
    fn a_success_forgets_the_failures() {
        let now = Instant::now();
        let mut failures = Failures::new(1, WINDOW);
        failures.failed(VENUE, "acme/a", now);
        failures.succeeded(VENUE, "acme/a");
        assert_eq!(failures.failed(VENUE, "acme/a", now), Failure::Plain);
    }

    #[test]
    fn guessed_names_without_end_do_not_fill_the_memory() {
        let start = Instant::now();
        let mut failures = Failures::new(1, WINDOW);
        failures.failed(VENUE, "once", start);
        for n in 0..20 * MAX_PAIRS {
            // Whoever goes on is not forgotten among them.
            let again = failures.failed(VENUE, "again and again", start);
            assert!(n == 0 || again != Failure::Plain);
            failures.failed(VENUE, &n.to_string(), start);
            assert!(failures.young.len() + failures.old.len() <= MAX_PAIRS);
        }
        assert_eq!(failures.failed(VENUE, "once", start), Failure::Plain, "long forgotten");
    }
}
