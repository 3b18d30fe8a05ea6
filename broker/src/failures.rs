//! Failed logins, counted for each (address, user name).
//!
//! A venue's boxes share an address, so one box with a wrong token must not lock out the others, nor somebody who
//! guesses at a box's name the box itself: only the pair is slowed down, and only after several failures. Its attempts
//! then get their turn one after another, and a right password gets in at its turn. Only when many are waiting already
//! is one refused unseen. Pure; takes the time of each call. Bounded: when there is no room the pair that failed longest
//! ago is forgotten.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Between two attempts of a pair that has failed too often.
const SPACING: Duration = Duration::from_millis(500);
/// The longest that an attempt waits.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
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
    /// When the next attempt has its turn, once there have been too many.
    next_turn: Instant,
}

/// When an attempt may be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Now,
    At(Instant),
    /// Too many attempts of this pair are waiting.
    Never,
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

    /// When the pair's next attempt may be looked at; a turn that is given out is used up.
    pub(crate) fn turn(&mut self, address: IpAddr, user: &str, now: Instant) -> Turn {
        let pair = self.pair(address, user);
        let (limit, window) = (self.limit, self.window);
        let Some(failed) = self.pairs.get_mut(&pair) else { return Turn::Now };
        if failed.count < limit || now.saturating_duration_since(failed.since) >= window {
            return Turn::Now;
        }
        let turn = failed.next_turn;
        if turn <= now {
            failed.next_turn = now + SPACING;
            return Turn::Now;
        }
        if turn.saturating_duration_since(now) > LONGEST_WAIT {
            return Turn::Never;
        }
        failed.next_turn = turn + SPACING;
        Turn::At(turn)
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
        let failed = self.pairs.entry(pair).or_insert(Failed { count: 0, since: now, next_turn: now });
        if now.saturating_duration_since(failed.since) >= self.window {
            *failed = Failed { count: 0, since: now, next_turn: now };
        }
        failed.count = failed.count.saturating_add(1);
        failed.next_turn = failed.next_turn.max(now + SPACING);
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
    fn only_the_failing_account_of_an_address_has_to_wait() {
        let now = Instant::now();
        let mut failures = Failures::new(3, WINDOW);
        for _ in 0..3 {
            assert_eq!(failures.turn(VENUE, "acme/a", now), Turn::Now);
            failures.failed(VENUE, "acme/a", now);
        }
        assert_eq!(failures.turn(VENUE, "acme/a", now), Turn::At(now + SPACING));
        assert_eq!(failures.turn(VENUE, "acme/b", now), Turn::Now);
        assert_eq!(failures.turn([198, 51, 100, 1].into(), "acme/a", now), Turn::Now);
    }

    #[test]
    fn attempts_of_a_failing_pair_get_their_turn_one_after_another_until_too_many_wait() {
        let now = Instant::now();
        let mut failures = Failures::new(1, WINDOW);
        failures.failed(VENUE, "acme/a", now);
        let turns: Vec<Turn> = (0..12).map(|_| failures.turn(VENUE, "acme/a", now)).collect();
        assert_eq!(turns[..2], [Turn::At(now + SPACING), Turn::At(now + 2 * SPACING)]);
        assert_eq!(turns[9..], [Turn::At(now + LONGEST_WAIT), Turn::Never, Turn::Never]);
        // A turn that was not asked for does not add up.
        let later = now + 2 * LONGEST_WAIT;
        assert_eq!(failures.turn(VENUE, "acme/a", later), Turn::Now);
        assert_eq!(failures.turn(VENUE, "acme/a", later), Turn::At(later + SPACING));
    }

    #[test]
    fn the_window_ends() {
        let now = Instant::now();
        let mut failures = Failures::new(1, WINDOW);
        failures.failed(VENUE, "acme/a", now);
        assert_eq!(failures.turn(VENUE, "acme/a", now), Turn::At(now + SPACING));
        for _ in 0..2 {
            assert_eq!(failures.turn(VENUE, "acme/a", now + WINDOW), Turn::Now);
        }
    }

    #[test]
    fn a_success_forgets_the_failures() {
        let now = Instant::now();
        let mut failures = Failures::new(2, WINDOW);
        failures.failed(VENUE, "acme/a", now);
        failures.succeeded(VENUE, "acme/a");
        failures.failed(VENUE, "acme/a", now);
        assert_eq!(failures.turn(VENUE, "acme/a", now), Turn::Now);
    }

    #[test]
    fn guessed_names_without_end_do_not_fill_the_memory() {
        let start = Instant::now();
        let mut failures = Failures::new(1, WINDOW);
        for n in 0..MAX_PAIRS as u32 + 10 {
            failures.failed(VENUE, &n.to_string(), start + Duration::from_micros(u64::from(n)));
        }
        assert_eq!(failures.pairs.len(), MAX_PAIRS);
        assert_eq!(failures.turn(VENUE, "0", start), Turn::Now, "the oldest is forgotten");
    }
}
