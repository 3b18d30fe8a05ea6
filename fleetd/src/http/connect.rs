//! `GET /connect`: where a device finds the broker.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::StatusCode;
use protocol::message::rfc3339;
use serde_json::json;
use warp::reply::Response;

use super::certificates;
use super::problem::Problem;
use super::request::{Request, json};
use crate::auth::caller::Caller;

/// `GET /connect`
pub(super) async fn connect(mut request: Request) -> Result<Response, Problem> {
    request.query()?.finish()?;
    let app = &request.app;
    let mut answer = json!({
        "server_time": rfc3339(app.clock.now_ms()),
        "client_certificates": certificates::are_offered(app),
    });
    let bound = app.bound.get().copied().unwrap_or_default();
    let (client, name) = (client(&request), server_name(&request));
    let url =
        |scheme, listen: Option<SocketAddr>| listen.and_then(|listen| url(scheme, listen, client, name));
    let mqtts_listener = || url("mqtts", bound.mqtts.or(app.config.mqtts_listen));
    if let Some(url) = app.config.public_mqtts_url.clone().or_else(mqtts_listener) {
        answer["mqtts_url"] = url.into();
    }
    let at_public = app.config.public_url.as_deref().and_then(|url| url.strip_prefix("https://"));
    let at_listener = url("wss", bound.https.or(app.config.https_listen));
    if let Some(url) = at_public.map(|rest| format!("wss://{rest}")).or(at_listener) {
        answer["wss_url"] = format!("{url}/mqtt").into();
    }
    // Plain MQTT is named only to those who may use it.
    if app.auth.proxies.plaintext_allowed(client)
        && let Some(url) = url("mqtt", bound.mqtt.or(app.config.mqtt_listen))
    {
        answer["mqtt_url"] = url.into();
    }
    // Whose token it is: with this a device that somebody else has registered needs nothing but its token.
    if let Caller::Device(device) = request.caller()? {
        answer["device_id"] = device.device.as_str().into();
        answer["org"] = device.org.slug.as_str().into();
    }
    json(StatusCode::OK, &answer)
}

/// Who would connect to the broker. Not a proxy in between: a device would send its token in clear all the way from
/// where it is. Behind a proxy whose word is not taken, it is nobody known.
fn client(request: &Request) -> IpAddr {
    let peer = request.peer.address.ip().to_canonical();
    let is_forwarded =
        ["x-forwarded-for", "forwarded"].iter().any(|name| request.headers.contains_key(*name));
    if is_forwarded && request.origin.address == peer {
        return IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    }
    request.origin.address
}

/// The name of the server, without scheme, port or path: as configured, or as this request reached it.
fn server_name(request: &Request) -> Option<&str> {
    let authority = match &request.app.config.public_url {
        Some(url) => url.split_once("://").map_or(url.as_str(), |(_, rest)| rest).split('/').next()?,
        None => request.host()?,
    };
    let name = match authority.rsplit_once(':') {
        // Not the colons inside an IPv6 address.
        Some((name, port)) if port.bytes().all(|c| c.is_ascii_digit()) && !port.is_empty() => name,
        _ => authority,
    };
    (!name.is_empty()).then_some(name)
}

/// The URL of a listener as a peer can use it; none if it cannot.
fn url(scheme: &str, listen: SocketAddr, peer: IpAddr, server_name: Option<&str>) -> Option<String> {
    let port = listen.port();
    match listen.ip() {
        _ if port == 0 => None,
        ip if ip.is_loopback() => peer.to_canonical().is_loopback().then(|| format!("{scheme}://{listen}")),
        ip if ip.is_unspecified() => server_name.map(|name| format!("{scheme}://{name}:{port}")),
        // A certificate is for a name.
        _ if scheme != "mqtt" => server_name.map(|name| format!("{scheme}://{name}:{port}")),
        _ => Some(format!("{scheme}://{listen}")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    fn url(listen: &str, peer: &str, name: Option<&str>) -> Option<String> {
        super::url("mqtt", listen.parse().unwrap(), peer.parse().unwrap(), name)
    }

    #[test]
    fn a_loopback_listener_is_named_to_this_machine_only() {
        assert_eq!(url("127.0.0.1:1883", "127.0.0.1", Some("x")).as_deref(), Some("mqtt://127.0.0.1:1883"));
        assert_eq!(url("127.0.0.1:1883", "192.0.2.7", Some("x")), None);
    }

    #[test]
    fn a_listener_on_every_address_is_named_as_the_peer_reached_the_server() {
        assert_eq!(url("0.0.0.0:1884", "192.0.2.7", Some("fleet")).as_deref(), Some("mqtt://fleet:1884"));
        assert_eq!(url("0.0.0.0:1884", "192.0.2.7", None), None);
        assert_eq!(url("198.51.100.2:1", "192.0.2.7", None).as_deref(), Some("mqtt://198.51.100.2:1"));
        assert_eq!(url("0.0.0.0:0", "192.0.2.7", Some("fleet")), None);
    }
}
