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
    attempts: u32,
}

impl Backoff {
    /// What every connection attempt of the agent uses: 1 s to 5 min.
    pub const LINK: Self = Self::new(Duration::from_secs(1), Duration::from_secs(300));

    /// A series that begins at `shortest` and never exceeds `longest`.
    #[must_use]
    pub const fn new(shortest: Duration, longest: Duration) -> Self {
        Self { shortest, longest, attempts: 0 }
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
        let factor = 1u64.checked_shl(self.attempts).unwrap_or(u64::MAX);
        millis(self.shortest).saturating_mul(factor).min(millis(self.longest)).max(millis(self.shortest))
    }
}

fn millis(duration: Duration) -> u64 {
    // A day: no wait is longer, and sums cannot overflow.
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).min(86_400_000)
}
