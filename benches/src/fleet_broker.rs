//! Our broker as a program of its own, with its access rules on.

use std::fmt::Write;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::aims::Context;
use crate::mqtt::devices::Credential;
use crate::outcome::{Outcome, Tell};
use crate::process::{Process, free_address};

/// What a service logs in with: it may read everything, as fleetd does.
pub(crate) const SERVICE: (&str, &str) = ("bench", "the secret of the bench");

/// A running `fleet-broker`.
pub(crate) struct FleetBroker {
    pub(crate) address: SocketAddr,
    pub(crate) process: Process,
    /// Its devices.
    pub(crate) devices: Vec<Credential>,
}

impl FleetBroker {
    /// Starts it with so many devices. What a device may say in a second is not limited: that is what is measured.
    pub(crate) fn start(context: &Context, devices: usize) -> Outcome<FleetBroker> {
        let address = free_address()?;
        let devices = credentials("acme", devices);
        let mut text = String::new();
        for device in &devices {
            let (org, id) = device.name.split_once('/').tell("read a name of ours")?;
            let hash = sha256_hex(&device.token);
            // Writing into a String cannot fail.
            let _ = writeln!(text, "[[device]]\norg = \"{org}\"\nid = \"{id}\"\ntoken_sha256 = \"{hash}\"");
        }
        let (name, secret) = SERVICE;
        let _ = writeln!(text, "[[service]]\nname = \"{name}\"\nsecret_sha256 = \"{}\"", sha256_hex(secret));
        let path = context.scratch.join("credentials.toml");
        std::fs::write(&path, text).tell(format!("write {}", path.display()))?;
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).tell("close the credentials")?;
        let config = context.scratch.join("fleet-broker.toml");
        std::fs::write(&config, "").tell(format!("write {}", config.display()))?;
        let mut command = Command::new(context.program("fleet-broker")?);
        command
            .args(["run", "--config"])
            .arg(&config)
            .env("FLEET_MQTT_LISTEN", address.to_string())
            .env("FLEET_BROKER_CREDENTIALS", &path)
            .env("FLEET_DEVICE_MESSAGES_PER_SECOND", "0")
            .env("FLEET_LOG", "warn");
        let mut process = Process::start(&mut command, &context.scratch.join("fleet-broker.log"))?;
        process.wait_for_port(address)?;
        Ok(FleetBroker { address, process, devices })
    }
}

/// Names and tokens of so many devices of `org`: the same at each call.
pub(crate) fn credentials(org: &str, count: usize) -> Vec<Credential> {
    let credential = |n: usize| Credential {
        name: format!("{org}/studio-{n:05}"),
        token: sha256_hex(&format!("token of device {n}")),
    };
    (0..count).map(credential).collect()
}

/// SHA-256 of a text, as 64 hex digits.
pub(crate) fn sha256_hex(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}
