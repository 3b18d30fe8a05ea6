//! Devices as they are registered and described. What they say of themselves is in `store::summaries`.

use protocol::id::DeviceId;

use super::{Row, Statement, Store, StoreError, parse_column, users};
use crate::domain::device::{Description, Device, DeviceRowId, Registration};
use crate::domain::org::OrgId;
use crate::values;

/// The columns that [`read`] needs, of the table called `d`.
pub(super) const COLUMNS: &str = "d.id, d.org_id, d.device_id, d.name, d.approval, d.maintenance, d.target_version, \
     d.update_channel, d.location, d.tags, d.metadata, d.notes, d.redundancy_group, d.reenrollment_allowed, \
     d.decommissioned_at, d.revision";

/// The device of a readable id, or of a row's id, in an organisation; also a decommissioned one.
///
/// # Errors
/// [`StoreError`].
pub async fn find(store: &Store, org: &OrgId, id: &str) -> Result<Option<Device>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM devices d WHERE d.org_id = ?1 AND (d.device_id = ?2 OR d.id = ?2) \
         ORDER BY CASE WHEN d.device_id = ?2 THEN 0 ELSE 1 END LIMIT 1"
    );
    store.lookup_one(sql, values![org.as_str(), id]).await?.map(|row| read(&row)).transpose()
}

/// The device of a readable id; also a decommissioned one.
///
/// # Errors
/// [`StoreError`].
pub async fn by_name(store: &Store, org: &OrgId, id: &DeviceId) -> Result<Option<Device>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM devices d WHERE d.org_id = ?1 AND d.device_id = ?2");
    store.lookup_one(sql, values![org.as_str(), id.as_str()]).await?.map(|row| read(&row)).transpose()
}

/// How many devices of an organisation are in service.
///
/// # Errors
/// [`StoreError`].
pub async fn count(store: &Store, org: &OrgId) -> Result<i64, StoreError> {
    let sql = "SELECT count(*) AS devices FROM devices WHERE org_id = ?1 AND decommissioned_at IS NULL";
    store.query_one(sql, values![org.as_str()]).await?.map_or(Ok(0), |row| row.int("devices"))
}

/// Adds a device and takes its name in the organisation. A taken name is a [`StoreError::Unique`].
#[must_use]
pub fn insert(
    org: &OrgId,
    id: &DeviceRowId,
    registration: &Registration,
    approved: bool,
    now_ms: i64,
) -> [Statement; 2] {
    [
        users::take_name(org, registration.device_id.as_str(), "device", id.as_str()),
        Statement::new(
            "INSERT INTO devices (id, org_id, device_id, name, approval, platform, arch, serial_number, mac_address, \
             registered_version, capabilities, created_at, updated_at) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?12)",
            values![
                id.as_str(),
                org.as_str(),
                registration.device_id.as_str(),
                &registration.name,
                approval(approved),
                registration.platform.clone(),
                &registration.arch,
                registration.serial_number.clone(),
                registration.mac_address.clone(),
                registration.current_version.clone(),
                registration.capabilities.to_string(),
                now_ms
            ],
        ),
    ]
}

/// What a new registration says of a device that is already known: the hardware may be another. It is in service
/// afterwards. The name that a person may have given it is kept unless it was out of service.
#[must_use]
pub fn register_again(
    device: &Device,
    registration: &Registration,
    approved: bool,
    now_ms: i64,
) -> Statement {
    let name = if device.decommissioned_at.is_some() { &registration.name } else { &device.description.name };
    Statement::new(
        "UPDATE devices SET name = ?3, approval = ?4, platform = ?5, arch = ?6, serial_number = ?7, mac_address = ?8, \
         registered_version = ?9, capabilities = ?10, updated_at = ?11, decommissioned_at = NULL, \
         reenrollment_allowed = 0, revision = revision + 1 WHERE id = ?1 AND revision = ?2",
        values![
            device.id.as_str(),
            device.revision,
            name,
            approval(approved),
            registration.platform.clone(),
            &registration.arch,
            registration.serial_number.clone(),
            registration.mac_address.clone(),
            registration.current_version.clone(),
            registration.capabilities.to_string(),
            now_ms
        ],
    )
    .expect_rows(1)
}

/// Replaces the description, if nobody changed the device meanwhile.
#[must_use]
pub fn describe(device: &Device, new: &Description, now_ms: i64) -> Vec<Statement> {
    let mut statements = vec![
        Statement::new(
            "UPDATE devices SET name = ?3, location = ?4, tags = ?5, metadata = ?6, notes = ?7, update_channel = ?8, \
             target_version = ?9, redundancy_group = ?10, maintenance = ?11, updated_at = ?12, \
             revision = revision + 1 WHERE id = ?1 AND revision = ?2",
            values![
                device.id.as_str(),
                device.revision,
                &new.name,
                new.location.clone(),
                serde_json::Value::from(new.tags.clone()).to_string(),
                new.metadata.to_string(),
                new.notes.clone(),
                new.update_channel.as_str(),
                new.target_version.clone(),
                new.redundancy_group.clone(),
                new.maintenance,
                now_ms
            ],
        )
        .expect_rows(1),
    ];
    if new.tags != device.description.tags {
        statements.push(Statement::new(
            "DELETE FROM device_tags WHERE device_id = ?1",
            values![device.id.as_str()],
        ));
        statements.extend(new.tags.iter().map(|tag| {
            Statement::new(
                "INSERT INTO device_tags (org_id, device_id, tag) VALUES (?1, ?2, ?3)",
                values![device.org_id.as_str(), device.id.as_str(), tag],
            )
        }));
    }
    statements
}

/// Says yes to a device.
#[must_use]
pub fn approve(device: &Device, now_ms: i64) -> Statement {
    flagged(device, "approval = 'approved'", now_ms)
}

/// Allows one more enrolment of a device.
#[must_use]
pub fn allow_reenrollment(device: &Device, now_ms: i64) -> Statement {
    flagged(device, "reenrollment_allowed = 1", now_ms)
}

/// Takes back an allowance, after a token was given out another way.
#[must_use]
pub fn touch(device: &Device, now_ms: i64) -> Statement {
    flagged(device, "reenrollment_allowed = 0", now_ms)
}

/// Takes a device out of service; what it sent is kept.
#[must_use]
pub fn decommission(device: &Device, now_ms: i64) -> Statement {
    flagged(device, "decommissioned_at = ?3, reenrollment_allowed = 0, maintenance = 0", now_ms)
}

fn flagged(device: &Device, change: &'static str, now_ms: i64) -> Statement {
    Statement::new(
        format!("UPDATE devices SET {change}, updated_at = ?3, revision = revision + 1 WHERE id = ?1 AND revision = ?2"),
        values![device.id.as_str(), device.revision, now_ms],
    )
    .expect_rows(1)
}

const fn approval(approved: bool) -> &'static str {
    if approved { "approved" } else { "awaiting" }
}

/// Reads the columns of [`COLUMNS`].
pub(super) fn read(row: &Row) -> Result<Device, StoreError> {
    Ok(Device {
        id: DeviceRowId::new(row.text("id")?),
        org_id: OrgId::new(row.text("org_id")?),
        device_id: parse_column(row, "device_id")?,
        approved: row.text("approval")? == "approved",
        reenrollment_allowed: row.bool("reenrollment_allowed")?,
        description: Description {
            name: row.text("name")?,
            location: row.opt_text("location")?,
            tags: row.opt_json("tags")?.unwrap_or_default(),
            metadata: row.opt_json("metadata")?.unwrap_or_default(),
            notes: row.opt_text("notes")?,
            update_channel: parse_column(row, "update_channel")?,
            target_version: row.opt_text("target_version")?,
            redundancy_group: row.opt_text("redundancy_group")?,
            maintenance: row.bool("maintenance")?,
        },
        decommissioned_at: row.opt_int("decommissioned_at")?,
        revision: row.int("revision")?,
    })
}
