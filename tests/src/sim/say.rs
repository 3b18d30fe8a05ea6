//! What a device says: births, records, and a new name for a state that turned out to be an older copy. As `agent::run`
//! around the uplink.

use agent::outbox::{Kind, Outbox};
use agent::record;
use agent::uplink::{Action, PacketId, Uplink};
use protocol::codec;
use protocol::id::StateId;
use protocol::message::{Birth, Presence};

use super::bug::Bug;
use super::check;
use super::device::{Device, since_begin};
use super::env::{Died, Env};
use super::wire::{Up, Wire};

impl Device {
    /// As `Agent::send`.
    pub(crate) fn send(&mut self, env: &mut Env, wire: &mut Wire) -> Result<(), Died> {
        let now = since_begin(env);
        for _ in 0..200 {
            let Some(uplink) = self.process.as_mut().and_then(|process| process.uplink.as_mut()) else {
                return Ok(());
            };
            match uplink.poll(now) {
                None => return Ok(()),
                Some(Action::Birth(id)) => self.send_birth(env, wire, id),
                Some(Action::Records(id, kind, seqs)) => self.send_records(env, wire, id, kind, &seqs),
                Some(Action::Release(below)) => self.release(env, below)?,
                Some(Action::DropLink) => {
                    env.count("broker does not confirm");
                    self.disconnected(wire);
                }
                Some(Action::NewIdentity) => {
                    self.noticed(env);
                    self.renew(env, wire)?;
                }
            }
        }
        env.broken(|| format!("device {}: the uplink does not come to rest", self.index));
        Ok(())
    }

    /// As `Store::release`.
    fn release(&mut self, env: &mut Env, below: u64) -> Result<(), Died> {
        let now = since_begin(env);
        let forgets = env.has(Bug::ReleaseNotWritten);
        let noted = self.write(env, |disk| {
            if !forgets {
                disk.released = disk.released.max(below);
            }
        })?;
        if let Some(uplink) = self.process.as_mut().and_then(|process| process.uplink.as_mut()) {
            match noted {
                true => uplink.released(below),
                false => uplink.not_released(now),
            }
        }
        Ok(())
    }

    /// The state is said to be an older copy: that must be true.
    fn noticed(&mut self, env: &mut Env) {
        let Some(disk) = self.disk() else { return };
        let (state_id, alone) = (disk.state_id, disk.next_seq > env.ever_max(self.index, disk.state_id) + 1);
        env.count("older copy noticed by its numbers");
        if alone {
            env.count("older copy noticed that had caught up");
        }
        let is_old = self.put_back == Some(state_id);
        env.check(is_old, || {
            format!("device {}: another name for a state that is no older copy", self.index)
        });
    }

    fn send_birth(&mut self, env: &mut Env, wire: &mut Wire, id: PacketId) {
        let (Some(disk), Some(process)) = (&self.folder.disk, &self.process) else { return };
        let birth = Birth {
            state_id: disk.state_id,
            connection: disk.connection,
            next_seq: process.uplink.as_ref().map_or(0, |uplink| uplink.outbox().next_seq()),
            boot_id: self.boot.to_string(),
            agent_version: "1.0.0".to_owned(),
            app_version: None,
            arch: "aarch64".to_owned(),
            inputs: Vec::new(),
            command_types: Vec::new(),
            interval_seconds: 60,
            transport: "mqtt".to_owned(),
            ts: self.wall_ms(env),
            since_boot_ms: self.boottime_ms(env),
            app_unit: None,
        };
        let presence = Presence { state_id: birth.state_id, connection: birth.connection, online: true };
        wire.send(Some(id), Up::Birth(Box::new(birth)));
        wire.send(None, Up::Presence(presence));
    }

    fn send_records(&mut self, env: &mut Env, wire: &mut Wire, id: PacketId, kind: Kind, seqs: &[u64]) {
        let Some(disk) = &self.folder.disk else { return };
        let Some(process) = &self.process else { return };
        env.check(process.answered, || format!("device {}: records before an acknowledgement", self.index));
        // The number that records carry is modulo 65536.
        let connection = (disk.connection % 65_536) as u16;
        let mut encoded = Vec::new();
        for seq in seqs {
            match disk.outbox.get(seq) {
                Some(row) => match record::stamp(row.kind, &row.body, *seq, connection) {
                    Ok(bytes) => encoded.push(bytes),
                    Err(error) => env.broken(|| format!("record {seq} cannot be sent: {error}")),
                },
                None => env.broken(|| format!("record {seq} is to be sent and not on disk")),
            }
            if env.ledger.restores > 0 && ever_had(env, self.index, disk.state_id, *seq) {
                env.count("record sent again after a restore of the server");
            }
        }
        let payload = match encoded.len() {
            0 => return,
            1 => encoded.remove(0),
            _ => codec::batch(encoded.iter().map(Vec::as_slice)),
        };
        wire.send(Some(id), Up::Records(kind.topic(), payload));
    }

    /// As `Agent::renew`.
    fn renew(&mut self, env: &mut Env, wire: &mut Wire) -> Result<(), Died> {
        self.disconnected(wire);
        let ts_ms = self.wall_ms(env);
        let given_up = self.process.as_ref().map(|process| process.commands.given_up(ts_ms));
        for write in given_up.unwrap_or_default() {
            if !self.journal(env, write)? {
                return Ok(());
            }
        }
        let Some(uplink) = self.process.as_ref().and_then(|process| process.uplink.as_ref()) else {
            return Ok(());
        };
        let (take_over, new_id) = (uplink.outbox().to_take_over(), StateId(env.rng.bytes()));
        let old = self.disk().map(|disk| disk.state_id);
        let renewed = self.write(env, |disk| disk.renew(&take_over, new_id));
        let Some(disk) = self.disk().filter(|disk| Some(disk.state_id) != old) else {
            return renewed.map(drop);
        };
        for (seq, row) in &disk.outbox {
            env.ledger.made.insert((self.index, disk.state_id, *seq), vec![check::token_of_body(row)]);
        }
        if renewed? {
            let uplink = Uplink::new(Outbox::load(disk.load(), env.mix.budget_bytes));
            if let Some(process) = &mut self.process {
                process.uplink = Some(uplink);
            }
        }
        Ok(())
    }

    /// The broker says that it has a packet.
    pub(crate) fn receipt(&mut self, env: &mut Env, id: PacketId) {
        let now = since_begin(env);
        let forgets = env.has(Bug::ForgottenAtReceipt);
        let Some(uplink) = self.process.as_mut().and_then(|process| process.uplink.as_mut()) else { return };
        uplink.receipt(id, now);
        if forgets && let Some(disk) = &mut self.folder.disk {
            // The oldest that is not acknowledged, as if it were.
            let oldest = disk.outbox.keys().copied().find(|seq| uplink.outbox().is_undelivered(*seq));
            if let Some(seq) = oldest {
                let mut all = uplink.outbox().committed().clone();
                all.insert(seq);
                uplink.acknowledged(&all, now);
            }
        }
    }
}

fn ever_had(env: &Env, device: usize, state_id: StateId, seq: u64) -> bool {
    env.ledger.ever_durable.get(&(device, state_id)).is_some_and(|ever| ever.contains(seq))
}
