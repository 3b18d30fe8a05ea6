//! What a device that speaks only the old HTTP protocol says of a command: `PATCH /commands/{id}`. Pure.

#[cfg(test)]
mod tests;

use protocol::command::CommandState;
use protocol::command::limits::RESULT_MAX_LEN;
use protocol::command::standing::{Heard, Told};
use serde_json::Value;

use super::command::{Command, Path, Step};
use super::fields::{FieldError, Fields, text};

/// Longest error that a device may tell, in characters.
pub(crate) const ERROR_MAX_CHARS: usize = 4096;
/// What it may say became of a command.
pub(crate) const STATES: [CommandState; 4] =
    [CommandState::Acked, CommandState::Running, CommandState::Completed, CommandState::Failed];

/// A report, read and checked.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpReport {
    status: CommandState,
    result: Option<Value>,
    error: Option<String>,
}

/// What became of a report.
#[derive(Debug, Clone, PartialEq)]
pub enum Heeded {
    /// The command has moved.
    Moved(Step),
    /// It says what is known.
    Known,
    /// It contradicts what is known; why.
    Refused(String),
}

impl HttpReport {
    /// Reads the body of a PATCH.
    ///
    /// # Errors
    /// Every field that is wrong or unknown.
    pub fn read(body: Value) -> Result<Self, Vec<FieldError>> {
        let mut fields = Fields::new(body)?;
        let status = fields.required("status", status);
        let result = fields.optional("result", |value| {
            let bytes = value.to_string().len();
            if bytes > RESULT_MAX_LEN {
                return Err(format!("has {bytes} bytes; at most {RESULT_MAX_LEN} are allowed"));
            }
            Ok(value)
        });
        // Some agents send an empty text where there was no error.
        let error = fields.optional("error", |value| match value {
            Value::String(empty) if empty.is_empty() => Ok(None),
            value => text(ERROR_MAX_CHARS)(value).map(Some),
        });
        fields.finish()?;
        // `finish` has failed if it was absent or wrong.
        let Some(status) = status else { return Err(Vec::new()) };
        Ok(Self { status, result, error: error.flatten() })
    }

    /// Takes the report of the command's own device in; `now` is ms since 1970.
    pub fn take(&self, command: &mut Command, now: i64) -> Heeded {
        // A server that was restored from a copy may have forgotten that it handed the command out.
        let forgotten = command.query_first && command.bound.is_none();
        if command.bound != Some(Path::Http) && !forgotten {
            return Heeded::Refused(match command.bound {
                Some(_) => "the command was sent by MQTT; its reports come that way".to_owned(),
                None => "the command was not handed out yet; poll for it first".to_owned(),
            });
        }
        if self.is_known(command) {
            return Heeded::Known;
        }
        let told = Told {
            state: self.status,
            report_seq: command.standing.report_seq.saturating_add(1),
            same_state_database: true,
        };
        let (Heard::Moved(next) | Heard::Progress(next)) = command.standing.report(told) else {
            let state = command.state();
            return Heeded::Refused(format!(
                "the command is {state}; it cannot become {} any more",
                self.status
            ));
        };
        command.stand(next, now);
        command.heard_at = Some(now);
        command.bound = Some(Path::Http);
        command.query_first = false;
        command.held_reason = None;
        command.reason = None;
        if self.result.is_some() {
            command.result.clone_from(&self.result);
        }
        if self.error.is_some() {
            command.error.clone_from(&self.error);
        }
        Heeded::Moved(Step {
            status: self.status,
            at: now,
            device_at: None,
            report_seq: Some(next.report_seq),
            detail: self.error.clone(),
        })
    }

    /// Whether it repeats a step that the command has made.
    fn is_known(&self, command: &Command) -> bool {
        match self.status {
            CommandState::Acked => command.acked_at.is_some(),
            CommandState::Running => command.started_at.is_some(),
            ended => command.state() == ended,
        }
    }
}

fn status(value: Value) -> Result<CommandState, String> {
    let told = value.as_str().and_then(|text| STATES.into_iter().find(|state| state.as_str() == text));
    told.ok_or_else(|| "one of acked, running, completed, failed is expected".to_owned())
}
