//! Starting `fleetd` on a folder of its own. Devices are written straight into the database that `fleetd` has made:
//! enrolling ten thousand of them is not what is measured.

use std::{
    fs::{self, File},
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use protocol::message::Heartbeat;
use rusqlite::{Connection, params};
use sha2::{Digest, Sha256};

use super::Result;
use super::http::Http;

/// The organisation that every database has from the start.
const ORG_ROW: &str = "00000000-0000-4000-8000-000000000001";
const ADMIN_EMAIL: &str = "admin@example.com";
const ADMIN_PASSWORD: &str = "correct horse battery staple";
const START_TIME: Duration = Duration::from_secs(30);

/// A device in the database.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    /// Its row.
    pub(crate) row: String,
    /// Its readable id.
    pub(crate) id: String,
    /// Its token.
    pub(crate) token: String,
}

/// A server; ended when dropped.
pub(crate) struct Fleet {
    folder: PathBuf,
    program: PathBuf,
    settings: Vec<(&'static str, String)>,
    child: Option<Child>,
    /// Where it serves HTTP.
    pub(crate) http: SocketAddr,
    /// Where it serves MQTT.
    pub(crate) mqtt: SocketAddr,
}

impl Fleet {
    /// Makes a database with `devices` devices below `scratch/name`; the server does not run yet.
    pub(crate) fn prepare(
        scratch: &Path,
        bin_dir: &Path,
        name: &str,
        devices: usize,
    ) -> Result<(Self, Vec<Device>)> {
        let folder = scratch.join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut fleet = Self {
            folder,
            program: bin_dir.join("fleetd"),
            settings: Vec::new(),
            child: None,
            http: nowhere,
            mqtt: nowhere,
        };
        // The first start makes the schema and the administrator.
        fleet.start()?;
        fleet.stop()?;
        let devices = (0..devices).map(make_device).collect::<Vec<_>>();
        fleet.insert(&devices)?;
        Ok((fleet, devices))
    }

    /// Sets an environment variable for the next start.
    pub(crate) fn set(&mut self, key: &'static str, value: impl Into<String>) {
        self.settings.push((key, value.into()));
    }

    /// The database file.
    pub(crate) fn database(&self) -> PathBuf {
        self.folder.join("data/fleet.db")
    }

    /// Starts the server and waits until it is ready.
    pub(crate) fn start(&mut self) -> Result<()> {
        let addresses = self.folder.join("data/addresses.json");
        let _ = fs::remove_file(&addresses);
        let log = File::create(self.folder.join("fleetd.log"))?;
        // The file that lies in /etc on this machine is not ours.
        let config = self.folder.join("fleetd.toml");
        fs::write(&config, "")?;
        let child = Command::new(&self.program)
            .args(["serve", "--config"])
            .arg(&config)
            .env("FLEET_DATA_DIR", self.folder.join("data"))
            .env("FLEET_HTTP_LISTEN", "127.0.0.1:0")
            .env("FLEET_MQTT_LISTEN", "127.0.0.1:0")
            .env("FLEET_ADMIN_EMAIL", ADMIN_EMAIL)
            .env("FLEET_ADMIN_PASSWORD", ADMIN_PASSWORD)
            .env("FLEET_RATE_LIMIT_REQUESTS", "1000000")
            .env("FLEET_LOG", "warn")
            // As its systemd unit has it.
            .env("MALLOC_ARENA_MAX", "2")
            .envs(self.settings.iter().map(|(key, value)| (*key, value.as_str())))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|error| format!("start {}: {error}", self.program.display()))?;
        self.child = Some(child);
        let deadline = Instant::now() + START_TIME;
        loop {
            if let Some(status) = self.child.as_mut().map(Child::try_wait).transpose()?.flatten() {
                return Err(format!("fleetd ended with {status}: {}", self.log()).into());
            }
            if let Ok(text) = fs::read(&addresses)
                && let Ok(told) = serde_json::from_slice::<serde_json::Value>(&text)
                && let (Some(http), Some(mqtt)) = (told["http"].as_str(), told["mqtt"].as_str())
            {
                (self.http, self.mqtt) = (http.parse()?, mqtt.parse()?);
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err("fleetd does not get ready".into());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks the server to end, and waits.
    pub(crate) fn stop(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            kill(pid(&child)?, Signal::SIGTERM)?;
            child.wait()?;
        }
        Ok(())
    }

    /// Makes an authority and a certificate for `localhost`, and returns the authority's.
    pub(crate) fn make_authority(&self) -> Result<PathBuf> {
        let data = self.folder.join("data");
        let mut command = Command::new(&self.program);
        command
            .args(["tls", "init", "--name", "localhost"])
            .env("FLEET_DATA_DIR", &data)
            .stdout(Stdio::null());
        if !command.status()?.success() {
            return Err("fleetd tls init has failed".into());
        }
        Ok(data.join("tls/ca.pem"))
    }

    /// Where it serves MQTT over TLS.
    pub(crate) fn mqtts(&self) -> Result<SocketAddr> {
        let text = fs::read(self.folder.join("data/addresses.json"))?;
        let told = serde_json::from_slice::<serde_json::Value>(&text)?;
        Ok(told["mqtts"].as_str().ok_or("fleetd does not serve MQTT over TLS")?.parse()?)
    }

    /// The process.
    pub(crate) fn pid(&self) -> Result<u32> {
        self.child.as_ref().map(Child::id).ok_or_else(|| "fleetd does not run".into())
    }

    /// An administrator's HTTP connection.
    pub(crate) fn admin(&self) -> Result<Http> {
        Http::log_in(self.http, ADMIN_EMAIL, ADMIN_PASSWORD)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("fleetd.log")).unwrap_or_default()
    }

    fn insert(&self, devices: &[Device]) -> Result<()> {
        let mut database = Connection::open(self.database())?;
        let transaction = database.transaction()?;
        {
            let mut device = transaction.prepare(
                "INSERT INTO devices (id, org_id, device_id, name, approval, platform, arch, location, created_at, updated_at) \
                 VALUES (?1, ?2, ?3, ?3, 'approved', 'r58', 'aarch64', 'Main hall', 0, 0)",
            )?;
            let mut token = transaction.prepare(
                "INSERT INTO device_tokens (org_id, device_id, slot, token_sha256, created_at) VALUES (?1, ?2, 'current', ?3, 0)",
            )?;
            for new in devices {
                device.execute(params![new.row, ORG_ROW, new.id])?;
                let hash: String =
                    Sha256::digest(new.token.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
                token.execute(params![ORG_ROW, new.row, hash])?;
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn pid(child: &Child) -> io::Result<Pid> {
    i32::try_from(child.id()).map(Pid::from_raw).map_err(io::Error::other)
}

fn make_device(number: usize) -> Device {
    Device {
        row: uuid::Uuid::now_v7().to_string(),
        id: format!("cam-{number:05}"),
        token: format!("{:064x}", number + 1),
    }
}

/// A heartbeat with every field in use, as an agent sends it.
pub(crate) fn heartbeat(seq: u64, connection: u16, ts: i64) -> Heartbeat {
    Heartbeat {
        seq,
        connection,
        ts,
        since_boot_ms: 3_600_000 + seq,
        cpu_permille: Some(152),
        mem_permille: Some(450),
        disk_free_mib: Some(2_867),
        disk_total_mib: Some(29_798),
        temperature_decicelsius: Some(520),
        load_centi: Some([40, 30, 20]),
        recording_active: true,
        mixer_active: true,
        active_inputs: 0b11,
        degradation_level: 0,
        commands_digest: None,
        outbox_depth: 3,
        live: Some(true),
        errors: Vec::new(),
    }
}
