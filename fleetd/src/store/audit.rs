//! The audit log: a chain that only grows (`docs/audit.md`).

use serde_json::Value as Json;

use super::dialect::json_field;
use super::{Row, Statement, Store, StoreError, Value};
use crate::domain::audit::AuditEntry;
use crate::domain::audit_chain::{Head, Link};
use crate::domain::audit_entry::AuditLogEntry;
use crate::domain::org::OrgId;
use crate::values;

/// Adds an entry at the end of the chain; put it into the transaction of the change that it tells of. There is one
/// writer at a time: nothing comes between the look at the last entry and this one. (`INSERT … SELECT` from the table itself
/// would gather the row in a table of its own first, which costs more than all the rest.)
#[must_use]
pub fn insert(entry: &AuditEntry<'_>) -> Statement {
    Statement::new(
        "INSERT INTO audit_log (number, id, org_id, at, actor, action, resource_type, resource_id, outcome, details, \
         ip_address, user_agent, hash) \
         VALUES ((SELECT coalesce(max(number), 0) + 1 FROM audit_log), ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, \
         audit_hash(coalesce((SELECT hash FROM audit_log ORDER BY number DESC LIMIT 1), ''), \
         (SELECT coalesce(max(number), 0) + 1 FROM audit_log), ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11))",
        values![
            uuid::Uuid::now_v7(),
            entry.org_id.map(OrgId::as_str),
            entry.at,
            entry.context.actor.to_string(),
            entry.action,
            entry.resource.kind,
            &entry.resource.id,
            entry.outcome.as_str(),
            entry.details.to_string(),
            entry.context.ip_address.clone(),
            entry.context.user_agent.clone()
        ],
    )
}

/// Which entries.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Only those of this organisation.
    pub org: Option<OrgId>,
    /// Only this action (`device.register`), or this group of actions (`device`).
    pub action: Option<String>,
    /// Only what this person did, or what was done to the account: an e-mail address. Or any actor as entries name it.
    pub user: Option<String>,
    /// Only what this device did, or what was done to it: its readable id.
    pub device: Option<String>,
    /// Only from this time on, ms since 1970.
    pub since: Option<i64>,
    /// Only before this time.
    pub until: Option<i64>,
}

/// The conditions of a selection on the table `a`, with their parameters.
struct Conditions {
    sql: String,
    params: Vec<Value>,
}

impl Conditions {
    fn of(selection: &Selection) -> Self {
        let mut all = Self { sql: "1 = 1".to_owned(), params: Vec::new() };
        all.and("a.org_id = {}", selection.org.as_ref().map(|org| org.as_str().to_owned()));
        all.and(
            "(a.action = {} OR substr(a.action, 1, length({}) + 1) = {} || '.')",
            selection.action.clone(),
        );
        all.and(
            "(a.actor = 'user:' || {} OR a.actor = {} OR (a.resource_type = 'user' AND a.resource_id = {}))",
            selection.user.clone(),
        );
        let device = format!(
            "((a.resource_type IN ('device', 'show_lock') AND a.resource_id = {{}}) OR {} = {{}} \
             OR a.actor = 'device:' || (SELECT o.slug FROM organizations o WHERE o.id = a.org_id) || '/' || {{}})",
            json_field!("a.details", "device")
        );
        all.and(&device, selection.device.clone());
        all.and("a.at >= {}", selection.since);
        all.and("a.at < {}", selection.until);
        all
    }

    /// `{}` stands for the value.
    fn and(&mut self, condition: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            let name = self.param(value);
            self.sql.push_str(" AND ");
            self.sql.push_str(&condition.replace("{}", &name));
        }
    }

    fn param(&mut self, value: impl Into<Value>) -> String {
        self.params.push(value.into());
        format!("?{}", self.params.len())
    }
}

const ENTRY: &str = "SELECT a.number, a.id, a.at, a.actor, a.action, a.resource_type, a.resource_id, a.outcome, a.details, \
     a.ip_address, a.user_agent, a.hash, (SELECT o.slug FROM organizations o WHERE o.id = a.org_id) AS org FROM audit_log a";

/// A page of entries, the newest first, and how many there are in all.
///
/// # Errors
/// [`StoreError`].
pub async fn page(
    store: &Store,
    selection: &Selection,
    offset: i64,
    limit: i64,
) -> Result<(Vec<AuditLogEntry>, i64), StoreError> {
    let Conditions { sql, params } = Conditions::of(selection);
    let count = format!("SELECT count(*) AS n FROM audit_log a WHERE {sql}");
    let total = store.query_one(count, params).await?.map_or(Ok(0), |row| row.int("n"))?;
    let mut all = Conditions::of(selection);
    let (limit, offset) = (all.param(limit), all.param(offset));
    let sql = format!("{ENTRY} WHERE {} ORDER BY a.number DESC LIMIT {limit} OFFSET {offset}", all.sql);
    Ok((store.query(sql, all.params).await?.iter().map(read).collect::<Result<_, _>>()?, total))
}

/// Entries before the one with the number `before`, the newest first. What is added meanwhile moves nothing: whoever
/// goes on from the last of them meets each entry once.
///
/// # Errors
/// [`StoreError`].
pub async fn before(
    store: &Store,
    selection: &Selection,
    before: i64,
    limit: i64,
) -> Result<Vec<AuditLogEntry>, StoreError> {
    let mut all = Conditions::of(selection);
    all.and("a.number < {}", Some(before));
    let limit = all.param(limit);
    let sql = format!("{ENTRY} WHERE {} ORDER BY a.number DESC LIMIT {limit}", all.sql);
    store.query(sql, all.params).await?.iter().map(read).collect()
}

fn read(row: &Row) -> Result<AuditLogEntry, StoreError> {
    let details = row.text("details")?;
    Ok(AuditLogEntry {
        number: row.int("number")?,
        id: row.text("id")?,
        at: row.int("at")?,
        actor: row.text("actor")?,
        action: row.text("action")?,
        resource_type: row.text("resource_type")?,
        resource_id: row.text("resource_id")?,
        outcome: row.text("outcome")?,
        // Text that is no JSON was not written by us. It is shown all the same.
        details: serde_json::from_str(&details).unwrap_or(Json::String(details)),
        ip_address: row.opt_text("ip_address")?,
        user_agent: row.opt_text("user_agent")?,
        hash: row.text("hash")?,
        org: row.opt_text("org")?,
    })
}

/// The links of the chain after the entry with this number, in order; each with the hash that it should have. The
/// database computes it from the values as they lie there.
///
/// # Errors
/// [`StoreError`].
pub async fn links(store: &Store, after: i64, limit: i64) -> Result<Vec<Link>, StoreError> {
    let sql = "SELECT a.number, CAST(a.hash AS TEXT) AS hash, \
               audit_hash(coalesce(p.hash, ''), a.number, a.id, a.org_id, a.at, a.actor, a.action, a.resource_type, \
               a.resource_id, a.outcome, a.details, a.ip_address, a.user_agent) AS computed \
               FROM audit_log a LEFT JOIN audit_log p ON p.number = a.number - 1 \
               WHERE a.number > ?1 ORDER BY a.number LIMIT ?2";
    let rows = store.query(sql, values![after, limit]).await?;
    rows.iter()
        .map(|row| {
            let head = Head { number: row.int("number")?, hash: row.text("hash")? };
            Ok(Link { head, computed: row.opt_text("computed")? })
        })
        .collect()
}

/// The last entry; nothing if there is none.
///
/// # Errors
/// [`StoreError`].
pub async fn head(store: &Store) -> Result<Option<Head>, StoreError> {
    let sql = "SELECT number, CAST(hash AS TEXT) AS hash FROM audit_log ORDER BY number DESC LIMIT 1";
    store.query_one(sql, Vec::new()).await?.map(|row| read_head(&row)).transpose()
}

/// The hash of the entry with this number.
///
/// # Errors
/// [`StoreError`].
pub async fn hash_of(store: &Store, number: i64) -> Result<Option<String>, StoreError> {
    let sql = "SELECT number, CAST(hash AS TEXT) AS hash FROM audit_log WHERE number = ?1";
    Ok(store
        .query_one(sql, values![number])
        .await?
        .map(|row| read_head(&row))
        .transpose()?
        .map(|head| head.hash))
}

fn read_head(row: &Row) -> Result<Head, StoreError> {
    Ok(Head { number: row.int("number")?, hash: row.text("hash")? })
}

#[cfg(test)]
mod tests;
