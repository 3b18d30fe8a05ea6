//! `show_locks`: one at most for each device and each tag.

use super::{Row, Statement, Store, StoreError, Value};
use crate::domain::device::DeviceRowId;
use crate::domain::org::OrgId;
use crate::domain::show_lock::{ShowLock, Subject};
use crate::values;

const COLUMNS: &str =
    "l.id, l.org_id, l.device_id, l.tag, l.starts_at, l.ends_at, l.reason, l.created_by, l.created_at";

/// The lock of a device or a tag, also one that is over.
///
/// # Errors
/// [`StoreError`].
pub async fn of(store: &Store, org: &OrgId, subject: &Subject) -> Result<Option<ShowLock>, StoreError> {
    let (column, value) = named(subject);
    let sql = format!("SELECT {COLUMNS} FROM show_locks l WHERE l.org_id = ?1 AND l.{column} = ?2");
    store.query_one(sql, values![org.as_str(), value]).await?.map(|row| read(&row)).transpose()
}

/// Every lock by tag in the organisation, and the device's own, unless they are over at `now` (ms since 1970). Which
/// tags the device has is not asked: they may be about to change.
///
/// # Errors
/// [`StoreError`].
pub async fn concerning(
    store: &Store,
    org: &OrgId,
    device: &DeviceRowId,
    now: i64,
) -> Result<Vec<ShowLock>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM show_locks l \
         WHERE l.org_id = ?1 AND l.ends_at > ?3 AND (l.tag IS NOT NULL OR l.device_id = ?2)"
    );
    let rows = store.query(sql, values![org.as_str(), device.as_str(), now]).await?;
    rows.iter().map(read).collect()
}

/// Every lock of every organisation that is not over at `now` (ms since 1970).
///
/// # Errors
/// [`StoreError`].
pub async fn all(store: &Store, now: i64) -> Result<Vec<ShowLock>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM show_locks l WHERE l.ends_at > ?1");
    store.query(sql, values![now]).await?.iter().map(read).collect()
}

/// A lock `l` that is meant for the device `?1`: its own, or one of its tags'. Found by index, however many there are.
pub(super) const OVER_DEVICE: &str = "(l.device_id = ?1 OR l.id IN (SELECT k.id FROM device_tags t \
     JOIN show_locks k ON k.org_id = t.org_id AND k.tag = t.tag WHERE t.device_id = ?1))";

/// The locks that stand over a device at `now` (ms since 1970): its own and those of its tags, the last to end first.
///
/// # Errors
/// [`StoreError`].
pub async fn standing(store: &Store, device: &DeviceRowId, now: i64) -> Result<Vec<ShowLock>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM show_locks l WHERE {OVER_DEVICE} AND l.starts_at <= ?2 AND l.ends_at > ?2 ORDER BY l.ends_at DESC, l.id"
    );
    store.query(sql, values![device.as_str(), now]).await?.iter().map(read).collect()
}

/// How many tags of an organisation have a lock that is not over at `now` (ms since 1970).
///
/// # Errors
/// [`StoreError`].
pub async fn count_by_tag(store: &Store, org: &OrgId, now: i64) -> Result<i64, StoreError> {
    const SQL: &str =
        "SELECT count(*) AS locks FROM show_locks WHERE org_id = ?1 AND tag IS NOT NULL AND ends_at > ?2";
    store.query_one(SQL, values![org.as_str(), now]).await?.map_or(Ok(0), |row| row.int("locks"))
}

/// Sets a lock in place of the one that its device or tag may have, and drops those of the organisation that were over
/// when it was made.
#[must_use]
pub fn put(lock: &ShowLock) -> Vec<Statement> {
    let (device, tag) = match &lock.subject {
        Subject::Device(device) => (Some(device.as_str()), None),
        Subject::Tag(tag) => (None, Some(tag.as_str())),
    };
    let (column, value) = named(&lock.subject);
    vec![
        Statement::new(
            format!("DELETE FROM show_locks WHERE org_id = ?1 AND ({column} = ?2 OR ends_at <= ?3)"),
            values![lock.org_id.as_str(), value, lock.created_at],
        ),
        Statement::new(
            "INSERT INTO show_locks (id, org_id, device_id, tag, starts_at, ends_at, reason, created_by, created_at) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            values![
                lock.id.as_str(),
                lock.org_id.as_str(),
                device,
                tag,
                lock.from,
                lock.until,
                lock.reason.as_str(),
                lock.by.as_str(),
                lock.created_at,
            ],
        ),
    ]
}

/// Takes a lock back, if it is still this one.
#[must_use]
pub fn remove(lock: &ShowLock) -> Statement {
    Statement::new("DELETE FROM show_locks WHERE id = ?1", values![lock.id.as_str()]).expect_rows(1)
}

fn named(subject: &Subject) -> (&'static str, Value) {
    match subject {
        Subject::Device(device) => ("device_id", device.as_str().into()),
        Subject::Tag(tag) => ("tag", tag.as_str().into()),
    }
}

fn read(row: &Row) -> Result<ShowLock, StoreError> {
    let subject = match row.opt_text("device_id")? {
        Some(device) => Subject::Device(DeviceRowId::new(device)),
        None => Subject::Tag(row.text("tag")?),
    };
    Ok(ShowLock {
        id: row.text("id")?,
        org_id: OrgId::new(row.text("org_id")?),
        subject,
        from: row.int("starts_at")?,
        until: row.int("ends_at")?,
        reason: row.text("reason")?,
        by: row.text("created_by")?,
        created_at: row.int("created_at")?,
    })
}
