//! `/auth`: signing in, and one's own account.

use http::StatusCode;
use serde_json::json;
use warp::reply::Response;

use super::problem::Problem;
use super::request::{Request, json, no_content};
use crate::auth::caller::Caller;
use crate::auth::password::PASSWORD_MAX_BYTES;
use crate::auth::token::TOKEN_MAX_LEN;
use crate::config::Secret;
use crate::domain::fields::secret;
use crate::domain::user::{EMAIL_MAX_BYTES, Email, User};
use crate::service::login::{self, Tokens};
use crate::store::users;

/// `POST /auth/login`
pub(super) async fn login(mut request: Request) -> Result<Response, Problem> {
    request.check_confidential()?;
    let mut fields = request.fields().await?;
    let email = fields.required("email", crate::domain::fields::line(EMAIL_MAX_BYTES));
    let password = fields.required("password", secret(PASSWORD_MAX_BYTES));
    fields.finish()?;
    let (email, password) = (email.unwrap_or_default(), password.unwrap_or_default());
    let outcome =
        login::login(&request.app, &email, Secret::new(password), &request.context, request.origin.address)
            .await;
    match outcome {
        Ok(tokens) => answer(&tokens),
        Err(error) => {
            // So that the organisation's audit log has it.
            let known = match email.parse::<Email>() {
                Ok(email) => users::by_email(&request.app.store, &email).await.ok().flatten(),
                Err(_) => None,
            };
            Err(Problem::from(error).about("user", &email).in_org(known.map(|stored| stored.user.org.id)))
        }
    }
}

/// `POST /auth/refresh`
pub(super) async fn refresh(mut request: Request) -> Result<Response, Problem> {
    request.check_confidential()?;
    let mut fields = request.fields().await?;
    let token = fields.required("refresh_token", secret(TOKEN_MAX_LEN));
    fields.finish()?;
    let token = Secret::new(token.unwrap_or_default());
    answer(&login::refresh(&request.app, &token, &request.context, request.origin.address).await?)
}

/// `GET /auth/me`
pub(super) async fn me(mut request: Request) -> Result<Response, Problem> {
    request.query()?.finish()?;
    json(StatusCode::OK, &person(&request)?.view())
}

/// `POST /auth/password`
pub(super) async fn password(mut request: Request) -> Result<Response, Problem> {
    let mut fields = request.fields().await?;
    let old = fields.required("old", secret(PASSWORD_MAX_BYTES));
    let new = fields.required("new", secret(PASSWORD_MAX_BYTES));
    fields.finish()?;
    let (old, new) = (Secret::new(old.unwrap_or_default()), Secret::new(new.unwrap_or_default()));
    let user = person(&request)?;
    login::change_password(&request.app, user, old, new, &request.context, request.origin.address)
        .await
        .map_err(|error| Problem::from(error).about("user", &user.label()))?;
    Ok(no_content())
}

fn person(request: &Request) -> Result<&User, Problem> {
    match request.caller()? {
        Caller::Person(person) => Ok(&person.user),
        Caller::Device(_) => Err(Problem::new(StatusCode::FORBIDDEN, "a device has no account")),
    }
}

fn answer(tokens: &Tokens) -> Result<Response, Problem> {
    json(
        StatusCode::OK,
        &json!({
            "access_token": tokens.access_token.expose(),
            "token_type": "bearer",
            "expires_in": tokens.expires_in_seconds,
            "refresh_token": tokens.refresh_token.expose(),
        }),
    )
}
