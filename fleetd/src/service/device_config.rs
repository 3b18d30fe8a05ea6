//! The config that a device should have, and the one that it says it has.

use std::collections::BTreeMap;

use protocol::command::CommandType;
use protocol::command::payload::Payload;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::desired::tell;
use super::{Error, devices::unknown};
use crate::app::AppState;
use crate::auth::caller::Caller;
use crate::auth::policy::{self, Action};
use crate::domain::audit::{AuditContext, AuditEntry, AuditOutcome, Resource};
use crate::domain::desired::{CONFIG_MAX_BYTES, Desired, config_bytes};
use crate::domain::device::Device;
use crate::domain::fields::{FieldError, Fields};
use crate::store::desired::{self as stored, ReportedConfig};
use crate::store::{audit, devices};

/// How often a change is tried again when something else changes the same device.
const ATTEMPTS: usize = 3;
/// Longest key.
pub(crate) const KEY_MAX_LEN: usize = 64;

/// A device's config as the API shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs)] // as in docs/api.md
pub struct ConfigView {
    pub desired: BTreeMap<String, String>,
    pub desired_version: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reported: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reported_version: Option<i64>,
    pub in_sync: bool,
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub errors: Map<String, Value>,
}

impl ConfigView {
    fn new(desired: Desired, reported: ReportedConfig) -> Self {
        let errors = reported.errors.unwrap_or_default();
        let answered = reported.version.unwrap_or(0) >= desired.version;
        let has = |(key, value): (&String, &String)| {
            let there = reported.config.as_ref().and_then(|config| config.get(key));
            there.and_then(Value::as_str) == Some(value) && !errors.contains_key(key)
        };
        Self {
            in_sync: answered && desired.config.iter().all(has),
            desired: desired.config,
            desired_version: desired.version,
            reported: reported.config,
            reported_version: reported.version,
            errors,
        }
    }
}

/// Reads the body of a PUT: `{"desired": {KEY: value}}`.
///
/// # Errors
/// Every field that is wrong or unknown.
pub fn read(body: Value) -> Result<BTreeMap<String, String>, Vec<FieldError>> {
    let mut fields = Fields::new(body)?;
    let wanted = fields.required("desired", |value| match value {
        Value::Object(wanted) => Ok(wanted),
        _ => Err("an object of keys and values is expected".to_owned()),
    });
    fields.finish()?;
    // `finish` has failed if it was absent or wrong.
    let Some(wanted) = wanted else { return Err(Vec::new()) };
    let wrong = |field: &str, message: String| vec![FieldError { field: field.to_owned(), message }];
    if wanted.is_empty() {
        return Ok(BTreeMap::new());
    }
    if let Some(key) = wanted.keys().find(|key| !is_key(key)) {
        let shown: String = key.chars().take(KEY_MAX_LEN).collect();
        let message =
            format!("a key has 1 to {KEY_MAX_LEN} letters, digits or '_', and begins with no digit");
        return Err(wrong(&format!("desired.{shown}"), message));
    }
    // The same rules as for a `config` command, which changes the same keys.
    let change = match Payload::parse(CommandType::Config, &json!({"changes": wanted})) {
        Ok(Payload::Config(change)) => change,
        Ok(_) => return Err(Vec::new()),
        Err(error) => {
            return Err(wrong(&error.field.replacen("payload.changes", "desired", 1), error.message));
        }
    };
    if config_bytes(&change.changes) > CONFIG_MAX_BYTES {
        return Err(wrong("desired", format!("has more than {CONFIG_MAX_BYTES} bytes")));
    }
    Ok(change.changes)
}

fn is_key(key: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !key.is_empty()
        && key.len() <= KEY_MAX_LEN
        && key.chars().all(good)
        && !key.starts_with(|c: char| c.is_ascii_digit())
}

/// What a device should have, and what it says.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::NotFound`], [`Error::Store`].
pub async fn get(app: &AppState, caller: &Caller, id: &str) -> Result<ConfigView, Error> {
    policy::check(caller, Action::ReadConfig, Some(id)).map_err(Error::Forbidden)?;
    let device = find(app, caller, id).await?;
    view(app, &device).await
}

/// Replaces the config that a device should have.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::NotFound`], [`Error::Conflict`], [`Error::Store`].
pub async fn set(
    app: &AppState,
    caller: &Caller,
    id: &str,
    config: BTreeMap<String, String>,
    context: &AuditContext,
) -> Result<ConfigView, Error> {
    policy::check(caller, Action::SetConfig, Some(id)).map_err(Error::Forbidden)?;
    let device = find(app, caller, id).await?;
    let mut attempt = 1;
    loop {
        let now_ms = app.clock.now_ms();
        let mut desired = stored::get(&app.store, &device.org_id, &device.id).await?;
        let before = desired.version;
        let changed = desired.set_config(config.clone());
        let mut statements = vec![audit::insert(&AuditEntry {
            org_id: Some(&device.org_id),
            at: now_ms,
            context,
            action: "device.config",
            resource: Resource::new("device", device.device_id.as_str()),
            outcome: AuditOutcome::Ok,
            details: json!({"keys": config.keys().collect::<Vec<_>>(), "version": desired.version}),
        })];
        statements.extend(changed.then(|| stored::put(&desired, before, now_ms)));
        match app.store.apply(statements).await.map_err(Error::from) {
            Ok(_) => break,
            Err(Error::Conflict(_)) if attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
        }
    }
    tell(app, &device.id);
    view(app, &device).await
}

async fn find(app: &AppState, caller: &Caller, id: &str) -> Result<Device, Error> {
    let device = devices::find(&app.store, &caller.org().id, id).await?;
    device.filter(|device| device.decommissioned_at.is_none()).ok_or_else(|| unknown(id))
}

async fn view(app: &AppState, device: &Device) -> Result<ConfigView, Error> {
    let desired = stored::get(&app.store, &device.org_id, &device.id).await?;
    Ok(ConfigView::new(desired, stored::reported(&app.store, &device.id).await?))
}
