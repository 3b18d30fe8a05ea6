//! What people do with devices: read, describe, approve, give a new token, take out of service.

use serde_json::{Value, json};

use super::desired::{self, Basis};
use super::{Desk, Error};
use crate::app::{AppState, Worker};
use crate::auth::caller::Caller;
use crate::auth::policy::{self, Action};
use crate::auth::token::NewToken;
use crate::config::Secret;
use crate::domain::audit::{AuditContext, Resource};
use crate::domain::device::{Device, DevicePatch};
use crate::domain::dispatch;
use crate::domain::org::OrgRef;
use crate::domain::summary::DeviceSummary;
use crate::store::summaries::{self, Selection};
use crate::store::{Statement, StoreError, certificates, commands, credentials, devices, revocations};

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
    let desk = Desk::of(app, context);
    let device = commit(desk, caller.org(), id, Action::UpdateDevice, |device, basis| {
        let new = patch.clone().apply(&device.description);
        let details = device.description.changes_to(&new);
        let mut statements = devices::describe(device, &new, desk.now_ms);
        statements.extend(basis.follow(&new, desk.now_ms));
        (statements, details)
    })
    .await?;
    let summary = shown(app, caller.org(), &device, id).await?;
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
    authorise(caller, Action::ApproveDevice, Some(id))?;
    let device = approve_at(Desk::of(app, context), caller.org(), id).await?;
    shown(app, caller.org(), &device, id).await
}

/// As [`approve`], for whoever may.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Conflict`], [`Error::Store`].
pub async fn approve_at(desk: Desk<'_>, org: &OrgRef, id: &str) -> Result<Device, Error> {
    commit(desk, org, id, Action::ApproveDevice, |device, _| {
        (vec![devices::approve(device, desk.now_ms)], json!({"was_approved": device.approved}))
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
    authorise(caller, Action::AllowReenrollment, Some(id))?;
    let device = allow_reenrollment_at(Desk::of(app, context), caller.org(), id).await?;
    shown(app, caller.org(), &device, id).await
}

/// As [`allow_reenrollment`], for whoever may.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Conflict`], [`Error::Store`].
pub async fn allow_reenrollment_at(desk: Desk<'_>, org: &OrgRef, id: &str) -> Result<Device, Error> {
    commit(desk, org, id, Action::AllowReenrollment, |device, _| {
        let mut statements = vec![devices::allow_reenrollment(device, desk.now_ms)];
        // Whoever has the old disk has them too.
        statements.extend(certificates::revoke(&device.id, desk.now_ms));
        (statements, json!({}))
    })
    .await
}

/// Takes back every certificate of a device, and says how many were good. A server that runs ends the connections made with
/// them within a second.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Conflict`], [`Error::Store`].
pub async fn revoke_certificates_at(desk: Desk<'_>, org: &OrgRef, id: &str) -> Result<(Device, i64), Error> {
    let known = devices::find(desk.store, &org.id, id).await?.ok_or_else(|| unknown(id))?;
    let good = certificates::count_good(desk.store, &known.id, desk.now_ms).await?;
    let device = commit(desk, org, id, Action::RevokeCertificates, |device, _| {
        (certificates::revoke(&device.id, desk.now_ms).to_vec(), json!({"certificates": good}))
    })
    .await?;
    Ok((device, good))
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
    authorise(caller, Action::RotateDeviceToken, Some(id))?;
    let (device, token) = rotate_token_at(Desk::of(app, context), caller.org(), id).await?;
    app.end_device(&caller.org().slug, &device.device_id);
    Ok((shown(app, caller.org(), &device, id).await?, token))
}

/// As [`rotate_token`], for whoever may. A server that runs beside this process ends the connections within a second.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Conflict`], [`Error::Store`].
pub async fn rotate_token_at(desk: Desk<'_>, org: &OrgRef, id: &str) -> Result<(Device, Secret), Error> {
    let token = NewToken::generate().map_err(Error::internal)?;
    let device = commit(desk, org, id, Action::RotateDeviceToken, |device, _| {
        let mut statements = vec![devices::touch(device, desk.now_ms)];
        let hash = token.hash;
        statements.extend(credentials::set_device_token(&device.org_id, &device.id, hash, desk.now_ms));
        statements.extend(certificates::revoke(&device.id, desk.now_ms));
        statements.extend(end_connections(desk, device));
        (statements, json!({}))
    })
    .await?;
    Ok((device, token.text))
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
    authorise(caller, Action::DecommissionDevice, Some(id))?;
    let device = decommission_at(Desk::of(app, context), caller.org(), id).await?;
    app.end_device(&caller.org().slug, &device.device_id);
    app.views.mark(device.id.as_str());
    app.nudges.nudge(Worker::Dispatcher);
    app.nudges.nudge(Worker::Results);
    Ok(())
}

/// As [`decommission`], for whoever may. A server that runs beside this process ends the connections within a second.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Conflict`], [`Error::Store`].
pub async fn decommission_at(desk: Desk<'_>, org: &OrgRef, id: &str) -> Result<Device, Error> {
    let device = commit(desk, org, id, Action::DecommissionDevice, |device, _| {
        let mut statements =
            vec![devices::decommission(device, desk.now_ms), credentials::drop_device_tokens(&device.id)];
        statements.extend(certificates::revoke(&device.id, desk.now_ms));
        statements.extend(end_connections(desk, device));
        (statements, json!({}))
    })
    .await?;
    if let Err(error) = end_commands(desk, &device).await {
        tracing::warn!(%error, "open commands of a decommissioned device; the dispatcher ends them");
    }
    Ok(device)
}

fn end_connections(desk: Desk<'_>, device: &Device) -> [Statement; 2] {
    revocations::device(&device.org_id, device.device_id.as_str(), desk.source, desk.now_ms)
}

/// Ends what is open of a device that was taken out, before its id can be registered again. What fails, or is created
/// at this moment, is left to the dispatcher.
async fn end_commands(desk: Desk<'_>, device: &Device) -> Result<(), StoreError> {
    for command in commands::open_of(desk.store, &device.id).await? {
        let Some(mut plan) = dispatch::device_is_gone(&command, desk.now_ms) else { continue };
        let statements = commands::update(&mut plan.command, plan.step.as_ref());
        match desk.store.apply(statements).await {
            Ok(_) | Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Loads the device, decides, and commits together with a row of the audit log; again if somebody was faster.
async fn commit(
    desk: Desk<'_>,
    org: &OrgRef,
    id: &str,
    action: Action,
    decide: impl Fn(&Device, &Basis) -> (Vec<Statement>, Value),
) -> Result<Device, Error> {
    let mut attempt = 1;
    loop {
        let device = devices::find(desk.store, &org.id, id)
            .await?
            .filter(|device| device.decommissioned_at.is_none())
            .ok_or_else(|| unknown(id))?;
        let basis = Basis::load(desk.store, &device, desk.now_ms).await?;
        let (mut statements, details) = decide(&device, &basis);
        let resource = Resource::new("device", device.device_id.as_str());
        statements.push(desk.note(
            &org.id,
            action.audit_name().unwrap_or("device.change"),
            resource,
            details,
        ));
        match desk.store.apply(statements).await.map_err(Error::from) {
            Ok(_) => return Ok(device),
            Err(Error::Conflict(_)) if attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}

/// A device as it is after a change.
pub(super) async fn shown(
    app: &AppState,
    org: &OrgRef,
    device: &Device,
    id: &str,
) -> Result<DeviceSummary, Error> {
    app.views.mark(device.id.as_str());
    summary(app, org, id).await
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
