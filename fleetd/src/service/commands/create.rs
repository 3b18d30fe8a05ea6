//! Creating commands: one for each device that the request names.
//!
//! Every device has a transaction of its own, so that one that refuses holds up no other; the store commits many of them
//! with one fsync. After a crash in the middle what was accepted is there, and the same request again (with a `ref`, or
//! over MQTT within a minute) finds it and creates the rest.

use std::collections::HashMap;

use futures_util::{FutureExt as _, StreamExt as _, stream};
use protocol::command::CommandType;
use protocol::failpoint::reached;
use protocol::id::StateId;
use protocol::message::DeviceAction;
use serde_json::json;
use uuid::Uuid;

use super::{Via, changed, note_refusal, person};
use crate::app::{AppState, Worker};
use crate::auth::caller::{Caller, Person};
use crate::auth::policy::Action;
use crate::domain::audit::{AuditContext, AuditEntry, AuditOutcome, Resource};
use crate::domain::command::{Command, Order, Overridden};
use crate::domain::command_request::{CreateRequest, Target, sha256_hex};
use crate::domain::device::DeviceRowId;
use crate::domain::dispatch::{self as decide, Plan};
use crate::domain::fields::FieldError;
use crate::failpoint;
use crate::service::{Error, devices};
use crate::store::targets::{self, Addressed};
use crate::store::{StoreError, audit, commands, dispatch};

/// Most commands of one device that have not ended.
pub const OPEN_PER_DEVICE_MAX: i64 = 1_000;
/// Most commands of one organisation that have not ended.
pub const OPEN_PER_ORG_MAX: i64 = 100_000;
/// Most devices that one request may name.
pub const TARGETS_MAX: usize = 10_000;
/// The same bytes from one person by MQTT are one request for so long, in ms.
pub(super) const SAME_BYTES_MS: i64 = 60_000;
/// Devices whose transactions wait for one commit together.
const AT_ONCE: usize = 128;
/// How often a transaction is tried again when the same request comes at the same moment.
const ATTEMPTS: usize = 3;
/// Device ids that one row of the audit log names.
const NAMED_MAX: usize = 100;

/// What became of the request for one device.
#[derive(Debug)]
pub struct Answer {
    /// The device's readable id.
    pub device: String,
    /// The command, which may be one that the same request has made before, or why there is none.
    pub result: Result<Command, Error>,
}

/// Creates a command for each device that the request names, and answers for each.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::NotFound`] (no device is meant), [`Error::Invalid`], [`Error::Store`]; nothing was
/// created then.
pub async fn create(
    app: &AppState,
    caller: &Caller,
    request: CreateRequest,
    via: Via<'_>,
    context: &AuditContext,
) -> Result<Vec<Answer>, Error> {
    let outcome = create_all(app, caller, &request, via, context).await;
    let by_mqtt = matches!(via, Via::Mqtt(_));
    // What HTTP refuses as a whole, the route table notes.
    let alone = matches!(request.to, Target::Device(_));
    let refused = match &outcome {
        Err(error) => (by_mqtt && error.is_refusal()).then(|| error.reason()),
        Ok(_) if alone && !by_mqtt => None,
        Ok(answers) => refusals(answers),
    };
    if let Some(reason) = refused {
        let resource = Resource::new(if alone { "device" } else { "command" }, &request.to.to_string());
        note_refusal(app, caller, "command.create", resource, context, &reason).await;
    }
    outcome
}

/// What was refused, for one row of the audit log.
fn refusals(answers: &[Answer]) -> Option<String> {
    let refused: Vec<_> = answers
        .iter()
        .filter_map(|answer| Some((answer.device.as_str(), answer.result.as_ref().err()?)))
        .filter(|(_, error)| error.is_refusal())
        .collect();
    let (_, first) = refused.first()?;
    let named: Vec<_> = refused.iter().take(NAMED_MAX).map(|(device, _)| *device).collect();
    Some(format!("{} of {}: {}; {}", refused.len(), answers.len(), first.reason(), named.join(" ")))
}

/// What a person needs to be allowed for this request.
pub(super) fn needed(request: &CreateRequest) -> Vec<Action> {
    let mut actions = vec![Action::CreateCommand];
    if request.kind == CommandType::Update {
        actions.push(Action::CreateUpdate);
    }
    if request.override_reason.is_some() {
        actions.push(Action::OverrideShow);
    }
    actions
}

async fn create_all(
    app: &AppState,
    caller: &Caller,
    request: &CreateRequest,
    via: Via<'_>,
    context: &AuditContext,
) -> Result<Vec<Answer>, Error> {
    let person = person(caller, &needed(request))?;
    let making = Making::begin(app, person, request, via, context).await?;
    if let Err(wrong) = &making.expires_at
        && making.known.is_empty()
    {
        return Err(Error::Invalid(vec![wrong.clone()]));
    }
    let work: Vec<_> = making.devices.iter().map(|device| making.one(device).boxed()).collect();
    let answers: Vec<Answer> = stream::iter(work).buffered(AT_ONCE).collect().await;
    Ok(answers)
}

/// A request on its way, with everything that is looked up once for all of its devices.
pub(super) struct Making<'a> {
    app: &'a AppState,
    person: &'a Person,
    request: &'a CreateRequest,
    context: &'a AuditContext,
    /// In order of their readable ids.
    pub(super) devices: Vec<Addressed>,
    /// What tells this request from another.
    request_hash: String,
    /// Since when the same bytes are the same request; `None`: each request is one of its own, but for its `ref`.
    repeated_since: Option<i64>,
    now_ms: i64,
    pub(super) expires_at: Result<i64, FieldError>,
    /// What this request, or another one of this `ref`, has created before.
    pub(super) known: HashMap<DeviceRowId, Command>,
    open: HashMap<DeviceRowId, i64>,
    open_in_all: i64,
}

impl<'a> Making<'a> {
    pub(super) async fn begin(
        app: &'a AppState,
        person: &'a Person,
        request: &'a CreateRequest,
        via: Via<'_>,
        context: &'a AuditContext,
    ) -> Result<Self, Error> {
        let org = &person.user.org.id;
        let devices = targets::find(&app.store, org, &request.to, TARGETS_MAX + 1).await?;
        if devices.is_empty() {
            return Err(match &request.to {
                Target::Device(id) => devices::unknown(id),
                Target::Tag(tag) => {
                    Error::NotFound(format!("no device of your organisation has the tag {tag}"))
                }
                Target::All => Error::NotFound("your organisation has no device".to_owned()),
            });
        }
        if devices.len() > TARGETS_MAX {
            let message = format!("names more than {TARGETS_MAX} devices; use tags to name fewer at once");
            return Err(Error::field("to", message));
        }
        let now_ms = app.clock.now_ms();
        let (request_hash, repeated_since) = match (&request.reference, via) {
            (None, Via::Mqtt(payload)) => (sha256_hex(payload), Some(now_ms - SAME_BYTES_MS)),
            _ => (request.hash(), None),
        };
        let default_ms = i64::try_from(app.config.command_default_expiry.as_millis()).unwrap_or(i64::MAX);
        let mut making = Self {
            app,
            person,
            request,
            context,
            devices,
            request_hash,
            repeated_since,
            now_ms,
            expires_at: request.expires_at(now_ms, default_ms),
            known: HashMap::new(),
            open: HashMap::new(),
            open_in_all: commands::open_in_all(&app.store, org).await?,
        };
        let alone = match making.devices.as_slice() {
            [device] => Some(&device.id),
            _ => None,
        };
        making.open = match alone {
            Some(device) => {
                HashMap::from([(device.clone(), commands::open_count(&app.store, device).await?)])
            }
            None => commands::open_counts(&app.store, org).await?,
        };
        let known = making.known_of(alone).await?;
        making.known = known.into_iter().map(|command| (command.order.device_id.clone(), command)).collect();
        Ok(making)
    }

    /// What the same request, or another one of the same `ref`, has created before.
    async fn known_of(&self, device: Option<&DeviceRowId>) -> Result<Vec<Command>, StoreError> {
        let (store, user) = (&self.app.store, &self.person.user);
        let (org, name) = (&user.org.id, user.username.as_str());
        match (&self.request.reference, self.repeated_since) {
            (Some(reference), _) => commands::by_reference(store, org, name, reference, device).await,
            (None, Some(since)) => {
                commands::by_request(store, org, name, &self.request_hash, since, device).await
            }
            (None, None) => Ok(Vec::new()),
        }
    }

    /// The command that this request has made before; an error if another request had this `ref`.
    pub(super) fn same(&self, known: &Command) -> Result<Command, Error> {
        if known.order.request_hash == self.request_hash {
            return Ok(known.clone());
        }
        let reference = self.request.reference.as_deref().unwrap_or_default();
        Err(Error::Conflict(format!(
            "the ref {reference:?} names command {}, which asks for something else; choose another ref",
            known.order.id
        )))
    }

    /// How many commands of a device had not ended when the request came.
    fn open_of(&self, device: &Addressed) -> i64 {
        self.open.get(&device.id).copied().unwrap_or(0)
    }

    /// Whether there is room for one more.
    pub(super) fn room(&self, device: &Addressed) -> Result<(), Error> {
        if self.open_of(device) >= OPEN_PER_DEVICE_MAX {
            return Err(full(device));
        }
        let more = i64::try_from(self.devices.len()).unwrap_or(i64::MAX);
        if self.open_in_all.saturating_add(more) > OPEN_PER_ORG_MAX {
            return Err(Error::Conflict(format!(
                "your organisation has {} commands that have not ended, and may have {OPEN_PER_ORG_MAX}; cancel some \
                 or wait",
                self.open_in_all
            )));
        }
        Ok(())
    }

    async fn one(&self, device: &Addressed) -> Answer {
        Answer { device: device.device.to_string(), result: self.command(device).await }
    }

    async fn command(&self, device: &Addressed) -> Result<Command, Error> {
        if let Some(known) = self.known.get(&device.id) {
            return self.same(known);
        }
        let expires_at = self.expires_at.clone().map_err(|wrong| Error::Invalid(vec![wrong]))?;
        self.room(device)?;
        let command = self.new_command(device, expires_at);
        let mut at_once = self.at_once(device, &command).await?;
        let mut attempt = 1;
        loop {
            reached(failpoint::CREATE_BEFORE_COMMIT);
            if at_once.is_some() {
                reached(failpoint::SENT_BEFORE_COMMIT);
            }
            let error = match self.app.store.apply(self.statements(&command, at_once.as_ref())).await {
                Ok(_) => break,
                Err(error) => error,
            };
            // Perhaps another command for the device was: then this one waits its turn.
            at_once = None;
            // Somebody was faster: with the same request, another change of the token, or the last free place.
            if !matches!(error, StoreError::Conflict { .. } | StoreError::Unique { .. }) {
                return Err(error.into());
            }
            if let Some(known) = self.known_of(Some(&device.id)).await?.first() {
                return self.same(known);
            }
            if self.request.kind == CommandType::RotateToken
                && commands::rotating(&self.app.store, &self.person.user.org.id).await?.contains(&device.id)
            {
                return Err(rotating(device));
            }
            if commands::open_count(&self.app.store, &device.id).await? >= OPEN_PER_DEVICE_MAX {
                return Err(full(device));
            }
            if attempt == ATTEMPTS {
                return Err(error.into());
            }
            attempt += 1;
        }
        reached(failpoint::CREATE_AFTER_COMMIT);
        let Some(plan) = at_once else {
            changed(self.app, &command);
            return Ok(command);
        };
        reached(failpoint::SENT_AFTER_COMMIT);
        self.say(device, plan.state_id, plan.messages).await;
        Ok(plan.command)
    }

    /// The command as sent, if it may be created so. What has to be said is said after the commit, as the dispatcher does;
    /// if the server dies in between, the dispatcher says it after the device's next birth.
    async fn at_once(&self, device: &Addressed, command: &Command) -> Result<Option<Plan>, StoreError> {
        let (app, org) = (self.app, &self.person.user.org.slug);
        let connected = app.live.get().is_some_and(|live| live.device_connected(org, &device.device));
        let (store, id) = (&app.store, device.id.as_str());
        if !connected || (self.open_of(device) > 0 && dispatch::unacknowledged(store, id).await? > 0) {
            return Ok(None);
        }
        let Some(target) = dispatch::target(store, id).await? else { return Ok(None) };
        let mut plan = decide::at_once(command, &target.recipient(connected, false), app.clock.now_ms());
        if let Some(plan) = &mut plan {
            plan.command.revision += 1;
        }
        Ok(plan)
    }

    async fn say(&self, device: &Addressed, state_id: Option<StateId>, messages: Vec<DeviceAction>) {
        let (app, id) = (self.app, device.id.as_str());
        let name = (self.person.user.org.slug.clone(), device.device.clone());
        if let (Some(live), Some(state_id)) = (app.live.get(), state_id) {
            for message in messages {
                live.tell(&name, state_id, message).await;
                reached(failpoint::SENT_AFTER_PUBLISH);
            }
            // The device's connection has its turn before the answer to the request.
            tokio::task::yield_now().await;
        }
        app.metrics.add("fleet_commands_sent_total", 1);
        app.views.mark(id);
        app.nudges.nudge(Worker::Results);
    }

    fn new_command(&self, device: &Addressed, expires_at: i64) -> Command {
        let (request, user) = (self.request, &self.person.user);
        let created_by = self.context.actor.to_string();
        // A UUID has the form of a command id.
        #[allow(clippy::expect_used)]
        let id = Uuid::new_v4().to_string().parse().expect("a UUID is a command id");
        let mut command = Command::new(Order {
            id,
            org_id: user.org.id.clone(),
            device_id: device.id.clone(),
            device: device.device.clone(),
            kind: request.kind,
            payload: request.payload.clone(),
            priority: request.priority,
            timeout_seconds: request.timeout_seconds,
            notes: request.notes.clone(),
            created_by: created_by.clone(),
            created_by_name: Some(user.username.to_string()),
            created_at: self.now_ms,
            expires_at,
            reference: request.reference.clone(),
            request_hash: self.request_hash.clone(),
        });
        command.overridden = request.override_reason.as_ref().map(|reason| Overridden {
            reason: reason.clone(),
            by: created_by,
            at: self.now_ms,
        });
        command
    }

    fn statements(&self, command: &Command, at_once: Option<&Plan>) -> Vec<crate::store::Statement> {
        let order = &command.order;
        let mut statements = vec![commands::unless_full(&order.device_id, OPEN_PER_DEVICE_MAX)];
        statements.extend(at_once.map(|_| commands::unless_any_waits(&order.device_id)));
        if let Some(since) = self.repeated_since {
            statements.push(commands::unless_repeated(command, since));
        }
        if order.kind == CommandType::RotateToken {
            statements.push(commands::unless_rotating(&order.device_id));
        }
        statements.extend(match at_once {
            Some(plan) => commands::insert(&plan.command, plan.step.as_ref()),
            None => commands::insert(command, None),
        });
        statements.push(audit::insert(&AuditEntry {
            org_id: Some(&order.org_id),
            at: self.now_ms,
            context: self.context,
            action: "command.create",
            resource: Resource::new("command", order.id.as_str()),
            outcome: AuditOutcome::Ok,
            details: json!({
                "device": order.device,
                "type": order.kind,
                "to": self.request.to.to_string(),
                "ref": order.reference,
                "override_show": self.request.override_reason,
            }),
        }));
        statements
    }
}

fn full(device: &Addressed) -> Error {
    Error::Conflict(format!(
        "{} has {OPEN_PER_DEVICE_MAX} commands that have not ended, which is the most it may have; cancel some or wait",
        device.device
    ))
}

/// Another change of the token is open.
pub(super) fn rotating(device: &Addressed) -> Error {
    Error::Conflict(format!(
        "a change of the token of {} is open; wait for its end or cancel it",
        device.device
    ))
}
