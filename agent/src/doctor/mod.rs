//! `doctor`: looks at the device and walks the way to the server step by step, so that a person on site sees which step
//! fails, and what to do.
//!
//! [`report`] holds what was found and shows it, [`judge`] makes findings of observations; both are pure. [`local`] and
//! [`network`] observe, with a limit on every wait: [`run`] takes a minute at the very most. Nothing is changed, and a
//! running agent keeps its connection: with one at work nobody logs in by MQTT in its name.

mod certificate;
mod judge;
mod local;
mod mqtt;
mod network;
mod report;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::{Config, ConfigError, FileError, HttpUrl, MqttUrl, Scheme};
use crate::connect::{self, Endpoints};
use crate::http::with_causes;
use crate::kernel::Kernel;
use crate::ladder::Ways;
use crate::proxy;
use judge::{Circumstances, ClockOffset, Spoken};
use local::Running;
use network::{Deadline, Inside, Stream, Timed};

pub use report::{Outcome, Report, Section, Step, Style, advice_text, section_text};

/// For everything about the server's HTTP side.
const SERVER_TIME: Duration = Duration::from_secs(22);
/// For each way to the broker; all are tried at the same time.
const LINK_TIME: Duration = Duration::from_secs(22);
/// How long the answer to a question to the server may take.
const ASK_TIME: Duration = Duration::from_secs(8);

/// Who is told what happens meanwhile.
pub trait Watcher {
    /// This is looked at now.
    fn begins(&mut self, what: &str);
    /// This has been looked at.
    fn has(&mut self, section: &Section);
}

/// What strangers say, into every reader of it.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_strangers(bytes: &[u8]) {
    let _ =
        (certificate::Facts::of(bytes), mqtt::welcome(bytes), mqtt::upgraded(bytes), mqtt::payload(bytes));
}

/// Looks at everything. `config_file`: `--config`.
pub fn run(config_file: Option<&Path>, watcher: &mut dyn Watcher) -> Report {
    let mut report = Report {
        ok: false,
        agent_version: env!("CARGO_PKG_VERSION"),
        device_id: None,
        org: None,
        sections: Vec::new(),
    };
    let mut add = |section: Section, watcher: &mut dyn Watcher| {
        watcher.has(&section);
        report.sections.push(section);
    };
    watcher.begins("this device");
    let (config, kernel) = match (Config::load(config_file), Kernel::open()) {
        (Ok(config), Ok(kernel)) => (config, kernel),
        (Err(error), _) => {
            add(
                Section { kind: "device", address: None, steps: vec![unreadable(&error, config_file)] },
                watcher,
            );
            return report;
        }
        (_, Err(error)) => {
            let step = Step::failed("kernel", with_causes(&error), "this program needs /proc to be mounted");
            add(Section { kind: "device", address: None, steps: vec![step] }, watcher);
            return report;
        }
    };
    let (section, running) = look_at_device(&config, config_file.is_some(), &kernel);
    add(section, watcher);

    let (mut offset, mut server_answers) = (None, false);
    let mut ways: Vec<MqttUrl> = config.mqtt_url.iter().cloned().collect();
    if let Some(server) = &config.fleet_url {
        watcher.begins(&server.to_string());
        let (section, endpoints) = look_at_server(&config, server, &kernel);
        add(section, watcher);
        if let Some((endpoints, measured)) = endpoints {
            server_answers = true;
            offset = measured;
            if ways.is_empty() {
                ways = endpoints.in_order().cloned().collect();
            }
        }
    }
    if ways.is_empty() {
        // The server does not say; the agent may have known.
        ways.extend(Ways::load(&config.state_dir).endpoints.in_order().cloned());
        let link = running.link.clone().filter(|link| !ways.contains(link));
        ways.extend(link);
    }
    if config.is_enrolled() && ways.is_empty() {
        let step = Step::skipped("mqtt", "not tried: the server has not said where its broker is");
        add(Section { kind: "link", address: None, steps: vec![step] }, watcher);
    }
    if !ways.is_empty() {
        let all: Vec<String> = ways.iter().map(ToString::to_string).collect();
        watcher.begins(&all.join(", "));
    }
    let mut sections = look_at_ways(&config, &ways, &running, &kernel);
    if let Some(server) = config.fleet_url.as_ref().filter(|_| server_answers) {
        // The agent's last resort goes to the same place with the same token.
        let step = Step::ok("exchange", "the agent can go this way where no MQTT gets through");
        sections.push(Section { kind: "link", address: Some(server.to_string()), steps: vec![step] });
    }
    one_way_is_enough(&mut sections);
    for section in sections {
        add(section, watcher);
    }
    watcher.begins("the clock");
    let steps = judge::clock(offset, local::clock_is_synchronized(&kernel));
    add(Section { kind: "clock", address: None, steps }, watcher);

    report.ok = !report.sections.iter().flat_map(|section| &section.steps).any(Step::is_failed);
    report.device_id = Some(config.device_id.to_string());
    report.org = Some(config.org.to_string());
    report
}

/// A configuration that cannot be used: nothing else can be looked at.
fn unreadable(error: &ConfigError, given: Option<&Path>) -> Step {
    let place = local::config_place(given);
    let advice = match error {
        ConfigError::File(FileError::Permission { .. }) => {
            "run this as root: sudo r58-fleet-agent doctor".to_owned()
        }
        ConfigError::File(FileError::Missing { .. }) => {
            "enrol this device: r58-fleet-agent enroll URL --key-file FILE".to_owned()
        }
        _ => format!(
            "correct these lines of {0}. If the file was torn by a power cut, take it away (mv {0} {0}.torn) and enrol again",
            place.display()
        ),
    };
    Step::failed("configuration", with_causes(error), advice)
}

fn look_at_device(config: &Config, config_is_given: bool, kernel: &Kernel) -> (Section, Running) {
    let mut steps = local::configuration(config);
    steps.extend(local::state_folder(&config.state_dir));
    let (step, running) = local::agent(config, kernel.wall_ms());
    steps.push(step);
    steps.push(local::service(config_is_given));
    steps.push(local::application(config, kernel));
    steps.push(local::route());
    (Section { kind: "device", address: None, steps }, running)
}

/// Steps up to an open connection, encrypted if it has to be. `None` where one failed.
fn reach(
    config: &Config,
    kernel: &Kernel,
    (scheme, host, port): (Scheme, &str, u16),
    deadline: Deadline,
    steps: &mut Vec<Step>,
) -> Option<Box<dyn Stream>> {
    let proxy = match proxy::for_target(scheme, host, port) {
        Ok(proxy) => proxy,
        Err(error) => {
            steps.push(Step::failed("proxy", error.to_string(), "correct that variable, or unset it"));
            return None;
        }
    };
    let mut stream = match &proxy {
        None => open(host, port, deadline, steps)?,
        Some(proxy) => {
            let mut stream = open(&proxy.host, proxy.port, deadline, steps)?;
            if proxy.is_encrypted {
                stream = encrypt(config, kernel, &proxy.host, stream, steps)?;
            }
            let done = proxy::through_blocking(&mut stream, proxy, host, port);
            steps.push(judge::proxy(&done, proxy));
            done.ok()?;
            stream
        }
    };
    if scheme.is_encrypted() {
        stream = encrypt(config, kernel, host, stream, steps)?;
    } else {
        steps.push(Step::skipped("tls", "the address asks for no encryption"));
    }
    Some(stream)
}

/// A name and a connection.
fn open(host: &str, port: u16, deadline: Deadline, steps: &mut Vec<Step>) -> Option<Box<dyn Stream>> {
    let began = Instant::now();
    let lookup = network::look_up(host, port, deadline);
    steps.push(judge::dns(host, &lookup, &local::name_servers()).took(began.elapsed()));
    let judge::Lookup::Found(addresses) = lookup else { return None };
    if addresses.is_empty() {
        return None;
    }
    let began = Instant::now();
    let (attempts, stream) = network::connect(&addresses, deadline);
    steps.push(judge::tcp(&attempts, began.elapsed()));
    Some(Box::new(Timed::new(stream?, deadline)))
}

fn encrypt(
    config: &Config,
    kernel: &Kernel,
    host: &str,
    stream: Box<dyn Stream>,
    steps: &mut Vec<Step>,
) -> Option<Box<dyn Stream>> {
    let began = Instant::now();
    let (handshake, stream) = network::encrypt(config, host, stream);
    let around = Circumstances { host, now_ms: kernel.wall_ms(), own_authority: config.ca_file.is_some() };
    steps.push(judge::tls(&handshake, &around).took(began.elapsed()));
    stream
}

/// Names of steps that come after one that failed.
fn skip(steps: &mut Vec<Step>, names: &[&'static str]) {
    for name in names {
        if !steps.iter().any(|step| step.name == *name) {
            steps.push(Step::skipped(name, "not tried: the step before failed"));
        }
    }
}

fn look_at_server(
    config: &Config,
    server: &HttpUrl,
    kernel: &Kernel,
) -> (Section, Option<(Endpoints, Option<ClockOffset>)>) {
    let deadline = Deadline::after(SERVER_TIME);
    let mut steps = Vec::new();
    let place = (server.scheme(), server.host(), server.port());
    let mut found = None;
    if reach(config, kernel, place, deadline, &mut steps).is_some() {
        let (began, asked_at) = (Instant::now(), kernel.wall_ms());
        let asked = connect::fetch_within(config, deadline.left(ASK_TIME));
        let took = began.elapsed();
        let (http, auth) = judge::http(&asked, server.scheme().is_encrypted(), took);
        steps.extend([http, auth]);
        let round_trip = i64::try_from(took.as_millis()).unwrap_or(i64::MAX);
        found = asked.ok().map(|endpoints| {
            let offset = endpoints.server_time_ms.map(|server_ms| ClockOffset {
                offset_ms: server_ms.saturating_sub(asked_at.saturating_add(round_trip / 2)),
                uncertain_ms: round_trip / 2,
            });
            (endpoints, offset)
        });
    }
    skip(&mut steps, &["tcp", "tls", "http", "auth"]);
    (Section { kind: "server", address: Some(server.to_string()), steps }, found)
}

/// A way that does not work is no failure of a device that has another one.
fn one_way_is_enough(ways: &mut [Section]) {
    if ways.iter().any(|way| !way.steps.iter().any(Step::is_failed)) {
        ways.iter_mut().flat_map(|way| &mut way.steps).for_each(Step::soften);
    }
}

/// All ways at once: one that swallows packets does not hold up the others.
fn look_at_ways(config: &Config, ways: &[MqttUrl], running: &Running, kernel: &Kernel) -> Vec<Section> {
    // Two log-ins of one name would end each other.
    let turn = &Mutex::new(());
    std::thread::scope(|scope| {
        let look = |way| move || look_at_way(config, way, running, kernel, turn);
        let lookers: Vec<_> = ways.iter().map(|way| scope.spawn(look(way))).collect();
        let sections = lookers.into_iter().zip(ways).map(|(looker, way)| {
            looker.join().unwrap_or_else(|_| {
                let step = Step::failed("mqtt", "this look ended in the middle", "run this again");
                Section { kind: "link", address: Some(way.to_string()), steps: vec![step] }
            })
        });
        sections.collect()
    })
}

fn look_at_way(
    config: &Config,
    way: &MqttUrl,
    running: &Running,
    kernel: &Kernel,
    turn: &Mutex<()>,
) -> Section {
    let deadline = Deadline::after(LINK_TIME);
    let mut steps = Vec::new();
    let place = (way.scheme(), way.host(), way.port());
    if let Some(mut stream) = reach(config, kernel, place, deadline, &mut steps) {
        let name = format!("{}/{}", config.org, config.device_id);
        let token = config.device_token.as_ref();
        // In the name of a running agent nobody else may log in.
        let log_in = match running.maybe {
            true => None,
            false => mqtt::log_in(&name, token.map(crate::config::Secret::expose)),
        };
        let websocket = matches!(way.scheme(), Scheme::Ws | Scheme::Wss);
        // As in a URL: with brackets around an IPv6 address, and the port unless it is the usual one.
        let text = way.to_string();
        let host = text.split_once("://").map_or("", |(_, rest)| rest.split('/').next().unwrap_or_default());
        let inside = Inside { websocket: websocket.then_some((host, way.path())) };
        let connect = log_in.clone().unwrap_or_else(mqtt::question);
        let _turn = log_in.is_some().then(|| turn.lock().unwrap_or_else(PoisonError::into_inner));
        let spoken = network::speak(&mut *stream, inside, &connect);
        steps.push(judge::mqtt(&spoken, websocket));
        match (&spoken, log_in) {
            (Spoken::Welcome(welcome), Some(_)) => steps.push(judge::log_in(*welcome, &name)),
            (Spoken::Welcome(_), None) => steps.push(Step::skipped(
                "auth",
                format!(
                    "not tried: it would end the running agent's connection; the agent says: {}",
                    running.says
                ),
            )),
            _ => {}
        }
    }
    skip(&mut steps, &["tcp", "tls", "mqtt", "auth"]);
    Section { kind: "link", address: Some(way.to_string()), steps }
}
