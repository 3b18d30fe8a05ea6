//! How many bytes may be unacknowledged: 32 KiB until a round trip has been measured, then what the line carries in
//! 10 s. So a slow line is never clogged for long: a command report is at most 10 s behind what is under way.

use std::time::Duration;

const START_BYTES: usize = 32 * 1024;
const LEAST_BYTES: usize = 2 * 1024;
/// Also bounds the memory that is taken up by what is under way.
const MOST_BYTES: usize = 512 * 1024;
const SPAN_SECONDS: u128 = 10;

#[derive(Debug)]
pub(super) struct Window {
    bytes: usize,
    /// Where the next connection begins: less after connections that broke under what was sent.
    start_bytes: usize,
}

impl Window {
    pub(super) const fn new() -> Self {
        Self { bytes: START_BYTES, start_bytes: START_BYTES }
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// A connection begins; nothing is known of it.
    pub(super) fn begin(&mut self) {
        self.bytes = self.start_bytes;
    }

    /// A connection ended before the broker had what was sent: perhaps it was too much at once.
    pub(super) fn lost(&mut self) {
        self.start_bytes /= 2;
    }

    /// The broker has something that was sent.
    pub(super) fn received(&mut self) {
        self.start_bytes = START_BYTES;
    }

    /// `delivered` bytes were acknowledged within `took`, with up to `filled` bytes under way.
    pub(super) fn measured(&mut self, delivered: u64, took: Duration, filled: usize) {
        let per_span = u128::from(delivered) * SPAN_SECONDS * 1000 / took.as_millis().max(1);
        let carries = usize::try_from(per_span).unwrap_or(MOST_BYTES).clamp(LEAST_BYTES, MOST_BYTES);
        // A line that was mostly idle carried less than it could: that says nothing against a larger window.
        if filled >= self.bytes / 2 || carries > self.bytes {
            self.bytes = carries;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_32_kib_until_a_round_trip_is_measured_and_then_10_seconds_worth() {
        let mut window = Window::new();
        assert_eq!(window.bytes(), 32 * 1024);
        window.measured(32_000, Duration::from_secs(20), 32_000);
        assert_eq!(window.bytes(), 16_000);
        window.measured(16_000, Duration::from_millis(500), 16_000);
        assert_eq!(window.bytes(), 320_000);
    }

    #[test]
    fn one_small_record_on_a_slow_answer_does_not_close_the_window() {
        let mut window = Window::new();
        window.measured(110, Duration::from_secs(5), 110);
        assert_eq!(window.bytes(), 32 * 1024);
    }

    #[test]
    fn the_window_has_a_floor_and_a_ceiling() {
        let mut window = Window::new();
        window.measured(1_000, Duration::from_secs(3_600), 40_000);
        assert_eq!(window.bytes(), LEAST_BYTES);
        window.measured(u64::MAX, Duration::ZERO, 40_000);
        assert_eq!(window.bytes(), MOST_BYTES);
    }

    #[test]
    fn connections_that_break_under_the_load_begin_with_less_until_one_gets_through() {
        let mut window = Window::new();
        window.lost();
        window.lost();
        window.begin();
        assert_eq!(window.bytes(), 8 * 1024);
        window.received();
        window.begin();
        assert_eq!(window.bytes(), 32 * 1024);
    }
}
