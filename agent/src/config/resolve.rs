//! From raw texts to a checked [`Config`], once, without touching a file.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use protocol::id::{DeviceId, OrgSlug};

use super::key::{Key, WhenEmpty};
use super::secret::Secret;
use super::value::{self, StatusFields, UnitName};
use super::{Config, HttpUrl, MqttUrl};

/// How much of a wrong value a message shows.
const SHOWN_MAX_CHARS: usize = 80;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A line of a file, counted from 1.
    File {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },
    /// The environment variable of the key's name.
    Environment,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}, line {line}", path.display()),
            Self::Environment => f.write_str("environment"),
        }
    }
}

/// One value that is wrong. The text names the place, the key and what is expected, and never shows a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {key} is {found}; expected {expected}{hint}", key = .key.name(), expected = .key.expected())]
pub struct BadValue {
    /// Where it stands.
    pub origin: Origin,
    /// Its key.
    pub key: Key,
    /// What is there instead, as far as it may be shown.
    pub found: String,
    /// More about what is wrong; empty, or starts with a blank.
    pub hint: String,
}

/// A text with its origin.
#[derive(Clone)]
pub(super) struct RawValue {
    pub(super) text: String,
    pub(super) origin: Origin,
}

/// The last word on each key: the environment before the file.
pub(super) type Raw = BTreeMap<Key, RawValue>;

struct Reader {
    raw: Raw,
    bad: Vec<BadValue>,
}

impl Reader {
    /// The text of `key`, unless it is missing or empty without meaning.
    fn text(&mut self, key: Key) -> Option<RawValue> {
        let value = self.raw.get(&key)?.clone();
        match (value.text.is_empty(), key.when_empty()) {
            (false, _) | (true, WhenEmpty::Means) => Some(value),
            (true, WhenEmpty::Unset) => None,
            (true, WhenEmpty::Wrong) => {
                self.wrong(key, &value, "");
                None
            }
        }
    }

    fn wrong(&mut self, key: Key, value: &RawValue, hint: &str) {
        let found = if value.text.is_empty() {
            "empty".to_owned()
        } else if key.is_secret() {
            format!("{} characters of something else", value.text.chars().count())
        } else if value.text.chars().count() > SHOWN_MAX_CHARS {
            format!("{:?}…", value.text.chars().take(SHOWN_MAX_CHARS).collect::<String>())
        } else {
            format!("{:?}", value.text)
        };
        let hint = if hint.is_empty() { String::new() } else { format!(" ({hint})") };
        self.bad.push(BadValue { origin: value.origin.clone(), key, found, hint });
    }

    /// The value of `key` as `parse` reads it; `None` if it is missing, or wrong, which is noted.
    fn get<T>(&mut self, key: Key, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let value = self.text(key)?;
        let parsed = parse(&value.text);
        if parsed.is_none() {
            self.wrong(key, &value, "");
        }
        parsed
    }

    /// As [`Self::get`], with the reason in the message.
    fn parsed<T: FromStr>(&mut self, key: Key) -> Option<T>
    where
        T::Err: fmt::Display,
    {
        let value = self.text(key)?;
        value.text.parse().map_err(|error: T::Err| self.wrong(key, &value, &error.to_string())).ok()
    }

    fn seconds(&mut self, key: Key, default: u32) -> u32 {
        self.get(key, |text| text.parse().ok().filter(|seconds| *seconds >= 1)).unwrap_or(default)
    }

    fn path(&mut self, key: Key) -> Option<PathBuf> {
        self.get(key, |text| Some(PathBuf::from(text)).filter(|path| path.is_absolute()))
    }

    fn list<T>(&mut self, key: Key, default: &str, parse: impl Fn(&str) -> Option<T>) -> Vec<T> {
        let all = |text: &str| value::list(text).map(&parse).collect::<Option<Vec<T>>>();
        match self.get(key, all) {
            Some(list) => list,
            // The defaults are well formed, as a test shows; a wrong value ends in an error anyway.
            None => all(default).unwrap_or_default(),
        }
    }

    fn units(&mut self, key: Key, default: &str) -> Vec<UnitName> {
        self.list(key, default, |text| text.parse().ok())
    }
}

/// Where the application says what it does, unless told otherwise.
const APP_STATUS_URL: &str = "http://localhost:8000/api/v1/sessions/status";

/// Whether that has the form of a device's token.
pub(crate) fn is_token(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The organisation that every server has.
fn default_org() -> OrgSlug {
    // Proof: "default" fits the rule for names and is not the reserved one.
    OrgSlug::new("default").expect("a good name")
}

/// See [`value::device_id_for_host`].
fn default_device_id(hostname: &str) -> DeviceId {
    // Proof: `device_id_for_host` starts with "r58-", adds only characters of the rule and at most 59 of them; a
    // property test holds it.
    DeviceId::new(&value::device_id_for_host(hostname)).expect("a good name")
}

/// Checks all values together, so that a person sees everything that is wrong at once.
pub(super) fn resolve(raw: Raw, file: Option<PathBuf>, hostname: &str) -> Result<Config, Vec<BadValue>> {
    let token_from_environment =
        raw.get(&Key::DeviceToken).is_some_and(|v| v.origin == Origin::Environment && !v.text.is_empty());
    let mut reader = Reader { raw, bad: Vec::new() };
    let r = &mut reader;

    let app_status_url = match r.text(Key::AppStatusUrl) {
        Some(value) if value.text.is_empty() => None,
        Some(_) => r.parsed::<HttpUrl>(Key::AppStatusUrl),
        None => APP_STATUS_URL.parse().ok(),
    };
    let (client_cert, client_key) = (r.path(Key::ClientCert), r.path(Key::ClientKey));
    for (here, there, key) in
        [(&client_cert, &client_key, Key::ClientCert), (&client_key, &client_cert, Key::ClientKey)]
    {
        // Only when the partner is missing, not when it is wrong and reported as such already.
        let alone = here.is_some() && there.is_none() && r.bad.is_empty();
        if alone && let Some(value) = r.text(key) {
            r.wrong(key, &value, "its partner is missing");
        }
    }

    let config = Config {
        enabled: r.get(Key::FleetEnabled, value::truth).unwrap_or(true),
        fleet_url: r.parsed(Key::FleetUrl),
        org: r.parsed(Key::FleetOrg).unwrap_or_else(default_org),
        device_id: r.parsed(Key::DeviceId).unwrap_or_else(|| default_device_id(hostname)),
        device_token: r.get(Key::DeviceToken, |t| is_token(t).then(|| Secret::new(t.to_owned()))),
        token_from_environment,
        heartbeat_interval_seconds: r.seconds(Key::HeartbeatInterval, 60),
        command_poll_interval_seconds: r.seconds(Key::CommandPollInterval, 30),
        mqtt_url: r.parsed::<MqttUrl>(Key::MqttUrl),
        ca_file: r.path(Key::CaFile),
        client_cert,
        client_key,
        app_status_url,
        app_status_fields: r
            .get(Key::AppStatusFields, |text| text.parse::<StatusFields>().ok())
            .unwrap_or_default(),
        app_unit: r.get(Key::AppUnit, |text| text.parse().ok()).unwrap_or_else(UnitName::of_the_application),
        recordings_dir: r.path(Key::RecordingsDir),
        allowed_services: r.units(Key::AllowedServices, "r58-api,r58-fleet-agent,mediamtx,vdoninja"),
        allowed_config_keys: r.list(
            Key::AllowedConfigKeys,
            "HEARTBEAT_INTERVAL,COMMAND_POLL_INTERVAL,R58_DEBUG",
            |name| super::lines::is_key_name(name).then(|| name.to_owned()),
        ),
        scripts_dir: r.path(Key::ScriptsDir).unwrap_or_else(|| "/opt/r58-app/scripts/custom".into()),
        app_dir: r.path(Key::AppDir).unwrap_or_else(|| "/opt/r58-app".into()),
        state_dir: r.path(Key::StateDir).unwrap_or_else(|| "/var/lib/r58-fleet-agent".into()),
        log_units: r.units(Key::LogUnits, ""),
        file,
        debug: false,
        in_force: BTreeMap::new(),
        warnings: Vec::new(),
    };
    if reader.bad.is_empty() { Ok(config) } else { Err(reader.bad) }
}
