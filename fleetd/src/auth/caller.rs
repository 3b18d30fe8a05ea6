//! Who is calling: a person by access token or API key, or a device by its token.

use std::net::IpAddr;

use broker::tls::CertificateHash;

use super::AuthState;
use super::token::{TOKEN_MAX_LEN, TokenHash};
use crate::config::Secret;
use crate::domain::audit::Actor;
use crate::domain::org::OrgRef;
use crate::domain::user::User;
use crate::service::Error;
use crate::store::credentials::{self, DeviceCredential};
use crate::store::{Store, certificates, users};

/// The use of an API key is noted at most this often, in ms: one write per key and minute.
const KEY_USE_NOTED_MS: i64 = 60_000;

/// An authenticated caller.
#[derive(Debug, Clone)]
pub enum Caller {
    /// A person.
    Person(Person),
    /// A device.
    Device(DeviceCredential),
}

/// A person, and how the person proved it.
#[derive(Debug, Clone)]
pub struct Person {
    /// The account.
    pub user: User,
    /// The API key, if one was used.
    pub key: Option<KeyInUse>,
}

/// The API key that a request came with.
#[derive(Debug, Clone)]
pub struct KeyInUse {
    /// The row.
    pub id: String,
    /// The first characters.
    pub prefix: String,
    /// Empty: everything that the owner may do.
    pub scopes: Vec<String>,
}

impl Person {
    /// Whether the person signed in with a password that somebody else knows. A key was made when it was not so.
    #[must_use]
    pub const fn must_change_password(&self) -> bool {
        self.user.must_change_password && self.key.is_none()
    }

    /// Whether the credential covers this. A session covers everything, and so does a key without scopes.
    #[must_use]
    pub fn has_scope(&self, scope: &str) -> bool {
        match &self.key {
            Some(key) if !key.scopes.is_empty() => key.scopes.iter().any(|held| held == scope),
            _ => true,
        }
    }
}

impl Caller {
    /// The organisation that everything this caller does is about.
    #[must_use]
    pub fn org(&self) -> &OrgRef {
        match self {
            Self::Person(person) => &person.user.org,
            Self::Device(device) => &device.org,
        }
    }

    /// As the audit log names it.
    #[must_use]
    pub fn actor(&self) -> Actor {
        match self {
            Self::Person(Person { key: Some(key), .. }) => Actor::Key(key.prefix.clone()),
            Self::Person(person) => Actor::User(person.user.label()),
            Self::Device(device) => Actor::Device(format!("{}/{}", device.org.slug, device.device)),
        }
    }

    /// What the general request limit counts by; devices are not counted.
    #[must_use]
    pub fn rate_key(&self) -> Option<&str> {
        match self {
            Self::Person(person) => Some(person.key.as_ref().map_or(&person.user.id, |key| &key.id)),
            Self::Device(_) => None,
        }
    }
}

/// What a request brought to prove who it is from.
#[derive(Debug, Clone)]
pub enum Credential {
    /// `Authorization: Bearer`: an access token or an API key.
    Bearer(Secret),
    /// `X-Device-Token`.
    DeviceToken(Secret),
    /// The certificate that the connection was made with; nothing that a header says.
    Certificate(CertificateHash),
}

/// Finds out who is calling. `device` is the id in the path, if there is one.
///
/// # Errors
/// [`Error::Unauthorized`] or [`Error::TooMany`] for a credential that is no good; [`Error::Store`].
pub async fn identify(
    auth: &AuthState,
    store: &Store,
    credential: &Credential,
    device: Option<&str>,
    address: IpAddr,
    now_ms: i64,
) -> Result<Caller, Error> {
    match credential {
        Credential::DeviceToken(token) => {
            let found = device_by_token(store, token, device, now_ms).await?;
            let account = device.unwrap_or("device");
            found.map(Caller::Device).ok_or_else(|| {
                auth.failed(address, account, "unknown device token; the device may have been decommissioned")
            })
        }
        Credential::Certificate(certificate) => {
            let found = certificates::owner(store, *certificate, now_ms).await?;
            let account = device.unwrap_or("device");
            found.map(Caller::Device).ok_or_else(|| {
                auth.failed(
                    address,
                    account,
                    "this certificate is not known, has expired or was taken back; send X-Device-Token, and ask for another one",
                )
            })
        }
        Credential::Bearer(token) => {
            let found = match token.expose() {
                text if text.contains('.') => person_by_access_token(auth, store, text, now_ms).await?,
                _ => person_by_api_key(store, token, now_ms).await?,
            };
            found.map(Caller::Person).ok_or_else(|| {
                auth.failed(
                    address,
                    "bearer",
                    "the access token or API key is unknown, has ended, or was taken back",
                )
            })
        }
    }
}

/// The device that the token belongs to. A token on a copied disk may belong to several: the path decides.
async fn device_by_token(
    store: &Store,
    token: &Secret,
    device: Option<&str>,
    now_ms: i64,
) -> Result<Option<DeviceCredential>, Error> {
    let Some(hash) = readable(token) else { return Ok(None) };
    let mut found = credentials::devices_by_token(store, hash, now_ms).await?;
    found.retain(|credential| credential.hash == hash);
    let named = found.iter().position(|credential| {
        device.is_some_and(|id| id == credential.device.as_str() || id == credential.row.as_str())
    });
    Ok(if found.is_empty() { None } else { Some(found.swap_remove(named.unwrap_or(0))) })
}

async fn person_by_access_token(
    auth: &AuthState,
    store: &Store,
    token: &str,
    now_ms: i64,
) -> Result<Option<Person>, Error> {
    let Some(claims) = auth.jwt.check(token, now_ms) else { return Ok(None) };
    let Some(stored) = users::by_id(store, &claims.sub).await? else { return Ok(None) };
    let alive = stored.user.is_active
        && stored.user.token_version == claims.ver
        && match &claims.fam {
            // Ended when one of its refresh tokens came a second time.
            Some(login) => credentials::family_lives(store, login).await?,
            None => true,
        };
    Ok(alive.then_some(Person { user: stored.user, key: None }))
}

/// The person behind an API key that is in force.
///
/// # Errors
/// [`Error::Store`].
pub async fn person_by_api_key(store: &Store, key: &Secret, now_ms: i64) -> Result<Option<Person>, Error> {
    let Some(hash) = readable(key) else { return Ok(None) };
    let Some(found) = credentials::api_key(store, hash).await? else { return Ok(None) };
    if found.expires_at.is_some_and(|at| at <= now_ms) {
        return Ok(None);
    }
    let Some(stored) = users::by_id(store, &found.user_id).await? else { return Ok(None) };
    if !stored.user.is_active {
        return Ok(None);
    }
    if found.last_used_at.is_none_or(|at| now_ms - at >= KEY_USE_NOTED_MS) {
        store.apply_one(credentials::note_key_use(&found.id, now_ms)).await?;
    }
    let key = KeyInUse { id: found.id, prefix: found.key_prefix, scopes: found.scopes };
    Ok(Some(Person { user: stored.user, key: Some(key) }))
}

fn readable(token: &Secret) -> Option<TokenHash> {
    let text = token.expose();
    (!text.is_empty() && text.len() <= TOKEN_MAX_LEN).then(|| TokenHash::of(text))
}
