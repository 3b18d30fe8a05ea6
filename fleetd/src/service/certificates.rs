//! Certificates of devices: signed for whoever is the device, and taken back.

use serde_json::json;

use super::{Desk, Error, devices};
use crate::app::AppState;
use crate::auth::caller::Caller;
use crate::auth::policy::{self, Action};
use crate::authority::devices::{DeviceAuthority, Signed};
use crate::domain::audit::{AuditContext, Resource};
use crate::domain::certificate_request::CertificateRequest;
use crate::domain::device::DeviceRowId;
use crate::domain::org::OrgRef;
use crate::domain::summary::DeviceSummary;
use crate::store::certificates as store;

/// Whose certificate it is to be.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The device's row.
    pub row: &'a DeviceRowId,
    /// Its organisation.
    pub org: &'a OrgRef,
    /// Its readable id.
    pub device: &'a protocol::id::DeviceId,
}

/// The authority, where the server signs.
///
/// # Errors
/// [`Error::Conflict`]: it does not.
pub fn authority(app: &AppState) -> Result<&DeviceAuthority, Error> {
    app.device_authority.get().ok_or_else(|| {
        Error::Conflict(
            "this server signs no certificates for devices (FLEET_TLS_CLIENT_CERTIFICATES); use the device's token"
                .to_owned(),
        )
    })
}

/// Signs a certificate for the device that asks.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::NotFound`], [`Error::Conflict`], [`Error::TooMany`], [`Error::Store`].
pub async fn issue(
    app: &AppState,
    caller: &Caller,
    id: &str,
    request: &CertificateRequest,
    context: &AuditContext,
) -> Result<Signed, Error> {
    policy::check(caller, Action::IssueCertificate, Some(id)).map_err(Error::Forbidden)?;
    let Caller::Device(own) = caller else {
        return Err(Error::Forbidden("only the device itself gets a certificate".to_owned()));
    };
    sign(app, Subject { row: &own.row, org: &own.org, device: &own.device }, request, context).await
}

/// Signs a certificate for a device that has shown who it is, and keeps its row, without which it lets nobody in.
///
/// # Errors
/// [`Error::Conflict`]: the server does not sign, or the device was just decommissioned; [`Error::TooMany`], [`Error::Store`].
pub async fn sign(
    app: &AppState,
    subject: Subject<'_>,
    request: &CertificateRequest,
    context: &AuditContext,
) -> Result<Signed, Error> {
    let authority = authority(app)?;
    app.auth.count_certificate(subject.row.as_str())?;
    let desk = Desk::of(app, context);
    let name = format!("{}/{}", subject.org.slug, subject.device);
    let signed = authority.sign(&name, request, desk.now_ms).map_err(Error::internal)?;
    let key = request.key_sha256();
    let mut statements = store::add(&subject.org.id, subject.row, &signed, &key, desk.now_ms).to_vec();
    statements.push(desk.note(
        &subject.org.id,
        Action::IssueCertificate.audit_name().unwrap_or("device.certificate"),
        Resource::new("device", subject.device.as_str()),
        json!({"serial": signed.serial, "expires_at": protocol::message::rfc3339(signed.expires_at)}),
    ));
    desk.store.apply(statements).await?;
    app.views.mark(subject.row.as_str());
    Ok(signed)
}

/// Takes back every certificate of a device. Connections made with one end within a second; its token stays good.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::NotFound`], [`Error::Conflict`], [`Error::Store`].
pub async fn revoke(
    app: &AppState,
    caller: &Caller,
    id: &str,
    context: &AuditContext,
) -> Result<DeviceSummary, Error> {
    policy::check(caller, Action::RevokeCertificates, Some(id)).map_err(Error::Forbidden)?;
    let (device, _) = devices::revoke_certificates_at(Desk::of(app, context), caller.org(), id).await?;
    devices::shown(app, caller.org(), &device, id).await
}
