//! What networks do to a device, one by one.

use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fleetd::authority::Authority;

use super::backlog::{self, Times};
use super::boxes::{self, LateLine, Portal};
use super::course::NOTICED;
use super::dns::Mode;
use super::site::Site;
use super::venue::SERVER;

/// The router, as venue 0 sees it.
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

/// One fault.
pub(super) struct Scenario {
    /// Its name for `--only`.
    pub(super) name: &'static str,
    /// What happens, for the table.
    pub(super) what: &'static str,
    /// For how long.
    pub(super) lasts: Duration,
    /// For how long with `--quick`.
    pub(super) quick: Duration,
    /// Before the agent starts.
    pub(super) prepare: Step,
    /// The fault begins.
    pub(super) on: Step,
    /// The fault ends.
    pub(super) off: Step,
    /// What is to be seen.
    pub(super) expect: Expect,
    /// What must not be, besides.
    pub(super) check: Check,
}

type Step = Box<dyn Fn(&mut Site) + Send + Sync>;
type Check = Box<dyn Fn(&Site) -> Vec<String> + Send + Sync>;

/// What is to be seen while the fault lasts.
#[derive(Debug, Default)]
pub(super) struct Expect {
    /// The agent says that it is not connected.
    pub(super) noticed_within: Option<Duration>,
    /// The link over which it is connected in the end: one of these.
    pub(super) rungs: &'static [&'static str],
    /// Words in `status` at some time.
    pub(super) says: &'static [&'static str],
}

fn minutes(lasts: u64, quick: u64) -> (Duration, Duration) {
    (Duration::from_secs(lasts * 60), Duration::from_secs(quick))
}

fn nothing() -> Step {
    Box::new(|_| ())
}

fn rules(rules: &'static [(&'static str, &'static str)]) -> Step {
    Box::new(|site: &mut Site| site.net.rules(rules))
}

/// A scenario in which the router does to packets what rules say.
fn by_rules(
    name: &'static str,
    what: &'static str,
    (lasts, quick): (Duration, Duration),
    on: &'static [(&'static str, &'static str)],
    expect: Expect,
) -> Scenario {
    Scenario {
        name,
        what,
        lasts,
        quick,
        prepare: nothing(),
        on: rules(on),
        off: rules(&[]),
        expect,
        check: Box::new(|_| vec![]),
    }
}

/// All of them but those that have a course of their own.
pub(super) fn all() -> Vec<Scenario> {
    const EVERYTHING: &[(&str, &str)] = &[("wall", "drop")];
    const RESETS: &[(&str, &str)] = &[("gate", "meta l4proto tcp reject with tcp reset")];
    vec![
        loss(),
        late_line(),
        thin_line(),
        by_rules(
            "black-hole",
            "every packet vanishes, and nobody says so",
            minutes(10, 110),
            EVERYTHING,
            Expect { noticed_within: Some(NOTICED), ..Expect::default() },
        ),
        by_rules(
            "one-way",
            "packets from the server vanish, those to it arrive",
            minutes(4, 100),
            &[("wall", "iifname \"srv\" drop")],
            Expect { noticed_within: Some(NOTICED), ..Expect::default() },
        ),
        by_rules(
            "resets",
            "every connection is reset, old and new",
            minutes(3, 45),
            RESETS,
            Expect { noticed_within: Some(Duration::from_secs(10)), ..Expect::default() },
        ),
        dns_gone(),
        by_rules(
            "mqtt-blocked",
            "packets to and from the MQTT ports vanish",
            minutes(5, 200),
            &[("gate", "tcp dport { 1883, 8883 } drop"), ("gate", "tcp sport { 1883, 8883 } drop")],
            Expect { noticed_within: Some(NOTICED), rungs: &["wss"], ..Expect::default() },
        ),
        by_rules(
            "only-https",
            "everything but HTTPS is refused (ICMP: prohibited)",
            minutes(3, 120),
            &[
                ("gate", "tcp dport 443 accept"),
                ("gate", "tcp sport 443 accept"),
                ("gate", "reject with icmp type admin-prohibited"),
            ],
            Expect { noticed_within: Some(NOTICED), rungs: &["wss"], ..Expect::default() },
        ),
        plain_https_alone(),
        broken_ipv6(),
        small_packets(),
        captive_portal(),
        address_change(),
        expired_certificate(),
    ]
}

fn loss() -> Scenario {
    let (lasts, quick) = minutes(3, 60);
    Scenario {
        name: "loss",
        what: "30 % of all packets are lost, in each direction, and the connection is reset",
        lasts,
        quick,
        prepare: nothing(),
        on: Box::new(|site| {
            reset_connections(site);
            site.net.rules(&[("wall", "numgen random mod 100 < 30 drop")]);
        }),
        off: rules(&[]),
        expect: Expect::default(),
        check: Box::new(|_| vec![]),
    }
}

fn late_line() -> Scenario {
    let line = std::sync::Arc::new(std::sync::OnceLock::<LateLine>::new());
    let (made, slow, fast) = (line.clone(), line.clone(), line);
    let set = |line: &std::sync::OnceLock<LateLine>, delay| line.get().expect("prepared").set(delay);
    let (lasts, quick) = minutes(3, 60);
    Scenario {
        name: "delay",
        what: "every byte is 2 s late, in each direction, and the connection is cut",
        lasts,
        quick,
        prepare: Box::new(move |site| {
            let started = LateLine::start(&site.net.router, &[443, 8883]).expect("free ports in the router");
            made.get_or_init(|| started);
            site.net.dns.set(Mode::ServerIs(ROUTER));
        }),
        on: Box::new(move |_| {
            set(&slow, Duration::from_secs(2));
            slow.get().expect("prepared").cut();
        }),
        off: Box::new(move |_| set(&fast, Duration::ZERO)),
        expect: Expect { rungs: &["mqtts"], ..Expect::default() },
        check: Box::new(|_| vec![]),
    }
}

fn thin_line() -> Scenario {
    const BACKLOG: u64 = 8_000;
    let (lasts, quick) = minutes(5, 100);
    Scenario {
        name: "64-kbit",
        what: "64 kbit/s in each direction, and 8,000 heartbeats that have waited",
        lasts,
        quick,
        prepare: nothing(),
        on: Box::new(|site| {
            site.agent.stop();
            let minute_ms = 60_000;
            let times = Times {
                from_ms: now_s() * 1000 - i64::try_from(BACKLOG * minute_ms).unwrap_or(0),
                from_boot_ms: 1_000,
                every_ms: minute_ms,
            };
            let given_up = backlog::alone(&site.agent.state_dir(), BACKLOG, times);
            assert_eq!(given_up.expect("the state of an agent that does not run can be written"), 0);
            site.net.rate(Some(64));
            site.start_agent();
        }),
        off: Box::new(|site| site.net.rate(None)),
        expect: Expect { rungs: &["mqtts"], ..Expect::default() },
        check: Box::new(|_| vec![]),
    }
}

fn dns_gone() -> Scenario {
    let (lasts, quick) = minutes(3, 60);
    Scenario {
        name: "dns-gone",
        what: "the name server is silent, and the connection is reset",
        lasts,
        quick,
        prepare: nothing(),
        on: Box::new(|site| {
            site.net.dns.set(Mode::Silent);
            reset_connections(site);
        }),
        off: Box::new(|site| site.net.dns.set(Mode::ServerIs(SERVER))),
        expect: Expect { noticed_within: Some(Duration::from_secs(10)), says: &["DNS"], ..Expect::default() },
        check: Box::new(|_| vec![]),
    }
}

/// Ends the connections that there are; new ones are made.
fn reset_connections(site: &Site) {
    site.net.rules(&[("gate", "meta l4proto tcp reject with tcp reset")]);
    std::thread::sleep(Duration::from_secs(3));
    site.net.rules(&[]);
}

fn plain_https_alone() -> Scenario {
    let (lasts, quick) = minutes(4, 120);
    Scenario {
        name: "plain-https",
        what: "a box opens HTTPS and passes plain requests alone, one for each connection, no WebSocket; all else is reset",
        lasts,
        quick,
        prepare: nothing(),
        on: Box::new(|site| {
            boxes::plain_https(&site.net.router, &site.tls()).expect("a free port in the router");
            site.net.dns.set(Mode::ServerIs(ROUTER));
            site.net.rules(&[("gate", "meta l4proto tcp reject with tcp reset")]);
        }),
        off: Box::new(|site| {
            site.net.rules(&[]);
            site.net.dns.set(Mode::ServerIs(SERVER));
        }),
        expect: Expect {
            noticed_within: Some(Duration::from_secs(10)),
            rungs: &["https"],
            ..Expect::default()
        },
        check: Box::new(|_| vec![]),
    }
}

fn broken_ipv6() -> Scenario {
    let (lasts, quick) = minutes(4, 150);
    Scenario {
        name: "broken-ipv6",
        what: "the server's name has an IPv6 address as well, to which packets vanish, and the connection is reset",
        lasts,
        quick,
        prepare: Box::new(|site| site.net.half_ipv6()),
        on: Box::new(|site| {
            site.net.dns.set(Mode::BrokenIpv6(SERVER));
            reset_connections(site);
        }),
        off: Box::new(|site| site.net.dns.set(Mode::ServerIs(SERVER))),
        expect: Expect {
            noticed_within: Some(Duration::from_secs(10)),
            rungs: &["mqtts", "wss"],
            ..Expect::default()
        },
        check: Box::new(|_| vec![]),
    }
}

fn small_packets() -> Scenario {
    let (lasts, quick) = minutes(3, 90);
    Scenario {
        name: "small-packets",
        what: "packets of more than 1,300 bytes vanish, both ends have `tcp_mtu_probing=1`, and the connection is reset",
        lasts,
        quick,
        prepare: Box::new(|site| site.net.probe_mtu()),
        on: Box::new(|site| {
            reset_connections(site);
            site.net.rules(&[("gate", "meta length > 1300 drop")]);
        }),
        off: rules(&[]),
        expect: Expect { rungs: &["mqtts"], ..Expect::default() },
        check: Box::new(|_| vec![]),
    }
}

fn captive_portal() -> Scenario {
    let portal = std::sync::Arc::new(std::sync::OnceLock::<Portal>::new());
    let (made, asked) = (portal.clone(), portal);
    let (lasts, quick) = minutes(3, 60);
    Scenario {
        name: "captive-portal",
        what: "every name is a portal's, which answers everything with its own page; all else is reset",
        lasts,
        quick,
        prepare: nothing(),
        on: Box::new(move |site| {
            let started = Portal::start(&site.net.router).expect("free ports in the router");
            made.get_or_init(|| started);
            site.net.dns.set(Mode::AllAre(ROUTER));
            site.net.rules(&[("gate", "meta l4proto tcp reject with tcp reset")]);
        }),
        off: Box::new(|site| {
            site.net.rules(&[]);
            site.net.dns.set(Mode::ServerIs(SERVER));
        }),
        expect: Expect {
            noticed_within: Some(Duration::from_secs(10)),
            says: &["wants a login first"],
            ..Expect::default()
        },
        check: Box::new(move |site| {
            let heard = asked.get().expect("started").heard();
            let token = site.token().as_bytes();
            let mut complaints = Vec::new();
            if heard.connections == 0 {
                complaints.push("the portal was never asked".to_owned());
            }
            if heard.bytes.windows(token.len()).any(|bytes| bytes == token) {
                complaints.push("the portal was told the device's token".to_owned());
            }
            complaints
        }),
    }
}

fn address_change() -> Scenario {
    let (lasts, quick) = minutes(2, 100);
    Scenario {
        name: "address-change",
        what: "the device gets another address; the old one is gone without a word",
        lasts,
        quick,
        prepare: nothing(),
        on: Box::new(|site| site.net.move_device()),
        off: nothing(),
        expect: Expect { noticed_within: Some(NOTICED), rungs: &["mqtts"], ..Expect::default() },
        check: Box::new(|_| vec![]),
    }
}

fn expired_certificate() -> Scenario {
    const YEAR_AND_MORE: i64 = 400 * 24 * 3600;
    let issue = |site: &Site, at_s: i64| {
        let authority = Authority::of(&site.server.data_dir());
        authority.init(&[], at_s).expect("the authority issues a certificate");
        // The server looks for a new one every few seconds.
        std::thread::sleep(Duration::from_secs(12));
    };
    let (lasts, quick) = minutes(3, 60);
    Scenario {
        name: "expired-certificate",
        what: "the server's certificate has ended, and the connection is reset",
        lasts,
        quick,
        prepare: nothing(),
        on: Box::new(move |site| {
            issue(site, now_s() - YEAR_AND_MORE);
            reset_connections(site);
        }),
        off: Box::new(move |site| issue(site, now_s())),
        expect: Expect {
            noticed_within: Some(Duration::from_secs(10)),
            says: &["certificate", "expired"],
            ..Expect::default()
        },
        check: Box::new(|_| vec![]),
    }
}

fn now_s() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}
