//! The list of what is in a backup. It comes first in the file, so that everything after it is known before it is
//! looked at. Pure.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::BackupError;

/// Its name in the archive.
pub(super) const MANIFEST: &str = "manifest.json";
/// The database's name in the archive.
pub(super) const DATABASE: &str = "fleet.db";
/// What every file of the blob folder begins with, in the archive.
pub(super) const BLOBS: &str = "blobs/";

/// What `format` says.
const FORMAT: &str = "r58-fleet-backup";
/// The newest form that this program writes and reads.
const FORMAT_VERSION: u32 = 1;

/// Largest manifest that is read, in bytes; enough for some hundred thousand parts.
pub(super) const MANIFEST_MAX_BYTES: u64 = 64 << 20;
/// Longest name of a part, in bytes: what a tar header holds without extensions.
pub(super) const NAME_MAX_BYTES: usize = 100;

/// What the backup is, and of what it consists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Always [`FORMAT`].
    format: String,
    /// Rises when an older program could not read the file.
    format_version: u32,
    /// Which fleetd made it.
    pub fleetd_version: String,
    /// The database's schema.
    pub schema_version: i64,
    /// When the database was as it is in here, RFC 3339.
    pub created_at: String,
    /// The same, ms since 1970.
    pub created_at_ms: i64,
    /// Everything else in the file, in its order.
    pub parts: Vec<Part>,
}

/// One file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its name in the archive: `fleet.db`, or `blobs/…`.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its content, in hex.
    pub sha256: String,
}

impl Manifest {
    /// A manifest of these parts, of which the first is the database. `created_at_ms`: ms since 1970.
    #[must_use]
    pub fn new(schema_version: i64, created_at_ms: i64, parts: Vec<Part>) -> Self {
        Self {
            format: FORMAT.to_owned(),
            format_version: FORMAT_VERSION,
            fleetd_version: env!("CARGO_PKG_VERSION").to_owned(),
            schema_version,
            created_at: protocol::message::rfc3339(created_at_ms),
            created_at_ms,
            parts,
        }
    }

    /// As it stands in the file.
    ///
    /// # Errors
    /// Never, as it holds texts and numbers alone; the signature is the encoder's.
    pub fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec_pretty(self)
    }

    /// Reads and checks one. `known_schema`: the newest schema that this program can use.
    ///
    /// # Errors
    /// [`BackupError::NotABackup`], [`BackupError::Newer`], [`BackupError::Damaged`].
    pub fn parse(json: &[u8], known_schema: i64) -> Result<Self, BackupError> {
        #[derive(Deserialize)]
        struct Head {
            format: String,
            format_version: u32,
        }
        let head: Head = serde_json::from_slice(json)
            .map_err(|_| BackupError::NotABackup("its manifest is not that of a backup".to_owned()))?;
        if head.format != FORMAT {
            return Err(BackupError::NotABackup("its manifest is that of something else".to_owned()));
        }
        if head.format_version > FORMAT_VERSION {
            let (found, known) = (i64::from(head.format_version), i64::from(FORMAT_VERSION));
            return Err(BackupError::Newer { what: "file format", found, known });
        }
        let manifest: Self = serde_json::from_slice(json)
            .map_err(|error| BackupError::Damaged(format!("its manifest cannot be understood ({error})")))?;
        if manifest.schema_version > known_schema {
            return Err(BackupError::Newer {
                what: "database schema",
                found: manifest.schema_version,
                known: known_schema,
            });
        }
        manifest.check_parts().map_err(BackupError::Damaged)?;
        Ok(manifest)
    }

    /// Bytes of all parts together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.parts.iter().fold(0, |sum, part| sum.saturating_add(part.bytes))
    }

    fn check_parts(&self) -> Result<(), String> {
        if self.parts.first().is_none_or(|first| first.name != DATABASE) {
            return Err(format!("its manifest does not begin with {DATABASE}"));
        }
        let mut names = BTreeSet::new();
        for part in &self.parts {
            if part.name != DATABASE {
                let within = part.name.strip_prefix(BLOBS).unwrap_or_default();
                check_blob(within)
                    .map_err(|why| format!("its manifest names a part {:?}: {why}", part.name))?;
            }
            if !names.insert(&part.name) {
                return Err(format!("its manifest names {:?} twice", part.name));
            }
            if part.sha256.len() != 64 || !part.sha256.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(format!("its manifest has no SHA-256 for {:?}", part.name));
            }
        }
        // A file cannot be a folder as well.
        let inside_of_a_file = names.iter().any(|name| {
            name.match_indices('/')
                .any(|(at, _)| name.get(..at).is_some_and(|folder| names.contains(&folder.to_owned())))
        });
        if inside_of_a_file {
            return Err("its manifest names one part inside of another".to_owned());
        }
        Ok(())
    }
}

/// Whether a path within the blob folder can be in a backup; why not.
///
/// # Errors
/// What is wrong with it, for people.
pub(super) fn check_blob(path: &str) -> Result<(), &'static str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+' | '=' | '@');
    let good = |part: &str| !part.is_empty() && !part.starts_with('.') && part.chars().all(plain);
    if BLOBS.len() + path.len() > NAME_MAX_BYTES {
        return Err("its name is too long");
    }
    if !path.split('/').all(good) {
        return Err("its name has other characters than letters, digits and . _ - + = @");
    }
    Ok(())
}
