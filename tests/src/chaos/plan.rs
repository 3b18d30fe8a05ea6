//! What will be done to whom: drawn from a seed, before anything runs. Pure; the same seed and size give the same plan.
//!
//! A chapter is a number of rounds, after which everything is healed and checked. Within a chapter a plan never asks for
//! what cannot be: it starts only what is stopped, tears only the state of a stopped agent, restores only a server for
//! which there is a backup.

use super::random::Random;
use crate::{Direction, Flow};

/// How large a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Devices.
    pub agents: usize,
    /// Rounds in all.
    pub rounds: usize,
    /// Rounds of one chapter.
    pub chapter: usize,
}

/// The run of the tests: short, and with most of what there is.
pub const SHORT: Size = Size { agents: 4, rounds: 20, chapter: 20 };
/// Its seed.
pub const SHORT_SEED: u64 = 1206;

/// Whose disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Disk {
    /// That of this device.
    Agent(usize),
    /// The server's.
    Server,
}

/// What becomes of the state database of a stopped agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// The file ends early: at so many thousandths of its length.
    Truncated(u64),
    /// Pages of the file hold other bytes, drawn from this number.
    Scrambled(u64),
    /// The log beside it ends early: at so many thousandths of its length.
    LogTruncated(u64),
    /// The database is gone.
    Deleted,
    /// The copy that was made before is put back.
    OlderCopy,
}

/// A type of command, by how its effect is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// No effect.
    Ping,
    /// A script that notes its run; it takes so many tenths of a second.
    Script(u64),
    /// A script that fails after it has noted its run.
    FailingScript,
    /// A script that does not exist.
    NoScript,
    /// A restart of a unit that no other command names.
    Restart,
    /// A reboot.
    Reboot,
    /// A change of a key of the config to a value that no other command sets.
    Config,
    /// A new token.
    RotateToken,
}

/// What an operator asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Its number in the run: names it in its `ref` and its effect.
    pub number: usize,
    /// For whom.
    pub device: usize,
    /// What.
    pub kind: Kind,
    /// By `mosquitto_pub`, else by HTTP.
    pub by_mqtt: bool,
    /// Seconds until it expires; the server's default without.
    pub expires_in_seconds: Option<u64>,
    /// It may run although a show is on.
    pub overrides: bool,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// SIGKILL.
    KillAgent(usize),
    /// SIGTERM, and its end.
    StopAgent(usize),
    /// SIGSTOP.
    FreezeAgent(usize),
    /// SIGCONT.
    ThawAgent(usize),
    /// Another process on the same files.
    StartAgent(usize),
    /// A power cut: killed, and another boot.
    CutPower(usize),
    /// SIGKILL.
    KillServer,
    /// SIGTERM, and its end.
    StopServer,
    /// SIGSTOP.
    FreezeServer,
    /// SIGCONT.
    ThawServer,
    /// Another process on the same files.
    StartServer,
    /// The connections of a device are reset.
    Reset(usize),
    /// What a device sends or hears goes another way.
    Network(usize, Direction, Flow),
    /// One direction is closed.
    HalfClose(usize, Direction),
    /// The network of a device works again.
    HealNetwork(usize),
    /// Not a byte of room is left.
    FillDisk(Disk),
    /// There is room again.
    FreeDisk(Disk),
    /// The clock of a device is off by so many ms.
    Clock(usize, i64),
    /// Of a stopped agent's state.
    Damage(usize, Damage),
    /// A copy of a stopped agent's state is made.
    CopyState(usize),
    /// A backup of the server is made, running or not.
    Backup,
    /// A stopped server is restored from the last backup.
    Restore,
    /// A command is asked for.
    Ask(Request),
    /// One is called back.
    Cancel(usize),
    /// One may run although a show is on.
    Override(usize),
    /// A show lock for so many seconds.
    Lock(usize, u64),
    /// The lock goes.
    Unlock(usize),
    /// The application records, or pretends to.
    Recording(usize, bool),
    /// So many ms pass.
    Wait(u64),
    /// Everything is healed, and all must come to rest and be right.
    Check,
}

/// What the plan knows of the world while it is drawn.
struct World {
    random: Random,
    agents: Vec<Device>,
    server_up: bool,
    server_frozen: bool,
    disks_full: Vec<Disk>,
    backup: bool,
    requests: Vec<Kind>,
    /// What is undone after so many rounds.
    due: Vec<(usize, Action)>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Device {
    up: bool,
    frozen: bool,
    copied: bool,
    /// A rotation since the last backup: a second one would leave the backup without a token that the device has.
    rotated: bool,
}

/// Draws the plan of a run.
#[must_use]
pub fn draw(seed: u64, size: Size) -> Vec<Action> {
    let up = Device { up: true, ..Device::default() };
    let mut world = World {
        random: Random::new(seed),
        agents: vec![up; size.agents],
        server_up: true,
        server_frozen: false,
        disks_full: Vec::new(),
        backup: false,
        requests: Vec::new(),
        due: Vec::new(),
    };
    let mut plan = Vec::new();
    for round in 0..size.rounds {
        if round > 0 && round.is_multiple_of(size.chapter) {
            world.end_chapter(&mut plan);
        }
        world.round(round, &mut plan);
    }
    world.end_chapter(&mut plan);
    plan
}

impl World {
    fn round(&mut self, round: usize, plan: &mut Vec<Action>) {
        let (now, later) = std::mem::take(&mut self.due).into_iter().partition(|(at, _)| *at <= round);
        self.due = later;
        let now: Vec<(usize, Action)> = now;
        for (_, action) in now {
            self.undo(action, plan);
        }
        for _ in 0..=self.random.below(3) {
            self.ask(plan);
        }
        for _ in 0..=self.random.below(3) {
            self.fault(round, plan);
        }
        plan.push(Action::Wait(200 + self.random.below(1300)));
    }

    fn end_chapter(&mut self, plan: &mut Vec<Action>) {
        plan.push(Action::Check);
        // Whatever was still to be undone, healing has done.
        self.due.clear();
        self.disks_full.clear();
        (self.server_up, self.server_frozen) = (true, false);
        for device in &mut self.agents {
            (device.up, device.frozen) = (true, false);
        }
    }

    fn undo(&mut self, action: Action, plan: &mut Vec<Action>) {
        match action {
            Action::StartAgent(n) => self.agents[n].up = true,
            Action::ThawAgent(n) if !self.agents[n].frozen => return,
            Action::ThawAgent(n) => self.agents[n].frozen = false,
            Action::StartServer => self.server_up = true,
            Action::ThawServer if !self.server_frozen => return,
            Action::ThawServer => self.server_frozen = false,
            Action::FreeDisk(disk) => self.disks_full.retain(|full| *full != disk),
            _ => {}
        }
        plan.push(action);
    }

    fn device(&mut self) -> usize {
        self.random.below(self.agents.len() as u64) as usize
    }

    fn later(&mut self, round: usize, most: u64, action: Action) {
        let at = round + 1 + self.random.below(most) as usize;
        self.due.push((at, action));
    }

    fn fault(&mut self, round: usize, plan: &mut Vec<Action>) {
        let n = self.device();
        match self.random.below(100) {
            0..20 => self.stop_agent(n, round, plan),
            20..26 if self.agents[n].up && !self.agents[n].frozen => {
                self.agents[n].frozen = true;
                plan.push(Action::FreezeAgent(n));
                self.later(round, 4, Action::ThawAgent(n));
            }
            26..36 => self.stop_server(round, plan),
            36..40 if self.server_up && !self.server_frozen => {
                self.server_frozen = true;
                plan.push(Action::FreezeServer);
                self.later(round, 3, Action::ThawServer);
            }
            40..50 => plan.push(Action::Reset(n)),
            50..68 => self.network(n, round, plan),
            68..76 => {
                let disk = if self.random.percent(35) { Disk::Server } else { Disk::Agent(n) };
                if !self.disks_full.contains(&disk) {
                    self.disks_full.push(disk);
                    plan.push(Action::FillDisk(disk));
                    self.later(round, 4, Action::FreeDisk(disk));
                }
            }
            76..86 => {
                let reach = self.random.one_of(&[5_000, 3_600_000, 90_000_000, 40_000_000_000]);
                let off = self.random.below(2 * reach) as i64 - reach as i64;
                plan.push(Action::Clock(n, off));
            }
            86..90 => {
                let recording = self.random.percent(50);
                plan.push(Action::Recording(n, recording));
                if recording {
                    self.later(round, 5, Action::Recording(n, false));
                }
            }
            90..93 => {
                plan.push(Action::Lock(n, 2 + self.random.below(20)));
                self.later(round, 6, Action::Unlock(n));
            }
            93..96 => {
                self.backup = true;
                self.agents.iter_mut().for_each(|device| device.rotated = false);
                plan.push(Action::Backup);
            }
            _ => {}
        }
    }

    fn stop_agent(&mut self, n: usize, round: usize, plan: &mut Vec<Action>) {
        if !self.agents[n].up {
            return;
        }
        let stop = match self.random.below(10) {
            0..6 => Action::KillAgent(n),
            6..8 => Action::CutPower(n),
            _ => {
                if std::mem::take(&mut self.agents[n].frozen) {
                    plan.push(Action::ThawAgent(n));
                }
                Action::StopAgent(n)
            }
        };
        plan.push(stop);
        self.agents[n].up = false;
        self.agents[n].frozen = false;
        if self.random.percent(25) {
            self.agents[n].copied = true;
            plan.push(Action::CopyState(n));
        } else if self.random.percent(33) {
            let damage = match self.random.below(9) {
                0 => Damage::Truncated(self.random.below(1000)),
                1 => Damage::Scrambled(self.random.next()),
                2 => Damage::LogTruncated(self.random.below(1000)),
                3 => Damage::Deleted,
                _ if self.agents[n].copied => Damage::OlderCopy,
                _ => Damage::Scrambled(self.random.next()),
            };
            plan.push(Action::Damage(n, damage));
        }
        self.later(round, 3, Action::StartAgent(n));
    }

    fn stop_server(&mut self, round: usize, plan: &mut Vec<Action>) {
        if !self.server_up {
            return;
        }
        if self.random.percent(70) {
            plan.push(Action::KillServer);
        } else {
            if std::mem::take(&mut self.server_frozen) {
                plan.push(Action::ThawServer);
            }
            plan.push(Action::StopServer);
        }
        self.server_up = false;
        self.server_frozen = false;
        // A full disk is no place to restore to.
        if self.backup && !self.disks_full.contains(&Disk::Server) && self.random.percent(20) {
            plan.push(Action::Restore);
        }
        self.later(round, 2, Action::StartServer);
    }

    fn network(&mut self, n: usize, round: usize, plan: &mut Vec<Action>) {
        let direction = self.random.one_of(&[Direction::Up, Direction::Down]);
        let bytes = self.random.below(3000);
        match self.random.below(5) {
            0 | 1 => {
                plan.push(Action::Network(n, direction, Flow::Stalled));
                if self.random.percent(50) {
                    plan.push(Action::Network(n, opposite(direction), Flow::Stalled));
                }
            }
            2 => plan.push(Action::Network(n, direction, Flow::Trickle(1 + bytes as usize / 100))),
            3 => plan.push(Action::Network(n, direction, Flow::CutAfter(bytes))),
            _ => plan.push(Action::HalfClose(n, direction)),
        }
        self.later(round, 4, Action::HealNetwork(n));
    }

    fn ask(&mut self, plan: &mut Vec<Action>) {
        let n = self.device();
        let known = self.requests.len();
        match self.random.below(10) {
            0 if known > 0 => plan.push(Action::Cancel(self.recent())),
            1 if known > 0 => plan.push(Action::Override(self.recent())),
            _ => {
                let kind = match self.random.below(20) {
                    0..3 => Kind::Ping,
                    3..8 => Kind::Script(self.random.one_of(&[0, 2, 15])),
                    8 => Kind::FailingScript,
                    9 => Kind::NoScript,
                    10..14 => Kind::Restart,
                    14..16 => Kind::Reboot,
                    16..18 => Kind::Config,
                    18 if !self.agents[n].rotated => {
                        self.agents[n].rotated = true;
                        Kind::RotateToken
                    }
                    _ => Kind::Script(0),
                };
                self.requests.push(kind);
                plan.push(Action::Ask(Request {
                    number: known,
                    device: n,
                    kind,
                    by_mqtt: self.random.percent(30),
                    expires_in_seconds: self.random.percent(15).then(|| 3 + self.random.below(10)),
                    overrides: self.random.percent(15),
                }));
            }
        }
    }

    /// One of the newest requests.
    fn recent(&mut self) -> usize {
        let known = self.requests.len();
        known - 1 - self.random.below(known.min(8) as u64) as usize
    }
}

fn opposite(direction: Direction) -> Direction {
    match direction {
        Direction::Up => Direction::Down,
        Direction::Down => Direction::Up,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { agents: 10, rounds: 400, chapter: 50 };

    #[test]
    fn a_seed_draws_the_same_plan_each_time_and_another_seed_another() {
        assert_eq!(draw(7, SIZE), draw(7, SIZE));
        assert_ne!(draw(7, SIZE), draw(8, SIZE));
    }

    #[test]
    fn a_plan_never_asks_for_what_cannot_be() {
        for seed in 0..50 {
            let mut up = [true; SIZE.agents];
            let (mut server_up, mut backup, mut copied) = (true, false, [false; SIZE.agents]);
            let mut asked = 0;
            for (at, action) in draw(seed, SIZE).into_iter().enumerate() {
                let context = format!("seed {seed}, step {at}: {action:?}");
                match action {
                    Action::KillAgent(n) | Action::StopAgent(n) | Action::CutPower(n) => {
                        assert!(std::mem::replace(&mut up[n], false), "{context}");
                    }
                    Action::StartAgent(n) => assert!(!std::mem::replace(&mut up[n], true), "{context}"),
                    Action::FreezeAgent(n) | Action::ThawAgent(n) => assert!(up[n], "{context}"),
                    Action::Damage(n, Damage::OlderCopy) => assert!(!up[n] && copied[n], "{context}"),
                    Action::Damage(n, _) => assert!(!up[n], "{context}"),
                    Action::CopyState(n) => {
                        assert!(!up[n], "{context}");
                        copied[n] = true;
                    }
                    Action::KillServer | Action::StopServer => {
                        assert!(std::mem::replace(&mut server_up, false), "{context}");
                    }
                    Action::StartServer => {
                        assert!(!std::mem::replace(&mut server_up, true), "{context}");
                    }
                    Action::FreezeServer | Action::ThawServer => assert!(server_up, "{context}"),
                    Action::Backup => backup = true,
                    Action::Restore => assert!(!server_up && backup, "{context}"),
                    Action::Ask(request) => {
                        assert_eq!(request.number, asked, "{context}");
                        asked += 1;
                    }
                    Action::Cancel(number) | Action::Override(number) => assert!(number < asked, "{context}"),
                    Action::Check => (up, server_up) = ([true; SIZE.agents], true),
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn the_short_run_of_the_tests_has_most_of_what_there_is() {
        let plan = draw(SHORT_SEED, SHORT);
        let has = |what: &dyn Fn(&Action) -> bool| assert!(plan.iter().any(what), "{plan:#?}");
        has(&|a| matches!(a, Action::Restore));
        has(&|a| matches!(a, Action::FillDisk(Disk::Server)));
        has(&|a| matches!(a, Action::FillDisk(Disk::Agent(_))));
        has(&|a| matches!(a, Action::Damage(_, Damage::OlderCopy)));
        has(&|a| {
            matches!(a, Action::Damage(_, Damage::Scrambled(_) | Damage::Deleted | Damage::Truncated(_)))
        });
        has(&|a| matches!(a, Action::FreezeServer));
        has(&|a| matches!(a, Action::KillServer));
        has(&|a| matches!(a, Action::KillAgent(_)));
        has(&|a| matches!(a, Action::Reset(_)));
        has(&|a| matches!(a, Action::Clock(..)));
        has(&|a| matches!(a, Action::Recording(..)));
        has(&|a| matches!(a, Action::Ask(Request { kind: Kind::RotateToken, .. })));
    }

    #[test]
    fn every_fault_comes_up_in_a_long_plan() {
        let plan = draw(1, SIZE);
        let has = |what: &dyn Fn(&Action) -> bool| plan.iter().any(what);
        assert!(has(&|a| matches!(a, Action::Restore)));
        assert!(has(&|a| matches!(a, Action::FillDisk(Disk::Server))));
        assert!(has(&|a| matches!(a, Action::FillDisk(Disk::Agent(_)))));
        assert!(has(&|a| matches!(a, Action::Damage(_, Damage::OlderCopy))));
        assert!(has(&|a| matches!(a, Action::Damage(_, Damage::Scrambled(_)))));
        assert!(has(&|a| matches!(a, Action::Network(_, _, Flow::CutAfter(_)))));
        assert!(has(&|a| matches!(a, Action::HalfClose(..))));
        assert_eq!(plan.iter().filter(|a| matches!(a, Action::Check)).count(), 8);
    }
}
