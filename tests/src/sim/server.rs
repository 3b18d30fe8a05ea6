//! The server: its process, and what it does with what devices say. As `fleetd::service::ingest` around the lane and the
//! reports.

use std::collections::BTreeMap;

use fleetd::domain::command::Command;
use fleetd::domain::dispatch::{self, DesiredSent, DigestWatch};
use fleetd::domain::lane::{Lane, PresenceMeans, Stored, Taken};
use fleetd::domain::report::{self, Folded};
use protocol::command::{CommandState, Mover};
use protocol::id::{CommandId, StateId};
use protocol::message::{Ack, Birth, Event, Void};
use protocol::ranges::RangeSet;

use super::bug::Bug;
use super::check;
use super::database::{Database, Row, row_id};
use super::device::report_token;
use super::env::{Env, Mishap};
use super::wire::{Down, Up, Wire};

/// A will counts after so long.
const WILL_MS: i64 = 10_000;
/// A device that is silent for so long is offline.
const SILENCE_MS: i64 = 180_000;

pub(crate) struct Server {
    pub(crate) up: bool,
    pub(crate) db: Database,
    pub(crate) backup: Option<Database>,
    pub(crate) memory: Memory,
}

/// What a kill takes away.
#[derive(Default)]
pub(crate) struct Memory {
    lanes: BTreeMap<usize, Lane>,
    pub(crate) digests: BTreeMap<usize, DigestWatch>,
    pub(crate) desired: DesiredSent,
    /// When `go` was said last.
    pub(crate) gone: BTreeMap<CommandId, i64>,
}

/// One device's part of a batch, before its commit.
struct Draft {
    device: usize,
    lane: Lane,
    row: Row,
    committed: BTreeMap<StateId, RangeSet>,
    stored: Vec<(StateId, u64, u64, RangeSet)>,
    reports: Vec<(StateId, CommandId, u32, CommandState)>,
    commands: BTreeMap<CommandId, (Command, Vec<(Command, Mover)>)>,
    acknowledge: bool,
    full: bool,
}

impl Server {
    pub(crate) fn new(grouped: &[bool]) -> Self {
        Self { up: true, db: Database::new(grouped), backup: None, memory: Memory::default() }
    }

    pub(crate) fn kill(&mut self, env: &mut Env, wires: &mut [Wire]) {
        if !self.up {
            return;
        }
        env.note(|| "server: dies".to_owned());
        self.up = false;
        self.memory = Memory::default();
        wires.iter_mut().for_each(Wire::server_died);
        if env.has(Bug::DedupeForgotten) {
            self.db.committed.clear();
        }
    }

    /// A copy takes the database's place, with the rules for that.
    pub(crate) fn restore(&mut self, env: &mut Env, wires: &mut [Wire]) {
        let Some(copy) = self.backup.clone() else { return };
        self.kill(env, wires);
        env.count("server restored from a backup");
        env.note(|| "server: restored from a backup".to_owned());
        env.ledger.restores += 1;
        self.db = copy.restored(env);
        env.ledger.durable = self.db.committed.clone();
        self.up = true;
    }

    /// What happens at a commit: whether it counts, and whether the server goes on.
    pub(crate) fn at_commit(&self, env: &mut Env) -> Mishap {
        if !env.mishap(env.mix.commit_fails_permille) {
            return Mishap::None;
        }
        match env.rng.below(3) {
            0 => Mishap::DiesBefore,
            1 => Mishap::DiesAfter,
            _ => Mishap::Refused,
        }
    }

    /// Takes a batch of one device's packets, in one transaction. Returns whether the server lives.
    pub(crate) fn take(&mut self, env: &mut Env, device: usize, batch: Vec<Up>, wires: &mut [Wire]) {
        let lane = match self.memory.lanes.remove(&device) {
            Some(lane) => lane,
            None => self.load(device),
        };
        let mut draft = Draft {
            device,
            lane,
            row: self.db.devices[device].clone(),
            committed: BTreeMap::new(),
            stored: Vec::new(),
            reports: Vec::new(),
            commands: BTreeMap::new(),
            acknowledge: false,
            full: false,
        };
        for packet in batch {
            match packet {
                Up::Birth(birth) => self.birth(env, &mut draft, *birth),
                Up::Presence(presence) => match draft.lane.presence(presence) {
                    PresenceMeans::Lost => draft.lost(env),
                    PresenceMeans::Stands | PresenceMeans::Stale => {}
                },
                Up::Records(uplink, payload) => {
                    let taken = draft.lane.records(Some(uplink), &payload, env.now_ms);
                    self.records(env, &mut draft, taken);
                }
            }
        }
        let early = env.has(Bug::AckBeforeCommit);
        if early {
            acknowledge(env, &draft, &mut wires[device]);
        }
        match self.at_commit(env) {
            Mishap::DiesBefore => {
                env.count("server killed before a commit");
                self.kill(env, wires);
            }
            Mishap::Refused => env.count("commit lost to another"),
            mishap => {
                self.commit(env, &draft);
                if mishap == Mishap::DiesAfter {
                    env.count("server killed after a commit");
                    return self.kill(env, wires);
                }
                if !early {
                    acknowledge(env, &draft, &mut wires[device]);
                }
                self.memory.lanes.insert(device, draft.lane);
            }
        }
    }

    fn load(&self, device: usize) -> Lane {
        let mut lane = Lane::default();
        if let Some(born) = self.db.devices[device].born.clone() {
            let committed = self.committed(device, born.birth.state_id);
            lane.born(born.birth, born.at, committed);
        }
        lane
    }

    fn committed(&self, device: usize, state_id: StateId) -> RangeSet {
        self.db.committed.get(&(device, state_id)).cloned().unwrap_or_default()
    }

    fn birth(&self, env: &mut Env, draft: &mut Draft, birth: Birth) {
        draft.seal();
        let state_id = birth.state_id;
        let same = draft.lane.born.as_ref().is_some_and(|born| born.birth.state_id == state_id);
        let committed = match draft.committed.get(&state_id) {
            _ if same => draft.lane.committed.clone(),
            Some(sealed) => sealed.clone(),
            None => self.committed(draft.device, state_id),
        };
        if !same {
            self.lose_state(env, draft, state_id);
        }
        env.note(|| format!("server: birth of device {}, connection {}", draft.device, birth.connection));
        draft.lane.born(birth, env.now_ms, committed);
        draft.row.born.clone_from(&draft.lane.born);
        draft.row.born_after = env.ledger.restores;
        draft.row.digest = None;
        draft.row.online = true;
        draft.row.last_seen_at = Some(env.now_ms);
        draft.row.will_at = None;
        (draft.acknowledge, draft.full) = (true, true);
        if draft.lane.was_lost() {
            draft.lost(env);
        }
    }

    /// What was sent to another state database can never be answered by it.
    fn lose_state(&self, env: &Env, draft: &mut Draft, new: StateId) {
        for command in self.db.open_of(draft.device) {
            let entry = draft.commands.entry(command.order.id.clone());
            let (command, moves) = entry.or_insert_with(|| (command, Vec::new()));
            if command.sent_state_id.is_none_or(|sent| sent == new) {
                continue;
            }
            if let Some(plan) = dispatch::gives_up(command, env.now_ms, dispatch::LOST_STATE) {
                draft_move(command, plan.command, moves, Mover::Inference);
            }
        }
    }

    fn records(&self, env: &mut Env, draft: &mut Draft, taken: Taken) {
        let Some(born) = draft.lane.born.clone() else { return };
        let state_id = born.birth.state_id;
        if let Some(why) = &taken.malformed {
            env.broken(|| format!("the server cannot read a packet: {why}"));
        }
        env.check(taken.unnumbered == 0, || "a record without a number".to_owned());
        if taken.duplicates > 0 {
            env.count("record stored before, acknowledged again");
        }
        if taken.mismatched > 0 {
            env.count("record of another connection left alone");
        }
        draft.acknowledge |= taken.acknowledge;
        for stored in taken.stored {
            let (seq, token) = match &stored {
                Stored::Alive(at) => {
                    let row = &mut draft.row;
                    row.last_seen_at = Some(env.now_ms);
                    if row.will_at.is_none_or(|will| !(*at..=env.now_ms).contains(&will)) {
                        (row.online, row.will_at) = (true, None);
                    }
                    continue;
                }
                Stored::Heartbeat(sample) => {
                    if draft.row.heartbeat_at.is_none_or(|at| at <= sample.at || at > env.now_ms) {
                        draft.row.heartbeat_at = Some(sample.at);
                        draft.row.digest.clone_from(&sample.commands_digest);
                    }
                    let token = sample.outbox_depth.map_or(0, u64::from);
                    (sample.record.map_or(0, |(_, seq)| seq), token)
                }
                Stored::Report(report) => {
                    if let Ok(state) = report.state.parse() {
                        draft.reports.push((state_id, report.id.clone(), report.report_seq, state));
                    }
                    self.fold(env, draft, report, state_id);
                    (report.seq, report_token(report))
                }
                Stored::Reported(reported) => {
                    draft.row.reported_version = Some(reported.desired_version);
                    (reported.seq, reported.ts.cast_unsigned())
                }
                Stored::Log(batch) => (batch.seq, batch.ts.cast_unsigned()),
                Stored::Event(event) if event.void.is_empty() => (event.seq, event.ts.cast_unsigned()),
                Stored::Event(event) => (event.seq, 0),
                Stored::Poison { seq, reason, .. } => {
                    let seq = *seq;
                    env.broken(|| format!("record {seq} is poison: {reason}"));
                    (seq, 0)
                }
            };
            let gone = match &stored {
                Stored::Event(event) => named(event),
                _ => RangeSet::new(),
            };
            draft.stored.push((state_id, seq, token, gone));
        }
    }

    fn fold(&self, env: &mut Env, draft: &mut Draft, told: &protocol::message::CommandReport, from: StateId) {
        let Some(known) = self.db.commands.get(&told.id) else { return };
        env.check(known.order.device_id.as_str() == row_id(draft.device), || {
            format!("device {} reports {}, which is another's", draft.device, told.id)
        });
        let (command, moves) =
            draft.commands.entry(told.id.clone()).or_insert_with(|| (known.clone(), Vec::new()));
        let mut next = command.clone();
        if env.has(Bug::EndOverwritten)
            && let Ok(state) = told.state.parse::<CommandState>()
        {
            next.standing.state = state;
            next.standing.inferred = false;
            next.standing.report_seq = told.report_seq.max(next.standing.report_seq);
        } else if let Folded::Changed { late, .. } = report::fold(&mut next, told, from, env.now_ms) {
            if late {
                env.count("late report");
            }
        } else {
            return;
        }
        draft_move(command, next, moves, Mover::Device);
    }

    /// The transaction.
    fn commit(&mut self, env: &mut Env, draft: &Draft) {
        let device = draft.device;
        let mut committed = draft.committed.clone();
        if let Some(born) = &draft.lane.born {
            committed.insert(born.birth.state_id, draft.lane.committed.clone());
            env.ledger.current_state.insert(device, born.birth.state_id);
        }
        for (state_id, seq, token, gone) in &draft.stored {
            let key = (device, *state_id);
            let before = self.db.stored.entry(key).or_default().insert(*seq, *token);
            env.check(before.is_none(), || format!("record {seq} of device {device} is stored twice"));
            let made =
                env.ledger.made.get(&(device, *state_id, *seq)).is_some_and(|made| made.contains(token));
            env.check(made, || format!("record {seq} of device {device} was never made"));
            self.db.void.entry(key).or_default().extend(gone);
        }
        for (state_id, ranges) in committed {
            let key = (device, state_id);
            if self.db.committed.get(&key) == Some(&ranges) {
                continue;
            }
            let numbers = self.db.stored.get(&key).map(|stored| stored.keys().copied().collect::<RangeSet>());
            let mut all = numbers.unwrap_or_default();
            if let Some(void) = self.db.void.get(&key) {
                all.extend(void);
            }
            env.check(all == ranges, || {
                format!("device {device}: {ranges:?} counts as committed, stored or void is {all:?}")
            });
            env.ledger.durable.insert(key, ranges.clone());
            env.ledger.ever_durable.entry(key).or_default().extend(&ranges);
            self.db.committed.insert(key, ranges);
        }
        for (state_id, id, number, state) in &draft.reports {
            let last = self
                .db
                .reports
                .entry((device, *state_id))
                .or_default()
                .entry(id.clone())
                .or_insert((0, *state));
            if *number > last.0 {
                *last = (*number, *state);
            }
        }
        // Whose doubt a lease has ended meanwhile stays without.
        let restored_at = self.db.devices[device].restored_at;
        self.db.devices[device] = Row { restored_at, ..draft.row.clone() };
        for (_, moves) in draft.commands.values() {
            for (after, mover) in moves {
                self.put(env, after.clone(), *mover);
            }
        }
    }

    /// Stores a command as it is now, at the revision after the stored one.
    pub(crate) fn put(&mut self, env: &mut Env, command: Command, mover: Mover) {
        check::server_moves(env, self.db.commands.get(&command.order.id), &command, mover);
        self.db.commands.insert(command.order.id.clone(), command);
    }

    /// As the heartbeat monitor.
    pub(crate) fn monitor(&mut self, env: &Env) {
        for row in &mut self.db.devices {
            let lost = row.will_at.is_some_and(|at| env.now_ms - at >= WILL_MS);
            let silent = row.last_seen_at.is_none_or(|at| env.now_ms - at >= SILENCE_MS);
            row.online &= !lost && !silent;
        }
    }
}

impl Draft {
    /// What the batch has of the present state database is kept before another takes over.
    fn seal(&mut self) {
        if let Some(born) = &self.lane.born {
            self.committed.insert(born.birth.state_id, self.lane.committed.clone());
        }
    }

    fn lost(&mut self, env: &Env) {
        self.row.will_at.get_or_insert(env.now_ms);
    }
}

fn draft_move(command: &mut Command, mut next: Command, moves: &mut Vec<(Command, Mover)>, mover: Mover) {
    next.revision = command.revision + 1;
    *command = next.clone();
    moves.push((next, mover));
}

fn acknowledge(env: &Env, draft: &Draft, wire: &mut Wire) {
    let Some(born) = draft.lane.born.as_ref().filter(|_| draft.acknowledge && wire.broker_up) else { return };
    let ack = Ack {
        state_id: born.birth.state_id,
        ranges: draft.lane.committed.clone(),
        commands_pending: None,
        target_version: None,
        server_time: draft.full.then_some(env.now_ms),
    };
    wire.to_device.push_back(Down::Ack(ack, env.ledger.restores));
}

fn named(event: &Event) -> RangeSet {
    let mut gone = RangeSet::new();
    event.void.iter().filter_map(Void::gone).for_each(|set| gone.extend(&set));
    gone
}
