//! Commands that were handed out to devices that poll.

use super::{Store, StoreError, commands};
use crate::domain::command::Command;
use crate::values;

/// Commands handed out over HTTP whose expiry has passed, and whose time may be over; at most a few hundred.
///
/// # Errors
/// [`StoreError`].
pub async fn overdue(store: &Store, now_ms: i64) -> Result<Vec<Command>, StoreError> {
    const WITH_DEVICE: &str = "('acked', 'held', 'running')";
    let (columns, from, open) = (commands::COLUMNS, commands::FROM, commands::OPEN);
    let sql = format!(
        "SELECT {columns} {from} WHERE c.status IN {open} AND c.bound = 'http' AND c.expires_at <= ?1 \
         AND ((c.status IN {WITH_DEVICE} AND c.expires_at + c.timeout_seconds * 1000 <= ?1) \
         OR (c.status = 'sent' AND c.expires_at + ?2 <= ?1)) ORDER BY c.expires_at LIMIT 500"
    );
    let silence = protocol::command::limits::SILENCE_AFTER_EXPIRY_MS;
    store.query(sql, values![now_ms, silence]).await?.iter().map(commands::read).collect()
}
