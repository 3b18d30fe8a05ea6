//! From what was observed on the network to a step with advice. Pure.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use protocol::message::rfc3339;
use rustls::CertificateError;

use super::certificate::Facts;
use super::mqtt::Welcome;
use super::report::Step;
use crate::connect::ConnectError;
use crate::http::HttpError;
use crate::proxy::{Proxy, TunnelError};

const DAY_MS: i64 = 86_400_000;
/// A certificate that ends sooner is told.
const CERTIFICATE_WARNING_MS: i64 = 14 * DAY_MS;
/// The device's clock may be off by so much without anybody noticing.
const CLOCK_GOOD_MS: i64 = 5_000;
/// This much is noticed by people and by whoever checks certificates and times.
const CLOCK_BAD_MS: i64 = 300_000;

const PORTAL: &str = "somebody else answers in the server's place: if this network wants a login first (a captive portal), log in \
                      with a browser on it or ask the venue to let this device through; else check the address";

/// How a name was looked up.
#[derive(Debug)]
pub(super) enum Lookup {
    /// These.
    Found(Vec<SocketAddr>),
    /// The system says why not.
    Failed(String),
    /// No answer.
    TimedOut(Duration),
}

pub(super) fn dns(host: &str, lookup: &Lookup, name_servers: &[String]) -> Step {
    let asked = match name_servers {
        [] => "no name server is configured (/etc/resolv.conf)".to_owned(),
        servers => format!("this device asks {}", servers.join(", ")),
    };
    match lookup {
        Lookup::Found(addresses) if host.parse::<std::net::IpAddr>().is_ok() && !addresses.is_empty() => {
            Step::ok("dns", format!("{host} is an address already"))
        }
        Lookup::Found(addresses) if !addresses.is_empty() => {
            let list: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
            Step::ok("dns", format!("{host} is {}", list.join(", ")))
        }
        Lookup::Found(_) => Step::failed(
            "dns",
            format!("{host} has no address"),
            format!("check the spelling of {host} in the server's address"),
        ),
        Lookup::Failed(problem) => Step::failed(
            "dns",
            format!("the name {host} is not known here: {problem}"),
            format!(
                "check the spelling of {host}, the network cable or Wi-Fi, and the network's DNS: {asked}"
            ),
        ),
        Lookup::TimedOut(waited) => Step::failed(
            "dns",
            format!("nobody answers what {host} is (waited {} s)", waited.as_secs()),
            format!("the network's DNS does not answer: check the network cable or Wi-Fi; {asked}"),
        ),
    }
}

/// One attempt to connect.
pub(super) type Attempt = (SocketAddr, Result<Duration, io::Error>);

pub(super) fn tcp(attempts: &[Attempt], waited: Duration) -> Step {
    let failed: Vec<String> = attempts
        .iter()
        .filter_map(|(address, result)| result.as_ref().err().map(|e| format!("{address}: {}", reason(e))))
        .collect();
    if let Some((address, Ok(took))) = attempts.last() {
        let seen = format!("connected to {address}");
        let step = if failed.is_empty() {
            Step::ok("tcp", seen)
        } else {
            Step::warning(
                "tcp",
                format!("{seen}, but not to {}", failed.join("; ")),
                "one of the server's addresses does not answer, which makes every new connection slow: tell whoever runs the \
                 server, or the venue if only IPv6 (or only IPv4) fails here",
            )
        };
        return step.took(*took);
    }
    let port = attempts.first().map_or(0, |(address, _)| address.port());
    let kinds =
        |kind| attempts.iter().any(|(_, result)| result.as_ref().is_err_and(|error| error.kind() == kind));
    let advice = if kinds(io::ErrorKind::ConnectionRefused) {
        format!(
            "nothing listens on port {port}, or a firewall refuses it: check the port and whether the server runs; ask the \
                 venue to allow outgoing TCP to port {port}"
        )
    } else if kinds(io::ErrorKind::NetworkUnreachable) || kinds(io::ErrorKind::HostUnreachable) {
        "this device has no way into the network: check the cable or Wi-Fi, and that it has got an address (ip address)".to_owned()
    } else {
        format!(
            "packets to port {port} vanish: check that this network reaches the internet, and ask the venue to allow outgoing \
                 TCP to port {port}"
        )
    };
    Step::failed("tcp", format!("no connection: {}", failed.join("; ")), advice).took(waited)
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "no answer".to_owned(),
        io::ErrorKind::ConnectionRefused => "refused".to_owned(),
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => "unreachable".to_owned(),
        _ => error.to_string(),
    }
}

pub(super) fn proxy(done: &Result<(), TunnelError>, proxy: &Proxy) -> Step {
    match done {
        Ok(()) => Step::ok("proxy", format!("{proxy} lets this through")),
        Err(TunnelError::Refused(407)) => Step::failed(
            "proxy",
            format!("{proxy} wants a name and a password"),
            "put them into HTTPS_PROXY (http://NAME:PASSWORD@HOST:PORT), where the service has it from",
        ),
        Err(TunnelError::Refused(status)) => Step::failed(
            "proxy",
            format!("{proxy} does not connect to this host and port: HTTP {status}"),
            "ask whoever runs the proxy to allow CONNECT to it; or name the host in NO_PROXY, if it can be reached without",
        ),
        Err(error) => Step::failed(
            "proxy",
            format!("{proxy} does not answer like a proxy: {error}"),
            "check HTTPS_PROXY: is that the proxy's address and port?",
        ),
    }
}

/// What came of a TLS handshake.
#[derive(Debug)]
pub(super) struct Handshake {
    /// The version, if it came to an end.
    pub(super) version: Option<&'static str>,
    /// The certificate that the peer showed.
    pub(super) certificate: Option<Facts>,
    /// What is wrong, if it did not come to a good end.
    pub(super) problem: Option<Problem>,
}

/// Why there is no encrypted connection.
#[derive(Debug)]
pub(super) enum Problem {
    /// In this device's own files.
    Setup(String),
    /// In rustls' words.
    Tls(rustls::Error),
    /// Of the connection below.
    Io(io::Error),
}

/// Around a handshake.
#[derive(Debug, Clone, Copy)]
pub(super) struct Circumstances<'a> {
    pub(super) host: &'a str,
    pub(super) now_ms: i64,
    /// Whether `CA_FILE` is set.
    pub(super) own_authority: bool,
}

pub(super) fn tls(handshake: &Handshake, around: &Circumstances<'_>) -> Step {
    let Circumstances { host, now_ms, own_authority } = *around;
    let facts = handshake.certificate.as_ref();
    let shown = facts.map(|facts| {
        let until = facts.not_after_ms.map(|ms| format!(", valid until {}", day(ms))).unwrap_or_default();
        format!("certificate of {} by {}{until}", facts.whose(), facts.issuer)
    });
    let clock = format!("this device's clock says {}", rfc3339(now_ms - now_ms.rem_euclid(1000)));
    match &handshake.problem {
        None => {
            let version = handshake.version.unwrap_or("TLS");
            let seen =
                format!("{version}, {}", shown.unwrap_or_else(|| "no certificate was seen".to_owned()));
            match facts.and_then(|facts| facts.not_after_ms) {
                Some(until) if until - now_ms < CERTIFICATE_WARNING_MS => {
                    let days = (until - now_ms).max(0) / DAY_MS;
                    Step::warning(
                        "tls",
                        seen,
                        format!("the server's certificate ends in {days} days: tell whoever runs the server"),
                    )
                }
                _ => Step::ok("tls", seen),
            }
        }
        Some(Problem::Setup(problem)) => Step::failed(
            "tls",
            problem.clone(),
            "put that file in order; CA_FILE, CLIENT_CERT and CLIENT_KEY in fleet.conf name it",
        ),
        Some(Problem::Io(error)) => match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Step::failed(
                "tls",
                "connected, and then no answer to the first words of TLS",
                "a firewall lets connections begin and swallows what they carry: ask the venue to allow TLS (HTTPS) to this port",
            ),
            _ => Step::failed(
                "tls",
                format!("the connection was closed while encryption began ({error})"),
                "a firewall that does not like encrypted connections does this, or the port speaks no TLS: check the port, and ask \
                 the venue",
            ),
        },
        Some(Problem::Tls(rustls::Error::InvalidCertificate(problem))) => {
            let shown = shown.unwrap_or_else(|| "certificate".to_owned());
            match problem {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    let until = facts.and_then(|facts| facts.not_after_ms).map(day).unwrap_or_default();
                    Step::failed(
                        "tls",
                        format!("not trusted: it has expired: {shown}; {clock}"),
                        format!(
                            "if the clock is right, the server's certificate has ended ({until}): whoever runs the server has to \
                                 renew it. If the clock is wrong, set it (timedatectl set-ntp true)"
                        ),
                    )
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    let from = facts.and_then(|facts| facts.not_before_ms).map(day).unwrap_or_default();
                    Step::failed(
                        "tls",
                        format!("not trusted: it is not valid before {from}: {shown}; {clock}"),
                        "this device's clock is behind: set it (timedatectl set-ntp true), and ask the venue to allow NTP (UDP port 123)",
                    )
                }
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    let names = facts.map(Facts::for_whom).unwrap_or_default();
                    Step::failed(
                        "tls",
                        format!("not trusted: it is for {names}, not for {host}: {shown}"),
                        format!(
                            "use the address that the certificate is for, if {names} is your fleet server; if it is not, {PORTAL}"
                        ),
                    )
                }
                CertificateError::UnknownIssuer | CertificateError::Other(_) => {
                    let advice = if own_authority {
                        format!(
                            "it is not of the authority in CA_FILE: get the server's present ca.pem and repeat r58-fleet-agent \
                                 enroll … --ca ca.pem; or {PORTAL}"
                        )
                    } else {
                        format!(
                            "if the server has an authority of its own, repeat r58-fleet-agent enroll … --ca ca.pem with its file; \
                                 if not, {PORTAL}"
                        )
                    };
                    // One that vouches for itself comes as something else.
                    let why = match problem {
                        CertificateError::UnknownIssuer => "its authority is not known here",
                        _ => "no authority vouches for it",
                    };
                    Step::failed("tls", format!("not trusted: {why}: {shown}"), advice)
                }
                other => Step::failed(
                    "tls",
                    format!("not trusted: {other}: {shown}"),
                    "whoever runs the server has to look at its certificate (fleetd check)",
                ),
            }
        }
        Some(Problem::Tls(rustls::Error::AlertReceived(alert))) => Step::failed(
            "tls",
            format!("the server ends the handshake: {alert:?}"),
            "the server and this device cannot agree: is CLIENT_CERT (if set) still good, and the server's TLS 1.2 or 1.3?",
        ),
        Some(Problem::Tls(error)) => Step::failed(
            "tls",
            format!("what answers is not TLS ({error})"),
            "check the port, and whether the address has to begin without the s (http, mqtt); a network that wants a login first \
             does this too",
        ),
    }
}

fn day(ms: i64) -> String {
    rfc3339(ms).chars().take(10).collect()
}

/// What came of speaking MQTT.
#[derive(Debug)]
pub(super) enum Spoken {
    /// It answered.
    Welcome(Welcome),
    /// Of the WebSocket around it: another HTTP answer.
    NoUpgrade { status: u16, hint: Option<String> },
    /// It said something that is no MQTT.
    Garbage,
    /// It closed the connection.
    Closed,
    /// It said nothing.
    Silent,
    /// The connection failed.
    Failed(String),
}

pub(super) fn mqtt(spoken: &Spoken, websocket: bool) -> Step {
    match spoken {
        Spoken::Welcome(_) if websocket => Step::ok("mqtt", "a broker answers through the WebSocket"),
        Spoken::Welcome(_) => Step::ok("mqtt", "a broker answers"),
        Spoken::NoUpgrade { status, hint } => {
            let hint = hint.as_ref().map(|hint| format!(", {hint}")).unwrap_or_default();
            Step::failed(
                "mqtt",
                format!("no WebSocket: HTTP {status}{hint}"),
                "a proxy on the way does not let WebSockets through, or the path is wrong: the proxy in front of the server has to \
                 pass on the headers Upgrade and Connection",
            )
        }
        Spoken::Garbage => Step::failed(
            "mqtt",
            "what answers is no MQTT broker",
            "check the port; if it is right, somebody else answers in the broker's place (a proxy, or a network that wants a login)",
        ),
        Spoken::Closed => Step::failed(
            "mqtt",
            "the connection is closed without an answer",
            "check the port, and the server's log; a firewall that knows only web traffic does this too",
        ),
        Spoken::Silent => Step::failed(
            "mqtt",
            "no answer",
            "check the port; a firewall that lets connections begin and swallows what they carry does this too: ask the venue",
        ),
        Spoken::Failed(problem) => {
            Step::failed("mqtt", problem.clone(), "check the network, then run this again")
        }
    }
}

/// What a log-in came to.
pub(super) fn log_in(welcome: Welcome, name: &str) -> Step {
    match welcome {
        Welcome::Accepted => Step::ok("auth", format!("logged in as {name}")),
        Welcome::Refused | Welcome::BadClientId => Step::failed(
            "auth",
            format!("the broker refuses {name} or its token"),
            "the token was changed, or the device was removed on the server: enrol it again (r58-fleet-agent enroll), or let an admin \
             make a token and enrol with --token",
        ),
        Welcome::Unavailable => Step::failed(
            "auth",
            "the broker takes nobody now",
            "the server starts, stops, or has too many connections: try again in some minutes, then tell whoever runs it",
        ),
        Welcome::OtherVersion => Step::failed(
            "auth",
            "the broker does not speak MQTT 3.1.1",
            "check that the address is that of a broker of R58 Fleet",
        ),
    }
}

/// The steps `http` and `auth` of a question to the server.
pub(super) fn http<T>(asked: &Result<T, ConnectError>, is_encrypted: bool, took: Duration) -> (Step, Step) {
    let skipped = || Step::skipped("auth", "not asked: the step before failed");
    let error = match asked {
        Ok(_) => {
            return (
                Step::ok("http", "a fleet server answers").took(took),
                Step::ok("auth", "the token is accepted"),
            );
        }
        Err(error) => error,
    };
    match error {
        ConnectError::Refused { .. } if !is_encrypted => (
            Step::ok("http", "a fleet server answers").took(took),
            Step::failed(
                "auth",
                "the server does not accept this device's token, at least not in the clear",
                "use https:// in FLEET_URL: a server takes tokens over http:// only where it was told to. If that is so here, the token \
                 was changed or the device removed: enrol it again (r58-fleet-agent enroll)",
            ),
        ),
        ConnectError::Refused { .. } => (
            Step::ok("http", "a fleet server answers").took(took),
            Step::failed(
                "auth",
                "the server does not accept this device's token",
                "the token was changed, or the device was removed on the server: enrol it again (r58-fleet-agent enroll), or let an \
                 admin make a token and enrol with --token",
            ),
        ),
        ConnectError::NotEnrolled => (
            Step::skipped("http", "not asked: there is no token"),
            Step::skipped("auth", "there is no token in fleet.conf"),
        ),
        ConnectError::Status { status, detail, .. } => {
            let advice = match status {
                404 => "there is no fleet server at this address: check FLEET_URL, and leave out any path unless an admin gave you one",
                429 => "wait some minutes: there were too many failed attempts from this address",
                500.. => "the server, or a proxy in front of it, has trouble of its own: tell whoever runs it",
                _ => "check that FLEET_URL is the address of a fleet server",
            };
            (Step::failed("http", format!("it answers {status}{detail}"), advice).took(took), skipped())
        }
        ConnectError::Http(HttpError::WebPage { .. } | HttpError::Redirect { .. }) => {
            (Step::failed("http", error.to_string(), PORTAL).took(took), skipped())
        }
        ConnectError::Http(HttpError::TimedOut { .. }) => (
            Step::failed(
                "http",
                "connected, and then no answer",
                "the server is overloaded, or a firewall swallows what it says: try again, then tell whoever runs the server",
            )
            .took(took),
            skipped(),
        ),
        other => {
            (Step::failed("http", other.to_string(), "check that FLEET_URL is the address of a fleet server").took(took), skipped())
        }
    }
}

/// The server's clock minus the device's, both in milliseconds, with how sure that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ClockOffset {
    pub(super) offset_ms: i64,
    pub(super) uncertain_ms: i64,
}

pub(super) fn clock(offset: Option<ClockOffset>, synchronized: Option<bool>) -> Vec<Step> {
    let ntp = match synchronized {
        Some(true) => Step::ok("ntp", "the clock is kept right by NTP"),
        Some(false) => Step::warning(
            "ntp",
            "the clock has not been set by NTP since the start",
            "switch NTP on (timedatectl set-ntp true), and ask the venue to allow UDP port 123; the agent works without, but times in \
             its log may be wrong",
        ),
        None => Step::skipped("ntp", "this system does not tell whether NTP keeps the clock"),
    };
    let offset = match offset {
        None => Step::skipped("offset", "the server has not said what time it is"),
        Some(ClockOffset { offset_ms, uncertain_ms }) => {
            let off = offset_ms.abs();
            let words = super::report::clean(&crate::status::duration_text(off));
            let way = if offset_ms > 0 { "behind" } else { "ahead of" };
            match (off - uncertain_ms).max(0) {
                0..CLOCK_GOOD_MS => {
                    Step::ok("offset", format!("within {} ms of the server's clock", off + uncertain_ms))
                }
                CLOCK_GOOD_MS..CLOCK_BAD_MS => Step::warning(
                    "offset",
                    format!("the clock is {words} {way} the server's"),
                    "set the clock (timedatectl set-ntp true); the agent works all the same",
                ),
                _ => Step::failed(
                    "offset",
                    format!("the clock is {words} {way} the server's"),
                    "set the clock (timedatectl set-ntp true, or timedatectl set-time): certificates and time limits are judged by it",
                ),
            }
        }
    };
    vec![ntp, offset]
}
