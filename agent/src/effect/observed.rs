//! What is noted before an effect.

use serde::{Deserialize, Serialize};

use super::reboot;
use super::restart;
use super::rotation;
use super::script;
use super::settings;

/// How things were before an effect, as kept in the journal: JSON, fields that are not known are ignored. There is no
/// token in it; the values of a `config` command are, as they are in the command itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed(pub(super) Facts);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "effect", rename_all = "snake_case")]
pub(super) enum Facts {
    Ping {},
    RestartService(restart::Before),
    Reboot(reboot::Before),
    Custom(script::Before),
    Config(settings::Before),
    RotateToken(rotation::Before),
}

impl Observed {
    /// For the journal.
    #[must_use]
    pub fn to_text(&self) -> String {
        // Proof: the fields are texts, numbers and maps with texts for keys, which JSON can always hold.
        serde_json::to_string(&self.0).expect("facts are JSON")
    }

    /// From the journal.
    ///
    /// # Errors
    /// When it was written by a version that noted something else; nothing can be probed then.
    pub fn from_text(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text).map(Self)
    }
}
