//! What the kernel knows and the agent must not get wrong: the clocks, the boot and the host's name.
//!
//! For tests environment variables name files that are read in place of the kernel's answer:
//!
//! | variable | contents |
//! |---|---|
//! | `R58_FLEET_TEST_BOOT_ID_FILE` | a UUID |
//! | `R58_FLEET_TEST_BOOTTIME_FILE` | milliseconds since boot; with a sign, milliseconds added to the kernel's |
//! | `R58_FLEET_TEST_WALL_CLOCK_FILE` | milliseconds since 1970; with a sign, milliseconds added to the kernel's |
//! | `R58_FLEET_TEST_SYNCHRONIZED_FILE` | nothing: while it exists, NTP has set the clock (debug builds only) |
//!
//! The files are read each time, so a test may move a clock under a running agent. A file that cannot be understood
//! stops the start; later it leaves the last good answer in place.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};
use uuid::Uuid;

/// There while systemd's time service has set the clock in this boot.
const SYNCHRONIZED_FILE: &str = "/run/systemd/timesync/synchronized";
/// Where the kernel tells which boot this is.
const BOOT_ID_FILE: &str = "/proc/sys/kernel/random/boot_id";

/// Names of the variables that put a file in place of the kernel.
const TEST_BOOT_ID: &str = "R58_FLEET_TEST_BOOT_ID_FILE";
const TEST_BOOTTIME: &str = "R58_FLEET_TEST_BOOTTIME_FILE";
#[cfg(debug_assertions)]
const TEST_SYNCHRONIZED: &str = "R58_FLEET_TEST_SYNCHRONIZED_FILE";
const TEST_WALL_CLOCK: &str = "R58_FLEET_TEST_WALL_CLOCK_FILE";

/// The kernel, or a test's file in its place, did not say what it has to.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A file does not hold what it has to.
    #[error("{path} does not hold {expected}")]
    Contents {
        /// The file.
        path: PathBuf,
        /// What it has to hold.
        expected: &'static str,
    },
    /// The kernel has no such clock.
    #[error("cannot read the clock that counts since boot; Linux 2.6.39 or newer is needed")]
    Clock(#[source] nix::Error),
}

/// A number in a file in place of a clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Setting {
    Absolute(i64),
    Offset(i64),
}

impl Setting {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let number = text.parse().ok()?;
        Some(if text.starts_with(['+', '-']) { Self::Offset(number) } else { Self::Absolute(number) })
    }

    fn apply(self, kernel_ms: i64) -> i64 {
        match self {
            Self::Absolute(ms) => ms,
            Self::Offset(ms) => kernel_ms.saturating_add(ms),
        }
    }
}

#[derive(Debug)]
struct TestClock {
    file: PathBuf,
    last_good: Mutex<Setting>,
}

impl TestClock {
    fn open(variable: &str) -> Result<Option<Self>, KernelError> {
        let Some(file) = std::env::var_os(variable).map(PathBuf::from) else { return Ok(None) };
        let text = read(&file)?;
        let expected = "a number of milliseconds";
        let setting =
            Setting::parse(&text).ok_or_else(|| KernelError::Contents { path: file.clone(), expected })?;
        tracing::warn!(variable, file = %file.display(), "this clock is a test's file");
        Ok(Some(Self { file, last_good: Mutex::new(setting) }))
    }

    fn setting(&self) -> Setting {
        // A setting is whole at any time, so one left by a panicking thread is as good as any.
        let mut last_good = self.last_good.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(now) = read(&self.file).ok().as_deref().and_then(Setting::parse) {
            *last_good = now;
        }
        *last_good
    }
}

/// The kernel's answers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Kernel {
    boot_id: Uuid,
    clocks: Arc<Clocks>,
}

#[derive(Debug)]
struct Clocks {
    boottime: Option<TestClock>,
    wall: Option<TestClock>,
    synchronized: PathBuf,
}

impl Kernel {
    /// Asks once, so that whatever is missing shows at the start.
    ///
    /// # Errors
    /// When the boot id or the clock cannot be had, or a test's file is wrong.
    pub fn open() -> Result<Self, KernelError> {
        let file = std::env::var_os(TEST_BOOT_ID).map_or_else(|| PathBuf::from(BOOT_ID_FILE), PathBuf::from);
        let boot_id = Uuid::parse_str(read(&file)?.trim())
            .map_err(|_| KernelError::Contents { path: file, expected: "a boot id (a UUID)" })?;
        clock_gettime(ClockId::CLOCK_BOOTTIME).map_err(KernelError::Clock)?;
        let clocks = Clocks {
            boottime: TestClock::open(TEST_BOOTTIME)?,
            wall: TestClock::open(TEST_WALL_CLOCK)?,
            synchronized: synchronized_file(),
        };
        Ok(Self { boot_id, clocks: Arc::new(clocks) })
    }

    /// Which boot of this machine this is; a new one after each reboot.
    #[must_use]
    pub fn boot_id(&self) -> Uuid {
        self.boot_id
    }

    /// Milliseconds since boot, sleep included. Never goes back, whatever happens to the wall clock.
    #[must_use]
    pub fn boottime_ms(&self) -> u64 {
        // `open` has shown that the clock is there; it does not go away.
        let kernel = clock_gettime(ClockId::CLOCK_BOOTTIME)
            .map_or(0, |now| now.tv_sec() * 1000 + now.tv_nsec() / 1_000_000);
        let ms = self.clocks.boottime.as_ref().map_or(kernel, |test| test.setting().apply(kernel));
        u64::try_from(ms).unwrap_or(0)
    }

    /// Whether NTP has set the wall clock in this boot.
    #[must_use]
    pub fn clock_is_synchronized(&self) -> bool {
        self.clocks.synchronized.exists()
    }

    /// Milliseconds since 1970 by the device's clock, which may be wrong by years; negative before 1970.
    #[must_use]
    pub fn wall_ms(&self) -> i64 {
        let millis = |d: std::time::Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
        let kernel = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => millis(since),
            Err(before) => -millis(before.duration()),
        };
        self.clocks.wall.as_ref().map_or(kernel, |test| test.setting().apply(kernel))
    }
}

#[cfg(debug_assertions)]
fn synchronized_file() -> PathBuf {
    std::env::var_os(TEST_SYNCHRONIZED).map_or_else(|| PathBuf::from(SYNCHRONIZED_FILE), PathBuf::from)
}

#[cfg(not(debug_assertions))]
fn synchronized_file() -> PathBuf {
    PathBuf::from(SYNCHRONIZED_FILE)
}

fn read(path: &Path) -> Result<String, KernelError> {
    fs::read_to_string(path).map_err(|source| KernelError::Read { path: path.to_owned(), source })
}

/// Whether a test has put its own boot in place of the kernel's: then this machine is never really rebooted.
#[must_use]
pub fn is_a_tests() -> bool {
    cfg!(test) || std::env::var_os(TEST_BOOT_ID).is_some()
}

/// The name of this host; empty if the kernel does not tell.
#[must_use]
pub fn hostname() -> String {
    nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_number_with_a_sign_moves_the_clock_and_one_without_sets_it() {
        assert_eq!(Setting::parse(" 1500\n"), Some(Setting::Absolute(1500)));
        assert_eq!(Setting::parse("+1500"), Some(Setting::Offset(1500)));
        assert_eq!(Setting::parse("-1500").unwrap().apply(2000), 500);
        assert_eq!(Setting::Absolute(7).apply(2000), 7);
        assert_eq!(Setting::Offset(i64::MAX).apply(2000), i64::MAX);
        assert_eq!(Setting::parse("soon"), None);
    }

    #[test]
    fn a_clock_file_that_turns_bad_leaves_the_last_good_answer() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("clock");
        fs::write(&file, "42").unwrap();
        let clock = TestClock { file: file.clone(), last_good: Mutex::new(Setting::Absolute(0)) };
        assert_eq!(clock.setting(), Setting::Absolute(42));
        fs::write(&file, "4x").unwrap();
        assert_eq!(clock.setting(), Setting::Absolute(42));
        fs::remove_file(&file).unwrap();
        assert_eq!(clock.setting(), Setting::Absolute(42));
    }

    #[test]
    fn the_real_kernel_answers() {
        let kernel = Kernel::open().unwrap();
        assert!(!kernel.boot_id().is_nil());
        let first = kernel.boottime_ms();
        assert!(first > 0 && kernel.boottime_ms() >= first);
        assert!(kernel.wall_ms() > 1_600_000_000_000);
        assert!(!hostname().is_empty());
    }
}
