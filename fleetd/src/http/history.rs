//! What devices send: the heartbeat by HTTP, and everything that arrived.

use http::StatusCode;
use protocol::message::{HeartbeatJson, HeartbeatMetrics, HeartbeatStatus, rfc3339};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use warp::reply::Response;

use super::problem::Problem;
use super::request::{Request, json};
use crate::auth::caller::Caller;
use crate::domain::device::Device;
use crate::domain::fields::FieldError;
use crate::domain::rollup::{METRICS, Rollup};
use crate::service::ingest::{self, HeartbeatError};
use crate::service::{Error, devices as service};
use crate::store::device_state::DeviceKey;
use crate::store::{dispatch, heartbeats as stored, records as committed, rollups, summaries};

/// Most bytes of a heartbeat by HTTP.
const HEARTBEAT_MAX_BYTES: usize = 64 * 1024;
/// Heartbeats of a page at most: a day of them, one a minute, in one answer.
pub(super) const HEARTBEATS_MAX: i64 = 1_500;
const HOUR_MS: i64 = 3_600_000;
/// The longest span of metrics that can be asked for: two years and a bit, as long as roll-ups are kept by default.
pub(super) const SPAN_MAX_HOURS: i64 = 24 * 800;
/// Hours of metrics if the client does not say.
pub(super) const SPAN_DEFAULT_HOURS: i64 = 24;
/// The shortest and the longest time that a point may stand for, seconds.
pub(super) const STEP_MIN_SECONDS: i64 = 60;
pub(super) const STEP_MAX_SECONDS: i64 = 30 * 86_400;

/// `POST /devices/{id}/heartbeat`
pub(super) async fn heartbeat(mut request: Request) -> Result<Response, Problem> {
    let body = request.json(HEARTBEAT_MAX_BYTES).await?;
    let heartbeat = read_heartbeat(body)?;
    let Caller::Device(device) = request.caller()? else {
        return Err(Problem::new(StatusCode::FORBIDDEN, "only a device sends heartbeats"));
    };
    let key =
        DeviceKey { device_id: device.row.as_str().to_owned(), org_id: device.org.id.as_str().to_owned() };
    let address = request.origin.address.to_string();
    ingest::http_heartbeat(&request.app, &key, heartbeat, Some(&address)).await.map_err(
        |error| match error {
            HeartbeatError::Field { field, expected } => Error::field(field, expected),
            HeartbeatError::Store(error) => error.into(),
        },
    )?;
    let store = &request.app.store;
    let now_ms = request.app.clock.now_ms();
    let summary = summaries::one(store, &device.org.id, device.row.as_str(), now_ms).await?;
    let waiting = dispatch::unacknowledged(store, device.row.as_str()).await?;
    json(
        StatusCode::OK,
        &json!({
            "ack": true,
            "commands_pending": if device.approved { waiting } else { 0 },
            "target_version": summary.and_then(|summary| summary.target_version),
            "server_time": rfc3339(now_ms),
        }),
    )
}

/// Reads a heartbeat. Fields that are not known are ignored here, and null means absent, since older agents and newer
/// ones send what they have.
pub(super) fn read_heartbeat(body: Value) -> Result<HeartbeatJson, Problem> {
    let Value::Object(mut body) = without_nulls(body) else {
        let message = "a JSON object is expected".to_owned();
        return Err(Problem::invalid(vec![FieldError { field: String::new(), message }]));
    };
    let mut errors = Vec::new();
    let ts = field::<String>(&mut body, "ts", &mut errors);
    if ts.is_none() && errors.is_empty() {
        errors.push(FieldError { field: "ts".to_owned(), message: "is required".to_owned() });
    }
    let heartbeat = HeartbeatJson {
        ts: ts.unwrap_or_default(),
        version: field(&mut body, "version", &mut errors),
        uptime_seconds: field(&mut body, "uptime_seconds", &mut errors),
        metrics: object::<HeartbeatMetrics>(&mut body, "metrics", &mut errors).unwrap_or_default(),
        status: object::<HeartbeatStatus>(&mut body, "status", &mut errors).unwrap_or_default(),
        errors: field(&mut body, "errors", &mut errors).unwrap_or_default(),
    };
    if errors.is_empty() { Ok(heartbeat) } else { Err(Problem::invalid(errors)) }
}

fn field<T: DeserializeOwned>(
    body: &mut Map<String, Value>,
    name: &str,
    errors: &mut Vec<FieldError>,
) -> Option<T> {
    let value = body.remove(name)?;
    serde_json::from_value(value)
        .map_err(|e| errors.push(FieldError { field: name.to_owned(), message: e.to_string() }))
        .ok()
}

/// A field that is an object: the JSON reader would take a list of its values in order as well.
fn object<T: DeserializeOwned>(
    body: &mut Map<String, Value>,
    name: &str,
    errors: &mut Vec<FieldError>,
) -> Option<T> {
    if body.get(name).is_some_and(|value| !value.is_object()) {
        errors.push(FieldError { field: name.to_owned(), message: "an object is expected".to_owned() });
        return None;
    }
    field(body, name, errors)
}

/// Takes the nulls out of objects; the depth is bounded by the JSON reader.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(name, value)| (name, without_nulls(value)))
                .collect(),
        ),
        other => other,
    }
}

/// `GET /devices/{id}/heartbeats`
pub(super) async fn heartbeats(mut request: Request) -> Result<Response, Problem> {
    let mut query = request.query()?;
    let page = query.page_up_to(HEARTBEATS_MAX)?;
    let since = query.time("since")?.unwrap_or(0);
    // One past the newest: the span is open at its end.
    let until = query.time("until")?.unwrap_or_else(|| request.app.clock.now_ms().saturating_add(1));
    query.finish()?;
    if since > until {
        return Err(Problem::bad_request("since: a time before until is expected"));
    }
    let key = key(&service::for_history(&request.app, request.caller()?, request.id()).await?);
    let (number, size) = page.number_and_size();
    let (items, total) = stored::list(&request.app.store, &key, since, until, number, size).await?;
    json(StatusCode::OK, &page.listing(items, i64::try_from(total).unwrap_or(i64::MAX)))
}

/// `GET /devices/{id}/metrics`
pub(super) async fn metrics(mut request: Request) -> Result<Response, Problem> {
    let now_ms = request.app.clock.now_ms();
    let mut query = request.query()?;
    let hours = query.number("hours", 1, SPAN_MAX_HOURS)?;
    let (from, to) = (query.time("from")?, query.time("to")?);
    let step_seconds = query.number("step", STEP_MIN_SECONDS, STEP_MAX_SECONDS)?;
    query.finish()?;
    if hours.is_some() && (from.is_some() || to.is_some()) {
        return Err(Problem::bad_request("hours: either hours, or from and to"));
    }
    let to = to.unwrap_or(now_ms.saturating_add(1));
    let from = from.unwrap_or(to.saturating_sub(hours.unwrap_or(SPAN_DEFAULT_HOURS) * HOUR_MS));
    if from >= to || to.saturating_sub(from) > SPAN_MAX_HOURS * HOUR_MS {
        return Err(Problem::bad_request(format!(
            "from: a time before to is expected, by at most {SPAN_MAX_HOURS} hours"
        )));
    }
    let device = service::for_history(&request.app, request.caller()?, request.id()).await?;
    let kept_days = request.app.config.heartbeat_retention_days;
    let step_ms = step_seconds.map(|seconds| seconds * 1000);
    let series =
        rollups::series(&request.app.store, &key(&device), from, to, step_ms, kept_days, now_ms).await?;
    let points: Vec<Value> =
        series.points.iter().map(|(starts_at, rollup)| point(*starts_at, rollup)).collect();
    json(
        StatusCode::OK,
        &json!({
            "device_id": device.device_id,
            "from": rfc3339(from),
            "to": rfc3339(to),
            "step_seconds": series.step_seconds,
            "points": points,
            "recording_minutes": minutes(series.total.recording_ms),
            "mixer_minutes": minutes(series.total.mixer_ms),
        }),
    )
}

fn point(starts_at: i64, rollup: &Rollup) -> Value {
    let mut point = Map::new();
    point.insert("ts".to_owned(), rfc3339(starts_at).into());
    for (name, spread) in METRICS.iter().zip(&rollup.metrics) {
        if let Some(avg) = spread.avg() {
            let round = |value: f64| (value * 100.0).round() / 100.0;
            let value = json!({"min": round(spread.min), "avg": round(avg), "max": round(spread.max)});
            point.insert((*name).to_owned(), value);
        }
    }
    Value::Object(point)
}

/// Whole minutes, rounded to the nearest.
fn minutes(ms: i64) -> i64 {
    ms.saturating_add(30_000) / 60_000
}

/// `GET /devices/{id}/records`
pub(super) async fn records(mut request: Request) -> Result<Response, Problem> {
    request.query()?.finish()?;
    let device = service::for_history(&request.app, request.caller()?, request.id()).await?;
    let items = committed::list(&request.app.store, &key(&device)).await?;
    json(StatusCode::OK, &json!({"items": items}))
}

fn key(device: &Device) -> DeviceKey {
    DeviceKey { device_id: device.id.as_str().to_owned(), org_id: device.org_id.as_str().to_owned() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_with_nulls_and_unknown_fields_is_taken() {
        let body = json!({
            "ts": "2025-12-28T10:00:00Z", "version": "unknown", "uptime_seconds": null, "colour": "blue",
            "metrics": {"cpu_percent": 15, "temperature_c": null, "fans": 3}, "status": null, "errors": null,
        });
        let heartbeat = read_heartbeat(body).unwrap();
        assert_eq!(heartbeat.metrics.cpu_percent, Some(15.0));
        assert_eq!(heartbeat.metrics.temperature_c, None);
    }

    #[test]
    fn what_is_wrong_in_a_heartbeat_is_told_by_field() {
        for (body, field) in [
            (json!({}), "ts"),
            (json!({"ts": 5}), "ts"),
            (json!({"ts": "2025-12-28T10:00:00Z", "metrics": {"cpu_percent": "a lot"}}), "metrics"),
            (json!({"ts": "2025-12-28T10:00:00Z", "uptime_seconds": -1}), "uptime_seconds"),
            (json!({"ts": "2025-12-28T10:00:00Z", "status": []}), "status"),
        ] {
            let problem = read_heartbeat(body).unwrap_err();
            assert_eq!(problem.fields(), [field]);
        }
        assert!(read_heartbeat(json!([])).is_err());
    }
}
