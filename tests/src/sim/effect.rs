//! Commands at work: the steps of `Commands::poll` carried out, threads that take their time, and effects in the world,
//! which outlive the process that began them.

use agent::app_status::Liveness;
use agent::command::{End, Entry, Probe, Step, Words};
use protocol::command::CommandType;
use protocol::id::CommandId;

use super::bug::Bug;
use super::check;
use super::device::Device;
use super::env::{Died, Env, UnderWay};
use super::wire::Wire;

/// A thread of the process.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Job {
    Prepare(CommandId),
    Look,
    Probe(CommandId),
}

/// An effect that has begun.
#[derive(Debug, Clone)]
pub(crate) struct Going {
    pub(crate) id: CommandId,
    kind: CommandType,
    /// It ends the agent's own process.
    own_unit: bool,
    /// The process that began it still listens.
    attached: bool,
    /// For a rotation: what was to be said meanwhile is said.
    said: bool,
    /// It takes until then.
    ends_at: i64,
}

impl Device {
    /// As `Agent::turn_commands`.
    pub(crate) fn work(&mut self, env: &mut Env, wire: &mut Wire) -> Result<(), Died> {
        for _ in 0..500 {
            let Some(step) = self.with_facts(env, |commands, facts| commands.poll(facts)).flatten() else {
                check::at_rest(env, self);
                return Ok(());
            };
            match step {
                Step::Write(write) => {
                    let second = check::is_held_again(self, &write);
                    if !self.journal(env, *write)? {
                        return Ok(());
                    }
                    if second {
                        env.count("second look found a reason");
                    }
                }
                Step::Prepare(id) => self.add_job(Job::Prepare(id)),
                Step::Look(_) if env.has(Bug::StaleLook) => {
                    let now = self.moment(env);
                    if let Some(process) = &mut self.process {
                        process.commands.looked(now);
                    }
                }
                Step::Look(_) => self.add_job(Job::Look),
                Step::Probe(id) => self.add_job(Job::Probe(id)),
                Step::Begin(id) => self.begin(env, &id),
            }
        }
        let _ = wire;
        env.broken(|| format!("device {}: the commands do not come to rest", self.index));
        Ok(())
    }

    fn add_job(&mut self, job: Job) {
        if let Some(process) = &mut self.process {
            process.jobs.push(job);
        }
    }

    fn begin(&mut self, env: &mut Env, id: &CommandId) {
        check::begin(env, self, id);
        let Some(process) = &mut self.process else { return };
        let Some(entry) = process.commands.get(id) else { return };
        let (Some(kind), disruptive) = (entry.kind(), entry.disruptive) else { return };
        if env.mishap(20) {
            let error = "the system gives no thread".to_owned();
            process.commands.ended(id, End::Failed { error, result: None });
            return;
        }
        let own_unit = kind == CommandType::RestartService && !disruptive;
        let takes_ms = if env.rng.chance(250) { env.rng.ms(5_000, 200_000) } else { 0 };
        let ends_at = env.now_ms + takes_ms;
        self.going.push(Going { id: id.clone(), kind, own_unit, attached: true, said: false, ends_at });
        let Some(state_id) = self.disk().map(|disk| disk.state_id) else { return };
        let under_way = UnderWay { device: self.index, state_id, disruptive };
        env.note(|| format!("device {}: the effect of {id} begins", self.index));
        env.ledger.under_way.insert(id.clone(), under_way);
    }

    /// One of the threads comes to something.
    pub(crate) fn job(&mut self, env: &mut Env, at: usize) {
        let now = self.moment(env);
        let Some(process) = self.process.as_mut().filter(|process| at < process.jobs.len()) else { return };
        match process.jobs.remove(at) {
            Job::Prepare(id) => {
                if env.mishap(15) {
                    process.commands.not_prepared(&id);
                } else if env.mishap(80) {
                    process.commands.prepared(&id, Err("not on this device".to_owned()));
                } else {
                    process.commands.prepared(&id, Ok(self.boot.to_string()));
                }
            }
            Job::Look => {
                if env.mishap(400) {
                    // A show begins at the wrong moment.
                    self.app = Liveness::Live;
                }
                self.look(env);
                if let Some(process) = &mut self.process {
                    process.commands.looked(now);
                }
            }
            Job::Probe(id) => {
                let probe = self.find_out(env, &id);
                env.note(|| format!("device {}: probe of {id}: {probe:?}", self.index));
                if let Some(process) = &mut self.process {
                    process.commands.probed(&id, probe, now);
                }
            }
        }
    }

    /// What a probe sees. It is right, or says that it does not know.
    fn find_out(&mut self, env: &mut Env, id: &CommandId) -> Probe {
        let entry = self.process.as_ref().and_then(|process| process.commands.get(id));
        let kind = entry.and_then(Entry::kind);
        let happened = env.ledger.effects.get(id).is_some_and(|times| *times > 0);
        let going = self.going.iter().position(|going| going.id == *id);
        if env.has(Bug::ProbeSaysNotDone) {
            self.going.retain(|going| going.id != *id);
            return Probe::NotDone;
        }
        if kind == Some(CommandType::RotateToken) && !happened {
            match going {
                Some(at) => self.going[at].attached = true,
                None => self.going.push(Going {
                    id: id.clone(),
                    kind: CommandType::RotateToken,
                    own_unit: false,
                    attached: true,
                    said: false,
                    ends_at: env.now_ms,
                }),
            }
            return Probe::Resumed;
        }
        if env.mishap(250) {
            return Probe::Ended(End::Indeterminate("nobody can tell".to_owned()));
        }
        match (happened, going) {
            (true, _) => Probe::Ended(End::Completed(None)),
            (false, Some(_)) if !env.mishap(300) => Probe::StillGoing,
            (false, Some(at)) => {
                // It was taken back in time.
                self.going.remove(at);
                env.ledger.under_way.remove(id);
                Probe::NotDone
            }
            (false, None) => Probe::NotDone,
        }
    }

    /// One effect goes on: first it happens, then it is heard of.
    pub(crate) fn effect(&mut self, env: &mut Env, wire: &mut Wire, at: usize) {
        let Some(going) = self.going.get_mut(at).filter(|going| env.now_ms >= going.ends_at) else { return };
        let now_listens = going.attached;
        if going.kind == CommandType::RotateToken && !going.said && now_listens {
            going.said = true;
            let (id, hash) = (going.id.clone(), env.rng.bytes());
            let words = Words { token_sha256: Some(hash), ..Words::default() };
            if let Some(process) = &mut self.process {
                process.commands.say(&id, words);
            }
            return;
        }
        if going.kind == CommandType::Reboot && !going.said && now_listens {
            going.said = true;
            let id = going.id.clone();
            let now = self.moment(env);
            if let Some(process) = &mut self.process {
                process.commands.dying(&id, now);
            }
            return;
        }
        if going.kind == CommandType::Reboot {
            // The effect itself: it counts there.
            self.reboot(env, wire);
            return;
        }
        let going = self.going.remove(at);
        if env.mishap(250) && going.attached {
            // It fails before it has done anything.
            self.end(env, &going.id, End::Failed { error: "exit status 1".to_owned(), result: None });
            return;
        }
        if going.kind != CommandType::RotateToken || !env.ledger.effects.contains_key(&going.id) {
            happens(env, &going.id);
        }
        if !going.attached {
            env.count("effect orphaned and done later");
            env.ledger.under_way.remove(&going.id);
        } else if going.own_unit {
            env.ledger.under_way.remove(&going.id);
            self.kill(env, wire);
        } else if env.mishap(300) {
            self.end(env, &going.id, End::TimedOut { error: "it took too long".to_owned(), result: None });
        } else {
            self.end(env, &going.id, End::Completed(None));
        }
    }

    fn end(&mut self, env: &mut Env, id: &CommandId, end: End) {
        env.ledger.under_way.remove(id);
        if let Some(process) = &mut self.process {
            process.commands.ended(id, end);
        }
    }

    /// The process is gone: what it has begun goes on without it, or has never come to happen.
    pub(crate) fn orphan_effects(&mut self, env: &mut Env) {
        for going in &mut self.going {
            going.attached = false;
            going.said = false;
        }
        let mut at = 0;
        while at < self.going.len() {
            // A rotation is nothing but the process's own work.
            let ends = self.going[at].kind == CommandType::RotateToken || env.rng.chance(500);
            if ends {
                let gone = self.going.remove(at);
                env.ledger.under_way.remove(&gone.id);
                env.count("effect never done");
            } else {
                at += 1;
            }
        }
    }

    /// The machine goes down: reboots have happened, everything else is over.
    pub(crate) fn reboot_effects(&mut self, env: &mut Env) {
        let boot = self.boot.to_string();
        let mut rebooted: Vec<CommandId> = Vec::new();
        for going in self.going.drain(..) {
            env.ledger.under_way.remove(&going.id);
            if going.kind == CommandType::Reboot {
                rebooted.push(going.id);
            }
        }
        // A power cut does what a reboot was to do, once that has been journalled: the boot is another one.
        let journal = self.folder.disk.iter().flat_map(|disk| disk.journal.values());
        for (_, entry) in journal {
            let running = entry.state == protocol::command::CommandState::Running;
            let is_reboot = entry.kind() == Some(CommandType::Reboot);
            if running && is_reboot && entry.observed.as_ref() == Some(&boot) && !rebooted.contains(&entry.id)
            {
                rebooted.push(entry.id.clone());
            }
        }
        for id in rebooted {
            happens(env, &id);
        }
    }

    /// Whether the application could be interrupted, as it really is.
    pub(crate) fn toggle_app(&mut self, env: &mut Env) {
        self.app = match env.rng.below(4) {
            0 | 1 => Liveness::Idle,
            2 => Liveness::Live,
            _ => Liveness::Unknown,
        };
        env.note(|| format!("device {}: the application is {:?}", self.index, self.app));
    }
}

fn happens(env: &mut Env, id: &CommandId) {
    env.note(|| format!("the effect of {id} happens"));
    let times = env.ledger.effects.entry(id.clone()).or_insert(0);
    *times += 1;
    let times = *times;
    env.check(times == 1, || format!("the effect of {id} happened {times} times"));
}
