//! The server about itself: is it up, is it ready, what does it count.

use std::fmt::Write as _;

use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use serde_json::json;
use warp::reply::Response;

use super::problem::Problem;
use super::request::{Request, json};
use crate::service::Error;
use crate::store::summaries;

/// `GET /health`: the process answers.
pub(super) async fn health(_: Request) -> Result<Response, Problem> {
    json(StatusCode::OK, &json!({"status": "ok", "version": env!("CARGO_PKG_VERSION")}))
}

/// `GET /ready`: the database takes writes and the broker works.
pub(super) async fn ready(request: Request) -> Result<Response, Problem> {
    let app = &request.app;
    if let Err(error) = app.store.check_ready(app.clock.now_ms()).await {
        tracing::warn!(%error, "not ready");
        return Err(Error::Unavailable("the database is not ready").into());
    }
    if !app.live.get().is_some_and(|live| live.healthy()) {
        return Err(Error::Unavailable("the broker is not ready").into());
    }
    json(StatusCode::OK, &json!({"status": "ready", "database": "ok", "broker": "ok"}))
}

/// `GET /metrics`, in Prometheus' text format.
pub(super) async fn metrics(request: Request) -> Result<Response, Problem> {
    let app = &request.app;
    let mut text = app.metrics.render();
    text.push_str("# HELP fleet_devices Devices in service, by status.\n# TYPE fleet_devices gauge\n");
    for (status, count) in summaries::count_by_status(&app.store).await? {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "fleet_devices{{status=\"{}\"}} {count}", status.as_str());
    }
    let mut response = Response::new(text.into());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// `GET /ws`: where an earlier server had its own protocol.
pub(super) async fn gone(_: Request) -> Result<Response, Problem> {
    Err(Problem::new(
        StatusCode::GONE,
        "the WebSocket protocol of earlier versions is gone; install the MQTT agent r58-fleet-agent on the device",
    ))
}
