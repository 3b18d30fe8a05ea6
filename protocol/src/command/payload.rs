//! What each type of command takes. The server refuses a wrong payload at once; the device checks again.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::CommandType;

/// Longest delay of a reboot, seconds.
pub const DELAY_MAX_SECONDS: u32 = 3600;
/// Longest name of a service, script, version or branch, in bytes.
pub const NAME_MAX_LEN: usize = 255;
/// Most arguments of a script.
pub const ARGS_MAX: usize = 64;
/// Longest argument or config value, in bytes.
pub const VALUE_MAX_LEN: usize = 4096;
/// Most config keys that one command changes.
pub const CHANGES_MAX: usize = 64;

/// A checked payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// Install a release.
    Update(Update),
    /// Reboot.
    Reboot(Reboot),
    /// Restart a unit.
    RestartService(RestartService),
    /// Collect a support bundle.
    Bundle(Bundle),
    /// Change config keys.
    Config(ConfigChange),
    /// Run a script.
    Custom(Custom),
    /// Make a new token.
    RotateToken,
    /// A round trip.
    Ping,
}

/// What to install: a version, or a branch for a git install.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// A released version.
    pub version: Option<String>,
    /// A branch, where the application is installed by git.
    pub branch: Option<String>,
    /// Also if it is installed already, or older.
    pub force: bool,
}

/// When to reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reboot {
    /// Seconds to wait before, 0 to [`DELAY_MAX_SECONDS`].
    pub delay_seconds: u32,
}

/// Which unit to restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestartService {
    /// Its name, with or without `.service`.
    pub service: String,
}

/// What a support bundle has in it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "four independent switches")]
pub struct Bundle {
    /// The bundle's id; the server adds it.
    pub bundle_id: Option<String>,
    /// Logs; yes by default.
    pub include_logs: bool,
    /// Config without secrets; yes by default.
    pub include_config: bool,
    /// A list of recordings; no by default.
    pub include_recordings: bool,
    /// What the machine says of itself; yes by default.
    pub include_diagnostics: bool,
}

/// Which keys to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigChange {
    /// Keys and their new values, as text.
    pub changes: BTreeMap<String, String>,
}

/// Which script to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Custom {
    /// Its path below the approved folder.
    pub script: String,
    /// What it is given, without a shell in between.
    pub args: Vec<String>,
}

/// The payload is not what its type takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct PayloadError {
    /// The field, as `payload.service`.
    pub field: String,
    /// What is wrong and what is expected.
    pub message: String,
}

impl Payload {
    /// Reads what a command of this type takes. Nothing at all (null) stands for an empty object.
    ///
    /// # Errors
    /// A field is missing, unknown, of the wrong type or out of its range.
    pub fn parse(kind: CommandType, value: &Value) -> Result<Self, PayloadError> {
        let empty = Map::new();
        let object = match value {
            Value::Null => &empty,
            Value::Object(object) => object,
            _ => {
                let message = "must be an object".to_owned();
                return Err(PayloadError { field: "payload".to_owned(), message });
            }
        };
        let fields = Fields { kind, object };
        match kind {
            CommandType::Update => fields.update(),
            CommandType::Reboot => {
                fields.only(&["delay_seconds"])?;
                Ok(Self::Reboot(Reboot {
                    delay_seconds: fields.seconds("delay_seconds", DELAY_MAX_SECONDS)?,
                }))
            }
            CommandType::RestartService => {
                fields.only(&["service"])?;
                let service = fields.name("service")?.ok_or_else(|| fields.missing("service"))?;
                Ok(Self::RestartService(RestartService { service }))
            }
            CommandType::Bundle => fields.bundle(),
            CommandType::Config => fields.config(),
            CommandType::Custom => fields.custom(),
            CommandType::RotateToken => fields.only(&[]).map(|()| Self::RotateToken),
            CommandType::Ping => fields.only(&[]).map(|()| Self::Ping),
        }
    }

    /// The type that takes it.
    #[must_use]
    pub const fn kind(&self) -> CommandType {
        match self {
            Self::Update(_) => CommandType::Update,
            Self::Reboot(_) => CommandType::Reboot,
            Self::RestartService(_) => CommandType::RestartService,
            Self::Bundle(_) => CommandType::Bundle,
            Self::Config(_) => CommandType::Config,
            Self::Custom(_) => CommandType::Custom,
            Self::RotateToken => CommandType::RotateToken,
            Self::Ping => CommandType::Ping,
        }
    }

    /// Whether it can disturb a show. `own_unit` is the agent's own: restarting that harms nobody.
    #[must_use]
    pub fn is_disruptive(&self, own_unit: &str) -> bool {
        match self {
            Self::RestartService(restart) => plain_unit(&restart.service) != plain_unit(own_unit),
            other => other.kind().is_disruptive(),
        }
    }
}

/// A service's name without its suffix: `r58-api` and `r58-api.service` are one.
#[must_use]
pub fn plain_unit(name: &str) -> &str {
    name.strip_suffix(".service").unwrap_or(name)
}

struct Fields<'a> {
    kind: CommandType,
    object: &'a Map<String, Value>,
}

impl Fields<'_> {
    fn wrong(field: &str, message: String) -> PayloadError {
        PayloadError { field: format!("payload.{field}"), message }
    }

    fn missing(&self, field: &str) -> PayloadError {
        Self::wrong(field, format!("{} needs it", self.kind))
    }

    fn only(&self, known: &[&str]) -> Result<(), PayloadError> {
        let Some(unknown) = self.object.keys().find(|key| !known.contains(&key.as_str())) else {
            return Ok(());
        };
        let takes = if known.is_empty() { "nothing".to_owned() } else { known.join(", ") };
        let unknown: String = unknown.chars().take(64).collect();
        Err(Self::wrong(&unknown, format!("is not known; {} takes {takes}", self.kind)))
    }

    fn get(&self, field: &str) -> Option<&Value> {
        self.object.get(field).filter(|value| !value.is_null())
    }

    fn flag(&self, field: &str, default: bool) -> Result<bool, PayloadError> {
        match self.get(field) {
            None => Ok(default),
            Some(value) => {
                value.as_bool().ok_or_else(|| Self::wrong(field, "must be true or false".to_owned()))
            }
        }
    }

    fn seconds(&self, field: &str, most: u32) -> Result<u32, PayloadError> {
        let Some(value) = self.get(field) else { return Ok(0) };
        let seconds = value.as_u64().and_then(|seconds| u32::try_from(seconds).ok());
        seconds
            .filter(|seconds| *seconds <= most)
            .ok_or_else(|| Self::wrong(field, format!("must be whole seconds from 0 to {most}")))
    }

    fn name(&self, field: &str) -> Result<Option<String>, PayloadError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let good =
            |text: &&str| !text.is_empty() && text.len() <= NAME_MAX_LEN && !text.contains(char::is_control);
        let text = value.as_str().filter(good).ok_or_else(|| {
            Self::wrong(
                field,
                format!("must be text of 1 to {NAME_MAX_LEN} bytes without control characters"),
            )
        })?;
        Ok(Some(text.to_owned()))
    }

    fn update(&self) -> Result<Payload, PayloadError> {
        self.only(&["version", "branch", "force"])?;
        let (version, branch, force) =
            (self.name("version")?, self.name("branch")?, self.flag("force", false)?);
        if version.is_some() == branch.is_some() {
            return Err(Self::wrong("version", "give either version or branch".to_owned()));
        }
        Ok(Payload::Update(Update { version, branch, force }))
    }

    fn bundle(&self) -> Result<Payload, PayloadError> {
        self.only(&[
            "include_logs",
            "include_config",
            "include_recordings",
            "include_diagnostics",
            "bundle_id",
        ])?;
        Ok(Payload::Bundle(Bundle {
            bundle_id: self.name("bundle_id")?,
            include_logs: self.flag("include_logs", true)?,
            include_config: self.flag("include_config", true)?,
            include_recordings: self.flag("include_recordings", false)?,
            include_diagnostics: self.flag("include_diagnostics", true)?,
        }))
    }

    fn config(&self) -> Result<Payload, PayloadError> {
        self.only(&["changes"])?;
        let changes = self.get("changes").ok_or_else(|| self.missing("changes"))?;
        let changes = changes
            .as_object()
            .filter(|changes| (1..=CHANGES_MAX).contains(&changes.len()))
            .ok_or_else(|| Self::wrong("changes", format!("must be an object of 1 to {CHANGES_MAX} keys")))?;
        let read = |(key, value): (&String, &Value)| {
            let shown: String = key.chars().take(64).collect();
            let field = format!("changes.{shown}");
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Bool(_) | Value::Number(_) => value.to_string(),
                _ => return Err(Self::wrong(&field, "must be text, a number, true or false".to_owned())),
            };
            if text.len() > VALUE_MAX_LEN || text.contains(char::is_control) {
                let message = format!("must have at most {VALUE_MAX_LEN} bytes and no control characters");
                return Err(Self::wrong(&field, message));
            }
            Ok((key.clone(), text))
        };
        let changes = changes.iter().map(read).collect::<Result<_, _>>()?;
        Ok(Payload::Config(ConfigChange { changes }))
    }

    fn custom(&self) -> Result<Payload, PayloadError> {
        self.only(&["script", "args"])?;
        let script = self.name("script")?.ok_or_else(|| self.missing("script"))?;
        let args = match self.get("args") {
            None => Vec::new(),
            Some(value) => {
                let good = |arg: &&str| arg.len() <= VALUE_MAX_LEN && !arg.contains('\0');
                let read = |value: &Value| value.as_str().filter(good).map(str::to_owned);
                let all = value.as_array().filter(|args| args.len() <= ARGS_MAX);
                all.and_then(|args| args.iter().map(read).collect()).ok_or_else(|| {
                    let message =
                        format!("must be at most {ARGS_MAX} texts of at most {VALUE_MAX_LEN} bytes");
                    Self::wrong("args", message)
                })?
            }
        };
        Ok(Payload::Custom(Custom { script, args }))
    }
}
