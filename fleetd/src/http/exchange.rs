//! `POST /devices/{id}/exchange`: what a device and the server say to each other where MQTT does not get through.

use std::net::SocketAddr;
use std::time::Duration;

use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use protocol::codec::{self, CodecError, limit};
use protocol::message::Exchange;
use warp::reply::Response;

use super::problem::Problem;
use super::request::Request;
use crate::auth::caller::Caller;
use crate::service::Error;
use crate::service::exchange::Asked;

/// What bodies and answers are.
pub(super) const CBOR: &str = "application/cbor";
/// The longest that a request may wait for something to come, seconds: less than the minute after which many proxies cut a
/// connection.
pub(super) const WAIT_MAX_SECONDS: i64 = 55;
/// How long a request may take in all: its body, what is said in it at the device's rate, and the wait.
pub(super) const TIME: Duration = Duration::from_secs(90);

/// `POST /devices/{id}/exchange`
pub(super) async fn exchange(mut request: Request) -> Result<Response, Problem> {
    let mut query = request.query()?;
    let wait = query.number("wait_seconds", 0, WAIT_MAX_SECONDS)?.unwrap_or(0);
    let connection = query.number("connection", 0, i64::MAX)?;
    query.finish()?;
    request.check_type(CBOR, "the body must be CBOR, with Content-Type: application/cbor")?;
    let body = request.bytes(limit::EXCHANGE_BYTES).await?;
    let messages: Exchange = codec::decode(&body, limit::EXCHANGE_BYTES).map_err(unreadable)?;
    drop(body);
    let Caller::Device(device) = request.caller()? else {
        return Err(Problem::new(StatusCode::FORBIDDEN, "only a device exchanges messages"));
    };
    let metrics = &request.app.metrics;
    metrics.add("fleet_exchange_requests_total", 1);
    metrics.add("fleet_exchange_messages_total", messages.0.len() as u64);
    let asked = Asked {
        name: (device.org.slug.clone(), device.device.clone()),
        peer: SocketAddr::new(request.origin.address, request.peer.address.port()),
        at: request.received_at,
        certificate: device.certificate.clone(),
        messages,
        // Both are within their bounds.
        wait: Duration::from_secs(wait.unsigned_abs()),
        connection: connection.map(i64::unsigned_abs),
    };
    let gone = request.client_gone();
    let app = request.app;
    let answer = app.exchanges.exchange(app.broker.get(), asked, gone).await?;
    let body = codec::encode_named(&answer).map_err(Error::internal)?;
    let mut response = Response::new(body.into());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(CBOR));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn unreadable(error: CodecError) -> Problem {
    Problem::bad_request(format!("the body is no list of messages in CBOR: {error}"))
}
