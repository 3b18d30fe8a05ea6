//! What people do with commands: create, look, cancel, override. Over HTTP and over MQTT alike.

mod change;
mod create;
mod dry_run;
mod read;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr};

use serde_json::json;

use super::Error;
use crate::app::{AppState, Worker};
use crate::auth::caller::{Caller, Person};
use crate::auth::policy::{self, Action};
use crate::domain::audit::{AuditContext, AuditEntry, AuditOutcome, Resource};
use crate::domain::command::Command;
use crate::store::audit;

pub use change::{cancel, override_show};
pub use create::{Answer, OPEN_PER_DEVICE_MAX, OPEN_PER_ORG_MAX, TARGETS_MAX, create};
pub use dry_run::{Outlook, dry_run};
pub use read::{WithHistory, device, get, list};

/// The path that a request came over.
#[derive(Debug, Clone, Copy)]
pub enum Via<'a> {
    /// HTTP; the route table notes what is refused as a whole.
    Http,
    /// `operator/{user}/command`, with the payload as it came: the same bytes within a minute are one request.
    Mqtt(&'a [u8]),
}

/// Who may; a device may nothing of this.
fn person<'a>(caller: &'a Caller, actions: &[Action]) -> Result<&'a Person, Error> {
    for action in actions {
        policy::check(caller, *action, None).map_err(Error::Forbidden)?;
    }
    match caller {
        Caller::Person(person) => Ok(person),
        Caller::Device(_) => Err(Error::Forbidden("a device may not do this".to_owned())),
    }
}

/// Tells the workers that a command has changed.
fn changed(app: &AppState, command: &Command) {
    let device = command.order.device_id.as_str();
    app.views.mark(device);
    app.dispatch.mark(device);
    app.nudges.nudge(Worker::Results);
}

/// Notes in the audit log what was refused over MQTT; only so many of one person's refusals in a time.
pub(crate) async fn note_refusal(
    app: &AppState,
    caller: &Caller,
    action: &'static str,
    resource: Resource,
    context: &AuditContext,
    reason: &str,
) {
    let address = context.ip_address.as_deref().and_then(|text| text.parse().ok());
    let address = address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    if !app.auth.may_note_refusal(address, &context.actor.to_string()) {
        return;
    }
    let entry = AuditEntry {
        org_id: Some(&caller.org().id),
        at: app.clock.now_ms(),
        context,
        action,
        resource,
        outcome: AuditOutcome::Refused,
        details: json!({"reason": reason}),
    };
    if let Err(error) = app.store.apply_one(audit::insert(&entry)).await {
        tracing::error!(%error, "cannot note a refused change");
    }
}
