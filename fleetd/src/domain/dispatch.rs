//! What to do next about a command: the row, what is known of its device, and the time lead to messages. Pure.
//!
//! The caller commits the changed row first and publishes the messages then, so that whatever was said to a device is
//! also known to have been said. A lost message is no harm: everything is said again until the device answers.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use protocol::{
    command::{CommandState, CommandType, limits::SILENCE_AFTER_EXPIRY_MS, open_digest},
    id::{CommandId, StateId},
    message::{self, DeviceAction},
};

use super::command::{Command, Path, Step};

/// A command without a report is sent again after so long, in ms; then after twice that, up to [`REPEAT_MAX_MS`].
pub const RESEND_MS: i64 = 30_000;
/// A cancel or an override is repeated after so long, in ms; then after twice that, up to [`REPEAT_MAX_MS`].
pub const REQUEST_MS: i64 = 5_000;
/// The longest pause between two repetitions, in ms.
pub const REPEAT_MAX_MS: i64 = 300_000;
/// A device is asked about a command that it has if nothing was heard for so long, in ms.
pub const QUERY_EVERY_MS: i64 = 3_600_000;
/// After a birth, a device is asked about a command if nothing was heard for so long, in ms, ...
pub const QUIET_MS: i64 = 60_000;
/// ... and if the reports that it has kept have not come within this time, in ms.
pub const SETTLE_MS: i64 = 5_000;

/// Commands that may be on their way to one device without its answer; the others wait where the server alone decides.
pub const WINDOW: usize = 32;
/// Bytes of their payloads; well within what the broker queues for one device.
pub const WINDOW_BYTES: usize = 128 * 1024;

/// What is known of a command's device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// It is connected, in service and approved, and may be sent something.
    pub reachable: bool,
    /// The state database and time (ms since 1970) of its last birth; a device of the old HTTP protocol has none.
    pub born: Option<(StateId, i64)>,
    /// When it was last heard, ms since 1970.
    pub last_seen_at: Option<i64>,
    /// The newest version of its desired state; 0 if it has none.
    pub desired_version: u64,
    /// The version that it has answered.
    pub reported_version: Option<u64>,
    /// What its heartbeats say of its open commands has differed from what the server knows, twice.
    pub digest_differs: bool,
}

/// What to do: store the command as it is here, with the line of history, then publish the messages.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The command as it is to be stored.
    pub command: Command,
    /// The line of history.
    pub step: Option<Step>,
    /// For the device, in this order; the state database that they are meant for stands in `command`.
    pub messages: Vec<DeviceAction>,
    /// That state database.
    pub state_id: Option<StateId>,
}

/// Decides about one command. `others`: the device's other open commands. `None`: nothing now.
#[must_use]
pub fn plan(command: &Command, others: &[Command], to: &Recipient, now: i64) -> Option<Plan> {
    match command.state() {
        CommandState::Pending => pending(command, others, to, now),
        state if state.is_open() => sent(command, to, now),
        _ => None,
    }
}

/// Decides whether a new command may be created as sent, in one commit: if its device knows what is desired of it, so that
/// nothing would have to be said before. No other may be pending or sent to the device, whose turn would come first. `None`:
/// it is created as pending.
#[must_use]
pub fn at_once(command: &Command, to: &Recipient, now: i64) -> Option<Plan> {
    let knows = to.reported_version.unwrap_or(0) >= to.desired_version;
    plan(command, &[], to, now).filter(|plan| knows && plan.command.state() == CommandState::Sent)
}

fn pending(command: &Command, others: &[Command], to: &Recipient, now: i64) -> Option<Plan> {
    let overdue = now - command.order.expires_at;
    // A copy of the database may have forgotten that it was sent: then the device alone may end it, if it ever speaks.
    if command.query_first && silent_past_expiry(command, to, now) {
        return gives_up(command, now, FORGOTTEN);
    }
    if overdue >= 0 && !command.query_first {
        let expired = command.standing.by_server(CommandState::Expired)?;
        let mut next = command.clone();
        next.stand(expired, now);
        let step = step(&next, now, "it was not sent in time");
        return Some(Plan { command: next, step: Some(step), messages: Vec::new(), state_id: None });
    }
    let (state_id, born_at) = to.born.filter(|_| to.reachable && command.bound != Some(Path::Http))?;
    let mut next = command.clone();
    if command.query_first {
        return asks_first(&mut next, born_at, now)
            .map(|message| request(next, vec![message], Some(state_id)));
    }
    let rotates = |other: &Command| other.order.kind == CommandType::RotateToken && is_with_device(other);
    if command.order.kind == CommandType::RotateToken && others.iter().any(rotates) {
        return None;
    }
    if !has_room(command, others) {
        return None;
    }
    next.stand(command.standing.by_server(CommandState::Sent)?, now);
    next.bound = Some(Path::Mqtt);
    next.sent_state_id = Some(state_id);
    next.last_sent_at = Some(now);
    next.held_reason = None;
    let message = run(&next, to);
    Some(Plan {
        step: Some(Step { detail: None, ..step(&next, now, "") }),
        command: next,
        messages: vec![message],
        state_id: Some(state_id),
    })
}

/// Whether one more may be on its way.
fn has_room(command: &Command, others: &[Command]) -> bool {
    let on_their_way = || others.iter().filter(|other| other.state() == CommandState::Sent);
    let count = on_their_way().take(WINDOW).count();
    let bytes = |command: &Command| command.order.payload.to_string().len();
    count == 0
        || (count < WINDOW && on_their_way().map(bytes).sum::<usize>() + bytes(command) <= WINDOW_BYTES)
}

fn sent(command: &Command, to: &Recipient, now: i64) -> Option<Plan> {
    if silent_past_expiry(command, to, now) {
        return gives_up(command, now, "the device has been silent for 7 days past the expiry");
    }
    if command.bound == Some(Path::Http) {
        return None;
    }
    let (state_id, born_at) = to.born?;
    if command.sent_state_id.is_some_and(|sent| sent != state_id) {
        return gives_up(command, now, LOST_STATE);
    }
    if !to.reachable {
        return None;
    }
    let mut next = command.clone();
    if command.query_first {
        return asks_first(&mut next, born_at, now)
            .map(|message| request(next, vec![message], Some(state_id)));
    }
    let mut messages = Vec::new();
    let is_sent = command.state() == CommandState::Sent;
    let since_birth = |first: Option<i64>| first.unwrap_or(born_at).max(born_at);
    if is_sent {
        let due = is_due(command.last_sent_at, since_birth(command.sent_at), born_at, RESEND_MS, now);
        let asked = to.digest_differs && !is_recent(command.last_sent_at, RESEND_MS, now);
        // A copy of a command that was called back would only have to be called back again.
        if command.cancel_requested_at.is_none() && (due || asked) {
            next.last_sent_at = Some(now);
            messages.push(run(command, to));
        }
    } else if wants_query(command, to, born_at, now) {
        next.query_sent_at = Some(now);
        messages.push(DeviceAction::Query(command.order.id.clone()));
    }
    if command.state() != CommandState::Running {
        if let Some(asked_at) = command.cancel_requested_at
            && is_due(command.cancel_sent_at, since_birth(Some(asked_at)), born_at, REQUEST_MS, now)
        {
            next.cancel_sent_at = Some(now);
            messages.push(DeviceAction::Cancel(command.order.id.clone()));
        }
        if let Some(overridden) = &command.overridden
            && command.sent_at.is_some_and(|sent_at| overridden.at >= sent_at)
            && !is_answered(command, born_at)
            && is_due(command.override_sent_at, since_birth(Some(overridden.at)), born_at, REQUEST_MS, now)
        {
            next.override_sent_at = Some(now);
            messages.push(DeviceAction::Override(message::Override {
                id: command.order.id.clone(),
                reason: overridden.reason.clone(),
            }));
        }
    }
    (!messages.is_empty()).then(|| request(next, messages, Some(state_id)))
}

/// What people read when a device has begun a new state database.
pub const LOST_STATE: &str = "the device has lost the state database that the command was sent to";

/// What people read when a restored server cannot find out whether it had sent the command.
pub const FORGOTTEN: &str =
    "the server was restored from a copy, and nobody can tell whether the device has had the command";

/// What people read when the device was taken out of service.
pub const GONE: &str = "the device was decommissioned";

/// Ends an open command of a device that was taken out of service: one that was never sent is cancelled, so that whatever
/// is registered under this id later does not run it; of the others nobody can tell any more.
#[must_use]
pub fn device_is_gone(command: &Command, now: i64) -> Option<Plan> {
    let unsent = Some(command.standing).filter(|_| !command.query_first);
    let Some(cancelled) = unsent.and_then(|standing| standing.by_server(CommandState::Cancelled)) else {
        return gives_up(command, now, GONE);
    };
    let mut next = command.clone();
    next.stand(cancelled, now);
    next.held_reason = None;
    next.reason = Some(GONE.to_owned());
    let step = step(&next, now, GONE);
    Some(Plan { command: next, step: Some(step), messages: Vec::new(), state_id: None })
}

/// Ends a command whose device cannot be asked any more.
#[must_use]
pub fn gives_up(command: &Command, now: i64, why: &str) -> Option<Plan> {
    let mut next = command.clone();
    let standing = command.standing;
    let end = if command.query_first { standing.forgotten() } else { standing.given_up() };
    next.stand(end?, now);
    next.reason = Some(why.to_owned());
    let step = step(&next, now, why);
    Some(Plan { command: next, step: Some(step), messages: Vec::new(), state_id: None })
}

/// Whether the device has the command, as far as the server knows.
fn is_with_device(command: &Command) -> bool {
    command.state().is_open() && command.state() != CommandState::Pending
}

fn silent_past_expiry(command: &Command, to: &Recipient, now: i64) -> bool {
    now - to.last_seen_at.unwrap_or(0).max(command.order.expires_at) >= SILENCE_AFTER_EXPIRY_MS
}

fn step(command: &Command, now: i64, detail: &str) -> Step {
    Step {
        status: command.state(),
        at: now,
        device_at: None,
        report_seq: None,
        detail: Some(detail.to_owned()),
    }
}

fn request(command: Command, messages: Vec<DeviceAction>, state_id: Option<StateId>) -> Plan {
    Plan { command, step: None, messages, state_id }
}

fn run(command: &Command, to: &Recipient) -> DeviceAction {
    let order = &command.order;
    DeviceAction::Run(Box::new(message::Command {
        id: order.id.clone(),
        kind: order.kind.as_str().to_owned(),
        payload: order.payload.clone(),
        priority: order.priority,
        created_at: order.created_at,
        expires_at: order.expires_at,
        timeout_seconds: order.timeout_seconds,
        desired_version: to.desired_version,
        override_show: command.overridden.as_ref().map(|overridden| overridden.reason.clone()),
    }))
}

/// A query before anything else, repeated until it is answered; the answer takes `query_first` away.
fn asks_first(next: &mut Command, born_at: i64, now: i64) -> Option<DeviceAction> {
    is_due(next.query_sent_at, born_at, born_at, RESEND_MS, now).then(|| {
        next.query_sent_at = Some(now);
        DeviceAction::Query(next.order.id.clone())
    })
}

fn wants_query(command: &Command, to: &Recipient, born_at: i64, now: i64) -> bool {
    let heard = command.heard_at.or(command.sent_at).unwrap_or(born_at);
    let asked = command.query_sent_at.filter(|asked| *asked <= now);
    let after_birth = heard < born_at
        && asked.is_none_or(|asked| asked < born_at)
        && now - born_at >= SETTLE_MS
        && now - heard >= QUIET_MS;
    let unanswered = asked.is_some_and(|asked| asked > heard && now - asked >= REPEAT_MAX_MS);
    let quiet = now - heard.max(asked.unwrap_or(heard)) >= QUERY_EVERY_MS;
    after_birth || unanswered || quiet || (to.digest_differs && !is_recent(asked, RESEND_MS, now))
}

/// An override is answered by any report after it, on the same connection.
fn is_answered(command: &Command, born_at: i64) -> bool {
    match (command.override_sent_at, command.heard_at) {
        (Some(sent), Some(heard)) => sent >= born_at && heard > sent,
        _ => false,
    }
}

fn is_recent(last: Option<i64>, within_ms: i64, now: i64) -> bool {
    last.is_some_and(|last| (0..within_ms).contains(&(now - last)))
}

/// Whether to say something again that was said last at `last`, and for the first time at `first`: at once after a birth,
/// then after `base_ms`, with pauses that double. A time in the future is from a clock that was wrong.
fn is_due(last: Option<i64>, first: i64, born_at: i64, base_ms: i64, now: i64) -> bool {
    let Some(last) = last.filter(|last| *last >= born_at && *last <= now) else { return true };
    let pause = (base_ms + (last - first).max(0)).min(REPEAT_MAX_MS);
    now - last >= pause
}

/// What the server believes to be open in the device's journal.
pub fn believed_open<'a>(
    commands: impl IntoIterator<Item = &'a Command>,
    state_id: StateId,
) -> impl Iterator<Item = (&'a CommandId, CommandState)> {
    let open = commands.into_iter().filter(move |command| {
        is_with_device(command)
            && command.state() != CommandState::Sent
            && command.bound != Some(Path::Http)
            && command.sent_state_id == Some(state_id)
    });
    open.map(|command| (&command.order.id, command.state()))
}

/// The digest that the device's heartbeats should have.
#[must_use]
pub fn believed_digest<'a>(commands: impl IntoIterator<Item = &'a Command>, state_id: StateId) -> [u8; 4] {
    open_digest(believed_open(commands, state_id))
}

/// Watches one device's heartbeats for a digest that stays wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DigestWatch {
    heartbeat_at: i64,
    differing: u8,
}

impl DigestWatch {
    /// Takes the newest heartbeat's digest; gives true once two heartbeats in a row were different from `expected`. A
    /// report may be on its way beside one heartbeat, but not beside two.
    pub fn heard(&mut self, heartbeat_at: i64, told: &[u8], expected: [u8; 4]) -> bool {
        if heartbeat_at == self.heartbeat_at {
            return false;
        }
        self.heartbeat_at = heartbeat_at;
        self.differing = if told == expected { 0 } else { self.differing + 1 };
        if self.differing < 2 {
            return false;
        }
        self.differing = 0;
        true
    }
}

/// When desired states were published: to be repeated until the device reports their version.
#[derive(Debug, Clone, Default)]
pub struct DesiredSent {
    /// Version, first time and last time (ms since 1970) by device.
    sent: BTreeMap<String, (u64, i64, i64)>,
}

impl DesiredSent {
    /// Whether to publish `version` to a device now; notes it if so. `reported`: what it has answered last.
    pub fn is_due(
        &mut self,
        device: &str,
        version: u64,
        reported: Option<u64>,
        born_at: i64,
        now: i64,
    ) -> bool {
        let known = self.sent.get(device).copied().filter(|(sent, ..)| *sent == version);
        let due = match known {
            Some((_, _, last)) if last >= born_at && reported >= Some(version) => false,
            Some((_, first, last)) => is_due(Some(last), first.max(born_at), born_at, RESEND_MS, now),
            None => true,
        };
        if due {
            let first = known.map_or(now, |(_, first, _)| first);
            self.sent.insert(device.to_owned(), (version, first, now));
        }
        due
    }

    /// Forgets everything when it has become more than `most` devices: then all is said once more.
    pub fn bound(&mut self, most: usize) {
        if self.sent.len() > most {
            self.sent.clear();
        }
    }
}
