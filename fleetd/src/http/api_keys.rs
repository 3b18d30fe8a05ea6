//! `/api-keys`: the caller's own, and for admins those of service accounts.

use http::StatusCode;
use serde_json::{Value, json};
use warp::reply::Response;

use super::problem::Problem;
use super::request::{Request, json, no_content};
use super::users::unread;
use crate::auth::policy::SCOPES;
use crate::domain::api_key::KEY_NAME_MAX_CHARS;
use crate::domain::fields::{future, line, name};
use crate::service::api_keys::{self as service, NewKey};
use crate::service::{Desk, Error};
use crate::store::api_keys;

/// `GET /api-keys`
pub(super) async fn list(mut request: Request) -> Result<Response, Problem> {
    let mut query = request.query()?;
    let (page, order) = query.page_of(api_keys::SORT_KEYS)?;
    let of = query.text("service_account_id");
    query.finish()?;
    let desk = Desk::of(&request.app, &request.context);
    let owner = service::owner(desk, request.caller()?, of.as_deref()).await?;
    let (found, total) = api_keys::page(desk.store, &owner.id, order).await?;
    json(StatusCode::OK, &page.listing(found, total))
}

/// `GET /api-keys/{id}`
pub(super) async fn get(mut request: Request) -> Result<Response, Problem> {
    request.query()?.finish()?;
    let desk = Desk::of(&request.app, &request.context);
    json(StatusCode::OK, &service::get(desk, request.caller()?, request.id()).await?.0)
}

/// `POST /api-keys`
pub(super) async fn create(mut request: Request) -> Result<Response, Problem> {
    let now_ms = request.app.clock.now_ms();
    let mut fields = request.fields().await?;
    let name = fields.required("name", name(KEY_NAME_MAX_CHARS));
    let scopes = fields.optional("scopes", scopes).unwrap_or_default();
    let expires_at = fields.optional("expires_at", future(now_ms));
    let of = fields.optional("service_account_id", line(64));
    fields.finish()?;
    let Some(name) = name else { return Err(unread()) };
    let desk = Desk::of(&request.app, &request.context);
    let owner = service::owner(desk, request.caller()?, of.as_deref()).await?;
    let (key, text) = service::create(desk, &owner, NewKey { name, scopes, expires_at }).await?;
    let mut answer = serde_json::to_value(&key).map_err(Error::internal)?;
    answer["key"] = json!(text.expose());
    json(StatusCode::CREATED, &answer)
}

/// `PATCH /api-keys/{id}`
pub(super) async fn update(mut request: Request) -> Result<Response, Problem> {
    let mut fields = request.fields().await?;
    let name = fields.change_kept("name", name(KEY_NAME_MAX_CHARS));
    fields.finish()?;
    let desk = Desk::of(&request.app, &request.context);
    json(StatusCode::OK, &service::rename(desk, request.caller()?, request.id(), name).await?)
}

/// `DELETE /api-keys/{id}`
pub(super) async fn revoke(mut request: Request) -> Result<Response, Problem> {
    request.no_fields().await?;
    let desk = Desk::of(&request.app, &request.context);
    let (key, owner) = service::get(desk, request.caller()?, request.id()).await?;
    service::revoke(desk, &key, &owner).await?;
    request.app.end_key(&owner.org.slug, &owner.username, &key.id);
    Ok(no_content())
}

/// A list of scopes, each once. An empty one would look like nothing and mean everything.
fn scopes(value: Value) -> Result<Vec<String>, String> {
    let known = || {
        format!("a list of {} is expected; leave it out for a key that may do everything", SCOPES.join(", "))
    };
    let Value::Array(items) = value else { return Err(known()) };
    let mut scopes = Vec::new();
    for item in &items {
        match item.as_str() {
            Some(scope) if SCOPES.contains(&scope) && !scopes.iter().any(|held| held == scope) => {
                scopes.push(scope.to_owned());
            }
            _ => return Err(known()),
        }
    }
    if scopes.is_empty() { Err(known()) } else { Ok(scopes) }
}
