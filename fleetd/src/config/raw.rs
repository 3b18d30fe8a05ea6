//! Reading the configuration: file, then environment, then checks. Pure but for [`Config::load`].

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use broker::TomlError;
use protocol::id::InstanceName;
use serde::{
    Deserialize,
    de::{Deserializer, Error as _},
};

use super::{Config, FirstAdmin, IpRange, Secret};

/// Where the config file is unless `--config` names another.
pub const DEFAULT_PATH: &str = "/etc/r58-fleet/fleetd.toml";

/// Where the data is unless told otherwise.
const DEFAULT_DATA_DIR: &str = "/var/lib/r58-fleet";
/// Largest config file, in bytes.
const MAX_BYTES: u64 = 256 * 1024;
/// Shortest secret that signs access tokens, in bytes.
const JWT_SECRET_MIN_BYTES: usize = 32;

/// Why there is no usable configuration.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the fields are what the message names
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the config file {path}")]
    Read { path: PathBuf, source: std::io::Error },
    /// The file is larger than any config.
    #[error("{path} has more than {MAX_BYTES} bytes; is it the right file?")]
    TooLarge { path: PathBuf },
    /// An unknown key or a bad value in the file.
    #[error(transparent)]
    Toml(#[from] TomlError),
    /// A bad value in the environment. Never quotes the value: it may be a secret.
    #[error("environment variable {variable}: {problem}")]
    Environment { variable: &'static str, problem: String },
    /// Keys that do not fit together.
    #[error("{problem}")]
    Together { problem: &'static str },
}

/// How the text of an environment variable becomes a TOML value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Switch,
    List,
}

/// A key of the file and the environment variable that overrides it.
pub(super) struct Key {
    pub(super) variable: &'static str,
    pub(super) key: &'static str,
    kind: Kind,
}

const fn key(variable: &'static str, key: &'static str, kind: Kind) -> Key {
    Key { variable, key, kind }
}

/// Every key.
pub(super) const KEYS: &[Key] = &[
    key("FLEET_HTTP_LISTEN", "http_listen", Kind::Text),
    key("FLEET_MQTT_LISTEN", "mqtt_listen", Kind::Text),
    key("FLEET_DATA_DIR", "data_dir", Kind::Text),
    key("FLEET_DATABASE_URL", "database_url", Kind::Text),
    key("FLEET_PUBLIC_URL", "public_url", Kind::Text),
    key("FLEET_JWT_SECRET", "jwt_secret", Kind::Text),
    key("FLEET_ADMIN_EMAIL", "admin_email", Kind::Text),
    key("FLEET_ADMIN_PASSWORD", "admin_password", Kind::Text),
    key("FLEET_DEVICE_MESSAGES_PER_SECOND", "device_messages_per_second", Kind::Number),
    key("FLEET_TRUSTED_PROXIES", "trusted_proxies", Kind::List),
    key("FLEET_ALLOW_PLAINTEXT", "allow_plaintext", Kind::Switch),
    key("FLEET_CORS_ORIGINS", "cors_origins", Kind::List),
    key("FLEET_RATE_LIMIT_REQUESTS", "rate_limit_requests", Kind::Number),
    key("FLEET_RATE_LIMIT_PERIOD", "rate_limit_period", Kind::Number),
    key("FLEET_HEARTBEAT_TIMEOUT_SECONDS", "heartbeat_timeout_seconds", Kind::Number),
    key("FLEET_HEARTBEAT_RETENTION_DAYS", "heartbeat_retention_days", Kind::Number),
    key("FLEET_ROLLUP_RETENTION_DAYS", "rollup_retention_days", Kind::Number),
    key("FLEET_LOG_RETENTION_DAYS", "log_retention_days", Kind::Number),
    key("FLEET_EVENT_RETENTION_DAYS", "event_retention_days", Kind::Number),
    key("FLEET_LOG", "log", Kind::Text),
    key("FLEET_INSTANCE", "instance", Kind::Text),
];

/// Settings of larger installations that this version cannot do. Leaving them out silently would be worse than stopping.
const NOT_AVAILABLE: &[&str] = &["FLEET_HTTPS_LISTEN", "FLEET_MQTTS_LISTEN", "FLEET_BROKER_URL"];

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Raw {
    http_listen: Option<Address>,
    mqtt_listen: Option<AddressOrNone>,
    data_dir: Option<PathBuf>,
    database_url: Option<Database>,
    public_url: Option<WebUrl>,
    jwt_secret: Option<JwtSecret>,
    admin_email: Option<String>,
    admin_password: Option<Hidden>,
    device_messages_per_second: Option<Bounded<0, 1_000_000>>,
    trusted_proxies: Option<Vec<Parsed<IpRange>>>,
    allow_plaintext: Option<bool>,
    cors_origins: Option<Vec<WebUrl>>,
    rate_limit_requests: Option<Bounded<1, 1_000_000>>,
    rate_limit_period: Option<Bounded<1, 86_400>>,
    heartbeat_timeout_seconds: Option<Bounded<5, 86_400>>,
    heartbeat_retention_days: Option<Bounded<1, 3_650>>,
    rollup_retention_days: Option<Bounded<1, 36_500>>,
    log_retention_days: Option<Bounded<1, 3_650>>,
    event_retention_days: Option<Bounded<1, 36_500>>,
    #[serde(deserialize_with = "log_filter")]
    log: Option<String>,
    instance: Option<InstanceName>,
}

/// A type that is read from text and says itself what it expects.
struct Parsed<T>(T);

impl<'de, T: std::str::FromStr<Err = String>> Deserialize<'de> for Parsed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Self).map_err(D::Error::custom)
    }
}

macro_rules! from_text {
    ($($name:ident($inner:ty) = $read:expr;)+) => {
        $(struct $name($inner);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let read: fn(String) -> Result<$inner, &'static str> = $read;
                read(String::deserialize(deserializer)?).map(Self).map_err(D::Error::custom)
            }
        })+
    };
}

from_text! {
    Address(SocketAddr) = |text| text.parse().map_err(|_| ADDRESS);
    AddressOrNone(Option<SocketAddr>) = |text| {
        if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(|_| ADDRESS) }
    };
    Database(Option<PathBuf>) = |text| {
        if text.is_empty() {
            return Ok(None);
        }
        let path = text.strip_prefix("sqlite:").map(|path| path.strip_prefix("//").unwrap_or(path));
        match path {
            Some(path) if !path.is_empty() => Ok(Some(PathBuf::from(path))),
            _ => Err("expected sqlite:/path/to/fleet.db; this version knows no other database"),
        }
    };
    WebUrl(String) = |text| {
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        match rest {
            Some(rest) if !rest.is_empty() && !rest.contains(char::is_whitespace) && !rest.contains('@') => {
                Ok(text.trim_end_matches('/').to_owned())
            }
            _ => Err("expected a URL such as https://fleet.example.org"),
        }
    };
    JwtSecret(Secret) = |text| {
        if text.len() < JWT_SECRET_MIN_BYTES {
            return Err("expected at least 32 characters (for example: openssl rand -hex 32)");
        }
        Ok(Secret::new(text))
    };
    Hidden(Secret) = |text| Ok(Secret::new(text));
}

const ADDRESS: &str = "expected an address and a port such as 127.0.0.1:1883 or [::]:1883";

/// A whole number from `LOW` to `HIGH`.
#[derive(Clone, Copy)]
struct Bounded<const LOW: u32, const HIGH: u32>(u32);

impl<'de, const LOW: u32, const HIGH: u32> Deserialize<'de> for Bounded<LOW, HIGH> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        match u32::try_from(number) {
            Ok(number) if (LOW..=HIGH).contains(&number) => Ok(Self(number)),
            _ => Err(D::Error::custom(format!("{number} is out of range, expected {LOW} to {HIGH}"))),
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
    Err(D::Error::custom("expected error, warn, info, debug or trace, or a list such as warn,fleetd=debug"))
}

impl Config {
    /// Reads the file at `path` (or, if `None`, the one at [`DEFAULT_PATH`] if there is one) and applies the environment.
    ///
    /// # Errors
    /// [`ConfigError`]: the file cannot be read, or it or a variable is wrong.
    pub fn load(
        path: Option<&Path>,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        use std::io::{ErrorKind, Read};
        let must_exist = path.is_some();
        let path = path.unwrap_or(Path::new(DEFAULT_PATH));
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
        Self::resolve(path, &text, environment)
    }

    /// From the text of the file at `path` (which serves the messages alone) and the environment.
    ///
    /// # Errors
    /// What is wrong and where: file, line and key, or the variable.
    pub fn resolve(
        path: &Path,
        text: &str,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let in_file = |error| TomlError::new(path, text, &error);
        // Checked as it stands first, so that its errors have a place.
        toml::from_str::<Raw>(text).map_err(in_file)?;
        let mut table: toml::Table = toml::from_str(text).map_err(in_file)?;
        for variable in NOT_AVAILABLE {
            if environment(variable).is_some_and(|value| !value.is_empty()) {
                let problem =
                    "this version does not have it; unset it, or put a TLS proxy in front".to_owned();
                return Err(ConfigError::Environment { variable, problem });
            }
        }
        for key in KEYS {
            if let Some(value) = environment(key.variable) {
                override_with(&mut table, key, &value)?;
            }
        }
        let raw: Raw = table.try_into().map_err(in_file)?;
        raw.resolve()
    }
}

/// Puts the value of one environment variable into the table, if it is a good value for its key.
fn override_with(table: &mut toml::Table, key: &Key, text: &str) -> Result<(), ConfigError> {
    let problem =
        |problem: &str| ConfigError::Environment { variable: key.variable, problem: problem.to_owned() };
    let value = match key.kind {
        Kind::Text => toml::Value::String(text.to_owned()),
        Kind::Number => {
            toml::Value::Integer(text.trim().parse().map_err(|_| problem("expected a whole number"))?)
        }
        Kind::Switch => match text.trim() {
            "1" | "true" => toml::Value::Boolean(true),
            "0" | "false" | "" => toml::Value::Boolean(false),
            _ => return Err(problem("expected 1 or 0")),
        },
        Kind::List => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            toml::Value::Array(items.map(|item| toml::Value::String(item.to_owned())).collect())
        }
    };
    // Alone first: what is wrong with it is then the variable's fault, not the file's.
    let mut alone = toml::Table::new();
    alone.insert(key.key.to_owned(), value.clone());
    if let Err(error) = alone.try_into::<Raw>() {
        return Err(problem(error.message().trim()));
    }
    table.insert(key.key.to_owned(), value);
    Ok(())
}

impl Raw {
    fn resolve(self) -> Result<Config, ConfigError> {
        let default = Config::new(self.data_dir.unwrap_or_else(|| DEFAULT_DATA_DIR.into()));
        let admin = match (self.admin_email.filter(|email| !email.is_empty()), self.admin_password) {
            (Some(email), Some(password)) => Some(FirstAdmin { email, password: password.0 }),
            (None, None) => None,
            _ => {
                return Err(ConfigError::Together {
                    problem: "FLEET_ADMIN_EMAIL and FLEET_ADMIN_PASSWORD (admin_email, admin_password) go together: \
                              set both or none",
                });
            }
        };
        let seconds = |value: u32| Duration::from_secs(value.into());
        Ok(Config {
            http_listen: self.http_listen.map_or(default.http_listen, |address| address.0),
            mqtt_listen: self.mqtt_listen.map_or(default.mqtt_listen, |address| address.0),
            database: self.database_url.and_then(|url| url.0).unwrap_or(default.database),
            data_dir: default.data_dir,
            public_url: self.public_url.map(|url| url.0),
            jwt_secret: self.jwt_secret.map(|secret| secret.0),
            admin,
            device_messages_per_second: self
                .device_messages_per_second
                .map_or(default.device_messages_per_second, |number| number.0),
            trusted_proxies: self
                .trusted_proxies
                .unwrap_or_default()
                .into_iter()
                .map(|range| range.0)
                .collect(),
            allow_plaintext: self.allow_plaintext.unwrap_or(false),
            cors_origins: self.cors_origins.unwrap_or_default().into_iter().map(|url| url.0).collect(),
            rate_limit_requests: self
                .rate_limit_requests
                .map_or(default.rate_limit_requests, |number| number.0),
            rate_limit_period: self.rate_limit_period.map_or(default.rate_limit_period, |of| seconds(of.0)),
            heartbeat_timeout: self
                .heartbeat_timeout_seconds
                .map_or(default.heartbeat_timeout, |of| seconds(of.0)),
            heartbeat_retention_days: self
                .heartbeat_retention_days
                .map_or(default.heartbeat_retention_days, |days| days.0),
            rollup_retention_days: self
                .rollup_retention_days
                .map_or(default.rollup_retention_days, |days| days.0),
            log_retention_days: self.log_retention_days.map_or(default.log_retention_days, |days| days.0),
            event_retention_days: self
                .event_retention_days
                .map_or(default.event_retention_days, |days| days.0),
            log: self.log.unwrap_or(default.log),
            instance: self.instance.unwrap_or(default.instance),
        })
    }
}
