//! The account of the first start: the one that the configuration names, or one that is made, so that a server which is
//! started without any configuration has neither nobody who may sign in nor a password that everybody knows.
//!
//! A password that is made is written to a file in the data folder before the account is, so that no crash loses it, and is
//! told once. Whoever signs in with it has to choose another.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use protocol::id::{OrgSlug, Role, UserName};

use super::Error;
use super::accounts::{NewUser, add_user};
use crate::auth::password;
use crate::config::FirstAdmin;
use crate::domain::org::DEFAULT_ORG;
use crate::domain::user::{Email, EmailError};
use crate::store::folder::sync_folder;
use crate::store::{Store, users};

/// The address of an account for which nobody gave one. Nothing is ever sent to it.
const MADE_EMAIL: &str = "admin@localhost";
const FILE: &str = "first-admin-password";

/// Makes the first account if there is no person at all. Returns the file that has a password which was made and not told
/// yet: now, or at an earlier start that ended too soon.
///
/// # Errors
/// [`Error::Invalid`] for an address or a password that will not do; [`Error::Internal`] if the file cannot be written.
pub async fn first_account(
    store: &Store,
    data_dir: &Path,
    wanted: Option<&FirstAdmin>,
    now_ms: i64,
) -> Result<Option<PathBuf>, Error> {
    let path = data_dir.join(FILE);
    if users::any(store).await? {
        if !users::any_with_first_password(store).await? {
            forget_password(data_dir);
        }
        return Ok(path.exists().then_some(path));
    }
    let text = wanted.map_or(MADE_EMAIL, |admin| &admin.email);
    let email: Email =
        text.parse().map_err(|e: EmailError| Error::field("FLEET_ADMIN_EMAIL", e.to_string()))?;
    let given = wanted.and_then(|admin| admin.password.clone());
    let is_made = given.is_none();
    let password = match given {
        Some(password) => password,
        None => {
            let made = password::generate().map_err(Error::internal)?;
            let lines = format!("e-mail: {}\npassword: {}\n", email.as_str(), made.expose());
            write(&path, &zeroize::Zeroizing::new(lines)).map_err(Error::internal)?;
            made
        }
    };
    // Both names fit their rules.
    let org = OrgSlug::new(DEFAULT_ORG).map_err(Error::internal)?;
    let admin = UserName::new("admin").map_err(Error::internal)?;
    let new = NewUser {
        org,
        username: Some(email.suggested_username().unwrap_or(admin)),
        email,
        name: "Administrator".to_owned(),
        role: Role::Admin,
        is_superadmin: true,
        must_change_password: is_made,
    };
    add_user(store, new, password, now_ms).await?;
    Ok(is_made.then_some(path))
}

/// Removes the file: the password was told, or is no longer in force.
pub fn forget_password(data_dir: &Path) {
    let path = data_dir.join(FILE);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "cannot remove the file with the first password; remove it");
        }
        _ => {}
    }
}

/// Written beside and renamed: nobody reads half of it, and nobody else reads it at all.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let beside = path.with_extension("new");
    let _ = fs::remove_file(&beside);
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    path.parent().map_or(Ok(()), sync_folder)
}
