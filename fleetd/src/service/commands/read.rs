//! Looking at commands.

use protocol::command::CommandState;
use serde::Serialize;

use super::change::unknown;
use super::person;
use crate::app::AppState;
use crate::auth::caller::Caller;
use crate::auth::policy::Action;
use crate::domain::command::{Command, CommandView, Step};
use crate::domain::device::DeviceRowId;
use crate::domain::time;
use crate::service::{Error, devices};
use crate::store::commands::{self, Selection};

/// A command with everything that has become of it.
#[derive(Debug)]
pub struct WithHistory {
    command: Command,
    steps: Vec<(i64, Step)>,
}

/// A step as the API shows it.
#[derive(Serialize)]
struct StepView<'a> {
    revision: i64,
    status: CommandState,
    #[serde(with = "time")]
    at: i64,
    #[serde(with = "time::optional", skip_serializing_if = "Option::is_none")]
    device_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
}

impl Serialize for WithHistory {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Shape<'a> {
            #[serde(flatten)]
            command: CommandView<'a>,
            history: Vec<StepView<'a>>,
        }
        let history = self.steps.iter().map(|(revision, step)| StepView {
            revision: *revision,
            status: step.status,
            at: step.at,
            device_at: step.device_at,
            detail: step.detail.as_deref(),
        });
        Shape { command: self.command.view(), history: history.collect() }.serialize(serializer)
    }
}

/// One page of the organisation's commands, and how many there are.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::Store`].
pub async fn list(
    app: &AppState,
    caller: &Caller,
    selection: &Selection,
) -> Result<(Vec<Command>, i64), Error> {
    person(caller, &[Action::ReadCommands])?;
    Ok(commands::list(&app.store, &caller.org().id, selection).await?)
}

/// The row of a device whose commands are asked for; also of a decommissioned one, as its history is kept.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::NotFound`], [`Error::Store`].
pub async fn device(app: &AppState, caller: &Caller, id: &str) -> Result<DeviceRowId, Error> {
    person(caller, &[Action::ReadCommands])?;
    let device = crate::store::devices::find(&app.store, &caller.org().id, id).await?;
    device.map(|device| device.id).ok_or_else(|| devices::unknown(id))
}

/// One command with its history.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::NotFound`], [`Error::Store`].
pub async fn get(app: &AppState, caller: &Caller, id: &str) -> Result<WithHistory, Error> {
    person(caller, &[Action::ReadCommands])?;
    let org = &caller.org().id;
    let command = commands::one(&app.store, org, id).await?.ok_or_else(unknown)?;
    let steps = commands::steps(&app.store, org, id).await?;
    Ok(WithHistory { command, steps })
}
