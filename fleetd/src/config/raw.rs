//! Reading the configuration: file, then environment, then checks. Pure but for [`Config::load`].

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use broker::layered_config::{self, BadText, Bounded, Key, Kind, is_log_filter, key};
use broker::plaintext::Network;
use protocol::id::InstanceName;
use serde::{
    Deserialize,
    de::{Deserializer, Error as _},
};

use super::{Config, FirstAdmin, Secret};

/// Where the config file is unless `--config` names another.
pub const DEFAULT_PATH: &str = "/etc/r58-fleet/fleetd.toml";

/// Where the data is unless told otherwise.
const DEFAULT_DATA_DIR: &str = "/var/lib/r58-fleet";
/// Shortest secret that signs access tokens, in bytes.
const JWT_SECRET_MIN_BYTES: usize = 32;

/// Why there is no usable configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file or a variable cannot be read or is wrong.
    #[error(transparent)]
    Layer(#[from] layered_config::ConfigError),
    /// Keys that do not fit together.
    #[error("{problem}")]
    Together {
        /// Which, and what to do.
        problem: &'static str,
    },
}

/// Every key.
pub(super) const KEYS: &[Key] = &[
    key("FLEET_HTTP_LISTEN", "http_listen", Kind::Text),
    key("FLEET_MQTT_LISTEN", "mqtt_listen", Kind::Text),
    key("FLEET_HTTPS_LISTEN", "https_listen", Kind::Text),
    key("FLEET_MQTTS_LISTEN", "mqtts_listen", Kind::Text),
    key("FLEET_TLS_CERT", "tls_cert", Kind::Text),
    key("FLEET_TLS_KEY", "tls_key", Kind::Text),
    key("FLEET_TLS_CLIENT_CERTIFICATES", "tls_client_certificates", Kind::Switch),
    key("FLEET_TLS_CLIENT_CERTIFICATE_SECONDS", "tls_client_certificate_seconds", Kind::Number),
    key("FLEET_DATA_DIR", "data_dir", Kind::Text),
    key("FLEET_DATABASE_URL", "database_url", Kind::Text),
    key("FLEET_PUBLIC_URL", "public_url", Kind::Text),
    key("FLEET_PUBLIC_MQTTS_URL", "public_mqtts_url", Kind::Text),
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
    key("FLEET_COMMAND_DEFAULT_EXPIRY_HOURS", "command_default_expiry_hours", Kind::Number),
    key("FLEET_HEARTBEAT_RETENTION_DAYS", "heartbeat_retention_days", Kind::Number),
    key("FLEET_ROLLUP_RETENTION_DAYS", "rollup_retention_days", Kind::Number),
    key("FLEET_LOG_RETENTION_DAYS", "log_retention_days", Kind::Number),
    key("FLEET_EVENT_RETENTION_DAYS", "event_retention_days", Kind::Number),
    key("FLEET_LOG", "log", Kind::Text),
    key("FLEET_INSTANCE", "instance", Kind::Text),
];

/// Settings of larger installations that this version cannot do. Leaving them out silently would be worse than stopping.
const NOT_AVAILABLE: &[&str] = &["FLEET_BROKER_URL"];

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Raw {
    http_listen: Option<Address>,
    mqtt_listen: Option<AddressOrNone>,
    https_listen: Option<AddressOrNone>,
    mqtts_listen: Option<AddressOrNone>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    tls_client_certificates: Option<bool>,
    tls_client_certificate_seconds: Option<Bounded<10, 315_360_000>>,
    data_dir: Option<PathBuf>,
    database_url: Option<Database>,
    public_url: Option<WebUrl>,
    public_mqtts_url: Option<MqttsUrl>,
    jwt_secret: Option<JwtSecret>,
    admin_email: Option<String>,
    admin_password: Option<Hidden>,
    device_messages_per_second: Option<Bounded<0, 1_000_000>>,
    trusted_proxies: Option<Vec<Network>>,
    allow_plaintext: Option<bool>,
    cors_origins: Option<Vec<WebUrl>>,
    rate_limit_requests: Option<Bounded<1, 1_000_000>>,
    rate_limit_period: Option<Bounded<1, 86_400>>,
    heartbeat_timeout_seconds: Option<Bounded<5, 86_400>>,
    command_default_expiry_hours: Option<Bounded<1, 720>>,
    heartbeat_retention_days: Option<Bounded<1, 3_650>>,
    rollup_retention_days: Option<Bounded<1, 36_500>>,
    log_retention_days: Option<Bounded<1, 3_650>>,
    event_retention_days: Option<Bounded<1, 36_500>>,
    #[serde(deserialize_with = "log_filter")]
    log: Option<String>,
    instance: Option<InstanceName>,
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
    MqttsUrl(String) = |text| {
        let is_authority = |rest: &str| !rest.is_empty() && !rest.contains(['/', '@', '?', '#', ' ', '\t']);
        match text.strip_prefix("mqtts://").map(|rest| rest.trim_end_matches('/')) {
            Some(rest) if is_authority(rest) => Ok(format!("mqtts://{rest}")),
            _ => Err("expected a URL such as mqtts://fleet.example.org:8883"),
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

fn log_filter<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if is_log_filter(&text) {
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
        let must_exist = path.is_some();
        let path = path.unwrap_or(Path::new(DEFAULT_PATH));
        Self::resolve(path, &layered_config::read(path, must_exist)?, environment)
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
        // A secret may stand in the wrong variable.
        let raw: Raw = layered_config::parse(path, text, KEYS, BadText::Hidden, &environment)?;
        for variable in NOT_AVAILABLE {
            if environment(variable).is_some_and(|value| !value.is_empty()) {
                let problem = "this version has its own broker alone; unset it".to_owned();
                return Err(layered_config::ConfigError::Environment { variable, problem }.into());
            }
        }
        raw.resolve()
    }
}

impl Raw {
    fn resolve(self) -> Result<Config, ConfigError> {
        let default = Config::new(self.data_dir.unwrap_or_else(|| DEFAULT_DATA_DIR.into()));
        let admin_password = self.admin_password.filter(|password| !password.0.expose().is_empty());
        let admin = match (self.admin_email.filter(|email| !email.is_empty()), admin_password) {
            (Some(email), password) => {
                Some(FirstAdmin { email, password: password.map(|password| password.0) })
            }
            (None, None) => None,
            (None, Some(_)) => {
                return Err(ConfigError::Together {
                    problem: "FLEET_ADMIN_PASSWORD (admin_password) needs an address beside it: set FLEET_ADMIN_EMAIL (admin_email)",
                });
            }
        };
        let (tls_cert, tls_key) = match (self.tls_cert, self.tls_key) {
            (Some(cert), Some(key)) => (cert, key),
            (None, None) => (default.tls_cert, default.tls_key),
            _ => {
                return Err(ConfigError::Together {
                    problem: "FLEET_TLS_CERT and FLEET_TLS_KEY (tls_cert, tls_key) go together: set both or none",
                });
            }
        };
        let https_listen = self.https_listen.and_then(|address| address.0);
        let mqtts_listen = self.mqtts_listen.and_then(|address| address.0);
        let tls_client_certificates = self.tls_client_certificates.unwrap_or(false);
        if tls_client_certificates && https_listen.or(mqtts_listen).is_none() {
            return Err(ConfigError::Together {
                problem: "FLEET_TLS_CLIENT_CERTIFICATES (tls_client_certificates) needs a listener that sees them: set \
                          FLEET_MQTTS_LISTEN (mqtts_listen), FLEET_HTTPS_LISTEN (https_listen) or both",
            });
        }
        Ok(Config {
            https_listen,
            mqtts_listen,
            tls_client_certificates,
            tls_client_certificate_life: self
                .tls_client_certificate_seconds
                .map_or(default.tls_client_certificate_life, Bounded::seconds),
            tls_cert,
            tls_key,
            http_listen: self.http_listen.map_or(default.http_listen, |address| address.0),
            mqtt_listen: self.mqtt_listen.map_or(default.mqtt_listen, |address| address.0),
            database: self.database_url.and_then(|url| url.0).unwrap_or(default.database),
            data_dir: default.data_dir,
            public_url: self.public_url.map(|url| url.0),
            public_mqtts_url: self.public_mqtts_url.map(|url| url.0),
            jwt_secret: self.jwt_secret.map(|secret| secret.0),
            admin,
            device_messages_per_second: self
                .device_messages_per_second
                .map_or(default.device_messages_per_second, Bounded::small),
            trusted_proxies: self.trusted_proxies.unwrap_or_default(),
            allow_plaintext: self.allow_plaintext.unwrap_or(false),
            cors_origins: self.cors_origins.unwrap_or_default().into_iter().map(|url| url.0).collect(),
            rate_limit_requests: self.rate_limit_requests.map_or(default.rate_limit_requests, Bounded::small),
            rate_limit_period: self.rate_limit_period.map_or(default.rate_limit_period, Bounded::seconds),
            heartbeat_timeout: self
                .heartbeat_timeout_seconds
                .map_or(default.heartbeat_timeout, Bounded::seconds),
            command_default_expiry: self
                .command_default_expiry_hours
                .map_or(default.command_default_expiry, |hours| {
                    Duration::from_secs(u64::from(hours.small()) * 3600)
                }),
            heartbeat_retention_days: self
                .heartbeat_retention_days
                .map_or(default.heartbeat_retention_days, Bounded::small),
            rollup_retention_days: self
                .rollup_retention_days
                .map_or(default.rollup_retention_days, Bounded::small),
            log_retention_days: self.log_retention_days.map_or(default.log_retention_days, Bounded::small),
            event_retention_days: self
                .event_retention_days
                .map_or(default.event_retention_days, Bounded::small),
            log: self.log.unwrap_or(default.log),
            instance: self.instance.unwrap_or(default.instance),
        })
    }
}
