//! Registering a device: by an admin, or by the device itself with an enrolment key.
//!
//! A device on a bad network sends its registration until it gets an answer. So the same id with the same token hash
//! gets the same answer for ever, uses up nothing, and works after the key is used up or has expired.

use std::net::IpAddr;

use protocol::id::DeviceId;
use serde_json::json;

use super::certificates::Subject;
use super::{Desk, Error};
use crate::app::AppState;
use crate::auth::caller::Caller;
use crate::auth::policy::{self, Action};
use crate::auth::token::{NewToken, TOKEN_MAX_LEN, TokenHash};
use crate::authority::devices::Signed;
use crate::config::Secret;
use crate::domain::audit::{Actor, AuditContext, AuditEntry, AuditOutcome, Resource};
use crate::domain::device::{Device, DeviceRowId, DeviceStatus, Registration};
use crate::domain::enrollment::{Decision, EnrollmentKey, Existing, Registrar, decide};
use crate::domain::org::OrgRef;
use crate::store::{
    Store, StoreError, audit, certificates, credentials, devices, enrollment_keys, orgs, revocations,
    summaries,
};

/// How often a registration is tried again when another one comes at the same moment.
const ATTEMPTS: usize = 4;

/// The answer to a registration.
#[derive(Debug)]
pub struct Registered {
    /// Where the device belongs.
    pub org: OrgRef,
    /// The readable id.
    pub device_id: protocol::id::DeviceId,
    /// Its token, if the caller brought no hash of one.
    pub token: Option<Secret>,
    /// Its status.
    pub status: DeviceStatus,
    /// Its certificate, if one was asked for.
    pub certificate: Option<Signed>,
}

/// Who asks for a registration, checked.
#[derive(Debug, Clone)]
pub enum Requester {
    /// An admin of this organisation.
    Admin(OrgRef),
    /// The bearer of an enrolment key of this organisation; the key may be used up or expired.
    Key(OrgRef, EnrollmentKey),
}

impl Requester {
    /// Takes a person who may register devices.
    ///
    /// # Errors
    /// [`Error::Forbidden`].
    pub fn person(caller: &Caller) -> Result<Self, Error> {
        policy::check(caller, Action::RegisterDevice, None).map_err(Error::Forbidden)?;
        Ok(Self::Admin(caller.org().clone()))
    }

    /// Takes the bearer of an enrolment key.
    ///
    /// # Errors
    /// [`Error::Unauthorized`] or [`Error::TooMany`] for a key that was never made or was taken back.
    pub async fn key(app: &AppState, key: &Secret, address: IpAddr) -> Result<Self, Error> {
        let known = if key.expose().len() > TOKEN_MAX_LEN {
            None
        } else {
            enrollment_keys::by_hash(&app.store, TokenHash::of(key.expose())).await?
        };
        match known {
            Some((org, key)) => Ok(Self::Key(org, key)),
            None => Err(app.auth.failed(
                address,
                "enrollment-key",
                "the enrolment key is unknown or was taken back",
            )),
        }
    }

    /// The organisation that the device will belong to.
    #[must_use]
    pub fn org(&self) -> &OrgRef {
        match self {
            Self::Admin(org) | Self::Key(org, _) => org,
        }
    }

    /// As the audit log names it, where the request itself does not say.
    #[must_use]
    pub fn actor(&self) -> Option<Actor> {
        match self {
            Self::Admin(_) => None,
            Self::Key(_, key) => Some(Actor::Key(key.key_prefix.clone())),
        }
    }
}

/// A registration that is committed.
#[derive(Debug)]
pub struct Outcome {
    /// For the caller.
    pub registered: Registered,
    /// The device's row.
    pub row: DeviceRowId,
    /// The row that changed; none for a repetition.
    pub changed: Option<DeviceRowId>,
    /// Whether an older token has died, with which somebody may be connected.
    pub replaced: bool,
}

/// Registers a device in the running server: ends the connections made with a token that has died, and signs a certificate if one
/// is asked for.
///
/// Who repeats a registration shows the hash of a token, which is no secret. So it gets a certificate only for a key for which
/// the device has one already; else the device asks for one with its token.
///
/// # Errors
/// As [`register_at`] and [`certificates::sign`](super::certificates::sign).
pub async fn register(
    app: &AppState,
    requester: &Requester,
    registration: &Registration,
    context: &AuditContext,
) -> Result<Registered, Error> {
    if registration.csr.is_some() {
        super::certificates::authority(app)?;
    }
    let outcome = register_at(Desk::of(app, context), requester, registration).await?;
    if outcome.replaced {
        app.end_device(&outcome.registered.org.slug, &outcome.registered.device_id);
    }
    if let Some(row) = &outcome.changed {
        app.views.mark(row.as_str());
    }
    let (mut registered, row) = (outcome.registered, outcome.row);
    if let Some(csr) = &registration.csr {
        let (key, now_ms) = (csr.key_sha256(), app.clock.now_ms());
        if outcome.changed.is_some() || certificates::has_key(&app.store, &row, &key, now_ms).await? {
            let subject = Subject { row: &row, org: &registered.org, device: &registered.device_id };
            registered.certificate = Some(super::certificates::sign(app, subject, csr, context).await?);
        }
    }
    Ok(registered)
}

/// Registers a device.
///
/// # Errors
/// [`Error::Conflict`] when the id is taken; [`Error::Forbidden`] when the key is used up; [`Error::Store`].
pub async fn register_at(
    desk: Desk<'_>,
    requester: &Requester,
    registration: &Registration,
) -> Result<Outcome, Error> {
    for _ in 0..ATTEMPTS {
        if let Some(outcome) = attempt(desk, requester, registration).await? {
            return Ok(outcome);
        }
    }
    Err(Error::Conflict(format!(
        "{} is the name of a user or service account of your organisation; choose another id",
        registration.device_id
    )))
}

/// The token that is in force.
async fn known_token(
    store: &Store,
    org: &OrgRef,
    id: &DeviceId,
    now_ms: i64,
) -> Result<Option<TokenHash>, Error> {
    let known = credentials::device(store, &org.slug, id, now_ms).await?;
    Ok(known.into_iter().find(|known| !known.pending).map(|known| known.hash))
}

/// One attempt; `None` when somebody else was faster with this id or key, and it has to be looked at again.
async fn attempt(
    desk: Desk<'_>,
    requester: &Requester,
    registration: &Registration,
) -> Result<Option<Outcome>, Error> {
    let Desk { store, now_ms, source, context } = desk;
    let org = requester.org();
    let key = match requester {
        Requester::Admin(_) => None,
        Requester::Key(_, key) => Some(enrollment_keys::by_id(store, &key.id).await?.ok_or(GONE)?),
    };
    let key = key.as_ref();
    let id = &registration.device_id;
    let device = devices::by_name(store, &org.id, id).await?;
    let existing = match &device {
        None => Existing::None,
        Some(device) if device.decommissioned_at.is_some() => Existing::Decommissioned,
        Some(device) => Existing::Active {
            token: known_token(store, org, id, now_ms).await?,
            reenrollment_allowed: device.reenrollment_allowed,
        },
    };
    let decision = decide(registrar(key, now_ms), existing, registration.token);
    let row = match (decision, device) {
        (Decision::Repeat, Some(device)) => {
            let registered = answer(store, org, &device.id, None, now_ms).await?;
            return Ok(Some(Outcome { registered, row: device.id, changed: None, replaced: false }));
        }
        (Decision::Create, _) => {
            check_room(store, org).await?;
            NewOrKnown::New(DeviceRowId::new(uuid::Uuid::new_v4().to_string()))
        }
        (Decision::Revive, Some(device)) => {
            check_room(store, org).await?;
            NewOrKnown::Known(Box::new(device))
        }
        (Decision::Reenroll, Some(device)) => NewOrKnown::Known(Box::new(device)),
        (Decision::KeyExhausted, _) => {
            let reason = key.and_then(|key| key.exhausted(now_ms));
            return Err(Error::Forbidden(reason.unwrap_or("the enrolment key is no longer good").to_owned()));
        }
        (Decision::NeedsAdmin, _) => {
            return Err(Error::Conflict(format!(
                "{id} was decommissioned; an admin has to register it again"
            )));
        }
        (Decision::Taken, _) | (_, None) => {
            return Err(Error::Conflict(format!(
                "{id} is registered with another token; if it is the same device, an admin can allow one re-enrolment"
            )));
        }
    };
    let made = match registration.token {
        Some(_) => None,
        None => Some(NewToken::generate().map_err(Error::internal)?),
    };
    let hash = match (&made, registration.token) {
        (Some(made), _) => made.hash,
        (None, Some(hash)) => hash,
        // One of the two is there: the token is made exactly when no hash came.
        (None, None) => return Err(Error::internal("a registration without a token")),
    };
    let approved = match (key, &row) {
        (None, _) => true,
        // A device that was approved before stays so: an admin has just allowed its re-enrolment.
        (Some(key), NewOrKnown::Known(device)) => device.approved || !key.require_approval,
        (Some(key), NewOrKnown::New(_)) => !key.require_approval,
    };
    // Looked at above for the reason, and here again together with what fills it.
    let mut statements = match decision {
        Decision::Create | Decision::Revive => vec![orgs::check_room(&org.id)],
        _ => Vec::new(),
    };
    let row_id = match &row {
        NewOrKnown::New(row) => {
            statements.extend(devices::insert(&org.id, row, registration, approved, now_ms));
            row
        }
        NewOrKnown::Known(device) => {
            statements.push(devices::register_again(device, registration, approved, now_ms));
            &device.id
        }
    };
    statements.extend(credentials::set_device_token(&org.id, row_id, hash, now_ms));
    if let NewOrKnown::Known(_) = row {
        statements.extend(certificates::revoke(row_id, now_ms));
        statements.extend(revocations::device(&org.id, id.as_str(), source, now_ms));
    }
    if let Some(key) = key {
        statements.push(enrollment_keys::count_use(key, now_ms));
    }
    let how = match decision {
        Decision::Revive => "registered again",
        Decision::Reenroll => "re-enrolled",
        _ => "registered",
    };
    statements.push(audit::insert(&AuditEntry {
        org_id: Some(&org.id),
        at: now_ms,
        context,
        action: "device.register",
        resource: Resource::new("device", id.as_str()),
        outcome: AuditOutcome::Ok,
        details: json!({"how": how, "approved": approved, "own_token": registration.token.is_some()}),
    }));
    match store.apply(statements).await {
        Ok(_) => {}
        Err(StoreError::Conflict { .. } | StoreError::Unique { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let registered = answer(store, org, row_id, made.map(|made| made.text), now_ms).await?;
    let replaced = matches!(row, NewOrKnown::Known(_));
    Ok(Some(Outcome { registered, row: row_id.clone(), changed: Some(row_id.clone()), replaced }))
}

const GONE: Error = Error::Unauthorized("the enrolment key was taken back");

fn registrar(key: Option<&EnrollmentKey>, now_ms: i64) -> Registrar {
    match key {
        None => Registrar::Admin,
        Some(key) => Registrar::Key { usable: key.exhausted(now_ms).is_none() },
    }
}

enum NewOrKnown {
    New(DeviceRowId),
    Known(Box<Device>),
}

async fn check_room(store: &Store, org: &OrgRef) -> Result<(), Error> {
    let most = orgs::by_id(store, &org.id).await?.and_then(|org| org.max_devices);
    match most {
        Some(most) if devices::count(store, &org.id).await? >= most => Err(Error::Conflict(format!(
            "the organisation {} has its {most} devices; decommission one first",
            org.slug
        ))),
        _ => Ok(()),
    }
}

async fn answer(
    store: &Store,
    org: &OrgRef,
    row: &DeviceRowId,
    token: Option<Secret>,
    now_ms: i64,
) -> Result<Registered, Error> {
    let summary = summaries::one(store, &org.id, row.as_str(), now_ms)
        .await?
        .ok_or_else(|| Error::Conflict("the device was decommissioned at the same moment".to_owned()))?;
    Ok(Registered {
        org: org.clone(),
        device_id: summary.device_id,
        token,
        status: summary.status,
        certificate: None,
    })
}
