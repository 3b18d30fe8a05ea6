//! One world: devices, a server, the lines between them, and a step at a time.

use protocol::command::CommandState;

use super::bug::Bug;
use super::check;
use super::device::Device;
use super::env::Env;
use super::mix::Mix;
use super::server::Server;
use super::wire::Wire;

/// Some of them are in one redundancy group.
const DEVICES: usize = 3;
/// Rounds of a world in which nothing goes wrong any more: more than any repetition needs.
const ROUNDS_MAX: u64 = 600;
/// What a device and its line come to in one of these rounds, counted as so many steps.
const CALM_STEPS: u64 = 4;

pub(crate) struct World {
    pub(crate) env: Env,
    devices: Vec<Device>,
    wires: Vec<Wire>,
    server: Server,
}

impl World {
    pub(crate) fn new(seed: u64, mix: &'static Mix, bug: Option<Bug>, events: usize) -> Self {
        let mut env = Env::new(seed, mix, bug, events);
        env.grouped = (0..DEVICES).map(|_| env.rng.chance(600)).collect();
        let mut devices: Vec<Device> = (0..DEVICES).map(|index| Device::new(index, &env)).collect();
        devices.iter_mut().for_each(|device| device.start(&mut env));
        let wires = (0..DEVICES).map(|_| Wire::default()).collect();
        let server = Server::new(&env.grouped);
        Self { env, devices, wires, server }
    }

    /// Something happens, and the checks are made.
    pub(crate) fn step(&mut self) {
        let mix = self.env.mix;
        let device = self.env.rng.place(DEVICES);
        type Act = fn(&mut World, usize);
        let acts: [(u64, Act); 20] = [
            (200, Self::pass),
            (180, Self::broker_takes),
            (180, Self::ingest),
            (100, Self::receipt),
            (250, Self::device_hears),
            (200, Self::look),
            (20, Self::monitor),
            (150, Self::connect),
            (mix.breaks, Self::breaks),
            (mix.records, Self::record),
            (mix.shows * 2, Self::app),
            (mix.shows / 2, Self::lock),
            (mix.commands, Self::create),
            (30, Self::change),
            (250, Self::job),
            (90, Self::effect),
            (mix.deaths, Self::dies),
            (mix.restores * 2, Self::old_copy),
            (mix.restores, Self::old_server),
            (10, Self::clocks),
        ];
        let all: u64 = acts.iter().map(|(weight, _)| weight).sum();
        let mut drawn = self.env.rng.below(all);
        for (weight, act) in acts {
            match drawn.checked_sub(weight) {
                Some(rest) => drawn = rest,
                None => {
                    act(self, device);
                    break;
                }
            }
        }
        self.turn(device);
    }

    fn turn(&mut self, at: usize) {
        let device = &mut self.devices[at];
        device.turn(&mut self.env, &mut self.wires[at]);
        check::at_rest(&mut self.env, device);
    }

    fn turn_all(&mut self) {
        (0..DEVICES).for_each(|at| self.turn(at));
    }

    fn pass(&mut self, _: usize) {
        let rng = &mut self.env.rng;
        let ms = if rng.chance(self.env.mix.long_waits_permille) {
            match rng.below(20) {
                0 => rng.ms(86_400_000, 9 * 86_400_000),
                1..5 => rng.ms(3_600_000, 10_800_000),
                _ => rng.ms(60_000, 600_000),
            }
        } else if rng.chance(40) {
            rng.ms(5_000, 60_000)
        } else {
            rng.ms(10, 600)
        };
        self.env.now_ms += ms;
        self.turn_all();
    }

    fn broker_takes(&mut self, at: usize) {
        if self.server.up {
            self.wires[at].broker_takes(&mut self.env);
        }
    }

    fn ingest(&mut self, at: usize) {
        if !self.server.up {
            return;
        }
        let mut batch = Vec::new();
        for _ in 0..=self.env.rng.below(6) {
            batch.extend(self.wires[at].next_up(&mut self.env));
        }
        if !batch.is_empty() {
            self.server.take(&mut self.env, at, batch, &mut self.wires);
        }
    }

    fn receipt(&mut self, at: usize) {
        for _ in 0..=self.env.rng.below(4) {
            if let Some(id) = self.wires[at].receipt(&mut self.env) {
                self.devices[at].receipt(&mut self.env, id);
            }
        }
    }

    fn device_hears(&mut self, at: usize) {
        for _ in 0..=self.env.rng.below(3) {
            if let Some(message) = self.wires[at].next_down(&mut self.env) {
                let heard = self.devices[at].hear(&mut self.env, message);
                self.dies_if(at, heard.is_err());
            }
        }
    }

    fn dies_if(&mut self, at: usize, died: bool) {
        if died {
            self.devices[at].kill(&mut self.env, &mut self.wires[at]);
        }
    }

    fn look(&mut self, at: usize) {
        if self.server.up {
            self.server.look(&mut self.env, at, &mut self.wires);
        }
    }

    fn monitor(&mut self, _: usize) {
        if self.server.up {
            self.server.monitor(&self.env);
        }
    }

    /// Whoever is down comes up; a device without a connection makes one.
    fn connect(&mut self, at: usize) {
        if !self.server.up {
            self.env.note(|| "server: starts".to_owned());
            self.server.up = true;
            return;
        }
        let device = &mut self.devices[at];
        if device.process.is_none() {
            self.env.note(|| format!("device {at}: starts"));
            device.start(&mut self.env);
        } else if !self.wires[at].device_up && self.env.now_ms >= self.wires[at].stalled_until {
            device.disconnected(&mut self.wires[at]);
            let connected = device.connect(&mut self.env, &mut self.wires[at]);
            self.dies_if(at, connected.is_err());
        }
    }

    fn breaks(&mut self, at: usize) {
        let (env, wire) = (&mut self.env, &mut self.wires[at]);
        match env.rng.below(8) {
            0 | 1 if wire.device_up => {
                env.count("connection lost on both sides");
                wire.broker_loses();
                self.devices[at].disconnected(wire);
            }
            2 if wire.broker_up => {
                env.count("connection lost on the server's side alone");
                wire.broker_loses();
            }
            3 | 4 if wire.device_up => {
                env.count("connection lost on the device's side alone");
                self.devices[at].disconnected(wire);
            }
            5 => {
                env.count("line stalled");
                wire.stalled_until = env.now_ms + pause_ms(env);
            }
            6 => wire.silent_until = env.now_ms + pause_ms(env),
            // A device notices that nobody is there any more.
            _ if wire.device_up && !wire.broker_up => self.devices[at].disconnected(wire),
            _ => {}
        }
    }

    fn record(&mut self, at: usize) {
        let kept = self.devices[at].records(&mut self.env);
        self.dies_if(at, kept.is_err());
    }

    fn app(&mut self, at: usize) {
        match self.env.rng.below(3) {
            0 => self.devices[at].toggle_app(&mut self.env),
            _ => self.devices[at].look(&self.env),
        }
    }

    fn lock(&mut self, at: usize) {
        if self.server.up {
            let on = self.env.rng.chance(500);
            self.server.lock(&mut self.env, at, on);
        }
    }

    fn create(&mut self, at: usize) {
        let open = self.server.db.open_of(at).len();
        if self.server.up && open < 12 {
            self.server.create(&mut self.env, at, &mut self.wires);
            if self.env.mix.restores > 0 && self.env.mishap(40) {
                // A copy with a command that was not sent yet.
                self.server.backup = Some(self.server.db.clone());
            }
        }
    }

    fn change(&mut self, _: usize) {
        if self.server.up {
            self.server.change(&mut self.env);
        }
    }

    fn job(&mut self, at: usize) {
        let jobs = self.devices[at].process.as_ref().map_or(0, |process| process.jobs.len());
        if jobs > 0 {
            let which = self.env.rng.place(jobs);
            self.devices[at].job(&mut self.env, which);
        }
        let again = self.devices[at].process.as_mut().and_then(|process| process.desired_again.take());
        if let Some(desired) = again {
            let applied = self.devices[at].desired(&mut self.env, desired);
            self.dies_if(at, applied.is_err());
        }
    }

    fn effect(&mut self, at: usize) {
        let going = self.devices[at].going.len();
        if going > 0 {
            let which = self.env.rng.place(going);
            self.devices[at].effect(&mut self.env, &mut self.wires[at], which);
        }
    }

    fn dies(&mut self, at: usize) {
        match self.env.rng.below(5) {
            0 | 1 => {
                self.env.count("agent killed");
                self.devices[at].kill(&mut self.env, &mut self.wires[at]);
            }
            2 => {
                self.env.count("machine rebooted");
                self.devices[at].reboot(&mut self.env, &mut self.wires[at]);
            }
            3 => {
                self.env.count("power cut");
                self.devices[at].reboot(&mut self.env, &mut self.wires[at]);
                self.wires[at].stalled_until = self.env.now_ms + pause_ms(&mut self.env);
            }
            _ => {
                self.env.count("server killed");
                self.server.kill(&mut self.env, &mut self.wires);
            }
        }
    }

    /// A copy of a device's folder is made, put back, or the folder is lost.
    fn old_copy(&mut self, at: usize) {
        let device = &mut self.devices[at];
        match self.env.rng.below(6) {
            0..3 => device.copy = Some(device.folder.clone()),
            3 | 4 => self.put_back(at),
            _ => {
                self.env.count("device's state lost");
                self.env.note(|| format!("device {at}: its state is lost"));
                self.end_for_good(at);
                let keeps_number = self.env.rng.chance(500);
                let folder = &mut self.devices[at].folder;
                folder.disk = None;
                folder.high = folder.high.filter(|_| keeps_number);
                self.devices[at].copy = None;
            }
        }
    }

    /// Nothing of this device is under way any more: a disk is not exchanged within a second.
    fn end_for_good(&mut self, at: usize) {
        self.devices[at].reboot(&mut self.env, &mut self.wires[at]);
        self.wires[at].forget_everything();
        self.env.now_ms += 200_000;
    }

    fn put_back(&mut self, at: usize) {
        // Without the server's word nobody can know that a copy is old: what was done and told to nobody is forgotten.
        let Some(copy) = self.devices[at].copy.clone() else { return };
        let (Some(now), Some(then)) = (&self.devices[at].folder.disk, &copy.disk) else { return };
        let durable = self.server.db.committed.get(&(at, then.state_id));
        let is_seen = durable.and_then(protocol::ranges::RangeSet::max) >= Some(then.released);
        if now.state_id != then.state_id || !is_seen {
            return;
        }
        self.env.count("older copy of the device's state put back");
        self.env.note(|| format!("device {at}: an older copy is put back"));
        let whole = self.env.rng.chance(500);
        self.end_for_good(at);
        let folder = &mut self.devices[at].folder;
        let high = folder.high;
        *folder = copy;
        if !whole {
            // The database alone: the number beside it is the new one.
            folder.high = high;
        }
        let device = &mut self.devices[at];
        device.put_back = device.disk().map(|disk| disk.state_id);
        device.forget_unseen(&mut self.env);
        device.copy = None;
    }

    fn old_server(&mut self, _: usize) {
        // A device that was put back and has not heard of it yet has nobody else to tell it.
        let is_unheard = |device: &Device| {
            device.disk().map(|disk| disk.state_id) == device.put_back && device.put_back.is_some()
        };
        let unheard = self.devices.iter().any(is_unheard);
        if self.env.rng.chance(600) {
            self.server.backup = Some(self.server.db.clone());
        } else if !unheard && self.server.backup.is_some() {
            self.server.restore(&mut self.env, &mut self.wires);
            self.env.now_ms += 5_000;
        }
    }

    fn clocks(&mut self, at: usize) {
        let env = &mut self.env;
        let device = &mut self.devices[at];
        let (boottime_ms, span) = (device.boottime_ms(env), env.rng.ms(1_000, 400 * 86_400_000));
        match env.rng.below(3) {
            0 => {
                env.count("device's clock jumped forward");
                device.wall_offset_ms += span;
            }
            1 => {
                env.count("device's clock jumped back");
                device.wall_offset_ms -= span;
            }
            _ => {
                env.count("time confirmed by NTP");
                device.wall_offset_ms = 0;
                if let Some(process) = &mut device.process {
                    process.clock.ntp_has_set(env.now_ms, boottime_ms);
                }
            }
        }
    }

    /// Nothing goes wrong any more: everything comes to its end, and that is true. Returns the steps it took.
    pub(crate) fn settle(&mut self) -> u64 {
        self.env.calm = true;
        self.env.note(|| "from here on all goes well".to_owned());
        self.server.up = true;
        for at in 0..DEVICES {
            self.devices[at].app = agent::app_status::Liveness::Idle;
            self.server.lock(&mut self.env, at, false);
            let wire = &mut self.wires[at];
            (wire.stalled_until, wire.silent_until) = (0, 0);
        }
        let mut steps = 0;
        for round in 0..ROUNDS_MAX {
            self.calm_round(round);
            steps += CALM_STEPS * DEVICES as u64;
            if self.env.violation.is_some() || self.is_settled() {
                break;
            }
        }
        if self.env.violation.is_none() && !self.is_settled() {
            let open = self.what_is_open();
            self.env.broken(|| format!("it does not come to its end: {open}"));
        }
        if self.env.violation.is_none() {
            self.check_the_end();
        }
        steps
    }

    fn calm_round(&mut self, round: u64) {
        self.env.now_ms += match round {
            0..200 => 3_000,
            200..400 => 30_000,
            _ => 600_000,
        };
        for at in 0..DEVICES {
            if self.devices[at].process.is_none() {
                self.devices[at].start(&mut self.env);
            }
            let wire = &self.wires[at];
            if wire.device_up && !wire.broker_up {
                self.devices[at].disconnected(&mut self.wires[at]);
            }
            self.connect(at);
            self.devices[at].look(&self.env);
            if round.is_multiple_of(10) {
                self.record(at);
            }
            self.turn(at);
            for _ in 0..CALM_STEPS {
                self.broker_takes(at);
                self.ingest(at);
                self.receipt(at);
                self.look(at);
                self.device_hears(at);
                self.turn(at);
                self.job(at);
                self.turn(at);
                self.effect(at);
                self.turn(at);
            }
        }
        self.monitor(0);
    }

    fn is_settled(&self) -> bool {
        let closed = self.server.db.commands.values().all(|command| command.state().is_terminal());
        closed
            && self.devices.iter().all(|device| {
                let outbox = device.process.as_ref().and_then(|process| process.uplink.as_ref());
                let empty = outbox.is_some_and(|uplink| uplink.outbox().depth() == 0);
                empty && device.disk().is_some_and(|disk| disk.open_commands().is_empty())
            })
    }

    fn what_is_open(&self) -> String {
        let mut text = String::new();
        for command in self.server.db.commands.values().filter(|command| command.state().is_open()) {
            text.push_str(&format!(
                "{} ({}) is {} at the server, {:?}; ",
                command.order.id,
                command.order.kind.as_str(),
                command.state(),
                command.held_reason
            ));
        }
        for device in &self.devices {
            let depth = device.process.as_ref().and_then(|p| p.uplink.as_ref()).map(|u| u.outbox().depth());
            text.push_str(&format!("device {}: {depth:?} records wait", device.index));
            for entry in device.disk().map(|disk| disk.open_commands()).unwrap_or_default() {
                text.push_str(&format!(", {} is {}", entry.id, entry.state));
            }
            text.push_str("; ");
        }
        text
    }

    /// The end of a world: both sides agree, and what they say is true.
    fn check_the_end(&mut self) {
        let env = &mut self.env;
        for command in self.server.db.commands.values() {
            let id = &command.order.id;
            let happened = env.ledger.effects.get(id).copied().unwrap_or(0);
            let error = command.error.as_deref().unwrap_or_default();
            let true_end = match command.state() {
                CommandState::Completed => happened == 1,
                CommandState::Failed if error == "interrupted" => happened == 0,
                CommandState::TimedOut if error.contains("did not happen") => happened == 0,
                CommandState::Failed | CommandState::TimedOut | CommandState::Indeterminate => happened <= 1,
                _ => happened == 0,
            };
            let state = command.state();
            env.check(true_end, || {
                format!("{id} is {state} ({error}), and its effect happened {happened} times")
            });
            let device =
                self.devices.iter().find(|d| d.disk().is_some_and(|disk| disk.journal.contains_key(id)));
            let Some(disk) = device.and_then(Device::disk) else { continue };
            let same_state = command.sent_state_id == Some(disk.state_id);
            let known = disk.journal.get(id).map(|(_, entry)| entry.state);
            // After a restore of the server, a report that had made room on the device does not come again.
            let restored = env.ledger.restores > 0;
            let guess = command.standing.inferred && restored;
            // Rejected may mean that it was for an earlier state, where it may have been done.
            let unsure =
                state == CommandState::Indeterminate && known == Some(CommandState::Rejected) && restored;
            let agree = !same_state || known == Some(state) || guess || unsure;
            env.check(agree, || format!("{id} is {state} at the server and {known:?} on its device"));
        }
        for device in &self.devices {
            let Some(disk) = device.disk() else { continue };
            let key = (device.index, disk.state_id);
            let durable = self.server.db.committed.get(&key).cloned().unwrap_or_default();
            let stored = self.server.db.stored.get(&key);
            for seq in 1..disk.next_seq {
                let record = (device.index, disk.state_id, seq);
                let lost = !durable.contains(seq) && !env.ledger.evicted.contains(&record);
                env.check(!lost, || format!("record {seq} of device {} is lost", device.index));
                let last = env.ledger.made.get(&record).and_then(|made| made.last().copied());
                let kept = stored.and_then(|stored| stored.get(&seq).copied());
                let another = kept.is_some() && kept != last;
                env.check(!another, || format!("record {seq} of device {} is another one", device.index));
            }
        }
    }
}

/// How long a line hangs: mostly short, sometimes longer than anybody waits.
fn pause_ms(env: &mut Env) -> i64 {
    if env.rng.chance(200) { env.rng.ms(10_000, 200_000) } else { env.rng.ms(500, 10_000) }
}
