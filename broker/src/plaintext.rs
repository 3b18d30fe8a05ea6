//! Who may send a password over a connection that is not encrypted: the machine itself, trusted proxies (which end TLS
//! in front of us), or everybody if the administrator says so.

use std::net::IpAddr;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error as _};

use crate::principal::Transport;

/// A network of addresses, `10.0.0.0/8` or `2001:db8::/32`; one address alone is a network of itself, and counts as IPv4
/// if it is an IPv4 address mapped into IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix_bits: u32,
}

/// The text is no address and no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an IP address or a network such as 10.0.0.0/8")]
pub struct NetworkError(String);

impl Network {
    /// True if `address` belongs to this network. An IPv4 address mapped into IPv6 counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                same_prefix(own.to_bits().into(), other.to_bits().into(), 32 - self.prefix_bits)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                same_prefix(own.to_bits(), other.to_bits(), 128 - self.prefix_bits)
            }
            _ => false,
        }
    }
}

/// True if `a` and `b` are equal but for their lowest `host_bits` bits.
fn same_prefix(a: u128, b: u128, host_bits: u32) -> bool {
    (a ^ b).checked_shr(host_bits).unwrap_or(0) == 0
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Network, NetworkError> {
        let error = || NetworkError(text.to_owned());
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.trim().parse().map_err(|_| error())?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let prefix_bits = prefix.map_or(Ok(whole), |bits| bits.trim().parse::<u32>()).map_err(|_| error())?;
        if prefix_bits > whole {
            return Err(error());
        }
        if prefix_bits == whole {
            let address = address.to_canonical();
            return Ok(Network { address, prefix_bits: if address.is_ipv4() { 32 } else { 128 } });
        }
        Ok(Network { address, prefix_bits })
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Network, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// From where credentials are taken over a connection that is not encrypted. The default: from this machine alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlaintextPolicy {
    /// Proxies that end TLS in front of us.
    pub trusted_proxies: Vec<Network>,
    /// Take them from everywhere (`FLEET_ALLOW_PLAINTEXT=1`).
    pub allow_all: bool,
}

impl PlaintextPolicy {
    /// True if credentials from `peer` over `transport` may be looked at.
    #[must_use]
    pub fn permits(&self, peer: IpAddr, transport: Transport) -> bool {
        !transport.is_plaintext()
            || self.allow_all
            || peer.to_canonical().is_loopback()
            || self.trusted_proxies.iter().any(|network| network.contains(peer))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn permits(proxies: &[&str], allow_all: bool, peer: &str, transport: Transport) -> bool {
        let trusted_proxies = proxies.iter().map(|text| text.parse().unwrap()).collect();
        PlaintextPolicy { trusted_proxies, allow_all }.permits(peer.parse().unwrap(), transport)
    }

    #[test]
    fn plain_tcp_is_for_loopback_trusted_proxies_and_those_who_ask_for_it() {
        for (proxies, allow_all, peer, expected) in [
            (&[][..], false, "127.0.0.1", true),
            (&[], false, "127.9.9.9", true),
            (&[], false, "::1", true),
            (&[], false, "::ffff:127.0.0.1", true),
            (&[], false, "10.0.0.7", false),
            (&[], false, "::ffff:10.0.0.7", false),
            (&["10.0.0.7"], false, "10.0.0.7", true),
            (&["10.0.0.7"], false, "::ffff:10.0.0.7", true),
            (&["10.0.0.7"], false, "10.0.0.8", false),
            (&["10.0.0.0/8", "2001:db8::/32"], false, "10.255.0.1", true),
            (&["10.0.0.0/8", "2001:db8::/32"], false, "2001:db8:1::5", true),
            (&["10.0.0.0/8", "2001:db8::/32"], false, "2001:db9::5", false),
            (&["0.0.0.0/0"], false, "8.8.8.8", true),
            (&["0.0.0.0/0"], false, "2001:db8::1", false),
            (&["::/0"], false, "2001:db8::1", true),
            (&[], true, "8.8.8.8", true),
        ] {
            assert_eq!(
                permits(proxies, allow_all, peer, Transport::Tcp),
                expected,
                "{peer} with {proxies:?}"
            );
            assert!(permits(proxies, allow_all, peer, Transport::Tls), "TLS is never plain");
            assert!(
                permits(proxies, allow_all, peer, Transport::WebSocket),
                "an encrypted WebSocket is never plain"
            );
        }
    }

    #[test]
    fn a_network_that_is_none_is_an_error_that_quotes_it() {
        for text in ["", "10.0.0", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/-1", "host.example", "/8"]
        {
            let error = text.parse::<Network>().unwrap_err();
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn a_network_contains_what_it_should() {
        let range: Network = "10.1.0.0/16".parse().unwrap();
        assert!(range.contains("10.1.255.3".parse().unwrap()));
        assert!(range.contains("::ffff:10.1.2.3".parse().unwrap()));
        assert!(!range.contains("10.2.0.1".parse().unwrap()));
        let all: Network = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("203.0.113.9".parse().unwrap()));
        let six: Network = "fd00::/8".parse().unwrap();
        assert!(six.contains("fd12::1".parse().unwrap()) && !six.contains("fe80::1".parse().unwrap()));
        let mapped: Network = "::ffff:10.1.2.3".parse().unwrap();
        assert!(
            mapped.contains("10.1.2.3".parse().unwrap()) && !mapped.contains("10.1.2.4".parse().unwrap())
        );
    }
}
