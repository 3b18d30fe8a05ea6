//! Accounts, organisations and enrolment keys, as the command line and the first start make them.

use protocol::id::{OrgSlug, Role, UserName};
use serde_json::json;

use super::Error;
use crate::auth::password;
use crate::auth::token::NewToken;
use crate::config::{FirstAdmin, Secret};
use crate::domain::audit::{AuditContext, AuditEntry, AuditOutcome, Resource};
use crate::domain::enrollment::EnrollmentKey;
use crate::domain::org::{DEFAULT_ORG, OrgId, OrgRef, Organization};
use crate::domain::user::{Email, NAME_MAX_CHARS, User};
use crate::store::{Store, StoreError, audit, enrollment_keys, orgs, revocations, users};

const HOUR_MS: i64 = 3_600_000;

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
}

/// Adds a person.
///
/// # Errors
/// [`Error::Invalid`] for what will not do, [`Error::NotFound`] for the organisation, [`Error::Conflict`] for a name
/// or an address that is taken.
pub async fn add_user(store: &Store, new: NewUser, password: Secret, now_ms: i64) -> Result<User, Error> {
    password::check_new(password.expose()).map_err(|e| Error::field("password", e.to_string()))?;
    let name = new.name.trim().to_owned();
    if name.is_empty() || name.chars().count() > NAME_MAX_CHARS || name.chars().any(char::is_control) {
        return Err(Error::field(
            "name",
            format!("1 to {NAME_MAX_CHARS} characters on one line are expected"),
        ));
    }
    let username = new.username.or_else(|| new.email.suggested_username()).ok_or_else(|| {
        Error::field("username", "none can be made from the e-mail address; give one with --username")
    })?;
    let org = find_org(store, &new.org).await?;
    let taken = |email: &Email| {
        Error::Conflict(format!("there is already an account with the address {}", email.as_str()))
    };
    // The name space would refuse it as well, but with less to go by.
    if users::by_email(store, &new.email).await?.is_some() {
        return Err(taken(&new.email));
    }
    let hash = tokio::task::spawn_blocking(move || password::hash_blocking(&password))
        .await
        .map_err(Error::internal)?
        .map_err(Error::internal)?;
    let user = User {
        id: uuid::Uuid::new_v4().to_string(),
        org,
        email: new.email,
        username,
        name,
        role: new.role,
        is_superadmin: new.is_superadmin,
        is_active: true,
        token_version: 1,
        created_at: now_ms,
        last_login_at: None,
    };
    let mut statements = Vec::from(users::insert(&user, &hash));
    let details = json!({"username": user.username, "role": user.role, "superadmin": user.is_superadmin});
    statements.push(note(
        &user.org.id,
        "user.create",
        Resource::new("user", user.email.as_str()),
        details,
        now_ms,
    ));
    match store.apply(statements).await {
        Ok(_) => Ok(user),
        Err(error) if error.is_unique_on("users.email") => Err(Error::Conflict(format!(
            "there is already an account with the address {}",
            user.email.as_str()
        ))),
        Err(StoreError::Unique { .. }) => Err(Error::Conflict(format!(
            "the name {} is taken in {} by a person, a device or a service account; give another with --username",
            user.username, user.org.slug
        ))),
        Err(error) => Err(error.into()),
    }
}

/// Disables a person: every token dies, and a running server ends the live connections within a second.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Store`].
pub async fn disable_user(store: &Store, email: &Email, source: &str, now_ms: i64) -> Result<User, Error> {
    let user = users::by_email(store, email)
        .await?
        .ok_or_else(|| Error::NotFound(format!("there is no account with the address {}", email.as_str())))?
        .user;
    let mut statements = Vec::from(users::disable(&user.id, now_ms));
    statements.extend(revocations::person(&user.org.id, user.username.as_str(), source, now_ms));
    let resource = Resource::new("user", user.email.as_str());
    statements.push(note(&user.org.id, "user.disable", resource, json!({}), now_ms));
    store.apply(statements).await?;
    Ok(user)
}

/// Adds an organisation.
///
/// # Errors
/// [`Error::Invalid`] for the name, [`Error::Conflict`] for a slug that is taken.
pub async fn add_org(store: &Store, slug: OrgSlug, name: &str, now_ms: i64) -> Result<Organization, Error> {
    let name = name.trim();
    if name.is_empty() || name.chars().count() > NAME_MAX_CHARS || name.chars().any(char::is_control) {
        return Err(Error::field(
            "name",
            format!("1 to {NAME_MAX_CHARS} characters on one line are expected"),
        ));
    }
    let org = Organization {
        id: OrgId::new(uuid::Uuid::new_v4().to_string()),
        name: name.to_owned(),
        slug,
        settings: json!({}),
        max_devices: None,
        created_at: now_ms,
        updated_at: now_ms,
    };
    let resource = Resource::new("org", org.slug.as_str());
    let statements =
        vec![orgs::insert(&org), note(&org.id, "org.create", resource, json!({"name": org.name}), now_ms)];
    match store.apply(statements).await {
        Ok(_) => Ok(org),
        Err(StoreError::Unique { .. }) => {
            Err(Error::Conflict(format!("there is already an organisation {}", org.slug)))
        }
        Err(error) => Err(error.into()),
    }
}

/// How an enrolment key may be used.
#[derive(Debug, Clone, Default)]
pub struct KeyTerms {
    /// How many devices; `None`: any number.
    pub max_uses: Option<i64>,
    /// For how long; `None`: for ever.
    pub expires_in_hours: Option<i64>,
    /// Whether an admin has to approve each device.
    pub require_approval: bool,
}

/// Adds an enrolment key; the key itself is known only to the caller.
///
/// # Errors
/// [`Error::NotFound`] for the organisation, [`Error::Store`].
pub async fn add_enrollment_key(
    store: &Store,
    org: &OrgSlug,
    terms: &KeyTerms,
    now_ms: i64,
) -> Result<Secret, Error> {
    let org = find_org(store, org).await?;
    let made = NewToken::generate().map_err(Error::internal)?;
    let key = EnrollmentKey {
        id: uuid::Uuid::new_v4().to_string(),
        key_prefix: made.prefix().to_owned(),
        max_uses: terms.max_uses,
        uses: 0,
        require_approval: terms.require_approval,
        expires_at: terms.expires_in_hours.map(|hours| now_ms.saturating_add(hours.saturating_mul(HOUR_MS))),
        revoked_at: None,
    };
    let details = json!({
        "max_uses": terms.max_uses,
        "expires_in_hours": terms.expires_in_hours,
        "require_approval": terms.require_approval,
    });
    let resource = Resource::new("enrollment_key", &key.key_prefix);
    store
        .apply(vec![
            enrollment_keys::insert(&org.id, &key, made.hash, now_ms),
            note(&org.id, "enrollment_key.create", resource, details, now_ms),
        ])
        .await?;
    Ok(made.text)
}

/// Adds the admin of the first start, if there is no account at all. Says whether it did.
///
/// # Errors
/// As [`add_user`].
pub async fn first_admin(store: &Store, admin: &FirstAdmin, now_ms: i64) -> Result<bool, Error> {
    if users::any(store).await? {
        return Ok(false);
    }
    let email: Email = admin
        .email
        .parse()
        .map_err(|e: crate::domain::user::EmailError| Error::field("FLEET_ADMIN_EMAIL", e.to_string()))?;
    // The name of the default organisation fits the rule for names.
    let org = OrgSlug::new(DEFAULT_ORG).map_err(Error::internal)?;
    let username = match email.suggested_username() {
        Some(name) => name,
        None => UserName::new("admin").map_err(Error::internal)?,
    };
    let new = NewUser {
        org,
        email,
        username: Some(username),
        name: "Administrator".to_owned(),
        role: Role::Admin,
        is_superadmin: true,
    };
    add_user(store, new, admin.password.clone(), now_ms).await?;
    Ok(true)
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

fn note(
    org: &OrgId,
    action: &str,
    resource: Resource,
    details: serde_json::Value,
    now_ms: i64,
) -> crate::store::Statement {
    let context = AuditContext::system();
    let outcome = AuditOutcome::Ok;
    audit::insert(&AuditEntry {
        org_id: Some(org),
        at: now_ms,
        context: &context,
        action,
        resource,
        outcome,
        details,
    })
}
