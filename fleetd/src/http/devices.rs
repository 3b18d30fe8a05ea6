//! `/devices`: register, list, describe, approve, take out of service.

use http::StatusCode;
use serde_json::json;
use warp::reply::Response;

use super::certificates;
use super::problem::Problem;
use super::request::{JSON_MAX_BYTES, Request, json, no_content};
use crate::domain::device::{DevicePatch, Registration, check_tag};
use crate::service::devices as service;
use crate::service::register::{self, Requester};
use crate::store::summaries::{Selection, SortKey};

/// Longest text that can be searched for, in characters.
pub(super) const SEARCH_MAX_CHARS: usize = 100;

/// The header in which a device shows what it may enrol with.
pub(super) const ENROLLMENT_KEY: &str = "x-enrollment-key";

/// `POST /devices/register`
pub(super) async fn register(mut request: Request) -> Result<Response, Problem> {
    let requester = match request.secret_header(ENROLLMENT_KEY)? {
        Some(key) => {
            request.check_confidential()?;
            Requester::key(&request.app, &key, request.origin.address).await?
        }
        None => Requester::person(request.caller()?)?,
    };
    let org = requester.org().id.clone();
    if let Some(actor) = requester.actor() {
        request.context.actor = actor;
    }
    let refused = |problem: Problem| problem.in_org(Some(org.clone()));
    let body = request.json(JSON_MAX_BYTES).await.map_err(refused)?;
    let registration = Registration::read(body).map_err(|errors| refused(errors.into()))?;
    let registered = register::register(&request.app, &requester, &registration, &request.context)
        .await
        .map_err(|error| refused(error.into()).about("device", registration.device_id.as_str()))?;
    let mut answer = json!({
        "device_id": registered.device_id,
        "org": registered.org.slug,
        "fleet_url": fleet_url(&request),
        "status": registered.status,
        "client_certificates": certificates::are_offered(&request.app),
    });
    if let Some(token) = &registered.token {
        answer["token"] = token.expose().into();
    }
    if let Some(certificate) = &registered.certificate {
        certificates::put(&mut answer, certificate);
    }
    json(StatusCode::CREATED, &answer)
}

/// The URL under which the device reaches this server: as configured, or as this request did.
fn fleet_url(request: &Request) -> String {
    match (&request.app.config.public_url, request.host()) {
        (Some(url), _) => url.clone(),
        (None, Some(host)) => {
            let scheme = if request.peer.encrypted { "https" } else { "http" };
            format!("{scheme}://{host}")
        }
        (None, None) => format!("http://{}", request.app.config.http_listen),
    }
}

/// `GET /devices`
pub(super) async fn list(mut request: Request) -> Result<Response, Problem> {
    let mut query = request.query()?;
    let page = query.page()?;
    let (sort, descending) = query.sort(&SortKey::ALL, SortKey::DeviceId)?;
    let selection = Selection {
        status: query.parsed("status")?,
        tag: query.text("tag"),
        version: query.text("version"),
        text: query.text("q"),
        sort,
        descending,
        now_ms: request.app.clock.now_ms(),
        offset: page.offset(),
        limit: page.limit(),
    };
    query.finish()?;
    if let Some(tag) = &selection.tag {
        check_tag(tag).map_err(|message| Problem::bad_request(format!("tag: {message}")))?;
    }
    if selection.text.as_ref().is_some_and(|text| text.chars().count() > SEARCH_MAX_CHARS) {
        return Err(Problem::bad_request(format!("q: at most {SEARCH_MAX_CHARS} characters are expected")));
    }
    let (devices, total) = service::list(&request.app, request.caller()?, &selection).await?;
    json(StatusCode::OK, &page.listing(devices, total))
}

/// `GET /devices/{id}` and `/devices/{id}/status`
pub(super) async fn get(mut request: Request) -> Result<Response, Problem> {
    request.query()?.finish()?;
    json(StatusCode::OK, &service::get(&request.app, request.caller()?, request.id()).await?)
}

/// `PATCH /devices/{id}`
pub(super) async fn update(mut request: Request) -> Result<Response, Problem> {
    let body = request.json(JSON_MAX_BYTES).await?;
    let patch = DevicePatch::read(body)?;
    let device =
        service::update(&request.app, request.caller()?, request.id(), &patch, &request.context).await?;
    json(StatusCode::OK, &device)
}

/// `DELETE /devices/{id}`
pub(super) async fn decommission(mut request: Request) -> Result<Response, Problem> {
    request.no_fields().await?;
    service::decommission(&request.app, request.caller()?, request.id(), &request.context).await?;
    Ok(no_content())
}

/// `POST /devices/{id}/approve`
pub(super) async fn approve(mut request: Request) -> Result<Response, Problem> {
    request.no_fields().await?;
    let device = service::approve(&request.app, request.caller()?, request.id(), &request.context).await?;
    json(StatusCode::OK, &device)
}

/// `POST /devices/{id}/allow-reenrollment`
pub(super) async fn allow_reenrollment(mut request: Request) -> Result<Response, Problem> {
    request.no_fields().await?;
    let device =
        service::allow_reenrollment(&request.app, request.caller()?, request.id(), &request.context).await?;
    json(StatusCode::OK, &device)
}

/// `POST /devices/{id}/rotate-token`
pub(super) async fn rotate_token(mut request: Request) -> Result<Response, Problem> {
    request.no_fields().await?;
    let (device, token) =
        service::rotate_token(&request.app, request.caller()?, request.id(), &request.context).await?;
    json(StatusCode::OK, &json!({"device_id": device.device_id, "token": token.expose()}))
}
