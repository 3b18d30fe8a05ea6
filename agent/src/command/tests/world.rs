//! A device for property tests: a disk that keeps what was committed, an application, a clock, a server that hears
//! reports; and what must hold at every step.

use std::collections::{BTreeMap, BTreeSet};

use protocol::codec::Bytes;
use protocol::command::payload::Payload;
use protocol::command::standing::{Heard as Told, Standing, Told as Report};
use protocol::command::{CommandState, Mover};
use protocol::id::{CommandId, StateId};
use protocol::message::{Command, CommandReport, DeviceCommand, Go, Override};
use serde_json::json;
use uuid::Uuid;

use crate::app_status::Liveness;
use crate::command::{Commands, End, Entry, Facts, Heard, Moment, Probe, Step, Wanted, accepted, id_of};

pub(super) const OWN: StateId = StateId([1; 8]);
pub(super) const COMMANDS: u8 = 5;
/// When every command expires, by the model's clock.
const EXPIRY_MS: i64 = 2_000_000;

#[derive(Debug, Clone)]
pub(super) enum Op {
    Run(u8),
    RunForAnotherState(u8),
    Cancel(u8),
    Query(u8),
    Override(u8),
    /// Grants the lease that was asked for last.
    Go(u8),
    /// Does what is to be done; at the n-th write something may happen.
    Turn(Option<(u8, Mishap)>),
    /// The n-th thing under way ends.
    Job(usize),
    /// The process dies; with `true` the machine.
    Crash(bool),
    /// The database has to be opened again, under a process that goes on.
    Reopen,
    Time(u64),
    App(u8),
    Lock(bool),
    Desired(u64),
    Trust(bool),
    Connected(bool),
    Delivered,
    Group(bool),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Mishap {
    /// Before its commit.
    DiesBefore,
    DiesAfter,
    /// It was committed, but what comes after has failed.
    Reopens,
}

#[derive(Debug, Clone, PartialEq)]
enum Job {
    Prepare(CommandId),
    Look,
    Effect(CommandId),
    Probe(CommandId),
}

pub(super) struct World {
    pub(super) disk: BTreeMap<CommandId, Entry>,
    pub(super) effects: BTreeMap<CommandId, u32>,
    pub(super) commands: Commands,
    /// Every report that was committed, in order, with the record's number; repetitions too.
    pub(super) records: Vec<CommandReport>,
    delivered: usize,
    jobs: Vec<Job>,
    boot: u128,
    pub(super) boottime_ms: u64,
    true_ms: i64,
    trusted: bool,
    pub(super) app: Liveness,
    pub(super) wanted: Wanted,
    connected: bool,
    /// Whether a server has answered since the process started.
    recognised: bool,
    nonces: u8,
    /// By id: the nonce asked for last, when, of which group, and whether it was granted in time.
    asked: BTreeMap<CommandId, (Bytes, u64, Option<String>, bool)>,
    overridden: BTreeSet<CommandId>,
}

pub(super) fn id(n: u8) -> CommandId {
    format!("c{n}").parse().unwrap()
}

pub(super) fn command(n: u8) -> Command {
    let (kind, payload) = match n % 5 {
        0 => ("restart_service", json!({"service": "r58-api"})),
        1 => ("reboot", json!({"delay_seconds": 20})),
        2 => ("ping", json!({})),
        3 => ("custom", json!({"script": "a"})),
        _ => ("config", json!({"changes": {"A": "1"}})),
    };
    Command {
        id: id(n),
        kind: kind.to_owned(),
        payload,
        priority: 5 - n % 3,
        created_at: i64::from(n),
        expires_at: EXPIRY_MS,
        timeout_seconds: 120,
        desired_version: u64::from(n % 2),
        override_show: None,
    }
}

pub(super) fn message() -> DeviceCommand {
    DeviceCommand { state_id: OWN, command: None, cancel: None, query: None, override_show: None, go: None }
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            disk: BTreeMap::new(),
            effects: BTreeMap::new(),
            commands: Commands::default(),
            records: Vec::new(),
            delivered: 0,
            jobs: Vec::new(),
            boot: 1,
            boottime_ms: 100_000,
            true_ms: 1_000_000,
            trusted: true,
            app: Liveness::Idle,
            wanted: Wanted::default(),
            connected: true,
            recognised: true,
            nonces: 0,
            asked: BTreeMap::new(),
            overridden: BTreeSet::new(),
        }
    }

    fn now(&self) -> Moment {
        Moment { boot_id: Uuid::from_u128(self.boot), boottime_ms: self.boottime_ms }
    }

    /// Calls `f` with the commands and the facts.
    pub(super) fn with<T>(&mut self, f: impl FnOnce(&mut Commands, &Facts<'_>) -> T) -> T {
        let delivered = self.delivered;
        let undelivered = |seq: u64| seq as usize > delivered;
        self.nonces = self.nonces.wrapping_add(1);
        let facts = Facts {
            now: self.now(),
            ts_ms: self.true_ms,
            trusted_ms: self.trusted.then_some(self.true_ms),
            app: (self.app, "seen"),
            wanted: &self.wanted,
            connected: self.connected,
            nonce: Some([self.nonces; 16]),
            undelivered: &undelivered,
        };
        f(&mut self.commands, &facts)
    }

    /// Hears a message as the event loop does: what is to be committed is.
    pub(super) fn hear(&mut self, message: DeviceCommand) -> Option<Heard> {
        let for_this_state = message.state_id == OWN;
        let action = message.action()?;
        let id = id_of(&action).clone();
        let known = self.disk.get(&id).cloned();
        let heard = self.with(|commands, facts| commands.hear(action, for_this_state, known.as_ref(), facts));
        match &heard {
            Heard::Write(write) => {
                let write = (**write).clone();
                self.commit(write);
            }
            Heard::Check(command, payload) => {
                let disruptive = payload.is_disruptive("r58-fleet-agent");
                let delay_ms = match payload {
                    Payload::Reboot(reboot) => u64::from(reboot.delay_seconds) * 1000,
                    _ => 0,
                };
                let write = self.with(|_, facts| accepted((**command).clone(), disruptive, delay_ms, facts));
                self.commit(write);
            }
            Heard::Repeat => {
                let entry = known.unwrap();
                if entry.record_seq as usize <= self.delivered {
                    self.records.push(entry.report.clone());
                    let seq = self.records.len() as u64;
                    self.disk.get_mut(&id).unwrap().record_seq = seq;
                    self.commands.repeated(&id, seq);
                }
            }
            Heard::Nothing(_) => {}
        }
        Some(heard)
    }

    fn commit(&mut self, mut write: crate::command::Write) {
        self.commit_to_disk(&mut write);
        self.commands.applied(&write);
    }

    fn commit_to_disk(&mut self, write: &mut crate::command::Write) {
        let entry = &mut write.entry;
        if let Some(before) = self.disk.get(&entry.id) {
            assert!(before.state.is_open(), "{} left its end for {}", entry.id, entry.state);
            let moves = before.state.may_become(entry.state, Mover::Device, false);
            assert!(moves || before.state == entry.state, "{} → {}", before.state, entry.state);
            assert_eq!(entry.report.report_seq, before.report.report_seq + u32::from(write.says));
        } else {
            assert_eq!(entry.report.report_seq, 1);
        }
        if write.says {
            self.records.push(entry.report.clone());
            entry.record_seq = self.records.len() as u64;
            if let Some(nonce) = &entry.report.nonce {
                assert!(self.connected);
                let asked = (nonce.clone(), self.boottime_ms, self.wanted.redundancy_group.clone(), false);
                self.asked.insert(entry.id.clone(), asked);
            }
        }
        self.disk.insert(entry.id.clone(), entry.clone());
    }

    pub(super) fn apply(&mut self, op: Op) {
        match op {
            Op::Run(n) => drop(self.hear(DeviceCommand { command: Some(command(n)), ..message() })),
            Op::RunForAnotherState(n) => {
                let state_id = StateId([2; 8]);
                self.hear(DeviceCommand { state_id, command: Some(command(n)), ..message() });
            }
            Op::Cancel(n) => drop(self.hear(DeviceCommand { cancel: Some(id(n)), ..message() })),
            Op::Query(n) => drop(self.hear(DeviceCommand { query: Some(id(n)), ..message() })),
            Op::Override(n) => {
                let order = Override { id: id(n), reason: "now".to_owned() };
                let heard = self.hear(DeviceCommand { override_show: Some(order), ..message() });
                if matches!(heard, Some(Heard::Write(_))) {
                    self.overridden.insert(id(n));
                }
            }
            Op::Go(n) => self.grant(&id(n)),
            Op::Turn(crash_at) => self.turn(crash_at),
            Op::Job(n) if !self.jobs.is_empty() => self.job(n % self.jobs.len()),
            Op::Job(_) => {}
            Op::Crash(machine) => self.crash(machine),
            Op::Reopen => self.load(),
            Op::Time(ms) => self.pass(ms),
            Op::App(n) => self.app = [Liveness::Idle, Liveness::Live, Liveness::Unknown][usize::from(n)],
            Op::Lock(on) => {
                self.wanted.show_locks = if on { vec![(0, i64::MAX)] } else { vec![(0, 1)] };
            }
            Op::Desired(version) => self.wanted.version = self.wanted.version.max(version),
            Op::Trust(trusted) => self.trusted = trusted,
            Op::Connected(connected) => self.connected = connected,
            Op::Delivered => self.delivered = self.records.len(),
            Op::Group(on) => self.wanted.redundancy_group = on.then(|| "pair".to_owned()),
        }
    }

    fn pass(&mut self, ms: u64) {
        self.boottime_ms += ms;
        self.true_ms += i64::try_from(ms).unwrap();
    }

    fn grant(&mut self, id: &CommandId) {
        let Some((nonce, at, group, granted)) = self.asked.get_mut(id) else { return };
        *granted |= self.boottime_ms - *at < 60_000 && *group == self.wanted.redundancy_group;
        let go = Go { id: id.clone(), nonce: nonce.clone() };
        self.hear(DeviceCommand { go: Some(go), ..message() });
    }

    fn crash(&mut self, machine: bool) {
        self.jobs.clear();
        if machine {
            self.boot += 1;
            self.true_ms += 30_000;
            self.boottime_ms = 15_000;
        }
        self.commands = Commands::default();
        self.load();
    }

    fn load(&mut self) {
        self.recognised = false;
        self.asked.clear();
        self.commands.load(self.disk.values().filter(|entry| entry.state.is_open()).cloned().collect());
    }

    pub(super) fn turn(&mut self, mishap_at: Option<(u8, Mishap)>) {
        let mut writes = 0;
        self.recognised |= self.connected;
        for _ in 0..1000 {
            let Some(step) = self.with(|commands, facts| commands.poll(facts)) else {
                return self.nobody_waits_without_reason();
            };
            match step {
                Step::Write(write) => {
                    let mut write = *write;
                    let mishap = mishap_at.filter(|(at, _)| *at == writes).map(|(_, mishap)| mishap);
                    writes += 1;
                    match mishap {
                        Some(Mishap::DiesBefore) => return self.crash(false),
                        Some(Mishap::DiesAfter) => {
                            self.commit_to_disk(&mut write);
                            return self.crash(false);
                        }
                        Some(Mishap::Reopens) => {
                            self.commit_to_disk(&mut write);
                            return self.load();
                        }
                        None => self.commit(write),
                    }
                }
                Step::Prepare(id) => self.jobs.push(Job::Prepare(id)),
                Step::Look(_) => self.jobs.push(Job::Look),
                Step::Probe(id) => self.jobs.push(Job::Probe(id)),
                Step::Begin(id) => self.begin(id),
            }
        }
        panic!("it never comes to rest");
    }

    fn job(&mut self, n: usize) {
        let now = self.now();
        match self.jobs.remove(n) {
            Job::Prepare(id) => drop(self.commands.prepared(&id, Ok("{}".to_owned()))),
            Job::Look => self.commands.looked(now),
            Job::Effect(id) => self.commands.ended(&id, End::Completed(None)),
            Job::Probe(id) => {
                let probe = match self.effects.get(&id) {
                    // What a probe of a script would say.
                    Some(_) if id.as_str() == "c3" => {
                        Probe::Ended(End::Indeterminate("nobody knows".to_owned()))
                    }
                    Some(_) => Probe::Ended(End::Completed(None)),
                    None => Probe::NotDone,
                };
                self.commands.probed(&id, probe, now);
            }
        }
    }

    /// The effect itself: everything that the contract asks for must hold now.
    fn begin(&mut self, id: CommandId) {
        let entry = &self.disk[&id];
        assert_eq!(entry.state, CommandState::Running, "journalled before the effect");
        assert!(self.recognised, "it may be an older copy");
        if entry.disruptive {
            assert!(!self.is_held(entry), "{id} runs although something stands against it");
            let at_work = |job: &Job| matches!(job, Job::Effect(other) if self.disk[other].disruptive);
            assert!(!self.jobs.iter().any(at_work), "two disruptive effects at a time");
        }
        *self.effects.entry(id.clone()).or_insert(0) += 1;
        assert_eq!(self.effects[&id], 1, "{id} is done twice");
        self.jobs.push(Job::Effect(id));
    }

    /// The rule of show mode once more, in other words.
    fn is_held(&self, entry: &Entry) -> bool {
        let passes_show = self.overridden.contains(&entry.id)
            || (self.app == Liveness::Idle
                && self.wanted.show_locks.iter().all(|lock| !(lock.0..lock.1).contains(&self.true_ms)));
        let leased = self.wanted.redundancy_group.is_none()
            || self.asked.get(&entry.id).is_some_and(|(_, at, group, ok)| {
                *ok && self.boottime_ms - at < 60_000 && *group == self.wanted.redundancy_group
            });
        let known = entry.command.as_ref().unwrap().desired_version <= self.wanted.version;
        !(known && self.trusted && passes_show && leased)
    }

    /// At rest, whoever waits does so for a reason of its own or because its lane is taken.
    fn nobody_waits_without_reason(&self) {
        let disruptive_at_work = self.disk.values().any(|e| e.disruptive && e.state == CommandState::Running)
            || self.jobs.iter().any(|job| matches!(job, Job::Prepare(id) if self.disk[id].disruptive));
        for entry in self.disk.values().filter(|entry| entry.is_waiting() && entry.disruptive) {
            let preparing = self.jobs.contains(&Job::Prepare(entry.id.clone()));
            let delayed = entry.delay_left_ms(self.now()).is_some();
            let reason =
                !self.recognised || preparing || delayed || self.is_held(entry) || disruptive_at_work;
            assert!(reason, "{} could run", entry.id);
        }
    }

    /// Everything turns good, and time passes.
    pub(super) fn settle(&mut self) {
        self.app = Liveness::Idle;
        self.wanted = Wanted { version: 9, show_locks: Vec::new(), ..self.wanted.clone() };
        self.trusted = true;
        self.connected = true;
        for _ in 0..60 {
            self.delivered = self.records.len();
            self.turn(None);
            let ids: Vec<CommandId> = self.asked.keys().cloned().collect();
            ids.iter().for_each(|id| self.grant(id));
            while !self.jobs.is_empty() {
                self.job(0);
                self.turn(None);
            }
            self.pass(4_000);
        }
    }

    /// A server that hears every report, in this order or the other, comes to the same state.
    pub(super) fn server_agrees(&self) {
        for (id, entry) in &self.disk {
            let hear = |standing: Standing, report: &CommandReport| {
                let told = Report {
                    state: report.state.parse().unwrap(),
                    report_seq: report.report_seq,
                    same_state_database: true,
                };
                match standing.report(told) {
                    Told::Moved(next) | Told::Progress(next) => next,
                    Told::Late | Told::Known => standing,
                    Told::Refused(why) => panic!("{id}: {why}: {report:?} at {standing:?}"),
                }
            };
            let mine: Vec<&CommandReport> = self.records.iter().filter(|r| r.id == *id).collect();
            let sent = Standing::PENDING.by_server(CommandState::Sent).unwrap();
            let forward = mine.iter().fold(sent, |standing, report| hear(standing, report));
            let backward = mine.iter().rev().fold(sent, |standing, report| hear(standing, report));
            assert_eq!((forward.state, backward.state), (entry.state, entry.state), "{id}");
        }
    }
}
