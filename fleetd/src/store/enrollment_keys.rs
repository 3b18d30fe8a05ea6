//! Enrolment keys.

use super::{Row, Statement, Store, StoreError, orgs};
use crate::auth::token::TokenHash;
use crate::domain::enrollment::EnrollmentKey;
use crate::domain::org::{OrgId, OrgRef};
use crate::values;

const SELECT: &str = "SELECT k.id, k.org_id, o.slug AS org_slug, k.key_prefix, k.max_uses, k.uses, k.require_approval, \
     k.expires_at, k.revoked_at FROM enrollment_keys k JOIN organizations o ON o.id = k.org_id \
     WHERE k.revoked_at IS NULL";

/// The key with this hash and its organisation, unless it was taken back. It may be used up or expired.
///
/// # Errors
/// [`StoreError`].
pub async fn by_hash(store: &Store, hash: TokenHash) -> Result<Option<(OrgRef, EnrollmentKey)>, StoreError> {
    let sql = format!("{SELECT} AND k.key_sha256 = ?1");
    let row = store.query_one(sql, values![hash.to_hex()]).await?;
    row.map(|row| Ok((orgs::read_ref(&row)?, read(&row)?))).transpose()
}

/// The key of this row, unless it was taken back.
///
/// # Errors
/// [`StoreError`].
pub async fn by_id(store: &Store, id: &str) -> Result<Option<EnrollmentKey>, StoreError> {
    let row = store.query_one(format!("{SELECT} AND k.id = ?1"), values![id]).await?;
    row.map(|row| read(&row)).transpose()
}

/// Adds a key.
#[must_use]
pub fn insert(org: &OrgId, key: &EnrollmentKey, hash: TokenHash, now_ms: i64) -> Statement {
    Statement::new(
        "INSERT INTO enrollment_keys (id, org_id, key_prefix, key_sha256, max_uses, uses, require_approval, \
         created_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        values![
            &key.id,
            org.as_str(),
            &key.key_prefix,
            hash.to_hex(),
            key.max_uses,
            key.uses,
            key.require_approval,
            now_ms,
            key.expires_at
        ],
    )
}

/// Counts one use; a conflict if the key was used up, expired or taken back meanwhile.
#[must_use]
pub fn count_use(key: &EnrollmentKey, now_ms: i64) -> Statement {
    Statement::new(
        "UPDATE enrollment_keys SET uses = uses + 1 WHERE id = ?1 AND revoked_at IS NULL \
         AND (max_uses IS NULL OR uses < max_uses) AND (expires_at IS NULL OR expires_at > ?2)",
        values![&key.id, now_ms],
    )
    .expect_rows(1)
}

fn read(row: &Row) -> Result<EnrollmentKey, StoreError> {
    Ok(EnrollmentKey {
        id: row.text("id")?,
        key_prefix: row.text("key_prefix")?,
        max_uses: row.opt_int("max_uses")?,
        uses: row.int("uses")?,
        require_approval: row.bool("require_approval")?,
        expires_at: row.opt_int("expires_at")?,
        revoked_at: row.opt_int("revoked_at")?,
    })
}
