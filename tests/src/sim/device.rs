//! A device: its folder on disk, its process, its clocks, its application. The drivers here do what `agent::run` does
//! around the pure code: plan, commit, take over, send.

use std::time::Duration;

use agent::app_status::Liveness;
use agent::command::clock::TrustedClock;
use agent::command::{Commands, Facts, Moment, Wanted, Write};
use agent::outbox::{Change, Kind, Outbox};
use agent::record::Record;
use agent::uplink::Uplink;
use protocol::codec;
use protocol::id::{CommandId, StateId};
use protocol::message::{CommandReport, Event, Heartbeat, LogBatch, Presence};
use uuid::Uuid;

use super::bug::Bug;
use super::check;
use super::disk::{Disk, Folder};
use super::effect::{Going, Job};
use super::env::{BEGIN_MS, Died, Env, Mishap};
use super::wire::Wire;

/// An answer of the application counts for so long.
const SEEN_COUNTS_MS: u64 = 30_000;
/// In the first time of its life the agent calls nothing idle.
const SETTLING_MS: u64 = 30_000;
/// After a database that has to be opened again.
const REOPEN_MS: i64 = 1_000;

pub(crate) struct Device {
    pub(crate) index: usize,
    pub(crate) folder: Folder,
    /// An older copy of the folder.
    pub(crate) copy: Option<Folder>,
    /// An older copy of this state database was put back last.
    pub(crate) put_back: Option<StateId>,
    pub(crate) process: Option<Process>,
    pub(crate) boot: u128,
    booted_at_ms: i64,
    pub(crate) wall_offset_ms: i64,
    /// What the application really does.
    pub(crate) app: Liveness,
    /// Effects in the world: they outlive the process.
    pub(crate) going: Vec<Going>,
    /// With [`Bug::JournalNotSynced`]: what a power cut leaves.
    unsynced: Option<Folder>,
}

/// What a kill takes away.
pub(crate) struct Process {
    /// The opened database's uplink; none while it has to be opened again.
    pub(crate) uplink: Option<Uplink>,
    pub(crate) wanted: Wanted,
    pub(crate) commands: Commands,
    pub(crate) clock: TrustedClock,
    pub(crate) answered: bool,
    pub(crate) jobs: Vec<Job>,
    /// What was seen of the application, and when, by the clock since boot.
    pub(crate) seen: Option<(Liveness, u64)>,
    started_ms: u64,
    pub(crate) reopen_at: i64,
    /// After a write that was refused, commands wait.
    retry_at: i64,
    pub(crate) desired_again: Option<protocol::message::Desired>,
    /// The restores of the server when the last acknowledgement was said.
    pub(crate) heard_restores: u32,
    /// When `running` was committed, by the clock since boot.
    pub(crate) running_since: std::collections::BTreeMap<CommandId, u64>,
}

impl Device {
    pub(crate) fn new(index: usize, env: &Env) -> Self {
        Self {
            index,
            folder: Folder::default(),
            copy: None,
            put_back: None,
            process: None,
            boot: 1,
            booted_at_ms: env.now_ms - 600_000,
            wall_offset_ms: 0,
            app: Liveness::Idle,
            going: Vec::new(),
            unsynced: None,
        }
    }

    pub(crate) fn boottime_ms(&self, env: &Env) -> u64 {
        (env.now_ms - self.booted_at_ms).max(0).cast_unsigned()
    }

    pub(crate) fn wall_ms(&self, env: &Env) -> i64 {
        env.now_ms + self.wall_offset_ms
    }

    pub(crate) fn moment(&self, env: &Env) -> Moment {
        Moment { boot_id: Uuid::from_u128(self.boot), boottime_ms: self.boottime_ms(env) }
    }

    pub(crate) fn disk(&self) -> Option<&Disk> {
        self.folder.disk.as_ref()
    }

    /// Whether the database is open in a process.
    pub(crate) fn is_open(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.uplink.is_some())
    }

    pub(crate) fn start(&mut self, env: &mut Env) {
        self.process = Some(Process {
            uplink: None,
            wanted: Wanted::default(),
            commands: Commands::default(),
            clock: TrustedClock::default(),
            answered: false,
            jobs: Vec::new(),
            seen: None,
            started_ms: self.boottime_ms(env),
            reopen_at: env.now_ms,
            retry_at: 0,
            desired_again: None,
            heard_restores: env.ledger.restores,
            running_since: std::collections::BTreeMap::new(),
        });
        self.open_folder(env);
    }

    /// As `Folder::open` and `Commands::load`.
    fn open_folder(&mut self, env: &mut Env) {
        let new_id = StateId(env.rng.bytes());
        if self.folder.open(new_id) {
            env.count("database behind its journal number set aside");
        }
        let (Some(disk), Some(process)) = (&mut self.folder.disk, &mut self.process) else { return };
        if env.bug == Some(Bug::CutOffRunsAgain) {
            for (_, entry) in disk.journal.values_mut() {
                if entry.state == protocol::command::CommandState::Running {
                    entry.state = protocol::command::CommandState::Acked;
                }
            }
        }
        process.uplink = Some(Uplink::new(Outbox::load(disk.load(), env.mix.budget_bytes)));
        process.wanted = wanted(disk);
        process.commands.load(disk.open_commands());
    }

    /// After an exchange of the disk: what is known to be stored names its numbers for ever; others that are not on the
    /// disk were given out and seen by nobody.
    pub(crate) fn forget_unseen(&self, env: &mut Env) {
        let Some((state_id, next_seq)) = self.disk().map(|disk| (disk.state_id, disk.next_seq)) else {
            return;
        };
        let (at, ever) = (self.index, &env.ledger.ever_durable);
        env.ledger.made.retain(|(device, state, seq), _| {
            let stored = ever.get(&(*device, *state)).is_some_and(|ever| ever.contains(*seq));
            *device != at || stored || (*state == state_id && *seq < next_seq)
        });
    }

    /// The process dies; what it has begun goes on without it, or never happens.
    pub(crate) fn kill(&mut self, env: &mut Env, wire: &mut Wire) {
        if self.process.take().is_none() {
            return;
        }
        env.note(|| format!("device {}: the agent dies", self.index));
        wire.device_loses();
        if env.rng.chance(500) {
            wire.broker_loses();
        }
        self.orphan_effects(env);
    }

    /// The machine goes down and up: another boot id, no confirmed time.
    pub(crate) fn reboot(&mut self, env: &mut Env, wire: &mut Wire) {
        env.note(|| format!("device {}: reboot", self.index));
        self.kill(env, wire);
        if let Some(folder) = self.unsynced.take() {
            self.folder = folder;
        }
        self.reboot_effects(env);
        self.boot += 1;
        self.booted_at_ms = env.now_ms - env.rng.ms(5_000, 20_000);
    }

    /// One write: what is on disk afterwards, and whether the process goes on. `Ok(false)`: it was refused.
    pub(crate) fn write(&mut self, env: &mut Env, change: impl FnOnce(&mut Disk)) -> Result<bool, Died> {
        let mishap = env.at_write();
        match mishap {
            Mishap::DiesBefore => {
                env.count("agent killed before a write");
                return Err(Died);
            }
            Mishap::Refused => {
                env.count("write refused by the device's disk");
                return Ok(false);
            }
            _ => {}
        }
        if let Some(disk) = &mut self.folder.disk {
            change(disk);
        }
        match mishap {
            Mishap::DiesAfter => {
                env.count("agent killed after a write");
                Err(Died)
            }
            Mishap::FailsAfter => {
                self.close(env);
                Ok(false)
            }
            _ => Ok(true),
        }
    }

    /// Nobody knows what the database holds: it is opened again, under the process.
    fn close(&mut self, env: &mut Env) {
        env.count("device's database opened again under the process");
        if let Some(process) = &mut self.process {
            process.uplink = None;
            process.answered = false;
            process.reopen_at = env.now_ms + REOPEN_MS;
        }
    }

    /// As `Store::keep`.
    pub(crate) fn keep(&mut self, env: &mut Env, record: Record) -> Result<(), Died> {
        let Some(change) = self.plan(env, record) else { return Ok(()) };
        if self.write(env, |disk| disk.write(&change))? {
            self.take_over(&change);
        }
        Ok(())
    }

    /// Plans a record, and notes what becomes of others.
    pub(crate) fn plan(&mut self, env: &mut Env, record: Record) -> Option<Change> {
        let ts_ms = self.wall_ms(env);
        let uplink = self.process.as_ref()?.uplink.as_ref()?;
        let kind = record.kind();
        let body = record.into_body().ok()?;
        let mut change = match uplink.plan(kind, body, ts_ms) {
            Ok(change) => change,
            Err(_) => {
                env.count("outbox full");
                return None;
            }
        };
        if env.bug == Some(Bug::ThinnedSilently) {
            change.insert.retain(|row| row.kind != Kind::Void);
        }
        check::change(env, self.index, self.disk()?, uplink.outbox(), &change);
        Some(change)
    }

    pub(crate) fn take_over(&mut self, change: &Change) {
        if let Some(uplink) = self.process.as_mut().and_then(|process| process.uplink.as_mut()) {
            uplink.committed(change);
        }
    }

    /// As `Store::journal` with `Agent::journal`: entry and report in one transaction, the number beside them, then it is
    /// taken over. Returns whether that worked.
    pub(crate) fn journal(&mut self, env: &mut Env, mut write: Write) -> Result<bool, Died> {
        let change = match write.says {
            false => None,
            true => match self.plan(env, Record::Report(write.entry.report.clone())) {
                Some(change) => {
                    write.entry.record_seq = change.next_seq - 1;
                    Some(change)
                }
                None => return Ok(false),
            },
        };
        check::journal(env, self, &write);
        if env.bug == Some(Bug::JournalNotSynced) {
            self.unsynced = Some(self.folder.clone());
        }
        let forgets = env.has(Bug::RunningNotJournalled)
            && write.entry.state == protocol::command::CommandState::Running;
        let mut number = 0;
        let entry = write.entry.clone();
        let done = self.write(env, |disk| {
            if let Some(change) = &change {
                disk.write(change);
            }
            number = disk.journal_number;
            if !forgets {
                number = disk.journal(entry);
            }
        })?;
        if !done {
            if let Some(process) = &mut self.process {
                process.retry_at = env.now_ms + 2_000;
            }
            return Ok(false);
        }
        if write.must_not_be_forgotten() && !forgets {
            match env.at_write() {
                Mishap::None | Mishap::Refused => self.folder.high = Some(number),
                Mishap::FailsAfter => {
                    self.close(env);
                    return Ok(false);
                }
                Mishap::DiesBefore | Mishap::DiesAfter => {
                    env.count("agent killed between journal and its number");
                    return Err(Died);
                }
            }
        }
        if let Some(change) = &change {
            self.take_over(change);
        }
        let boottime_ms = self.boottime_ms(env);
        env.note(|| format!("device {}: {} is {}", self.index, write.entry.id, write.entry.state));
        if let Some(process) = &mut self.process {
            if write.entry.state == protocol::command::CommandState::Running {
                process.running_since.entry(write.entry.id.clone()).or_insert(boottime_ms);
            } else {
                process.running_since.remove(&write.entry.id);
            }
            process.commands.applied(&write);
        }
        Ok(true)
    }

    /// As `Agent::with_facts`.
    pub(crate) fn with_facts<T>(
        &mut self,
        env: &mut Env,
        use_them: impl FnOnce(&mut Commands, &Facts<'_>) -> T,
    ) -> Option<T> {
        let (now, ts_ms) = (self.moment(env), self.wall_ms(env));
        let process = self.process.as_mut()?;
        let app = match process.seen {
            Some((seen, at)) if now.boottime_ms.saturating_sub(at) < SEEN_COUNTS_MS => (seen, "seen"),
            _ => (Liveness::Unknown, "not seen lately"),
        };
        let outbox = process.uplink.as_ref()?.outbox();
        let undelivered = |seq| outbox.is_undelivered(seq);
        let facts = Facts {
            now,
            ts_ms,
            trusted_ms: process.clock.now_ms(now.boottime_ms),
            app,
            wanted: &process.wanted,
            connected: process.answered,
            nonce: Some(env.rng.bytes()),
            undelivered: &undelivered,
        };
        Some(use_them(&mut process.commands, &facts))
    }

    /// Looks at the application.
    pub(crate) fn look(&mut self, env: &Env) {
        let (now, app) = (self.boottime_ms(env), self.app);
        if let Some(process) = &mut self.process {
            let settled = now.saturating_sub(process.started_ms) >= SETTLING_MS;
            let seen = if app == Liveness::Idle && !settled { Liveness::Unknown } else { app };
            process.seen = Some((seen, now));
        }
    }

    /// What the event loop does whenever something has happened.
    pub(crate) fn turn(&mut self, env: &mut Env, wire: &mut Wire) {
        let Some(process) = &self.process else { return };
        if process.uplink.is_none() {
            if env.now_ms < process.reopen_at {
                return;
            }
            wire.device_loses();
            self.open_folder(env);
        }
        let turned = self.send(env, wire).and_then(|()| {
            let waits = self.process.as_ref().is_some_and(|process| env.now_ms < process.retry_at);
            if !waits {
                self.work(env, wire)?;
            }
            self.send(env, wire)
        });
        if turned.is_err() {
            self.kill(env, wire);
        }
        if !self.is_open() && wire.device_up {
            // As `Agent::store_failed`.
            wire.device_loses();
        }
    }

    /// As `Agent::connect`: the next connection's number is a write of its own.
    pub(crate) fn connect(&mut self, env: &mut Env, wire: &mut Wire) -> Result<(), Died> {
        if !self.is_open() {
            return Ok(());
        }
        let before = self.folder.disk.as_ref().map_or(0, |disk| disk.connection);
        self.write(env, |disk| disk.connection += 1)?;
        let (Some(disk), Some(process)) = (&mut self.folder.disk, &mut self.process) else { return Ok(()) };
        // A full disk: the number lasts only as long as this process.
        disk.connection = disk.connection.max(before + 1);
        let Some(uplink) = &mut process.uplink else { return Ok(()) };
        env.note(|| format!("device {}: connection {}", self.index, disk.connection));
        wire.connect(Presence { state_id: disk.state_id, connection: disk.connection, online: false });
        process.answered = false;
        uplink.connected();
        Ok(())
    }

    pub(crate) fn disconnected(&mut self, wire: &mut Wire) {
        wire.device_loses();
        if let Some(process) = &mut self.process {
            process.answered = false;
            if let Some(uplink) = &mut process.uplink {
                uplink.disconnected();
            }
        }
    }

    /// A record of what was seen: a heartbeat, a log batch or an event.
    pub(crate) fn records(&mut self, env: &mut Env) -> Result<(), Died> {
        let Some(process) = &self.process else { return Ok(()) };
        let (ts, token) = (self.wall_ms(env), env.token());
        let record = match env.rng.below(10) {
            0 => Record::Event(Event {
                seq: 0,
                connection: 0,
                ts: token.cast_signed(),
                kind: "show_started".to_owned(),
                details: None,
                void: Vec::new(),
            }),
            1 | 2 => {
                Record::Log(LogBatch { seq: 0, connection: 0, ts: token.cast_signed(), records: Vec::new() })
            }
            _ => Record::Heartbeat(Heartbeat {
                seq: 0,
                connection: 0,
                ts,
                since_boot_ms: self.boottime_ms(env),
                cpu_permille: Some(100),
                mem_permille: None,
                disk_free_mib: None,
                disk_total_mib: None,
                temperature_decicelsius: None,
                load_centi: None,
                recording_active: false,
                mixer_active: false,
                active_inputs: 0,
                degradation_level: 0,
                commands_digest: Some(codec::Bytes(process.commands.digest().to_vec())),
                // Tells one heartbeat from another.
                outbox_depth: u32::try_from(token).unwrap_or(u32::MAX),
                live: None,
                errors: Vec::new(),
            }),
        };
        self.keep(env, record)
    }
}

/// As `run::desired::wanted`.
fn wanted(disk: &Disk) -> Wanted {
    disk.desired.as_ref().map_or_else(Wanted::default, |desired| Wanted {
        version: desired.version,
        show_locks: desired.show_locks.clone(),
        redundancy_group: desired.redundancy_group.clone(),
    })
}

/// The uplink's clock.
pub(crate) fn since_begin(env: &Env) -> Duration {
    Duration::from_millis((env.now_ms - BEGIN_MS).max(0).cast_unsigned())
}

/// Tells one report from another.
pub(crate) fn report_token(report: &CommandReport) -> u64 {
    let text = format!("{} {} {}", report.id, report.report_seq, report.state);
    // FNV-1a; the high bit keeps it apart from the counted ones.
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
        | 1 << 63
}
