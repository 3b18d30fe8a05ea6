//! What people do with a command that is there: cancel it, or let it run although a show may be on.

use protocol::command::CommandState;
use protocol::failpoint::reached;
use protocol::id::Role;
use serde_json::{Value, json};

use super::{Via, changed, note_refusal, person};
use crate::app::AppState;
use crate::auth::caller::Caller;
use crate::auth::policy::Action;
use crate::domain::audit::{AuditContext, AuditEntry, AuditOutcome, Resource};
use crate::domain::command::{Command, Overridden, Step, UNKNOWN_OVERRIDE_MS};
use crate::failpoint;
use crate::service::Error;
use crate::store::{audit, commands};

/// How often a change is tried again when the command moves at the same moment.
const ATTEMPTS: usize = 5;

/// Calls a command back. One that was never sent is cancelled at once; otherwise the device decides, and the command says
/// that it was asked to. Asking again changes nothing.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::NotFound`], [`Error::Conflict`] when it has ended, [`Error::Store`].
pub async fn cancel(
    app: &AppState,
    caller: &Caller,
    id: &str,
    via: Via<'_>,
    context: &AuditContext,
) -> Result<Command, Error> {
    let outcome = match person(caller, &[Action::CancelCommand]) {
        Ok(_) => commit(app, caller, id, "command.cancel", context, cancelled).await,
        Err(error) => Err(error),
    };
    noted(app, caller, id, "command.cancel", via, context, outcome).await
}

/// Lets a command run although a show may be on. Asking again changes nothing.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::NotFound`], [`Error::Conflict`] when it has ended, [`Error::Store`].
pub async fn override_show(
    app: &AppState,
    caller: &Caller,
    id: &str,
    reason: &str,
    via: Via<'_>,
    context: &AuditContext,
) -> Result<Command, Error> {
    let outcome = overridden(app, caller, id, reason, context).await;
    noted(app, caller, id, "command.override", via, context, outcome).await
}

async fn overridden(
    app: &AppState,
    caller: &Caller,
    id: &str,
    reason: &str,
    context: &AuditContext,
) -> Result<Command, Error> {
    let person = person(caller, &[Action::OverrideUnknown])?;
    let by = context.actor.to_string();
    let only_unknown = person.user.role < Role::Admin;
    commit(app, caller, id, "command.override", context, |mut command, steps, now_ms| {
        let waited = command.unknown_since(steps).map(|since| now_ms - since);
        if only_unknown && waited.is_none_or(|waited| waited < UNKNOWN_OVERRIDE_MS) {
            return Err(Error::Forbidden(
                "this needs the role admin; an operator may override a command that its device has held for 10 minutes \
                 because it cannot tell whether a show is on (app_status_unknown)"
                    .to_owned(),
            ));
        }
        if command.overridden.is_some() {
            return Ok(Decided::AsItIs(command));
        }
        command.overridden = Some(Overridden { reason: reason.to_owned(), by: by.clone(), at: now_ms });
        command.override_sent_at = None;
        let step = step(&command, now_ms, format!("override: {reason}"));
        Ok(Decided::Changed(command, step, json!({"reason": reason})))
    })
    .await
}

fn cancelled(mut command: Command, _: &[Step], now_ms: i64) -> Result<Decided, Error> {
    // A server that was restored from a copy may have forgotten that it sent the command.
    let never_sent = !command.query_first;
    if let Some(standing) = command.standing.by_server(CommandState::Cancelled).filter(|_| never_sent) {
        command.cancel_requested_at = Some(now_ms);
        command.stand(standing, now_ms);
        command.held_reason = None;
        let step = step(&command, now_ms, "cancelled before it was sent".to_owned());
        return Ok(Decided::Changed(command, step, json!({"at_once": true})));
    }
    if command.cancel_requested_at.is_some() {
        return Ok(Decided::AsItIs(command));
    }
    command.cancel_requested_at = Some(now_ms);
    let step = step(&command, now_ms, "cancel requested".to_owned());
    Ok(Decided::Changed(command, step, json!({"at_once": false})))
}

fn step(command: &Command, now_ms: i64, detail: String) -> Step {
    Step { status: command.state(), at: now_ms, device_at: None, report_seq: None, detail: Some(detail) }
}

enum Decided {
    /// What was asked for is so already.
    AsItIs(Command),
    /// The command as it is to be, the line of its history, and what the audit log says.
    Changed(Command, Step, Value),
}

/// Loads an open command, decides, and commits together with a row of the audit log; again if it moved meanwhile.
async fn commit(
    app: &AppState,
    caller: &Caller,
    id: &str,
    action: &'static str,
    context: &AuditContext,
    decide: impl Fn(Command, &[Step], i64) -> Result<Decided, Error>,
) -> Result<Command, Error> {
    let org = &caller.org().id;
    let mut attempt = 1;
    loop {
        let now_ms = app.clock.now_ms();
        let command = commands::one(&app.store, org, id).await?.ok_or_else(unknown)?;
        if command.state().is_terminal() {
            return Err(Error::Conflict(format!("the command has ended: it is {}", command.state())));
        }
        let steps: Vec<Step> =
            commands::steps(&app.store, org, id).await?.into_iter().map(|(_, step)| step).collect();
        let (mut command, step, details) = match decide(command, &steps, now_ms)? {
            Decided::AsItIs(command) => return Ok(command),
            Decided::Changed(command, step, details) => (command, step, details),
        };
        let mut statements = commands::update(&mut command, Some(&step));
        statements.push(audit::insert(&AuditEntry {
            org_id: Some(org),
            at: now_ms,
            context,
            action,
            resource: Resource::new("command", id),
            outcome: AuditOutcome::Ok,
            details,
        }));
        reached(failpoint::CHANGE_BEFORE_COMMIT);
        match app.store.apply(statements).await.map_err(Error::from) {
            Ok(_) => {
                reached(failpoint::CHANGE_AFTER_COMMIT);
                changed(app, &command);
                return Ok(command);
            }
            Err(Error::Conflict(_)) if attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}

/// Passes an outcome on; what was refused over MQTT is noted.
async fn noted(
    app: &AppState,
    caller: &Caller,
    id: &str,
    action: &'static str,
    via: Via<'_>,
    context: &AuditContext,
    outcome: Result<Command, Error>,
) -> Result<Command, Error> {
    if let (Err(error), Via::Mqtt(_)) = (&outcome, via)
        && error.is_refusal()
    {
        note_refusal(app, caller, action, Resource::new("command", id), context, &error.reason()).await;
    }
    outcome
}

/// What came in the path may be anything: it is not told back.
pub(super) fn unknown() -> Error {
    Error::NotFound("there is no command of this id in your organisation".to_owned())
}
