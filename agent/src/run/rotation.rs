//! `rotate_token` in the event loop. The files and their order are in [`crate::effect::rotation`]; here are the steps
//! between which the server has to be heard: the hash of the new token is reported; once the server has that report the
//! new token is used; once the server has answered on a connection made with it, the command is completed. If the new
//! token is refused, the one before is used again; long after a rotation too, since the server may have been restored
//! from a backup of before it.

use std::time::Duration;

use serde_json::json;

use super::agent::Agent;
use super::session::with_causes;
use crate::command::{End, Probe, Words};
use crate::connect::ConnectError;
use crate::effect::rotation::{Made, Rotation, RotationError, Standing};
use crate::link::LinkError;

/// After a step that could not be made.
const RETRY: Duration = Duration::from_secs(5);

/// A rotation that is under way.
#[derive(Debug)]
pub(super) struct Turn {
    files: Rotation,
    made: Made,
    step: Step,
    retry_at: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The server is to have the hash.
    Told,
    /// The new token is in use.
    Switched,
    /// The server has refused the new token.
    Refused,
}

/// Which of the device's tokens is tried, while no rotation is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trial {
    /// The one in `fleet.conf`.
    Configured,
    /// The server has refused that one: next the one before, if there is one.
    Refused,
    /// The one before.
    Before {
        /// When it is to be put into `fleet.conf`, once the server has answered.
        keep_at: Duration,
    },
}

impl Agent {
    /// The new token has been made.
    pub(super) fn token_made(&mut self, made: Made) {
        match Rotation::of(&self.config) {
            Ok(files) => {
                self.tell_hash(&made);
                self.rotation = Some(Turn { files, made, step: Step::Told, retry_at: Duration::ZERO });
            }
            Err(refusal) => {
                let error = refusal.to_string();
                self.commands.ended(&made.command_id, End::Failed { error, result: None });
            }
        }
    }

    /// At the start: what an earlier process has left over.
    pub(super) async fn find_rotation(&mut self) {
        if self.rotation.is_some() {
            return;
        }
        let Ok(files) = Rotation::of(&self.config) else { return };
        let looking = files.clone();
        let standing = match tokio::task::spawn_blocking(move || looking.standing()).await {
            Ok(Ok(standing)) => standing,
            Ok(Err(error)) => return tracing::error!("{}", with_causes(&error)),
            Err(_) => return,
        };
        let (made, step) = match standing {
            Standing::Nothing => return,
            Standing::Made(made) => (made, Step::Told),
            Standing::Switched(made) => (made, Step::Switched),
        };
        self.rotation = Some(Turn { files, made, step, retry_at: Duration::ZERO });
    }

    /// A rotation that was cut off goes on. Returns whether there is one for this command.
    pub(super) fn resume_rotation(&mut self, id: &protocol::id::CommandId) -> bool {
        let Some(turn) = self.rotation.as_ref().filter(|turn| turn.made.command_id == *id) else {
            return false;
        };
        let made = turn.made.clone();
        let now = self.moment();
        self.commands.probed(id, Probe::Resumed, now);
        let told = self.commands.get(id).and_then(|entry| entry.report.token_sha256.as_ref());
        if told.is_none_or(|hash| hash.0 != made.sha256) {
            self.tell_hash(&made);
        }
        true
    }

    fn tell_hash(&mut self, made: &Made) {
        let words = Words { token_sha256: Some(made.sha256), ..Words::default() };
        self.commands.say(&made.command_id, words);
    }

    /// The next step, if it is due.
    pub(super) async fn turn_rotation(&mut self) {
        let now = self.now();
        let Some(turn) = self.rotation.as_ref().filter(|turn| now >= turn.retry_at) else { return };
        let (id, files, step) = (turn.made.command_id.clone(), turn.files.clone(), turn.step);
        let entry = self.commands.get(&id);
        let done = match step {
            // Its command is not open any more: nobody has been told of the token, or nobody wants it.
            Step::Told if entry.is_none() => {
                let back = self.file_step(files, Rotation::fall_back).await;
                if back.is_ok() {
                    // Nobody hears that; but the next rotation need not wait for this one.
                    let error = "its command is not known any more".to_owned();
                    self.commands.ended(&id, End::Failed { error, result: None });
                }
                back.map(|()| None)
            }
            Step::Told => {
                let told = entry.is_some_and(|entry| {
                    entry.report.token_sha256.as_ref().is_some_and(|hash| hash.0 == turn.made.sha256)
                        && !self.is_undelivered(entry.record_seq)
                });
                if !told || !self.answered {
                    return;
                }
                let switched = self.file_step(files, Rotation::switch).await;
                if switched.is_ok() {
                    tracing::info!("the server knows the new token: connecting with it");
                    self.read_config_again();
                    self.hang_up().await;
                }
                switched.map(|()| Some(Step::Switched))
            }
            Step::Switched if !self.answered => return,
            Step::Switched => {
                let confirmed = self.file_step(files, Rotation::confirm).await;
                if confirmed.is_ok() {
                    self.commands.ended(&id, End::Completed(Some(json!({}))));
                }
                confirmed.map(|()| None)
            }
            Step::Refused => {
                let back = self.file_step(files, Rotation::fall_back).await;
                if back.is_ok() {
                    self.read_config_again();
                    let error = "the server refuses the new token; the one before is used again".to_owned();
                    self.commands.ended(&id, End::Failed { error, result: None });
                }
                back.map(|()| None)
            }
        };
        match (done, &mut self.rotation) {
            (Ok(Some(step)), Some(turn)) => turn.step = step,
            (Ok(_), _) => self.rotation = None,
            (Err(error), turn) => {
                let text = with_causes(&error);
                tracing::error!("{text}");
                self.reporter.error(text, self.kernel.wall_ms());
                if let Some(turn) = turn {
                    turn.retry_at = now + RETRY;
                }
            }
        }
    }

    /// Whether the next connection has to be made with the token, to see what the server thinks of it.
    pub(super) fn token_is_tried_out(&self) -> bool {
        self.rotation.as_ref().is_some_and(|turn| turn.step != Step::Told)
            || self.token_trial != Trial::Configured
    }

    /// The broker has ended a connection, or not begun one.
    pub(super) fn rotation_hears_of_link(&mut self, error: &LinkError) {
        if matches!(error, LinkError::Credentials { .. }) {
            self.token_refused();
        }
    }

    /// The server does not tell where its broker is.
    pub(super) fn rotation_hears_of_server(&mut self, error: &ConnectError) {
        if matches!(error, ConnectError::Refused { .. }) {
            self.token_refused();
        }
    }

    fn token_refused(&mut self) {
        if let Some(turn) = self.rotation.as_mut().filter(|turn| turn.step == Step::Switched) {
            turn.step = Step::Refused;
        } else if matches!(self.token_trial, Trial::Before { .. }) {
            // Neither: in turns, for whatever the server takes some day.
            self.token_trial = Trial::Configured;
            self.read_config_again();
        } else {
            self.token_trial = Trial::Refused;
        }
    }

    /// The token in use was refused: tries the one before the last rotation, and keeps it once a server has answered.
    pub(super) async fn turn_token_trial(&mut self) {
        let now = self.now();
        match self.token_trial {
            Trial::Refused => {
                self.token_trial = Trial::Configured;
                let (Ok(files), Some(refused)) =
                    (Rotation::of(&self.config), self.config.device_token.clone())
                else {
                    return;
                };
                match tokio::task::spawn_blocking(move || files.token_before(&refused)).await {
                    Ok(Ok(Some(before))) => {
                        tracing::warn!("the server refuses this device's token: trying the one before");
                        self.config.device_token = Some(before);
                        self.token_trial = Trial::Before { keep_at: now };
                    }
                    Ok(Err(error)) => tracing::error!("{}", with_causes(&error)),
                    Ok(Ok(None)) | Err(_) => {}
                }
            }
            Trial::Before { keep_at } if self.answered && now >= keep_at => {
                let Ok(files) = Rotation::of(&self.config) else { return };
                match self.file_step(files, Rotation::go_back).await {
                    Ok(()) => {
                        tracing::warn!(
                            "the server knows the token of before the last rotation and no newer one, as after a restore \
                             from a backup: it is used from now on"
                        );
                        self.token_trial = Trial::Configured;
                        self.read_config_again();
                    }
                    Err(error) => {
                        let text = with_causes(&error);
                        tracing::error!("{text}");
                        self.reporter.error(text, self.kernel.wall_ms());
                        self.token_trial = Trial::Before { keep_at: now + RETRY };
                    }
                }
            }
            Trial::Configured | Trial::Before { .. } => {}
        }
    }

    /// When the next step is due.
    pub(super) fn rotation_at(&self) -> Option<Duration> {
        let turn = self.rotation.as_ref()?;
        (turn.retry_at > self.now() || turn.step == Step::Refused).then_some(turn.retry_at)
    }

    async fn file_step(
        &self,
        files: Rotation,
        step: fn(&Rotation) -> Result<(), RotationError>,
    ) -> Result<(), RotationError> {
        match tokio::task::spawn_blocking(move || step(&files)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(RotationError::Missing("the step was not made".to_owned())),
        }
    }
}
