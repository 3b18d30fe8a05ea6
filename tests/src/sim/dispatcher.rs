//! The server's dispatcher, and what people ask of it. As `fleetd::worker::dispatcher` and `fleetd::service::commands`
//! around the pure decisions.

use fleetd::domain::command::{Command, Order, Overridden};
use fleetd::domain::device::DeviceRowId;
use fleetd::domain::dispatch::{self, Plan, REQUEST_MS, Recipient};
use fleetd::domain::lease::{self, Answer, Ask, Doubt, Group, Holder, Member};
use fleetd::domain::org::OrgId;
use protocol::codec::Bytes;
use protocol::command::{CommandState, CommandType, Mover};
use protocol::id::{CommandId, StateId};
use protocol::message::{DeviceAction, DeviceCommand, Go};
use serde_json::json;

use super::bug::Bug;
use super::database::row_id;
use super::env::{Env, Mishap};
use super::hear::OWN_UNIT;
use super::server::Server;
use super::wire::{Down, Wire};

const DAY_MS: i64 = 24 * 3_600_000;

impl Server {
    /// As `Dispatcher::see_to`, for one device.
    pub(crate) fn look(&mut self, env: &mut Env, device: usize, wires: &mut [Wire]) {
        let mut open = self.db.open_of(device);
        let digest_differs = self.digest_differs(device, &open);
        let to = Recipient { digest_differs, ..self.recipient(device, &wires[device]) };
        if to.reachable {
            self.tell_desired(env, device, &mut wires[device]);
        }
        for at in 0..open.len() {
            let command = open[at].clone();
            if to.reachable && !self.answer_ask(env, device, &command, wires) {
                return;
            }
            if env.has(Bug::AnsweredSentAgain) && to.reachable && command.state() == CommandState::Acked {
                self.send_again(env, device, &command, &to, &mut wires[device]);
            }
            if let Some(plan) = dispatch::plan(&command, &open, &to, env.now_ms) {
                match self.carry_out(env, device, plan, None, wires) {
                    Some(changed) => open[at] = changed,
                    None if self.up => {}
                    None => return,
                }
            }
        }
    }

    fn recipient(&self, device: usize, wire: &Wire) -> Recipient {
        let row = &self.db.devices[device];
        let born = row.born.as_ref().map(|born| (born.birth.state_id, born.at));
        Recipient {
            reachable: row.online && row.will_at.is_none() && born.is_some() && wire.broker_up,
            born,
            last_seen_at: row.last_seen_at,
            desired_version: row.desired.version,
            reported_version: row.reported_version,
            digest_differs: false,
        }
    }

    fn digest_differs(&mut self, device: usize, open: &[Command]) -> bool {
        let row = &self.db.devices[device];
        let (Some(at), Some(told), Some(born)) = (&row.heartbeat_at, &row.digest, &row.born) else {
            return false;
        };
        if *at < born.at || open.is_empty() {
            return false;
        }
        let expected = dispatch::believed_digest(open, born.birth.state_id);
        self.memory.digests.entry(device).or_default().heard(*at, told, expected)
    }

    fn tell_desired(&mut self, env: &mut Env, device: usize, wire: &mut Wire) {
        let row = &self.db.devices[device];
        let Some(born) = &row.born else { return };
        let version = row.desired.version;
        if self.memory.desired.is_due(&row_id(device), version, row.reported_version, born.at, env.now_ms) {
            wire.to_device.push_back(Down::Desired(row.desired.clone()));
        }
    }

    /// Commits a plan, then says what it says. `None`: it was not committed, or the server has died. `new`: the command as it
    /// is created, in the same transaction.
    fn carry_out(
        &mut self,
        env: &mut Env,
        device: usize,
        plan: Plan,
        new: Option<&Command>,
        wires: &mut [Wire],
    ) -> Option<Command> {
        let Plan { mut command, step, messages, state_id } = plan;
        command.revision += 1;
        let mishap = self.at_commit(env);
        let early = env.has(Bug::SentBeforeCommit);
        if early {
            self.say(env, device, state_id, &messages, &mut wires[device]);
        }
        match mishap {
            Mishap::DiesBefore => {
                env.count("server killed before a commit");
                self.kill(env, wires);
                return None;
            }
            Mishap::Refused => {
                env.count("commit lost to another");
                return None;
            }
            _ => {}
        }
        let is_guess = command.standing.inferred && step.is_some();
        let mover = if is_guess { Mover::Inference } else { Mover::Server };
        if let Some(new) = new {
            self.put(env, new.clone(), Mover::Server);
        }
        self.put(env, command.clone(), mover);
        if mishap == Mishap::DiesAfter {
            env.count("server killed after a commit");
            self.kill(env, wires);
            return None;
        }
        if !early {
            self.say(env, device, state_id, &messages, &mut wires[device]);
        }
        Some(command)
    }

    fn say(
        &mut self,
        env: &mut Env,
        device: usize,
        state_id: Option<StateId>,
        messages: &[DeviceAction],
        wire: &mut Wire,
    ) {
        let Some(state_id) = state_id else { return };
        for message in messages {
            if let DeviceAction::Run(command) = message {
                let version = self.db.devices[device].desired.version;
                env.ledger.sent_with.entry(command.id.clone()).or_insert(version);
                let answered = self.db.commands.get(&command.id).map_or(0, |known| known.standing.report_seq);
                let state = self.db.commands.get(&command.id).map(Command::state);
                let written = state.is_some_and(|state| state != CommandState::Pending);
                env.check(written, || format!("{} is sent, and that is not written down", command.id));
                env.check(answered == 0, || format!("{} is sent again, its device has answered", command.id));
            }
            wire.to_device.push_back(Down::Command(Box::new(envelope(state_id, message.clone()))));
        }
    }

    /// With [`Bug::AnsweredSentAgain`].
    fn send_again(
        &mut self,
        env: &mut Env,
        device: usize,
        command: &Command,
        to: &Recipient,
        wire: &mut Wire,
    ) {
        let mut sent = command.clone();
        sent.standing.state = CommandState::Sent;
        sent.last_sent_at = None;
        if let Some(plan) = dispatch::plan(&sent, &[], to, env.now_ms) {
            self.say(env, device, plan.state_id, &plan.messages, wire);
        }
    }

    /// As `Dispatcher::answer_ask`. Returns whether the server lives.
    fn answer_ask(&mut self, env: &mut Env, device: usize, command: &Command, wires: &mut [Wire]) -> bool {
        let (Some(nonce), Some(asked_at), Some(state_id)) =
            (&command.lease_nonce, command.lease_asked_at, command.sent_state_id)
        else {
            return true;
        };
        let is_here =
            self.db.devices[device].born.as_ref().is_some_and(|born| born.birth.state_id == state_id);
        if command.state() != CommandState::Held || command.query_first || !is_here {
            return true;
        }
        let id = command.order.id.clone();
        let ask = Ask { device: row(device), command: id.clone(), nonce: nonce.clone(), asked_at };
        let mut group = self.group();
        if env.has(Bug::LeaseTwice) {
            group.holder = None;
            group.members.iter_mut().for_each(|member| member.busy = false);
        }
        match lease::answer(&group, &ask, env.now_ms) {
            Answer::Grant => {
                let mishap = self.at_commit(env);
                match mishap {
                    Mishap::DiesBefore => {
                        self.kill(env, wires);
                        return false;
                    }
                    Mishap::Refused => return true,
                    _ => {}
                }
                if !env.has(Bug::LeaseNotWritten) {
                    self.db.lease.holder = Some((device, id.clone(), ask.nonce.clone(), env.now_ms));
                    self.db.lease.revision += 1;
                }
                for row in self.db.devices.iter_mut().filter(|row| row.desired.redundancy_group.is_some()) {
                    if row.restored_at.take().is_some() {
                        env.count("lease given after a restore");
                    }
                }
                env.count("lease given");
                let members = self.db.devices.iter().filter(|row| row.desired.redundancy_group.is_some());
                let all_are_back = members.into_iter().all(|row| row.born_after == env.ledger.restores);
                env.check(all_are_back, || {
                    "a lease after a restore, before every member had given birth".to_owned()
                });
                env.note(|| format!("server: lease for {id}"));
                if mishap == Mishap::DiesAfter {
                    self.kill(env, wires);
                    return false;
                }
            }
            Answer::Repeat => {
                let said = self.memory.gone.get(&id).copied();
                if said.is_some_and(|said| (0..REQUEST_MS).contains(&(env.now_ms - said))) {
                    return true;
                }
                env.count("lease said again");
            }
            Answer::Wait(_) => return true,
        }
        self.memory.gone.insert(id.clone(), env.now_ms);
        let go = DeviceAction::Go(Go { id, nonce: Bytes(ask.nonce) });
        wires[device].to_device.push_back(Down::Command(Box::new(envelope(state_id, go))));
        true
    }

    /// As `store::leases::group`.
    fn group(&self) -> Group {
        let lease = &self.db.lease;
        let is_online = |device: usize| {
            let row = &self.db.devices[device];
            row.online && row.will_at.is_none()
        };
        let is_open = |id: &CommandId| self.db.commands.get(id).is_some_and(|c| c.state().is_open());
        let runs = |device: usize| {
            self.db.open_of(device).iter().any(|c| c.order.kind.is_disruptive() && may_run(c))
        };
        let has_lease = |device: usize| {
            lease.holder.as_ref().is_some_and(|(holder, id, ..)| *holder == device && is_open(id))
        };
        let member = |device: usize| Member {
            device: row(device),
            online: is_online(device),
            busy: runs(device) || has_lease(device),
            born_at: self.db.devices[device].born.as_ref().map(|born| born.at),
            doubt: self.doubt(device),
        };
        let in_group = |device: usize| self.db.devices[device].desired.redundancy_group.is_some();
        let holder = lease.holder.as_ref().map(|(device, command, nonce, granted_at)| Holder {
            device: row(*device),
            command: command.clone(),
            nonce: nonce.clone(),
            granted_at: *granted_at,
            ended: !is_open(command),
            online: is_online(*device),
        });
        Group {
            revision: lease.revision,
            holder,
            members: (0..self.db.devices.len()).filter(|at| in_group(*at)).map(member).collect(),
        }
    }

    /// As `store::leases::read_doubt`.
    fn doubt(&self, device: usize) -> Option<Doubt> {
        let row = &self.db.devices[device];
        let restored_at = row.restored_at?;
        let state_id = row.born.as_ref().map_or(StateId([0; 8]), |born| born.birth.state_id);
        let knows_group = row.reported_version >= Some(row.desired.version);
        let heartbeat = row.heartbeat_at.zip(row.digest.clone());
        let (open, unknown) = (self.db.open_of(device), self.db.open_of_unknown(device, state_id));
        Some(Doubt::new(restored_at, knows_group, heartbeat, state_id, &open, &unknown))
    }

    /// Somebody asks for a command. As `service::commands::create`.
    pub(crate) fn create(&mut self, env: &mut Env, device: usize, wires: &mut [Wire]) {
        let (kind, payload) = match env.rng.below(16) {
            0..4 => (CommandType::RestartService, json!({"service": "r58-api"})),
            4..6 => (CommandType::Reboot, json!({"delay_seconds": env.rng.below(30)})),
            6 => (CommandType::RestartService, json!({"service": OWN_UNIT})),
            7..10 => (CommandType::Custom, json!({"script": "a"})),
            10 => (CommandType::Config, json!({"changes": {"A": "1"}})),
            11 | 12 => (CommandType::RotateToken, json!({})),
            13 => (CommandType::Update, json!({"version": "1.0.0"})),
            _ => (CommandType::Ping, json!({})),
        };
        let id: CommandId = match format!("c{}", env.token()).parse() {
            Ok(id) => id,
            Err(_) => return,
        };
        let lives_ms = match env.rng.below(4) {
            0 => env.rng.ms(20_000, 300_000),
            1 => env.rng.ms(300_000, 3_600_000),
            _ => DAY_MS,
        };
        let mut command = Command::new(Order {
            id: id.clone(),
            org_id: OrgId::new("org".to_owned()),
            device_id: row(device),
            device: match "cam-1".parse() {
                Ok(name) => name,
                Err(_) => return,
            },
            kind,
            payload,
            priority: u8::try_from(1 + env.rng.below(10)).unwrap_or(5),
            timeout_seconds: 120,
            notes: None,
            created_by: "user:ada".to_owned(),
            created_by_name: None,
            created_at: env.now_ms,
            expires_at: env.now_ms + lives_ms,
            reference: None,
            request_hash: String::new(),
        });
        if env.rng.chance(100) {
            overrides(env, &mut command);
        }
        env.note(|| format!("people: {id}, {} for device {device}", kind.as_str()));
        // Now and then another request for the device was a moment faster.
        let waits = |other: &Command| matches!(other.state(), CommandState::Pending | CommandState::Sent);
        let is_next = !self.db.open_of(device).iter().any(waits) && env.rng.chance(900);
        let to = self.recipient(device, &wires[device]);
        match dispatch::at_once(&command, &to, env.now_ms).filter(|_| is_next) {
            Some(plan) => {
                let sent = self.carry_out(env, device, plan, Some(&command), wires);
                match sent {
                    Some(_) => env.count("command created as sent"),
                    None if self.up => self.put(env, command, Mover::Server),
                    None => {}
                }
            }
            None => self.put(env, command, Mover::Server),
        }
    }

    /// Somebody changes their mind about one of the open commands.
    pub(crate) fn change(&mut self, env: &mut Env) {
        let open: Vec<CommandId> =
            self.db.commands.values().filter(|c| c.state().is_open()).map(|c| c.order.id.clone()).collect();
        if open.is_empty() {
            return;
        }
        let Some(mut command) = self.db.commands.get(&open[env.rng.place(open.len())]).cloned() else {
            return;
        };
        if env.rng.chance(500) {
            // As `service::commands::change`.
            let never_sent = !command.query_first;
            if let Some(standing) = command.standing.by_server(CommandState::Cancelled).filter(|_| never_sent)
            {
                command.stand(standing, env.now_ms);
            }
            command.cancel_requested_at.get_or_insert(env.now_ms);
            env.count("cancel");
            env.note(|| format!("people: cancel {}", command.order.id));
        } else if command.overridden.is_none() {
            overrides(env, &mut command);
            env.note(|| format!("people: override {}", command.order.id));
        } else {
            return;
        }
        command.revision += 1;
        self.put(env, command, Mover::Server);
    }

    /// Somebody sets a show lock, or takes all away.
    pub(crate) fn lock(&mut self, env: &mut Env, device: usize, on: bool) {
        let desired = &mut self.db.devices[device].desired;
        desired.version += 1;
        desired.show_locks.clear();
        if on {
            let from = env.now_ms + env.rng.ms(-10_000, 60_000);
            desired.show_locks.push((from, from + env.rng.ms(1_000, 300_000)));
            env.count("show lock");
        }
        env.note(|| format!("people: lock {on} for device {device}, version {}", desired.version));
    }
}

fn overrides(env: &mut Env, command: &mut Command) {
    env.count("override");
    env.ledger.overridden.insert(command.order.id.clone());
    let (reason, by) = ("it is fine".to_owned(), "user:ada".to_owned());
    command.overridden = Some(Overridden { reason, by, at: env.now_ms });
    command.override_sent_at = None;
}

/// Whether its device may be disrupted by it at this moment.
fn may_run(command: &Command) -> bool {
    command.state() == CommandState::Running
}

fn row(device: usize) -> DeviceRowId {
    DeviceRowId::new(row_id(device))
}

fn envelope(state_id: StateId, action: DeviceAction) -> DeviceCommand {
    let empty =
        DeviceCommand { state_id, command: None, cancel: None, query: None, override_show: None, go: None };
    match action {
        DeviceAction::Run(command) => DeviceCommand { command: Some(*command), ..empty },
        DeviceAction::Cancel(id) => DeviceCommand { cancel: Some(id), ..empty },
        DeviceAction::Query(id) => DeviceCommand { query: Some(id), ..empty },
        DeviceAction::Override(order) => DeviceCommand { override_show: Some(order), ..empty },
        DeviceAction::Go(go) => DeviceCommand { go: Some(go), ..empty },
    }
}
