//! The credentials of the standalone broker: a TOML file of devices, people and services with hashes of their secrets.
//!
//! This module is the pure part: from text to checked [`Credentials`], and what differs between two of them.
//! [`file`] reads the file, [`authenticator`] answers the gate.

pub mod authenticator;
pub mod file;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::Path;

use argon2::Params;
use argon2::password_hash::phc::PasswordHash;
use protocol::id::{DeviceId, OrgSlug, Role, UserName, check_name};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::principal::{Principal, PrincipalKey};
use crate::toml_error::TomlError;

/// Most memory that one password check may take, in KiB: a hash that asks for more is refused when it is read.
pub const MAX_ARGON2_MEMORY_KIB: u32 = 256 * 1024;

/// Everybody who may log in.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    accounts: Vec<Account>,
    /// From user name (or e-mail address in lower case) to the place in `accounts`.
    by_login: HashMap<String, usize>,
}

/// One who may log in.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    /// Who a login with these secrets is.
    pub principal: Principal,
    /// SHA-256 of a token, an API key or a secret.
    pub token_sha256: Option<Sha256Hash>,
    /// Argon2id hash of a password.
    pub password: Option<PasswordHash>,
}

/// Hides the hashes: they have no place in a log.
impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Account").field(&self.principal).finish()
    }
}

/// SHA-256 of a secret, in a file as 64 hex digits.
#[derive(Clone, Copy)]
pub struct Sha256Hash([u8; 32]);

impl Sha256Hash {
    /// The hash of a secret.
    #[must_use]
    pub fn of(secret: &[u8]) -> Sha256Hash {
        Sha256Hash(Sha256::digest(secret).into())
    }
}

/// In constant time.
impl PartialEq for Sha256Hash {
    fn eq(&self, other: &Sha256Hash) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Sha256Hash {}

/// Hides the hash.
impl fmt::Debug for Sha256Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// As 64 hex digits.
impl fmt::Display for Sha256Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What is wrong with a credentials file. No text of it quotes a hash.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// Not TOML, an unknown key, a bad value.
    #[error(transparent)]
    Toml(#[from] TomlError),
    /// Two entries with one login name, or one e-mail address.
    #[error("{path}: {login:?} stands there twice; devices, people and services share one name space")]
    Twice {
        /// The file.
        path: String,
        /// The name.
        login: String,
    },
    /// An entry without a secret.
    #[error("{path}: {login:?} has no secret; add {expected}")]
    NoSecret {
        /// The file.
        path: String,
        /// Whose entry.
        login: String,
        /// Which keys would do.
        expected: &'static str,
    },
    /// The file cannot be read.
    #[error("cannot read the credentials file {path}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Others may read or change the file.
    #[error("{path} can be read or changed by other users (mode {mode:03o}); run: chmod 600 {path}")]
    Exposed {
        /// The file.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is larger than [`file::MAX_BYTES`].
    #[error("{path} has more than {limit} bytes; is it the right file?")]
    TooLarge {
        /// The file.
        path: String,
        /// The most that is read.
        limit: u64,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    device: Vec<RawDevice>,
    #[serde(default)]
    person: Vec<RawPerson>,
    #[serde(default)]
    service: Vec<RawService>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDevice {
    org: OrgSlug,
    id: DeviceId,
    #[serde(deserialize_with = "sha256_hex")]
    token_sha256: Sha256Hash,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPerson {
    org: OrgSlug,
    user: UserName,
    role: Role,
    #[serde(default, deserialize_with = "email")]
    email: Option<String>,
    #[serde(default, deserialize_with = "some_sha256_hex")]
    api_key_sha256: Option<Sha256Hash>,
    #[serde(default, deserialize_with = "argon2id")]
    password_argon2id: Option<PasswordHash>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawService {
    #[serde(deserialize_with = "service_name")]
    name: String,
    #[serde(deserialize_with = "sha256_hex")]
    secret_sha256: Sha256Hash,
}

impl Credentials {
    /// From the text of the file at `path`, which serves the messages alone.
    ///
    /// # Errors
    /// What is wrong and where: line and key, or the name of the entry.
    pub fn parse(path: &Path, text: &str) -> Result<Credentials, CredentialsError> {
        let raw: RawFile = toml::from_str(text).map_err(|error| TomlError::new(path, text, &error))?;
        let mut credentials = Credentials::default();
        let mut add = |logins: Vec<String>, account: Account| {
            for login in logins {
                if credentials.by_login.insert(login.clone(), credentials.accounts.len()).is_some() {
                    return Err(CredentialsError::Twice { path: path.display().to_string(), login });
                }
            }
            credentials.accounts.push(account);
            Ok(())
        };
        for RawDevice { org, id, token_sha256 } in raw.device {
            let login = format!("{org}/{id}");
            let principal = Principal::Device { org, device: id, credential: None };
            add(vec![login], Account { principal, token_sha256: Some(token_sha256), password: None })?;
        }
        for RawPerson { org, user, role, email, api_key_sha256, password_argon2id } in raw.person {
            let login = format!("{org}/{user}");
            if api_key_sha256.is_none() && password_argon2id.is_none() {
                let expected = "api_key_sha256 or password_argon2id";
                return Err(CredentialsError::NoSecret { path: path.display().to_string(), login, expected });
            }
            let principal = Principal::Person { org, user, role, credential: None };
            let logins = std::iter::once(login).chain(email).collect();
            add(logins, Account { principal, token_sha256: api_key_sha256, password: password_argon2id })?;
        }
        for RawService { name, secret_sha256 } in raw.service {
            let principal = Principal::Service { name: name.clone() };
            add(vec![name], Account { principal, token_sha256: Some(secret_sha256), password: None })?;
        }
        Ok(credentials)
    }

    /// The account of a user name or an e-mail address (in any case), as sent at CONNECT.
    #[must_use]
    pub fn find(&self, login: &str) -> Option<&Account> {
        let at = match self.by_login.get(login) {
            None if login.contains('@') => self.by_login.get(&login.to_ascii_lowercase()),
            found => found,
        };
        at.and_then(|at| self.accounts.get(*at))
    }

    /// How many devices, people and services there are.
    #[must_use]
    pub fn counts(&self) -> (usize, usize, usize) {
        self.accounts.iter().fold((0, 0, 0), |(devices, people, services), account| match account.principal {
            Principal::Device { .. } => (devices + 1, people, services),
            Principal::Person { .. } => (devices, people + 1, services),
            Principal::Service { .. } => (devices, people, services + 1),
        })
    }

    /// Who of `self` is gone in `new`, or has another secret, role or e-mail address there: their connections must end.
    #[must_use]
    pub fn outdated_by(&self, new: &Credentials) -> BTreeSet<PrincipalKey> {
        let (old, new) = (self.by_key(), new.by_key());
        old.into_iter().filter(|(key, entry)| new.get(key) != Some(entry)).map(|(key, _)| key).collect()
    }

    fn by_key(&self) -> BTreeMap<PrincipalKey, (&Account, BTreeSet<&str>)> {
        let mut entries: BTreeMap<_, _> = self
            .accounts
            .iter()
            .map(|account| (account.principal.key(), (account, BTreeSet::new())))
            .collect();
        for (login, at) in &self.by_login {
            let entry = self.accounts.get(*at).and_then(|account| entries.get_mut(&account.principal.key()));
            if let Some((_, logins)) = entry {
                logins.insert(login.as_str());
            }
        }
        entries
    }
}

fn sha256_hex<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Sha256Hash, D::Error> {
    // The value is not quoted: whoever pastes the token itself here must not find it in a log.
    let expected = "this is no SHA-256: 64 hex digits are expected; make one with: fleet-broker hash token";
    let text = String::deserialize(deserializer)?;
    let mut hash = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return Err(D::Error::custom(expected));
    }
    for (index, byte) in hash.iter_mut().enumerate() {
        let digits = &text[2 * index..2 * index + 2];
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(D::Error::custom(expected));
        }
        *byte = u8::from_str_radix(digits, 16).map_err(|_| D::Error::custom(expected))?;
    }
    Ok(Sha256Hash(hash))
}

fn some_sha256_hex<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Sha256Hash>, D::Error> {
    sha256_hex(deserializer).map(Some)
}

fn argon2id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PasswordHash>, D::Error> {
    let expected =
        "this is no Argon2id hash (\"$argon2id$v=19$…\"); make one with: fleet-broker hash password";
    let text = String::deserialize(deserializer)?;
    let hash = PasswordHash::new(&text).map_err(|_| D::Error::custom(expected))?;
    let params = Params::try_from(&hash).map_err(|_| D::Error::custom(expected))?;
    if hash.algorithm.as_str() != "argon2id" || hash.salt.is_none() || hash.hash.is_none() {
        return Err(D::Error::custom(expected));
    }
    if params.m_cost() > MAX_ARGON2_MEMORY_KIB || params.t_cost() > 16 || params.p_cost() > 16 {
        return Err(D::Error::custom(
            "this hash takes too much memory or time to check: at most m=262144,t=16,p=16",
        ));
    }
    Ok(Some(hash))
}

fn email<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?.to_ascii_lowercase();
    let sound = text.split_once('@').is_some_and(|(name, domain)| !name.is_empty() && !domain.is_empty());
    if !sound || text.contains(['/', ' ', '\0']) || text.len() > 254 {
        return Err(D::Error::custom("this is no e-mail address"));
    }
    Ok(Some(text))
}

fn service_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    check_name(&name).map_err(|error| D::Error::custom(format!("bad service name: {error}")))?;
    Ok(name)
}
