//! `/devices/{id}/config`: what a device should run with, and what it says it runs with.

use http::StatusCode;
use warp::reply::Response;

use super::problem::Problem;
use super::request::{JSON_MAX_BYTES, Request, json};
use crate::service::device_config as service;

/// `GET /devices/{id}/config`
pub(super) async fn get(mut request: Request) -> Result<Response, Problem> {
    request.query()?.finish()?;
    json(StatusCode::OK, &service::get(&request.app, request.caller()?, request.id()).await?)
}

/// `PUT /devices/{id}/config`
pub(super) async fn set(mut request: Request) -> Result<Response, Problem> {
    let config = service::read(request.json(JSON_MAX_BYTES).await?)?;
    let view = service::set(&request.app, request.caller()?, request.id(), config, &request.context).await?;
    json(StatusCode::OK, &view)
}
