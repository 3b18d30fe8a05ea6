//! `/enrollment-keys`: keys with which devices register themselves.

use http::StatusCode;
use serde_json::json;
use warp::reply::Response;

use super::problem::Problem;
use super::request::{Request, json, no_content};
use crate::domain::enrollment::MAX_USES_MAX;
use crate::domain::fields::{flag, future, number};
use crate::service::{Desk, Error, enrollment_keys as service};
use crate::store::enrollment_keys;

/// `GET /enrollment-keys`
pub(super) async fn list(mut request: Request) -> Result<Response, Problem> {
    let mut query = request.query()?;
    let (page, order) = query.page_of(enrollment_keys::SORT_KEYS)?;
    query.finish()?;
    let (found, total) =
        enrollment_keys::page(&request.app.store, &request.caller()?.org().id, order).await?;
    json(StatusCode::OK, &page.listing(found, total))
}

/// `GET /enrollment-keys/{id}`
pub(super) async fn get(mut request: Request) -> Result<Response, Problem> {
    request.query()?.finish()?;
    let org = &request.caller()?.org().id;
    json(StatusCode::OK, &service::get(&request.app.store, org, request.id()).await?)
}

/// `POST /enrollment-keys`
pub(super) async fn create(mut request: Request) -> Result<Response, Problem> {
    let now_ms = request.app.clock.now_ms();
    let mut fields = request.fields_or_none().await?;
    let max_uses = fields.optional("max_uses", number(1, MAX_USES_MAX));
    let expires_at = fields.optional("expires_at", future(now_ms));
    let require_approval = fields.optional("require_approval", flag).unwrap_or(false);
    fields.finish()?;
    let desk = Desk::of(&request.app, &request.context);
    let org = &request.caller()?.org().id;
    let (key, text) = service::create(desk, org, max_uses, expires_at, require_approval).await?;
    let mut answer = serde_json::to_value(&key).map_err(Error::internal)?;
    answer["key"] = json!(text.expose());
    json(StatusCode::CREATED, &answer)
}

/// `DELETE /enrollment-keys/{id}`
pub(super) async fn revoke(mut request: Request) -> Result<Response, Problem> {
    request.no_fields().await?;
    let desk = Desk::of(&request.app, &request.context);
    service::revoke(desk, &request.caller()?.org().id, request.id()).await?;
    Ok(no_content())
}
