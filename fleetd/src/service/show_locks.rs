//! Show locks: set, taken back, read. Where a lock has got to is told with it.

use serde::Serialize;
use serde_json::json;

use super::desired::{self, Basis};
use super::{Error, devices::unknown};
use crate::app::AppState;
use crate::auth::caller::Caller;
use crate::auth::policy::{self, Action};
use crate::domain::audit::{AuditContext, AuditEntry, AuditOutcome, Resource};
use crate::domain::device::{Device, check_tag};
use crate::domain::show_lock::{LockRequest, ShowLock, Subject};
use crate::domain::time;
use crate::store::desired::{self as stored, Which};
use crate::store::{Statement, audit, device_state, devices, show_locks};

/// How often a change is tried again when somebody else changes the same device.
const ATTEMPTS: usize = 3;
/// Most tags of an organisation that may be locked at a time.
const TAGS_MAX: i64 = 1000;
/// Devices that are looked at in one go.
const CHUNK: i64 = 500;

/// A lock as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs)] // as in docs/api.md
pub struct LockView {
    #[serde(with = "time")]
    pub from: i64,
    #[serde(with = "time")]
    pub until: i64,
    pub reason: String,
    pub by: String,
    /// Every device that it holds is known to know it.
    pub in_effect: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// How many devices it holds.
    pub devices: usize,
    /// How many of them know it.
    pub devices_in_effect: usize,
}

/// What a path names.
#[derive(Debug, Clone)]
pub enum Named {
    /// A device, by its readable id or its row's.
    Device(String),
    /// A tag.
    Tag(String),
}

enum Found {
    Device(Box<Device>),
    Tag(String),
}

impl Found {
    fn subject(&self) -> Subject {
        match self {
            Self::Device(device) => Subject::Device(device.id.clone()),
            Self::Tag(tag) => Subject::Tag(tag.clone()),
        }
    }

    fn resource(&self) -> Resource {
        match self {
            Self::Device(device) => Resource::new("device", device.device_id.as_str()),
            Self::Tag(tag) => Resource::new("tag", tag),
        }
    }
}

/// The lock of a device or a tag that is not over.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::NotFound`], [`Error::Store`].
pub async fn get(app: &AppState, caller: &Caller, named: &Named) -> Result<LockView, Error> {
    authorise(caller, Action::ReadShowLock)?;
    let found = find(app, caller, named).await?;
    let lock = present(app, caller, &found).await?;
    view(app, &found, lock).await
}

/// Sets a lock, in place of the one that there may be.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::NotFound`], [`Error::Conflict`], [`Error::Store`].
pub async fn set(
    app: &AppState,
    caller: &Caller,
    named: &Named,
    request: &LockRequest,
    context: &AuditContext,
) -> Result<LockView, Error> {
    authorise(caller, Action::SetShowLock)?;
    let found = find(app, caller, named).await?;
    let now_ms = app.clock.now_ms();
    let org = &caller.org().id;
    if let Found::Tag(_) = found
        && show_locks::count_by_tag(&app.store, org, now_ms).await? >= TAGS_MAX
        && show_locks::of(&app.store, org, &found.subject()).await?.is_none()
    {
        return Err(Error::Conflict(format!("{TAGS_MAX} tags are locked already; take a lock back first")));
    }
    let lock = ShowLock {
        id: uuid::Uuid::now_v7().to_string(),
        org_id: org.clone(),
        subject: found.subject(),
        from: request.from,
        until: request.until,
        reason: request.reason.clone(),
        by: context.actor.to_string(),
        created_at: now_ms,
    };
    let details = json!({
        "from": protocol::message::rfc3339(lock.from),
        "until": protocol::message::rfc3339(lock.until),
        "reason": lock.reason,
    });
    let noted = note(caller, context, "show_lock.set", &found, details, now_ms);
    commit(app, caller, &found, now_ms, Some(&lock), || {
        let mut statements = show_locks::put(&lock);
        statements.push(noted.clone());
        statements
    })
    .await?;
    view(app, &found, lock).await
}

/// Takes a lock back.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::NotFound`], [`Error::Conflict`], [`Error::Store`].
pub async fn clear(
    app: &AppState,
    caller: &Caller,
    named: &Named,
    context: &AuditContext,
) -> Result<(), Error> {
    authorise(caller, Action::ClearShowLock)?;
    let found = find(app, caller, named).await?;
    let lock = present(app, caller, &found).await?;
    let now_ms = app.clock.now_ms();
    let details = json!({"until": protocol::message::rfc3339(lock.until), "reason": lock.reason});
    let noted = note(caller, context, "show_lock.clear", &found, details, now_ms);
    commit(app, caller, &found, now_ms, None, || vec![show_locks::remove(&lock), noted.clone()]).await
}

/// Commits a change of a lock. That of a device goes with what is desired of it; after that of a tag its devices are
/// brought up to it before anybody is answered. `lock`: the one that stands afterwards.
async fn commit(
    app: &AppState,
    caller: &Caller,
    found: &Found,
    now_ms: i64,
    lock: Option<&ShowLock>,
    statements: impl Fn() -> Vec<Statement>,
) -> Result<(), Error> {
    match found {
        Found::Tag(tag) => {
            app.store.apply(statements()).await?;
            desired::refresh_tag(app, &caller.org().id, tag).await;
            mark_tagged(app, caller, tag).await?;
        }
        Found::Device(device) => {
            let mut attempt = 1;
            loop {
                let mut basis = Basis::load(&app.store, device, now_ms).await?;
                let own = Subject::Device(device.id.clone());
                basis.locks.retain(|other| other.subject != own);
                basis.locks.extend(lock.cloned());
                let current = find(app, caller, &Named::Device(device.id.as_str().to_owned())).await?;
                let Found::Device(current) = current else { return Err(unknown(device.id.as_str())) };
                let mut all = statements();
                all.extend(basis.follow(&current.description, now_ms));
                match app.store.apply(all).await.map_err(Error::from) {
                    Ok(_) => break,
                    Err(Error::Conflict(_)) if attempt < ATTEMPTS => attempt += 1,
                    Err(error) => return Err(error),
                }
            }
            desired::tell(app, &device.id);
            app.views.mark(device.id.as_str());
        }
    }
    Ok(())
}

/// The views of a tag's devices show the lock.
async fn mark_tagged(app: &AppState, caller: &Caller, tag: &str) -> Result<(), Error> {
    let mut after = String::new();
    loop {
        let chunk =
            stored::standings(&app.store, Which::Tagged(&caller.org().id, tag), &after, CHUNK).await?;
        let Some(last) = chunk.last() else { return Ok(()) };
        after = last.device.id.as_str().to_owned();
        chunk.iter().for_each(|standing| app.views.mark(standing.device.id.as_str()));
    }
}

async fn find(app: &AppState, caller: &Caller, named: &Named) -> Result<Found, Error> {
    match named {
        Named::Device(id) => {
            let device = devices::find(&app.store, &caller.org().id, id).await?;
            device
                .filter(|device| device.decommissioned_at.is_none())
                .map(|device| Found::Device(Box::new(device)))
                .ok_or_else(|| unknown(id))
        }
        Named::Tag(tag) => {
            check_tag(tag).map_err(Error::NotFound)?;
            Ok(Found::Tag(tag.clone()))
        }
    }
}

async fn present(app: &AppState, caller: &Caller, found: &Found) -> Result<ShowLock, Error> {
    let lock = show_locks::of(&app.store, &caller.org().id, &found.subject()).await?;
    lock.filter(|lock| lock.until > app.clock.now_ms())
        .ok_or_else(|| Error::NotFound("there is no show lock here".to_owned()))
}

async fn view(app: &AppState, found: &Found, lock: ShowLock) -> Result<LockView, Error> {
    let (devices, knowing) = match found {
        Found::Device(device) => {
            let desired = stored::get(&app.store, &device.org_id, &device.id).await?;
            let state = device_state::get(&app.store, device.id.as_str()).await?;
            let knows = state.speaks_http_only() || desired.lock_is_known(&lock, state.reported_version);
            (1, usize::from(knows))
        }
        Found::Tag(tag) => count_knowing(app, &lock, tag).await?,
    };
    Ok(LockView {
        from: lock.from,
        until: lock.until,
        reason: lock.reason,
        by: lock.by,
        // A lock that holds nothing protects nothing.
        in_effect: devices > 0 && devices == knowing,
        device: match found {
            Found::Device(device) => Some(device.device_id.to_string()),
            Found::Tag(_) => None,
        },
        tag: match found {
            Found::Device(_) => None,
            Found::Tag(tag) => Some(tag.clone()),
        },
        devices,
        devices_in_effect: knowing,
    })
}

async fn count_knowing(app: &AppState, lock: &ShowLock, tag: &str) -> Result<(usize, usize), Error> {
    let (mut after, mut devices, mut knowing) = (String::new(), 0, 0);
    loop {
        let chunk = stored::standings(&app.store, Which::Tagged(&lock.org_id, tag), &after, CHUNK).await?;
        let Some(last) = chunk.last() else { return Ok((devices, knowing)) };
        after = last.device.id.as_str().to_owned();
        devices += chunk.len();
        knowing += chunk
            .iter()
            .filter(|standing| {
                standing.http_only || standing.desired.lock_is_known(lock, standing.reported_version)
            })
            .count();
    }
}

fn note(
    caller: &Caller,
    context: &AuditContext,
    action: &str,
    found: &Found,
    details: serde_json::Value,
    now_ms: i64,
) -> Statement {
    audit::insert(&AuditEntry {
        org_id: Some(&caller.org().id),
        at: now_ms,
        context,
        action,
        resource: found.resource(),
        outcome: AuditOutcome::Ok,
        details,
    })
}

fn authorise(caller: &Caller, action: Action) -> Result<(), Error> {
    policy::check(caller, action, None).map_err(Error::Forbidden)
}
