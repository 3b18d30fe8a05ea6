//! One device: its agent, its machine, its disk, its network, its clock.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::disks::SmallDisk;
use super::ledger::unit;
use super::plan::{Action, Damage, Kind};
use super::random::Random;
use super::spool::Spool;
use super::tally::Tally;
use super::world::surprise;
use crate::{Agent, Machine, Proxy, Server, Signal};

/// A device's disk.
const DISK_MIB: u32 = 32;
const PAGE_BYTES: u64 = 4096;

pub(super) struct Device {
    pub(super) name: String,
    pub(super) agent: Agent,
    pub(super) machine: Machine,
    pub(super) proxy: Proxy,
    pub(super) disk: SmallDisk,
    pub(super) power_cuts: usize,
    up: bool,
    frozen: bool,
    reboots: usize,
    spool_file: PathBuf,
    clock_file: PathBuf,
    copy: PathBuf,
}

impl Device {
    /// An enrolled device that does not run yet.
    pub(super) fn new(folder: &Path, server: &Server, n: usize, plan: &[Action], own_disk: bool) -> Self {
        let name = format!("box-{n}");
        let home = folder.join(&name);
        let file = |what: &str| folder.join(format!("{name}.{what}"));
        let disk = SmallDisk::make(&home, DISK_MIB, own_disk).expect("a folder of the run's");
        let machine = Machine::new_in(&file("machine"));
        machine.script("work-0", "");
        machine.script("work-2", "sleep 0.2");
        machine.script("work-15", "sleep 1.5");
        machine.script("fails", "exit 3");
        if n % 2 == 1 {
            // These have no NTP: the server alone tells them the time.
            fs::remove_file(machine.path("clock-synchronized")).expect("a file of the machine's");
        }
        let proxy = Proxy::to(server.mqtt_port());
        let (spool_file, clock_file) = (file("spool"), file("clock"));
        fs::write(&clock_file, "+0").expect("a file of the run's");
        let units: Vec<String> = plan
            .iter()
            .filter_map(|action| match action {
                Action::Ask(request) if request.device == n && request.kind == Kind::Restart => {
                    Some(unit(request.number))
                }
                _ => None,
            })
            .collect();
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let agent = Agent::enroll_in(server, &name, &home, &file("log"));
        let agent = machine.settings().iter().fold(agent, |agent, (key, value)| agent.with(key, value));
        let agent = agent
            .with("MQTT_URL", &format!("mqtt://127.0.0.1:{}", proxy.port()))
            .with("ALLOWED_SERVICES", &units.join(","))
            .with(agent::spool_file::VARIABLE, &text(&spool_file))
            .with("R58_FLEET_TEST_WALL_CLOCK_FILE", &text(&clock_file));
        let copy = file("copy");
        Self {
            name,
            agent,
            machine,
            proxy,
            disk,
            power_cuts: 0,
            up: false,
            frozen: false,
            reboots: 0,
            spool_file,
            clock_file,
            copy,
        }
    }

    pub(super) fn start(&mut self) {
        if !std::mem::replace(&mut self.up, true) {
            self.finish_reboot();
            self.agent.start();
        }
    }

    /// A power supply that fails, or an OOM killer: what the agent has started ends with it, as systemd has it.
    pub(super) fn kill(&mut self) {
        if std::mem::take(&mut self.up) {
            self.frozen = false;
            self.agent.kill();
            self.kill_orphans();
        }
    }

    pub(super) fn cut_power(&mut self) {
        self.kill();
        self.machine.boot();
        self.power_cuts += 1;
    }

    pub(super) fn stop(&mut self) {
        if std::mem::take(&mut self.up) {
            self.thaw();
            self.agent.stop();
            self.kill_orphans();
        }
    }

    pub(super) fn freeze(&mut self, frozen: bool) {
        match (frozen, self.up) {
            (true, true) if self.agent.ended().is_none() => {
                self.agent.signal(Signal::SIGSTOP);
                self.frozen = true;
            }
            (false, true) => self.thaw(),
            _ => {}
        }
    }

    fn thaw(&mut self) {
        if std::mem::take(&mut self.frozen) {
            self.agent.signal(Signal::SIGCONT);
        }
    }

    /// Starts it again if it has ended, and boots the machine if it was told to. Tells of an end that nobody made.
    pub(super) fn look_after(&mut self, tally: &mut Tally) -> Option<String> {
        if !self.up || self.frozen {
            return None;
        }
        let mut told = None;
        if self.machine.count("reboot") > self.reboots {
            tally.add("reboots");
            self.kill();
            self.start();
        } else if let Some(status) = self.agent.ended() {
            tally.add("agents that ended by themselves");
            told = Some(surprise(&self.name, status, &self.agent.log()));
            self.kill();
            self.start();
        }
        told
    }

    /// A machine that was told to reboot has done so.
    fn finish_reboot(&mut self) {
        let told = self.machine.count("reboot");
        if told > self.reboots {
            self.reboots = told;
            self.machine.boot();
        }
    }

    /// The network, the disk, the clock and the application are as they should be, and the agent is not frozen.
    pub(super) fn heal(&mut self) {
        self.disk.free();
        self.proxy.heal();
        self.set_clock(0);
        self.machine.app_says("idle");
        self.thaw();
        self.start();
    }

    pub(super) fn set_clock(&self, off_ms: i64) {
        // In one step: the agent may be reading it.
        let new = self.clock_file.with_extension("clock-new");
        fs::write(&new, format!("{off_ms:+}")).expect("a file of the run's");
        fs::rename(new, &self.clock_file).expect("a file of the run's");
    }

    /// Does something to the state of the stopped agent; tells what.
    pub(super) fn damage(&mut self, damage: Damage) -> &'static str {
        assert!(!self.up, "the agent runs");
        let database = self.agent.state_file();
        let log = PathBuf::from(format!("{}-wal", database.display()));
        self.say_in_spool(&format!("X {damage:?}").replace(['(', ')'], " "));
        // What is not there cannot be torn.
        match damage {
            Damage::Truncated(permille) => {
                truncate(&database, permille);
                "states truncated"
            }
            Damage::LogTruncated(permille) => {
                truncate(&log, permille);
                "logs of states truncated"
            }
            Damage::Scrambled(seed) => {
                scramble(&database, seed);
                "states scrambled"
            }
            Damage::Deleted => {
                let _ = fs::remove_dir_all(self.agent.state_dir().join("db"));
                "states deleted"
            }
            Damage::OlderCopy => {
                let place = self.agent.state_dir().join("db");
                let _ = fs::remove_dir_all(&place);
                copy_folder(&self.copy, &place);
                "older states put back"
            }
        }
    }

    pub(super) fn copy_state(&self) {
        let _ = fs::remove_dir_all(&self.copy);
        copy_folder(&self.agent.state_dir().join("db"), &self.copy);
    }

    /// A line of the test's in the agent's own record.
    pub(super) fn say_in_spool(&self, line: &str) {
        let mut file =
            File::options().append(true).create(true).open(&self.spool_file).expect("a file of ours");
        file.write_all(format!("{line}\n").as_bytes()).expect("a file of ours");
    }

    pub(super) fn spool(&self) -> Spool {
        Spool::read(&fs::read_to_string(&self.spool_file).unwrap_or_default())
    }

    /// What `config` commands change, if one has.
    pub(super) fn config_value(&self) -> Option<u64> {
        let text = fs::read_to_string(self.agent.config_file()).ok()?;
        text.lines()
            .find_map(|line| line.strip_prefix("COMMAND_POLL_INTERVAL="))?
            .trim_matches('"')
            .parse()
            .ok()
    }

    fn kill_orphans(&self) {
        let marks = [
            format!("R58_DEVICE_ID={}", self.name),
            format!("{}={}", agent::spool_file::VARIABLE, self.spool_file.display()),
        ];
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        for process in processes {
            let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let Ok(environment) = fs::read(process.path().join("environ")) else { continue };
            let is_ours = |entry: &[u8]| marks.iter().any(|mark| mark.as_bytes() == entry);
            if environment.split(|byte| *byte == 0).any(is_ours) {
                // It may have ended by itself.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

fn truncate(file: &Path, permille: u64) {
    if let Ok(file) = File::options().write(true).open(file) {
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        file.set_len(length * permille / 1000).expect("a file becomes shorter");
    }
}

/// One to three pages hold any bytes.
fn scramble(file: &Path, seed: u64) {
    let Ok(mut file) = File::options().write(true).open(file) else { return };
    let pages = file.metadata().map_or(0, |metadata| metadata.len()) / PAGE_BYTES;
    let mut random = Random::new(seed);
    for _ in 0..=random.below(3).min(pages.saturating_sub(1)) {
        let page: Vec<u8> = (0..PAGE_BYTES).map(|_| random.below(256) as u8).collect();
        let place = SeekFrom::Start(random.below(pages.max(1)) * PAGE_BYTES);
        // On a full disk it stays as it is.
        let _ = file.seek(place).and_then(|_| file.write_all(&page));
    }
}

/// As far as the disk has room.
fn copy_folder(from: &Path, to: &Path) {
    let _ = fs::create_dir_all(to);
    for entry in fs::read_dir(from).into_iter().flatten().flatten() {
        let _ = fs::copy(entry.path(), to.join(entry.file_name()));
    }
}
