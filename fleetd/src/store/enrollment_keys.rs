//! Enrolment keys.

use super::listing::{self, PageOf, SortKeys};
use super::{Row, Statement, Store, StoreError, orgs};
use crate::auth::token::TokenHash;
use crate::domain::enrollment::EnrollmentKey;
use crate::domain::org::{OrgId, OrgRef};
use crate::values;

const SELECT: &str = "SELECT k.id, k.org_id, o.slug AS org_slug, k.key_prefix, k.max_uses, k.uses, k.require_approval, \
     k.expires_at, k.created_at FROM enrollment_keys k JOIN organizations o ON o.id = k.org_id \
     WHERE k.revoked_at IS NULL";

/// What a list of enrolment keys can be sorted by.
pub const SORT_KEYS: &SortKeys = &[
    ("created_at", "k.created_at"),
    ("expires_at", "k.expires_at"),
    ("key_prefix", "k.key_prefix"),
    ("uses", "k.uses"),
];

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

/// The key of this row in an organisation, unless it was taken back.
///
/// # Errors
/// [`StoreError`].
pub async fn in_org(store: &Store, org: &OrgId, id: &str) -> Result<Option<EnrollmentKey>, StoreError> {
    let sql = format!("{SELECT} AND k.id = ?1 AND k.org_id = ?2");
    store.query_one(sql, values![id, org.as_str()]).await?.map(|row| read(&row)).transpose()
}

/// One page of an organisation's keys that were not taken back, and how many there are.
///
/// # Errors
/// [`StoreError`].
pub async fn page(store: &Store, org: &OrgId, page: PageOf) -> Result<(Vec<EnrollmentKey>, i64), StoreError> {
    let select =
        "SELECT k.id, k.key_prefix, k.max_uses, k.uses, k.require_approval, k.expires_at, k.created_at";
    let (from, condition) = ("FROM enrollment_keys k", "k.org_id = ?1 AND k.revoked_at IS NULL");
    let (rows, total) =
        listing::page(store, select, from, condition, values![org.as_str()], "k.id", page).await?;
    Ok((rows.iter().map(read).collect::<Result<_, _>>()?, total))
}

/// Every key of an organisation that was not taken back, oldest first.
///
/// # Errors
/// [`StoreError`].
pub async fn all(store: &Store, org: &OrgId) -> Result<Vec<EnrollmentKey>, StoreError> {
    let sql = format!("{SELECT} AND k.org_id = ?1 ORDER BY k.created_at, k.id");
    store.query(sql, values![org.as_str()]).await?.iter().map(read).collect()
}

/// Takes a key back; a conflict if somebody else did so meanwhile.
#[must_use]
pub fn revoke(id: &str, now_ms: i64) -> Statement {
    let sql = "UPDATE enrollment_keys SET revoked_at = ?2 WHERE id = ?1 AND revoked_at IS NULL";
    Statement::new(sql, values![id, now_ms]).expect_rows(1)
}

/// Adds a key.
#[must_use]
pub fn insert(org: &OrgId, key: &EnrollmentKey, hash: TokenHash) -> Statement {
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
            key.created_at,
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
        created_at: row.int("created_at")?,
    })
}
