//! Addresses of servers, checked once.
//!
//! Only what the agent needs of a URL: scheme, host, port, path and query. User names and passwords in it are refused,
//! because URLs end up in logs and process lists.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// Longest address that is accepted, in bytes.
const URL_MAX_LEN: usize = 2048;

/// How to speak to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// HTTP without encryption.
    Http,
    /// HTTP over TLS.
    Https,
    /// MQTT over TCP without encryption.
    Mqtt,
    /// MQTT over TLS.
    Mqtts,
    /// MQTT over WebSocket without encryption.
    Ws,
    /// MQTT over WebSocket over TLS.
    Wss,
}

impl Scheme {
    /// Its name before `://`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Mqtt => "mqtt",
            Self::Mqtts => "mqtts",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }

    /// The port that is meant when none is written.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http | Self::Ws => 80,
            Self::Https | Self::Wss => 443,
            Self::Mqtt => 1883,
            Self::Mqtts => 8883,
        }
    }

    /// Whether everything said over it is encrypted.
    #[must_use]
    pub const fn is_encrypted(self) -> bool {
        matches!(self, Self::Https | Self::Mqtts | Self::Wss)
    }
}

/// Why a text is not a server's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// More than 2048 bytes.
    #[error("it is longer than {URL_MAX_LEN} characters")]
    TooLong,
    /// A blank, a control character or one outside ASCII.
    #[error("it contains {0:?}, which an address cannot have")]
    BadCharacter(char),
    /// No `scheme://`, or another one than is accepted here.
    #[error("it does not start with {0}")]
    Scheme(&'static str),
    /// `user@` or `user:password@`.
    #[error("it carries a user name or password; credentials never go into an address")]
    Credentials,
    /// No host, or one that is no host name and no IP address.
    #[error("it has no proper host name or IP address after ://")]
    Host,
    /// Not a number from 1 to 65535.
    #[error("its port is not a number from 1 to 65535")]
    Port,
    /// `#…`.
    #[error("it has a fragment (#…), which a server never sees")]
    Fragment,
}

#[derive(Clone, PartialEq, Eq)]
struct Address {
    scheme: Scheme,
    host: String,
    port: u16,
    /// Path and query; empty, or starts with `/`.
    target: String,
}

fn parse(text: &str, accepted: &[Scheme], starts: &'static str) -> Result<Address, UrlError> {
    if text.len() > URL_MAX_LEN {
        return Err(UrlError::TooLong);
    }
    if let Some(bad) = text.chars().find(|c| !c.is_ascii_graphic()) {
        return Err(UrlError::BadCharacter(bad));
    }
    let (scheme, rest) = text.split_once("://").ok_or(UrlError::Scheme(starts))?;
    let scheme = accepted
        .iter()
        .copied()
        .find(|known| known.as_str().eq_ignore_ascii_case(scheme))
        .ok_or(UrlError::Scheme(starts))?;
    let authority_len = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(authority_len);
    if authority.contains('@') {
        return Err(UrlError::Credentials);
    }
    if target.contains('#') {
        return Err(UrlError::Fragment);
    }
    let (host, port) = split_port(authority)?;
    let port = match port {
        None => scheme.default_port(),
        Some(digits) => port_number(digits)?,
    };
    let target = if target.starts_with('?') { format!("/{target}") } else { target.to_owned() };
    Ok(Address { scheme, host, port, target })
}

fn split_port(authority: &str) -> Result<(String, Option<&str>), UrlError> {
    if let Some(inside) = authority.strip_prefix('[') {
        let (address, after) = inside.split_once(']').ok_or(UrlError::Host)?;
        let address = Ipv6Addr::from_str(address).map_err(|_| UrlError::Host)?;
        return match after.strip_prefix(':') {
            Some(port) => Ok((address.to_string(), Some(port))),
            None if after.is_empty() => Ok((address.to_string(), None)),
            None => Err(UrlError::Host),
        };
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if host.is_empty() || host.len() > 253 || !host.chars().all(good) || host.starts_with(['.', '-']) {
        return Err(UrlError::Host);
    }
    Ok((host.to_ascii_lowercase(), port))
}

fn port_number(digits: &str) -> Result<u16, UrlError> {
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(UrlError::Port);
    }
    digits.parse().ok().filter(|port| *port != 0).ok_or(UrlError::Port)
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme.as_str())?;
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?
        } else {
            f.write_str(&self.host)?
        }
        if self.port != self.scheme.default_port() {
            write!(f, ":{}", self.port)?;
        }
        f.write_str(&self.target)
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || IpAddr::from_str(host).is_ok_and(|address| address.is_loopback())
}

macro_rules! url_type {
    ($(#[$doc:meta])* $name:ident, $accepted:expr, $starts:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq)]
        pub struct $name(Address);

        impl $name {
            /// How to speak to it.
            #[must_use]
            pub fn scheme(&self) -> Scheme {
                self.0.scheme
            }

            /// Host name in lower case, or IP address (IPv6 without brackets).
            #[must_use]
            pub fn host(&self) -> &str {
                &self.0.host
            }

            /// The port, the scheme's own if none was written.
            #[must_use]
            pub fn port(&self) -> u16 {
                self.0.port
            }

            /// Path and query; empty if none was written.
            #[must_use]
            pub fn path(&self) -> &str {
                &self.0.target
            }

            /// Whether it is this machine by name or address.
            #[must_use]
            pub fn is_loopback(&self) -> bool {
                is_loopback(&self.0.host)
            }
        }

        impl FromStr for $name {
            type Err = UrlError;
            fn from_str(text: &str) -> Result<Self, UrlError> {
                parse(text, &$accepted, $starts).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

url_type!(
    /// The address of an HTTP server: `http://` or `https://`.
    HttpUrl,
    [Scheme::Http, Scheme::Https],
    "http:// or https://"
);
url_type!(
    /// The address of an MQTT broker: `mqtt://`, `mqtts://`, `ws://` or `wss://`.
    MqttUrl,
    [Scheme::Mqtt, Scheme::Mqtts, Scheme::Ws, Scheme::Wss],
    "mqtt://, mqtts://, ws:// or wss://"
);

impl HttpUrl {
    /// The address of `path` (which starts with `/`) below this one, whose own query is left out.
    #[must_use]
    pub fn join(&self, path: &str) -> String {
        let text = self.to_string();
        let base = text.split('?').next().unwrap_or_default().trim_end_matches('/');
        format!("{base}{path}")
    }
}
