//! Organisations: every person, device and record belongs to one.

use protocol::id::OrgSlug;
use serde::Serialize;
use serde_json::Value;

use super::time;

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
