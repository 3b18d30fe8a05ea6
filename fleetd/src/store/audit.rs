//! The audit log.

use super::Statement;
use crate::domain::audit::AuditEntry;
use crate::domain::org::OrgId;
use crate::values;

/// Adds an entry; put it into the transaction of the change that it tells of.
#[must_use]
pub fn insert(entry: &AuditEntry<'_>) -> Statement {
    Statement::new(
        "INSERT INTO audit_log (id, org_id, at, actor, action, resource_type, resource_id, outcome, details, \
         ip_address, user_agent) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
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
