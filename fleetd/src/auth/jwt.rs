//! Access tokens of people: short-lived JWTs, HS256, signed with one key that stays in the data folder.
//!
//! A token alone is not enough: it carries the user's token version, and the caller compares it with the database,
//! so that disabling a user or changing a password ends every access token at once.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use super::token::{NewToken, RandomError};
use crate::config::Secret;

/// How long an access token is good for, in seconds.
pub const ACCESS_TOKEN_SECONDS: i64 = 15 * 60;

/// By how much another server's clock may be ahead, in seconds.
const AHEAD_SECONDS: i64 = 60;
/// Shortest signing secret, in bytes.
const SECRET_MIN_BYTES: usize = 16;
/// Longest secret file that is read, in bytes.
const SECRET_MAX_BYTES: u64 = 4096;
/// Longest token that is looked at, in bytes.
const TOKEN_MAX_BYTES: usize = 2048;
const SECRET_FILE: &str = "jwt-secret";
const ISSUER: &str = "fleetd";

/// What an access token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Always `fleetd`.
    iss: String,
    /// The user's id.
    pub sub: String,
    /// The user's token version when the token was made.
    pub ver: i64,
    /// The login that it descends from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fam: Option<String>,
    /// When it was made, in seconds since 1970.
    pub iat: i64,
    /// From when on it is good, in seconds since 1970; ours are so at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<i64>,
    /// When it ends, in seconds since 1970.
    pub exp: i64,
}

/// The signing key could not be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file operation failed.
    #[error("cannot {operation} the signing key {}: {source}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// Where.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The secret is too short to be safe.
    #[error(
        "the signing secret ({origin}) has {bytes} bytes; it needs at least {SECRET_MIN_BYTES}. Give a longer one, or none at all and one is made"
    )]
    TooShort {
        /// Where it came from.
        origin: String,
        /// Its length.
        bytes: usize,
    },
    /// No random bytes.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// Signing failed inside the library.
    #[error("cannot sign an access token: {0}")]
    Signing(jsonwebtoken::errors::Error),
}

/// The key that signs and checks access tokens.
pub struct JwtKeys {
    signing: EncodingKey,
    checking: DecodingKey,
    validation: Validation,
}

impl std::fmt::Debug for JwtKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JwtKeys(…)")
    }
}

impl JwtKeys {
    /// Takes the configured secret, or the one in the data folder, which is made when it is missing.
    ///
    /// # Errors
    /// A secret that is too short, or a file that cannot be read or written.
    pub fn open(configured: Option<&Secret>, data_dir: &Path) -> Result<Self, KeyError> {
        match configured {
            Some(secret) => Self::from_secret(secret, "FLEET_JWT_SECRET"),
            None => {
                let path = data_dir.join(SECRET_FILE);
                let secret = read_or_make(&path)?;
                Self::from_secret(&secret, &path.display().to_string())
            }
        }
    }

    fn from_secret(secret: &Secret, origin: &str) -> Result<Self, KeyError> {
        let bytes = secret.expose().trim().as_bytes();
        if bytes.len() < SECRET_MIN_BYTES {
            return Err(KeyError::TooShort { origin: origin.to_owned(), bytes: bytes.len() });
        }
        let mut validation = Validation::new(Algorithm::HS256);
        // The clock is the caller's: expiry is checked in `check`.
        validation.validate_exp = false;
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["iss", "sub", "exp"]);
        Ok(Self {
            signing: EncodingKey::from_secret(bytes),
            checking: DecodingKey::from_secret(bytes),
            validation,
        })
    }

    /// Makes an access token for a user, which descends from a login.
    ///
    /// # Errors
    /// When signing fails inside the library.
    pub fn issue(
        &self,
        user_id: &str,
        token_version: i64,
        family: Option<&str>,
        now_ms: i64,
    ) -> Result<Secret, KeyError> {
        let iat = now_ms.div_euclid(1000);
        let claims = Claims {
            iss: ISSUER.to_owned(),
            sub: user_id.to_owned(),
            ver: token_version,
            fam: family.map(str::to_owned),
            iat,
            nbf: None,
            exp: iat + ACCESS_TOKEN_SECONDS,
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.signing)
            .map(Secret::new)
            .map_err(KeyError::Signing)
    }

    /// What the token says, if it is ours, has begun and has not ended, and lasts no longer than ours do.
    #[must_use]
    pub fn check(&self, token: &str, now_ms: i64) -> Option<Claims> {
        if token.len() > TOKEN_MAX_BYTES {
            return None;
        }
        let claims = jsonwebtoken::decode::<Claims>(token, &self.checking, &self.validation).ok()?.claims;
        let now = now_ms.div_euclid(1000);
        let begun = claims.nbf.unwrap_or(claims.iat).max(claims.iat) <= now.saturating_add(AHEAD_SECONDS);
        let brief = claims.exp <= claims.iat.saturating_add(ACCESS_TOKEN_SECONDS);
        (begun && brief && claims.exp > now).then_some(claims)
    }
}

/// Reads the secret, or makes it. It is written to a file of its own name and linked into place, so that a crash in
/// between leaves either no secret or a whole one.
fn read_or_make(path: &Path) -> Result<Secret, KeyError> {
    let failed = |operation| move |source| KeyError::File { operation, path: path.to_owned(), source };
    match fs::File::open(path) {
        Ok(file) => {
            let mode = file.metadata().map_err(failed("read"))?.permissions().mode();
            if mode & 0o077 != 0 {
                tracing::warn!(path = %path.display(), "the signing key was open to others; its mode is now 0600");
                file.set_permissions(fs::Permissions::from_mode(0o600)).map_err(failed("protect"))?;
            }
            let mut text = String::new();
            file.take(SECRET_MAX_BYTES).read_to_string(&mut text).map_err(failed("read"))?;
            Ok(Secret::new(text))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let secret = NewToken::generate()?.text;
            let draft = path.with_extension(format!("{}.new", std::process::id()));
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&draft)
                .map_err(failed("create"))?;
            file.write_all(secret.expose().as_bytes())
                .and_then(|()| file.sync_all())
                .map_err(failed("write"))?;
            fs::rename(&draft, path).map_err(failed("create"))?;
            if let Some(folder) = path.parent() {
                fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync"))?;
            }
            Ok(secret)
        }
        Err(e) => Err(failed("open")(e)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const NOW: i64 = 1_766_916_000_000;

    #[test]
    fn a_token_is_good_until_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let keys = JwtKeys::open(None, folder.path()).unwrap();
        let token = keys.issue("user-1", 3, Some("login"), NOW).unwrap();
        let claims = keys.check(token.expose(), NOW).unwrap();
        assert_eq!((claims.sub.as_str(), claims.ver), ("user-1", 3));
        assert!(keys.check(token.expose(), NOW + (ACCESS_TOKEN_SECONDS - 1) * 1000).is_some());
        assert!(keys.check(token.expose(), NOW + ACCESS_TOKEN_SECONDS * 1000).is_none());
    }

    #[test]
    fn the_key_is_kept_and_is_for_the_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let token = JwtKeys::open(None, folder.path()).unwrap().issue("u", 1, None, NOW).unwrap();
        let again = JwtKeys::open(None, folder.path()).unwrap();
        assert!(again.check(token.expose(), NOW).is_some());
        let path = folder.path().join(SECRET_FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        JwtKeys::open(None, folder.path()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_token_of_another_key_or_algorithm_is_refused() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (a, b) = (JwtKeys::open(None, a.path()).unwrap(), JwtKeys::open(None, b.path()).unwrap());
        let token = a.issue("u", 1, None, NOW).unwrap();
        assert!(b.check(token.expose(), NOW).is_none());
        // {"alg":"none"} with the same claims and no signature.
        let claims = token.expose().split('.').nth(1).unwrap();
        assert!(a.check(&format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{claims}."), NOW).is_none());
        assert!(a.check(&"x".repeat(5000), NOW).is_none());
        assert!(a.check("", NOW).is_none());
    }

    #[test]
    fn a_short_secret_is_refused_with_its_origin() {
        let folder = tempfile::tempdir().unwrap();
        let error = JwtKeys::open(Some(&Secret::new("short".into())), folder.path()).unwrap_err();
        assert!(error.to_string().contains("FLEET_JWT_SECRET"), "{error}");
        fs::write(folder.path().join(SECRET_FILE), "").unwrap();
        let error = JwtKeys::open(None, folder.path()).unwrap_err();
        assert!(error.to_string().contains("jwt-secret"), "{error}");
    }
}
