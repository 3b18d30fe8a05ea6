//! What the dispatcher needs to know of devices, and of the commands that wait for them.

use std::collections::BTreeMap;

use protocol::id::{DeviceId, OrgSlug, StateId};
use protocol::message::Desired;

use super::{Row, Statement, Store, StoreError, commands, parse_column};
use crate::domain::command::Command;
use crate::domain::device::DeviceRowId;
use crate::domain::dispatch::Recipient;
use crate::domain::org::OrgId;
use crate::values;

/// A device as the dispatcher sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// The row.
    pub id: DeviceRowId,
    /// The organisation's row.
    pub org_id: OrgId,
    /// The organisation, as in topics.
    pub org: OrgSlug,
    /// The device, as in topics.
    pub device: DeviceId,
    /// It is online, and its connection is not said to be lost.
    pub online: bool,
    /// It is in service and approved.
    pub in_service: bool,
    /// The state database and time of its last birth.
    pub born: Option<(StateId, i64)>,
    /// When it was last heard, ms since 1970.
    pub last_seen_at: Option<i64>,
    /// When its newest heartbeat was taken (ms since 1970), and the digest of open commands in it.
    pub digest: Option<(i64, Vec<u8>)>,
    /// The desired version that it has answered.
    pub reported_version: Option<u64>,
    /// The newest desired version; 0 if there is none.
    pub desired_version: u64,
    /// The group of devices of which only one is disrupted at a time.
    pub redundancy_group: Option<String>,
}

impl Target {
    /// As the decisions look at it.
    #[must_use]
    pub fn recipient(&self, connected: bool, digest_differs: bool) -> Recipient {
        Recipient {
            reachable: self.online && self.in_service && self.born.is_some() && connected,
            born: self.born,
            last_seen_at: self.last_seen_at,
            desired_version: self.desired_version,
            reported_version: self.reported_version,
            digest_differs,
        }
    }
}

const COLUMNS: &str = "d.id, d.org_id, o.slug, d.device_id, d.approval, d.decommissioned_at, d.redundancy_group, \
     s.online, s.will_at, s.state_id, s.birth_at, s.last_seen_at, s.heartbeat_at, s.commands_digest, \
     s.reported_version, w.version AS desired_version";

const FROM: &str = "FROM devices d JOIN organizations o ON o.id = d.org_id \
     LEFT JOIN device_state s ON s.device_id = d.id LEFT JOIN device_desired w ON w.device_id = d.id";

fn unsigned(number: Option<i64>) -> Option<u64> {
    number.and_then(|number| u64::try_from(number).ok())
}

fn read(row: &Row) -> Result<Target, StoreError> {
    let state_id =
        row.opt_text("state_id")?.is_some().then(|| parse_column::<StateId>(row, "state_id")).transpose()?;
    Ok(Target {
        id: DeviceRowId::new(row.text("id")?),
        org_id: OrgId::new(row.text("org_id")?),
        org: parse_column(row, "slug")?,
        device: parse_column(row, "device_id")?,
        online: row.opt_bool("online")?.unwrap_or(false) && row.opt_int("will_at")?.is_none(),
        in_service: row.opt_int("decommissioned_at")?.is_none() && row.text("approval")? == "approved",
        born: state_id.zip(row.opt_int("birth_at")?),
        last_seen_at: row.opt_int("last_seen_at")?,
        digest: row.opt_int("heartbeat_at")?.zip(row.opt_blob("commands_digest")?),
        reported_version: unsigned(row.opt_int("reported_version")?),
        desired_version: unsigned(row.opt_int("desired_version")?).unwrap_or(0),
        redundancy_group: row.opt_text("redundancy_group")?,
    })
}

/// One device, in service or not.
///
/// # Errors
/// [`StoreError`].
pub async fn target(store: &Store, id: &str) -> Result<Option<Target>, StoreError> {
    let row = store.lookup_one(format!("SELECT {COLUMNS} {FROM} WHERE d.id = ?1"), values![id]).await?;
    row.as_ref().map(read).transpose()
}

/// The connected devices that have open commands, or have not answered the newest desired version.
///
/// # Errors
/// [`StoreError`].
pub async fn waiting(store: &Store) -> Result<Vec<Target>, StoreError> {
    let open = commands::OPEN;
    let sql = format!(
        "SELECT {COLUMNS} {FROM} WHERE s.online = 1 AND s.birth_at IS NOT NULL AND d.decommissioned_at IS NULL \
         AND (coalesce(s.reported_version, 0) < w.version \
         OR EXISTS (SELECT 1 FROM commands c WHERE c.device_id = d.id AND c.status IN {open}))"
    );
    Ok(commands::readable(&store.query(sql, Vec::new()).await?, read))
}

/// The open commands of connected devices whose row's id is past `after`, by device, then priority and age; at most
/// `most` of them, but of each device all or none. With it the id past which the next look goes on.
///
/// # Errors
/// [`StoreError`].
pub async fn open_of_connected(
    store: &Store,
    after: &str,
    most: usize,
) -> Result<(BTreeMap<DeviceRowId, Vec<Command>>, String), StoreError> {
    let (columns, from, open) = (commands::COLUMNS, commands::FROM, commands::OPEN);
    let sql = format!(
        "SELECT {columns} {from} JOIN device_state s ON s.device_id = c.device_id \
         WHERE c.status IN {open} AND s.online = 1 AND c.device_id > ?1 \
         ORDER BY c.device_id, c.priority, c.created_at, c.id LIMIT ?2"
    );
    let limit = i64::try_from(most).unwrap_or(i64::MAX);
    let rows = store.query(sql, values![after, limit]).await?;
    let mut all: BTreeMap<DeviceRowId, Vec<Command>> = BTreeMap::new();
    for command in commands::readable(&rows, commands::read) {
        all.entry(command.order.device_id.clone()).or_default().push(command);
    }
    let mut next = String::new();
    if rows.len() >= most {
        // Of the last device there may be more.
        if all.len() > 1 {
            all.pop_last();
        }
        next = all.last_key_value().map(|(id, _)| id.as_str().to_owned()).unwrap_or_default();
    }
    Ok((all, next))
}

/// Open commands of devices that were taken out of service, at most a few hundred.
///
/// # Errors
/// [`StoreError`].
pub async fn open_of_gone(store: &Store) -> Result<Vec<Command>, StoreError> {
    let (columns, open) = (commands::COLUMNS, commands::OPEN);
    // In this order: few devices are gone, and many commands open.
    let sql = format!(
        "SELECT {columns} FROM devices d CROSS JOIN commands c \
         WHERE d.decommissioned_at IS NOT NULL AND c.device_id = d.id AND c.status IN {open} LIMIT 500"
    );
    Ok(commands::readable(&store.query(sql, Vec::new()).await?, commands::read))
}

/// Open commands that are past their expiry: those never sent, and those that expired before `silent_since`. At most a
/// few hundred; the next look takes the others.
///
/// # Errors
/// [`StoreError`].
pub async fn overdue(store: &Store, now_ms: i64, silent_since: i64) -> Result<Vec<Command>, StoreError> {
    let (columns, from, open) = (commands::COLUMNS, commands::FROM, commands::OPEN);
    // Those that were sent and wait for a device that is heard now and then come last: they may wait for long.
    let sql = format!(
        "SELECT {columns} {from} LEFT JOIN device_state s ON s.device_id = c.device_id \
         WHERE c.status IN {open} AND c.expires_at <= ?1 \
         AND ((c.status = 'pending' AND c.query_first = 0) OR (c.expires_at <= ?2 AND coalesce(s.last_seen_at, 0) <= ?2)) \
         ORDER BY c.expires_at LIMIT 500"
    );
    Ok(commands::readable(&store.query(sql, values![now_ms, silent_since]).await?, commands::read))
}

/// A command by its id, whosever it is.
///
/// # Errors
/// [`StoreError`].
pub async fn by_id(store: &Store, id: &str) -> Result<Option<Command>, StoreError> {
    let (columns, from) = (commands::COLUMNS, commands::FROM);
    let row = store.lookup_one(format!("SELECT {columns} {from} WHERE c.id = ?1"), values![id]).await?;
    row.as_ref().map(commands::read).transpose()
}

/// How many commands a device has not acknowledged.
///
/// # Errors
/// [`StoreError`].
pub async fn unacknowledged(store: &Store, device: &str) -> Result<u32, StoreError> {
    // The index has the open ones alone, and is used if they are named.
    let sql = format!(
        "SELECT count(*) AS n FROM commands WHERE device_id = ?1 AND status IN {} AND status IN ('pending', 'sent')",
        commands::OPEN
    );
    let row = store.lookup_one(sql, values![device]).await?;
    Ok(row.map_or(Ok(0), |row| row.int("n"))?.try_into().unwrap_or(u32::MAX))
}

/// What a device should be like; `None` if nobody has ever said.
///
/// # Errors
/// [`StoreError`].
pub async fn desired(store: &Store, device: &DeviceRowId) -> Result<Option<Desired>, StoreError> {
    const SQL: &str = "SELECT version, config, show_locks, redundancy_group, target_version FROM device_desired \
                       WHERE device_id = ?1";
    let Some(row) = store.lookup_one(SQL, values![device.as_str()]).await? else { return Ok(None) };
    Ok(Some(Desired {
        version: unsigned(row.opt_int("version")?).unwrap_or(0),
        config: row.opt_json("config")?.unwrap_or_default(),
        target_version: row.opt_text("target_version")?,
        show_locks: row.opt_json("show_locks")?.unwrap_or_default(),
        redundancy_group: row.opt_text("redundancy_group")?,
    }))
}

/// Marks a line of history as one that no operator has to be told.
#[must_use]
pub fn keep_quiet(command: &str, revision: i64) -> Statement {
    Statement::new(
        "UPDATE command_history SET told = 1 WHERE command_id = ?1 AND revision = ?2",
        values![command, revision],
    )
}
