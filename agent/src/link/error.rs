//! Why a connection could not be made, or ended; for the log and for `r58-fleet-agent status`.

use std::time::Duration;

use rumqttc::{ConnectReturnCode, ConnectionError, StateError};

use super::Address;
use crate::http::HttpError;

/// The end of a link.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The broker does not accept the device's credentials.
    #[error(
        "{url} refuses this device's token, certificate or name; if the token was changed or the device was removed on the \
         server, enrol it again (r58-fleet-agent enroll)"
    )]
    Credentials {
        /// The other end.
        url: Address,
    },
    /// The broker refuses the connection for another reason.
    #[error("{url} refuses the connection: {reason}")]
    Refused {
        /// The other end.
        url: Address,
        /// Why.
        reason: &'static str,
    },
    /// Nothing happened for too long.
    #[error("{url} does not answer (waited {} s); check the network and the venue's firewall", waited.as_secs())]
    Silent {
        /// The other end.
        url: Address,
        /// How long.
        waited: Duration,
    },
    /// The broker closed the connection.
    #[error(
        "{url} closed the connection; if that goes on, look for a second device that uses the same name, and at the \
         server's log"
    )]
    Closed {
        /// The other end.
        url: Address,
    },
    /// The broker's name is not known.
    #[error("the name {} is not known here: check the address and the DNS of this network", url.host())]
    UnknownHost {
        /// The broker.
        url: Address,
    },
    /// The network says no.
    #[error("cannot reach {url}: {source}; check the address, the network and the venue's firewall")]
    Network {
        /// The other end.
        url: Address,
        /// What the system said.
        source: std::io::Error,
    },
    /// The broker does not let the device listen to what it must hear.
    #[error("{url} does not let this device subscribe to {filter}; is it a broker of R58 Fleet?")]
    Subscription {
        /// The other end.
        url: Address,
        /// Refused.
        filter: String,
    },
    /// Something that is no MQTT, or breaks its rules.
    #[error("{url} does not keep to MQTT: {problem}; check that the address is a broker's")]
    Protocol {
        /// The other end.
        url: Address,
        /// What it did.
        problem: String,
    },
    /// No way of connecting to such an address in this version.
    #[error("this agent cannot connect to {url}; it has mqtts://, wss://, mqtt:// and HTTP exchange")]
    NoTransport {
        /// The address.
        url: Address,
    },
    /// Nobody said whom to trust.
    #[error("there is no list of authorities for {url}")]
    NoTls {
        /// The address.
        url: Address,
    },
    /// The other end does not show who it is, or the encryption fails.
    #[error(
        "the encrypted connection to {url} fails: {problem}; check this device's clock, and CA_FILE if the server has an \
         authority of its own; a network that wants a login first does this too"
    )]
    Tls {
        /// The address.
        url: Address,
        /// What is wrong.
        problem: String,
    },
    /// The proxy in between does not let the connection through.
    #[error(
        "no connection to {url} through the proxy {proxy}: {problem}; check HTTPS_PROXY, NO_PROXY and the proxy's own log"
    )]
    Proxy {
        /// The other end.
        url: Address,
        /// Host and port.
        proxy: String,
        /// What happened.
        problem: String,
    },
    /// An HTTP exchange was answered with an error.
    #[error("{url} answered {status} to an exchange{detail}")]
    Status {
        /// The server.
        url: Address,
        /// The HTTP status.
        status: u16,
        /// The server's words; empty, or starts with `: `.
        detail: String,
    },
    /// An HTTP exchange did not come about.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The connection's task is gone.
    #[error("the connection ended")]
    Ended,
}

impl LinkError {
    /// Sorts an error of the MQTT client.
    pub(super) fn from_client(url: &Address, error: ConnectionError, waited: Duration) -> Self {
        let url = url.clone();
        match error {
            ConnectionError::ConnectionRefused(code) => Self::refused(url, code),
            ConnectionError::NetworkTimeout | ConnectionError::FlushTimeout => Self::Silent { url, waited },
            ConnectionError::MqttState(StateError::AwaitPingResp) => Self::Silent { url, waited },
            ConnectionError::MqttState(StateError::ConnectionAborted) => Self::Closed { url },
            ConnectionError::MqttState(StateError::Io(source)) | ConnectionError::Io(source) => {
                Self::network(url, source)
            }
            ConnectionError::MqttState(StateError::Deserialization(rumqttc::mqttbytes::Error::Io(
                source,
            ))) => Self::network(url, source),
            ConnectionError::Tls(error) => Self::Tls { url, problem: shortened(&error.to_string()) },
            ConnectionError::Proxy(error) => {
                // Whoever has made the link knows which; see there.
                Self::Proxy { url, proxy: String::new(), problem: shortened(&error.to_string()) }
            }
            ConnectionError::RequestsDone => Self::Ended,
            other => match tls_problem(&other) {
                Some(problem) => Self::Tls { url, problem: shortened(&problem) },
                None => Self::Protocol { url, problem: shortened(&other.to_string()) },
            },
        }
    }

    fn refused(url: Address, code: ConnectReturnCode) -> Self {
        match code {
            ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized => {
                Self::Credentials { url }
            }
            ConnectReturnCode::ServiceUnavailable => {
                Self::Refused { url, reason: "it is not ready, or has too many connections" }
            }
            ConnectReturnCode::BadClientId => {
                Self::Refused { url, reason: "it does not like the device's name" }
            }
            ConnectReturnCode::RefusedProtocolVersion | ConnectReturnCode::Success => {
                Self::Refused { url, reason: "it does not speak MQTT 3.1.1" }
            }
        }
    }

    fn network(url: Address, source: std::io::Error) -> Self {
        use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        match source.kind() {
            BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof => Self::Closed { url },
            // The standard library has no kind of its own for a failed look-up, only these words.
            _ if source.to_string().starts_with("failed to lookup address information") => {
                Self::UnknownHost { url }
            }
            _ => Self::Network { url, source },
        }
    }

    /// Whether trying again soon is of little use.
    #[must_use]
    pub fn is_credentials(&self) -> bool {
        matches!(self, Self::Credentials { .. })
    }
}

/// What went wrong with TLS, if that is the cause: a WebSocket has it in the innermost of its errors.
fn tls_problem(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(tls) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Some(tls.to_string());
        }
        cause = error.source();
    }
    None
}

/// What a stranger sent may be long.
fn shortened(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}
