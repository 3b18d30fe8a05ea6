//! The checked configuration: a TOML file, overridden by environment variables, resolved once. The rest of the code
//! never sees an unchecked value. How it is read: `raw`.

mod raw;
#[cfg(test)]
mod tests;

pub use raw::{ConfigError, DEFAULT_PATH};

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use broker::plaintext::Network;
use zeroize::Zeroizing;

/// A secret that no log, error or `Debug` output shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps a secret.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The secret itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What the server runs with; every value has been checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where HTTP listens.
    pub http_listen: SocketAddr,
    /// Where plain MQTT listens; `None`: it does not.
    pub mqtt_listen: Option<SocketAddr>,
    /// Where HTTPS listens; `None`: it does not.
    pub https_listen: Option<SocketAddr>,
    /// Where MQTT over TLS listens; `None`: it does not.
    pub mqtts_listen: Option<SocketAddr>,
    /// The certificate chain of both, in PEM form.
    pub tls_cert: PathBuf,
    /// Its key, in PEM form.
    pub tls_key: PathBuf,
    /// Whether both listeners take certificates of devices, and the server signs them.
    pub tls_client_certificates: bool,
    /// How long such a certificate is good for.
    pub tls_client_certificate_life: Duration,
    /// Database, lock file and secrets.
    pub data_dir: PathBuf,
    /// The SQLite file.
    pub database: PathBuf,
    /// The URL under which devices and people reach HTTP, without a slash at the end.
    pub public_url: Option<String>,
    /// The URL under which devices reach MQTT over TLS, where that is not the listener of this server.
    pub public_mqtts_url: Option<String>,
    /// Signs access tokens; `None`: made and kept in the data folder.
    pub jwt_secret: Option<Secret>,
    /// The first account, if it is not to be one that is made.
    pub admin: Option<FirstAdmin>,
    /// Messages a second of one device, above which its connection is read more slowly; 0: no limit.
    pub device_messages_per_second: u32,
    /// Addresses whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed.
    pub trusted_proxies: Vec<Network>,
    /// Whether credentials may come over plain TCP or HTTP from anywhere.
    pub allow_plaintext: bool,
    /// Origins that browsers may call from.
    pub cors_origins: Vec<String>,
    /// Requests that one credential may make in `rate_limit_period`.
    pub rate_limit_requests: u32,
    /// The period of `rate_limit_requests`.
    pub rate_limit_period: Duration,
    /// A device is offline after at least so long without heartbeat.
    pub heartbeat_timeout: Duration,
    /// How long a command waits for its device if it does not say.
    pub command_default_expiry: Duration,
    /// How long raw heartbeats are kept.
    pub heartbeat_retention_days: u32,
    /// How long hourly and daily roll-ups are kept.
    pub rollup_retention_days: u32,
    /// How long log records are kept.
    pub log_retention_days: u32,
    /// How long events are kept.
    pub event_retention_days: u32,
    /// What is logged, as `tracing` directives.
    pub log: String,
    /// This process's name in `fleet/v1/server/{instance}`.
    pub instance: protocol::id::InstanceName,
}

/// The account of the first start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstAdmin {
    /// Its e-mail address.
    pub email: String,
    /// Its password; `None`: one is made.
    pub password: Option<Secret>,
}

impl Config {
    /// The defaults, with everything in `data_dir`.
    #[must_use]
    pub fn new(data_dir: PathBuf) -> Self {
        Self {
            http_listen: SocketAddr::from(([0, 0, 0, 0], 8180)),
            mqtt_listen: Some(SocketAddr::from(([127, 0, 0, 1], 1883))),
            https_listen: None,
            mqtts_listen: None,
            tls_cert: data_dir.join("tls/server.pem"),
            tls_key: data_dir.join("tls/server.key"),
            tls_client_certificates: false,
            tls_client_certificate_life: Duration::from_secs(90 * 24 * 3600),
            database: data_dir.join("fleet.db"),
            data_dir,
            public_url: None,
            public_mqtts_url: None,
            jwt_secret: None,
            admin: None,
            device_messages_per_second: 100,
            trusted_proxies: Vec::new(),
            allow_plaintext: false,
            cors_origins: Vec::new(),
            rate_limit_requests: 600,
            rate_limit_period: Duration::from_secs(60),
            heartbeat_timeout: Duration::from_secs(180),
            command_default_expiry: Duration::from_secs(24 * 3600),
            heartbeat_retention_days: 14,
            rollup_retention_days: 730,
            log_retention_days: 14,
            event_retention_days: 90,
            log: "info".to_owned(),
            // The text follows the rule for names.
            #[allow(clippy::expect_used)]
            instance: protocol::id::InstanceName::new("fleetd").expect("a good name"),
        }
    }
}
