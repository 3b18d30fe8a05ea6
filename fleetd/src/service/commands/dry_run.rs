//! What a request would do if it were made now. Changes nothing.

use std::collections::HashMap;

use protocol::command::CommandType;
use serde::Serialize;

use super::Via;
use super::create::{Making, TARGETS_MAX, needed, rotating};
use super::person;
use crate::app::AppState;
use crate::auth::caller::Caller;
use crate::auth::policy::{self, Action};
use crate::domain::audit::AuditContext;
use crate::domain::command_outlook::Situation;
use crate::domain::command_request::CreateRequest;
use crate::domain::device::DeviceRowId;
use crate::service::Error;
use crate::store::commands;
use crate::store::targets::{self, Addressed};

/// What the request would do to one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outlook {
    /// The device's readable id.
    pub device_id: String,
    /// Whether the command would run at once.
    pub would_run: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Tells for each device that the request names whether the command would run at once. Somebody who may create commands,
/// but not this one, is told so.
///
/// # Errors
/// As [`create`](super::create()).
pub async fn dry_run(
    app: &AppState,
    caller: &Caller,
    request: &CreateRequest,
    context: &AuditContext,
) -> Result<Vec<Outlook>, Error> {
    let person = person(caller, &[Action::CreateCommand])?;
    let refused = needed(request).into_iter().find_map(|action| policy::check(caller, action, None).err());
    let making = Making::begin(app, person, request, Via::Http, context).await?;
    making.expires_at.clone().map_err(|wrong| Error::Invalid(vec![wrong]))?;
    let org = &person.user.org.id;
    let now_ms = app.clock.now_ms();
    let found = targets::situations(&app.store, org, &request.to, TARGETS_MAX, now_ms).await?;
    let situations: HashMap<DeviceRowId, Situation> =
        found.into_iter().map(|(device, situation)| (device.id, situation)).collect();
    let changing = match request.kind {
        CommandType::RotateToken => commands::rotating(&app.store, org).await?,
        _ => std::collections::HashSet::new(),
    };
    let reason = |device: &Addressed| {
        if let Some(why) = &refused {
            return Some(format!("role: {why}"));
        }
        if let Some(known) = making.known.get(&device.id) {
            return Some(match making.same(known) {
                Ok(known) => format!("known: this request is command {} already", known.order.id),
                Err(other) => format!("ref: {}", other.reason()),
            });
        }
        if changing.contains(&device.id) {
            return Some(format!("busy: {}", rotating(device).reason()));
        }
        if let Err(full) = making.room(device) {
            return Some(format!("full: {}", full.reason()));
        }
        // Gone between the two looks.
        let Some(situation) = situations.get(&device.id) else {
            return Some("gone: it was taken out".to_owned());
        };
        situation.obstacle(request)
    };
    let outlook = |device: &Addressed| {
        let reason = reason(device);
        Outlook { device_id: device.device.to_string(), would_run: reason.is_none(), reason }
    };
    Ok(making.devices.iter().map(outlook).collect())
}
