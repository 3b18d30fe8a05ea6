//! Organisations: every person, device and record belongs to one.

use protocol::id::OrgSlug;
use serde::Serialize;
use serde_json::Value;

use super::fields::{Change, FieldError, Fields, name, number, object};
use super::time;
use super::user::NAME_MAX_CHARS;

/// The organisation that is always there.
pub const DEFAULT_ORG: &str = "default";

/// The id of an organisation's row: a UUID.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct OrgId(String);

impl OrgId {
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

/// An organisation in both its names: the row's id, and the slug that topics carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrgRef {
    /// The row.
    pub id: OrgId,
    /// As in topics.
    pub slug: OrgSlug,
}

/// An organisation as the API shows it.
#[derive(Debug, Clone, Serialize)]
pub struct Organization {
    /// The row.
    pub id: OrgId,
    /// For people.
    pub name: String,
    /// As in topics.
    pub slug: OrgSlug,
    /// Settings, by key.
    pub settings: Value,
    /// Most devices that may be registered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_devices: Option<i64>,
    /// When it was made, ms since 1970.
    #[serde(with = "time")]
    pub created_at: i64,
    /// When it was last changed, ms since 1970.
    #[serde(with = "time")]
    pub updated_at: i64,
}

/// Most bytes of an organisation's settings.
pub const SETTINGS_MAX_BYTES: usize = 16 * 1024;
/// Most devices that an organisation can be limited to.
pub const MAX_DEVICES_MAX: i64 = 1_000_000;

/// A change of an organisation.
#[derive(Debug, Clone)]
pub struct OrgPatch {
    /// For people.
    pub name: Option<String>,
    /// Settings, by key: all of them.
    pub settings: Option<Value>,
    /// Most devices that may be registered.
    pub max_devices: Change<i64>,
}

impl OrgPatch {
    /// Reads the body of a PATCH.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn read(mut fields: Fields) -> Result<Self, Vec<FieldError>> {
        let patch = Self {
            name: fields.change_kept("name", name(NAME_MAX_CHARS)),
            settings: fields.change_kept("settings", object(SETTINGS_MAX_BYTES)),
            max_devices: fields.change("max_devices", number(0, MAX_DEVICES_MAX)),
        };
        fields.finish()?;
        Ok(patch)
    }

    /// The organisation as it will be.
    #[must_use]
    pub fn apply(self, mut org: Organization) -> Organization {
        org.name = self.name.unwrap_or(org.name);
        org.settings = self.settings.unwrap_or(org.settings);
        self.max_devices.apply(&mut org.max_devices);
        org
    }
}
