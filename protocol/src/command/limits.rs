//! What a command may ask for at most, and what it gets if it does not say.

use super::CommandType;

/// 1 is the most urgent.
pub const PRIORITY: std::ops::RangeInclusive<u8> = 1..=10;
/// Priority of a command that does not say.
pub const PRIORITY_DEFAULT: u8 = 5;
/// Farthest expiry from now, seconds: 30 days.
pub const EXPIRY_MAX_SECONDS: i64 = 30 * 24 * 3600;
/// Longest time that a command may run, seconds: a day.
pub const TIMEOUT_MAX_SECONDS: u32 = 24 * 3600;
/// Longest `ref`, in bytes.
pub const REFERENCE_MAX_LEN: usize = 200;
/// Longest `notes`, in bytes.
pub const NOTES_MAX_LEN: usize = 1000;
/// Longest reason for an override, in bytes.
pub const REASON_MAX_LEN: usize = 500;
/// Largest result of a command as JSON, in bytes.
pub const RESULT_MAX_LEN: usize = 32 * 1024;
/// How long the ids of commands are remembered after their expiry, ms: 30 days.
pub const REMEMBERED_AFTER_EXPIRY_MS: i64 = 30 * 24 * 3600 * 1000;
/// A device that is silent for so long past a command's expiry is not waited for any more, ms: 7 days.
pub const SILENCE_AFTER_EXPIRY_MS: i64 = 7 * 24 * 3600 * 1000;
/// How long a redundancy lease is good for, from the asking, ms.
pub const LEASE_MS: u64 = 60_000;

/// How long a command of this type may run if it does not say, seconds.
#[must_use]
pub const fn timeout_default_seconds(kind: CommandType) -> u32 {
    match kind {
        CommandType::Update => 3600,
        _ => 120,
    }
}
