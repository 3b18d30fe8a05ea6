//! Asks the fleet server where its broker is: `GET {FLEET_URL}/api/v1/connect`.

use std::time::Duration;

use protocol::id::{DeviceId, OrgSlug};
use serde::Deserialize;

use crate::config::{Config, MqttUrl};
use crate::http::{self, HttpError};

/// Longest answer that is read, in bytes.
const ANSWER_MAX_LEN: u64 = 16 * 1024;

/// Where the broker can be reached. What the server does not offer is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// MQTT over TCP without encryption; only offered to peers that may use it.
    pub mqtt_url: Option<MqttUrl>,
    /// MQTT over TLS.
    pub mqtts_url: Option<MqttUrl>,
    /// MQTT over WebSocket over TLS.
    pub wss_url: Option<MqttUrl>,
    /// The server's clock: milliseconds since 1970.
    pub server_time_ms: Option<i64>,
    /// The server signs certificates for devices.
    pub client_certificates: bool,
    /// Whose token it is; not told by earlier servers.
    pub whose: Option<(DeviceId, OrgSlug)>,
}

impl Endpoints {
    /// The links to try, best first.
    pub fn in_order(&self) -> impl Iterator<Item = &MqttUrl> {
        [&self.mqtts_url, &self.wss_url, &self.mqtt_url].into_iter().flatten()
    }
}

/// The server did not tell.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The device has no server or no token yet.
    #[error("this device is not enrolled; run: r58-fleet-agent enroll URL --key-file FILE")]
    NotEnrolled,
    /// It could not be asked.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// It does not accept the token.
    #[error(
        "{server} does not accept this device's token: it was changed, or the device was decommissioned; enrol it again"
    )]
    Refused {
        /// The server's address.
        server: String,
    },
    /// It answered with an error.
    #[error("{server} answered {status}{detail}")]
    Status {
        /// The server's address.
        server: String,
        /// The HTTP status.
        status: u16,
        /// The server's words; empty, or starts with `: `.
        detail: String,
        /// How long it asks to be left alone, seconds.
        retry_after_seconds: Option<u64>,
    },
    /// The answer is not what it has to be.
    #[error("the answer of {server} to /api/v1/connect cannot be understood: {problem}")]
    Answer {
        /// The server's address.
        server: String,
        /// What is wrong.
        problem: String,
    },
}

#[derive(Deserialize)]
struct Answer {
    mqtt_url: Option<String>,
    mqtts_url: Option<String>,
    wss_url: Option<String>,
    server_time: Option<String>,
    #[serde(default)]
    client_certificates: bool,
    device_id: Option<String>,
    org: Option<String>,
}

/// Asks now. Blocks for at most [`http::TIMEOUT`].
///
/// # Errors
/// When the device is not enrolled, or the server cannot be reached, refuses, or answers something else.
pub fn fetch(config: &Config) -> Result<Endpoints, ConnectError> {
    fetch_within(config, http::TIMEOUT)
}

/// The same with another limit on the time.
pub(crate) fn fetch_within(config: &Config, time: Duration) -> Result<Endpoints, ConnectError> {
    let Some(server) = config.fleet_url.as_ref().filter(|_| config.is_enrolled()) else {
        return Err(ConnectError::NotEnrolled);
    };
    let client = http::client_within(config, server, time)?;
    let mut request = client.get(server.join("/api/v1/connect"));
    if let Some(token) = &config.device_token {
        request = request.header("X-Device-Token", token.expose());
    }
    let answer = http::finish(server, request.call(), ANSWER_MAX_LEN)?;
    match answer.status {
        200 => parse(&answer.body)
            .map_err(|problem| ConnectError::Answer { server: server.to_string(), problem }),
        401 | 403 => Err(ConnectError::Refused { server: server.to_string() }),
        status => Err(ConnectError::Status {
            server: server.to_string(),
            status,
            detail: answer.problem_detail(),
            retry_after_seconds: answer.retry_after_seconds,
        }),
    }
}

pub(crate) fn parse(body: &[u8]) -> Result<Endpoints, String> {
    let answer: Answer = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    // A server's clock that cannot be read is no reason not to connect.
    let server_time_ms = answer.server_time.and_then(|text| protocol::message::parse_rfc3339(&text).ok());
    let device = answer.device_id.and_then(|id| DeviceId::new(&id).ok());
    let org = answer.org.and_then(|slug| OrgSlug::new(&slug).ok());
    Ok(Endpoints {
        mqtt_url: usable("mqtt_url", answer.mqtt_url),
        mqtts_url: usable("mqtts_url", answer.mqtts_url),
        wss_url: usable("wss_url", answer.wss_url),
        server_time_ms,
        client_certificates: answer.client_certificates,
        whose: device.zip(org),
    })
}

/// One address that cannot be used must not keep the device from the others.
fn usable(name: &'static str, text: Option<String>) -> Option<MqttUrl> {
    let parsed = text?.parse();
    if let Err(problem) = &parsed {
        tracing::warn!(%problem, "the server's {name} cannot be used");
    }
    parsed.ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_the_server_offers_is_tried_encrypted_first() {
        let answer = br#"{"mqtt_url": "mqtt://10.0.0.1:1883", "mqtts_url": "mqtts://f.example:8883",
            "wss_url": "wss://f.example/mqtt", "server_time": "2025-12-28T10:00:00Z", "more": 1}"#;
        let endpoints = parse(answer).unwrap();
        let order: Vec<_> = endpoints.in_order().map(ToString::to_string).collect();
        assert_eq!(order, ["mqtts://f.example", "wss://f.example/mqtt", "mqtt://10.0.0.1"]);
        assert_eq!(endpoints.server_time_ms, Some(1_766_916_000_000));
    }

    #[test]
    fn addresses_that_are_missing_or_wrong_leave_the_good_ones() {
        let endpoints = parse(br#"{"mqtt_url": null, "server_time": "later"}"#).unwrap();
        assert_eq!(endpoints, Endpoints::default());
        let endpoints =
            parse(br#"{"mqtts_url": "mqtts://u:p@f.example", "wss_url": "wss://f.example"}"#).unwrap();
        assert_eq!(endpoints.in_order().count(), 1);
        assert!(parse(b"[1]").is_err());
    }
}
