//! How fast one device may publish: a bucket that refills steadily and holds one second's worth.
//!
//! Nothing is ever refused: past the rate the gate waits before it reads on. Pure; takes the time of each call.

use std::time::{Duration, Instant};

/// The bucket of one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RateLimiter {
    /// Time that one message takes at the allowed rate; zero for no limit.
    interval: Duration,
    /// When the bucket will be full again. One second ahead of now it is empty.
    full_at: Instant,
}

impl RateLimiter {
    /// A full bucket; 0 is no limit.
    pub(crate) fn new(per_second: u32, now: Instant) -> RateLimiter {
        let interval = if per_second == 0 { Duration::ZERO } else { Duration::from_secs(1) / per_second };
        RateLimiter { interval, full_at: now }
    }

    /// Counts one message.
    pub(crate) fn count(&mut self, now: Instant) {
        self.full_at = self.full_at.max(now) + self.interval;
    }

    /// Until when to wait before the next message is read; `None` if it may be read now.
    pub(crate) fn wait_until(&self, now: Instant) -> Option<Instant> {
        let next = self.full_at + self.interval;
        let allowed = next.checked_sub(Duration::from_secs(1))?;
        (!self.interval.is_zero() && allowed > now).then_some(allowed)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_burst_of_one_second_passes_and_then_the_rate_holds() {
        let start = Instant::now();
        let mut limiter = RateLimiter::new(100, start);
        let mut now = start;
        let mut waited = Duration::ZERO;
        for _ in 0..300 {
            if let Some(until) = limiter.wait_until(now) {
                waited += until - now;
                now = until;
            }
            limiter.count(now);
        }
        assert_eq!(waited, Duration::from_secs(2));
    }

    #[test]
    fn zero_is_no_limit() {
        let now = Instant::now();
        let mut limiter = RateLimiter::new(0, now);
        for _ in 0..10_000 {
            limiter.count(now);
        }
        assert_eq!(limiter.wait_until(now), None);
    }

    #[test]
    fn a_quiet_second_fills_the_bucket_again() {
        let start = Instant::now();
        let mut limiter = RateLimiter::new(10, start);
        for _ in 0..10 {
            limiter.count(start);
        }
        assert!(limiter.wait_until(start).is_some());
        assert_eq!(limiter.wait_until(start + Duration::from_secs(1)), None);
    }
}
