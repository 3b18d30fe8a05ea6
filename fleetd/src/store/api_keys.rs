//! API keys, as people look after them. Who a key lets in is read in `credentials`.

use protocol::id::{OrgSlug, UserName};

use super::listing::{self, PageOf, SortKeys};
use super::{Row, Statement, Store, StoreError, Value, parse_column};
use crate::auth::token::TokenHash;
use crate::domain::api_key::ApiKey;
use crate::domain::org::OrgId;
use crate::values;

const SELECT: &str = "SELECT k.id, k.user_id, u.username, k.name, k.key_prefix, k.scopes, k.expires_at, k.last_used_at, \
     k.created_at";
const FROM: &str = "FROM api_keys k JOIN users u ON u.id = k.user_id";

/// What a list of API keys can be sorted by.
pub const SORT_KEYS: &SortKeys = &[
    ("created_at", "k.created_at"),
    ("name", "lower(k.name)"),
    ("key_prefix", "k.key_prefix"),
    ("expires_at", "k.expires_at"),
    ("last_used_at", "k.last_used_at"),
];

/// One page of an account's keys that were not taken back, and how many there are.
///
/// # Errors
/// [`StoreError`].
pub async fn page(store: &Store, owner_id: &str, page: PageOf) -> Result<(Vec<ApiKey>, i64), StoreError> {
    let (condition, params) = ("k.user_id = ?1 AND k.revoked_at IS NULL", values![owner_id]);
    let (rows, total) = listing::page(store, SELECT, FROM, condition, params, "k.id", page).await?;
    Ok((rows.iter().map(read).collect::<Result<_, _>>()?, total))
}

/// Every key of an organisation that was not taken back, by owner.
///
/// # Errors
/// [`StoreError`].
pub async fn all(store: &Store, org: &OrgId) -> Result<Vec<ApiKey>, StoreError> {
    let sql = format!(
        "{SELECT} {FROM} WHERE k.org_id = ?1 AND k.revoked_at IS NULL ORDER BY u.username, k.created_at, k.id"
    );
    store.query(sql, values![org.as_str()]).await?.iter().map(read).collect()
}

/// The key of this row in an organisation, unless it was taken back.
///
/// # Errors
/// [`StoreError`].
pub async fn by_id(store: &Store, org: &OrgId, id: &str) -> Result<Option<ApiKey>, StoreError> {
    one(store, "k.org_id = ?1 AND k.id = ?2", values![org.as_str(), id]).await
}

async fn one(store: &Store, condition: &str, params: Vec<Value>) -> Result<Option<ApiKey>, StoreError> {
    let sql = format!("{SELECT} {FROM} WHERE k.revoked_at IS NULL AND {condition}");
    store.query_one(sql, params).await?.map(|row| read(&row)).transpose()
}

/// Adds a key, unless its owner has `most` already: a conflict then.
#[must_use]
pub fn insert(org: &OrgId, key: &ApiKey, hash: TokenHash, most: i64) -> Statement {
    // A list of texts always becomes JSON.
    let scopes = serde_json::to_string(&key.scopes).unwrap_or_default();
    Statement::new(
        "INSERT INTO api_keys (id, org_id, user_id, name, key_prefix, key_sha256, scopes, created_at, expires_at) \
         SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9 \
         WHERE (SELECT count(*) FROM api_keys WHERE user_id = ?3 AND revoked_at IS NULL) < ?10",
        values![
            &key.id,
            org.as_str(),
            &key.owner_id,
            &key.name,
            &key.key_prefix,
            hash.to_hex(),
            scopes,
            key.created_at,
            key.expires_at,
            most
        ],
    )
    .expect_rows(1)
}

/// Gives a key another name; a conflict if it was taken back meanwhile.
#[must_use]
pub fn rename(id: &str, name: &str) -> Statement {
    let sql = "UPDATE api_keys SET name = ?2 WHERE id = ?1 AND revoked_at IS NULL";
    Statement::new(sql, values![id, name]).expect_rows(1)
}

/// Takes a key back; a conflict if somebody else did so meanwhile.
#[must_use]
pub fn revoke(id: &str, now_ms: i64) -> Statement {
    let sql = "UPDATE api_keys SET revoked_at = ?2 WHERE id = ?1 AND revoked_at IS NULL";
    Statement::new(sql, values![id, now_ms]).expect_rows(1)
}

/// The keys that have expired after `from` and until `to`, ms since 1970: whose they are, and their ids.
///
/// # Errors
/// [`StoreError`].
pub async fn expired(
    store: &Store,
    from: i64,
    to: i64,
) -> Result<Vec<(OrgSlug, UserName, String)>, StoreError> {
    let sql = "SELECT o.slug, u.username, k.id FROM api_keys k JOIN users u ON u.id = k.user_id \
               JOIN organizations o ON o.id = u.org_id WHERE k.expires_at > ?1 AND k.expires_at <= ?2 \
               AND k.revoked_at IS NULL";
    let rows = store.lookup(sql, values![from, to]).await?;
    let read = |row: &Row| Ok((parse_column(row, "slug")?, parse_column(row, "username")?, row.text("id")?));
    rows.iter().map(read).collect()
}

fn read(row: &Row) -> Result<ApiKey, StoreError> {
    Ok(ApiKey {
        id: row.text("id")?,
        owner_id: row.text("user_id")?,
        owner: row.text("username")?,
        name: row.text("name")?,
        key_prefix: row.text("key_prefix")?,
        scopes: row.opt_json("scopes")?.unwrap_or_default(),
        expires_at: row.opt_int("expires_at")?,
        last_used_at: row.opt_int("last_used_at")?,
        created_at: row.int("created_at")?,
    })
}
