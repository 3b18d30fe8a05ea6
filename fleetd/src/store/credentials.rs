//! Refresh tokens, API keys and device tokens: hashes only.

use protocol::id::{DeviceId, OrgSlug};

use super::{Row, Statement, Store, StoreError, orgs, parse_column};
use crate::auth::token::TokenHash;
use crate::domain::device::DeviceRowId;
use crate::domain::org::{OrgId, OrgRef};
use crate::values;

/// A refresh token as stored.
#[derive(Debug, Clone)]
pub struct RefreshToken {
    /// The row.
    pub id: String,
    /// Whose.
    pub user_id: String,
    /// The login that it descends from.
    pub family_id: String,
    /// Of the user, when it was made.
    pub token_version: i64,
    /// Ms since 1970.
    pub expires_at: i64,
    /// When it was exchanged, ms since 1970.
    pub used_at: Option<i64>,
}

/// The refresh token with this hash.
///
/// # Errors
/// [`StoreError`].
pub async fn refresh_token(store: &Store, hash: TokenHash) -> Result<Option<RefreshToken>, StoreError> {
    let sql = "SELECT id, user_id, family_id, token_version, expires_at, used_at FROM refresh_tokens \
               WHERE token_sha256 = ?1";
    let Some(row) = store.lookup_one(sql, values![hash.to_hex()]).await? else { return Ok(None) };
    Ok(Some(RefreshToken {
        id: row.text("id")?,
        user_id: row.text("user_id")?,
        family_id: row.text("family_id")?,
        token_version: row.int("token_version")?,
        expires_at: row.int("expires_at")?,
        used_at: row.opt_int("used_at")?,
    }))
}

/// Adds a refresh token, and drops those that ended.
#[must_use]
pub fn add_refresh_token(org: &OrgId, token: &RefreshToken, hash: TokenHash, now_ms: i64) -> [Statement; 2] {
    [
        Statement::new("DELETE FROM refresh_tokens WHERE expires_at <= ?1", values![now_ms]),
        Statement::new(
            "INSERT INTO refresh_tokens (id, org_id, user_id, family_id, token_sha256, token_version, created_at, \
             expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            values![
                &token.id,
                org.as_str(),
                &token.user_id,
                &token.family_id,
                hash.to_hex(),
                token.token_version,
                now_ms,
                token.expires_at
            ],
        ),
    ]
}

/// Marks a refresh token as used; a conflict if it was used meanwhile.
#[must_use]
pub fn use_refresh_token(id: &str, now_ms: i64) -> Statement {
    Statement::new(
        "UPDATE refresh_tokens SET used_at = ?2 WHERE id = ?1 AND used_at IS NULL",
        values![id, now_ms],
    )
    .expect_rows(1)
}

/// Whether a login has not been ended.
///
/// # Errors
/// [`StoreError`].
pub async fn family_lives(store: &Store, family_id: &str) -> Result<bool, StoreError> {
    let sql = "SELECT 1 AS there FROM refresh_tokens WHERE family_id = ?1 LIMIT 1";
    Ok(store.lookup_one(sql, values![family_id]).await?.is_some())
}

/// Ends every token that descends from one login.
#[must_use]
pub fn end_family(family_id: &str) -> Statement {
    Statement::new("DELETE FROM refresh_tokens WHERE family_id = ?1", values![family_id])
}

/// An API key as stored.
#[derive(Debug, Clone)]
pub struct ApiKey {
    /// The row.
    pub id: String,
    /// Whose.
    pub user_id: String,
    /// The first characters, for people.
    pub key_prefix: String,
    /// What it is for; empty: everything that its owner may do.
    pub scopes: Vec<String>,
    /// When it ends, ms since 1970.
    pub expires_at: Option<i64>,
    /// When it was last used, ms since 1970.
    pub last_used_at: Option<i64>,
}

/// The API key with this hash, unless it was taken back.
///
/// # Errors
/// [`StoreError`].
pub async fn api_key(store: &Store, hash: TokenHash) -> Result<Option<ApiKey>, StoreError> {
    let sql = "SELECT id, user_id, key_prefix, scopes, expires_at, last_used_at FROM api_keys \
               WHERE key_sha256 = ?1 AND revoked_at IS NULL";
    let Some(row) = store.lookup_one(sql, values![hash.to_hex()]).await? else { return Ok(None) };
    Ok(Some(ApiKey {
        id: row.text("id")?,
        user_id: row.text("user_id")?,
        key_prefix: row.text("key_prefix")?,
        scopes: row.opt_json("scopes")?.unwrap_or_default(),
        expires_at: row.opt_int("expires_at")?,
        last_used_at: row.opt_int("last_used_at")?,
    }))
}

/// Notes that an API key was used.
#[must_use]
pub fn note_key_use(id: &str, now_ms: i64) -> Statement {
    Statement::new("UPDATE api_keys SET last_used_at = ?2 WHERE id = ?1", values![id, now_ms])
}

/// A device whose token is known.
#[derive(Debug, Clone)]
pub struct DeviceCredential {
    /// The device's row.
    pub row: DeviceRowId,
    /// Its organisation.
    pub org: OrgRef,
    /// Its readable id.
    pub device: DeviceId,
    /// Whether an admin has said yes to it.
    pub approved: bool,
    /// The hash of its token.
    pub hash: TokenHash,
    /// The token was announced by a rotation and not used yet: its first use must be [`settle_token`]d.
    pub pending: bool,
    /// The serial number of the certificate that was shown in place of the token.
    pub certificate: Option<String>,
}

/// Tokens in force at the time `?1`.
const DEVICE_CREDENTIAL: &str = "\
SELECT d.id, d.org_id, o.slug AS org_slug, d.device_id, d.approval, t.token_sha256, t.slot
FROM device_tokens t JOIN devices d ON d.id = t.device_id JOIN organizations o ON o.id = d.org_id
WHERE (t.slot = 'current' OR t.expires_at > ?1) AND d.decommissioned_at IS NULL";

/// The devices in service whose token has this hash. More than one only when a device's disk was copied.
///
/// # Errors
/// [`StoreError`].
pub async fn devices_by_token(
    store: &Store,
    hash: TokenHash,
    now_ms: i64,
) -> Result<Vec<DeviceCredential>, StoreError> {
    let sql = format!("{DEVICE_CREDENTIAL} AND t.token_sha256 = ?2 ORDER BY d.id, t.slot LIMIT 16");
    store.lookup(sql, values![now_ms, hash.to_hex()]).await?.iter().map(read_device).collect()
}

/// The credentials of one device in service: that of its token, and that of the one which a rotation has announced.
///
/// # Errors
/// [`StoreError`].
pub async fn device(
    store: &Store,
    org: &OrgSlug,
    device: &DeviceId,
    now_ms: i64,
) -> Result<Vec<DeviceCredential>, StoreError> {
    let sql = format!("{DEVICE_CREDENTIAL} AND o.slug = ?2 AND d.device_id = ?3 ORDER BY t.slot LIMIT 2");
    store.lookup(sql, values![now_ms, org.as_str(), device.as_str()]).await?.iter().map(read_device).collect()
}

/// Keeps the token that a device announces beside the one in force, until it is used or `expires_at` (ms) comes.
#[must_use]
pub fn announce_token(
    org: &OrgId,
    device: &DeviceRowId,
    hash: TokenHash,
    now_ms: i64,
    expires_at: i64,
) -> Statement {
    // Said again it keeps its time. One that is in force already came back as a late copy of the report.
    const SQL: &str = "\
INSERT INTO device_tokens (org_id, device_id, slot, token_sha256, created_at, expires_at)
SELECT ?1, ?2, 'pending', ?3, ?4, ?5
WHERE NOT EXISTS (SELECT 1 FROM device_tokens WHERE device_id = ?2 AND slot = 'current' AND token_sha256 = ?3)
ON CONFLICT (device_id, slot) DO UPDATE SET token_sha256 = excluded.token_sha256, created_at = excluded.created_at,
    expires_at = excluded.expires_at
WHERE device_tokens.token_sha256 <> excluded.token_sha256";
    Statement::new(SQL, values![org.as_str(), device.as_str(), hash.to_hex(), now_ms, expires_at])
}

/// The first use of an announced token: it is the only one from now on. A conflict if somebody else was first.
#[must_use]
pub fn settle_token(credential: &DeviceCredential, now_ms: i64) -> [Statement; 2] {
    let (device, hash) = (credential.row.as_str(), credential.hash.to_hex());
    [
        Statement::new(
            "DELETE FROM device_tokens WHERE device_id = ?1 AND slot = 'current' AND EXISTS (SELECT 1 FROM \
             device_tokens p WHERE p.device_id = ?1 AND p.slot = 'pending' AND p.token_sha256 = ?2 \
             AND p.expires_at > ?3)",
            values![device, hash.as_str(), now_ms],
        ),
        Statement::new(
            "UPDATE device_tokens SET slot = 'current', expires_at = NULL WHERE device_id = ?1 AND slot = 'pending' \
             AND token_sha256 = ?2 AND expires_at > ?3",
            values![device, hash.as_str(), now_ms],
        )
        .expect_rows(1),
    ]
}

/// Ends every token of a device and gives it a new one.
#[must_use]
pub fn set_device_token(org: &OrgId, device: &DeviceRowId, hash: TokenHash, now_ms: i64) -> [Statement; 2] {
    [
        drop_device_tokens(device),
        Statement::new(
            "INSERT INTO device_tokens (org_id, device_id, slot, token_sha256, created_at) \
             VALUES (?1, ?2, 'current', ?3, ?4)",
            values![org.as_str(), device.as_str(), hash.to_hex(), now_ms],
        ),
    ]
}

/// Ends every token of a device.
#[must_use]
pub fn drop_device_tokens(device: &DeviceRowId) -> Statement {
    Statement::new("DELETE FROM device_tokens WHERE device_id = ?1", values![device.as_str()])
}

/// Reads a device with one of its tokens.
pub(super) fn read_device(row: &Row) -> Result<DeviceCredential, StoreError> {
    Ok(DeviceCredential {
        row: DeviceRowId::new(row.text("id")?),
        org: orgs::read_ref(row)?,
        device: parse_column(row, "device_id")?,
        approved: row.text("approval")? == "approved",
        hash: read_hash(row, "token_sha256")?,
        pending: row.text("slot")? == "pending",
        certificate: None,
    })
}

/// Reads a stored hash.
pub(super) fn read_hash(row: &Row, column: &str) -> Result<TokenHash, StoreError> {
    TokenHash::from_hex(&row.text(column)?)
        .ok_or_else(|| StoreError::Column { column: column.to_owned(), expected: "64 hex digits" })
}
