//! The agent's configuration: `fleet.conf` and the environment, read raw, then resolved once into checked types.
//!
//! The file is `--config FILE`, or [`SYSTEM_FILE`], or [`APP_FILE`] where only that exists, or none. Environment
//! variables of the same names override it. Unknown keys give warnings, wrong values errors that name the place, the
//! key and what is expected. The grammar of the file is described in `docs/install-agent.md`.

mod edit;
mod file;
mod import;
mod key;
mod lines;
mod resolve;
mod secret;
#[cfg(test)]
mod tests;
mod url;
mod value;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use protocol::id::{DeviceId, OrgSlug};
use zeroize::Zeroizing;

pub use edit::{EditError, set};
pub use file::{FILE_FAILPOINTS, FileError, update_file, write_private};
pub(crate) use file::{Readers, change_file};
pub use import::{ImportError, Imported, give_token_back, import};
pub use key::Key;
pub(crate) use resolve::is_token;
pub use resolve::{BadValue, Origin};
pub use secret::Secret;
pub use url::{HttpUrl, MqttUrl, Scheme, UrlError};
pub use value::{BadForm, StatusFields, UnitName, device_id_for_host};

use resolve::{Raw, RawValue};

/// Where the file is on a device.
pub const SYSTEM_FILE: &str = "/etc/r58-fleet-agent/fleet.conf";
/// Where the file is on a device that was set up for an earlier agent.
pub const APP_FILE: &str = "/opt/r58-app/shared/config/fleet.conf";
/// The application's key for a wordy log, which the agent follows.
const DEBUG_KEY: &str = "R58_DEBUG";
/// The commented example of every key; also the start of a new file.
pub const EXAMPLE: &str = include_str!("../../../config/fleet.conf");

/// The checked configuration. See `config/fleet.conf` for what each key means.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file that was read; none if everything comes from the environment or is default.
    pub file: Option<PathBuf>,
    /// `FLEET_ENABLED`.
    pub enabled: bool,
    /// `FLEET_URL`: the server's HTTP side; absent until the device is enrolled.
    pub fleet_url: Option<HttpUrl>,
    /// `FLEET_ORG`.
    pub org: OrgSlug,
    /// `DEVICE_ID`.
    pub device_id: DeviceId,
    /// `DEVICE_TOKEN`; absent until the device is enrolled.
    pub device_token: Option<Secret>,
    /// Whether that token comes from the environment, so that it cannot be changed in the file.
    pub token_from_environment: bool,
    /// `HEARTBEAT_INTERVAL`, seconds, 1 or more.
    pub heartbeat_interval_seconds: u32,
    /// `COMMAND_POLL_INTERVAL`, seconds, 1 or more.
    pub command_poll_interval_seconds: u32,
    /// `MQTT_URL`: the broker, where the server shall not be asked for it.
    pub mqtt_url: Option<MqttUrl>,
    /// `CA_FILE`: certificate authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// `CLIENT_CERT`; present exactly if `client_key` is.
    pub client_cert: Option<PathBuf>,
    /// `CLIENT_KEY`.
    pub client_key: Option<PathBuf>,
    /// `APP_STATUS_URL`; absent if set to nothing: then the application is not asked.
    pub app_status_url: Option<HttpUrl>,
    /// `APP_STATUS_FIELDS`.
    pub app_status_fields: StatusFields,
    /// `APP_UNIT`.
    pub app_unit: UnitName,
    /// `RECORDINGS_DIR`.
    pub recordings_dir: Option<PathBuf>,
    /// `ALLOWED_SERVICES`.
    pub allowed_services: Vec<UnitName>,
    /// `ALLOWED_CONFIG_KEYS`.
    pub allowed_config_keys: Vec<String>,
    /// `SCRIPTS_DIR`.
    pub scripts_dir: PathBuf,
    /// `APP_DIR`.
    pub app_dir: PathBuf,
    /// `STATE_DIR`.
    pub state_dir: PathBuf,
    /// `LOG_UNITS`.
    pub log_units: Vec<UnitName>,
    /// `R58_DEBUG`, the application's own key: the agent then tells more in its log as well. Anything that is no yes is a
    /// no.
    pub debug: bool,
    /// What the keys of `ALLOWED_CONFIG_KEYS` are set to, or are without being set, as far as that is known. Never a
    /// secret.
    pub in_force: BTreeMap<String, String>,
    /// What is odd but no error, for the log: unknown keys, keys that stand twice, a token that others can read.
    pub warnings: Vec<String>,
}

/// The configuration cannot be used. The text tells what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// Lines that cannot be understood, and values that are wrong: one text each.
    #[error("{}", .0.join("\n"))]
    Wrong(Vec<String>),
}

/// Names and values of environment variables, as far as they concern the agent.
pub type Environment = Vec<(Key, String)>;

/// The environment of this process. Values that are not UTF-8 become wrong values rather than being left out.
#[must_use]
pub fn environment() -> Environment {
    let read = |key: &Key| std::env::var_os(key.name()).map(|v| (*key, v.to_string_lossy().into_owned()));
    Key::ALL.iter().filter_map(read).collect()
}

/// The file that will be read: `given`, or the first default one that exists.
#[must_use]
pub fn choose_file(given: Option<&Path>) -> Option<PathBuf> {
    let exists = |path: &&str| Path::new(path).symlink_metadata().is_ok();
    given
        .map(Path::to_owned)
        .or_else(|| [SYSTEM_FILE, APP_FILE].iter().find(|p| exists(p)).map(PathBuf::from))
}

impl Config {
    /// Reads the file (`given`, or a default one) and this process's environment.
    ///
    /// # Errors
    /// When the file cannot be read, or anything in it is wrong.
    pub fn load(given: Option<&Path>) -> Result<Self, ConfigError> {
        let file = choose_file(given);
        let contents = match &file {
            None => None,
            Some(path) => Some(file::read(path)?),
        };
        let text = contents.as_ref().map(|contents| contents.text.as_str());
        let hostname = crate::kernel::hostname();
        let mut config = Self::from_parts(file.as_deref().zip(text), &environment(), &hostname)?;
        if let (Some(contents), Some(path)) = (&contents, &file) {
            config.warnings.extend(contents.warning(path, &config));
        }
        Ok(config)
    }

    /// Resolves the text of a file and an environment; touches nothing.
    ///
    /// # Errors
    /// When anything in them is wrong.
    pub fn from_parts(
        file: Option<(&Path, &str)>,
        environment: &[(Key, String)],
        hostname: &str,
    ) -> Result<Self, ConfigError> {
        let mut raw = Raw::new();
        let mut warnings = Vec::new();
        let mut wrong = Vec::new();
        let mut strangers = Vec::new();
        let mut said = BTreeMap::new();
        if let Some((path, text)) = file {
            let (entries, bad) = lines::parse(text);
            let place = |line: usize| format!("{}, line {line}", path.display());
            wrong.extend(bad.iter().map(|bad| format!("{}: {}", place(bad.line), bad.problem)));
            for entry in entries {
                if Key::from_name(entry.key).is_none_or(|key| !key.is_secret()) {
                    said.insert(entry.key.to_owned(), entry.value.clone());
                }
                let Some(key) = Key::from_name(entry.key) else {
                    strangers.push((entry.key, place(entry.line)));
                    continue;
                };
                let origin = Origin::File { path: path.to_owned(), line: entry.line };
                let value = RawValue { text: entry.value, origin };
                if let Some(earlier) = raw.insert(key, value) {
                    warnings.push(format!(
                        "{}: {} stood in {} already; this line counts",
                        place(entry.line),
                        key.name(),
                        earlier.origin
                    ));
                }
            }
        }
        for (key, text) in environment {
            if !key.is_secret() {
                said.insert(key.name().to_owned(), text.trim().to_owned());
            }
            raw.insert(*key, RawValue { text: text.trim().to_owned(), origin: Origin::Environment });
        }
        let resolved = resolve::resolve(raw, file.map(|(path, _)| path.to_owned()), hostname);
        match resolved {
            Ok(mut config) if wrong.is_empty() => {
                // Keys that the server may set belong to the application, so they are no strangers.
                strangers.retain(|(key, _)| {
                    *key != DEBUG_KEY && !config.allowed_config_keys.iter().any(|allowed| allowed == key)
                });
                warnings.extend(strangers.iter().map(|(key, place)| unknown_key(key, place)));
                config.warnings = warnings;
                config.debug = said.get(DEBUG_KEY).and_then(|text| value::truth(text)).unwrap_or(false);
                config.in_force = in_force(&config, said);
                Ok(config)
            }
            Ok(_) => Err(ConfigError::Wrong(wrong)),
            Err(bad) => {
                wrong.extend(bad.iter().map(ToString::to_string));
                Err(ConfigError::Wrong(wrong))
            }
        }
    }

    /// What the application and its recordings are watched by.
    #[must_use]
    pub(crate) fn application(&self) -> impl PartialEq + use<> {
        let url = self.app_status_url.as_ref().map(ToString::to_string);
        let dirs = (self.recordings_dir.clone(), self.app_dir.clone());
        (url, self.app_status_fields.clone(), self.app_unit.clone(), dirs)
    }

    /// Whether the device can log in somewhere: it knows a server, and has a token or a certificate.
    #[must_use]
    pub fn is_enrolled(&self) -> bool {
        (self.fleet_url.is_some() || self.mqtt_url.is_some())
            && (self.device_token.is_some() || self.client_cert.is_some())
    }
}

/// The text of the file at `path`.
pub(crate) fn read_file(path: &Path) -> Result<Zeroizing<String>, FileError> {
    file::read(path).map(|contents| Zeroizing::new(contents.text))
}

/// The value of `key` in the text of a file, the one that counts; absent if it has none.
pub(crate) fn value_in(text: &str, key: &str) -> Option<String> {
    let (entries, _) = lines::parse(text);
    entries.into_iter().rfind(|entry| entry.key == key).map(|entry| entry.value)
}

/// Of what `said` has, the keys that the server may set; those of the agent's own with their defaults.
fn in_force(config: &Config, mut said: BTreeMap<String, String>) -> BTreeMap<String, String> {
    // The agent's own as they were understood.
    for (key, seconds) in [
        (Key::HeartbeatInterval, config.heartbeat_interval_seconds),
        (Key::CommandPollInterval, config.command_poll_interval_seconds),
    ] {
        said.insert(key.name().to_owned(), seconds.to_string());
    }
    said.retain(|name, _| config.allowed_config_keys.iter().any(|allowed| allowed == name));
    said
}

fn unknown_key(key: &str, place: &str) -> String {
    let meant = Key::ALL.iter().find(|known| known.name().eq_ignore_ascii_case(key));
    match meant {
        Some(known) => format!("{place}: unknown key {key}; write it {}", known.name()),
        None => format!("{place}: unknown key {key}; it has no effect"),
    }
}
