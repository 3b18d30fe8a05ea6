//! Accounts of people and services: added, changed, disabled, given a new password; over HTTP and at the command line alike.

use protocol::id::{OrgSlug, Role, UserName};
use serde_json::{Value, json};

use super::{Desk, Error};
use crate::auth::caller::Caller;
use crate::auth::policy::{self, Action};
use crate::auth::{not_taken, password};
use crate::config::Secret;
use crate::domain::audit::{AuditContext, Resource};
use crate::domain::org::{OrgId, OrgRef};
use crate::domain::shown::hidden_in;
use crate::domain::user::{Email, Kind, NAME_MAX_CHARS, User, UserPatch};
use crate::store::{Statement, Store, StoreError, orgs, revocations, users};

pub use super::enrollment_keys::{KeyTerms, add as add_enrollment_key};
pub use super::orgs::add as add_org;

/// How often a change is tried again when somebody else changes the same account.
const ATTEMPTS: usize = 3;

/// A person to be added.
#[derive(Debug)]
pub struct NewUser {
    /// Where.
    pub org: OrgSlug,
    /// Unique on the server.
    pub email: Email,
    /// Unique in the organisation; made from the address if not given.
    pub username: Option<UserName>,
    /// For people.
    pub name: String,
    /// What the person may do.
    pub role: Role,
    /// Whether the person also owns organisations.
    pub is_superadmin: bool,
    /// Whether the password has to be changed at its first use.
    pub must_change_password: bool,
}

/// A service account to be added.
#[derive(Debug)]
pub struct NewService {
    /// Unique in the organisation, also among devices and people.
    pub username: UserName,
    /// For people.
    pub name: String,
    /// What it may do.
    pub role: Role,
}

/// Adds a person, as the command line and the first start do.
///
/// # Errors
/// As [`draft`] and [`add`]; [`Error::Invalid`] for a password that will not do.
pub async fn add_user(store: &Store, new: NewUser, password: Secret, now_ms: i64) -> Result<User, Error> {
    let user = draft(store, new, now_ms).await?;
    let hash = hash_here(&user, password).await?;
    let context = AuditContext::system();
    add(Desk { store, now_ms, source: "", context: &context }, user, Some(&hash)).await
}

/// Checks and hashes a password where no server paces it.
///
/// # Errors
/// [`Error::Invalid`] for one that will not do.
pub async fn hash_here(user: &User, password: Secret) -> Result<String, Error> {
    let about = user.about();
    tokio::task::spawn_blocking(move || password::check_and_hash_blocking(&password, &about))
        .await
        .map_err(Error::internal)?
        .map_err(|error| not_taken("password", error))
}

/// What a person's account will be.
///
/// # Errors
/// [`Error::Invalid`] for what will not do, [`Error::NotFound`] for the organisation.
pub async fn draft(store: &Store, new: NewUser, now_ms: i64) -> Result<User, Error> {
    new.email.check_new().map_err(|error| Error::field("email", error.to_string()))?;
    let username = new
        .username
        .or_else(|| new.email.suggested_username())
        .ok_or_else(|| Error::field("username", "none can be made from the e-mail address; give one"))?;
    let name = read_name(&new.name)?;
    let org = find_org(store, &new.org).await?;
    let user = account(org, Some(new.email), username, name, new.role, now_ms);
    Ok(User { is_superadmin: new.is_superadmin, must_change_password: new.must_change_password, ..user })
}

/// What a service account will be.
///
/// # Errors
/// [`Error::Invalid`] for the name.
pub fn draft_service(org: OrgRef, new: NewService, now_ms: i64) -> Result<User, Error> {
    let name = read_name(&new.name)?;
    Ok(account(org, None, new.username, name, new.role, now_ms))
}

fn account(
    org: OrgRef,
    email: Option<Email>,
    username: UserName,
    name: String,
    role: Role,
    now_ms: i64,
) -> User {
    User {
        id: uuid::Uuid::new_v4().to_string(),
        org,
        email,
        username,
        name,
        role,
        is_superadmin: false,
        is_active: true,
        must_change_password: false,
        token_version: 1,
        created_at: now_ms,
        last_login_at: None,
    }
}

/// Adds an account, a person's with the hash of a password.
///
/// # Errors
/// [`Error::Conflict`] for a name or an address that is taken.
pub async fn add(desk: Desk<'_>, user: User, hash: Option<&str>) -> Result<User, Error> {
    let taken = |email: &Email| {
        Error::Conflict(format!("there is already an account with the address {}", email.as_str()))
    };
    // The name space would refuse it as well, but with less to go by.
    if let Some(email) = &user.email
        && users::by_email(desk.store, email).await?.is_some()
    {
        return Err(taken(email));
    }
    let mut statements = Vec::from(users::insert(&user, hash));
    let details = json!({"username": user.username, "role": user.role, "superadmin": user.is_superadmin});
    statements.push(desk.note(&user.org.id, &action(&user, "create"), resource(&user), details));
    match (desk.store.apply(statements).await, &user.email) {
        (Ok(_), _) => Ok(user),
        (Err(error), Some(email)) if error.is_unique_on("users.email") => Err(taken(email)),
        (Err(StoreError::Unique { .. }), _) => Err(Error::Conflict(format!(
            "the name {} is taken in {} by a person, a device or a service account; give another username",
            user.username, user.org.slug
        ))),
        (Err(error), _) => Err(error.into()),
    }
}

/// Changes an account. `by`: who asks for it, if it is not the command line. Says what it was before as well: if that differs in
/// more than the name, live connections of it have to end.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Forbidden`] for a superadmin; [`Error::Conflict`] if nobody would be left to look after the
/// organisation, or people would lock themselves out.
pub async fn change(
    desk: Desk<'_>,
    by: Option<&Caller>,
    org: &OrgId,
    kind: Kind,
    id: &str,
    patch: &UserPatch,
) -> Result<Changed, Error> {
    let mut attempt = 1;
    loop {
        let before = users::find(desk.store, org, kind, id).await?.ok_or_else(|| unknown(kind))?;
        let after = patch.apply(&before);
        check_superadmin(by, before.is_superadmin || after.is_superadmin)?;
        check_oneself(by, &before, &after)?;
        if before.is_acting_admin()
            && !after.is_acting_admin()
            && !users::has_another_admin(desk.store, &before.id).await?
        {
            return Err(Error::Conflict(format!(
                "{} is the last active admin of {}; make another one first",
                before.label(),
                before.org.slug
            )));
        }
        let changed = Changed { before, after };
        if changed.before == changed.after {
            return Ok(changed);
        }
        match desk.store.apply(changed.statements(desk)).await.map_err(Error::from) {
            Ok(_) => return Ok(changed),
            Err(Error::Conflict(_)) if attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}

/// A change of an account that is committed.
#[derive(Debug)]
pub struct Changed {
    /// As it was.
    pub before: User,
    /// As it is.
    pub after: User,
}

impl Changed {
    /// Whether live connections were made with rights that the account no longer has, or did not have.
    #[must_use]
    pub fn ends_connections(&self) -> bool {
        (self.before.role, self.before.is_active) != (self.after.role, self.after.is_active)
    }

    fn statements(&self, desk: Desk<'_>) -> Vec<Statement> {
        let Self { before, after } = self;
        let mut statements = users::update(before, after, desk.now_ms);
        if self.ends_connections() {
            statements.extend(end_connections(desk, after));
        }
        let verb = match (before.is_active, after.is_active) {
            (true, false) => "disable",
            (false, true) => "enable",
            _ => "update",
        };
        statements.push(desk.note(&after.org.id, &action(after, verb), resource(after), self.details()));
        statements
    }

    /// What was changed, from and to.
    fn details(&self) -> Value {
        let facts = |user: &User| {
            json!({
                "name": user.name,
                "role": user.role,
                "is_active": user.is_active,
                "is_superadmin": user.is_superadmin,
            })
        };
        let (mut from, mut to) = (facts(&self.before), facts(&self.after));
        if let (Some(from), Some(to)) = (from.as_object_mut(), to.as_object_mut()) {
            from.retain(|field, value| to.get(field) != Some(value));
            to.retain(|field, _| from.contains_key(field));
        }
        json!({"from": from, "to": to})
    }
}

/// A person who gets a new password from somebody else.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Forbidden`] for a superadmin; [`Error::Conflict`] for oneself.
pub async fn for_new_password(
    store: &Store,
    by: Option<&Caller>,
    org: &OrgId,
    id: &str,
) -> Result<User, Error> {
    let user = users::find(store, org, Kind::Person, id).await?.ok_or_else(|| unknown(Kind::Person))?;
    check_superadmin(by, user.is_superadmin)?;
    if is_oneself(by, &user) {
        return Err(Error::Conflict(
            "change your own password at /api/v1/auth/password, with the old one".to_owned(),
        ));
    }
    Ok(user)
}

/// Gives a person a new password, which `must_change` says has to be changed at its first use. Every token and live connection
/// of the person ends.
///
/// # Errors
/// [`Error::Conflict`] if it was changed meanwhile.
pub async fn set_password(desk: Desk<'_>, user: &User, hash: &str, must_change: bool) -> Result<(), Error> {
    let mut statements = Vec::from(users::set_password(user, hash, must_change, desk.now_ms));
    statements.extend(end_connections(desk, user));
    statements.push(desk.note(
        &user.org.id,
        "user.reset_password",
        resource(user),
        json!({"must_change": must_change}),
    ));
    desk.store.apply(statements).await?;
    Ok(())
}

/// Disables the person of this address: every token dies, and a running server ends the live connections within a second.
///
/// # Errors
/// As [`change`].
pub async fn disable_user(store: &Store, email: &Email, source: &str, now_ms: i64) -> Result<User, Error> {
    let context = AuditContext::system();
    let user = find_person(store, email).await?;
    let patch = UserPatch { is_active: Some(false), ..UserPatch::default() };
    let desk = Desk { store, now_ms, source, context: &context };
    Ok(change(desk, None, &user.org.id, Kind::Person, &user.id, &patch).await?.after)
}

/// The person of this address.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Store`].
pub async fn find_person(store: &Store, email: &Email) -> Result<User, Error> {
    let found = users::by_email(store, email).await?;
    found
        .map(|stored| stored.user)
        .ok_or_else(|| Error::NotFound(format!("there is no account with the address {}", email.as_str())))
}

/// The service account of this name.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Store`].
pub async fn find_service(store: &Store, org: &OrgSlug, name: &UserName) -> Result<User, Error> {
    let found = users::by_username(store, org, name).await?.map(|stored| stored.user);
    found
        .filter(|user| user.kind() == Kind::Service)
        .ok_or_else(|| Error::NotFound(format!("there is no service account {name} in {org}")))
}

/// The organisation of this slug.
///
/// # Errors
/// [`Error::NotFound`] with how to add it.
pub async fn find_org(store: &Store, slug: &OrgSlug) -> Result<OrgRef, Error> {
    let org = orgs::by_slug(store, slug).await?.ok_or_else(|| {
        Error::NotFound(format!(
            "there is no organisation {slug}; `fleetd org add --slug {slug} --name …` makes one"
        ))
    })?;
    Ok(OrgRef { id: org.id, slug: org.slug })
}

/// An id in a path may be anything: it is not told back.
#[must_use]
pub fn unknown(kind: Kind) -> Error {
    Error::NotFound(match kind {
        Kind::Person => "there is no person of this id in your organisation".to_owned(),
        Kind::Service => "there is no service account of this id in your organisation".to_owned(),
    })
}

/// The live connections of an account end with the change that this is committed with.
pub(super) fn end_connections(desk: Desk<'_>, user: &User) -> [Statement; 2] {
    revocations::person(&user.org.id, user.username.as_str(), desk.source, desk.now_ms)
}

/// Names are told to people: one line, not empty.
pub(super) fn read_name(name: &str) -> Result<String, Error> {
    let name = name.trim();
    if name.is_empty() || name.chars().count() > NAME_MAX_CHARS {
        return Err(Error::field(
            "name",
            format!("1 to {NAME_MAX_CHARS} characters on one line are expected"),
        ));
    }
    if let Some(hidden) = hidden_in(name, false) {
        return Err(Error::field("name", hidden));
    }
    Ok(name.to_owned())
}

/// An admin of an organisation must not come to own others by way of somebody who does.
fn check_superadmin(by: Option<&Caller>, concerned: bool) -> Result<(), Error> {
    match by {
        Some(caller) if concerned => {
            policy::check(caller, Action::ManageSuperadmins, None).map_err(Error::Forbidden)
        }
        _ => Ok(()),
    }
}

fn is_oneself(by: Option<&Caller>, user: &User) -> bool {
    matches!(by, Some(Caller::Person(person)) if person.user.id == user.id)
}

fn check_oneself(by: Option<&Caller>, before: &User, after: &User) -> Result<(), Error> {
    if !is_oneself(by, before) {
        return Ok(());
    }
    let what = match () {
        () if before.is_active && !after.is_active => "disable yourself",
        () if after.role < before.role => "lower your own role",
        () if before.is_superadmin && !after.is_superadmin => "stop owning organisations yourself",
        () => return Ok(()),
    };
    Err(Error::Conflict(format!("you cannot {what}; ask another admin to do it")))
}

fn resource(user: &User) -> Resource {
    Resource::new(user.kind().resource(), &user.label())
}

fn action(user: &User, verb: &str) -> String {
    format!("{}.{verb}", user.kind().resource())
}
