//! API keys: made, renamed and taken back, by their owners; those of service accounts by admins.

use serde_json::json;

use super::accounts;
use super::{Desk, Error};
use crate::auth::caller::{Caller, Person};
use crate::auth::policy::{self, Action};
use crate::auth::token::NewToken;
use crate::config::Secret;
use crate::domain::api_key::ApiKey;
use crate::domain::audit::Resource;
use crate::domain::user::{Kind, User};
use crate::store::{api_keys, revocations, users};

/// Most keys that one account may have at a time.
pub const KEYS_MAX: i64 = 100;

/// A key to be made.
#[derive(Debug)]
pub struct NewKey {
    /// For people.
    pub name: String,
    /// What it is for; empty: everything that its owner may do.
    pub scopes: Vec<String>,
    /// When it ends, ms since 1970.
    pub expires_at: Option<i64>,
}

/// Whose keys a request is about: the caller's own, or those of a service account.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::NotFound`], [`Error::Store`].
pub async fn owner(desk: Desk<'_>, caller: &Caller, service: Option<&str>) -> Result<User, Error> {
    let own = &person(caller)?.user;
    let Some(id) = service.filter(|id| *id != own.id) else { return Ok(own.clone()) };
    policy::check(caller, Action::ManageServiceKeys, None).map_err(Error::Forbidden)?;
    let found = users::find(desk.store, &own.org.id, Kind::Service, id).await?;
    found.ok_or_else(|| accounts::unknown(Kind::Service))
}

/// Makes a key, and gives the key itself, this once.
///
/// # Errors
/// [`Error::Conflict`] if the account is disabled or has all the keys that it may have.
pub async fn create(desk: Desk<'_>, owner: &User, new: NewKey) -> Result<(ApiKey, Secret), Error> {
    if !owner.is_active {
        return Err(Error::Conflict(format!("{} is disabled", owner.label())));
    }
    let made = NewToken::generate().map_err(Error::internal)?;
    let key = ApiKey {
        id: uuid::Uuid::new_v4().to_string(),
        owner_id: owner.id.clone(),
        owner: owner.username.to_string(),
        name: new.name,
        key_prefix: made.prefix().to_owned(),
        scopes: new.scopes,
        expires_at: new.expires_at,
        last_used_at: None,
        created_at: desk.now_ms,
    };
    let details = json!({
        "owner": owner.label(),
        "name": key.name,
        "scopes": key.scopes,
        "expires_at": key.expires_at.map(protocol::message::rfc3339),
    });
    let statements = vec![
        api_keys::insert(&owner.org.id, &key, made.hash, KEYS_MAX),
        desk.note(&owner.org.id, "api_key.create", resource(&key), details),
    ];
    match desk.store.apply(statements).await.map_err(Error::from) {
        Ok(_) => Ok((key, made.text)),
        Err(Error::Conflict(_)) => {
            Err(Error::Conflict(format!("{} has {KEYS_MAX} keys; take one back first", owner.label())))
        }
        Err(error) => Err(error),
    }
}

/// A key that the caller may see: an own one, or for an admin one of a service account.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Store`].
pub async fn get(desk: Desk<'_>, caller: &Caller, id: &str) -> Result<(ApiKey, User), Error> {
    let unknown = || Error::NotFound("there is no API key of this id among yours".to_owned());
    let org = &caller.org().id;
    let key = api_keys::by_id(desk.store, org, id).await?.ok_or_else(unknown)?;
    // To those who may not, it does not exist.
    match owner(desk, caller, Some(&key.owner_id)).await {
        Ok(owner) => Ok((key, owner)),
        Err(Error::Forbidden(_) | Error::NotFound(_)) => Err(unknown()),
        Err(error) => Err(error),
    }
}

/// Gives a key another name.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Conflict`], [`Error::Store`].
pub async fn rename(
    desk: Desk<'_>,
    caller: &Caller,
    id: &str,
    name: Option<String>,
) -> Result<ApiKey, Error> {
    let (key, owner) = get(desk, caller, id).await?;
    let Some(name) = name.filter(|name| *name != key.name) else { return Ok(key) };
    let details = json!({"owner": owner.label(), "from": {"name": key.name}, "to": {"name": name}});
    let statements = vec![
        api_keys::rename(&key.id, &name),
        desk.note(&owner.org.id, "api_key.update", resource(&key), details),
    ];
    desk.store.apply(statements).await?;
    Ok(ApiKey { name, ..key })
}

/// Takes a key back. The live connections that were made with it end.
///
/// # Errors
/// [`Error::Conflict`], [`Error::Store`].
pub async fn revoke(desk: Desk<'_>, key: &ApiKey, owner: &User) -> Result<(), Error> {
    let mut statements = vec![api_keys::revoke(&key.id, desk.now_ms)];
    let (org, user) = (&owner.org.id, owner.username.as_str());
    statements.extend(revocations::key(org, user, &key.id, desk.source, desk.now_ms));
    let details = json!({"owner": owner.label(), "name": key.name});
    statements.push(desk.note(&owner.org.id, "api_key.revoke", resource(key), details));
    desk.store.apply(statements).await?;
    Ok(())
}

fn person(caller: &Caller) -> Result<&Person, Error> {
    match caller {
        Caller::Person(person) => Ok(person),
        Caller::Device(_) => Err(Error::Forbidden("a device has no API keys".to_owned())),
    }
}

fn resource(key: &ApiKey) -> Resource {
    Resource::new("api_key", &key.key_prefix)
}
