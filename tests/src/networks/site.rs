//! One server and one device with an agent, in a network of their own; what is asked of them, and what can be seen of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent::outbox::Kind as RecordKind;
use agent::status::{Connection, Status};
use protocol::ranges::RangeSet;

use super::venue::{NAME, Net};
use crate::chaos::check::{self, ENDED, Report};
use crate::chaos::database::Database;
use crate::chaos::ledger::{Asked, Effect, Ledger, unit};
use crate::chaos::operator;
use crate::chaos::plan::{Kind, Request};
use crate::chaos::spool::{Record, Spool};
use crate::{Agent, Machine, Server, wait_for};

/// The device.
pub(super) const DEVICE: &str = "studio-001";
/// More commands than any scenario asks for.
const UNITS: usize = 60;
const START: Duration = Duration::from_secs(60);

/// Everything of one scenario.
pub(super) struct Site {
    // The network goes last.
    pub(super) agent: Agent,
    pub(super) server: Server,
    pub(super) net: Net,
    pub(super) folder: PathBuf,
    machine: Machine,
    ledger: Ledger,
    token: String,
    /// The last number that was given out before the last mark.
    due: u64,
}

/// How things are at a moment.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// What the agent says of itself, if it says anything.
    pub(super) status: Option<Status>,
    /// The server counts the device as online.
    pub(super) online: bool,
    /// What the server has committed.
    pub(super) committed: RangeSet,
    /// Commands that have not ended.
    pub(super) open: usize,
}

impl Look {
    /// The agent says that it is connected.
    pub(super) fn connected(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.connection == Connection::Connected)
    }
}

impl Site {
    /// A server with an authority of its own and an enrolled device that does not run yet. The calling thread is in the server's
    /// network from now on.
    pub(super) fn new(folder: &Path) -> Self {
        let net = Net::new(&folder.join("network"), 1).expect("network namespaces, nft and ip");
        net.server.stay().expect("our own namespace");
        let server = Server::start_in(&folder.join("server"), &folder.join("server.log"), &[]);
        let server = encrypted(server);
        let machine = net.venues[0].enter(|| Machine::new_in(&folder.join("machine")));
        let file = |name: &str| folder.join(name);
        fs::write(file("wall-clock"), "+0").expect("a file of ours");
        fs::write(file("boot-clock"), "+0").expect("a file of ours");
        let agent = Agent::unenrolled_in(DEVICE, &file("device"), &file("agent.log"));
        let agent = machine.settings().iter().fold(agent, |agent, (key, value)| agent.with(key, value));
        let units: Vec<String> = (0..UNITS).map(unit).collect();
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let agent = agent
            .with("ALLOWED_SERVICES", &units.join(","))
            .with(agent::spool_file::VARIABLE, &text(file("spool")))
            .with("R58_FLEET_TEST_WALL_CLOCK_FILE", &text(file("wall-clock")))
            .with("R58_FLEET_TEST_BOOTTIME_FILE", &text(file("boot-clock")));
        let authority = text(server.data_dir().join("tls/ca.pem"));
        let url = format!("https://{NAME}");
        let arguments =
            ["enroll", &url, "--key", "-", "--device-id", DEVICE, "--ca", &authority, "--no-restart"];
        let key = server.enrollment_key();
        let output = net.venues[0].enter(|| agent.run(&arguments, &key));
        assert!(output.status.success(), "enrol: {}", String::from_utf8_lossy(&output.stderr));
        let config = fs::read_to_string(agent.config_file()).expect("the config file");
        let token = config.lines().find_map(|line| line.strip_prefix("DEVICE_TOKEN="));
        let token = token.expect("enrolment writes a token").trim_matches('"').to_owned();
        let ledger = Ledger { devices: vec![DEVICE.to_owned()], ..Ledger::default() };
        Self { net, server, agent, folder: folder.to_owned(), machine, ledger, token, due: 0 }
    }

    /// Starts the agent and waits until both sides call it connected.
    pub(super) fn start(&mut self) {
        self.start_agent();
        wait_for("connected device", START, || {
            let look = self.look();
            (look.connected() && look.online && !look.committed.as_slice().is_empty()).then_some(())
        });
    }

    /// Starts the agent.
    pub(super) fn start_agent(&mut self) {
        let Self { net, agent, .. } = self;
        net.venues[0].enter(|| agent.start());
    }

    /// Where the server keeps its certificate.
    pub(super) fn tls(&self) -> PathBuf {
        self.server.data_dir().join("tls")
    }

    /// The device's token.
    pub(super) fn token(&self) -> &str {
        &self.token
    }

    /// What the agent's `status` shows to a person.
    pub(super) fn status_text(&self) -> String {
        let output = self.agent.run(&["status"], "");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Sets the device's clocks off by so much.
    pub(super) fn set_clocks(&self, wall_ms: i64, boot_ms: i64) {
        for (name, off_ms) in [("wall-clock", wall_ms), ("boot-clock", boot_ms)] {
            // In one step: the agent may be reading it.
            let new = self.folder.join("clock-new");
            fs::write(&new, format!("{off_ms:+}")).expect("a file of ours");
            fs::rename(new, self.folder.join(name)).expect("a file of ours");
        }
    }

    /// One command of each of three kinds.
    pub(super) fn ask(&mut self) {
        // A session may have ended meanwhile.
        let api = self.server.api();
        for kind in [Kind::Ping, Kind::Config, Kind::Restart] {
            let number = self.ledger.asked.len();
            let request = Request {
                number,
                device: 0,
                kind,
                by_mqtt: false,
                expires_in_seconds: None,
                overrides: false,
            };
            let id = api.command(DEVICE, &operator::body(&request));
            let effect = Effect::of(kind, number);
            let (device, accepted) = (DEVICE.to_owned(), Some(id));
            self.ledger.asked.push(Asked { number, device, effect, accepted, refused: None });
        }
    }

    /// How many commands were asked for.
    pub(super) fn asked(&self) -> usize {
        self.ledger.asked.len()
    }

    /// How things are.
    pub(super) fn look(&self) -> Look {
        let status = fs::read(self.agent.status_file()).ok();
        let status = status.and_then(|text| serde_json::from_slice(&text).ok());
        let Ok(database) = Database::glance(&self.database()) else {
            return Look { status, ..Look::default() };
        };
        let mut committed = RangeSet::new();
        database.committed.values().for_each(|ranges| committed.extend(ranges));
        let open = database.commands.iter().filter(|c| !ENDED.contains(&c.status.as_str())).count();
        Look { status, online: database.online.contains(DEVICE), committed, open }
    }

    /// The highest number that the agent has given to a record so far.
    pub(super) fn last_record(&self) -> u64 {
        self.agent.outbox_seqs().last().copied().unwrap_or(0)
    }

    /// Lines of the agent's log that tell of an attempt, or a connection, that has failed.
    pub(super) fn failures(&self) -> usize {
        self.agent.log().lines().filter(|line| line.contains("retry_in_seconds")).count()
    }

    /// Milliseconds since boot, by the device's clock without any test's file.
    pub(super) fn boot_ms(&self) -> u64 {
        let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
        let seconds = text.split_whitespace().next().and_then(|word| word.parse::<f64>().ok());
        (seconds.unwrap_or(0.0) * 1000.0) as u64
    }

    /// What the agent's state takes on its disk, in bytes.
    pub(super) fn state_bytes(&self) -> u64 {
        let folder = self.agent.state_dir().join("db");
        let files = fs::read_dir(folder).into_iter().flatten().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
    }

    /// The server's database.
    pub(super) fn database(&self) -> PathBuf {
        self.server.data_dir().join("fleet.db")
    }

    /// How many numbers that were given out before the last mark are not committed. The state has one identity all the time.
    pub(super) fn waiting(&self, look: &Look) -> u64 {
        let due = |(lo, hi): &(u64, u64)| (*hi.min(&self.due) + 1).saturating_sub(*lo);
        self.due - look.committed.as_slice().iter().map(due).sum::<u64>()
    }

    /// From now on a check wants everything that was spooled until now.
    pub(super) fn mark(&mut self) {
        use std::io::Write as _;
        self.due = self.last_record();
        let file = fs::File::options().append(true).create(true).open(self.folder.join("spool"));
        file.and_then(|mut file| file.write_all(b"Q\n")).expect("a file of ours");
    }

    fn spool(&self) -> Spool {
        Spool::read(&fs::read_to_string(self.folder.join("spool")).unwrap_or_default())
    }

    /// Compares everything at the end; see [`check`].
    pub(super) fn check(&mut self) -> Checked {
        let database = Database::read(&self.database()).expect("the server's database can be read");
        let spool = self.spool();
        self.ledger.effects.insert(DEVICE.to_owned(), self.machine.effects());
        let mut committed = RangeSet::new();
        database.committed.values().for_each(|ranges| committed.extend(ranges));
        let last_due = spool.records.iter().filter(|record| record.due).map(|record| record.seq).max();
        let due = last_due.unwrap_or(0);
        let missing = (1..=due).filter(|seq| !committed.contains(*seq)).count();
        let is_kept =
            |record: &&Record| record.kind == RecordKind::Reported && committed.contains(record.seq);
        let stored = database.records.keys().filter(|name| name.2 <= due).count()
            + spool.records.iter().filter(|record| record.seq <= due).filter(is_kept).count();
        let spools = BTreeMap::from([(DEVICE.to_owned(), spool)]);
        let mut report = check::check(&self.ledger, &spools, &database);
        if missing > 0 {
            report.complaints.push(format!("{missing} numbers are neither stored nor given up by a void"));
        }
        for (name, log) in [("agent", self.agent.log()), ("server", self.server.log())] {
            if let Some(line) = log.lines().find(|line| line.contains("panicked at")) {
                report.complaints.push(format!("{name}: {line}"));
            }
        }
        Checked { report, spooled: due, stored: stored as u64 }
    }
}

/// What a comparison has found.
pub(super) struct Checked {
    /// The checker's own.
    pub(super) report: Report,
    /// Numbers that the device has given to records that were due.
    pub(super) spooled: u64,
    /// Records that the server has, or had and needs no more (all but the newest reported config).
    pub(super) stored: u64,
}

/// Has a server offer HTTPS, MQTT over TLS and MQTT over WebSocket on their usual ports, with an authority of its own.
pub(super) fn encrypted(mut server: Server) -> Server {
    assert!(server.stop().success(), "the server ends in order");
    server.run_ok(&["tls", "init", "--name", NAME], "");
    let url = format!("https://{NAME}");
    let settings = [
        ("FLEET_HTTPS_LISTEN", "0.0.0.0:443"),
        ("FLEET_MQTTS_LISTEN", "0.0.0.0:8883"),
        ("FLEET_PUBLIC_URL", url.as_str()),
        ("FLEET_RATE_LIMIT_REQUESTS", "1000000"),
    ];
    settings.iter().for_each(|(key, value)| server.set(key, Some(value)));
    server.start_again();
    server
}
