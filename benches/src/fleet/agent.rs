//! One real agent, as a device runs it: connected through a proxy that counts bytes, with an application that answers.
//! Beside it runs the least that any agent would have to do. Two aims look at the same run.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rusqlite::{Connection, OpenFlags};

use super::{
    Fleet, Result,
    floor::Floor,
    numbers::{cpu, status_mb},
};
use crate::aims::Context;

/// Seconds between two heartbeats.
const INTERVAL_SECONDS: u64 = 30;
/// Seconds between two looks at the application, as the agent has it.
const LOOK_SECONDS: u64 = 10;

/// What an agent in its steady state costs.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    /// How long it was looked at, after a first minute.
    pub(crate) span: Duration,
    /// CPU time of the process in that span.
    pub(crate) cpu: Duration,
    /// Heartbeats that the server stored in that span.
    pub(crate) heartbeats: u64,
    /// Bytes from and to the device in that span, MQTT packets alone.
    pub(crate) bytes_up: u64,
    /// The same from the server to the device.
    pub(crate) bytes_down: u64,
    /// Looks at the application.
    pub(crate) polls: u64,
    /// Resident at the end, MB.
    pub(crate) rss_mb: f64,
    /// Of it: heap and stacks.
    pub(crate) anon_mb: f64,
    /// CPU time of the least that any agent would have to do, in the same span.
    pub(crate) floor_cpu: Duration,
    /// What that has resident, MB.
    pub(crate) floor_rss_mb: f64,
    /// Of it: heap and stacks.
    pub(crate) floor_anon_mb: f64,
}

/// Runs the agent once in the life of this program; the figures for every later caller.
pub(crate) fn figures(context: &Context) -> Result<Figures> {
    static KNOWN: OnceLock<Figures> = OnceLock::new();
    if let Some(known) = KNOWN.get() {
        return Ok(known.clone());
    }
    let measured = measure(context)?;
    Ok(KNOWN.get_or_init(|| measured).clone())
}

fn measure(context: &Context) -> Result<Figures> {
    let (mut fleet, devices) = Fleet::prepare(&context.scratch, &context.bin_dir, "agent", 1)?;
    fleet.start()?;
    let device = devices.first().ok_or("one device")?;
    let proxy = Proxy::start(fleet.mqtt)?;
    let application = Application::start()?;
    let folder = context.scratch.join("agent-state");
    fs::create_dir_all(folder.join("state"))?;
    fs::write(folder.join("fleet.conf"), "")?;
    // As systemd makes it: in memory.
    let runtime = tempfile::tempdir_in("/dev/shm")?;
    let mut command = Command::new(program(&context.bin_dir)?);
    command
        .args(["run", "--config"])
        .arg(folder.join("fleet.conf"))
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("FLEET_URL", format!("http://{}", fleet.http))
        .env("FLEET_ORG", "default")
        .env("DEVICE_ID", &device.id)
        .env("DEVICE_TOKEN", &device.token)
        .env("MQTT_URL", format!("mqtt://{}", proxy.address))
        .env("HEARTBEAT_INTERVAL", INTERVAL_SECONDS.to_string())
        .env("APP_STATUS_URL", format!("http://{}/api/v1/sessions/status", application.address))
        .env("STATE_DIR", folder.join("state"))
        .env("RUNTIME_DIRECTORY", runtime.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(folder.join("agent.log"))?);
    let agent = Running { child: command.spawn()? };
    let pid = agent.child.id();
    // In the middle between two looks of the agent: neither warms the caches for the other.
    thread::sleep(Duration::from_secs(LOOK_SECONDS / 2));
    let floor = Floor::start(context, Application::start()?.address, INTERVAL_SECONDS / LOOK_SECONDS)?;
    let stored = || heartbeats(&fleet.database());
    // The span begins and ends in the middle between two heartbeats.
    let deadline = Instant::now() + Duration::from_secs(3 * INTERVAL_SECONDS);
    while stored()? < if context.quick { 1 } else { 3 } {
        if Instant::now() > deadline {
            let log = fs::read_to_string(folder.join("agent.log")).unwrap_or_default();
            return Err(format!("the agent sends no heartbeats: {log}").into());
        }
        thread::sleep(Duration::from_secs(2));
    }
    thread::sleep(Duration::from_secs(INTERVAL_SECONDS / 2));
    let intervals = if context.quick { 1 } else { 4 };
    let (began, cpu_before, heartbeats_before) = (Instant::now(), cpu(pid)?, stored()?);
    let floor_before = cpu(floor.pid())?;
    let (up, down, polls) = (proxy.up(), proxy.down(), application.polls());
    thread::sleep(Duration::from_secs(INTERVAL_SECONDS * intervals));
    let figures = Figures {
        cpu: cpu(pid)?.saturating_sub(cpu_before),
        floor_cpu: cpu(floor.pid())?.saturating_sub(floor_before),
        span: began.elapsed(),
        heartbeats: stored()? - heartbeats_before,
        bytes_up: proxy.up() - up,
        bytes_down: proxy.down() - down,
        polls: application.polls() - polls,
        rss_mb: status_mb(pid, "VmRSS")?,
        anon_mb: status_mb(pid, "RssAnon")?,
        floor_rss_mb: status_mb(floor.pid(), "VmRSS")?,
        floor_anon_mb: status_mb(floor.pid(), "RssAnon")?,
    };
    drop((agent, floor));
    fleet.stop()?;
    Ok(figures)
}

/// Heartbeats in the server's database: there is one device.
fn heartbeats(database: &Path) -> Result<u64> {
    let database = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    database.busy_timeout(Duration::from_secs(5))?;
    let mut days = database.prepare("SELECT day FROM heartbeat_days")?;
    let days = days.query_map([], |row| row.get::<_, i64>(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
    let mut all = 0_i64;
    for day in days {
        let sql = format!("SELECT count(*) FROM heartbeats_{day:08}");
        all += database.query_row(&sql, [], |row| row.get::<_, i64>(0))?;
    }
    Ok(all.unsigned_abs())
}

/// The agent as devices get it: built by the profile `device`.
fn program(bin_dir: &Path) -> Result<PathBuf> {
    let path = bin_dir.join("../device/r58-fleet-agent");
    if !path.exists() {
        return Err("build the agent first: cargo build --profile device -p agent".into());
    }
    Ok(path)
}

struct Running {
    child: Child,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Passes bytes on and counts them. Its threads end with the connections.
struct Proxy {
    address: SocketAddr,
    up: Arc<AtomicU64>,
    down: Arc<AtomicU64>,
}

impl Proxy {
    fn start(to: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let (up, down) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let counts = (up.clone(), down.clone());
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(to) else { continue };
                let (Ok(near_too), Ok(far_too)) = (near.try_clone(), far.try_clone()) else { continue };
                let (up, down) = (counts.0.clone(), counts.1.clone());
                thread::spawn(move || pass(near, far, &up));
                thread::spawn(move || pass(far_too, near_too, &down));
            }
        });
        Ok(Self { address, up, down })
    }

    fn up(&self) -> u64 {
        self.up.load(Ordering::Relaxed)
    }

    fn down(&self) -> u64 {
        self.down.load(Ordering::Relaxed)
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, count: &AtomicU64) {
    let _ = to.set_nodelay(true);
    let mut part = [0; 16_384];
    while let Ok(read @ 1..) = from.read(&mut part) {
        count.fetch_add(read as u64, Ordering::Relaxed);
        if to.write_all(part.get(..read).unwrap_or_default()).is_err() {
            return;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}

/// What the agent asks for its state: it is idle, and counts how often it is asked.
struct Application {
    address: SocketAddr,
    polls: Arc<AtomicU64>,
}

impl Application {
    fn start() -> Result<Self> {
        const BODY: &str =
            r#"{"status":"idle","recording_active":false,"mixer_active":false,"active_inputs":[]}"#;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let polls = Arc::new(AtomicU64::new(0));
        let count = polls.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let count = count.clone();
                thread::spawn(move || answer(client, BODY, &count));
            }
        });
        Ok(Self { address, polls })
    }

    fn polls(&self) -> u64 {
        self.polls.load(Ordering::Relaxed)
    }
}

fn answer(mut client: TcpStream, body: &str, count: &AtomicU64) {
    let mut request = [0; 4096];
    while let Ok(1..) = client.read(&mut request) {
        count.fetch_add(1, Ordering::Relaxed);
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
        // In one piece: each piece would wake the reader.
        let answer = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
        if client.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}
