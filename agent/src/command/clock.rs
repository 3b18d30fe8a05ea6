//! What time it really is, if anybody has said so in this boot. The device's own clock may be wrong by years; from the
//! moment that a server or NTP has confirmed a time, the clock that counts since boot carries it on.

/// A confirmed time.
#[derive(Debug, Clone, Copy, Default)]
pub struct TrustedClock {
    anchor: Option<Anchor>,
}

#[derive(Debug, Clone, Copy)]
struct Anchor {
    true_ms: i64,
    boottime_ms: u64,
    by_server: bool,
}

impl TrustedClock {
    /// A server has said what time it is: milliseconds since 1970, when this many milliseconds had passed since boot.
    pub fn server_says(&mut self, true_ms: i64, boottime_ms: u64) {
        self.anchor = Some(Anchor { true_ms, boottime_ms, by_server: true });
    }

    /// NTP has set the device's clock, which says `wall_ms`. A server's word, once heard, counts more: show locks and
    /// expiries are by its clock.
    pub fn ntp_has_set(&mut self, wall_ms: i64, boottime_ms: u64) {
        if self.anchor.is_none_or(|anchor| !anchor.by_server) {
            self.anchor = Some(Anchor { true_ms: wall_ms, boottime_ms, by_server: false });
        }
    }

    /// Milliseconds since 1970, or `None` while nobody has confirmed any time.
    #[must_use]
    pub fn now_ms(&self, boottime_ms: u64) -> Option<i64> {
        let anchor = self.anchor?;
        let since = i64::try_from(boottime_ms.saturating_sub(anchor.boottime_ms)).unwrap_or(i64::MAX);
        Some(anchor.true_ms.saturating_add(since))
    }
}
