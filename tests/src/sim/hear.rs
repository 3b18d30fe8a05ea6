//! What a device hears, as `agent::run` takes it in.

use agent::command::{Heard, accepted, id_of};
use agent::record::Record;
use protocol::command::payload::Payload;
use protocol::message::{Command, Desired, DeviceAction, DeviceCommand, Reported};
use protocol::ranges::RangeSet;

use super::bug::Bug;
use super::device::{Device, since_begin};
use super::env::{Died, Env};
use super::wire::Down;

/// The agent's own unit: restarting that disturbs nobody.
pub(crate) const OWN_UNIT: &str = "r58-fleet-agent";

impl Device {
    pub(crate) fn hear(&mut self, env: &mut Env, message: Down) -> Result<(), Died> {
        if !self.is_open() {
            return Ok(());
        }
        match message {
            Down::Ack(ack, restores) => {
                let boottime_ms = self.boottime_ms(env);
                if let (Some(process), Some(server_ms)) = (&mut self.process, ack.server_time) {
                    process.clock.server_says(server_ms, boottime_ms);
                }
                if self.disk().is_some_and(|disk| disk.state_id == ack.state_id) {
                    return self.acknowledged(env, &ack.ranges, restores);
                }
                Ok(())
            }
            Down::Command(message) => self.command(env, *message),
            Down::Desired(desired) => self.desired(env, desired),
        }
    }

    fn acknowledged(&mut self, env: &mut Env, ranges: &RangeSet, restores: u32) -> Result<(), Died> {
        let now = since_begin(env);
        let mut ranges = ranges.clone();
        if let (Some(disk), true) = (self.disk(), env.has(Bug::OldCopyUnnoticed)) {
            let sent = ranges.as_slice().iter().filter(|range| range.0 < disk.released);
            ranges = sent.map(|range| (range.0, range.1.min(disk.released - 1))).collect();
        }
        let Some(uplink) = self.process.as_mut().and_then(|process| process.uplink.as_mut()) else {
            return Ok(());
        };
        let opened = uplink.acknowledged(&ranges, now);
        let Some(process) = &mut self.process else { return Ok(()) };
        process.heard_restores = restores;
        if opened && !process.answered {
            process.answered = true;
            return self.report_config(env);
        }
        Ok(())
    }

    /// As `Agent::command`.
    fn command(&mut self, env: &mut Env, message: DeviceCommand) -> Result<(), Died> {
        let Some(disk) = self.disk() else { return Ok(()) };
        let for_this_state = message.state_id == disk.state_id;
        let Some(action) = message.action() else { return Ok(()) };
        let id = id_of(&action).clone();
        let known = match self.process.as_ref().and_then(|process| process.commands.get(&id)) {
            Some(entry) => Some(entry.clone()),
            None => disk.journal.get(&id).map(|(_, entry)| entry.clone()),
        };
        let unknown = match (&action, &known) {
            (DeviceAction::Query(_), None) if for_this_state => {
                Some("query answered by a device that does not know the command")
            }
            (DeviceAction::Cancel(_), None) if for_this_state => Some("cancel came before its command"),
            (DeviceAction::Run(_), None) if !for_this_state => Some("command for a lost state rejected"),
            _ => None,
        };
        env.note(|| format!("device {}: hears {}", self.index, told(&action)));
        let heard = self
            .with_facts(env, |commands, facts| commands.hear(action, for_this_state, known.as_ref(), facts));
        unknown.into_iter().for_each(|what| env.count(what));
        match (heard, known) {
            (Some(Heard::Write(write)), _) => self.journal(env, *write).map(drop),
            (Some(Heard::Check(command, payload)), _) => self.check_command(env, *command, &payload),
            (Some(Heard::Repeat), Some(entry)) => {
                let outbox = self.process.as_ref().and_then(|process| process.uplink.as_ref());
                if outbox.is_none_or(|uplink| uplink.outbox().is_undelivered(entry.record_seq)) {
                    return Ok(());
                }
                let Some(change) = self.plan(env, Record::Report(entry.report.clone())) else {
                    return Ok(());
                };
                let seq = change.next_seq - 1;
                let done = self.write(env, |disk| {
                    disk.write(&change);
                    if let Some((_, entry)) = disk.journal.get_mut(&entry.id) {
                        entry.record_seq = seq;
                    }
                })?;
                if done {
                    self.take_over(&change);
                    if let Some(process) = &mut self.process {
                        process.commands.repeated(&entry.id, seq);
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn check_command(&mut self, env: &mut Env, command: Command, payload: &Payload) -> Result<(), Died> {
        let refuse = env.mishap(30);
        let disruptive = payload.is_disruptive(OWN_UNIT);
        let delay_ms = match payload {
            Payload::Reboot(reboot) => u64::from(reboot.delay_seconds) * 1000,
            _ => 0,
        };
        let write = self.with_facts(env, |commands, facts| match refuse {
            true => commands.refused(command, "not allowed on this device".to_owned(), facts),
            false => Some(accepted(command, disruptive, delay_ms, facts)),
        });
        match write.flatten() {
            Some(write) => self.journal(env, write).map(drop),
            None => Ok(()),
        }
    }

    /// As `Agent::desired`.
    pub(crate) fn desired(&mut self, env: &mut Env, desired: Desired) -> Result<(), Died> {
        let Some(process) = &mut self.process else { return Ok(()) };
        if process.uplink.is_none() {
            return Ok(());
        }
        let has = process.wanted.version;
        let kept = self.folder.disk.as_ref().and_then(|disk| disk.desired.as_ref());
        if desired.version == has && kept.is_none_or(|kept| *kept == desired) {
            return Ok(());
        }
        if desired.version < has {
            let reported = reported(env, has);
            return self.keep_desired(env, None, reported).map(drop);
        }
        // A new lock counts even if the disk does not take it. The version does not: it is tried again.
        process.wanted.show_locks.clone_from(&desired.show_locks);
        process.wanted.redundancy_group.clone_from(&desired.redundancy_group);
        process.desired_again = Some(desired.clone());
        let reported = reported(env, desired.version);
        let version = desired.version;
        if self.keep_desired(env, Some(desired), reported)?
            && let Some(process) = &mut self.process
        {
            process.wanted.version = version;
            process.desired_again = None;
        }
        Ok(())
    }

    /// As `Agent::report_config`.
    fn report_config(&mut self, env: &mut Env) -> Result<(), Died> {
        let Some(version) = self.process.as_ref().map(|process| process.wanted.version) else {
            return Ok(());
        };
        let said = self.disk().and_then(|disk| disk.reported.as_ref()).map(|said| said.desired_version);
        if said == Some(version) {
            return Ok(());
        }
        let reported = reported(env, version);
        self.keep_desired(env, None, reported).map(drop)
    }

    fn keep_desired(
        &mut self,
        env: &mut Env,
        desired: Option<Desired>,
        reported: Reported,
    ) -> Result<bool, Died> {
        let Some(change) = self.plan(env, Record::Reported(reported.clone())) else { return Ok(false) };
        let done = self.write(env, |disk| {
            disk.write(&change);
            disk.desired = desired.or(disk.desired.take());
            disk.reported = Some(reported);
        })?;
        if done {
            self.take_over(&change);
        }
        Ok(done)
    }
}

fn reported(env: &mut Env, version: u64) -> Reported {
    Reported {
        seq: 0,
        connection: 0,
        ts: env.token().cast_signed(),
        desired_version: version,
        config: std::collections::BTreeMap::new(),
        errors: std::collections::BTreeMap::new(),
    }
}

fn told(action: &DeviceAction) -> String {
    let what = match action {
        DeviceAction::Run(_) => "run",
        DeviceAction::Cancel(_) => "cancel",
        DeviceAction::Query(_) => "query",
        DeviceAction::Override(_) => "override",
        DeviceAction::Go(_) => "go",
    };
    format!("{what} {}", id_of(action))
}
