//! Who is at the other end of a connection, and how that is found out.
//!
//! The gate itself knows no password: it hands a [`ConnectAttempt`] to an [`Authenticator`] and gets a
//! [`Principal`] or a [`Refusal`]. Everything the gate decides later hangs on the principal, never on what a
//! client calls itself.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;

use protocol::id::{DeviceId, OrgSlug, Role, UserName};
use zeroize::Zeroizing;

use crate::tls::{CertificateHash, PeerCertificate};

/// An authenticated party.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// One device of an organisation.
    Device {
        /// Its organisation.
        org: OrgSlug,
        /// Its id within the organisation.
        device: DeviceId,
        /// Which of its certificates it came with, if it came with one: connections can be ended by it.
        credential: Option<String>,
    },
    /// A person or a service account of an organisation, with the role that decides what it may do.
    Person {
        /// The organisation.
        org: OrgSlug,
        /// The user's name within the organisation.
        user: UserName,
        /// What the user may do.
        role: Role,
        /// Which of the user's keys it came with, if the authenticator tells them apart: connections can be ended by it.
        credential: Option<String>,
    },
    /// A part of the server itself, such as `fleetd`. It may do everything.
    Service {
        /// A name for logs.
        name: String,
    },
}

impl Principal {
    /// The identity without what may change about it (the role).
    pub fn key(&self) -> PrincipalKey {
        match self {
            Principal::Device { org, device, .. } => {
                PrincipalKey::Device { org: org.clone(), device: device.clone() }
            }
            Principal::Person { org, user, .. } => {
                PrincipalKey::Person { org: org.clone(), user: user.clone() }
            }
            Principal::Service { name } => PrincipalKey::Service { name: name.clone() },
        }
    }

    /// The organisation; a service belongs to none.
    pub fn org(&self) -> Option<&OrgSlug> {
        match self {
            Principal::Device { org, .. } | Principal::Person { org, .. } => Some(org),
            Principal::Service { .. } => None,
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.key().fmt(f)
    }
}

/// The identity of a [`Principal`]: two connections with the same key are the same party.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PrincipalKey {
    /// A device.
    Device {
        /// Its organisation.
        org: OrgSlug,
        /// Its id within the organisation.
        device: DeviceId,
    },
    /// A person or a service account.
    Person {
        /// The organisation.
        org: OrgSlug,
        /// The user's name within the organisation.
        user: UserName,
    },
    /// A part of the server.
    Service {
        /// Its name.
        name: String,
    },
}

impl fmt::Display for PrincipalKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PrincipalKey::Device { org, device } => write!(f, "device {org}/{device}"),
            PrincipalKey::Person { org, user } => write!(f, "user {org}/{user}"),
            PrincipalKey::Service { name } => write!(f, "service {name}"),
        }
    }
}

/// What a client sent to get in, and from where.
#[derive(Clone, Debug)]
pub struct ConnectAttempt {
    /// As the client sent it: any text of at most [`Limits::client_id_bytes`](crate::Limits::client_id_bytes)
    /// bytes, or empty.
    pub client_id: String,
    /// The user name, if one was sent.
    pub username: Option<String>,
    /// The password, if one was sent.
    pub password: Option<Secret>,
    /// The other end of the connection.
    pub peer: SocketAddr,
    /// What carries the connection.
    pub transport: Transport,
    /// The certificate that the other end of an encrypted connection has shown, and whose key it has: it was signed by an
    /// authority that the listener asks for. Whether it is still good is for the authenticator to find out.
    pub certificate: Option<CertificateHash>,
}

/// Where a connection comes from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The other end.
    pub peer: SocketAddr,
    /// What carries it.
    pub transport: Transport,
    /// What the other end shows in the handshake, if the connection has one.
    pub certificate: PeerCertificate,
}

impl Origin {
    /// A connection without a certificate.
    #[must_use]
    pub fn new(peer: SocketAddr, transport: Transport) -> Origin {
        Origin { peer, transport, certificate: PeerCertificate::default() }
    }
}

/// What carries a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// MQTT over plain TCP.
    Tcp,
    /// MQTT over TLS.
    Tls,
    /// MQTT over an encrypted WebSocket.
    WebSocket,
    /// No MQTT: HTTP requests of a device, one after the other.
    Exchange,
}

impl Transport {
    /// True if a password can be read on the way.
    pub fn is_plaintext(self) -> bool {
        matches!(self, Transport::Tcp)
    }
}

/// A password or token as it was sent. It never shows itself, and its memory is wiped when it is dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes over the bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Secret {
        Secret(Zeroizing::new(bytes.into()))
    }

    /// The bytes. Compare them in constant time.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The secret as text, if it is UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Why somebody does not get in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// Unknown name, or wrong password or token.
    #[error("wrong user name, password or token")]
    BadCredentials,
    /// Known, but may not connect (disabled, decommissioned).
    #[error("not allowed to connect")]
    NotAuthorized,
    /// Too many wrong attempts lately; come back later.
    #[error("too many failed attempts, try again later")]
    TooManyFailures,
    /// The connection is not encrypted and this peer may not send a password over it.
    #[error("passwords are not accepted over an unencrypted connection, use TLS")]
    PlaintextForbidden,
    /// The check cannot be made now (database away).
    #[error("the server cannot check credentials now, try again later")]
    Unavailable,
}

/// The future that an [`Authenticator`] returns.
pub type Authentication<'a> = Pin<Box<dyn Future<Output = Result<Principal, Refusal>> + Send + 'a>>;

/// Decides who somebody is.
pub trait Authenticator: Send + Sync + 'static {
    /// Checks one attempt. The gate asks for every one, in any number at a time, and bounds how long it waits; what is slow
    /// about a check has to be bounded here. The future is dropped when the client goes.
    fn authenticate<'a>(&'a self, attempt: ConnectAttempt) -> Authentication<'a>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_show_in_debug_output() {
        let attempt = ConnectAttempt {
            client_id: "c".into(),
            username: Some("u".into()),
            password: Some(Secret::new("hunter2")),
            peer: ([127, 0, 0, 1], 1).into(),
            transport: Transport::Tcp,
            certificate: None,
        };
        assert!(!format!("{attempt:?}").contains("hunter2"));
    }
}
