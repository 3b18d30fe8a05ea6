//! Commands that arrive. This version can run none, and says so at once, so that nobody waits for ever. Pure.

use protocol::command::CommandState;
use protocol::id::{CommandId, StateId};
use protocol::message::{CommandReport, DeviceAction, DeviceCommand};

use crate::state::JournalEntry;

/// How long an id is remembered after the command has expired, or, where that is not known, after it was heard of.
const KEPT_AFTER_EXPIRY_MS: i64 = 30 * 24 * 3600 * 1000;

/// What to do with a message on the command topic.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Answer {
    /// Enter this into the journal together with its report, unless the id is known.
    Journal(JournalEntry, Box<CommandReport>),
    /// Report what the journal has of this id; if it has nothing, do the same as for a new one.
    Repeat(JournalEntry, Box<CommandReport>),
    /// Nothing: it concerns a command that is not open here.
    Nothing,
}

/// Decides; `ts` is the device's clock.
pub(super) fn answer(message: DeviceCommand, own: StateId, ts: i64) -> Answer {
    let for_another_state = message.state_id != own;
    match message.action() {
        Some(DeviceAction::Run(command)) => {
            let reason = if for_another_state {
                "meant for an earlier state of this device"
            } else {
                "not supported by this agent version"
            };
            let kept_until_ms = command.expires_at.saturating_add(KEPT_AFTER_EXPIRY_MS);
            let (entry, report) = ended(command.id, CommandState::Rejected, Some(reason), kept_until_ms, ts);
            Answer::Journal(entry, report)
        }
        // So that a copy of the command that comes later does not run.
        Some(DeviceAction::Cancel(id)) => {
            let kept_until_ms = ts.saturating_add(2 * KEPT_AFTER_EXPIRY_MS);
            let (entry, report) = ended(id, CommandState::Cancelled, None, kept_until_ms, ts);
            Answer::Journal(entry, report)
        }
        Some(DeviceAction::Query(id)) => {
            let kept_until_ms = ts.saturating_add(2 * KEPT_AFTER_EXPIRY_MS);
            let reason = Some("this device does not know the command");
            let (entry, report) = ended(id, CommandState::Indeterminate, reason, kept_until_ms, ts);
            Answer::Repeat(entry, report)
        }
        Some(DeviceAction::Override(_) | DeviceAction::Go(_)) | None => Answer::Nothing,
    }
}

fn ended(
    id: CommandId,
    state: CommandState,
    reason: Option<&str>,
    kept_until_ms: i64,
    ts: i64,
) -> (JournalEntry, Box<CommandReport>) {
    let entry = JournalEntry { command_id: id.clone(), state: state.to_string(), kept_until_ms };
    let report = CommandReport {
        seq: 0,
        connection: 0,
        ts,
        id,
        report_seq: 1,
        state: state.to_string(),
        reason: reason.map(str::to_owned),
        progress_percent: None,
        result: None,
        error: None,
        nonce: None,
        token_sha256: None,
    };
    (entry, Box::new(report))
}
