//! A device as it is registered and described by hand. What it says of itself is joined in `store::summaries`.

#[cfg(test)]
mod tests;

use protocol::id::DeviceId;
use serde::Serialize;
use serde_json::{Value, json};

use super::certificate_request::CertificateRequest;
use super::fields::{Change, FieldError, Fields, flag, line, object, object_or_list, parsed, text};
use super::org::OrgId;
use crate::auth::token::TokenHash;

/// Largest stored JSON of a device (`metadata`, `capabilities`), in bytes.
pub const STORED_JSON_MAX_BYTES: usize = 16 * 1024;
/// Most tags of a device.
pub const TAGS_MAX: usize = 32;
/// Longest tag, in characters.
pub(crate) const TAG_MAX_CHARS: usize = 63;
pub(crate) const NAME_MAX_CHARS: usize = 200;
pub(crate) const SHORT_MAX_CHARS: usize = 100;
pub(crate) const NOTES_MAX_CHARS: usize = 4000;

/// The id of a device's row: a UUID that stays with the readable id for ever.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct DeviceRowId(String);

impl DeviceRowId {
    /// The id as the database has it.
    #[must_use]
    pub fn new(id: String) -> Self {
        Self(id)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What the API calls the state of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceStatus {
    /// It is heard.
    Online,
    /// It is not heard.
    Offline,
    /// An update runs.
    Updating,
    /// It reports an error.
    Error,
    /// Somebody works on it.
    Maintenance,
    /// It registered itself, and an admin has not said yes yet.
    AwaitingApproval,
}

impl DeviceStatus {
    /// Every status.
    pub const ALL: [Self; 6] =
        [Self::Online, Self::Offline, Self::Updating, Self::Error, Self::Maintenance, Self::AwaitingApproval];

    /// As the API writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Updating => "updating",
            Self::Error => "error",
            Self::Maintenance => "maintenance",
            Self::AwaitingApproval => "awaiting_approval",
        }
    }
}

impl std::str::FromStr for DeviceStatus {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::as_str).join(", ");
        Self::ALL
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or_else(|| format!("one of {} is expected", names()))
    }
}

/// Where updates come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum UpdateChannel {
    /// For everybody.
    Stable,
    /// For those who try things first.
    Beta,
    /// For developers.
    Dev,
}

impl UpdateChannel {
    /// Every channel.
    pub const ALL: [Self; 3] = [Self::Stable, Self::Beta, Self::Dev];

    /// As the API writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Beta => "beta",
            Self::Dev => "dev",
        }
    }
}

impl std::str::FromStr for UpdateChannel {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|channel| channel.as_str() == text)
            .ok_or_else(|| "one of stable, beta, dev is expected".to_owned())
    }
}

/// The row of a device.
#[derive(Debug, Clone)]
pub struct Device {
    /// The row's id.
    pub id: DeviceRowId,
    /// The organisation.
    pub org_id: OrgId,
    /// The readable id.
    pub device_id: DeviceId,
    /// Whether an admin has said yes to it.
    pub approved: bool,
    /// Whether an admin allowed one more enrolment.
    pub reenrollment_allowed: bool,
    /// What people wrote.
    pub description: Description,
    /// When it was taken out of service, ms since 1970.
    pub decommissioned_at: Option<i64>,
    /// Rises with every change.
    pub revision: i64,
}

/// The part of a device that PATCH changes.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// For people.
    pub name: String,
    /// Where it stands.
    pub location: Option<String>,
    /// Sorted, each once.
    pub tags: Vec<String>,
    /// Any JSON object.
    pub metadata: Value,
    /// For people.
    pub notes: Option<String>,
    /// Where updates come from.
    pub update_channel: UpdateChannel,
    /// The version it should have.
    pub target_version: Option<String>,
    /// Devices that must not be disrupted at the same time.
    pub redundancy_group: Option<String>,
    /// Whether somebody works on it.
    pub maintenance: bool,
}

/// A change of a device, read and checked.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DevicePatch {
    name: Option<String>,
    location: Change<String>,
    tags: Option<Vec<String>>,
    metadata: Option<Value>,
    notes: Change<String>,
    update_channel: Option<UpdateChannel>,
    target_version: Change<String>,
    redundancy_group: Change<String>,
    maintenance: Option<bool>,
}

impl DevicePatch {
    /// Reads the body of a PATCH.
    ///
    /// # Errors
    /// Every field that is wrong or unknown.
    pub fn read(body: Value) -> Result<Self, Vec<FieldError>> {
        let mut fields = Fields::new(body)?;
        let patch = Self {
            name: fields.change_kept("name", line(NAME_MAX_CHARS)),
            location: fields.change("location", line(NAME_MAX_CHARS)),
            tags: fields.change_kept("tags", tags),
            metadata: fields.change_kept("metadata", object(STORED_JSON_MAX_BYTES)),
            notes: fields.change("notes", text(NOTES_MAX_CHARS)),
            update_channel: fields.change_kept("update_channel", parsed(16)),
            target_version: fields.change("target_version", version),
            redundancy_group: fields.change("redundancy_group", tag),
            maintenance: fields.change_kept("maintenance", flag),
        };
        fields.finish()?;
        Ok(patch)
    }

    /// Whether the target version is touched, which needs an admin.
    #[must_use]
    pub fn touches_target_version(&self) -> bool {
        self.target_version != Change::Keep
    }

    /// Whether the tags are touched: locks may hold some of them.
    #[must_use]
    pub fn touches_tags(&self) -> bool {
        self.tags.is_some()
    }

    /// The description after the change.
    #[must_use]
    pub fn apply(self, to: &Description) -> Description {
        let mut new = to.clone();
        if let Some(name) = self.name {
            new.name = name;
        }
        self.location.apply(&mut new.location);
        if let Some(tags) = self.tags {
            new.tags = tags;
        }
        if let Some(metadata) = self.metadata {
            new.metadata = metadata;
        }
        self.notes.apply(&mut new.notes);
        if let Some(channel) = self.update_channel {
            new.update_channel = channel;
        }
        self.target_version.apply(&mut new.target_version);
        self.redundancy_group.apply(&mut new.redundancy_group);
        if let Some(maintenance) = self.maintenance {
            new.maintenance = maintenance;
        }
        new
    }
}

impl Description {
    /// What differs between two descriptions, for the audit log: `{field: {from, to}}`. Long texts are only named.
    #[must_use]
    pub fn changes_to(&self, new: &Self) -> Value {
        let mut changes = serde_json::Map::new();
        let mut note = |field: &str, from: Value, to: Value| {
            if from != to {
                changes.insert(field.to_owned(), json!({"from": from, "to": to}));
            }
        };
        note("name", json!(self.name), json!(new.name));
        note("location", json!(self.location), json!(new.location));
        note("tags", json!(self.tags), json!(new.tags));
        note("update_channel", json!(self.update_channel), json!(new.update_channel));
        note("target_version", json!(self.target_version), json!(new.target_version));
        note("redundancy_group", json!(self.redundancy_group), json!(new.redundancy_group));
        note("maintenance", json!(self.maintenance), json!(new.maintenance));
        for (field, changed) in
            [("metadata", self.metadata != new.metadata), ("notes", self.notes != new.notes)]
        {
            if changed {
                changes.insert(field.to_owned(), json!("changed"));
            }
        }
        Value::Object(changes)
    }
}

/// A registration, read and checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Registration {
    /// The id that the device will have.
    pub device_id: DeviceId,
    /// For people; the id if not given.
    pub name: String,
    /// Such as `r58`.
    pub platform: Option<String>,
    /// Such as `aarch64`.
    pub arch: String,
    /// As on its label.
    pub serial_number: Option<String>,
    /// As the device writes it.
    pub mac_address: Option<String>,
    /// The application's version.
    pub current_version: Option<String>,
    /// What it can do: any JSON object or list.
    pub capabilities: Value,
    /// The SHA-256 of the token that the device made for itself.
    pub token: Option<TokenHash>,
    /// What it asks for a certificate with.
    pub csr: Option<CertificateRequest>,
}

/// The architecture of a device that does not say.
pub(crate) const DEFAULT_ARCH: &str = "aarch64";

impl Registration {
    /// Reads the body of a registration.
    ///
    /// # Errors
    /// Every field that is wrong or unknown.
    pub fn read(body: Value) -> Result<Self, Vec<FieldError>> {
        let mut fields = Fields::new(body)?;
        let device_id = fields.required("device_id", parsed::<DeviceId>(1000));
        let name = fields.optional("name", line(NAME_MAX_CHARS));
        let platform = fields.optional("platform", line(SHORT_MAX_CHARS));
        let arch = fields.optional("arch", line(32));
        let serial_number = fields.optional("serial_number", line(SHORT_MAX_CHARS));
        let mac_address = fields.optional("mac_address", line(SHORT_MAX_CHARS));
        let current_version = fields.optional("current_version", version);
        let capabilities = fields.optional("capabilities", object_or_list(STORED_JSON_MAX_BYTES));
        let token = fields.optional("token_sha256", |value| {
            value
                .as_str()
                .and_then(TokenHash::from_hex)
                .ok_or_else(|| "is not a SHA-256: 64 hex digits are expected".to_owned())
        });
        let csr = fields.optional("csr", CertificateRequest::read);
        fields.finish()?;
        // `finish` has failed if the id was absent or wrong.
        let Some(device_id) = device_id else { return Err(Vec::new()) };
        Ok(Self {
            name: name.unwrap_or_else(|| device_id.to_string()),
            device_id,
            platform,
            arch: arch.unwrap_or_else(|| DEFAULT_ARCH.to_owned()),
            serial_number,
            mac_address,
            current_version,
            capabilities: capabilities.unwrap_or_else(|| json!({})),
            token,
            csr,
        })
    }

    /// A registration of nothing but an id and a name, as the command line makes it.
    ///
    /// # Errors
    /// What is wrong with the name.
    pub fn bare(device_id: &DeviceId, name: Option<&str>) -> Result<Self, Vec<FieldError>> {
        Self::read(json!({"device_id": device_id, "name": name}))
    }
}

/// Reads a version: 1 to 100 characters without white space.
fn version(value: Value) -> Result<String, String> {
    let version = line(SHORT_MAX_CHARS)(value)?;
    if version.chars().any(char::is_whitespace) {
        Err("contains white space".to_owned())
    } else {
        Ok(version)
    }
}

/// Reads one tag.
fn tag(value: Value) -> Result<String, String> {
    let tag = line(TAG_MAX_CHARS)(value)?;
    check_tag(&tag)?;
    Ok(tag)
}

/// The rule for tags: letters, digits, `.`, `_`, `:` and `-`, starting with a letter or digit.
///
/// # Errors
/// What is expected.
pub fn check_tag(tag: &str) -> Result<(), String> {
    let good = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | ':' | '-');
    let starts_well = tag.chars().next().is_some_and(char::is_alphanumeric);
    if starts_well && tag.chars().all(good) && tag.chars().count() <= TAG_MAX_CHARS {
        return Ok(());
    }
    Err(format!(
        "a tag has 1 to {TAG_MAX_CHARS} letters, digits, '.', '_', ':' or '-', and starts with a letter or digit"
    ))
}

fn tags(value: Value) -> Result<Vec<String>, String> {
    let Value::Array(list) = value else { return Err("a list of tags is expected".to_owned()) };
    if list.len() > TAGS_MAX {
        return Err(format!("has {} tags; at most {TAGS_MAX} are allowed", list.len()));
    }
    let mut tags = list.into_iter().map(tag).collect::<Result<Vec<_>, _>>()?;
    tags.sort_unstable();
    tags.dedup();
    Ok(tags)
}
