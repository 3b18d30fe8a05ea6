//! Where a link leads.

use std::fmt;

use crate::config::{HttpUrl, MqttUrl, Scheme};

/// A way of connecting that this agent has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// MQTT over TCP.
    Mqtt,
    /// MQTT over TLS.
    Mqtts,
    /// MQTT over WebSocket over TLS.
    Wss,
    /// HTTP exchange over TLS.
    Https,
    /// HTTP exchange without encryption.
    Http,
}

impl Transport {
    /// Its name in a birth.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::Mqtts => "mqtts",
            Self::Wss => "wss",
            Self::Https => "https",
            Self::Http => "http",
        }
    }
}

/// A broker, or the server for HTTP exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// MQTT.
    Broker(MqttUrl),
    /// HTTP exchange.
    Exchange(HttpUrl),
}

impl Address {
    /// The transport, if this agent has it.
    #[must_use]
    pub fn transport(&self) -> Option<Transport> {
        match self.scheme() {
            Scheme::Mqtt => Some(Transport::Mqtt),
            Scheme::Mqtts => Some(Transport::Mqtts),
            Scheme::Wss => Some(Transport::Wss),
            Scheme::Https => Some(Transport::Https),
            Scheme::Http => Some(Transport::Http),
            Scheme::Ws => None,
        }
    }

    /// How to speak to it.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        match self {
            Self::Broker(url) => url.scheme(),
            Self::Exchange(url) => url.scheme(),
        }
    }

    /// Host name or IP address.
    #[must_use]
    pub fn host(&self) -> &str {
        match self {
            Self::Broker(url) => url.host(),
            Self::Exchange(url) => url.host(),
        }
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        match self {
            Self::Broker(url) => url.port(),
            Self::Exchange(url) => url.port(),
        }
    }
}

impl From<MqttUrl> for Address {
    fn from(url: MqttUrl) -> Self {
        Self::Broker(url)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broker(url) => url.fmt(f),
            Self::Exchange(url) => url.fmt(f),
        }
    }
}
