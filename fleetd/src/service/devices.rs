//! What people do with devices: read, describe, approve, give a new token, take out of service.

use serde_json::{Value, json};

use super::Error;
use super::desired::{self, Basis};
use crate::app::{AppState, Worker};
use crate::auth::caller::Caller;
use crate::auth::policy::{self, Action};
use crate::auth::token::NewToken;
use crate::config::Secret;
use crate::domain::audit::{AuditContext, AuditEntry, AuditOutcome, Resource};
use crate::domain::device::{Device, DevicePatch};
use crate::domain::dispatch;
use crate::domain::org::OrgRef;
use crate::domain::summary::DeviceSummary;
use crate::store::summaries::{self, Selection};
use crate::store::{Statement, StoreError, audit, commands, credentials, devices, revocations};

/// How often a change is tried again when somebody else changes the same device.
const ATTEMPTS: usize = 3;

/// One page of the organisation's devices, and how many there are.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::Store`].
pub async fn list(
    app: &AppState,
    caller: &Caller,
    selection: &Selection,
) -> Result<(Vec<DeviceSummary>, i64), Error> {
    authorise(caller, Action::ListDevices, None)?;
    Ok(summaries::list(&app.store, &caller.org().id, selection).await?)
}

/// One device.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::NotFound`], [`Error::Store`].
pub async fn get(app: &AppState, caller: &Caller, id: &str) -> Result<DeviceSummary, Error> {
    authorise(caller, Action::ReadDevice, Some(id))?;
    summary(app, caller.org(), id).await
}

/// The row of a device whose history is asked for; also of a decommissioned one, as its history is kept.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::NotFound`], [`Error::Store`].
pub async fn for_history(app: &AppState, caller: &Caller, id: &str) -> Result<Device, Error> {
    authorise(caller, Action::ReadHistory, Some(id))?;
    devices::find(&app.store, &caller.org().id, id).await?.ok_or_else(|| unknown(id))
}

/// Changes the description of a device.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::NotFound`], [`Error::Conflict`], [`Error::Store`].
pub async fn update(
    app: &AppState,
    caller: &Caller,
    id: &str,
    patch: &DevicePatch,
    context: &AuditContext,
) -> Result<DeviceSummary, Error> {
    authorise(caller, Action::UpdateDevice, Some(id))?;
    if patch.touches_target_version() {
        authorise(caller, Action::SetTargetVersion, Some(id))?;
    }
    let summary = change(app, caller, id, Action::UpdateDevice, context, |device, basis, now_ms| {
        let new = patch.clone().apply(&device.description);
        let details = device.description.changes_to(&new);
        let mut statements = devices::describe(device, &new, now_ms);
        statements.extend(basis.follow(&new, now_ms));
        Ok((statements, details))
    })
    .await?;
    desired::tell(app, &summary.id);
    if patch.touches_tags() {
        // A lock that was set for the tag at this very moment has not seen it.
        app.nudges.nudge(Worker::Desired);
    }
    Ok(summary)
}

/// Says yes to a device that registered itself. Saying it again changes nothing.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::NotFound`], [`Error::Conflict`], [`Error::Store`].
pub async fn approve(
    app: &AppState,
    caller: &Caller,
    id: &str,
    context: &AuditContext,
) -> Result<DeviceSummary, Error> {
    change(app, caller, id, Action::ApproveDevice, context, |device, _, now_ms| {
        Ok((vec![devices::approve(device, now_ms)], json!({"was_approved": device.approved})))
    })
    .await
}

/// Allows one more enrolment of a device with another token.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::NotFound`], [`Error::Conflict`], [`Error::Store`].
pub async fn allow_reenrollment(
    app: &AppState,
    caller: &Caller,
    id: &str,
    context: &AuditContext,
) -> Result<DeviceSummary, Error> {
    change(app, caller, id, Action::AllowReenrollment, context, |device, _, now_ms| {
        Ok((vec![devices::allow_reenrollment(device, now_ms)], json!({})))
    })
    .await
}

/// Gives a device a new token; the old one and every connection made with it end at once.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::NotFound`], [`Error::Conflict`], [`Error::Store`].
pub async fn rotate_token(
    app: &AppState,
    caller: &Caller,
    id: &str,
    context: &AuditContext,
) -> Result<(DeviceSummary, Secret), Error> {
    let token = NewToken::generate().map_err(Error::internal)?;
    let summary = change(app, caller, id, Action::RotateDeviceToken, context, |device, _, now_ms| {
        let mut statements = vec![devices::touch(device, now_ms)];
        statements.extend(credentials::set_device_token(&device.org_id, &device.id, token.hash, now_ms));
        statements.extend(revocations::device(
            &device.org_id,
            device.device_id.as_str(),
            &app.instance,
            now_ms,
        ));
        Ok((statements, json!({})))
    })
    .await?;
    app.end_device(&caller.org().slug, &summary.device_id);
    Ok((summary, token.text))
}

/// Takes a device out of service: its credentials and connections end at once, its history is kept.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::NotFound`], [`Error::Conflict`], [`Error::Store`].
pub async fn decommission(
    app: &AppState,
    caller: &Caller,
    id: &str,
    context: &AuditContext,
) -> Result<(), Error> {
    let (device, _) = commit(app, caller, id, Action::DecommissionDevice, context, |device, _, now_ms| {
        let mut statements =
            vec![devices::decommission(device, now_ms), credentials::drop_device_tokens(&device.id)];
        statements.extend(revocations::device(
            &device.org_id,
            device.device_id.as_str(),
            &app.instance,
            now_ms,
        ));
        Ok((statements, json!({})))
    })
    .await?;
    app.end_device(&caller.org().slug, &device.device_id);
    app.views.mark(device.id.as_str());
    if let Err(error) = end_commands(app, &device).await {
        tracing::warn!(%error, "open commands of a decommissioned device; the dispatcher ends them");
    }
    app.nudges.nudge(Worker::Dispatcher);
    app.nudges.nudge(Worker::Results);
    Ok(())
}

/// Ends what is open of a device that was taken out, before its id can be registered again. What fails, or is created
/// at this moment, is left to the dispatcher.
async fn end_commands(app: &AppState, device: &Device) -> Result<(), StoreError> {
    for command in commands::open_of(&app.store, &device.id).await? {
        let Some(mut plan) = dispatch::device_is_gone(&command, app.clock.now_ms()) else { continue };
        let statements = commands::update(&mut plan.command, plan.step.as_ref());
        match app.store.apply(statements).await {
            Ok(_) | Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Changes a device and shows it as it is afterwards.
async fn change(
    app: &AppState,
    caller: &Caller,
    id: &str,
    action: Action,
    context: &AuditContext,
    decide: impl Fn(&Device, &Basis, i64) -> Result<(Vec<Statement>, Value), Error>,
) -> Result<DeviceSummary, Error> {
    let (device, _) = commit(app, caller, id, action, context, decide).await?;
    app.views.mark(device.id.as_str());
    summary(app, caller.org(), id).await
}

/// Loads the device, decides, and commits together with a row of the audit log; again if somebody was faster.
async fn commit(
    app: &AppState,
    caller: &Caller,
    id: &str,
    action: Action,
    context: &AuditContext,
    decide: impl Fn(&Device, &Basis, i64) -> Result<(Vec<Statement>, Value), Error>,
) -> Result<(Device, i64), Error> {
    authorise(caller, action, Some(id))?;
    let org = caller.org();
    let mut attempt = 1;
    loop {
        let now_ms = app.clock.now_ms();
        let device = devices::find(&app.store, &org.id, id)
            .await?
            .filter(|device| device.decommissioned_at.is_none())
            .ok_or_else(|| unknown(id))?;
        let basis = Basis::load(&app.store, &device, now_ms).await?;
        let (mut statements, details) = decide(&device, &basis, now_ms)?;
        statements.push(audit::insert(&AuditEntry {
            org_id: Some(&org.id),
            at: now_ms,
            context,
            action: action.audit_name().unwrap_or("device.change"),
            resource: Resource::new("device", device.device_id.as_str()),
            outcome: AuditOutcome::Ok,
            details,
        }));
        match app.store.apply(statements).await.map_err(Error::from) {
            Ok(_) => return Ok((device, now_ms)),
            Err(Error::Conflict(_)) if attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}

async fn summary(app: &AppState, org: &OrgRef, id: &str) -> Result<DeviceSummary, Error> {
    summaries::one(&app.store, &org.id, id, app.clock.now_ms()).await?.ok_or_else(|| unknown(id))
}

fn authorise(caller: &Caller, action: Action, device: Option<&str>) -> Result<(), Error> {
    policy::check(caller, action, device).map_err(Error::Forbidden)
}

/// The id is told back only if it could be one: what came in the path may be anything.
pub(crate) fn unknown(id: &str) -> Error {
    let shown = if protocol::id::check_name(id).is_ok() { id } else { "of this id" };
    Error::NotFound(format!("there is no device {shown} in your organisation"))
}
