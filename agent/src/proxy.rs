//! HTTP proxies, as the environment names them: for whatever the agent connects to, by HTTP or MQTT.
//!
//! `HTTPS_PROXY` is for `https://`, `mqtts://` and `wss://`, `HTTP_PROXY` for `http://`, `ALL_PROXY` for those that have none of
//! their own, and plain MQTT is not led through any. Names in lower case go before those in upper case. `NO_PROXY` names what
//! is reached directly: hosts with everything below them, addresses, networks, `*`.
//!
//! A proxy's address may hold a password. It shows in no text of this module.

mod bypass;
#[cfg(test)]
mod tests;
mod tunnel;

use std::fmt;

use crate::config::{Scheme, Secret};

#[cfg(fuzzing)]
pub(crate) use tunnel::judge;
pub(crate) use tunnel::{TunnelError, through, through_blocking};

/// A proxy.
#[derive(Debug, Clone)]
pub struct Proxy {
    /// Whether it is spoken to over TLS.
    pub is_encrypted: bool,
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Name and password, if it wants them.
    pub login: Option<(String, Secret)>,
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// A variable does not name a proxy that this agent can use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the environment variable {variable} names no proxy that this agent can use: http://HOST:PORT or https://HOST:PORT is expected, \
     with NAME:PASSWORD@ before HOST if it wants that"
)]
pub struct ProxyError {
    /// Its name; the value may hold a password.
    pub variable: &'static str,
}

const FOR_HTTPS: [&str; 4] = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
const FOR_HTTP: [&str; 4] = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"];
const FOR_NONE: [&str; 2] = ["no_proxy", "NO_PROXY"];

/// The proxy for a connection to this host and port, if there is one.
///
/// # Errors
/// The variable that is for it cannot be used.
pub fn for_target(scheme: Scheme, host: &str, port: u16) -> Result<Option<Proxy>, ProxyError> {
    choose(|name| std::env::var(name).ok(), scheme, host, port)
}

/// The same with these variables.
fn choose(
    variable: impl Fn(&'static str) -> Option<String>,
    scheme: Scheme,
    host: &str,
    port: u16,
) -> Result<Option<Proxy>, ProxyError> {
    let names = match scheme {
        Scheme::Https | Scheme::Mqtts | Scheme::Wss => &FOR_HTTPS,
        Scheme::Http => &FOR_HTTP,
        Scheme::Mqtt | Scheme::Ws => return Ok(None),
    };
    let set = |name: &&'static str| variable(name).filter(|value| !value.trim().is_empty());
    let Some((name, value)) = names.iter().find_map(|name| Some((*name, set(name)?))) else {
        return Ok(None);
    };
    let direct = FOR_NONE.iter().find_map(set).unwrap_or_default();
    if bypass::is_direct(&direct, host, port) {
        return Ok(None);
    }
    parse(value.trim()).map(Some).ok_or(ProxyError { variable: name })
}

fn parse(text: &str) -> Option<Proxy> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
    let is_encrypted = match scheme.to_ascii_lowercase().as_str() {
        "http" => false,
        "https" => true,
        _ => return None,
    };
    let authority = rest.split(['/', '?', '#']).next()?;
    let (login, place) = match authority.rsplit_once('@') {
        Some((login, place)) => (Some(login), place),
        None => (None, authority),
    };
    let login = match login {
        Some(login) => {
            let (name, password) = login.split_once(':').unwrap_or((login, ""));
            Some((decoded(name)?, Secret::new(decoded(password)?)))
        }
        None => None,
    };
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']')?;
            address.parse::<std::net::Ipv6Addr>().ok()?;
            (address, if after.is_empty() { None } else { Some(after.strip_prefix(':')?) })
        }
        None => match place.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        },
    };
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if host.is_empty() || !host.chars().all(good) {
        return None;
    }
    let port = match port {
        Some(port) => port.parse().ok().filter(|port| *port != 0)?,
        None if is_encrypted => 443,
        None => 80,
    };
    Some(Proxy { is_encrypted, host: host.to_owned(), port, login })
}

/// Percent-decoded text without control characters: it goes into a header.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let (digits, after) = rest.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = after;
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok().filter(|text| !text.chars().any(char::is_control))
}

impl Proxy {
    /// For the HTTP client.
    pub(crate) fn for_http(&self) -> Result<ureq::Proxy, ureq::Error> {
        let protocol = if self.is_encrypted { ureq::ProxyProtocol::Https } else { ureq::ProxyProtocol::Http };
        let mut builder = ureq::Proxy::builder(protocol).host(&self.bracketed()).port(self.port);
        if let Some((name, password)) = &self.login {
            builder = builder.username(name).password(password.expose());
        }
        builder.build()
    }

    /// The host as it stands in an address.
    pub(crate) fn bracketed(&self) -> String {
        if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() }
    }
}
