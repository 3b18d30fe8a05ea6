//! Who has the lease of each redundancy group.

use protocol::id::StateId;

use super::{Row, Statement, Store, StoreError, commands, parse_column, reports};
use crate::domain::device::DeviceRowId;
use crate::domain::lease::{Ask, Doubt, Group, Holder, Member};
use crate::domain::org::OrgId;
use crate::values;

/// A group with its lease and its members in service.
///
/// # Errors
/// [`StoreError`].
pub async fn group(store: &Store, org: &OrgId, name: &str) -> Result<Group, StoreError> {
    const LEASE: &str = "\
SELECT l.revision, l.device_id, l.command_id, l.nonce, l.granted_at,
 CASE WHEN c.id IS NULL OR c.status NOT IN ('pending', 'sent', 'acked', 'held', 'running') THEN 1 ELSE 0 END AS ended,
 CASE WHEN s.online = 1 AND s.will_at IS NULL OR h.decommissioned_at IS NOT NULL THEN 1 ELSE 0 END AS online
FROM redundancy_leases l LEFT JOIN commands c ON c.id = l.command_id LEFT JOIN devices h ON h.id = l.device_id
LEFT JOIN device_state s ON s.device_id = l.device_id WHERE l.org_id = ?1 AND l.name = ?2";
    const MEMBERS: &str = "\
SELECT d.id, d.restored_at, s.birth_at, s.state_id, s.heartbeat_at, s.commands_digest,
 CASE WHEN w.version IS NULL OR s.reported_version >= w.version THEN 1 ELSE 0 END AS knows_group,
 CASE WHEN s.online = 1 AND s.will_at IS NULL THEN 1 ELSE 0 END AS online,
 CASE WHEN EXISTS (SELECT 1 FROM commands c WHERE c.device_id = d.id
   AND c.status IN ('pending', 'sent', 'acked', 'held', 'running')
   AND c.type IN ('update', 'reboot', 'restart_service', 'custom')
   AND (c.status = 'running' OR c.bound = 'http' AND c.status <> 'pending')
   AND coalesce(c.started_at, c.sent_at, 0) > coalesce(g.released_at, -1))
  OR EXISTS (SELECT 1 FROM redundancy_leases r JOIN commands c ON c.id = r.command_id
   WHERE r.device_id = d.id AND c.status IN ('pending', 'sent', 'acked', 'held', 'running')
   AND r.granted_at > coalesce(g.released_at, -1))
 THEN 1 ELSE 0 END AS busy
FROM devices d LEFT JOIN device_state s ON s.device_id = d.id LEFT JOIN device_desired w ON w.device_id = d.id
LEFT JOIN redundancy_leases g ON g.org_id = ?1 AND g.name = ?2
WHERE d.org_id = ?1 AND d.redundancy_group = ?2 AND d.decommissioned_at IS NULL AND d.approval = 'approved'";
    let mut group = Group::default();
    for row in store.query(MEMBERS, values![org.as_str(), name]).await? {
        group.members.push(read_member(store, &row).await?);
    }
    // The lease last: what is read of it here is not older than what is read of the members.
    let lease = store.query_one(LEASE, values![org.as_str(), name]).await?;
    if let Some(row) = lease {
        group.revision = row.int("revision")?;
        group.holder = row.opt_text("device_id")?.is_some().then(|| read_holder(&row)).transpose()?;
    }
    Ok(group)
}

async fn read_member(store: &Store, row: &Row) -> Result<Member, StoreError> {
    let device = DeviceRowId::new(row.text("id")?);
    let doubt = match row.opt_int("restored_at")? {
        Some(restored_at) => Some(read_doubt(store, &device, row, restored_at).await?),
        None => None,
    };
    Ok(Member {
        device,
        online: row.bool("online")?,
        busy: row.bool("busy")?,
        born_at: row.opt_int("birth_at")?,
        doubt,
    })
}

async fn read_doubt(
    store: &Store,
    device: &DeviceRowId,
    row: &Row,
    restored_at: i64,
) -> Result<Doubt, StoreError> {
    let state_id: StateId = match row.opt_text("state_id")? {
        Some(_) => parse_column(row, "state_id")?,
        // It has never given birth: there is no digest either.
        None => StateId([0; 8]),
    };
    let heartbeat = row.opt_int("heartbeat_at")?.zip(row.opt_blob("commands_digest")?);
    let open = commands::open_of(store, device).await?;
    let unknown = reports::open_of_unknown(store, device, state_id).await?;
    Ok(Doubt::new(restored_at, row.bool("knows_group")?, heartbeat, state_id, &open, &unknown))
}

fn read_holder(row: &Row) -> Result<Holder, StoreError> {
    Ok(Holder {
        device: DeviceRowId::new(row.text("device_id")?),
        command: parse_column(row, "command_id")?,
        nonce: row.opt_blob("nonce")?.unwrap_or_default(),
        granted_at: row.opt_int("granted_at")?.unwrap_or(0),
        ended: row.bool("ended")?,
        online: row.bool("online")?,
    })
}

/// Gives the lease to the one that asks, unless it changed since `group` was read, and ends what doubt there was about the
/// members.
#[must_use]
pub fn grant(org: &OrgId, name: &str, group: &Group, ask: &Ask, now_ms: i64) -> Vec<Statement> {
    let params = values![
        org.as_str(),
        name,
        ask.device.as_str(),
        ask.command.as_str(),
        ask.nonce.clone(),
        now_ms,
        group.revision,
    ];
    if group.revision == 0 {
        let sql = "INSERT INTO redundancy_leases (org_id, name, device_id, command_id, nonce, granted_at, revision) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7 + 1) ON CONFLICT (org_id, name) DO NOTHING";
        return with_doubts_ended(Statement::new(sql, params).expect_rows(1), group);
    }
    let sql = "UPDATE redundancy_leases SET device_id = ?3, command_id = ?4, nonce = ?5, granted_at = ?6, \
               revision = revision + 1 WHERE org_id = ?1 AND name = ?2 AND revision = ?7";
    with_doubts_ended(Statement::new(sql, params).expect_rows(1), group)
}

fn with_doubts_ended(first: Statement, group: &Group) -> Vec<Statement> {
    const SQL: &str = "UPDATE devices SET restored_at = NULL WHERE id = ?1 AND restored_at = ?2";
    let end = |member: &Member| {
        let doubt = member.doubt.as_ref()?;
        Some(Statement::new(SQL, values![member.device.as_str(), doubt.restored_at]))
    };
    std::iter::once(first).chain(group.members.iter().filter_map(end)).collect()
}

/// Takes the lease from whoever has it, unless it changed since `group` was read; also forgets a restore, and what
/// members were at until `now_ms` (ms since 1970).
#[must_use]
pub fn release(org: &OrgId, name: &str, group: &Group, now_ms: i64) -> Vec<Statement> {
    let params = values![org.as_str(), name, group.revision, now_ms];
    if group.revision == 0 {
        let sql = "INSERT INTO redundancy_leases (org_id, name, revision, released_at) VALUES (?1, ?2, ?3 + 1, ?4) \
                   ON CONFLICT (org_id, name) DO NOTHING";
        return with_doubts_ended(Statement::new(sql, params).expect_rows(1), group);
    }
    let sql = "UPDATE redundancy_leases SET device_id = NULL, command_id = NULL, nonce = NULL, granted_at = NULL, \
               released_at = ?4, revision = revision + 1 WHERE org_id = ?1 AND name = ?2 AND revision = ?3";
    with_doubts_ended(Statement::new(sql, params).expect_rows(1), group)
}
