//! The config of the standalone broker: a TOML file, overridden by environment variables, resolved once into checked
//! types. Pure but for [`Config::load`].

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

pub use crate::layered_config::ConfigError;
use crate::layered_config::{self, BadText, Bounded, Key, Kind, is_log_filter, key};
use crate::limits::Limits;
use crate::plaintext::{Network, PlaintextPolicy};

/// Where the config file is unless `--config` names another.
pub const DEFAULT_PATH: &str = "/etc/r58-fleet/fleet-broker.toml";

/// Where the credentials file is unless the config names another.
pub const DEFAULT_CREDENTIALS: &str = "/etc/r58-fleet/fleet-broker-credentials.toml";

/// What the standalone broker runs with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where MQTT clients connect.
    pub listen: SocketAddr,
    /// The credentials file.
    pub credentials: PathBuf,
    /// From where credentials are taken over a connection that is not encrypted.
    pub plaintext: PlaintextPolicy,
    /// What is logged, as `tracing` directives: `info`, or `warn,broker=debug`.
    pub log: String,
    /// The gate's bounds.
    pub limits: Limits,
}

/// Every key.
const KEYS: &[Key] = &[
    key("FLEET_MQTT_LISTEN", "listen", Kind::TrimmedText),
    key("FLEET_BROKER_CREDENTIALS", "credentials", Kind::TrimmedText),
    key("FLEET_ALLOW_PLAINTEXT", "allow_plaintext", Kind::Switch),
    key("FLEET_TRUSTED_PROXIES", "trusted_proxies", Kind::List),
    key("FLEET_LOG", "log", Kind::TrimmedText),
    key("FLEET_BROKER_CONNECTIONS", "limits.connections", Kind::Number),
    key("FLEET_BROKER_CONNECTIONS_PER_ACCOUNT", "limits.connections_per_account", Kind::Number),
    key("FLEET_BROKER_CONNECTIONS_BEFORE_LOGIN", "limits.connections_before_login", Kind::Number),
    key(
        "FLEET_BROKER_CONNECTIONS_BEFORE_LOGIN_PER_ADDRESS",
        "limits.connections_before_login_per_address",
        Kind::Number,
    ),
    key("FLEET_BROKER_HANDSHAKE_SECONDS", "limits.handshake_seconds", Kind::Number),
    key("FLEET_BROKER_PACKET_BYTES", "limits.packet_bytes", Kind::Number),
    key("FLEET_BROKER_QUEUED_BYTES", "limits.queued_bytes", Kind::Number),
    key("FLEET_BROKER_DEVICE_QUEUED_BYTES", "limits.device_queued_bytes", Kind::Number),
    key("FLEET_BROKER_ACCOUNT_BYTES", "limits.account_bytes", Kind::Number),
    key("FLEET_BROKER_SUBSCRIPTIONS", "limits.subscriptions", Kind::Number),
    key("FLEET_BROKER_SESSIONS", "limits.sessions", Kind::Number),
    key("FLEET_BROKER_SESSIONS_PER_ACCOUNT", "limits.sessions_per_account", Kind::Number),
    key("FLEET_BROKER_SESSION_EXPIRY_SECONDS", "limits.session_expiry_seconds", Kind::Number),
    key("FLEET_DEVICE_MESSAGES_PER_SECOND", "limits.device_messages_per_second", Kind::Number),
    key("FLEET_BROKER_FAILURES", "limits.failures", Kind::Number),
    key("FLEET_BROKER_FAILURE_WINDOW_SECONDS", "limits.failure_window_seconds", Kind::Number),
    key("FLEET_BROKER_RETAINED_MESSAGES", "limits.retained_messages", Kind::Number),
    key("FLEET_BROKER_RETAINED_BYTES", "limits.retained_bytes", Kind::Number),
    key("FLEET_BROKER_WRITE_SECONDS", "limits.write_seconds", Kind::Number),
];

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawConfig {
    listen: Option<SocketAddr>,
    credentials: Option<PathBuf>,
    allow_plaintext: Option<bool>,
    trusted_proxies: Option<Vec<Network>>,
    #[serde(deserialize_with = "log_filter")]
    log: Option<String>,
    limits: RawLimits,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawLimits {
    connections: Option<Bounded<1, 1_000_000>>,
    connections_per_account: Option<Bounded<1, 100_000>>,
    connections_before_login: Option<Bounded<1, 1_000_000>>,
    connections_before_login_per_address: Option<Bounded<1, 1_000_000>>,
    handshake_seconds: Option<Bounded<1, 600>>,
    packet_bytes: Option<Bounded<1024, { 16 * 1024 * 1024 }>>,
    queued_bytes: Option<Bounded<{ 16 * 1024 }, { 1024 * 1024 * 1024 }>>,
    device_queued_bytes: Option<Bounded<{ 16 * 1024 }, { 1024 * 1024 * 1024 }>>,
    account_bytes: Option<Bounded<{ 16 * 1024 }, { 1024 * 1024 * 1024 }>>,
    subscriptions: Option<Bounded<1, 10_000>>,
    sessions: Option<Bounded<1, 100_000>>,
    sessions_per_account: Option<Bounded<1, 10_000>>,
    session_expiry_seconds: Option<Bounded<0, { 30 * 24 * 3600 }>>,
    device_messages_per_second: Option<Bounded<0, 1_000_000>>,
    failures: Option<Bounded<1, 1_000_000>>,
    failure_window_seconds: Option<Bounded<1, 86_400>>,
    retained_messages: Option<Bounded<1, 10_000_000>>,
    retained_bytes: Option<Bounded<1024, { 16 * 1024 * 1024 * 1024 }>>,
    write_seconds: Option<Bounded<1, 600>>,
}

impl Config {
    /// Reads the file at `path` and applies the environment. A file that does not exist is as an empty one if
    /// `must_exist` is false.
    ///
    /// # Errors
    /// If the file cannot be read, or it or a variable is wrong.
    pub fn load(
        path: &Path,
        must_exist: bool,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Config, ConfigError> {
        Config::resolve(path, &layered_config::read(path, must_exist)?, environment)
    }

    /// From the text of the file at `path` (which serves the messages alone) and the environment.
    ///
    /// # Errors
    /// What is wrong and where: file, line and key, or the variable.
    pub fn resolve(
        path: &Path,
        text: &str,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Config, ConfigError> {
        // The secrets are in a file of their own: no variable holds one.
        let raw: RawConfig = layered_config::parse(path, text, KEYS, BadText::Shown, environment)?;
        Ok(raw.resolve())
    }
}

impl RawConfig {
    fn resolve(self) -> Config {
        Config {
            listen: self.listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 1883))),
            credentials: self.credentials.unwrap_or_else(|| DEFAULT_CREDENTIALS.into()),
            plaintext: PlaintextPolicy {
                trusted_proxies: self.trusted_proxies.unwrap_or_default(),
                allow_all: self.allow_plaintext.unwrap_or(false),
            },
            log: self.log.unwrap_or_else(|| "info".to_owned()),
            limits: self.limits.resolve(),
        }
    }
}

impl RawLimits {
    /// A key that is not set keeps its default.
    fn resolve(self) -> Limits {
        let default = Limits::default();
        Limits {
            connections: self.connections.map_or(default.connections, Bounded::count),
            connections_per_principal: self
                .connections_per_account
                .map_or(default.connections_per_principal, Bounded::count),
            unauthenticated: self.connections_before_login.map_or(default.unauthenticated, Bounded::count),
            unauthenticated_per_address: self
                .connections_before_login_per_address
                .map_or(default.unauthenticated_per_address, Bounded::count),
            handshake_time: self.handshake_seconds.map_or(default.handshake_time, Bounded::seconds),
            packet_bytes: self.packet_bytes.map_or(default.packet_bytes, Bounded::count),
            queued_bytes: self.queued_bytes.map_or(default.queued_bytes, Bounded::count),
            device_queued_bytes: self.device_queued_bytes.map_or(default.device_queued_bytes, Bounded::count),
            account_bytes: self.account_bytes.map_or(default.account_bytes, Bounded::count),
            subscriptions: self.subscriptions.map_or(default.subscriptions, Bounded::count),
            sessions: self.sessions.map_or(default.sessions, Bounded::count),
            sessions_per_principal: self
                .sessions_per_account
                .map_or(default.sessions_per_principal, Bounded::count),
            session_expiry: self.session_expiry_seconds.map_or(default.session_expiry, Bounded::seconds),
            device_messages_per_second: self
                .device_messages_per_second
                .map_or(default.device_messages_per_second, Bounded::small),
            failures: self.failures.map_or(default.failures, Bounded::small),
            failure_window: self.failure_window_seconds.map_or(default.failure_window, Bounded::seconds),
            retained_messages: self.retained_messages.map_or(default.retained_messages, Bounded::count),
            retained_bytes: self.retained_bytes.map_or(default.retained_bytes, Bounded::count),
            write_time: self.write_seconds.map_or(default.write_time, Bounded::seconds),
            ..default
        }
    }
}

fn log_filter<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if is_log_filter(&text) {
        return Ok(Some(text));
    }
    Err(D::Error::custom(format!(
        "{text:?} is no log filter, expected error, warn, info, debug or trace, or a list such as warn,broker=debug"
    )))
}
