//! How often a line that strangers can cause is logged. Pure; takes the time of each call.

use std::time::{Duration, Instant};

/// Lines within [`WINDOW`].
const LINES: u32 = 20;
const WINDOW: Duration = Duration::from_secs(10);

/// The pace of one kind of line.
#[derive(Debug)]
pub(crate) struct LogPace {
    since: Instant,
    lines: u32,
    left_out: u64,
}

impl LogPace {
    pub(crate) fn new(now: Instant) -> LogPace {
        LogPace { since: now, lines: 0, left_out: 0 }
    }

    /// `Some` if the next line may be written: with how many were left out before it.
    pub(crate) fn admit(&mut self, now: Instant) -> Option<u64> {
        if now.saturating_duration_since(self.since) >= WINDOW {
            (self.since, self.lines) = (now, 0);
        }
        if self.lines >= LINES {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn past_twenty_lines_the_next_waits_for_the_next_ten_seconds_and_tells_how_many_were_left_out() {
        let start = Instant::now();
        let mut pace = LogPace::new(start);
        assert!((0..LINES).all(|_| pace.admit(start) == Some(0)));
        assert!((0..1_000).all(|_| pace.admit(start).is_none()));
        assert_eq!(pace.admit(start + WINDOW), Some(1_000));
        assert_eq!(pace.admit(start + WINDOW), Some(0));
    }
}
