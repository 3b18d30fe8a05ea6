//! The network of one scenario: a server, venues with devices in them, and between them a router that does to packets what it
//! is told.
//!
//! ```text
//!  server 198.51.100.2 ── srv 198.51.100.1  router  dev0 10.0.0.1 ── eth0 10.0.0.2  venue 0
//!                                                   dev1 10.0.1.1 ── eth0 10.0.1.2  venue 1 …
//! ```

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use super::dns::Dns;
use super::namespace::Namespace;

/// The server's name, in a domain that nobody has.
pub(super) const NAME: &str = "fleet.test";
/// Where it is.
pub(super) const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

/// Nobody is there, and nobody says so.
pub(super) const NOWHERE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 2);

/// What the router has to count and do; `wall` sees every packet that comes in, `gate` those that go through.
const RULES: &str = r#"
table ip venue {
    counter up { }
    counter down { }
    counter attempts { }
    chain count {
        type filter hook prerouting priority -300;
        iifname "dev*" counter name "up"
        iifname "dev*" tcp dport { 80, 443, 1883, 8883 } tcp flags & (fin|syn|rst|ack) == syn counter name "attempts"
    }
    chain wall { type filter hook prerouting priority -200; }
    chain gate { type filter hook forward priority 0; }
    chain back {
        type filter hook postrouting priority 300;
        oifname "dev*" counter name "down"
    }
}
"#;

/// Packets and bytes that the router has counted.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counted {
    /// Bytes from devices.
    pub(super) up: u64,
    /// Bytes to devices.
    pub(super) down: u64,
    /// First packets of connections, repeated ones as well.
    pub(super) attempts: u64,
}

impl Counted {
    /// What was counted since `earlier`.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            up: self.up - earlier.up,
            down: self.down - earlier.down,
            attempts: self.attempts - earlier.attempts,
        }
    }
}

/// The network.
pub(super) struct Net {
    pub(super) server: Namespace,
    pub(super) router: Namespace,
    pub(super) venues: Vec<Namespace>,
    pub(super) dns: Dns,
    /// The file that tells venue 0 its name server.
    resolver: PathBuf,
}

impl Net {
    /// A network with so many venues; its files are in `folder`.
    pub(super) fn new(folder: &Path, venues: u8) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let (server, router) = (Namespace::new(&[])?, Namespace::new(&[])?);
        router.set("ipv4/ip_forward", "1")?;
        let peer = server.path();
        router.ip(&format!(
            "link add srv type veth peer name eth0 netns {peer}\nlink set srv up\naddress add 198.51.100.1/24 dev srv\n"
        ))?;
        server.ip(
            "address add 198.51.100.2/24 dev eth0\nlink set eth0 up\nroute add default via 198.51.100.1\n",
        )?;
        let hosts = folder.join("hosts");
        fs::write(&hosts, "127.0.0.1 localhost\n")?;
        let mut all = Vec::new();
        for n in 0..venues {
            let resolver = folder.join(format!("resolv-{n}.conf"));
            fs::write(&resolver, format!("nameserver 10.0.{n}.1\n"))?;
            let venue = Namespace::new(&[("/etc/resolv.conf", resolver), ("/etc/hosts", hosts.clone())])?;
            let peer = venue.path();
            router.ip(&format!(
                "link add dev{n} type veth peer name eth0 netns {peer}\nlink set dev{n} up\n\
                 address add 10.0.{n}.1/24 dev dev{n}\n"
            ))?;
            venue.ip(&format!(
                "address add 10.0.{n}.2/24 dev eth0\nlink set eth0 up\nroute add default via 10.0.{n}.1\n"
            ))?;
            all.push(venue);
        }
        router.run("nft", &["-f", "-"], RULES)?;
        let dns = Dns::start(&router)?;
        Ok(Self { server, router, venues: all, dns, resolver: folder.join("resolv-0.conf") })
    }

    /// From now on these rules hold, each with its chain, and no others.
    pub(super) fn rules(&self, rules: &[(&str, &str)]) {
        let mut text = "flush chain ip venue wall\nflush chain ip venue gate\n".to_owned();
        for (chain, rule) in rules {
            text.push_str(&format!("add rule ip venue {chain} {rule}\n"));
        }
        self.router.run("nft", &["-f", "-"], &text).expect("the router takes its rules");
    }

    /// Both directions of venue 0's line carry no more than this, with the queue of a home router.
    pub(super) fn rate(&self, kbit: Option<u32>) {
        for interface in ["srv", "dev0"] {
            let _ = self.router.run("tc", &["qdisc", "del", "dev", interface, "root"], "");
            if let Some(kbit) = kbit {
                let rate = format!("{kbit}kbit");
                let line = ["qdisc", "add", "dev", interface, "root", "tbf", "rate", &rate, "burst", "3000"];
                let line = [&line[..], &["latency", "1000ms"]].concat();
                self.router.run("tc", &line, "").expect("the router can shape its traffic");
            }
        }
    }

    /// The device of venue 0 gets an address in another network, and another name server with it; the old one is gone at once,
    /// and nobody is told.
    pub(super) fn move_device(&self) {
        let failed = "an address can be changed";
        self.router.ip("address flush dev dev0\naddress add 10.0.200.1/24 dev dev0\n").expect(failed);
        fs::write(&self.resolver, "nameserver 10.0.200.1\n").expect(failed);
        self.venues[0]
            .ip("address flush dev eth0\naddress add 10.0.200.2/24 dev eth0\nroute replace default via 10.0.200.1\n")
            .expect(failed);
    }

    /// The device of venue 0 has IPv6 as well, as far as the router: that passes none of it on.
    pub(super) fn half_ipv6(&self) {
        let failed = "an address can be added";
        self.router.ip("address add 2001:db8::1/64 dev dev0 nodad\n").expect(failed);
        self.venues[0]
            .ip("address add 2001:db8::2/64 dev eth0 nodad\nroute add default via 2001:db8::1\n")
            .expect(failed);
    }

    /// Both ends find out by themselves which packets get through, as they do with `sysctl net.ipv4.tcp_mtu_probing=1`; and every
    /// packet of theirs is one, so that its length can be seen.
    pub(super) fn probe_mtu(&self) {
        for end in [&self.server, &self.venues[0]] {
            end.set("ipv4/tcp_mtu_probing", "1").expect("a setting of our own network");
            end.ip("link set dev eth0 gso_max_segs 1\n").expect("a setting of our own network");
        }
    }

    /// What was counted so far.
    pub(super) fn counted(&self) -> Counted {
        let text = self.router.ask("nft", &["-j", "list", "counters"], "").unwrap_or_default();
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let one = |name: &str, what: &str| {
            let all = parsed["nftables"].as_array().into_iter().flatten();
            let counter = all.filter_map(|item| item.get("counter")).find(|counter| counter["name"] == name);
            counter.and_then(|counter| counter[what].as_u64()).unwrap_or(0)
        };
        Counted { up: one("up", "bytes"), down: one("down", "bytes"), attempts: one("attempts", "packets") }
    }
}
