//! What people publish on `operator/{user}/command`, and the answer to each on `operator/{user}/result`.
//!
//! The gate has seen to it that a person publishes only on a topic of their own; who that is now, and what the account
//! may do, is read from the database for every request. Requests wait in a bounded queue of their own, in which people
//! take turns: a flood holds up neither devices nor other people.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use broker::{Message, ServicePublisher, ServiceSubscriber};
use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use protocol::{
    codec::{self, limit},
    failpoint::reached,
    id::{OrgSlug, UserName},
    message::{OperatorResult, rfc3339},
    topic::Topic,
};
use serde_json::{Map, Value};
use tokio::sync::{mpsc, watch};

use super::results::tell;
use crate::{
    app::AppState,
    auth::caller::{Caller, Person},
    domain::{
        audit::{AuditContext, Resource},
        command::Command,
        command_request::{self, CreateRequest, Target},
        fields::{FieldError, Fields},
        turns::{Limits, Turns},
    },
    failpoint,
    service::{
        Error,
        commands::{self, Via},
    },
    store::users,
};

/// Requests of different people that are seen to at the same time.
const AT_ONCE: usize = 8;
/// What may wait: past it a request is rejected at once.
const WAITING: Limits = Limits { each: 20_000, each_bytes: 8 << 20, all_bytes: 64 << 20 };
/// Longest reason that is told, in bytes.
const REASON_MAX_LEN: usize = 2_000;

/// Whose topic it came on.
type Sender = (OrgSlug, UserName);

enum Request {
    Payload(Bytes),
    /// A retained publish, which the gate has refused.
    Retained,
}

/// Takes requests until the router is gone or `stop` turns true. `refused`: whose retained requests the gate has refused.
pub async fn run(
    app: Arc<AppState>,
    mut subscriber: ServiceSubscriber,
    publisher: ServicePublisher,
    mut refused: mpsc::Receiver<Sender>,
    mut stop: watch::Receiver<bool>,
) {
    let mut turns: Turns<Sender, Request> = Turns::new(WAITING);
    let mut running = FuturesUnordered::new();
    loop {
        let (sender, request) = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            Some(done) = running.next() => {
                turns.done(done);
                while running.len() < AT_ONCE && let Some((sender, request)) = turns.take() {
                    running.push(see_to(&app, &publisher, sender, request));
                }
                continue;
            }
            message = subscriber.recv() => {
                let Some(message) = message else { return };
                let Some(received) = received(message) else { continue };
                received
            }
            Some(sender) = refused.recv() => (sender, Request::Retained),
        };
        let bytes = match &request {
            Request::Payload(payload) => payload.len() + 64,
            Request::Retained => 64,
        };
        if turns.push(sender.clone(), request, bytes).is_err() {
            app.metrics.add_labelled("fleet_operator_requests_total", "outcome", "no_room", 1);
            let why = "too many of your requests wait for their turn; send fewer at a time";
            tell(&publisher, &sender.0, &sender.1, &rejected(&app, None, why)).await;
        }
        while running.len() < AT_ONCE
            && let Some((sender, request)) = turns.take()
        {
            running.push(see_to(&app, &publisher, sender, request));
        }
    }
}

fn received(message: Message) -> Option<(Sender, Request)> {
    match message.topic.parse::<Topic>() {
        Ok(Topic::OperatorCommand { org, user }) => {
            // One byte more than allowed is enough to see that it is too large.
            let most = message.payload.len().min(limit::COMMAND_BYTES + 1);
            Some(((org, user), Request::Payload(Bytes::copy_from_slice(&message.payload[..most]))))
        }
        _ => None,
    }
}

/// Sees to one request, and gives back whose it was.
async fn see_to(app: &AppState, publisher: &ServicePublisher, sender: Sender, request: Request) -> Sender {
    let answers = answer(app, &sender, &request).await;
    reached(failpoint::OPERATOR_BEFORE_ANSWER);
    let is_rejected = answers.iter().any(|answer| answer.status == "rejected");
    let outcome = if is_rejected { "rejected" } else { "accepted" };
    app.metrics.add_labelled("fleet_operator_requests_total", "outcome", outcome, 1);
    for answer in &answers {
        tell(publisher, &sender.0, &sender.1, answer).await;
    }
    sender
}

async fn answer(app: &AppState, (org, name): &Sender, request: &Request) -> Vec<OperatorResult> {
    let stored = match users::by_username(&app.store, org, name).await {
        Ok(Some(stored)) => stored,
        // It was there when it connected; nobody is left to be told.
        Ok(None) => return Vec::new(),
        Err(error) => return vec![failed(app, None, Error::Store(error))],
    };
    let is_active = stored.user.is_active;
    let caller = Caller::Person(Person { user: stored.user, key: None });
    let context =
        AuditContext { actor: caller.actor(), ip_address: None, user_agent: Some("MQTT".to_owned()) };
    let read = match request {
        _ if !is_active => Err("this account is disabled".to_owned()),
        Request::Retained => {
            Err("requests cannot be retained; publish it without the retain flag (-r)".to_owned())
        }
        Request::Payload(payload) => match codec::decode_any::<Value>(payload, limit::COMMAND_BYTES) {
            Ok(Value::Object(body)) => Ok((body, payload)),
            Ok(_) => Err("an object is expected: {\"to\": …, \"type\": …}".to_owned()),
            Err(error) => Err(unreadable(&error)),
        },
    };
    let (body, payload) = match read {
        Ok(read) => read,
        Err(why) => {
            // Nobody can tell what it was to be about.
            let resource = Resource::new("command", "");
            commands::note_refusal(app, &caller, "command.create", resource, &context, &why).await;
            return vec![rejected(app, None, &why)];
        }
    };
    let reference = body.get("ref").and_then(Value::as_str).map(|text| cut(text, 200));
    // So that a refusal tells which command it is about.
    let about = ["cancel", "override"].iter().find_map(|field| body.get(*field)?.as_str()?.parse().ok());
    let given = |field: &str| body.get(field).is_some_and(|value| !value.is_null());
    let outcome = if given("cancel") || given("override") {
        change(app, &caller, body, payload, &context).await
    } else {
        create(app, &caller, body, payload, &context).await
    };
    match outcome {
        Ok(answers) => answers,
        Err(error) => vec![OperatorResult { id: about, ..failed(app, reference, error) }],
    }
}

/// What a person can do about a payload that cannot be read.
fn unreadable(error: &codec::CodecError) -> String {
    let hint = match error {
        codec::CodecError::Cbor(_) => "; JSON begins with {",
        _ => "",
    };
    format!("{error}{hint}")
}

async fn create(
    app: &AppState,
    caller: &Caller,
    body: Map<String, Value>,
    payload: &[u8],
    context: &AuditContext,
) -> Result<Vec<OperatorResult>, Error> {
    let to = body.get("to").and_then(Value::as_str).and_then(|to| Target::parse(to).ok());
    let request = match CreateRequest::read(Value::Object(body), None) {
        Ok(request) => request,
        Err(wrong) => {
            let resource = match to {
                Some(Target::Device(id)) => Resource::new("device", &id),
                Some(several) => Resource::new("command", &several.to_string()),
                None => Resource::new("command", ""),
            };
            let error = Error::Invalid(wrong);
            commands::note_refusal(app, caller, "command.create", resource, context, &error.reason()).await;
            return Err(error);
        }
    };
    let reference = request.reference.clone();
    let began = app.clock.now_ms();
    let answers = commands::create(app, caller, request, Via::Mqtt(payload), context).await?;
    let results = answers.into_iter().filter_map(|answer| match answer.result {
        // The results worker tells of a new command: it does so at least once, whatever happens here.
        Ok(command) if command.order.created_at >= began => None,
        Ok(command) => Some(accepted(app, &command)),
        Err(error) => {
            Some(OperatorResult { device: Some(answer.device), ..failed(app, reference.clone(), error) })
        }
    });
    Ok(results.collect())
}

/// `{"cancel": id}` or `{"override": id, "reason": …}`.
async fn change(
    app: &AppState,
    caller: &Caller,
    body: Map<String, Value>,
    payload: &[u8],
    context: &AuditContext,
) -> Result<Vec<OperatorResult>, Error> {
    let request = match Change::read(body) {
        Ok(request) => request,
        Err((action, about, wrong)) => {
            let resource = Resource::new("command", about.as_deref().unwrap_or_default());
            let error = Error::Invalid(wrong);
            commands::note_refusal(app, caller, action, resource, context, &error.reason()).await;
            return Err(error);
        }
    };
    let via = Via::Mqtt(payload);
    let command = match request {
        Change::Cancel(id) => commands::cancel(app, caller, &id, via, context).await?,
        Change::Override(id, reason) => {
            commands::override_show(app, caller, &id, &reason, via, context).await?
        }
    };
    Ok(vec![accepted(app, &command)])
}

/// What is to become of a command that is there.
enum Change {
    Cancel(String),
    /// With the reason.
    Override(String, String),
}

/// What the audit log calls the change, the command that it is about if that can be told, and what is wrong.
type Unreadable = (&'static str, Option<String>, Vec<FieldError>);

impl Change {
    fn read(body: Map<String, Value>) -> Result<Self, Unreadable> {
        let action = if body.get("cancel").is_some_and(|id| !id.is_null()) {
            "command.cancel"
        } else {
            "command.override"
        };
        let mut fields = Fields::new(Value::Object(body)).map_err(|wrong| (action, None, wrong))?;
        let id = |value: Value| match value {
            Value::String(id) => {
                id.parse::<protocol::id::CommandId>().map(|_| id).map_err(|error| error.to_string())
            }
            _ => Err("the id of a command is expected".to_owned()),
        };
        let (cancel, overridden) = (fields.optional("cancel", id), fields.optional("override", id));
        let reason =
            overridden.is_some().then(|| fields.required("reason", command_request::reason)).flatten();
        if cancel.is_some() && overridden.is_some() {
            fields.error("override", "give either cancel or override");
        }
        let about = cancel.as_ref().or(overridden.as_ref()).cloned();
        fields.finish().map_err(|wrong| (action, about, wrong))?;
        match (cancel, overridden, reason) {
            (Some(id), ..) => Ok(Self::Cancel(id)),
            (None, Some(id), Some(reason)) => Ok(Self::Override(id, reason)),
            // `finish` has failed in every other case.
            _ => Err((action, None, Vec::new())),
        }
    }
}

fn accepted(app: &AppState, command: &Command) -> OperatorResult {
    OperatorResult {
        reference: command.order.reference.clone(),
        id: Some(command.order.id.clone()),
        device: Some(command.order.device.to_string()),
        reason: None,
        revision: u64::try_from(command.revision).ok(),
        ..result(app, "accepted")
    }
}

fn rejected(app: &AppState, reference: Option<String>, why: &str) -> OperatorResult {
    OperatorResult { reference, reason: Some(cut(why, REASON_MAX_LEN)), ..result(app, "rejected") }
}

fn failed(app: &AppState, reference: Option<String>, error: Error) -> OperatorResult {
    if !error.is_refusal() {
        tracing::error!(error = &error as &dyn std::error::Error, "cannot do what an operator asked for");
    }
    rejected(app, reference, &error.reason())
}

fn result(app: &AppState, status: &str) -> OperatorResult {
    OperatorResult {
        reference: None,
        id: None,
        device: None,
        status: status.to_owned(),
        reason: None,
        revision: None,
        result: None,
        error: None,
        at: rfc3339(app.clock.now_ms()),
    }
}

fn cut(text: &str, most: usize) -> String {
    text.get(..text.floor_char_boundary(most)).unwrap_or_default().to_owned()
}
