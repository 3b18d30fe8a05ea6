//! The config of the standalone broker: a TOML file, overridden by environment variables, resolved once into checked
//! types. Pure but for [`Config::load`].

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::limits::Limits;
use crate::plaintext::{Network, PlaintextPolicy};
use crate::toml_error::TomlError;

/// Where the config file is unless `--config` names another.
pub const DEFAULT_PATH: &str = "/etc/r58-fleet/fleet-broker.toml";

/// Where the credentials file is unless the config names another.
pub const DEFAULT_CREDENTIALS: &str = "/etc/r58-fleet/fleet-broker-credentials.toml";

/// Largest config file, in bytes.
const MAX_BYTES: u64 = 256 * 1024;

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

/// Why there is no usable config.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the config file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is larger than any config.
    #[error("{path} has more than {MAX_BYTES} bytes; is it the right file?")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// An unknown key or a bad value in the file.
    #[error(transparent)]
    Toml(#[from] TomlError),
    /// A bad value in the environment.
    #[error("environment variable {variable}: {problem}")]
    Environment {
        /// Which.
        variable: &'static str,
        /// What is wrong, and what is expected.
        problem: String,
    },
}

/// How the text of an environment variable becomes a TOML value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Switch,
    List,
}

/// A key of the file and the environment variable that overrides it. `limits.` stands before those of that table.
struct Key {
    variable: &'static str,
    key: &'static str,
    kind: Kind,
}

const fn key(variable: &'static str, key: &'static str, kind: Kind) -> Key {
    Key { variable, key, kind }
}

/// Every key.
const KEYS: &[Key] = &[
    key("FLEET_MQTT_LISTEN", "listen", Kind::Text),
    key("FLEET_BROKER_CREDENTIALS", "credentials", Kind::Text),
    key("FLEET_ALLOW_PLAINTEXT", "allow_plaintext", Kind::Switch),
    key("FLEET_TRUSTED_PROXIES", "trusted_proxies", Kind::List),
    key("FLEET_LOG", "log", Kind::Text),
    key("FLEET_BROKER_CONNECTIONS", "limits.connections", Kind::Number),
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
    key("FLEET_BROKER_SUBSCRIPTIONS", "limits.subscriptions", Kind::Number),
    key("FLEET_BROKER_SESSIONS", "limits.sessions", Kind::Number),
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
    connections_before_login: Option<Bounded<1, 1_000_000>>,
    connections_before_login_per_address: Option<Bounded<1, 1_000_000>>,
    handshake_seconds: Option<Bounded<1, 600>>,
    packet_bytes: Option<Bounded<1024, { 16 * 1024 * 1024 }>>,
    queued_bytes: Option<Bounded<{ 16 * 1024 }, { 1024 * 1024 * 1024 }>>,
    device_queued_bytes: Option<Bounded<{ 16 * 1024 }, { 1024 * 1024 * 1024 }>>,
    subscriptions: Option<Bounded<1, 10_000>>,
    sessions: Option<Bounded<1, 100_000>>,
    session_expiry_seconds: Option<Bounded<0, { 30 * 24 * 3600 }>>,
    device_messages_per_second: Option<Bounded<0, 1_000_000>>,
    failures: Option<Bounded<1, 1_000_000>>,
    failure_window_seconds: Option<Bounded<1, 86_400>>,
    retained_messages: Option<Bounded<1, 10_000_000>>,
    retained_bytes: Option<Bounded<1024, { 16 * 1024 * 1024 * 1024 }>>,
    write_seconds: Option<Bounded<1, 600>>,
}

/// A whole number from `LOW` to `HIGH`.
#[derive(Clone, Copy)]
struct Bounded<const LOW: u64, const HIGH: u64>(u64);

impl<'de, const LOW: u64, const HIGH: u64> Deserialize<'de> for Bounded<LOW, HIGH> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        match u64::try_from(number) {
            Ok(number) if (LOW..=HIGH).contains(&number) => Ok(Bounded(number)),
            _ => Err(D::Error::custom(format!("{number} is out of range, expected {LOW} to {HIGH}"))),
        }
    }
}

impl<const LOW: u64, const HIGH: u64> Bounded<LOW, HIGH> {
    fn count(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    fn small(self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }

    fn seconds(self) -> Duration {
        Duration::from_secs(self.0)
    }
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
        use std::io::{ErrorKind, Read};
        let mut text = String::new();
        let read =
            std::fs::File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text));
        match read {
            Ok(_) if text.len() as u64 > MAX_BYTES => {
                return Err(ConfigError::TooLarge { path: path.to_owned() });
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound && !must_exist => {}
            Err(source) => return Err(ConfigError::Read { path: path.to_owned(), source }),
        }
        Config::resolve(path, &text, environment)
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
        let in_file = |error| TomlError::new(path, text, &error);
        // Checked as it stands first, so that its errors have a place.
        toml::from_str::<RawConfig>(text).map_err(in_file)?;
        let mut table: toml::Table = toml::from_str(text).map_err(in_file)?;
        for key in KEYS {
            if let Some(value) = environment(key.variable) {
                override_with(&mut table, key, &value)?;
            }
        }
        let raw: RawConfig = table.try_into().map_err(in_file)?;
        Ok(raw.resolve())
    }
}

/// Puts the value of one environment variable into the table, if it is a good value for its key.
fn override_with(table: &mut toml::Table, key: &Key, text: &str) -> Result<(), ConfigError> {
    let problem = |problem: String| ConfigError::Environment { variable: key.variable, problem };
    let text = text.trim();
    let value = match key.kind {
        Kind::Text => toml::Value::String(text.to_owned()),
        Kind::Number => {
            let number = text.parse().map_err(|_| problem(format!("{text:?} is not a whole number")))?;
            toml::Value::Integer(number)
        }
        Kind::Switch => match text {
            "1" | "true" => toml::Value::Boolean(true),
            "0" | "false" | "" => toml::Value::Boolean(false),
            _ => return Err(problem(format!("{text:?} is neither 1 nor 0"))),
        },
        Kind::List => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            toml::Value::Array(items.map(|item| toml::Value::String(item.to_owned())).collect())
        }
    };
    // Alone first: what is wrong with it is then the variable's fault, not the file's.
    let mut alone = toml::Table::new();
    insert(&mut alone, key.key, value.clone());
    if let Err(error) = alone.try_into::<RawConfig>() {
        return Err(problem(error.message().trim().to_owned()));
    }
    insert(table, key.key, value);
    Ok(())
}

/// Sets `key`, or `table.key`.
fn insert(table: &mut toml::Table, key: &str, value: toml::Value) {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value);
        }
        Some((outer, inner)) => {
            let nested = table.entry(outer).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            if let toml::Value::Table(nested) = nested {
                nested.insert(inner.to_owned(), value);
            }
        }
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
            unauthenticated: self.connections_before_login.map_or(default.unauthenticated, Bounded::count),
            unauthenticated_per_address: self
                .connections_before_login_per_address
                .map_or(default.unauthenticated_per_address, Bounded::count),
            handshake_time: self.handshake_seconds.map_or(default.handshake_time, Bounded::seconds),
            packet_bytes: self.packet_bytes.map_or(default.packet_bytes, Bounded::count),
            queued_bytes: self.queued_bytes.map_or(default.queued_bytes, Bounded::count),
            device_queued_bytes: self.device_queued_bytes.map_or(default.device_queued_bytes, Bounded::count),
            subscriptions: self.subscriptions.map_or(default.subscriptions, Bounded::count),
            sessions: self.sessions.map_or(default.sessions, Bounded::count),
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
    // Stricter than the filter's own parser, to which a mistyped level is the name of a module.
    let level = |text: &str| text.trim().parse::<tracing::level_filters::LevelFilter>().is_ok();
    let sound =
        |part: &str| part.split_once('=').map_or(level(part), |(module, of)| !module.is_empty() && level(of));
    if text.split(',').all(sound) && text.parse::<tracing_subscriber::EnvFilter>().is_ok() {
        return Ok(Some(text));
    }
    Err(D::Error::custom(format!(
        "{text:?} is no log filter, expected error, warn, info, debug or trace, or a list such as warn,broker=debug"
    )))
}
