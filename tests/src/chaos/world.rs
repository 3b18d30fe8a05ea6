//! The executor: does what the plan says, heals everything at the end of a chapter, and has it checked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;

use super::check::{self, ENDED, Report};
use super::database::Database;
use super::device::Device;
use super::disks::SmallDisk;
use super::ledger::{Asked, Effect, Forgotten, Ledger};
use super::operator::{Answer, Desk};
use super::plan::{self, Action, Disk, Size};
use super::spool::Spool;
use super::tally::Tally;
use crate::{Person, Server, Signal};

/// How long all may take to come to rest after everything was healed.
const REST: Duration = Duration::from_secs(240);
/// Agents that wait for longer and longer are started again this often meanwhile.
const AGAIN: Duration = Duration::from_secs(75);
/// The server's disk: enough for a long run.
const SERVER_DISK_MIB: u32 = 512;
/// Requests come thick and fast.
const SETTINGS: [(&str, &str); 1] = [("FLEET_RATE_LIMIT_REQUESTS", "1000000")];

/// What a run is.
#[derive(Debug)]
pub struct Options {
    /// What the plan is drawn from.
    pub seed: u64,
    /// How large.
    pub size: Size,
    /// Where everything is.
    pub folder: PathBuf,
    /// Whether we have a namespace in which disks can be mounted.
    pub own_disks: bool,
}

/// A run that has ended.
#[derive(Debug)]
pub struct Outcome {
    /// What must not be; empty if all is well.
    pub complaints: Vec<String>,
    /// For people.
    pub summary: String,
}

/// Runs everything. `stop` ends it early.
#[must_use]
pub fn run(options: &Options, stop: &AtomicBool) -> Outcome {
    let began = Instant::now();
    let plan = plan::draw(options.seed, options.size);
    let mut world = World::new(options, &plan, stop);
    let mut report = Report::default();
    let mut chapters = 0;
    for (step, action) in plan.iter().enumerate() {
        if stop.load(Ordering::SeqCst) {
            report.complaints.push("stopped by a signal before its end".to_owned());
            break;
        }
        world.note(step, action);
        // What fails in the middle leaves as much to look at as a complaint.
        let done = catch_unwind(AssertUnwindSafe(|| match action {
            Action::Check => Some(world.check()),
            _ => {
                world.act(action);
                None
            }
        }));
        let Ok(done) = done else {
            report.complaints.push(format!("step {step}, {action:?}, could not be made; see above"));
            break;
        };
        if let Some(checked) = done {
            chapters += 1;
            report = checked;
            world.progress(&format!(
                "chapter {chapters} is checked after {} s: {}\n",
                began.elapsed().as_secs(),
                report.records
            ));
            if !report.complaints.is_empty() {
                break;
            }
        } else {
            world.progress(&format!("step {} of {}", step + 1, plan.len()));
        }
    }
    world.end(&mut report.complaints);
    let commands: Vec<String> = report.commands.iter().map(|(end, count)| format!("{end} {count}")).collect();
    let disk = if options.own_disks { "" } else { "\nwithout full disks: this system lets nobody mount one" };
    let summary = format!(
        "{} agents, {} rounds, seed {}, {} s\n  done: {}\n  {}\n  commands: {}\n  effects seen: {}; new identities of states: {}{disk}",
        options.size.agents,
        options.size.rounds,
        options.seed,
        began.elapsed().as_secs(),
        world.tally,
        report.records,
        commands.join(", "),
        report.effects,
        report.new_identities,
    );
    Outcome { complaints: report.complaints, summary }
}

struct World<'a> {
    stop: &'a AtomicBool,
    folder: PathBuf,
    server: Server,
    server_disk: SmallDisk,
    server_up: bool,
    server_frozen: bool,
    devices: Vec<Device>,
    desk: Desk,
    jobs: Vec<(usize, JoinHandle<Answer>)>,
    meddlers: Vec<JoinHandle<()>>,
    ledger: Ledger,
    backup: Option<PathBuf>,
    tally: Tally,
    /// Programs that ended although nobody ended them.
    surprises: Vec<String>,
    journal: File,
    began: Instant,
}

impl<'a> World<'a> {
    fn new(options: &Options, plan: &[Action], stop: &'a AtomicBool) -> Self {
        let folder = options.folder.clone();
        let journal = File::create(folder.join("steps.log")).expect("a file in the run's folder");
        let make = |name: &str, size| {
            SmallDisk::make(&folder.join(name), size, options.own_disks).expect("a folder of the run's")
        };
        let server_disk = make("server", SERVER_DISK_MIB);
        let server = Server::start_in(&folder.join("server"), &folder.join("server.log"), &SETTINGS);
        let olivia = Person::new(&server, "olivia", "operator");
        let devices: Vec<Device> = (0..options.size.agents)
            .map(|n| Device::new(&folder, &server, n, plan, options.own_disks))
            .collect();
        let desk = Desk::new(server.url(), server.mqtt_port(), olivia);
        let ledger = Ledger {
            devices: devices.iter().map(|device| device.name.clone()).collect(),
            ..Ledger::default()
        };
        let mut world = Self {
            stop,
            folder,
            server,
            server_disk,
            server_up: true,
            server_frozen: false,
            devices,
            desk,
            jobs: Vec::new(),
            meddlers: Vec::new(),
            ledger,
            backup: None,
            tally: Tally::default(),
            surprises: Vec::new(),
            journal,
            began: Instant::now(),
        };
        // The first four are two pairs.
        for (n, device) in world.devices.iter_mut().enumerate() {
            if n < 4 && options.size.agents > 1 {
                let group = json!({"redundancy_group": format!("pair-{}", n / 2)});
                let path = format!("/devices/{}", device.name);
                let done = world.desk.insist("PATCH", &path, &group);
                assert!(done.is_some_and(|(status, _)| status == 200), "{path} cannot be put into a pair");
            }
            device.start();
        }
        world
    }

    /// Every step with its time, for whoever looks into a failure.
    fn note(&mut self, step: usize, action: &Action) {
        let _ = writeln!(self.journal, "{:9.3} {step} {action:?}", self.began.elapsed().as_secs_f64());
    }

    fn progress(&self, text: &str) {
        let line = text.strip_suffix('\n');
        if io::stdout().is_terminal() {
            print!("\r\x1b[K{text}");
            let _ = io::stdout().flush();
        } else if let Some(line) = line {
            println!("{line}");
        }
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::KillAgent(n) => self.down(*n, "agents killed", Device::kill),
            Action::CutPower(n) => self.down(*n, "power cuts", Device::cut_power),
            Action::StopAgent(n) => self.down(*n, "agents stopped", Device::stop),
            Action::StartAgent(n) => self.devices[*n].start(),
            Action::FreezeAgent(n) => {
                self.tally.add("agents frozen");
                self.devices[*n].freeze(true);
            }
            Action::ThawAgent(n) => self.devices[*n].freeze(false),
            Action::KillServer => {
                self.tally.add("servers killed");
                self.server_down(Server::kill);
            }
            Action::StopServer => {
                self.tally.add("servers stopped");
                self.server_down(|server| {
                    // A full disk may make it end in another way.
                    server.stop();
                });
            }
            Action::StartServer => self.start_server(),
            Action::FreezeServer => {
                self.tally.add("servers frozen");
                self.freeze_server(true);
            }
            Action::ThawServer => self.freeze_server(false),
            Action::Reset(n) => {
                self.tally.add("connections reset");
                self.devices[*n].proxy.reset();
            }
            Action::Network(n, direction, flow) => {
                self.tally.add("bad networks");
                self.devices[*n].proxy.set(*direction, *flow);
            }
            Action::HalfClose(n, direction) => {
                self.tally.add("half closes");
                self.devices[*n].proxy.half_close(*direction);
            }
            Action::HealNetwork(n) => self.devices[*n].proxy.heal(),
            Action::FillDisk(disk) => {
                let filled = match disk {
                    Disk::Server => self.server_disk.fill(),
                    Disk::Agent(n) => self.devices[*n].disk.fill(),
                };
                if filled.expect("a disk of our own can be filled") {
                    self.tally.add("disks filled");
                }
            }
            Action::FreeDisk(Disk::Server) => self.server_disk.free(),
            Action::FreeDisk(Disk::Agent(n)) => self.devices[*n].disk.free(),
            Action::Clock(n, off_ms) => {
                self.tally.add("clocks moved");
                self.devices[*n].set_clock(*off_ms);
            }
            Action::Damage(n, damage) => {
                let what = self.devices[*n].damage(*damage);
                self.tally.add(what);
            }
            Action::CopyState(n) => self.devices[*n].copy_state(),
            Action::Backup => self.back_up(),
            Action::Restore => self.restore(),
            Action::Ask(request) => self.ask(request),
            Action::Cancel(number) => self.meddle(*number, "cancel", json!({})),
            Action::Override(number) => self.meddle(*number, "override", json!({"reason": "chaos"})),
            Action::Lock(n, seconds) => self.lock(*n, Some(*seconds)),
            Action::Unlock(n) => self.lock(*n, None),
            Action::Recording(n, on) => {
                self.devices[*n].machine.app_says(if *on { "recording" } else { "idle" });
            }
            Action::Wait(ms) => {
                let until = Instant::now() + Duration::from_millis(*ms);
                while Instant::now() < until {
                    self.look_after();
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
            Action::Check => {}
        }
    }

    fn down(&mut self, n: usize, what: &'static str, how: fn(&mut Device)) {
        self.tally.add(what);
        how(&mut self.devices[n]);
    }

    fn server_down(&mut self, how: impl FnOnce(&mut Server)) {
        if std::mem::take(&mut self.server_up) {
            self.freeze_server(false);
            how(&mut self.server);
        }
    }

    fn start_server(&mut self) {
        if !std::mem::replace(&mut self.server_up, true) {
            self.server.launch();
        }
    }

    fn freeze_server(&mut self, frozen: bool) {
        if self.server_frozen != frozen && self.server_up && self.server.ended().is_none() {
            self.server.signal(if frozen { Signal::SIGSTOP } else { Signal::SIGCONT });
        }
        self.server_frozen = frozen;
    }

    /// What an init system does: what has ended is started again, a machine that was told to reboots.
    fn look_after(&mut self) {
        if self.server_up
            && !self.server_frozen
            && let Some(status) = self.server.ended()
        {
            self.tally.add("servers that ended by themselves");
            self.surprises.push(surprise("server", status, &self.server.log()));
            self.server.kill();
            self.server.launch();
            std::thread::sleep(Duration::from_millis(100));
        }
        for device in &mut self.devices {
            self.surprises.extend(device.look_after(&mut self.tally));
        }
    }

    fn back_up(&mut self) {
        let to = self.folder.join(format!("backup-{}", self.began.elapsed().as_millis()));
        let output = self.server.run(&["backup", &to.to_string_lossy()], "");
        if output.status.success() {
            self.tally.add("backups");
            if let Some(old) = self.backup.replace(to) {
                let _ = fs::remove_file(old);
            }
        } else {
            // On a full disk for example. The older one is still good.
            self.tally.add("backups that failed");
            let _ = writeln!(self.journal, "backup: {}", String::from_utf8_lossy(&output.stderr));
        }
    }

    fn restore(&mut self) {
        let Some(backup) = self.backup.clone() else { return };
        self.gather_answers(true);
        let database = self.database();
        let before = Database::glance(&database).expect("a stopped server's database can be read");
        let output = self.server.run(&["restore", "--force", &backup.to_string_lossy()], "");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "restore: {said}\n{}", String::from_utf8_lossy(&output.stderr));
        let after = Database::glance(&database).expect("a restored database can be read");
        for ((device, state), committed) in &before.committed {
            let left = after.committed.get(&(device.clone(), state.clone())).cloned().unwrap_or_default();
            self.ledger.forget(device, state, committed, &left);
        }
        let left: BTreeSet<&str> = after.commands.iter().map(|command| command.id.as_str()).collect();
        for command in before.commands.iter().filter(|command| !left.contains(command.id.as_str())) {
            let (id, reference, device) =
                (command.id.clone(), command.reference.clone(), command.device.clone());
            self.ledger.forgotten_commands.push(Forgotten { id, reference, device });
        }
        // What was there before would fill the disk in the end.
        for aside in said.lines().filter_map(|line| line.strip_prefix("the data from before is in ")) {
            let aside = Path::new(aside.split(';').next().unwrap_or_default());
            let _ = fs::remove_dir_all(aside).or_else(|_| fs::remove_file(aside));
        }
        self.tally.add("restores");
    }

    fn ask(&mut self, request: &plan::Request) {
        self.tally.add("commands asked for");
        let device = self.devices[request.device].name.clone();
        let effect = Effect::of(request.kind, request.number);
        self.ledger.asked.push(Asked {
            number: request.number,
            device: device.clone(),
            effect,
            accepted: None,
            refused: None,
        });
        let (desk, request) = (self.desk.clone(), request.clone());
        let number = request.number;
        self.jobs.push((number, std::thread::spawn(move || desk.ask(&request, &device))));
    }

    /// Does something to a command whose id is known; the answer does not matter.
    fn meddle(&mut self, number: usize, what: &'static str, body: serde_json::Value) {
        self.gather_done();
        let Some(id) = self.ledger.asked[number].accepted.clone() else { return };
        self.tally.add(what);
        let desk = self.desk.clone();
        self.meddlers.push(std::thread::spawn(move || {
            let _ = desk.insist("POST", &format!("/commands/{id}/{what}"), &body);
        }));
    }

    fn lock(&mut self, n: usize, seconds: Option<u64>) {
        let (desk, path) = (self.desk.clone(), format!("/devices/{}/show-lock", self.devices[n].name));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        self.meddlers.push(std::thread::spawn(move || {
            match seconds {
                Some(seconds) => {
                    let until = i64::try_from((now + Duration::from_secs(seconds)).as_millis()).unwrap_or(0);
                    let body = json!({"until": protocol::message::rfc3339(until), "reason": "chaos"});
                    let _ = desk.call("PUT", &path, Some(&body));
                }
                None => {
                    let _ = desk.call("DELETE", &path, None);
                }
            };
        }));
    }

    fn gather_done(&mut self) {
        let (done, busy) = std::mem::take(&mut self.jobs).into_iter().partition(|(_, job)| job.is_finished());
        self.jobs = busy;
        self.take_answers(done);
    }

    /// Waits for everybody at the desk; in a hurry nobody tries again.
    fn gather_answers(&mut self, hurry: bool) {
        self.desk.hurry(hurry);
        let jobs = std::mem::take(&mut self.jobs);
        self.take_answers(jobs);
        for meddler in std::mem::take(&mut self.meddlers) {
            let _ = meddler.join();
        }
        self.desk.hurry(false);
    }

    fn take_answers(&mut self, jobs: Vec<(usize, JoinHandle<Answer>)>) {
        for (number, job) in jobs {
            let asked = &mut self.ledger.asked[number];
            match job.join().expect("an operator does not panic") {
                Answer::Accepted(id) => asked.accepted = Some(id),
                Answer::Refused(why) => {
                    self.tally.add("commands refused");
                    let _ = writeln!(self.journal, "{}: refused: {why}", Asked::reference(number));
                    asked.refused = Some(why);
                }
                Answer::Unknown => self.tally.add("commands without an answer"),
            }
        }
    }

    fn database(&self) -> PathBuf {
        self.server.data_dir().join("fleet.db")
    }

    /// Heals everything, waits until all is at rest, and compares.
    fn check(&mut self) -> Report {
        self.freeze_server(false);
        self.server_disk.free();
        for device in &mut self.devices {
            device.heal();
        }
        self.start_server();
        let ready = self.wait_until_ready();
        self.gather_answers(false);
        for n in 0..self.devices.len() {
            self.lock(n, None);
        }
        self.gather_answers(false);
        self.restart_agents();
        self.devices.iter().for_each(|device| device.say_in_spool("Q"));
        let mut complaints = ready.err().into_iter().collect::<Vec<_>>();
        complaints.extend(self.wait_for_rest());

        // In this order: what is in the database was spooled before.
        let database = Database::read(&self.database()).expect("the server's database can be read");
        let spools = self.spools();
        for device in &self.devices {
            self.ledger.effects.insert(device.name.clone(), device.machine.effects());
            self.ledger.power_cuts.insert(device.name.clone(), device.power_cuts);
            if let Some(value) = device.config_value() {
                self.ledger.config.insert(device.name.clone(), value);
            }
        }
        self.ledger.write(&self.folder).expect("a file in the run's folder");
        let mut report = check::check(&self.ledger, &spools, &database);
        report.complaints.extend(complaints);
        report.complaints.append(&mut self.surprises);
        report
    }

    fn wait_until_ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            self.look_after();
            if ureq::get(format!("{}/ready", self.server.url())).call().is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Err("the server is not ready a minute after everything was healed".to_owned())
    }

    fn restart_agents(&mut self) {
        for device in &mut self.devices {
            device.stop();
            device.start();
        }
    }

    fn spools(&self) -> BTreeMap<String, Spool> {
        self.devices.iter().map(|device| (device.name.clone(), device.spool())).collect()
    }

    /// Waits until what was spooled is committed, every command has ended, and everybody is connected.
    fn wait_for_rest(&mut self) -> Option<String> {
        let began = Instant::now();
        let mut restarted = began;
        loop {
            self.look_after();
            let open = match Database::glance(&self.database()) {
                Ok(database) => self.unrest(&database),
                Err(error) => vec![format!("the database cannot be read: {error}")],
            };
            if open.is_empty() {
                return None;
            }
            if self.stop.load(Ordering::SeqCst) {
                return Some("stopped by a signal while waiting for rest".to_owned());
            }
            if began.elapsed() > REST {
                return Some(format!("not at rest after {REST:?}: {}", open.join("; ")));
            }
            if restarted.elapsed() > AGAIN {
                restarted = Instant::now();
                self.restart_agents();
                self.tally.add("agents started again while waiting");
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    fn unrest(&self, database: &Database) -> Vec<String> {
        let mut open = Vec::new();
        for (device, spool) in self.spools() {
            let waiting = spool.held_and_due().filter(|record| {
                let ranges = database.committed.get(&(device.clone(), record.state.clone()));
                ranges.is_none_or(|ranges| !ranges.contains(record.seq))
            });
            let waiting = waiting.count();
            if waiting > 0 {
                open.push(format!("{device}: {waiting} records are not committed"));
            }
            if !database.online.contains(&device) {
                open.push(format!("{device}: not connected"));
            }
        }
        for command in &database.commands {
            if !ENDED.contains(&command.status.as_str()) {
                open.push(format!("{command:?}"));
            }
        }
        open
    }

    /// Stops everything, says what must not be in the logs, and leaves what people need to look into complaints.
    fn end(&mut self, complaints: &mut Vec<String>) {
        self.gather_answers(true);
        complaints.append(&mut self.surprises);
        for device in &mut self.devices {
            device.heal();
            device.stop();
        }
        self.server_disk.free();
        self.server_down(|server| {
            server.stop();
        });
        let agents = self.devices.iter().map(|device| (device.name.as_str(), device.agent.log()));
        for (name, log) in agents.chain([("server", self.server.log())]) {
            if let Some(line) = log.lines().find(|line| line.contains("panicked at")) {
                complaints.push(format!("{name}: {line}"));
            }
        }
        // The disks of our own go with us.
        for suffix in ["", "-wal"] {
            let to = self.folder.join(format!("fleet.db{suffix}"));
            let _ = fs::copy(format!("{}{suffix}", self.database().display()), to);
        }
        if !complaints.is_empty() {
            for name in self.devices.iter().map(|device| device.name.as_str()).chain(["server"]) {
                let to = self.folder.join(format!("{name}.kept"));
                let _ = Command::new("cp").arg("-r").arg(self.folder.join(name)).arg(to).status();
            }
        }
    }
}

/// A program has ended, and nobody has ended it.
pub(super) fn surprise(name: &str, status: ExitStatus, log: &str) -> String {
    format!("{name} ended by itself, {status}: {}", log.lines().last().unwrap_or_default())
}
