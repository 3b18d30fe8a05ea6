//! One command in the journal, and how it changes.

use protocol::codec::{self, Bytes};
use protocol::command::limits::{REMEMBERED_AFTER_EXPIRY_MS, RESULT_MAX_LEN};
use protocol::command::{CommandState, CommandType};
use protocol::id::CommandId;
use protocol::message::{Command, CommandReport};
use serde_json::Value;
use uuid::Uuid;

use super::show_mode::Lease;

/// Longest reason and longest error in a report, in bytes.
const REASON_MAX_LEN: usize = 1_000;
const ERROR_MAX_LEN: usize = 8_000;

/// A point in time that no clock setting moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Which boot.
    pub boot_id: Uuid,
    /// Milliseconds since that boot.
    pub boottime_ms: u64,
}

/// A command as the journal has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The command.
    pub id: CommandId,
    /// Where it stands.
    pub state: CommandState,
    /// What was said of it last; its number tells how often.
    pub report: CommandReport,
    /// The record of the outbox that has this report.
    pub record_seq: u64,
    /// What came from the server; only while it is open.
    pub command: Option<Command>,
    /// Whether it can disturb a show.
    pub disruptive: bool,
    /// How long it waits before anything else, milliseconds.
    pub delay_ms: u64,
    /// When it came.
    pub received: Moment,
    /// Why it runs although a show may be on, if it may.
    pub override_reason: Option<String>,
    /// What was seen before its effect, for finding out later whether it was done.
    pub observed: Option<String>,
    /// Its id must be remembered until then: milliseconds since 1970.
    pub kept_until_ms: i64,
}

/// What a report says besides the state.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Words {
    /// Why it is held, rejected or indeterminate.
    pub reason: Option<String>,
    /// What came out of it.
    pub result: Option<Value>,
    /// What went wrong.
    pub error: Option<String>,
    /// Asks for a lease.
    pub nonce: Option<[u8; 16]>,
    /// Hash of a new token.
    pub token_sha256: Option<[u8; 32]>,
}

impl Words {
    /// Only a reason.
    pub fn reason(text: impl Into<String>) -> Self {
        Self { reason: Some(text.into()), ..Self::default() }
    }
}

/// A change to be committed, all or nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    /// The entry as it is afterwards.
    pub entry: Entry,
    /// Whether its report goes to the server; if not, nothing changed that concerns it.
    pub says: bool,
    /// The lease that it asks for.
    pub(super) asks: Option<Lease>,
}

impl Write {
    /// Whether the number of this change must be beside the database before anything else happens: an effect follows,
    /// or an older copy of the database would run what has ended here.
    #[must_use]
    pub fn must_not_be_forgotten(&self) -> bool {
        !matches!(self.entry.state, CommandState::Acked | CommandState::Held)
    }
}

impl Entry {
    /// A command of which nothing was said yet.
    pub(crate) fn new(id: CommandId, kept_until_ms: i64, received: Moment) -> Self {
        let report = CommandReport {
            seq: 0,
            connection: 0,
            ts: 0,
            id: id.clone(),
            report_seq: 0,
            state: String::new(),
            reason: None,
            progress_percent: None,
            result: None,
            error: None,
            nonce: None,
            token_sha256: None,
        };
        Self {
            id,
            state: CommandState::Acked,
            report,
            record_seq: 0,
            command: None,
            disruptive: false,
            delay_ms: 0,
            received,
            override_reason: None,
            observed: None,
            kept_until_ms,
        }
    }

    /// One that came with this envelope.
    pub(super) fn of(command: Command, received: Moment) -> Self {
        let kept_until_ms = command.expires_at.saturating_add(REMEMBERED_AFTER_EXPIRY_MS);
        let override_reason = command.override_show.clone();
        let new = Self::new(command.id.clone(), kept_until_ms, received);
        Self { command: Some(command), override_reason, ..new }
    }

    /// The change that takes it to `state` and says so; `ts_ms` is the device's clock.
    pub(crate) fn moved(&self, state: CommandState, words: Words, ts_ms: i64) -> Write {
        let encoded_len = |value: &Value| codec::encode_packed(value).map_or(usize::MAX, |bytes| bytes.len());
        let too_large =
            |value: &Value| value.to_string().len() > RESULT_MAX_LEN || encoded_len(value) > RESULT_MAX_LEN;
        let (result, cut) = match words.result {
            Some(value) if too_large(&value) => {
                (None, Some("the result was too large to be sent".to_owned()))
            }
            result => (result, None),
        };
        let mut entry = self.clone();
        entry.state = state;
        entry.report = CommandReport {
            ts: ts_ms,
            report_seq: self.report.report_seq.saturating_add(1),
            state: state.to_string(),
            reason: words.reason.map(|text| cut_to(text, REASON_MAX_LEN)),
            result,
            error: words.error.map(|text| cut_to(text, ERROR_MAX_LEN)).or(cut),
            nonce: words.nonce.map(|nonce| Bytes(nonce.to_vec())),
            token_sha256: words.token_sha256.map(|hash| Bytes(hash.to_vec())),
            ..self.report.clone()
        };
        if state.is_terminal() {
            entry.command = None;
            entry.observed = None;
        }
        Write { entry, says: true, asks: None }
    }

    /// Waits for its turn.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.state, CommandState::Acked | CommandState::Held)
    }

    /// The word that it is held for, as last reported.
    pub(super) fn held_for(&self) -> Option<&str> {
        let reason = self.report.reason.as_deref().filter(|_| self.state == CommandState::Held)?;
        reason.split(':').next()
    }

    /// What is left of its delay, milliseconds. It counts from its arrival; after a reboot in between, from the boot.
    pub(super) fn delay_left_ms(&self, now: Moment) -> Option<u64> {
        let since = if self.received.boot_id == now.boot_id {
            now.boottime_ms.saturating_sub(self.received.boottime_ms)
        } else {
            now.boottime_ms
        };
        self.delay_ms.checked_sub(since).filter(|left| *left > 0)
    }

    /// What it is, if that is known.
    #[must_use]
    pub fn kind(&self) -> Option<CommandType> {
        self.command.as_ref()?.kind.parse().ok()
    }
}

fn cut_to(mut text: String, max_len: usize) -> String {
    if text.len() > max_len {
        text.truncate(text.floor_char_boundary(max_len));
        text.push('…');
    }
    text
}
