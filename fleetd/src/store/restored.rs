//! What a database has to know when it takes the place of a later one: everything that was told to somebody since the
//! copy was made is forgotten here, and not there. `docs/backup.md` goes through it table by table.

use protocol::message::rfc3339;
use serde_json::json;

use super::{Statement, audit, commands};
use crate::{
    domain::{
        audit::{AuditContext, AuditEntry, AuditOutcome, Resource},
        org::OrgId,
    },
    values,
};

/// Further than any number that was given out after the copy was made.
const FAR: i64 = 1_000_000;

/// Which copy it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// When it was made, ms since 1970.
    pub made_at: i64,
    /// By which fleetd.
    pub made_by: String,
}

/// Everything that has to be written before a server may use a copy that takes a later database's place. `orgs`: the
/// organisations in it; `now_ms`: ms since 1970. To be done in one transaction, once for each restore.
#[must_use]
pub fn mark(copy: &Copy, orgs: &[OrgId], now_ms: i64) -> Vec<Statement> {
    let mut statements = vec![ask_first(), tell_of_it(copy, now_ms)];
    statements.extend(doubt_devices(now_ms));
    statements.extend(overtake_devices(now_ms));
    statements.extend(end_sessions(now_ms));
    statements.push(end_certificates());
    let context = AuditContext::system();
    statements.extend(orgs.iter().map(|org| {
        audit::insert(&AuditEntry {
            org_id: Some(org),
            at: now_ms,
            context: &context,
            action: "server.restore",
            resource: Resource::new("backup", &rfc3339(copy.made_at)),
            outcome: AuditOutcome::Ok,
            details: json!({
                "backup_made_at": rfc3339(copy.made_at),
                "backup_made_by": copy.made_by,
                "restored_by": env!("CARGO_PKG_VERSION"),
            }),
        })
    }));
    statements
}

/// How many commands are asked about first.
#[must_use]
pub fn count_open() -> String {
    format!("SELECT count(*) AS n FROM commands WHERE status IN {}", commands::OPEN)
}

/// Any of them may have been sent, may have run, may have ended since. The revision goes far, so that what people are
/// told from now on is newer than what they were told before.
fn ask_first() -> Statement {
    let sql = format!(
        "UPDATE commands SET query_first = 1, query_sent_at = NULL, revision = revision + ?1 WHERE status IN {}",
        commands::OPEN
    );
    Statement::new(sql, values![FAR])
}

fn tell_of_it(copy: &Copy, now_ms: i64) -> Statement {
    let sql = format!(
        "INSERT INTO command_history (command_id, revision, org_id, status, at, detail) \
         SELECT id, revision, org_id, status, ?1, ?2 FROM commands WHERE status IN {}",
        commands::OPEN
    );
    let detail = format!(
        "the server was restored from a copy of {}; the device is asked what became of the command",
        rfc3339(copy.made_at)
    );
    Statement::new(sql, values![now_ms, detail])
}

/// Nobody knows what devices have been sent since, and who has been given a lease: none is given until each member has
/// shown what it has open. What it said of that before the copy was made is of no use.
fn doubt_devices(now_ms: i64) -> [Statement; 2] {
    [
        Statement::new("UPDATE devices SET restored_at = ?1", values![now_ms]),
        Statement::new("UPDATE device_state SET commands_digest = NULL", Vec::new()),
    ]
}

/// A device ignores a desired state whose version is not higher than its own, which may have risen since. The versions
/// go past any that a device can have; a device of which nothing was desired may have been told something since, so it
/// gets a version too. Not so one that is heard by HTTP alone: it hears of no desired state, and answers none.
fn overtake_devices(now_ms: i64) -> [Statement; 2] {
    // Without versions of its own, each lock counts as known from the new version on.
    let known =
        "UPDATE device_desired SET version = max(version + ?2, ?1), lock_versions = '[]', updated_at = ?1";
    let others = "INSERT INTO device_desired (device_id, org_id, version, redundancy_group, target_version, updated_at) \
                  SELECT id, org_id, max(?2, ?1), redundancy_group, target_version, ?1 FROM devices d \
                  WHERE NOT EXISTS (SELECT 1 FROM device_state s WHERE s.device_id = d.id AND s.birth_at IS NULL \
                  AND s.last_heartbeat IS NOT NULL) \
                  ON CONFLICT (device_id) DO NOTHING";
    [known, others].map(|sql| Statement::new(sql, values![now_ms, FAR]))
}

/// A session that was ended since, or a refresh token that was used since, must not come to life again: everybody logs
/// in anew.
fn end_sessions(now_ms: i64) -> [Statement; 2] {
    [
        Statement::new("DELETE FROM refresh_tokens", Vec::new()),
        Statement::new("UPDATE users SET token_version = max(token_version + ?2, ?1)", values![now_ms, FAR]),
    ]
}

/// One that was taken back since must not come to life again. Devices get others with their tokens.
fn end_certificates() -> Statement {
    Statement::new("DELETE FROM device_certificates", Vec::new())
}
