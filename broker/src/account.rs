//! What one person or service holds in the broker, over all its sessions and connections.
//!
//! Each session and each connection may hold a little of its own; what goes beyond that comes out of one purse for all of
//! them. So a client that behaves works beside a hundred of the same account that fill theirs. Pure.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// A session's own part. Enough for what is under way to a client that keeps up.
pub(crate) const SESSION_BYTES: usize = 16 * 1024;
/// A connection's own part: small packets that it reads and writes at once.
pub(crate) const CONNECTION_BYTES: usize = 32 * 1024;

/// The purse of one account.
#[derive(Debug)]
pub(crate) struct Account {
    taken: AtomicUsize,
    limit: usize,
}

impl Account {
    pub(crate) fn new(limit: usize) -> Arc<Account> {
        Arc::new(Account { taken: AtomicUsize::new(0), limit })
    }

    #[cfg(test)]
    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Relaxed)
    }

    /// Takes `bytes` unless more than `ceiling` would be taken then.
    fn take(&self, bytes: usize, ceiling: usize) -> bool {
        let more = |taken: usize| taken.checked_add(bytes).filter(|taken| *taken <= ceiling);
        self.taken.fetch_update(Relaxed, Relaxed, more).is_ok()
    }
}

/// What one session or connection holds; given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    /// None for a device, whose one session and one connection have bounds of their own: they hold what they want.
    account: Option<Arc<Account>>,
    own: usize,
    held: usize,
}

impl Share {
    /// With `own` bytes that do not count.
    pub(crate) fn of(account: Option<Arc<Account>>, own: usize) -> Share {
        Share { account, own, held: 0 }
    }

    pub(crate) fn account(&self) -> Option<Arc<Account>> {
        self.account.clone()
    }

    /// Holds `bytes` more, if there is room. Messages that wait leave a quarter of the purse to what has to be held: packets that
    /// are being read and written.
    pub(crate) fn try_hold_waiting(&mut self, bytes: usize) -> bool {
        self.try_set(self.held + bytes, for_waiting)
    }

    /// The purse has no room for more that waits.
    pub(crate) fn is_tight(&self) -> bool {
        self.account.as_ref().is_some_and(|account| account.taken.load(Relaxed) >= for_waiting(account.limit))
    }

    /// Holds `bytes` in all from now on, if there is room.
    pub(crate) fn try_hold_in_all(&mut self, bytes: usize) -> bool {
        self.try_set(bytes, |limit| limit)
    }

    fn try_set(&mut self, held: usize, ceiling: impl Fn(usize) -> usize) -> bool {
        if let Some(account) = &self.account {
            let (before, after) = (self.held.saturating_sub(self.own), held.saturating_sub(self.own));
            if after > before && !account.take(after - before, ceiling(account.limit)) {
                return false;
            }
            if after < before {
                account.taken.fetch_sub(before - after, Relaxed);
            }
        }
        self.held = held;
        true
    }

    /// Holds `bytes` in all, whether or not there is room.
    pub(crate) fn hold_in_all(&mut self, bytes: usize) {
        // There is always room up to the largest number.
        self.try_set(bytes, |_| usize::MAX);
    }

    pub(crate) fn hold(&mut self, bytes: usize) {
        self.hold_in_all(self.held + bytes);
    }

    pub(crate) fn release(&mut self, bytes: usize) {
        self.hold_in_all(self.held.saturating_sub(bytes));
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.hold_in_all(0);
    }
}

fn for_waiting(limit: usize) -> usize {
    limit - limit / 4
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_goes_beyond_each_ones_own_part_comes_out_of_one_purse_and_goes_back_into_it() {
        let account = Some(Account::new(1_000));
        let taken = || account.as_ref().unwrap().taken();
        let (mut a, mut b) = (Share::of(account.clone(), 100), Share::of(account.clone(), 100));
        assert!(a.try_hold_waiting(100) && b.try_hold_waiting(100));
        assert_eq!(taken(), 0);
        assert!(a.try_hold_waiting(700) && !a.is_tight());
        assert!(!b.try_hold_waiting(51), "a quarter is left");
        assert!(b.try_hold_in_all(400), "to what has to be held");
        assert!(!b.try_hold_in_all(401));
        assert!(taken() == 1_000 && a.is_tight());
        a.release(750);
        assert_eq!(taken(), 300);
        b.hold(5_000);
        assert_eq!(taken(), 5_300);
        drop(b);
        assert_eq!(taken(), 0);
        assert!(a.try_hold_waiting(800));
    }

    #[test]
    fn a_device_holds_what_its_own_limits_let_it() {
        let mut share = Share::of(None, 0);
        assert!(share.try_hold_waiting(usize::MAX / 2) && share.try_hold_in_all(usize::MAX));
        share.release(usize::MAX);
    }
}
