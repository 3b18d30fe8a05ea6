//! Commands of a device that speaks only the old HTTP protocol: it polls, and knows nothing of shows. So the server does
//! the holding, and what was handed out and never answered it offers again or gives up. Pure.

#[cfg(test)]
pub(super) mod tests;

use protocol::command::limits::SILENCE_AFTER_EXPIRY_MS;
use protocol::command::payload::Payload;
use protocol::command::{CommandState, CommandType};

use super::command::{Command, Path, Step};
use super::dispatch::FORGOTTEN;

/// A heartbeat older than this says nothing of the device any more, in ms: three intervals of 60 s.
pub const HEARTBEAT_MAX_AGE_MS: i64 = 180_000;
/// For so long after its last MQTT or exchange connection a device that has given birth is handed nothing, in ms.
pub const CONNECTION_REST_MS: i64 = 600_000;
/// What was handed out is looked at again at this poll after it.
const POLLS_UNTIL_NEXT: i64 = 2;
/// The agent's own unit: restarting it disturbs nobody.
const OWN_UNIT: &str = "r58-fleet-agent";

/// Why the server keeps a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// The server was restored from a copy: the device may have had the command already.
    Restored,
    /// A lock stands.
    ShowLock,
    /// The last heartbeat says that the device is recording.
    Live,
    /// No fresh heartbeat: nobody can tell.
    AppStatusUnknown,
    /// It is another's turn in the redundancy group.
    AwaitingLease,
}

impl Held {
    /// The fixed word, as `held_reason` has it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Restored => "restored",
            Self::ShowLock => "show_lock",
            Self::Live => "live",
            Self::AppStatusUnknown => "app_status_unknown",
            Self::AwaitingLease => "awaiting_lease",
        }
    }

    /// For people.
    const fn detail(self) -> &'static str {
        match self {
            Self::Restored => {
                "restored: the server was restored from a copy, and the device may have had it before"
            }
            Self::ShowLock => "show_lock: a show lock stands",
            Self::Live => "live: the last heartbeat says that a show is on",
            Self::AppStatusUnknown => "app_status_unknown: no heartbeat for three minutes",
            Self::AwaitingLease => {
                "awaiting_lease: a partner in the redundancy group is away, or it is its turn"
            }
        }
    }
}

/// What is known of a device that polls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Polling {
    /// When, ms since 1970.
    pub now: i64,
    /// Its last heartbeat says that it is recording or otherwise live.
    pub live: bool,
    /// When that arrived, ms since 1970.
    pub last_heartbeat: Option<i64>,
    /// A show lock stands over it.
    pub locked: bool,
}

/// What a poll means for one command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Leave,
    /// It is handed out, for the first time or again.
    HandOut,
    /// It is handed out if its redundancy group allows.
    AskGroup,
    /// It was handed out before, and its turn has not come.
    Count,
    /// It stays with the server.
    Hold(Held),
    /// Nobody can tell any more what became of it; why.
    GiveUp(&'static str),
}

/// Whether a device that has given birth is still, or was a moment ago, connected: its commands go that way.
#[must_use]
pub fn is_connected(born: bool, connected_now: bool, connected_at: Option<i64>, now: i64) -> bool {
    // A time far in the future is from a clock that was wrong.
    let recently = connected_at.is_some_and(|at| (now - at).abs() < CONNECTION_REST_MS);
    born && (connected_now || recently)
}

/// Decides about one command at a poll of its device.
#[must_use]
pub fn at_poll(command: &Command, polling: &Polling) -> Verdict {
    let now = polling.now;
    let expired = command.order.expires_at <= now;
    match (command.state(), command.bound) {
        // The device cannot be asked, and what it does not know yet can no longer be told.
        (CommandState::Pending, None | Some(Path::Http))
            if command.query_first && (expired || command.cancel_requested_at.is_some()) =>
        {
            Verdict::GiveUp(FORGOTTEN)
        }
        // The dispatcher ends it.
        (CommandState::Pending, _) if expired => Verdict::Leave,
        (CommandState::Pending, None | Some(Path::Http)) => pending(command, polling),
        (CommandState::Sent, Some(Path::Http)) => {
            if command.polls_since_sent + 1 < POLLS_UNTIL_NEXT {
                Verdict::Count
            } else if expired || command.cancel_requested_at.is_some() || !may_be_repeated(command) {
                Verdict::GiveUp("it was handed out, and the device polled twice without acknowledging it")
            } else {
                Verdict::HandOut
            }
        }
        _ => by_time(command, now).map_or(Verdict::Leave, Verdict::GiveUp),
    }
}

/// Whether the time has come to give up a command that was handed out; why.
#[must_use]
pub fn by_time(command: &Command, now: i64) -> Option<&'static str> {
    if command.bound != Some(Path::Http) {
        return None;
    }
    let past_expiry = now - command.order.expires_at;
    match command.state() {
        CommandState::Acked | CommandState::Held | CommandState::Running
            if past_expiry >= i64::from(command.order.timeout_seconds) * 1000 =>
        {
            Some("the device has acknowledged it and never said how it ended")
        }
        CommandState::Sent if past_expiry >= SILENCE_AFTER_EXPIRY_MS => {
            Some("it was handed out and never acknowledged, 7 days past the expiry")
        }
        _ => None,
    }
}

fn pending(command: &Command, polling: &Polling) -> Verdict {
    if command.query_first && !may_be_repeated(command) {
        return Verdict::Hold(Held::Restored);
    }
    if !is_disruptive(command) {
        return Verdict::HandOut;
    }
    if command.overridden.is_none() {
        let fresh = polling.last_heartbeat.is_some_and(|at| polling.now - at <= HEARTBEAT_MAX_AGE_MS);
        if polling.locked {
            return Verdict::Hold(Held::ShowLock);
        }
        if polling.live {
            return Verdict::Hold(Held::Live);
        }
        if !fresh {
            return Verdict::Hold(Held::AppStatusUnknown);
        }
    }
    Verdict::AskGroup
}

/// Whether it can disturb a show. What cannot be read is taken to.
#[must_use]
pub fn is_disruptive(command: &Command) -> bool {
    Payload::parse(command.order.kind, &command.order.payload)
        .map_or(true, |payload| payload.is_disruptive(OWN_UNIT))
}

/// Whether doing it twice is no harm.
fn may_be_repeated(command: &Command) -> bool {
    matches!(command.order.kind, CommandType::Bundle | CommandType::Config | CommandType::Ping)
}

/// Hands the command out; with a line of history the first time.
pub fn hand_out(command: &mut Command, now: i64) -> Option<Step> {
    let first = command.standing.by_server(CommandState::Sent);
    command.bound = Some(Path::Http);
    command.last_sent_at = Some(now);
    command.polls_since_sent = 0;
    command.query_first = false;
    first.map(|standing| {
        command.stand(standing, now);
        step(command, now, None)
    })
}

/// Keeps the command; with a line of history if the reason is a new one. `None`: nothing has changed.
pub fn hold(command: &mut Command, held: Held, now: i64) -> Option<Step> {
    if command.held_reason.as_deref() == Some(held.word()) {
        return None;
    }
    command.held_reason = Some(held.word().to_owned());
    Some(step(command, now, Some(held.detail())))
}

/// Ends a command of which nobody can tell any more what became.
pub fn give_up(command: &mut Command, why: &str, now: i64) -> Option<Step> {
    let standing = command.standing;
    let end = if command.query_first { standing.forgotten() } else { standing.given_up() };
    command.stand(end?, now);
    command.reason = Some(why.to_owned());
    Some(step(command, now, Some(why)))
}

fn step(command: &Command, now: i64, detail: Option<&str>) -> Step {
    Step {
        status: command.state(),
        at: now,
        device_at: None,
        report_seq: None,
        detail: detail.map(str::to_owned),
    }
}
