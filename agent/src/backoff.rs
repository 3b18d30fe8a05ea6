//! How long to wait before the next attempt: exponential with full jitter, so that a venue full of devices, or a whole
//! fleet after a server restart, does not come back in step.
//!
//! Pure: the caller brings the random number and does the waiting.

use std::time::Duration;

#[cfg(test)]
mod tests;

/// Waits grow from `shortest` towards `longest` with every attempt in a row.
#[derive(Debug, Clone)]
pub struct Backoff {
    shortest: Duration,
    longest: Duration,
    /// How often the first wait's ceiling is `shortest` doubled.
    first_doublings: u32,
    attempts: u32,
}

impl Backoff {
    /// What every connection attempt of the agent uses: 1 s to 5 min. The first wait is 1 to 8 s: a thousand devices whose
    /// server was restarted come back over seven seconds rather than in one, and one whose connection broke is back within
    /// the 10 s after which its last will would make it offline.
    pub const LINK: Self =
        Self { first_doublings: 3, ..Self::new(Duration::from_secs(1), Duration::from_secs(300)) };

    /// A series whose first wait is between `shortest` and twice that, and which never exceeds `longest`.
    #[must_use]
    pub const fn new(shortest: Duration, longest: Duration) -> Self {
        Self { shortest, longest, first_doublings: 1, attempts: 0 }
    }

    /// The next wait: evenly spread between `shortest` and a ceiling that doubles with every call until it is
    /// `longest`. `random` is any evenly distributed number.
    pub fn next(&mut self, random: u64) -> Duration {
        self.attempts = self.attempts.saturating_add(1);
        let shortest_ms = millis(self.shortest);
        let span_ms = self.ceiling_ms().saturating_sub(shortest_ms);
        // The remainder's bias is of no importance for a wait.
        Duration::from_millis(shortest_ms + random % (span_ms + 1))
    }

    /// Call when an attempt has succeeded.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }

    fn ceiling_ms(&self) -> u64 {
        let doublings = self.attempts.saturating_add(self.first_doublings.saturating_sub(1));
        let factor = 1u64.checked_shl(doublings).unwrap_or(u64::MAX);
        millis(self.shortest).saturating_mul(factor).min(millis(self.longest)).max(millis(self.shortest))
    }
}

fn millis(duration: Duration) -> u64 {
    // A day: no wait is longer, and sums cannot overflow.
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).min(86_400_000)
}
