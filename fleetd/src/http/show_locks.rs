//! `/devices/{id}/show-lock` and `/show-locks/{tag}`: nothing disruptive for the time of a show.

use http::StatusCode;
use warp::reply::Response;

use super::problem::Problem;
use super::request::{JSON_MAX_BYTES, Request, json, no_content};
use crate::domain::show_lock::LockRequest;
use crate::service::show_locks::{self as service, Named};

/// `GET /devices/{id}/show-lock`
pub(super) async fn of_device(request: Request) -> Result<Response, Problem> {
    get(request, Named::Device).await
}

/// `PUT /devices/{id}/show-lock`
pub(super) async fn lock_device(request: Request) -> Result<Response, Problem> {
    set(request, Named::Device).await
}

/// `DELETE /devices/{id}/show-lock`
pub(super) async fn unlock_device(request: Request) -> Result<Response, Problem> {
    clear(request, Named::Device).await
}

/// `GET /show-locks/{tag}`
pub(super) async fn of_tag(request: Request) -> Result<Response, Problem> {
    get(request, Named::Tag).await
}

/// `PUT /show-locks/{tag}`
pub(super) async fn lock_tag(request: Request) -> Result<Response, Problem> {
    set(request, Named::Tag).await
}

/// `DELETE /show-locks/{tag}`
pub(super) async fn unlock_tag(request: Request) -> Result<Response, Problem> {
    clear(request, Named::Tag).await
}

async fn get(mut request: Request, named: fn(String) -> Named) -> Result<Response, Problem> {
    request.query()?.finish()?;
    let named = named(request.id().to_owned());
    json(StatusCode::OK, &service::get(&request.app, request.caller()?, &named).await?)
}

async fn set(mut request: Request, named: fn(String) -> Named) -> Result<Response, Problem> {
    let body = request.json(JSON_MAX_BYTES).await?;
    let lock = LockRequest::read(body, request.app.clock.now_ms())?;
    let named = named(request.id().to_owned());
    let set = service::set(&request.app, request.caller()?, &named, &lock, &request.context).await;
    json(StatusCode::OK, &set.map_err(|error| about(error, &named))?)
}

async fn clear(mut request: Request, named: fn(String) -> Named) -> Result<Response, Problem> {
    request.no_fields().await?;
    let named = named(request.id().to_owned());
    let cleared = service::clear(&request.app, request.caller()?, &named, &request.context).await;
    cleared.map_err(|error| about(error, &named))?;
    Ok(no_content())
}

fn about(error: crate::service::Error, named: &Named) -> Problem {
    match named {
        Named::Device(id) => Problem::from(error).about("device", id),
        Named::Tag(tag) => Problem::from(error).about("tag", tag),
    }
}
