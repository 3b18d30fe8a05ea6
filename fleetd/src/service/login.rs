//! Signing in and out: passwords for an access token and a refresh token, which is exchanged at every use.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::app::AppState;
use crate::auth::jwt::ACCESS_TOKEN_SECONDS;
use crate::auth::token::{NewToken, TOKEN_MAX_LEN, TokenHash};
use crate::config::Secret;
use crate::domain::audit::{Actor, AuditContext, AuditEntry, AuditOutcome, Resource};
use crate::domain::user::{Email, Kind, User};
use crate::service::{Error, first_start};
use crate::store::credentials::RefreshToken;
use crate::store::{StoreError, audit, credentials, revocations, users};

/// How long a refresh token is good for: 30 days, in ms.
const REFRESH_TOKEN_MS: i64 = 30 * 24 * 3600 * 1000;

/// What a login gives.
#[derive(Debug)]
pub struct Tokens {
    /// For `Authorization: Bearer`.
    pub access_token: Secret,
    /// How long the access token is good for, in seconds.
    pub expires_in_seconds: i64,
    /// For the next `refresh`, once.
    pub refresh_token: Secret,
}

/// Signs a person in.
///
/// # Errors
/// [`Error::Unauthorized`] for a wrong address or password, whichever it is; [`Error::TooMany`].
pub async fn login(
    app: &AppState,
    email: &str,
    password: Secret,
    context: &AuditContext,
    address: IpAddr,
) -> Result<Tokens, Error> {
    let now_ms = app.clock.now_ms();
    let stored = match email.parse::<Email>() {
        Ok(email) => users::by_email(&app.store, &email).await?.filter(|stored| stored.user.is_active),
        Err(_) => None,
    };
    let hash = stored.as_ref().and_then(|stored| stored.password_hash.clone());
    app.auth.check_password(address, email, password, hash).await?;
    // `check_password` lets nobody in without a stored hash.
    let Some(stored) = stored else { return Err(Error::Unauthorized("wrong e-mail address or password")) };
    let context = AuditContext { actor: Actor::User(stored.user.label()), ..context.clone() };
    let family_id = uuid::Uuid::new_v4().to_string();
    let (tokens, mut statements) = issue(app, &stored.user, family_id, now_ms)?;
    statements.push(users::note_login(&stored.user.id, now_ms));
    statements.push(audit::insert(&entry(
        &stored.user,
        &context,
        "auth.login",
        AuditOutcome::Ok,
        json!({}),
        now_ms,
    )));
    app.store.apply(statements).await?;
    Ok(tokens)
}

/// Exchanges a refresh token for new tokens. A token that comes a second time was stolen or copied: every token of
/// that login ends.
///
/// # Errors
/// [`Error::Unauthorized`] for a token that is no good; [`Error::TooMany`].
pub async fn refresh(
    app: &AppState,
    token: &Secret,
    context: &AuditContext,
    address: IpAddr,
) -> Result<Tokens, Error> {
    const REFUSED: &str = "the refresh token is unknown, has ended or was used before; sign in again";
    let now_ms = app.clock.now_ms();
    let refuse = || app.auth.failed(address, "refresh", REFUSED);
    if token.expose().len() > TOKEN_MAX_LEN {
        return Err(refuse());
    }
    let Some(old) = credentials::refresh_token(&app.store, TokenHash::of(token.expose())).await? else {
        return Err(refuse());
    };
    let Some(stored) = users::by_id(&app.store, &old.user_id).await? else { return Err(refuse()) };
    let user = stored.user;
    if !user.is_active || user.token_version != old.token_version || old.expires_at <= now_ms {
        return Err(refuse());
    }
    let context = AuditContext { actor: Actor::User(user.label()), ..context.clone() };
    if old.used_at.is_some() {
        return end_family(app, &user, &old, &context, now_ms).await.and(Err(refuse()));
    }
    let (tokens, mut statements) = issue(app, &user, old.family_id.clone(), now_ms)?;
    statements.push(credentials::use_refresh_token(&old.id, now_ms));
    match app.store.apply(statements).await {
        Ok(_) => Ok(tokens),
        Err(StoreError::Conflict { .. }) => {
            end_family(app, &user, &old, &context, now_ms).await.and(Err(refuse()))
        }
        Err(error) => Err(error.into()),
    }
}

async fn end_family(
    app: &AppState,
    user: &User,
    token: &RefreshToken,
    context: &AuditContext,
    now_ms: i64,
) -> Result<(), Error> {
    let details = json!({"reason": "a refresh token was used twice; the login it came from was ended"});
    app.store
        .apply(vec![
            credentials::end_family(&token.family_id),
            audit::insert(&entry(user, context, "auth.refresh", AuditOutcome::Refused, details, now_ms)),
        ])
        .await?;
    Ok(())
}

/// Changes a person's own password. Every token and live MQTT connection of the person ends, this session's too.
///
/// # Errors
/// [`Error::Invalid`] for a new password that will not do; [`Error::Forbidden`] or [`Error::TooMany`] for a wrong old one.
pub async fn change_password(
    app: &AppState,
    user: &User,
    old: Secret,
    new: Secret,
    context: &AuditContext,
    address: IpAddr,
) -> Result<(), Error> {
    let now_ms = app.clock.now_ms();
    let stored =
        users::by_id(&app.store, &user.id).await?.ok_or(Error::Unauthorized("the account is gone"))?;
    if user.kind() == Kind::Service {
        return Err(Error::Forbidden("a service account has no password".to_owned()));
    }
    let is_same = old == new;
    let checked = app.auth.check_password(address, &user.label(), old, stored.password_hash).await;
    match checked {
        Ok(()) => {}
        Err(Error::Unauthorized(_)) => return Err(Error::Forbidden("the old password is wrong".to_owned())),
        Err(error) => return Err(error),
    }
    if is_same {
        return Err(Error::field("new", "it is the old one; choose another"));
    }
    let hash = app.auth.hash_new("new", new, user.about()).await?;
    let mut statements = Vec::from(users::set_password(&stored.user, &hash, false, now_ms));
    statements.extend(revocations::person(&user.org.id, user.username.as_str(), &app.instance, now_ms));
    statements.push(audit::insert(&entry(
        user,
        context,
        "user.password",
        AuditOutcome::Ok,
        json!({}),
        now_ms,
    )));
    app.store.apply(statements).await?;
    if user.must_change_password {
        first_start::forget_password(&app.config.data_dir);
    }
    app.end_person(&user.org.slug, &user.username);
    Ok(())
}

/// Makes an access token and a refresh token, and the statements that keep the latter.
fn issue(
    app: &AppState,
    user: &User,
    family_id: String,
    now_ms: i64,
) -> Result<(Tokens, Vec<crate::store::Statement>), Error> {
    let refresh = NewToken::generate().map_err(Error::internal)?;
    let access_token = app.auth.jwt.issue(&user.id, user.token_version, Some(&family_id), now_ms);
    let access_token = access_token.map_err(Error::internal)?;
    let row = RefreshToken {
        id: uuid::Uuid::new_v4().to_string(),
        user_id: user.id.clone(),
        family_id,
        token_version: user.token_version,
        expires_at: now_ms + REFRESH_TOKEN_MS,
        used_at: None,
    };
    let statements = credentials::add_refresh_token(&user.org.id, &row, refresh.hash, now_ms).into();
    let tokens =
        Tokens { access_token, expires_in_seconds: ACCESS_TOKEN_SECONDS, refresh_token: refresh.text };
    Ok((tokens, statements))
}

fn entry<'a>(
    user: &'a User,
    context: &'a AuditContext,
    action: &'a str,
    outcome: AuditOutcome,
    details: Value,
    at: i64,
) -> AuditEntry<'a> {
    let resource = Resource::new("user", &user.label());
    AuditEntry { org_id: Some(&user.org.id), at, context, action, resource, outcome, details }
}
