//! What can be seen on the device itself.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};

use super::certificate::Facts;
use super::report::Step;
use crate::app_status::{Asked, Reader};
use crate::certificate::{self, Issued};
use crate::child::{self, Limits};
use crate::config::{Config, MqttUrl};
use crate::enroll;
use crate::kernel::Kernel;
use crate::state;
use crate::status::{self, Connection, Found, duration_text};
use crate::tls;

/// The service of the package.
const UNIT: &str = "r58-fleet-agent.service";
/// The outbox and the journal may need this much, in bytes.
const ROOM_NEEDED: u64 = 32 << 20;
/// With less than this somebody should look, in bytes.
const ROOM_WANTED: u64 = 200 << 20;
/// How long a program of the system may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// What tells programs to go through a proxy.
const PROXY_VARIABLES: [&str; 8] = [
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
];

/// What else depends on the running agent.
#[derive(Debug)]
pub(super) struct Running {
    /// Whether an agent runs, or may run.
    pub(super) maybe: bool,
    /// What it says about its connection, in a few words.
    pub(super) says: String,
    /// The broker that it uses or tried last.
    pub(super) link: Option<MqttUrl>,
}

/// The steps about the configuration, once it could be read.
pub(super) fn configuration(config: &Config) -> Vec<Step> {
    let file = config.file.as_ref().map_or_else(
        || "no file; defaults and the environment".to_owned(),
        |file| format!("{} is valid", file.display()),
    );
    let mut steps = vec![if config.warnings.is_empty() {
        Step::ok("configuration", file)
    } else {
        Step::warning(
            "configuration",
            format!("{file}, but: {}", config.warnings.join("; ")),
            "correct that in the file; nothing else depends on it",
        )
    }];
    steps.push(if config.is_enrolled() {
        let server = config.fleet_url.as_ref().map(ToString::to_string);
        let server = server.or_else(|| config.mqtt_url.as_ref().map(ToString::to_string)).unwrap_or_default();
        Step::ok("enrolment", format!("device {} of {} at {server}", config.device_id, config.org))
    } else {
        Step::failed(
            "enrolment",
            "this device is not enrolled: it has no server or no token",
            "enrol it: r58-fleet-agent enroll URL --key-file FILE",
        )
    });
    if !config.enabled {
        steps.push(Step::failed(
            "enabled",
            "FLEET_ENABLED is false: the agent ends as soon as it is started",
            "set FLEET_ENABLED=true in fleet.conf, then: systemctl restart r58-fleet-agent",
        ));
    }
    steps.push(secrets(config));
    steps.extend(own_certificates(config));
    steps.extend(proxies(|name| std::env::var(name).ok()));
    steps
}

/// Files with secrets that others may read.
fn secrets(config: &Config) -> Step {
    let pending = config.file.as_deref().map(enroll::pending_file);
    let files = [config.file.clone(), pending, config.client_key.clone()];
    let mut seen = 0;
    let mut open = Vec::new();
    for path in files.into_iter().flatten() {
        let Ok(metadata) = fs::metadata(&path) else { continue };
        seen += 1;
        if metadata.permissions().mode() & 0o077 != 0 {
            open.push(path.display().to_string());
        }
    }
    match (seen, open.as_slice()) {
        (0, _) => Step::skipped("secrets", "there is no file with a secret"),
        (_, []) => Step::ok("secrets", "only their owner may read the files with secrets"),
        (_, open) => Step::failed(
            "secrets",
            format!("others than the owner may read {}", open.join(", ")),
            format!("chmod 600 {}", open.join(" ")),
        ),
    }
}

/// The authority of one's own and the device's certificate, where they are set.
fn own_certificates(config: &Config) -> Vec<Step> {
    let now_ms = Kernel::open().map_or(0, |kernel| kernel.wall_ms());
    let mut steps = Vec::new();
    if let Some(path) = &config.ca_file {
        steps.push(certificate_file("authority", path, now_ms, "r58-fleet-agent enroll … --ca ca.pem"));
    }
    match &config.client_cert {
        Some(path) if certificate::is_ours(config) && Issued::stored(config).is_none() => {
            steps.push(Step::warning(
                "certificate",
                format!("{} is damaged or another device's", path.display()),
                "nothing has to be done: the agent logs in by its token and asks for another certificate",
            ));
        }
        Some(path) => {
            steps.push(certificate_file("certificate", path, now_ms, "CLIENT_CERT in fleet.conf names it"));
        }
        None => {}
    }
    steps
}

fn certificate_file(name: &'static str, path: &Path, now_ms: i64, remedy: &str) -> Step {
    let first = match tls::first_certificate(path) {
        Ok(first) => first,
        Err(error) => {
            let advice = format!("put the file there again: {remedy}");
            return Step::failed(name, crate::http::with_causes(&error), advice);
        }
    };
    let facts = Facts::of(&first).unwrap_or_default();
    let until = facts.not_after_ms.unwrap_or(i64::MAX);
    let day: String = protocol::message::rfc3339(until).chars().take(10).collect();
    let seen = format!("{}: {}, valid until {day}", path.display(), facts.whose());
    if until < now_ms {
        Step::failed(
            name,
            seen,
            format!("it has ended: get a new one for {}, or set the clock if that is wrong", path.display()),
        )
    } else {
        Step::ok(name, seen)
    }
}

/// Proxies that are set where this program runs, without what they may say of passwords.
fn proxies(variable: impl Fn(&str) -> Option<String>) -> Option<Step> {
    let set: Vec<String> = PROXY_VARIABLES
        .iter()
        .filter_map(|name| variable(name).filter(|value| !value.is_empty()).map(|value| (name, value)))
        .map(|(name, value)| {
            let shown = match value.rsplit_once('@') {
                Some((_, place)) => format!("…@{place}"),
                None => value,
            };
            format!("{name}={shown}")
        })
        .collect();
    (!set.is_empty())
        .then(|| Step::ok("proxy", format!("{}; the service has an environment of its own (systemctl show r58-fleet-agent --property=Environment)", set.join(", "))))
}

/// The state folder.
pub(super) fn state_folder(dir: &Path) -> Vec<Step> {
    let name = dir.display();
    if !dir.exists() {
        return vec![Step::skipped("state", format!("{name} is made at the first start"))];
    }
    if access(dir, AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK).is_err() {
        return vec![Step::failed(
            "state",
            format!("{name} cannot be written"),
            "run this as root (sudo); if that does not help, the disk is read-only: look at dmesg for errors of the card or disk",
        )];
    }
    let mut steps = vec![match statvfs(dir) {
        Err(error) => Step::warning(
            "state",
            format!("{name}: the free space is not known ({error})"),
            "look at the disk: df",
        ),
        Ok(disk) => room(&name.to_string(), disk.blocks_available().saturating_mul(disk.fragment_size())),
    }];
    let set_aside = state::set_aside_folders(dir);
    if let Some(last) = set_aside.last() {
        steps.push(Step::warning(
            "damage",
            format!("a damaged state was set aside and a new one made; it is kept as {}", last.display()),
            format!(
                "power cuts or a bad card do this: look at dmesg, and replace the card if it happens again. When nobody wants to look \
                 at it any more: rm -r {}",
                set_aside.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
            ),
        ));
    }
    steps
}

fn room(name: &str, free: u64) -> Step {
    let seen = format!("{name} can be written, {} MB free", free / 1_000_000);
    match free {
        0..ROOM_NEEDED => Step::failed(
            "state",
            seen,
            "make room on that disk: look for old recordings and logs (du -xh / | sort -h)",
        ),
        ROOM_NEEDED..ROOM_WANTED => {
            Step::warning("state", seen, "make room on that disk before it is full: recordings, logs")
        }
        _ => Step::ok("state", seen),
    }
}

/// Whether the agent runs, and what it says.
pub(super) fn agent(config: &Config, now_ms: i64) -> (Step, Running) {
    const START: &str =
        "start it: systemctl start r58-fleet-agent. Why it stopped: journalctl -u r58-fleet-agent -e";
    let found = match status::look(config) {
        Ok(found) => found,
        Err(error) => {
            let running = Running {
                maybe: true,
                says: "it is not known whether the agent runs".to_owned(),
                link: None,
            };
            return (
                Step::failed("agent", error.to_string(), "run this as root: sudo r58-fleet-agent doctor"),
                running,
            );
        }
    };
    match found {
        Found::NotRunning => {
            let running = Running { maybe: false, says: String::new(), link: None };
            (Step::failed("agent", "it is not running", START), running)
        }
        Found::Silent { .. } => {
            let running =
                Running { maybe: true, says: "the agent has only just started".to_owned(), link: None };
            let advice = "try again in a moment; if it stays like this: journalctl -u r58-fleet-agent -e";
            (Step::warning("agent", "it runs, and has not said yet how it is", advice), running)
        }
        Found::Running(status) => {
            let since = duration_text(now_ms - status.since_ms);
            let link = status.link.clone().unwrap_or_else(|| "the server".to_owned());
            let outbox = match status.outbox_depth {
                0 => "the server has everything".to_owned(),
                depth => format!("{depth} records wait for the server"),
            };
            let last_error = status.last_error.clone().unwrap_or_else(|| "none".to_owned());
            let (step, says) = match status.connection {
                Connection::Connected => {
                    let says = format!("connected to {link} for {since}");
                    (Step::ok("agent", format!("it runs, {says}; {outbox}")), says)
                }
                Connection::Connecting => {
                    let says = format!("connecting to {link} for {since}; last error: {last_error}");
                    let advice = "see the steps below; try again in a minute";
                    (Step::warning("agent", format!("it runs, {says}; {outbox}"), advice), says)
                }
                Connection::Waiting => {
                    let says = format!("not connected for {since}; last error: {last_error}");
                    let advice = "see which step below fails; if none does, wait for the agent's next attempt (r58-fleet-agent status)";
                    (Step::failed("agent", format!("it runs, {says}; {outbox}"), advice), says)
                }
            };
            let link = status.link.as_ref().and_then(|link| link.parse().ok());
            (step, Running { maybe: true, says, link })
        }
    }
}

/// The service, if systemd runs this machine and the agent is one of its services.
pub(super) fn service(config_is_given: bool) -> Step {
    if config_is_given {
        return Step::skipped("service", "with --config this is about another agent than the service");
    }
    if !systemd::daemon::booted().unwrap_or(false) {
        return Step::skipped("service", "systemd does not run this machine");
    }
    match program("systemctl", &["is-enabled", "--", UNIT]).as_deref() {
        Some("enabled" | "enabled-runtime") => Step::ok("service", "it starts with the machine"),
        Some("" | "not-found") => Step::skipped("service", "the package's service is not installed"),
        Some(word) => Step::failed(
            "service",
            format!("{UNIT} is {word}: it does not start with the machine"),
            "switch it on: systemctl enable --now r58-fleet-agent",
        ),
        None => Step::skipped("service", "systemctl does not answer"),
    }
}

/// The application that the agent watches.
pub(super) fn application(config: &Config, kernel: &Kernel) -> Step {
    let Some(url) = &config.app_status_url else {
        return Step::skipped("application", "APP_STATUS_URL is set to nothing");
    };
    let unit = config.app_unit.full();
    match Reader::new(config, kernel).ask() {
        Asked::NotConfigured => Step::skipped("application", "APP_STATUS_URL is set to nothing"),
        Asked::Said(_) => Step::ok("application", format!("{url} answers")),
        Asked::Refused => Step::warning(
            "application",
            format!("nobody listens at {url}"),
            format!(
                "is the application running? systemctl status {unit}; else set APP_STATUS_URL. Until it answers or is stopped, \
                     commands that interrupt are held"
            ),
        ),
        Asked::NoAnswer(problem) => Step::warning(
            "application",
            format!("{url}: {problem}"),
            format!(
                "look at the application: systemctl status {unit}; or correct APP_STATUS_URL. Until it answers, commands that \
                     interrupt are held"
            ),
        ),
    }
}

/// By what the device reaches other networks: `/proc/net/route`, `/proc/net/ipv6_route`.
pub(super) fn route() -> Step {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    match default_route(&read("/proc/net/route"), &read("/proc/net/ipv6_route")) {
        Some(card) => Step::ok("network", format!("the way to other networks is {card}")),
        None => Step::warning(
            "network",
            "there is no way to other networks (no default route)",
            "check the cable or Wi-Fi, and that this device has got an address: ip address; ip route",
        ),
    }
}

fn default_route(v4: &str, v6: &str) -> Option<String> {
    let of_v4 = v4.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace();
        let (card, destination) = (fields.next()?, fields.next()?);
        let mask = fields.nth(5)?;
        (destination == "00000000" && mask == "00000000").then(|| card.to_owned())
    });
    let of_v6 = v6.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_default = fields.first()?.bytes().all(|b| b == b'0') && *fields.get(1)? == "00";
        fields.last().filter(|card| is_default && **card != "lo").map(|card| (*card).to_owned())
    });
    match (of_v4, of_v6) {
        (Some(v4), Some(v6)) if v4 != v6 => Some(format!("{v4} (IPv6: {v6})")),
        (Some(card), _) | (None, Some(card)) => Some(card),
        (None, None) => None,
    }
}

/// The name servers in `/etc/resolv.conf`.
pub(super) fn name_servers() -> Vec<String> {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    servers.map(|rest| rest.trim().to_owned()).filter(|server| !server.is_empty()).take(3).collect()
}

/// Whether NTP keeps the clock, if anybody can tell.
pub(super) fn clock_is_synchronized(kernel: &Kernel) -> Option<bool> {
    if kernel.clock_is_synchronized() {
        return Some(true);
    }
    match program("timedatectl", &["show", "--property=NTPSynchronized", "--value"])?.as_str() {
        "yes" => Some(true),
        "no" => Some(false),
        _ => None,
    }
}

/// What a program of the system says, whatever its exit status.
fn program(name: &str, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(name);
    command.args(arguments).env("LC_ALL", "C");
    let limits = Limits { time: PATIENCE, keep: 1024, with_stderr: false, mark: None };
    let ended = child::run(command, &limits).ok()?;
    (!ended.timed_out).then(|| ended.output.text.trim().to_owned())
}

/// Where a file is that the program needs, if it is there.
pub(super) fn config_place(given: Option<&Path>) -> PathBuf {
    crate::config::choose_file(given).unwrap_or_else(|| crate::config::SYSTEM_FILE.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_route_is_found_or_not() {
        let v4 = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n\
                  eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\n\
                  eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\n";
        let v6 = format!("{0} 00 {0} 00 {0} ffffffff 00000001 00000000 00200200       lo\n", "0".repeat(32));
        assert_eq!(default_route(v4, &v6).as_deref(), Some("eth0"));
        assert_eq!(default_route(&v4[..120], &v6), None);
        let v6 = v6.replace("lo", "wlan0");
        assert_eq!(default_route("", &v6).as_deref(), Some("wlan0"));
        assert_eq!(default_route(v4, &v6).as_deref(), Some("eth0 (IPv6: wlan0)"));
    }

    #[test]
    fn a_proxys_password_is_not_shown() {
        let step =
            proxies(|name| (name == "HTTPS_PROXY").then(|| "http://me:hunter2@10.0.0.9:3128".to_owned()));
        let seen = step.map(|step| step.seen).unwrap_or_default();
        assert!(seen.contains("HTTPS_PROXY=…@10.0.0.9:3128") && !seen.contains("hunter2"), "{seen}");
        assert_eq!(proxies(|_| None), None);
    }

    #[test]
    fn a_disk_that_is_nearly_full_is_told_before_it_is_full() {
        use super::super::report::Outcome;
        let outcome = |free| room("/var", free).outcome;
        assert_eq!(
            [outcome(1 << 20), outcome(100 << 20), outcome(1 << 30)],
            [Outcome::Failed, Outcome::Warning, Outcome::Ok]
        );
    }
}
