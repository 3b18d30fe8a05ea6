//! `/orgs`: organisations, for those who own them.

use http::StatusCode;
use serde_json::json;
use warp::reply::Response;

use super::problem::Problem;
use super::request::{Request, json};
use super::users::unread;
use crate::domain::fields::{name, number, object, parsed};
use crate::domain::org::{MAX_DEVICES_MAX, OrgPatch, SETTINGS_MAX_BYTES};
use crate::domain::user::NAME_MAX_CHARS;
use crate::service::Desk;
use crate::service::orgs::{self as service, NewOrg};
use crate::store::orgs;

/// `GET /orgs`
pub(super) async fn list(mut request: Request) -> Result<Response, Problem> {
    let mut query = request.query()?;
    let (page, order) = query.page_of(orgs::SORT_KEYS)?;
    query.finish()?;
    let (found, total) = orgs::page(&request.app.store, order).await?;
    json(StatusCode::OK, &page.listing(found, total))
}

/// `GET /orgs/{id}`
pub(super) async fn get(mut request: Request) -> Result<Response, Problem> {
    request.query()?.finish()?;
    json(StatusCode::OK, &service::get(&request.app.store, request.id()).await?)
}

/// `POST /orgs`
pub(super) async fn create(mut request: Request) -> Result<Response, Problem> {
    let mut fields = request.fields().await?;
    let slug = fields.required("slug", parsed::<protocol::id::OrgSlug>(63));
    let name = fields.required("name", name(NAME_MAX_CHARS));
    let settings = fields.optional("settings", object(SETTINGS_MAX_BYTES)).unwrap_or_else(|| json!({}));
    let max_devices = fields.optional("max_devices", number(0, MAX_DEVICES_MAX));
    fields.finish()?;
    let (Some(slug), Some(name)) = (slug, name) else { return Err(unread()) };
    let label = slug.to_string();
    let new = NewOrg { slug, name, settings, max_devices };
    let made = service::create(Desk::of(&request.app, &request.context), new).await;
    json(StatusCode::CREATED, &made.map_err(|error| Problem::from(error).about("org", &label))?)
}

/// `PATCH /orgs/{id}`
pub(super) async fn update(mut request: Request) -> Result<Response, Problem> {
    let patch = OrgPatch::read(request.fields().await?)?;
    let desk = Desk::of(&request.app, &request.context);
    json(StatusCode::OK, &service::change(desk, request.id(), &patch).await?)
}
