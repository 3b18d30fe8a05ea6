//! A command as the server keeps it. Pure.

use protocol::command::payload::{ConfigChange, Payload};
use protocol::command::standing::Standing;
use protocol::command::{CommandState, CommandType};
use protocol::id::{CommandId, DeviceId, StateId};
use serde::Serialize;
use serde_json::Value;

use super::device::DeviceRowId;
use super::org::OrgId;
use super::time;

/// The path that a command was first sent over; it stays on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// The agent's MQTT connection, or its exchange over HTTPS.
    Mqtt,
    /// The poll of a device that speaks only the old HTTP protocol.
    Http,
}

impl Path {
    /// As the database has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::Http => "http",
        }
    }
}

impl std::str::FromStr for Path {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "mqtt" => Ok(Self::Mqtt),
            "http" => Ok(Self::Http),
            _ => Err(()),
        }
    }
}

/// What never changes about a command.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// Its identity.
    pub id: CommandId,
    /// The organisation.
    pub org_id: OrgId,
    /// The device's row.
    pub device_id: DeviceRowId,
    /// The device's readable id.
    pub device: DeviceId,
    /// What to do.
    pub kind: CommandType,
    /// What to do it with; was checked by `protocol::command::payload`.
    pub payload: Value,
    /// 1 is the most urgent of 1…10.
    pub priority: u8,
    /// How long it may run, seconds.
    pub timeout_seconds: u32,
    /// For people.
    pub notes: Option<String>,
    /// Who asked, as in the audit log: `user:…`, `key:…`.
    pub created_by: String,
    /// The user name whose `operator/{user}/result` hears of it.
    pub created_by_name: Option<String>,
    /// When, ms since 1970.
    pub created_at: i64,
    /// From when on it must not start, ms since 1970.
    pub expires_at: i64,
    /// The sender's own name for it.
    pub reference: Option<String>,
    /// SHA-256 of what was asked for, in hex: tells the same body from another.
    pub request_hash: String,
}

/// Why it runs although a show may be on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overridden {
    /// The reason.
    pub reason: String,
    /// Who, as in the audit log.
    pub by: String,
    /// When, ms since 1970.
    pub at: i64,
}

/// A command and where it stands.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // the fields are told in migrations/sqlite/V14__commands.sql
pub struct Command {
    pub order: Order,
    pub standing: Standing,
    pub overridden: Option<Overridden>,
    pub revision: i64,
    pub held_reason: Option<String>,
    pub progress_percent: Option<u8>,
    pub result: Option<Value>,
    pub error: Option<String>,
    pub reason: Option<String>,
    pub acked_at: Option<i64>,
    pub started_at: Option<i64>,
    pub completed_at: Option<i64>,
    pub bound: Option<Path>,
    pub sent_state_id: Option<StateId>,
    pub sent_at: Option<i64>,
    pub last_sent_at: Option<i64>,
    pub heard_at: Option<i64>,
    pub cancel_requested_at: Option<i64>,
    pub cancel_sent_at: Option<i64>,
    pub override_sent_at: Option<i64>,
    pub query_sent_at: Option<i64>,
    pub query_first: bool,
    pub lease_nonce: Option<Vec<u8>>,
    pub lease_asked_at: Option<i64>,
    pub polls_since_sent: i64,
}

/// One line of a command's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The state after it; for a late report, the one that it tells.
    pub status: CommandState,
    /// When the server learned of it, ms since 1970.
    pub at: i64,
    /// When it happened by the device's clock, ms since 1970.
    pub device_at: Option<i64>,
    /// The number of the report that told it.
    pub report_seq: Option<u32>,
    /// The reason, in words.
    pub detail: Option<String>,
}

impl Command {
    /// A new one.
    #[must_use]
    pub fn new(order: Order) -> Self {
        Self {
            order,
            standing: Standing::PENDING,
            overridden: None,
            revision: 1,
            held_reason: None,
            progress_percent: None,
            result: None,
            error: None,
            reason: None,
            acked_at: None,
            started_at: None,
            completed_at: None,
            bound: None,
            sent_state_id: None,
            sent_at: None,
            last_sent_at: None,
            heard_at: None,
            cancel_requested_at: None,
            cancel_sent_at: None,
            override_sent_at: None,
            query_sent_at: None,
            query_first: false,
            lease_nonce: None,
            lease_asked_at: None,
            polls_since_sent: 0,
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> CommandState {
        self.standing.state
    }

    /// What a `config` command changes.
    #[must_use]
    pub fn config_change(&self) -> Option<ConfigChange> {
        match Payload::parse(self.order.kind, &self.order.payload) {
            Ok(Payload::Config(change)) => Some(change),
            _ => None,
        }
    }

    /// Takes a new standing and the times that go with it; `now` is ms since 1970.
    pub fn stand(&mut self, standing: Standing, now: i64) {
        use CommandState as S;
        self.standing = standing;
        match standing.state {
            S::Pending => {}
            S::Sent => {
                self.sent_at.get_or_insert(now);
            }
            S::Acked | S::Held => {
                self.acked_at.get_or_insert(now);
            }
            S::Running => {
                self.acked_at.get_or_insert(now);
                self.started_at = Some(now);
            }
            _ => self.completed_at = Some(now),
        }
        if standing.state != S::Held && standing.state != S::Running && standing.state != S::Pending {
            self.held_reason = None;
        }
        if standing.state.is_terminal() {
            self.lease_nonce = None;
        }
    }

    /// As docs/api.md has it.
    #[must_use]
    pub fn view(&self) -> CommandView<'_> {
        CommandView { command: self }
    }
}

/// Why a command waits because nobody can tell whether a show is on.
pub const APP_STATUS_UNKNOWN: &str = "app_status_unknown";
/// After so long in that, an operator may override it, in ms.
pub const UNKNOWN_OVERRIDE_MS: i64 = 600_000;

/// Whether a reason, which may go on after a colon, is [`APP_STATUS_UNKNOWN`].
fn is_unknown(reason: Option<&str>) -> bool {
    reason.and_then(|reason| reason.split(':').next()).is_some_and(|word| word.trim() == APP_STATUS_UNKNOWN)
}

impl Command {
    /// Since when it has been held because nobody can tell whether a show is on, as far as the history in `steps` goes; `None`: it does not wait for that now.
    #[must_use]
    pub fn unknown_since<'a>(&self, steps: impl IntoIterator<Item = &'a Step>) -> Option<i64> {
        if !is_unknown(self.held_reason.as_deref()) {
            return None;
        }
        if self.state() == CommandState::Pending {
            // For a device that only polls the server does the holding, and its own lines are in order.
            let lines: Vec<_> = steps.into_iter().collect();
            let held =
                |step: &&&Step| step.status == CommandState::Pending && is_unknown(step.detail.as_deref());
            return lines.iter().rev().take_while(held).map(|step| step.at).min();
        }
        if self.state() != CommandState::Held {
            return None;
        }
        // By the device's numbers: a report of an earlier step may have come late.
        let mut reports: Vec<_> = steps.into_iter().filter(|step| step.report_seq.is_some()).collect();
        reports.sort_by_key(|step| step.report_seq);
        let held = |step: &&&Step| step.status == CommandState::Held && is_unknown(step.detail.as_deref());
        reports.iter().rev().take_while(held).map(|step| step.at).min()
    }
}

/// The JSON shape of a command.
#[derive(Debug, Clone, Copy)]
pub struct CommandView<'a> {
    command: &'a Command,
}

#[derive(Serialize)]
struct Shape<'a> {
    id: &'a CommandId,
    device_id: &'a DeviceRowId,
    device: &'a DeviceId,
    #[serde(rename = "type")]
    kind: CommandType,
    payload: &'a Value,
    status: CommandState,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    inferred: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    held_reason: Option<&'a str>,
    priority: u8,
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    reference: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    notes: Option<&'a str>,
    created_by: &'a str,
    #[serde(with = "time")]
    created_at: i64,
    #[serde(with = "time::optional", skip_serializing_if = "Option::is_none")]
    sent_at: Option<i64>,
    #[serde(with = "time::optional", skip_serializing_if = "Option::is_none")]
    acked_at: Option<i64>,
    #[serde(with = "time::optional", skip_serializing_if = "Option::is_none")]
    cancel_requested_at: Option<i64>,
    #[serde(with = "time::optional", skip_serializing_if = "Option::is_none")]
    started_at: Option<i64>,
    #[serde(with = "time::optional", skip_serializing_if = "Option::is_none")]
    completed_at: Option<i64>,
    #[serde(with = "time")]
    expires_at: i64,
    timeout_seconds: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress_percent: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    override_reason: Option<&'a str>,
    revision: i64,
}

impl Serialize for CommandView<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (command, order) = (self.command, &self.command.order);
        let shape = Shape {
            id: &order.id,
            device_id: &order.device_id,
            device: &order.device,
            kind: order.kind,
            payload: &order.payload,
            status: command.standing.state,
            inferred: command.standing.inferred,
            held_reason: command.held_reason.as_deref(),
            priority: order.priority,
            reference: order.reference.as_deref(),
            notes: order.notes.as_deref(),
            created_by: &order.created_by,
            created_at: order.created_at,
            sent_at: command.sent_at,
            acked_at: command.acked_at,
            cancel_requested_at: command.cancel_requested_at,
            started_at: command.started_at,
            completed_at: command.completed_at,
            expires_at: order.expires_at,
            timeout_seconds: order.timeout_seconds,
            progress_percent: command.progress_percent,
            result: command.result.as_ref(),
            error: command.error.as_deref(),
            reason: command.reason.as_deref(),
            override_reason: command.overridden.as_ref().map(|overridden| overridden.reason.as_str()),
            revision: command.revision,
        };
        shape.serialize(serializer)
    }
}
