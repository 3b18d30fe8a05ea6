//! Commands in the event loop: messages in, steps of [`crate::command`] out. Everything that decides is there.

use std::time::Duration;

use protocol::codec::{self, limit};
use protocol::command::CommandType;
use protocol::command::payload::Payload;
use protocol::message::{Command, DeviceAction, DeviceCommand};

use super::agent::Agent;
use super::effects::Done;
use crate::app_status::Liveness;
use crate::command::{self, Commands, End, Facts, Heard, Moment, OpenCommand, Probe, Step, Write, accepted};
use crate::effect::{self, EffectContext, Observed, Outcome, Probed, Refusal};
use crate::failpoint;

/// What was seen of the application counts for so long; it is looked at every 10 s, which takes up to 7 s.
const APP_SEEN_COUNTS: Duration = Duration::from_secs(30);
/// While a disruptive command waits, the application is looked at this often.
const LOOK_WHILE_WAITING: Duration = Duration::from_secs(3);
/// Open commands are looked at this often: locks, leases, expiries and delays pass by themselves.
const TICK: Duration = Duration::from_secs(1);
/// With so many safe commands waiting no more are taken in,
const CROWD: usize = 16;
/// unless none of them has come further for so long.
const PACE: Duration = Duration::from_secs(5);
/// After a change that could not be committed.
const RETRY: Duration = Duration::from_secs(2);

impl Agent {
    /// Takes in a message on the command topic.
    pub(super) async fn command(&mut self, payload: &[u8]) {
        let message: DeviceCommand = match codec::decode(payload, limit::COMMAND_BYTES) {
            Ok(message) => message,
            Err(error) => return tracing::warn!(%error, "a command cannot be read"),
        };
        failpoint::reached(failpoint::MESSAGE_CAME);
        let state_id = message.state_id;
        let Some(action) = message.action() else {
            return tracing::warn!("a message on the command topic asks for nothing, or for several things");
        };
        let Some(store) = &self.folder.store else { return };
        let brings_reports = match &action {
            DeviceAction::Override(_) | DeviceAction::Go(_) => false,
            // It ends one whose reports have room, and keeps its effect from happening.
            DeviceAction::Cancel(id) => self.commands.get(id).is_none(),
            DeviceAction::Run(_) | DeviceAction::Query(_) => true,
        };
        if brings_reports && !store.uplink.outbox().takes_commands() {
            tracing::warn!("no commands are taken: too many reports wait for the server");
            return;
        }
        let id = command::id_of(&action).clone();
        let known = match self.commands.get(&id) {
            Some(entry) => Some(entry.clone()),
            None => match store.command(id.clone()).await {
                Ok(known) => known,
                Err(error) => return self.kept(Err(error)),
            },
        };
        let for_this_state = state_id == store.state_id;
        let heard =
            self.with_facts(|commands, facts| commands.hear(action, for_this_state, known.as_ref(), facts));
        match (heard, known) {
            (Some(Heard::Write(write)), _) => drop(self.journal(*write).await),
            (Some(Heard::Check(command, payload)), _) => self.check(*command, payload).await,
            (Some(Heard::Repeat), Some(entry)) => {
                let ts_ms = self.kernel.wall_ms();
                let Some(store) = &mut self.folder.store else { return };
                if store.uplink.outbox().is_undelivered(entry.record_seq) {
                    return;
                }
                match store.repeat(&entry, ts_ms).await {
                    Ok(seq) => self.commands.repeated(&entry.id, seq),
                    Err(error) => self.kept(Err(error)),
                }
            }
            (Some(Heard::Nothing(why)), _) => {
                tracing::debug!(command_id = %id, "a message about a command: {why}")
            }
            (Some(Heard::Repeat), None) | (None, _) => {}
        }
    }

    /// Checks a new command against this device and takes it, or rejects it.
    async fn check(&mut self, command: Command, payload: Payload) {
        let config = self.config.clone();
        // It looks at the disk.
        let checked = tokio::task::spawn_blocking(move || {
            let prepared = effect::prepare(payload, &config)?;
            Ok::<_, Refusal>((prepared.is_disruptive(), prepared.delay()))
        });
        let checked = checked.await;
        let write = self.with_facts(|commands, facts| match checked {
            Ok(Ok((disruptive, delay))) => {
                let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
                Some(accepted(command, disruptive, delay_ms, facts))
            }
            Ok(Err(refusal)) => commands.refused(command, refusal.to_string(), facts),
            // The check itself has failed: as if the message had not come.
            Err(_) => None,
        });
        if let Some(write) = write.flatten() {
            self.journal(write).await;
        }
    }

    /// Commits a change. Returns whether that worked.
    pub(super) async fn journal(&mut self, write: Write) -> bool {
        let (ts_ms, trusted_ms) = (self.kernel.wall_ms(), self.clock.now_ms(self.kernel.boottime_ms()));
        let Some(store) = &mut self.folder.store else { return false };
        match store.journal(write, ts_ms, trusted_ms).await {
            Ok(write) => {
                let entry = &write.entry;
                if write.says {
                    let reason = entry.report.reason.as_deref().or(entry.report.error.as_deref());
                    let kind = entry.command.as_ref().map_or("", |command| &command.kind);
                    tracing::info!(command_id = %entry.id, kind, state = %entry.state, reason, "command");
                }
                self.commands.applied(&write);
                self.reporter.touch();
                self.kept(Ok(()));
                true
            }
            Err(error) => {
                self.commands_retry_at = self.now() + RETRY;
                self.kept(Err(error));
                false
            }
        }
    }

    /// Goes on with the open commands as far as that is possible without waiting.
    pub(super) async fn turn_commands(&mut self) {
        if self.commands.is_idle() || self.now() < self.commands_retry_at {
            return;
        }
        // A folder with thousands of recordings is not gone through that often, least of all during a show.
        let is_cheap = self.config.recordings_dir.is_none();
        if is_cheap && self.commands.waits_for_the_application() && self.now() >= self.next_look {
            self.next_look = self.now() + LOOK_WHILE_WAITING;
            self.probe.ask_app();
        }
        while let Some(step) = self.with_facts(|commands, facts| commands.poll(facts)).flatten() {
            match step {
                Step::Write(write) => {
                    if !self.journal(*write).await {
                        return;
                    }
                }
                // Only a look that begins from here on counts.
                Step::Look(_) => self.fresh_look = Some(self.probe.ask_app()),
                Step::Prepare(id) => {
                    let payload = self.commands.get(&id).and_then(payload_of);
                    let Some(payload) = payload else {
                        self.commands.prepared(&id, Err("its payload cannot be read".to_owned()));
                        continue;
                    };
                    let (config, kernel) = (self.config.clone(), self.kernel.clone());
                    if let Err(error) = self.effects.prepare(id.clone(), payload, config, kernel) {
                        self.commands.not_prepared(&id);
                        self.commands_retry_at = self.now() + RETRY;
                        return tracing::error!(%error, "the system gives no thread");
                    }
                }
                Step::Begin(id) => {
                    let seconds =
                        self.commands.get(&id).and_then(|e| e.command.as_ref()).map(|c| c.timeout_seconds);
                    let timeout = Duration::from_secs(u64::from(seconds.unwrap_or(0)));
                    let context = EffectContext {
                        command_id: id.clone(),
                        device_id: self.config.device_id.clone(),
                        kernel: self.kernel.clone(),
                    };
                    if let Err(error) = self.effects.begin(timeout, context) {
                        self.commands.ended(&id, End::Failed { error, result: None });
                    }
                }
                Step::Probe(id) if self.resume_rotation(&id) => {}
                Step::Probe(id) => {
                    let observed = self.commands.get(&id).and_then(|entry| entry.observed.as_deref());
                    let begun = match observed.map(Observed::from_text) {
                        Some(Ok(observed)) => {
                            let probing = self.effects.probe(id.clone(), observed, self.kernel.clone());
                            probing.map_err(|error| format!("the system gives no thread: {error}"))
                        }
                        _ => Err("what was noted before the effect cannot be read".to_owned()),
                    };
                    if let Err(why) = begun {
                        let now = self.moment();
                        self.commands.probed(&id, Probe::Ended(End::Indeterminate(why)), now);
                    }
                }
            }
        }
    }

    /// Whether safe commands come faster than they run: then the link is read more slowly, as long as they do run.
    pub(super) fn is_crowded(&self) -> bool {
        self.commands.safe_waiting() >= CROWD && self.now() < self.last_done + PACE
    }

    /// A thread has come to something.
    pub(super) async fn effect_done(&mut self, done: Done) {
        let now = self.moment();
        if let Done::Certificate(asked) = done {
            return self.certificate_asked(Ok(asked.map(|issued| *issued))).await;
        }
        self.last_done = self.now();
        match done {
            Done::Prepared(id, Ok(prepared)) => {
                if self.commands.prepared(&id, Ok(prepared.1.to_text())) {
                    self.effects.keep(id, *prepared, |id| self.commands.get(id).is_some());
                }
            }
            Done::Prepared(id, Err(refusal)) => {
                self.commands.prepared(&id, Err(refusal.to_string()));
            }
            Done::Ended(id, outcome) => {
                failpoint::reached(failpoint::EFFECT_HEARD);
                let changed_config =
                    self.commands.get(&id).is_some_and(|entry| entry.kind() == Some(CommandType::Config));
                match outcome {
                    Outcome::TokenMade(made) => self.token_made(made),
                    Outcome::Completed(result) => self.commands.ended(&id, End::Completed(Some(result))),
                    Outcome::Failed { error, result } => {
                        self.commands.ended(&id, End::Failed { error, result });
                    }
                    Outcome::TimedOut { error, result } => {
                        self.commands.ended(&id, End::TimedOut { error, result });
                    }
                    Outcome::RebootAsked => self.commands.dying(&id, now),
                }
                if changed_config {
                    self.read_config_again();
                    self.report_config().await;
                }
            }
            Done::Probed(id, probed) => {
                let probe = match probed {
                    Probed::Done(result) => Probe::Ended(End::Completed(Some(result))),
                    Probed::Failed { error, result } => Probe::Ended(End::Failed { error, result }),
                    Probed::NotDone => Probe::NotDone,
                    Probed::Unknown(why) => Probe::Ended(End::Indeterminate(why)),
                    Probed::StillGoing => Probe::StillGoing,
                };
                self.commands.probed(&id, probe, now);
            }
            Done::Certificate(_) => {}
        }
    }

    /// When the open commands must be looked at again.
    pub(super) fn commands_at(&self) -> Option<Duration> {
        let store = self.folder.store.as_ref();
        store.filter(|_| !self.commands.is_idle()).map(|_| (self.now() + TICK).max(self.commands_retry_at))
    }

    /// The open commands, for people.
    pub(super) fn open_commands(&mut self) -> Vec<OpenCommand> {
        if self.commands.is_idle() {
            return Vec::new();
        }
        self.with_facts(|commands, facts| commands.describe(facts)).unwrap_or_default()
    }

    pub(super) fn is_undelivered(&self, record_seq: u64) -> bool {
        self.folder.store.as_ref().is_none_or(|store| store.uplink.outbox().is_undelivered(record_seq))
    }

    pub(super) fn moment(&self) -> Moment {
        Moment { boot_id: self.kernel.boot_id(), boottime_ms: self.kernel.boottime_ms() }
    }

    /// Calls `f` with the commands and everything that a decision looks at; not while there is no state.
    fn with_facts<T>(&mut self, f: impl FnOnce(&mut Commands, &Facts<'_>) -> T) -> Option<T> {
        let (now, ts_ms) = (self.moment(), self.kernel.wall_ms());
        if self.kernel.clock_is_synchronized() {
            self.clock.ntp_has_set(ts_ms, now.boottime_ms);
        }
        let app = match (&self.app, self.probe.app_looked_for()) {
            (Some(app), Some(ago)) if ago < APP_SEEN_COUNTS => (app.liveness, app.because.as_str()),
            (Some(_), _) => (Liveness::Unknown, "looking at the application takes too long"),
            (None, _) => (Liveness::Unknown, "the application has not been looked at yet"),
        };
        let mut nonce = [0; 16];
        let nonce = getrandom::fill(&mut nonce).is_ok().then_some(nonce);
        let store = self.folder.store.as_ref()?;
        let undelivered = |seq| store.uplink.outbox().is_undelivered(seq);
        let facts = Facts {
            now,
            ts_ms,
            trusted_ms: self.clock.now_ms(now.boottime_ms),
            app,
            wanted: &store.wanted,
            connected: self.answered,
            nonce,
            undelivered: &undelivered,
        };
        Some(f(&mut self.commands, &facts))
    }
}

fn payload_of(entry: &command::Entry) -> Option<Payload> {
    let value = &entry.command.as_ref()?.payload;
    Payload::parse(entry.kind()?, value).ok()
}
