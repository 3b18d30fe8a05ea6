//! Which records are committed, and those that could not be understood.

use protocol::{id::StateId, message::Birth, ranges::RangeSet};
use serde::Serialize;

use super::{Row, Statement, Store, StoreError, device_state::DeviceKey};
use crate::values;

/// Records that could not be understood are kept for each device up to this many, the newest.
const POISON_PER_DEVICE: i64 = 100;

/// The committed numbers of one state database, with the revision that a change must name. Revision 0: no row yet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Committed {
    /// The numbers.
    pub ranges: RangeSet,
    /// For compare-and-swap.
    pub revision: i64,
}

/// A device as the records' way in sees it.
#[derive(Clone, Debug)]
pub struct KnownDevice {
    /// Its row.
    pub key: DeviceKey,
    /// Its last birth and when that arrived.
    pub born: Option<(Birth, i64)>,
    /// The version that it should have.
    pub target_version: Option<String>,
}

/// Finds a device in service by the names in its topics.
///
/// # Errors
/// [`StoreError`].
pub async fn find_device(store: &Store, org: &str, device: &str) -> Result<Option<KnownDevice>, StoreError> {
    const SQL: &str = "\
SELECT d.id, d.org_id, d.target_version, s.birth, s.birth_at FROM devices d
JOIN organizations o ON o.id = d.org_id LEFT JOIN device_state s ON s.device_id = d.id
WHERE o.slug = ?1 AND d.device_id = ?2 AND d.decommissioned_at IS NULL";
    let Some(row) = store.lookup_one(SQL, values![org, device]).await? else { return Ok(None) };
    let birth: Option<Birth> = row.opt_json("birth")?;
    Ok(Some(KnownDevice {
        key: DeviceKey { device_id: row.text("id")?, org_id: row.text("org_id")? },
        born: birth.zip(row.opt_int("birth_at")?),
        target_version: row.opt_text("target_version")?,
    }))
}

/// What is committed of a state database of a device.
///
/// # Errors
/// [`StoreError`].
pub async fn committed(store: &Store, key: &DeviceKey, state_id: StateId) -> Result<Committed, StoreError> {
    const SQL: &str = "SELECT committed, revision FROM record_states WHERE device_id = ?1 AND state_id = ?2";
    let row = store.lookup_one(SQL, values![key.device_id.as_str(), state_id.to_string()]).await?;
    row.map_or(Ok(Committed::default()), |row| {
        Ok(Committed {
            ranges: row.opt_json("committed")?.unwrap_or_default(),
            revision: row.int("revision")?,
        })
    })
}

/// Replaces the committed set, if nobody changed it since `revision` was read.
#[must_use]
pub fn put_committed(
    key: &DeviceKey,
    state_id: StateId,
    ranges: &RangeSet,
    revision: i64,
    now_ms: i64,
) -> Statement {
    let text = serde_json::to_string(ranges).unwrap_or_default();
    let (device, state) = (key.device_id.as_str(), state_id.to_string());
    if revision == 0 {
        let sql = "INSERT INTO record_states (device_id, state_id, org_id, committed, first_at, last_at, revision) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?5, 1) ON CONFLICT (device_id, state_id) DO NOTHING";
        return Statement::new(sql, values![device, state, key.org_id.as_str(), text, now_ms]).expect_rows(1);
    }
    let sql = "UPDATE record_states SET committed = ?3, last_at = ?4, revision = revision + 1 \
               WHERE device_id = ?1 AND state_id = ?2 AND revision = ?5";
    Statement::new(sql, values![device, state, text, now_ms, revision]).expect_rows(1)
}

/// Keeps a record that could not be understood; see [`trim_poison`].
#[must_use]
#[allow(clippy::too_many_arguments)] // the columns of the table
pub fn put_poison(
    key: &DeviceKey,
    state_id: StateId,
    seq: u64,
    topic: &str,
    raw: &[u8],
    size_bytes: usize,
    reason: &str,
    now_ms: i64,
) -> Statement {
    let insert = "INSERT INTO poison_records (device_id, state_id, seq, org_id, topic, received_at, reason, size_bytes, \
                  raw) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (device_id, state_id, seq) DO NOTHING";
    Statement::new(
        insert,
        values![
            key.device_id.as_str(),
            state_id.to_string(),
            i64::try_from(seq).unwrap_or(i64::MAX),
            key.org_id.as_str(),
            topic,
            now_ms,
            reason,
            i64::try_from(size_bytes).unwrap_or(i64::MAX),
            raw,
        ],
    )
}

/// Forgets all but the newest poison of a device. Once for a batch: a device with a fault sends thousands.
#[must_use]
pub fn trim_poison(key: &DeviceKey) -> Statement {
    let trim = "DELETE FROM poison_records WHERE device_id = ?1 AND received_at < (SELECT min(received_at) FROM \
                (SELECT received_at FROM poison_records WHERE device_id = ?1 ORDER BY received_at DESC LIMIT ?2) newest)";
    Statement::new(trim, values![key.device_id.as_str(), POISON_PER_DEVICE])
}

/// What has arrived of one state database, as the API shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RecordState {
    /// Which one, in hex.
    pub state_id: String,
    /// Every committed number.
    pub committed: RangeSet,
    /// When its first record was committed, ms since 1970.
    #[serde(serialize_with = "as_rfc3339")]
    pub first_at: i64,
    /// When its last record was committed, ms since 1970.
    #[serde(serialize_with = "as_rfc3339")]
    pub last_at: i64,
}

fn as_rfc3339<S: serde::Serializer>(ms: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&protocol::message::rfc3339(*ms))
}

/// What has arrived of a device: its state databases, newest first.
///
/// # Errors
/// [`StoreError`].
pub async fn list(store: &Store, key: &DeviceKey) -> Result<Vec<RecordState>, StoreError> {
    const SQL: &str = "SELECT state_id, committed, first_at, last_at FROM record_states \
                       WHERE device_id = ?1 AND org_id = ?2 ORDER BY last_at DESC, state_id LIMIT 1000";
    let read = |row: &Row| {
        Ok(RecordState {
            state_id: row.text("state_id")?,
            committed: row.opt_json("committed")?.unwrap_or_default(),
            first_at: row.int("first_at")?,
            last_at: row.int("last_at")?,
        })
    };
    let rows = store.query(SQL, values![key.device_id.as_str(), key.org_id.as_str()]).await?;
    rows.iter().map(read).collect()
}
