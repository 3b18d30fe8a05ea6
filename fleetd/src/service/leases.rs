//! What an admin does when a redundancy group is stuck: take its lease back.

use serde_json::json;

use super::Error;
use crate::{
    app::AppState,
    auth::{
        caller::Caller,
        policy::{self, Action},
    },
    domain::audit::{AuditContext, AuditEntry, AuditOutcome, Resource},
    store::{audit, devices, leases},
};

/// How often it is tried again when the lease moves at the same moment.
const ATTEMPTS: usize = 3;

/// Takes the lease of a group from whoever has it, and forgets that the server was restored. Whoever does that says that
/// no member is being disrupted. A group whose lease nobody has is left as it is.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::NotFound`], [`Error::Conflict`], [`Error::Store`].
pub async fn release(
    app: &AppState,
    caller: &Caller,
    name: &str,
    context: &AuditContext,
) -> Result<(), Error> {
    policy::check(caller, Action::ReleaseLease, None).map_err(Error::Forbidden)?;
    let org = &caller.org().id;
    let mut attempt = 1;
    loop {
        let group = leases::group(&app.store, org, name).await?;
        if group.revision == 0 && group.members.is_empty() {
            return Err(Error::NotFound("your organisation has no redundancy group of this name".to_owned()));
        }
        let busy = group.members.iter().any(|member| member.busy);
        let in_doubt = group.members.iter().any(|member| member.doubt.is_some());
        if group.holder.is_none() && !in_doubt && !busy {
            return Ok(());
        }
        let device = match &group.holder {
            Some(holder) => devices::find(&app.store, org, holder.device.as_str()).await?,
            None => None,
        };
        let now_ms = app.clock.now_ms();
        let noted = audit::insert(&AuditEntry {
            org_id: Some(org),
            at: now_ms,
            context,
            action: "lease.release",
            resource: Resource::new("redundancy_group", name),
            outcome: AuditOutcome::Ok,
            details: json!({
                "device": device.map(|device| device.device_id),
                "command": group.holder.as_ref().map(|holder| holder.command.as_str()),
                "restored": in_doubt,
            }),
        });
        let mut statements = leases::release(org, name, &group, now_ms);
        statements.push(noted);
        match app.store.apply(statements).await.map_err(Error::from) {
            Ok(_) => {
                // Partners that wait have their turn at once.
                group.members.iter().for_each(|member| app.dispatch.mark(member.device.as_str()));
                return Ok(());
            }
            Err(Error::Conflict(_)) if attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}
