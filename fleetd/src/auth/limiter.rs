//! Limits on failed sign-ins and on requests. Pure: the clock is a parameter.
//!
//! Failures are counted for each pair of address and account, because forty devices of a venue share one address and
//! one of them with a wrong token must not lock out the others. A valid credential is never refused here: the counter
//! only decides how a failure is answered.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};

/// Failures within the window that are answered 401; the next ones are answered 429.
pub const FAILURES_MAX: u32 = 10;
/// The window, in milliseconds.
pub const FAILURES_WINDOW_MS: i64 = 60_000;
/// How many counters are kept; past it the ones that end first go.
const ENTRIES_MAX: usize = 50_000;

/// Who failed: an address and the account that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FailureKey {
    address: IpAddr,
    account: String,
}

impl FailureKey {
    /// `account` is what the client claims to be. It is cut, as it comes from outside; an IPv6 address counts as its
    /// /64 network, which is what one customer gets.
    #[must_use]
    pub fn new(address: IpAddr, account: &str) -> Self {
        let address = match address.to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX))),
            v4 => v4,
        };
        Self { address, account: account.to_lowercase().chars().take(128).collect() }
    }

    /// The address, or the /64 network.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }
}

#[derive(Debug, Clone, Copy)]
struct Window {
    count: u32,
    ends_at_ms: i64,
}

/// Counts per key in fixed windows that start with the first event.
#[derive(Debug)]
pub struct WindowCounter<K> {
    max: u32,
    window_ms: i64,
    windows: HashMap<K, Window>,
}

/// Counts failures.
pub type FailureLimiter = WindowCounter<FailureKey>;
/// Counts requests per credential, by its id.
pub type RequestLimiter = WindowCounter<String>;

impl<K: Hash + Eq + Clone> WindowCounter<K> {
    /// `max` events are allowed in `window_ms` milliseconds.
    #[must_use]
    pub fn new(max: u32, window_ms: i64) -> Self {
        Self { max, window_ms, windows: HashMap::new() }
    }

    /// Counts one event. Gives the seconds to wait when it was one too many.
    pub fn count(&mut self, key: &K, now_ms: i64) -> Option<u32> {
        let fresh = Window { count: 0, ends_at_ms: now_ms + self.window_ms };
        if !self.windows.contains_key(key) {
            self.make_room(now_ms);
        }
        let window = self.windows.entry(key.clone()).or_insert(fresh);
        // A window that ended, or one from before the clock was set back by more than its length.
        if window.ends_at_ms <= now_ms || window.ends_at_ms > now_ms + self.window_ms {
            *window = fresh;
        }
        window.count = window.count.saturating_add(1);
        (window.count > self.max).then(|| seconds_until(window.ends_at_ms, now_ms))
    }

    /// Forgets a key, after a success.
    pub fn forget(&mut self, key: &K) {
        self.windows.remove(key);
    }

    fn make_room(&mut self, now_ms: i64) {
        if self.windows.len() < ENTRIES_MAX {
            return;
        }
        self.windows.retain(|_, window| window.ends_at_ms > now_ms);
        if self.windows.len() < ENTRIES_MAX {
            return;
        }
        let mut ends: Vec<i64> = self.windows.values().map(|window| window.ends_at_ms).collect();
        let middle = ends.len() / 2;
        let (_, cut, _) = ends.select_nth_unstable(middle);
        let cut = *cut;
        self.windows.retain(|_, window| window.ends_at_ms > cut);
    }
}

fn seconds_until(ends_at_ms: i64, now_ms: i64) -> u32 {
    let left_ms = ends_at_ms.saturating_sub(now_ms).max(0);
    u32::try_from(left_ms.saturating_add(999) / 1000).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn key(account: &str) -> FailureKey {
        FailureKey::new("203.0.113.7".parse().unwrap(), account)
    }

    #[test]
    fn failures_of_one_account_do_not_touch_another_behind_the_same_address() {
        let mut limiter = FailureLimiter::new(3, 60_000);
        for _ in 0..10 {
            limiter.count(&key("default/cam-1"), 0);
        }
        assert_eq!(limiter.count(&key("default/cam-1"), 1), Some(60));
        assert_eq!(limiter.count(&key("default/cam-2"), 1), None);
    }

    #[test]
    fn the_window_ends_and_a_success_clears_it() {
        let mut limiter = FailureLimiter::new(1, 60_000);
        assert_eq!(limiter.count(&key("a"), 0), None);
        assert_eq!(limiter.count(&key("a"), 30_000), Some(30));
        assert_eq!(limiter.count(&key("a"), 60_000), None);
        limiter.forget(&key("a"));
        assert_eq!(limiter.count(&key("a"), 60_001), None);
    }

    #[test]
    fn a_clock_set_back_does_not_lock_anybody_out_for_long() {
        let mut limiter = FailureLimiter::new(1, 60_000);
        limiter.count(&key("a"), 1_000_000_000);
        assert_eq!(limiter.count(&key("a"), 0), None);
    }

    #[test]
    fn the_number_of_counters_is_bounded() {
        let mut limiter = RequestLimiter::new(1, 60_000);
        for n in 0..(ENTRIES_MAX + 10) {
            limiter.count(&n.to_string(), i64::try_from(n).unwrap() / 1000);
        }
        assert!(limiter.windows.len() <= ENTRIES_MAX);
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address_and_case_does_not_matter() {
        let a = FailureKey::new("2001:db8::1".parse().unwrap(), "Eve@Example.org");
        let b = FailureKey::new("2001:db8::ffff".parse().unwrap(), "eve@example.org");
        assert_eq!(a, b);
        let mapped = FailureKey::new("::ffff:203.0.113.7".parse().unwrap(), "cam");
        assert_eq!(mapped, key("cam"));
    }
}
