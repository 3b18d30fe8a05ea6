//! Places at which a test can kill the process, to show that no power cut does harm there.
//!
//! In a debug build, a process whose environment has `R58_FLEET_TEST_FAILPOINT=name` aborts the first time it reaches
//! the place of that name, and with `name#3` the third time. In a release build this is nothing at all.

/// The environment variable that names the place.
pub const VARIABLE: &str = "R58_FLEET_TEST_FAILPOINT";

/// Aborts here if a test wants it.
#[cfg(debug_assertions)]
pub fn reached(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static WANTED: OnceLock<Option<(String, u32)>> = OnceLock::new();
    static TIMES: AtomicU32 = AtomicU32::new(0);
    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var(VARIABLE).ok()?;
        Some(match text.split_once('#') {
            Some((name, times)) => (name.to_owned(), times.parse().unwrap_or(1)),
            None => (text, 1),
        })
    });
    if let Some((wanted, times)) = wanted
        && wanted == name
        && TIMES.fetch_add(1, Ordering::SeqCst) + 1 == *times
    {
        std::process::abort();
    }
}

/// Aborts here if a test wants it: never in a release build.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn reached(_name: &str) {}
