//! A thousand agents that lose their server at the same moment, and come back.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OpenFlags};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::course::{Options, said};
use super::site::encrypted;
use super::venue::{NAME as SERVER_NAME, Net};
use crate::{Agent, Server};

/// Its name for `--only`.
pub(super) const NAME: &str = "thousand";
/// What happens.
pub(super) const WHAT: &str = "a thousand agents at 25 venues lose their server at the same moment";

const VENUES: u8 = 25;
/// Devices of one venue, behind one address.
const BOXES: usize = 40;
/// Between two agents that start.
const PACE: Duration = Duration::from_millis(40);
/// A connection that has lasted for a minute is a good one.
const SETTLE: Duration = Duration::from_secs(65);
/// Until all are there: the longest wait, the longest attempt, and some that collide.
const LIMIT: Duration = Duration::from_secs(420);
/// How long the server is away, the second time.
const AWAY: Duration = Duration::from_secs(120);
/// Of a thousand, so many may come back within one second: the first wait spreads them over seven.
const MOST_PER_MILLE: usize = 250;

/// What a return looked like.
struct Return {
    what: &'static str,
    away: Duration,
    /// SYN packets of the busiest second, and in all, since the server went.
    busiest_syn: u64,
    syn: u64,
    /// Devices in the busiest second.
    busiest: usize,
    /// When half, 99 of 100, and all were back, after the server was.
    half: Duration,
    most: Duration,
    all: Duration,
    /// Attempts that failed after the server was back.
    failed_after: BTreeMap<String, usize>,
    server_cpu: Duration,
}

struct Fleet {
    // The network goes last.
    agents: Vec<Agent>,
    server: Server,
    net: Net,
}

/// Runs it. The calling thread moves into the server's network.
pub(super) fn run(options: &Options<'_>) -> (String, Vec<String>) {
    let boxes = if options.quick { BOXES / 4 } else { BOXES };
    let mut fleet = Fleet::new(&options.folder.join(NAME), boxes);
    let mut returns = Vec::new();
    let mut complaints = Vec::new();
    // What fails in the middle must not have a thousand logs printed.
    let done = catch_unwind(AssertUnwindSafe(|| fleet.course(options, &mut returns)));
    complaints.extend(done.unwrap_or_else(|panic| Err(said(&*panic))).err());
    let all = fleet.agents.len();
    let most = (all * MOST_PER_MILLE / 1000).max(10);
    for back in returns.iter().filter(|back| back.busiest > most) {
        complaints.push(format!("{}: {} of {all} came back within one second", back.what, back.busiest));
    }
    for back in &returns {
        for (why, times) in &back.failed_after {
            complaints
                .push(format!("{}: {times} attempts failed although the server was back: {why}", back.what));
        }
    }
    (text(all, &returns), complaints)
}

impl Fleet {
    fn new(folder: &Path, boxes: usize) -> Self {
        fs::create_dir_all(folder).expect("a folder of the run's");
        let net = Net::new(&folder.join("network"), VENUES).expect("network namespaces, nft and ip");
        net.server.stay().expect("our own namespace");
        let server = Server::start_for_release(&folder.join("server"), &folder.join("server.log"), &[]);
        let server = encrypted(server);
        let api = server.api();
        let mut agents = Vec::new();
        let authority = server.data_dir().join("tls/ca.pem");
        for n in 0..usize::from(VENUES) * boxes {
            let name = format!("box-{n:04}");
            let token = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
            let hash: String =
                Sha256::digest(token.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
            let (status, said) =
                api.post("/devices/register", &json!({"device_id": name, "token_sha256": hash}));
            assert_eq!(status, 201, "register: {said}");
            let home = folder.join("devices").join(&name);
            let agent = Agent::unenrolled_in(&name, &home, &home.join("log"))
                .for_release()
                .with("HEARTBEAT_INTERVAL", "60");
            agent.write_config(&format!(
                "FLEET_URL=https://{SERVER_NAME}\nDEVICE_ID={name}\nDEVICE_TOKEN={token}\nCA_FILE={}\n",
                authority.display()
            ));
            agents.push(agent);
        }
        Self { net, server, agents }
    }

    fn course(&mut self, options: &Options<'_>, returns: &mut Vec<Return>) -> Result<(), String> {
        for (n, agent) in self.agents.iter_mut().enumerate() {
            self.net.venues[n % usize::from(VENUES)].enter(|| agent.start());
            rest(PACE, options)?;
        }
        if self.wait_for_births(0, LIMIT, options)?.is_none() {
            return Err(format!("not all are online {} s after the last has started", LIMIT.as_secs()));
        }
        for (what, away) in [("restarted", Duration::ZERO), ("away", AWAY)] {
            rest(SETTLE, options)?;
            returns.push(self.lose_server(what, away, options)?);
        }
        Ok(())
    }

    /// When each device was last born, in milliseconds since 1970.
    fn births(&self) -> Vec<i64> {
        let read = || -> rusqlite::Result<Vec<i64>> {
            let file = self.server.data_dir().join("fleet.db");
            let database = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            database.busy_timeout(Duration::from_secs(5))?;
            let mut rows =
                database.prepare("SELECT birth_at FROM device_state WHERE birth_at IS NOT NULL")?;
            rows.query_map([], |row| row.get(0))?.collect()
        };
        read().unwrap_or_default()
    }

    /// Waits until every device was born after that moment; then the SYN packets of each second, none if it took too long.
    fn wait_for_births(
        &self,
        after_ms: i64,
        limit: Duration,
        options: &Options<'_>,
    ) -> Result<Option<Vec<u64>>, String> {
        let began = Instant::now();
        let mut seconds = Vec::new();
        let mut before = self.net.counted();
        while began.elapsed() < limit {
            rest(Duration::from_secs(1), options)?;
            let now = self.net.counted();
            seconds.push(now.since(before).attempts);
            before = now;
            if self.births().iter().filter(|at| **at >= after_ms).count() == self.agents.len() {
                return Ok(Some(seconds));
            }
        }
        Ok(None)
    }

    fn lose_server(
        &mut self,
        what: &'static str,
        away: Duration,
        options: &Options<'_>,
    ) -> Result<Return, String> {
        let before = self.net.counted();
        match away {
            Duration::ZERO => drop(self.server.stop()),
            _ => self.server.kill(),
        }
        rest(away, options)?;
        self.server.start_again();
        let back_ms = now_ms();
        let while_away = self.net.counted().since(before).attempts;
        let log_from: Vec<usize> = self.agents.iter().map(|agent| agent.log().len()).collect();
        let seconds = self.wait_for_births(back_ms, LIMIT, options)?;
        let mut times: Vec<u64> =
            self.births().iter().filter_map(|at| u64::try_from(at - back_ms).ok()).collect();
        times.sort_unstable();
        let Some(seconds) = seconds else {
            let (there, all) = (times.len(), self.agents.len());
            return Err(format!("{what}: {there} of {all} are back after {} s", LIMIT.as_secs()));
        };
        let mut by_second: BTreeMap<u64, usize> = BTreeMap::new();
        times.iter().for_each(|ms| *by_second.entry(ms / 1000).or_default() += 1);
        let at = |per_mille: usize| {
            Duration::from_millis(
                times.get((times.len() * per_mille / 1000).saturating_sub(1)).copied().unwrap_or(0),
            )
        };
        let mut failed_after = BTreeMap::new();
        for (agent, from) in self.agents.iter().zip(log_from) {
            let log = agent.log();
            for line in log.get(from..).unwrap_or_default().lines().filter(|l| l.contains("retry_in_seconds"))
            {
                *failed_after.entry(reason(line)).or_default() += 1;
            }
        }
        Ok(Return {
            what,
            away,
            busiest_syn: seconds.iter().copied().max().unwrap_or(0),
            syn: while_away + seconds.iter().sum::<u64>(),
            busiest: by_second.values().copied().max().unwrap_or(0),
            half: at(500),
            most: at(990),
            all: at(1000),
            failed_after,
            server_cpu: self.server.cpu_time(),
        })
    }
}

/// Waits, unless the whole run is to end.
fn rest(time: Duration, options: &Options<'_>) -> Result<(), String> {
    let began = Instant::now();
    while began.elapsed() < time {
        if options.stop.load(Ordering::SeqCst) {
            return Err("stopped by a signal".to_owned());
        }
        std::thread::sleep(time.min(Duration::from_millis(200)));
    }
    Ok(())
}

/// A line of the log without what differs from device to device.
fn reason(line: &str) -> String {
    let text = line.split_once("agent::").map_or(line, |(_, rest)| rest);
    text.rsplit_once(" retry_in_seconds").map_or(text, |(text, _)| text).to_owned()
}

fn text(all: usize, returns: &[Return]) -> String {
    let mut text = format!(
        "{all} agents and a server, built for release: processes of their own, at {VENUES} venues behind one address each.\n\n\
         | the server is | all back after | half | 99 of 100 | most in one second | SYN packets in the busiest second | in all \
         | server's processor time |\n|---|--:|--:|--:|--:|--:|--:|--:|\n"
    );
    let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f64());
    for back in returns {
        let what = match back.away {
            Duration::ZERO => back.what.to_owned(),
            away => format!("{} for {} s", back.what, away.as_secs()),
        };
        let _ = writeln!(
            text,
            "| {what} | {} | {} | {} | {} devices | {} | {} | {} |",
            seconds(back.all),
            seconds(back.half),
            seconds(back.most),
            back.busiest,
            back.busiest_syn,
            back.syn,
            seconds(back.server_cpu)
        );
    }
    text
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
