//! The server, with devices that have been registered over its HTTP API.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::aims::Context;
use crate::fleet_broker::{credentials, sha256_hex};
use crate::mqtt::devices::Credential;
use crate::outcome::{Failure, Outcome, Tell};
use crate::process::{Process, free_address};

/// The administrator of every server that is measured.
pub(crate) const ADMIN: (&str, &str) = ("admin@example.com", "correct horse battery staple");

/// Connections over which devices are registered.
const REGISTRARS: usize = 16;

/// A running `fleetd` on a database of its own.
pub(crate) struct Fleetd {
    pub(crate) mqtt: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) process: Process,
    /// Its devices, all approved, none of which has ever connected.
    pub(crate) devices: Vec<Credential>,
}

impl Fleetd {
    /// Starts a server that knows so many devices, on a fresh copy of a database that is made at the first call for that
    /// number. Limits that are there against abuse are out of the way.
    pub(crate) fn start(context: &Context, devices: usize) -> Outcome<Fleetd> {
        let template = context.scratch.join(format!("fleetd-{devices}-devices"));
        if !template.exists() {
            let making = context.scratch.join("fleetd-template");
            let server = Self::serve(context, &making, credentials("default", devices))?;
            server.register()?;
            server.process.stop()?;
            std::fs::rename(&making, &template).tell(format!("rename {}", making.display()))?;
        }
        let data_dir = context.scratch.join("fleetd-data");
        copy(&template, &data_dir)?;
        Self::serve(context, &data_dir, credentials("default", devices))
    }

    /// Starts a server on this data folder as it is.
    pub(crate) fn serve(context: &Context, data_dir: &Path, devices: Vec<Credential>) -> Outcome<Fleetd> {
        let (mqtt, http) = (free_address()?, free_address()?);
        let mut command = Command::new(context.program("fleetd")?);
        // The file that lies in /etc on this machine is not ours.
        let config = context.scratch.join("fleetd.toml");
        std::fs::write(&config, "").tell(format!("write {}", config.display()))?;
        command
            .args(["serve", "--config"])
            .arg(&config)
            .env("FLEET_DATA_DIR", data_dir)
            .env("FLEET_MQTT_LISTEN", mqtt.to_string())
            .env("FLEET_HTTP_LISTEN", http.to_string())
            .env("FLEET_ADMIN_EMAIL", ADMIN.0)
            .env("FLEET_ADMIN_PASSWORD", ADMIN.1)
            .env("FLEET_DEVICE_MESSAGES_PER_SECOND", "0")
            .env("FLEET_RATE_LIMIT_REQUESTS", "1000000")
            .env("FLEET_LOG", "warn");
        let mut process = Process::start(&mut command, &context.scratch.join("fleetd.log"))?;
        let ready = format!("http://{http}/ready");
        process.wait_until(|| ureq::get(&ready).call().is_ok())?;
        Ok(Fleetd { mqtt, http, process, devices })
    }

    /// The base of the HTTP API.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/api/v1", self.http)
    }

    /// Logs the administrator in: what goes into an `Authorization` header.
    pub(crate) fn authorization(&self) -> Outcome<String> {
        let body = json!({ "email": ADMIN.0, "password": ADMIN.1 });
        let answer = ureq::post(format!("{}/auth/login", self.url())).send_json(body).tell("log in")?;
        let body: serde_json::Value = answer.into_body().read_json().tell("read the answer to a log-in")?;
        let token = body["access_token"].as_str().tell("find the token of a log-in")?;
        Ok(format!("Bearer {token}"))
    }

    fn register(&self) -> Outcome<()> {
        let authorization = self.authorization()?;
        let url = format!("{}/devices/register", self.url());
        let next = AtomicUsize::new(0);
        let registrar = || -> Outcome<()> {
            let agent: ureq::Agent =
                ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(30))).build().into();
            while let Some(device) = self.devices.get(next.fetch_add(1, Ordering::Relaxed)) {
                let (_, id) = device.name.split_once('/').tell("read a name of ours")?;
                let body = json!({ "device_id": id, "token_sha256": sha256_hex(&device.token) });
                let request = agent.post(&url).header("Authorization", &authorization);
                request.send_json(body).tell(format!("register {id}"))?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..REGISTRARS).map(|_| scope.spawn(registrar)).collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|_| Err(Failure::new("a registrar has panicked")))
            };
            threads.into_iter().try_for_each(join)
        })
    }
}

/// Copies a folder of plain files; what is at `to` goes first.
fn copy(from: &Path, to: &Path) -> Outcome<()> {
    if to.exists() {
        std::fs::remove_dir_all(to).tell(format!("remove {}", to.display()))?;
    }
    let what = || format!("copy {} to {}", from.display(), to.display());
    std::fs::create_dir(to).tell(what())?;
    std::fs::set_permissions(to, std::fs::metadata(from).tell(what())?.permissions()).tell(what())?;
    for entry in std::fs::read_dir(from).tell(what())? {
        let entry = entry.tell(what())?;
        let target = to.join(entry.file_name());
        if entry.file_type().tell(what())?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target).tell(what())?;
        }
    }
    Ok(())
}
