//! Reading the credentials file: bounded, and only if nobody but its owner can get at it.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{Credentials, CredentialsError};

/// Largest credentials file, in bytes: room for some 80,000 devices.
pub const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Reads and checks the file at `path`.
///
/// # Errors
/// If it cannot be read, is too large, is open to other users (any permission of group or others), or is wrong.
pub fn load(path: &Path) -> Result<Credentials, CredentialsError> {
    let name = || path.display().to_string();
    let read = |source| CredentialsError::Read { path: name(), source };
    let file = File::open(path).map_err(read)?;
    // Of the open file, so that nobody can swap it between the check and the reading.
    let mode = file.metadata().map_err(read)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(CredentialsError::Exposed { path: name(), mode });
    }
    let mut text = String::new();
    file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(read)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(CredentialsError::TooLarge { path: name(), limit: MAX_BYTES });
    }
    Credentials::parse(path, &text)
}
