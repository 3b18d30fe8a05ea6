//! When was a record taken? The device's clock may be a year off, and a record may have been spooled for days.
//!
//! The birth pairs three clocks at one moment: the server's (`received_at` of the birth), the device's wall clock and
//! its time since boot. From there:
//!
//! 1. A record of the same boot was taken as long before (or after) the birth as its time since boot says. This does
//!    not depend on any wall clock of the device, so stepping it changes nothing.
//! 2. A record of an earlier boot was taken at its wall time, corrected by what the device's clock was off at the birth.
//! 3. Where that gives a time that cannot be (after the birth's boot, or more than [`OLDEST_MS`] ago), the record is
//!    taken to be of the same boot if its time since boot allows it, else its arrival counts.
//!
//! Nothing is ever taken after it arrived.

use protocol::message::Birth;

/// A corrected time further back than this is not believed: 60 days, several times what an outbox holds.
pub const OLDEST_MS: i64 = 60 * 24 * 3600 * 1000;
/// How far the two ways of reckoning may differ within one boot: clocks drift and are slewed.
const SAME_BOOT_MS: i64 = 60_000;
/// Beyond one interval, how old a record may be on arrival and still show that the device is there now.
const FRESH_MS: i64 = 60_000;

/// The three clocks at a birth, all in ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// The server's time at which the birth arrived.
    pub server: i64,
    /// The device's wall clock in the birth; 0 if it did not say.
    pub device: i64,
    /// Since the device's boot.
    pub since_boot: i64,
}

impl Anchor {
    /// The pairing in this birth.
    #[must_use]
    pub fn of(birth: &Birth, birth_at: i64) -> Self {
        Self {
            server: birth_at,
            device: birth.ts,
            since_boot: i64::try_from(birth.since_boot_ms).unwrap_or(i64::MAX),
        }
    }

    /// The server's time at which a record with these clocks was taken.
    #[must_use]
    pub fn taken_at(&self, ts: i64, since_boot_ms: u64, received_at: i64) -> i64 {
        let since_boot = i64::try_from(since_boot_ms).unwrap_or(i64::MAX);
        let by_boot = self.server.saturating_add(since_boot.saturating_sub(self.since_boot));
        let by_clock = ts.saturating_add(self.server.saturating_sub(self.device));
        let booted_at = self.server.saturating_sub(self.since_boot);
        // A record of this boot cannot have a time since boot that is still to come.
        let could_be_this_boot = by_boot <= received_at.saturating_add(SAME_BOOT_MS);
        let agree = by_boot.saturating_sub(by_clock).saturating_abs() <= SAME_BOOT_MS;
        let clock_believable =
            self.device > 0 && by_clock < booted_at && by_clock >= received_at.saturating_sub(OLDEST_MS);
        let at = if could_be_this_boot && (agree || !clock_believable) {
            by_boot
        } else if clock_believable {
            by_clock
        } else {
            received_at
        };
        at.clamp(received_at.saturating_sub(OLDEST_MS), received_at)
    }
}

/// Whether a record taken at `at` shows, when it arrives, that the device is there now. Backlog does not.
#[must_use]
pub fn is_fresh(at: i64, received_at: i64, interval_seconds: u32) -> bool {
    received_at.saturating_sub(at) <= FRESH_MS + i64::from(interval_seconds) * 1000
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: i64 = 1_766_916_000_000;
    const HOUR: i64 = 3_600_000;
    const YEAR: i64 = 365 * 24 * HOUR;

    fn anchor(skew: i64, since_boot: i64) -> Anchor {
        Anchor { server: NOW, device: NOW + skew, since_boot }
    }

    #[test]
    fn a_live_record_is_taken_when_it_arrives_though_the_clock_is_a_year_off() {
        for skew in [-YEAR, 0, YEAR] {
            let at = anchor(skew, HOUR).taken_at(NOW + skew + 60_000, 3_660_000, NOW + 60_020);
            assert_eq!(at, NOW + 60_000, "{skew}");
        }
    }

    #[test]
    fn a_record_spooled_in_this_boot_is_dated_by_time_since_boot() {
        let spooled = anchor(YEAR, 10 * HOUR).taken_at(NOW + YEAR - 3 * HOUR, 7 * HOUR as u64, NOW + 5000);
        assert_eq!(spooled, NOW - 3 * HOUR);
    }

    #[test]
    fn a_record_of_an_earlier_boot_is_dated_by_the_corrected_clock() {
        let at = anchor(YEAR, HOUR).taken_at(NOW + YEAR - 30 * HOUR, 200 * HOUR as u64, NOW + 5000);
        assert_eq!(at, NOW - 30 * HOUR);
        // Its time since boot would also fit this boot; the clock says that it does not.
        let at = anchor(0, 10 * HOUR).taken_at(NOW - 30 * HOUR, 2 * HOUR as u64, NOW + 5000);
        assert_eq!(at, NOW - 30 * HOUR);
    }

    #[test]
    fn a_clock_set_right_after_boot_does_not_send_the_first_records_to_another_year() {
        // Taken at 1970 by the clock, one minute after boot; the birth came after the clock had been set.
        let at = anchor(0, HOUR).taken_at(60_000, 60_000, NOW + 5000);
        assert_eq!(at, NOW - HOUR + 60_000);
    }

    #[test]
    fn backlog_is_not_fresh_and_a_live_record_is() {
        assert!(is_fresh(NOW - 500, NOW, 60));
        assert!(!is_fresh(NOW - 10 * 60_000, NOW, 60));
    }

    proptest! {
        #[test]
        fn nothing_is_taken_after_it_arrived_whatever_the_clocks_say(
            device in any::<i64>(), since in any::<u64>(), ts in any::<i64>(), boot in 0..i64::MAX, later in 0..YEAR
        ) {
            let anchor = Anchor { server: NOW, device, since_boot: boot };
            let at = anchor.taken_at(ts, since, NOW + later);
            prop_assert!(at <= NOW + later && at >= NOW + later - OLDEST_MS);
        }
    }
}
