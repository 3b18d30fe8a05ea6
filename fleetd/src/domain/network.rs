//! Which proxies are trusted, and where a request really came from.

use std::net::{IpAddr, SocketAddr};

use broker::plaintext::Network;

/// Where a request came from, as far as it can be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The client's address: the peer's, or the one that a trusted proxy names.
    pub address: IpAddr,
    /// Whether credentials may travel on this connection: it is encrypted, or does not leave the machine or the proxy.
    pub credentials_allowed: bool,
}

/// Who may stand between a client and this server.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    /// The addresses whose word about the client is taken.
    pub trusted: Vec<Network>,
    /// Whether credentials are taken over plain connections from anywhere.
    pub allow_plaintext: bool,
}

/// Longest chain of forwarding that is followed.
const HOPS_MAX: usize = 16;

impl Proxies {
    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(address))
    }

    /// Whether many clients may stand behind this address: this machine, or a trusted proxy.
    #[must_use]
    pub fn speaks_for_others(&self, address: IpAddr) -> bool {
        address.to_canonical().is_loopback() || self.trusts(address)
    }

    /// Whether a peer may use credentials over a connection that is not encrypted.
    #[must_use]
    pub fn plaintext_allowed(&self, peer: IpAddr) -> bool {
        self.allow_plaintext || self.speaks_for_others(peer)
    }

    /// Finds the client behind the peer. `forwarded_for` is the `X-Forwarded-For` header: each proxy appended the
    /// address it saw, so it is read from the right as long as the speaker is trusted.
    #[must_use]
    pub fn origin(&self, peer: SocketAddr, encrypted: bool, forwarded_for: Option<&str>) -> Origin {
        let peer = peer.ip().to_canonical();
        let mut address = peer;
        for hop in forwarded_for.unwrap_or_default().rsplit(',').take(HOPS_MAX) {
            let Some(named) = hop_address(hop).filter(|_| self.trusts(address)) else { break };
            address = named;
        }
        Origin { address, credentials_allowed: encrypted || self.plaintext_allowed(peer) }
    }
}

fn hop_address(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim();
    let address = hop
        .parse::<IpAddr>()
        .ok()
        .or_else(|| hop.parse::<SocketAddr>().ok().map(|socket| socket.ip()))
        .or_else(|| hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok())?;
    Some(address.to_canonical())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn proxies(list: &[&str]) -> Proxies {
        Proxies { trusted: list.iter().map(|text| text.parse().unwrap()).collect(), allow_plaintext: false }
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn only_a_trusted_peer_is_believed_about_the_client() {
        let proxies = proxies(&["192.0.2.0/24"]);
        let direct = proxies.origin("203.0.113.5:99".parse().unwrap(), false, Some("198.51.100.1"));
        assert_eq!(direct.address, address("203.0.113.5"));
        assert!(!direct.credentials_allowed);
        let behind = proxies.origin("192.0.2.8:99".parse().unwrap(), false, Some("198.51.100.1"));
        assert_eq!(behind.address, address("198.51.100.1"));
        assert!(behind.credentials_allowed);
    }

    #[test]
    fn a_client_cannot_choose_its_address_by_sending_the_header_itself() {
        let proxies = proxies(&["192.0.2.0/24"]);
        let origin =
            proxies.origin("192.0.2.8:1".parse().unwrap(), true, Some("127.0.0.1, 203.0.113.5, 192.0.2.9"));
        assert_eq!(origin.address, address("203.0.113.5"));
        let garbage =
            proxies.origin("192.0.2.8:1".parse().unwrap(), true, Some("203.0.113.5, not an address"));
        assert_eq!(garbage.address, address("192.0.2.8"));
    }

    #[test]
    fn loopback_and_encrypted_connections_may_carry_credentials() {
        let none = Proxies::default();
        assert!(none.origin("127.0.0.1:1".parse().unwrap(), false, None).credentials_allowed);
        assert!(none.origin("[::1]:1".parse().unwrap(), false, None).credentials_allowed);
        assert!(none.origin("203.0.113.5:1".parse().unwrap(), true, None).credentials_allowed);
        assert!(!none.origin("203.0.113.5:1".parse().unwrap(), false, None).credentials_allowed);
        let open = Proxies { allow_plaintext: true, ..Proxies::default() };
        assert!(open.origin("203.0.113.5:1".parse().unwrap(), false, None).credentials_allowed);
    }

    #[test]
    fn hops_may_carry_ports_and_brackets() {
        assert_eq!(hop_address(" 203.0.113.5:4711 "), Some(address("203.0.113.5")));
        assert_eq!(hop_address("[2001:db8::1]:4711"), Some(address("2001:db8::1")));
        assert_eq!(hop_address("[2001:db8::1]"), Some(address("2001:db8::1")));
        assert_eq!(hop_address("unknown"), None);
    }
}
