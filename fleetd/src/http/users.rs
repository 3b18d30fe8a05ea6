//! `/users`: the people of an organisation.

use http::StatusCode;
use serde_json::{Value, json};
use warp::reply::Response;

use super::problem::Problem;
use super::request::{Request, json, no_content};
use crate::auth::password::{self, PASSWORD_MAX_BYTES};
use crate::auth::policy::{self, Action};
use crate::config::Secret;
use crate::domain::fields::{flag, name, parsed, secret};
use crate::domain::user::{EMAIL_MAX_BYTES, Email, Kind, NAME_MAX_CHARS, User, UserPatch};
use crate::service::accounts::{self, NewUser};
use crate::service::{Desk, Error};
use crate::store::users;

/// `GET /users`
pub(super) async fn list(request: Request) -> Result<Response, Problem> {
    list_of(request, Kind::Person).await
}

/// `GET /users/{id}`
pub(super) async fn get(request: Request) -> Result<Response, Problem> {
    get_of(request, Kind::Person).await
}

/// `POST /users`
pub(super) async fn create(mut request: Request) -> Result<Response, Problem> {
    let mut fields = request.fields().await?;
    let email = fields.required("email", parsed::<Email>(EMAIL_MAX_BYTES));
    let name = fields.required("name", name(NAME_MAX_CHARS));
    let role = fields.required("role", parsed(20));
    let username = fields.optional("username", parsed(63));
    let is_superadmin = fields.optional("is_superadmin", flag).unwrap_or(false);
    let org = fields.optional("org", parsed(63));
    let password = fields.optional("password", secret(PASSWORD_MAX_BYTES));
    let must_change_password = fields.optional("must_change_password", flag).unwrap_or(false);
    fields.finish()?;
    // `finish` has failed where one of them is missing.
    let (Some(email), Some(name), Some(role)) = (email, name, role) else { return Err(unread()) };
    let caller = request.caller()?;
    let own = &caller.org().slug;
    let org = org.unwrap_or_else(|| own.clone());
    let about = |problem: Problem| problem.about("user", email.as_str());
    if is_superadmin || org != *own {
        policy::check(caller, Action::ManageSuperadmins, None)
            .map_err(|why| about(Problem::new(StatusCode::FORBIDDEN, why)))?;
    }
    let (password, shown) = given_or_made(password)?;
    let desk = Desk::of(&request.app, &request.context);
    let new =
        NewUser { org, email: email.clone(), username, name, role, is_superadmin, must_change_password };
    let work = async {
        let user = accounts::draft(desk.store, new, desk.now_ms).await?;
        let hash = request.app.auth.hash_new("password", password, user.about()).await?;
        accounts::add(desk, user, Some(&hash)).await
    };
    let user = work.await.map_err(|error| about(error.into()))?;
    json(StatusCode::CREATED, &with_password(&user, shown.as_ref())?)
}

/// `PATCH /users/{id}`
pub(super) async fn update(request: Request) -> Result<Response, Problem> {
    update_of(request, Kind::Person).await
}

/// `DELETE /users/{id}`
pub(super) async fn disable(request: Request) -> Result<Response, Problem> {
    disable_of(request, Kind::Person).await
}

/// `POST /users/{id}/reset-password`
pub(super) async fn reset_password(mut request: Request) -> Result<Response, Problem> {
    let mut fields = request.fields_or_none().await?;
    let password = fields.optional("password", secret(PASSWORD_MAX_BYTES));
    let must_change = fields.optional("must_change_password", flag).unwrap_or(false);
    fields.finish()?;
    let (password, shown) = given_or_made(password)?;
    let (app, caller) = (&request.app, request.caller()?);
    let user = accounts::for_new_password(&app.store, Some(caller), &caller.org().id, request.id()).await?;
    let about = |error: Error| Problem::from(error).about("user", &user.label());
    let hash = app.auth.hash_new("password", password, user.about()).await.map_err(about)?;
    accounts::set_password(Desk::of(app, &request.context), &user, &hash, must_change)
        .await
        .map_err(about)?;
    app.end_person(&user.org.slug, &user.username);
    let user = User { must_change_password: must_change, ..user };
    json(StatusCode::OK, &with_password(&user, shown.as_ref())?)
}

/// A page of the organisation's accounts of a kind.
pub(super) async fn list_of(mut request: Request, kind: Kind) -> Result<Response, Problem> {
    let mut query = request.query()?;
    let (page, order) = query.page_of(users::SORT_KEYS)?;
    query.finish()?;
    let (found, total) = users::page(&request.app.store, &request.caller()?.org().id, kind, order).await?;
    let items: Vec<_> = found.iter().map(User::view).collect();
    json(StatusCode::OK, &page.listing(items, total))
}

/// One account of a kind.
pub(super) async fn get_of(mut request: Request, kind: Kind) -> Result<Response, Problem> {
    request.query()?.finish()?;
    let org = &request.caller()?.org().id;
    let found = users::find(&request.app.store, org, kind, request.id()).await?;
    json(StatusCode::OK, &found.ok_or_else(|| accounts::unknown(kind))?.view())
}

/// Changes an account of a kind.
pub(super) async fn update_of(mut request: Request, kind: Kind) -> Result<Response, Problem> {
    let patch = UserPatch::read(request.fields().await?, kind)?;
    json(StatusCode::OK, &change(request, kind, &patch).await?.view())
}

/// Disables an account of a kind.
pub(super) async fn disable_of(mut request: Request, kind: Kind) -> Result<Response, Problem> {
    request.no_fields().await?;
    change(request, kind, &UserPatch { is_active: Some(false), ..UserPatch::default() }).await?;
    Ok(no_content())
}

async fn change(request: Request, kind: Kind, patch: &UserPatch) -> Result<User, Problem> {
    let (app, caller) = (&request.app, request.caller()?);
    let desk = Desk::of(app, &request.context);
    let org = &caller.org().id;
    let changed = accounts::change(desk, Some(caller), org, kind, request.id(), patch).await?;
    if changed.ends_connections() {
        app.end_person(&changed.after.org.slug, &changed.after.username);
    }
    Ok(changed.after)
}

/// The password that was given, or one that is made and shown in the answer.
fn given_or_made(password: Option<String>) -> Result<(Secret, Option<Secret>), Problem> {
    match password {
        Some(password) => Ok((Secret::new(password), None)),
        None => {
            let made = password::generate().map_err(Error::internal)?;
            Ok((made.clone(), Some(made)))
        }
    }
}

fn with_password(user: &User, shown: Option<&Secret>) -> Result<Value, Problem> {
    let mut answer = serde_json::to_value(user.view()).map_err(Error::internal)?;
    if let Some(password) = shown {
        answer["password"] = json!(password.expose());
    }
    Ok(answer)
}

/// What cannot happen after a body was read without an error.
pub(super) fn unread() -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "some fields are missing")
}
