//! Where a change is written and in whose name: the same for a running server and for the command line beside it.

use serde_json::Value;

use crate::app::AppState;
use crate::domain::audit::{AuditContext, AuditEntry, AuditOutcome, Resource};
use crate::domain::org::OrgId;
use crate::store::{Statement, Store, audit};

/// Where a change is written, and in whose name.
#[derive(Debug, Clone, Copy)]
pub struct Desk<'a> {
    /// The database.
    pub store: &'a Store,
    /// The time, ms since 1970.
    pub now_ms: i64,
    /// The process, for those that see to live connections.
    pub source: &'a str,
    /// For the audit log.
    pub context: &'a AuditContext,
}

impl<'a> Desk<'a> {
    /// Of the running server.
    #[must_use]
    pub fn of(app: &'a AppState, context: &'a AuditContext) -> Self {
        Self { store: &app.store, now_ms: app.clock.now_ms(), source: &app.instance, context }
    }

    /// The row of the audit log for a change that is made.
    #[must_use]
    pub fn note(&self, org: &OrgId, action: &str, resource: Resource, details: Value) -> Statement {
        audit::insert(&AuditEntry {
            org_id: Some(org),
            at: self.now_ms,
            context: self.context,
            action,
            resource,
            outcome: AuditOutcome::Ok,
            details,
        })
    }
}
