//! What a device's report does to a command. Pure.

#[cfg(test)]
mod tests;

use protocol::{
    command::{
        CommandState, CommandType,
        limits::RESULT_MAX_LEN,
        standing::{Heard, Told},
    },
    id::StateId,
    message::CommandReport,
};
use serde_json::{Value, json};

use super::command::{Command, Step};

/// Longest reason or error that is kept, in bytes.
pub const TEXT_MAX_LEN: usize = 4 * 1024;
/// Longest nonce that is kept, in bytes.
const NONCE_MAX_LEN: usize = 64;

/// What became of a report.
#[derive(Debug, Clone, PartialEq)]
pub enum Folded {
    /// The command has changed; with a line of history if people should see it.
    Changed {
        /// The line.
        step: Option<Step>,
        /// It was overtaken: in the history it stands, but nobody is told as if it were news.
        late: bool,
    },
    /// It says nothing of use; why.
    Refused(String),
}

/// Takes the report of the command's own device in. `from`: the state database that it comes from; `now`: ms since 1970.
pub fn fold(command: &mut Command, report: &CommandReport, from: StateId, now: i64) -> Folded {
    let Ok(said) = report.state.parse::<CommandState>() else {
        return Folded::Refused(format!("unknown state {:?}", clipped(&report.state, 32)));
    };
    let state = match said {
        // A copy of the database does not know to which state database it was sent, and any other one rejects it.
        CommandState::Rejected if command.query_first && command.sent_state_id.is_none() => {
            CommandState::Indeterminate
        }
        said => said,
    };
    let told = Told {
        state,
        report_seq: report.report_seq,
        same_state_database: command.sent_state_id.is_none_or(|sent| sent == from),
    };
    let heard = command.standing.report(told);
    if let Heard::Refused(why) = heard {
        return Folded::Refused(why.to_owned());
    }
    command.heard_at = Some(now);
    command.query_first = false;
    let mut step = Step {
        status: state,
        at: now,
        device_at: Some(report.ts),
        report_seq: Some(report.report_seq),
        detail: report.reason.as_deref().or(report.error.as_deref()).map(|text| clipped(text, TEXT_MAX_LEN)),
    };
    match heard {
        Heard::Moved(next) => {
            if command.sent_state_id.is_none() {
                // A copy of the database that had forgotten: the device knows better.
                command.sent_state_id = Some(from);
                command.bound.get_or_insert(super::command::Path::Mqtt);
            }
            command.stand(next, now);
            command.reason = None;
            take(command, report, now);
            Folded::Changed { step: Some(step), late: false }
        }
        Heard::Progress(next) => {
            let before = (command.held_reason.clone(), command.reason.clone());
            command.standing = next;
            take(command, report, now);
            let news = before != (command.held_reason.clone(), command.reason.clone());
            Folded::Changed { step: news.then_some(step), late: false }
        }
        Heard::Late => {
            step.detail = Some(match step.detail {
                Some(detail) => format!("late report: {detail}"),
                None => "late report".to_owned(),
            });
            Folded::Changed { step: Some(step), late: true }
        }
        Heard::Known | Heard::Refused(_) => Folded::Changed { step: None, late: false },
    }
}

/// What a report says beside the state.
fn take(command: &mut Command, report: &CommandReport, now: i64) {
    let reason = report.reason.as_deref().map(|text| clipped(text, TEXT_MAX_LEN));
    match command.state() {
        // After the first effect a step may be held as well, and the command stays `running`.
        CommandState::Held | CommandState::Running => command.held_reason = reason,
        _ => command.reason = reason,
    }
    if let Some(percent) = report.progress_percent {
        command.progress_percent = Some(percent.min(100));
    }
    if let Some(result) = &report.result {
        command.result = Some(bounded(result));
    }
    if let Some(error) = &report.error {
        command.error = Some(clipped(error, TEXT_MAX_LEN));
    }
    match &report.nonce {
        Some(nonce) if command.state() == CommandState::Held && nonce.0.len() <= NONCE_MAX_LEN => {
            if command.lease_nonce.as_ref() != Some(&nonce.0) {
                command.lease_nonce = Some(nonce.0.clone());
                command.lease_asked_at = Some(now);
            }
        }
        _ => command.lease_nonce = None,
    }
}

/// The SHA-256 of the new token that a report announces: only while its own rotation is under way.
#[must_use]
pub fn announced_token(command: &Command, report: &CommandReport) -> Option<[u8; 32]> {
    let of_rotation = command.order.kind == CommandType::RotateToken
        && command.state().is_open()
        && command.standing.report_seq == report.report_seq;
    report.token_sha256.as_ref().filter(|_| of_rotation)?.0.as_slice().try_into().ok()
}

/// A result as it is kept: one that is too large is replaced by its beginning.
fn bounded(result: &Value) -> Value {
    let text = result.to_string();
    if text.len() <= RESULT_MAX_LEN {
        return result.clone();
    }
    json!({"too_large_bytes": text.len(), "begins_with": clipped(&text, RESULT_MAX_LEN / 8)})
}

/// Text cut to so many bytes, at a character.
fn clipped(text: &str, most: usize) -> String {
    text.get(..text.floor_char_boundary(most)).unwrap_or_default().to_owned()
}
