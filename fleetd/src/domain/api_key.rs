//! API keys: what programs and MQTT tools show in place of a password.

use serde::Serialize;

use super::time;

/// Longest name, in characters.
pub const KEY_NAME_MAX_CHARS: usize = 100;

/// An API key as the API shows it; the key itself is known only to who had it made.
#[derive(Debug, Clone, Serialize)]
pub struct ApiKey {
    /// The row: a UUID.
    pub id: String,
    /// Whose: the account's row.
    #[serde(skip)]
    pub owner_id: String,
    /// The owner's name in the organisation.
    pub owner: String,
    /// For people.
    pub name: String,
    /// The first characters.
    pub key_prefix: String,
    /// What it is for; empty: everything that its owner may do.
    pub scopes: Vec<String>,
    /// When it ends, ms since 1970.
    #[serde(with = "time::optional", skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
    /// When it was last used, ms since 1970, within a minute.
    #[serde(with = "time::optional", skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<i64>,
    /// When it was made, ms since 1970.
    #[serde(with = "time")]
    pub created_at: i64,
}
