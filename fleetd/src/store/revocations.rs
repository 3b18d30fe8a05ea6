//! Whose live connections must end. The change that ends them and this note are one transaction, so that a command
//! line beside a running server, or another server process, is heard.

use protocol::id::OrgSlug;

use super::{Row, Statement, Store, StoreError, parse_column};
use crate::domain::org::OrgId;
use crate::values;

/// How long notes are kept, in ms: far longer than any process takes to read them.
const KEPT_MS: i64 = 3_600_000;

/// One party whose connections must end.
#[derive(Debug, Clone)]
pub struct Revocation {
    /// Rises.
    pub id: i64,
    /// The organisation.
    pub org: OrgSlug,
    /// Whether it is a device; else a person.
    pub is_device: bool,
    /// Its name in the organisation.
    pub name: String,
    /// The API key, or the device's certificate, with which the connections were made; else all of them.
    pub key: Option<String>,
    /// The process that wrote it.
    pub source: String,
}

/// Notes that a device's connections must end, and drops old notes.
#[must_use]
pub fn device(org: &OrgId, name: &str, source: &str, now_ms: i64) -> [Statement; 2] {
    note(org, "device", name, source, now_ms)
}

/// Notes that a person's connections that were made with one API key must end, and drops old notes.
#[must_use]
pub fn key(org: &OrgId, name: &str, key: &str, source: &str, now_ms: i64) -> [Statement; 2] {
    // No name has a slash.
    note(org, "person", &format!("{name}/{key}"), source, now_ms)
}

/// Notes that a person's connections must end, and drops old notes.
#[must_use]
pub fn person(org: &OrgId, name: &str, source: &str, now_ms: i64) -> [Statement; 2] {
    note(org, "person", name, source, now_ms)
}

fn note(org: &OrgId, kind: &'static str, name: &str, source: &str, now_ms: i64) -> [Statement; 2] {
    [
        Statement::new("DELETE FROM revocations WHERE at < ?1", values![now_ms - KEPT_MS]),
        Statement::new(
            "INSERT INTO revocations (at, org_id, kind, name, source) VALUES (?1, ?2, ?3, ?4, ?5)",
            values![now_ms, org.as_str(), kind, name, source],
        ),
    ]
}

/// The number of the last note.
///
/// # Errors
/// [`StoreError`].
pub async fn last(store: &Store) -> Result<i64, StoreError> {
    let row = store.query_one("SELECT coalesce(max(id), 0) AS last FROM revocations", Vec::new()).await?;
    row.map_or(Ok(0), |row| row.int("last"))
}

/// The notes after this number, oldest first.
///
/// # Errors
/// [`StoreError`].
pub async fn after(store: &Store, id: i64) -> Result<Vec<Revocation>, StoreError> {
    let sql = "SELECT r.id, o.slug AS org, r.kind, r.name, r.source FROM revocations r \
               JOIN organizations o ON o.id = r.org_id WHERE r.id > ?1 ORDER BY r.id LIMIT 1000";
    store.query(sql, values![id]).await?.iter().map(read).collect()
}

fn read(row: &Row) -> Result<Revocation, StoreError> {
    let whose = row.text("name")?;
    let (name, key) = match whose.split_once('/') {
        Some((name, key)) => (name.to_owned(), Some(key.to_owned())),
        None => (whose, None),
    };
    Ok(Revocation {
        id: row.int("id")?,
        org: parse_column(row, "org")?,
        is_device: row.text("kind")? == "device",
        name,
        key,
        source: row.text("source")?,
    })
}
