//! Certificates that were signed for devices. What is in a certificate is not believed: it lets somebody in only while its row is
//! here, and says so.

use broker::tls::CertificateHash;
use protocol::id::{DeviceId, OrgSlug};

use super::credentials::{self, DeviceCredential};
use super::{Row, Statement, Store, StoreError, parse_column};
use crate::authority::devices::Signed;
use crate::domain::device::DeviceRowId;
use crate::domain::org::OrgId;
use crate::values;

/// Most certificates of a device that are good at a time; a further one takes the place of the oldest.
const GOOD_MAX: i64 = 8;
/// How long one is kept after its end, in ms: its connections are ended meanwhile.
const KEPT_MS: i64 = 3_600_000;

/// The device in service to which this certificate was given, if it is good now.
///
/// # Errors
/// [`StoreError`].
pub async fn owner(
    store: &Store,
    sha256: CertificateHash,
    now_ms: i64,
) -> Result<Option<DeviceCredential>, StoreError> {
    // With the token that is in force: the device is the same, however it shows who it is.
    let sql = "SELECT d.id, d.org_id, o.slug AS org_slug, d.device_id, d.approval, t.token_sha256, t.slot, c.serial \
               FROM device_certificates c JOIN devices d ON d.id = c.device_id JOIN organizations o ON o.id = d.org_id \
               JOIN device_tokens t ON t.device_id = d.id AND t.slot = 'current' \
               WHERE c.sha256 = ?1 AND c.revoked_at IS NULL AND c.expires_at > ?2 AND d.decommissioned_at IS NULL";
    let Some(row) = store.lookup_one(sql, values![sha256.to_string(), now_ms]).await? else {
        return Ok(None);
    };
    Ok(Some(DeviceCredential { certificate: Some(row.text("serial")?), ..credentials::read_device(&row)? }))
}

/// Keeps a certificate that was signed, for a device in service: a conflict if it is none any more. Drops what is long over, and
/// the device's oldest ones beyond the most that it may have.
#[must_use]
pub fn add(
    org: &OrgId,
    device: &DeviceRowId,
    signed: &Signed,
    key_sha256: &str,
    now_ms: i64,
) -> [Statement; 3] {
    [
        Statement::new("DELETE FROM device_certificates WHERE expires_at <= ?1", values![now_ms - KEPT_MS]),
        Statement::new(
            "INSERT INTO device_certificates (serial, org_id, device_id, sha256, key_sha256, created_at, expires_at) \
             SELECT ?1, ?2, id, ?4, ?5, ?6, ?7 FROM devices WHERE id = ?3 AND decommissioned_at IS NULL",
            values![
                signed.serial.as_str(),
                org.as_str(),
                device.as_str(),
                signed.sha256.to_string(),
                key_sha256,
                now_ms,
                signed.expires_at
            ],
        )
        .expect_rows(1),
        Statement::new(
            "DELETE FROM device_certificates WHERE device_id = ?1 AND serial NOT IN (SELECT serial FROM \
             device_certificates WHERE device_id = ?1 ORDER BY created_at DESC, serial LIMIT ?2)",
            values![device.as_str(), GOOD_MAX],
        ),
    ]
}

/// Whether a device has a certificate for this key that is good now: whoever asks for another one for it is who has the key.
///
/// # Errors
/// [`StoreError`].
pub async fn has_key(
    store: &Store,
    device: &DeviceRowId,
    key_sha256: &str,
    now_ms: i64,
) -> Result<bool, StoreError> {
    let sql = "SELECT 1 AS there FROM device_certificates WHERE device_id = ?1 AND key_sha256 = ?2 \
               AND revoked_at IS NULL AND expires_at > ?3 LIMIT 1";
    Ok(store.lookup_one(sql, values![device.as_str(), key_sha256, now_ms]).await?.is_some())
}

/// Takes back every certificate of a device that is good, and has every server process, this one as well, end the connections made
/// with them.
#[must_use]
pub fn revoke(device: &DeviceRowId, now_ms: i64) -> [Statement; 2] {
    const GOOD: &str = "revoked_at IS NULL AND expires_at > ?2";
    [
        Statement::new(
            format!(
                "INSERT INTO revocations (at, org_id, kind, name, source) \
                 SELECT ?2, d.org_id, 'device', d.device_id || '/' || c.serial, '' \
                 FROM device_certificates c JOIN devices d ON d.id = c.device_id WHERE c.device_id = ?1 AND c.{GOOD}"
            ),
            values![device.as_str(), now_ms],
        ),
        Statement::new(
            format!("UPDATE device_certificates SET revoked_at = ?2 WHERE device_id = ?1 AND {GOOD}"),
            values![device.as_str(), now_ms],
        ),
    ]
}

/// How many certificates of a device are good now.
///
/// # Errors
/// [`StoreError`].
pub async fn count_good(store: &Store, device: &DeviceRowId, now_ms: i64) -> Result<i64, StoreError> {
    let sql = "SELECT count(*) AS n FROM device_certificates WHERE device_id = ?1 AND revoked_at IS NULL AND expires_at > ?2";
    store.query_one(sql, values![device.as_str(), now_ms]).await?.map_or(Ok(0), |row| row.int("n"))
}

/// The certificates that have expired after `from` and until `to`, ms since 1970: whose they are, and their serial numbers.
///
/// # Errors
/// [`StoreError`].
pub async fn expired(
    store: &Store,
    from: i64,
    to: i64,
) -> Result<Vec<(OrgSlug, DeviceId, String)>, StoreError> {
    let sql = "SELECT o.slug, d.device_id, c.serial FROM device_certificates c JOIN devices d ON d.id = c.device_id \
               JOIN organizations o ON o.id = d.org_id WHERE c.expires_at > ?1 AND c.expires_at <= ?2 \
               AND c.revoked_at IS NULL";
    let rows = store.lookup(sql, values![from, to]).await?;
    let read =
        |row: &Row| Ok((parse_column(row, "slug")?, parse_column(row, "device_id")?, row.text("serial")?));
    rows.iter().map(read).collect()
}
