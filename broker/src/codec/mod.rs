//! MQTT 3.1.1 and 5 on the wire, the server's side: what clients send is decoded, what they receive is encoded.
//!
//! Everything here is pure, borrows from the packet's bytes and allocates next to nothing. Decoding is strict where
//! the standard says that a server must close the connection, and never panics: all reading goes through
//! [`reader::Reader`], which returns an error at the end of its bytes. The size of a packet is known and bounded
//! before its body is waited for ([`frame`]).

pub(crate) mod connect;
pub(crate) mod encode;
pub(crate) mod frame;
pub(crate) mod packet;
pub(crate) mod properties;
pub(crate) mod reader;
pub(crate) mod reason;
#[cfg(test)]
mod tests;

use reason::Reason;

/// The two versions that the gate speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V311,
    V5,
}

/// Why a packet cannot be accepted; every one of them ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    /// The bytes do not form a packet.
    #[error("malformed packet: {0}")]
    Malformed(&'static str),
    /// The bytes form a packet that may not be sent, or not now.
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    /// The packet is larger than was agreed.
    #[error("packet of {bytes} bytes, at most {limit} are accepted")]
    TooLarge {
        /// Its size with the fixed header.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A topic name with a wildcard, or none.
    #[error("not a topic name")]
    TopicName,
    /// A topic alias; none were offered.
    #[error("topic alias used, none were offered")]
    TopicAlias,
    /// A subscription identifier; they were announced as not available.
    #[error("subscription identifier used, they are not available")]
    SubscriptionIdentifier,
}

impl DecodeError {
    /// The reason for the DISCONNECT of an MQTT 5 client.
    pub(crate) fn reason(self) -> Reason {
        match self {
            DecodeError::Malformed(_) => Reason::MalformedPacket,
            DecodeError::Protocol(_) => Reason::ProtocolError,
            DecodeError::TooLarge { .. } => Reason::PacketTooLarge,
            DecodeError::TopicName => Reason::TopicNameInvalid,
            DecodeError::TopicAlias => Reason::TopicAliasInvalid,
            DecodeError::SubscriptionIdentifier => Reason::SubscriptionIdentifiersNotSupported,
        }
    }
}
