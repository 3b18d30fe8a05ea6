//! A device's own side of `/devices/{id}/commands` and `/commands/{id}`: it polls, and says what became of them.

use http::StatusCode;
use warp::reply::Response;

use super::commands;
use super::problem::Problem;
use super::request::{JSON_MAX_BYTES, Request, json};
use crate::auth::caller::Caller;
use crate::domain::command::Command;
use crate::domain::http_report::HttpReport;
use crate::service::http_devices as service;

/// `GET /devices/{id}/commands`: a list for people; the device itself fetches what it is to do.
pub(super) async fn list_or_poll(mut request: Request) -> Result<Response, Problem> {
    let Caller::Device(device) = request.caller()? else {
        return commands::list_of_device(request).await;
    };
    let (app, device) = (request.app.clone(), device.clone());
    let mut query = request.query()?;
    let status = query.text("status");
    query.finish()?;
    if status.is_some_and(|status| status != "pending") {
        return Err(Problem::bad_request("status: a device polls for those that are pending"));
    }
    let handed_out = service::poll(&app, &device).await?;
    json(StatusCode::OK, &handed_out.iter().map(Command::view).collect::<Vec<_>>())
}

/// `PATCH /commands/{id}`
pub(super) async fn report(mut request: Request) -> Result<Response, Problem> {
    let body = request.json(JSON_MAX_BYTES).await?;
    let report = HttpReport::read(body)?;
    let command = service::report(&request.app, request.caller()?, request.id(), &report).await?;
    json(StatusCode::OK, &command.view())
}
