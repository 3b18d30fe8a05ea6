//! Wall time, through one door, so that tests can set it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

/// Where wall time comes from; clones share a set time.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    set: Option<Arc<AtomicI64>>,
}

impl Clock {
    /// The system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self::default()
    }

    /// A clock that stands at `now_ms` until it is set.
    #[must_use]
    pub fn fixed(now_ms: i64) -> Self {
        Self { set: Some(Arc::new(AtomicI64::new(now_ms))) }
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        if let Some(set) = &self.set {
            return set.load(Ordering::SeqCst);
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }

    /// Moves a fixed clock; the system's is left alone.
    pub fn advance_ms(&self, by_ms: i64) {
        if let Some(set) = &self.set {
            set.fetch_add(by_ms, Ordering::SeqCst);
        }
    }
}
