//! From a command's turn to its end: check, journal `running`, check again, effect.

use protocol::command::{CommandState, CommandType};
use protocol::id::CommandId;
use serde_json::Value;

use super::show_mode::{self, Facts};
use super::{Commands, Entry, Moment, Step, Words, Write, queue};
use crate::app_status::Liveness;

/// The second look at the application may take so long, milliseconds.
const LOOK_PATIENCE_MS: u64 = 20_000;
/// And counts for so long.
const LOOK_COUNTS_MS: u64 = 5_000;
/// Between two attempts to find out what became of an effect.
const PROBE_INTERVAL_MS: u64 = 2_000;

/// Commands of one lane run one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    Disruptive,
    /// Waits for the server in the middle, and must not hold up others meanwhile.
    Rotation,
    Safe,
}

impl Lane {
    pub(super) fn of(entry: &Entry) -> Self {
        match entry.kind() {
            _ if entry.disruptive => Self::Disruptive,
            // Nothing holds a restart of the agent itself, but it would cut off a script that runs.
            Some(CommandType::RestartService) => Self::Disruptive,
            Some(CommandType::RotateToken) => Self::Rotation,
            _ => Self::Safe,
        }
    }
}

/// How an effect ended.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// Done.
    Completed(Option<Value>),
    /// Not done, or done in vain.
    Failed {
        /// What went wrong.
        error: String,
        /// What came out of it all the same.
        result: Option<Value>,
    },
    /// It took too long and was stopped.
    TimedOut {
        /// What was stopped.
        error: String,
        /// What had come out of it until then.
        result: Option<Value>,
    },
    /// Nobody can tell; why.
    Indeterminate(String),
    /// It may not run after all; why. Only before the effect.
    Rejected(String),
}

/// What a probe found out about an effect that was cut off.
#[derive(Debug, Clone, PartialEq)]
pub enum Probe {
    /// That much is sure.
    Ended(End),
    /// It did not happen, and will not.
    NotDone,
    /// It is still at it: ask again in a while.
    StillGoing,
    /// It goes on in this process and will end like any other.
    Resumed,
}

/// How far a command is whose turn has come.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Stage {
    /// Its payload is checked once more.
    Preparing,
    /// To be journalled as running.
    Prepared { observed: String },
    /// Journalled: the second look is due.
    Starting,
    /// Under way, since then.
    Looking { since_ms: u64 },
    /// Seen then.
    Looked { at_ms: u64 },
    /// The effect may begin.
    Ready,
    /// The effect has begun; there may be something to say of it meanwhile.
    Begun { say: Option<Box<Words>> },
    /// The effect ends this process; if it does not until then, it is looked at again.
    Dying { until_ms: u64 },
    /// A probe is under way.
    Probing(Cut),
    /// The next probe is due then.
    ProbeAt { at_ms: u64, cut: Cut },
    /// To be journalled.
    Ended(Box<End>),
}

/// An effect of which nothing more will be heard.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cut {
    /// It was not cut off: it should have ended this process, and has not.
    late: bool,
    /// It may go on until then.
    until_ms: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Work {
    pub(super) lane: Lane,
    pub(super) stage: Stage,
}

impl Work {
    /// Whether an effect of this process has begun, or has ended and that is not journalled yet.
    pub(super) fn is_under_way(&self) -> bool {
        matches!(self.stage, Stage::Begun { .. } | Stage::Dying { .. } | Stage::Ended(_))
    }

    /// Whether an effect of this process may be at work.
    pub(super) fn effect_may_last(&self) -> bool {
        matches!(self.stage, Stage::Begun { .. } | Stage::Dying { .. })
    }

    /// Journalled as running, and whether the effect may begin is still to be decided.
    pub(super) fn is_before_its_effect(&self) -> bool {
        matches!(self.stage, Stage::Starting | Stage::Looking { .. } | Stage::Looked { .. })
    }

    /// `running` has been committed.
    pub(super) fn running_is_journalled(&mut self) {
        match &mut self.stage {
            Stage::Prepared { .. } if self.lane == Lane::Disruptive => self.stage = Stage::Starting,
            Stage::Prepared { .. } => self.stage = Stage::Ready,
            Stage::Begun { say } => *say = None,
            _ => {}
        }
    }
}

impl Commands {
    /// The payload was checked once more, and what the effect will change was noted; or why it may not run. Returns
    /// whether that was waited for: only the note that goes into the journal may be used for the effect.
    pub fn prepared(&mut self, id: &CommandId, outcome: Result<String, String>) -> bool {
        if self.works.get(id).is_none_or(|work| work.stage != Stage::Preparing) {
            return false;
        }
        let next = match outcome {
            Ok(observed) => Stage::Prepared { observed },
            Err(reason) => Stage::Ended(Box::new(End::Rejected(reason))),
        };
        self.step_from(id, |_| true, next);
        true
    }

    /// It could not even be tried to check the payload: its turn comes again.
    pub fn not_prepared(&mut self, id: &CommandId) {
        if self.works.get(id).is_some_and(|work| work.stage == Stage::Preparing) {
            self.works.remove(id);
        }
    }

    /// The application was looked at after [`Step::Look`] had asked for it; the facts say what was seen.
    pub fn looked(&mut self, now: Moment) {
        for work in self.works.values_mut() {
            if matches!(work.stage, Stage::Looking { .. }) {
                work.stage = Stage::Looked { at_ms: now.boottime_ms };
            }
        }
    }

    /// The effect has ended.
    pub fn ended(&mut self, id: &CommandId, end: End) {
        self.step_from(id, |_| true, Stage::Ended(Box::new(end)));
    }

    /// The effect ends this process, or the machine: nothing more will be heard of it.
    pub fn dying(&mut self, id: &CommandId, now: Moment) {
        let until_ms = now.boottime_ms.saturating_add(self.open.get(id).map_or(0, timeout_ms));
        self.step_from(id, |stage| matches!(stage, Stage::Begun { .. }), Stage::Dying { until_ms });
    }

    /// There is something to say of an effect that goes on.
    pub fn say(&mut self, id: &CommandId, words: Words) {
        let say = Some(Box::new(words));
        self.step_from(id, |stage| matches!(stage, Stage::Begun { .. }), Stage::Begun { say });
    }

    /// A probe has ended.
    pub fn probed(&mut self, id: &CommandId, probe: Probe, now: Moment) {
        let Some(Stage::Probing(cut)) = self.works.get(id).map(|work| work.stage.clone()) else { return };
        let next = match probe {
            // Nothing went wrong in between: it just did not happen.
            Probe::NotDone if cut.late => {
                let error = "the effect did not happen within timeout_seconds".to_owned();
                Stage::Ended(Box::new(End::TimedOut { error, result: None }))
            }
            Probe::NotDone => {
                let error = "interrupted".to_owned();
                Stage::Ended(Box::new(End::Failed { error, result: None }))
            }
            Probe::Ended(end) => Stage::Ended(Box::new(end)),
            Probe::StillGoing if now.boottime_ms >= cut.until_ms => {
                Stage::Ended(Box::new(End::Indeterminate("it goes on beyond timeout_seconds".to_owned())))
            }
            Probe::StillGoing => Stage::ProbeAt { at_ms: now.boottime_ms + PROBE_INTERVAL_MS, cut },
            Probe::Resumed => Stage::Begun { say: None },
        };
        self.step_from(id, |_| true, next);
    }

    fn step_from(&mut self, id: &CommandId, from: impl Fn(&Stage) -> bool, to: Stage) {
        if let Some(work) = self.works.get_mut(id).filter(|work| from(&work.stage)) {
            work.stage = to;
        }
    }

    /// The next step of a command whose turn has come.
    pub(super) fn advance(&mut self, facts: &Facts<'_>) -> Option<Step> {
        let ids: Vec<CommandId> = self.works.keys().cloned().collect();
        ids.iter().find_map(|id| self.advance_one(id, facts))
    }

    fn advance_one(&mut self, id: &CommandId, facts: &Facts<'_>) -> Option<Step> {
        let now_ms = facts.now.boottime_ms;
        let stage = self.works.get(id)?.stage.clone();
        let Some(entry) = self.open.get(id) else {
            // The database is another one than when the effect began: there is nobody to tell.
            if matches!(stage, Stage::Ended(_)) || !self.works.get(id)?.is_under_way() {
                self.works.remove(id);
            }
            return None;
        };
        let write = |write: Write| Some(Step::Write(Box::new(write)));
        match stage {
            Stage::Preparing | Stage::Begun { say: None } | Stage::Probing(_) => None,
            Stage::Prepared { observed } => {
                if queue::ended_by_itself(entry, facts).is_some() || self.is_held(entry, facts) {
                    // The queue sees to it.
                    self.works.remove(id);
                    return None;
                }
                let mut running = entry.moved(CommandState::Running, Words::default(), facts.ts_ms);
                running.entry.observed = Some(observed);
                write(running)
            }
            Stage::Starting if !entry.disruptive => self.begin(id),
            Stage::Starting => {
                self.works.get_mut(id)?.stage = Stage::Looking { since_ms: now_ms };
                Some(Step::Look(id.clone()))
            }
            Stage::Looking { since_ms } if now_ms.saturating_sub(since_ms) < LOOK_PATIENCE_MS => None,
            Stage::Looking { .. } => {
                let app = (Liveness::Unknown, "the application could not be looked at in time");
                self.begin_or_hold(id, &Facts { app, ..*facts })
            }
            Stage::Looked { at_ms } if now_ms.saturating_sub(at_ms) > LOOK_COUNTS_MS => {
                self.works.get_mut(id)?.stage = Stage::Looking { since_ms: now_ms };
                Some(Step::Look(id.clone()))
            }
            Stage::Looked { .. } => self.begin_or_hold(id, facts),
            Stage::Ready => self.begin(id),
            Stage::Begun { say: Some(words) } => {
                write(entry.moved(CommandState::Running, *words, facts.ts_ms))
            }
            Stage::Dying { until_ms } if now_ms >= until_ms => {
                self.probe(id, Cut { late: true, until_ms: now_ms.saturating_add(timeout_ms(entry)) })
            }
            Stage::ProbeAt { at_ms, cut } if now_ms >= at_ms => self.probe(id, cut),
            Stage::Dying { .. } | Stage::ProbeAt { .. } => None,
            Stage::Ended(end) => write(ended(entry, *end, facts.ts_ms)),
        }
    }

    fn is_held(&self, entry: &Entry, facts: &Facts<'_>) -> bool {
        entry.disruptive && show_mode::hold(entry, facts, self.leases.get(&entry.id)).is_some()
    }

    /// The second check.
    fn begin_or_hold(&mut self, id: &CommandId, facts: &Facts<'_>) -> Option<Step> {
        let entry = self.open.get(id)?;
        match show_mode::hold(entry, facts, self.leases.get(id)) {
            None => self.begin(id),
            Some(hold) => {
                let held = entry.moved(CommandState::Held, Words::reason(hold.text()), facts.ts_ms);
                Some(Step::Write(Box::new(held)))
            }
        }
    }

    fn begin(&mut self, id: &CommandId) -> Option<Step> {
        self.works.get_mut(id)?.stage = Stage::Begun { say: None };
        Some(Step::Begin(id.clone()))
    }

    fn probe(&mut self, id: &CommandId, cut: Cut) -> Option<Step> {
        self.works.get_mut(id)?.stage = Stage::Probing(cut);
        Some(Step::Probe(id.clone()))
    }

    /// An entry that is running although nobody works on it was cut off: what became of it?
    pub(super) fn find_out(&mut self, facts: &Facts<'_>) -> Option<Step> {
        let cut_off =
            |entry: &&Entry| entry.state == CommandState::Running && !self.works.contains_key(&entry.id);
        let entry = self.open.values().find(cut_off)?;
        let (id, lane) = (entry.id.clone(), Lane::of(entry));
        let until_ms = facts.now.boottime_ms.saturating_add(timeout_ms(entry));
        let stage = Stage::Probing(Cut { late: false, until_ms });
        self.works.insert(id.clone(), Work { lane, stage });
        Some(Step::Probe(id))
    }

    /// Every open command on which no effect of this process is at work, given up: this state is an older copy, and
    /// what it holds may have been done after the copy was made.
    #[must_use]
    pub fn given_up(&self, ts_ms: i64) -> Vec<Write> {
        let at_work = |id| self.works.get(id).is_some_and(Work::is_under_way);
        let words = || Words::reason("this device was restored from an older copy of itself");
        let given_up = self.open.values().filter(|entry| !at_work(&entry.id));
        given_up.map(|entry| entry.moved(CommandState::Indeterminate, words(), ts_ms)).collect()
    }
}

fn timeout_ms(entry: &Entry) -> u64 {
    entry.command.as_ref().map_or(0, |command| u64::from(command.timeout_seconds) * 1000)
}

fn ended(entry: &Entry, end: End, ts_ms: i64) -> Write {
    let (state, words) = match end {
        End::Completed(result) => (CommandState::Completed, Words { result, ..Words::default() }),
        End::Failed { error, result } => {
            (CommandState::Failed, Words { error: Some(error), result, ..Words::default() })
        }
        End::TimedOut { error, result } => {
            (CommandState::TimedOut, Words { error: Some(error), result, ..Words::default() })
        }
        End::Indeterminate(reason) => (CommandState::Indeterminate, Words::reason(reason)),
        End::Rejected(reason) => (CommandState::Rejected, Words::reason(reason)),
    };
    entry.moved(state, words, ts_ms)
}
