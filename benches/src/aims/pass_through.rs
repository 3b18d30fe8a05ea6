//! How many messages a second pass through the broker.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Context;
use crate::fleet_broker::{FleetBroker, SERVICE};
use crate::mosquitto::Mosquitto;
use crate::mqtt::devices::Credential;
use crate::mqtt::packet::{self, Connect, Packet};
use crate::mqtt::swarm::{Behaviour, Swarm};
use crate::outcome::{Failure, Outcome};
use crate::report::{Section, Verdict, cells};
use crate::statistics::{median, spread, thousands};

const INTRO: &str = "\
Publishers send 100 bytes with QoS 1, each on its own topic, with 20 messages under way; one subscriber (QoS 1) gets everything and \
acknowledges it. What counts is what has arrived at the subscriber. Ours is `fleet-broker` with its access rules: the publishers are \
devices that have logged in with their tokens, each message is checked against what its sender may publish, and the subscriber is a \
service. Mosquitto lets everybody do everything, keeps nothing on disk and has no limit on what is under way. Publishers \
and subscriber have a thread each, beside the broker.";

const PAYLOAD: [u8; 100] = [7; 100];
/// Messages of one publisher under way.
const WINDOW: usize = 20;
const PATIENCE: Duration = Duration::from_secs(10);
/// By how much ours is to be ahead.
const AIM: f64 = 1.5;

pub(crate) fn run(context: &Context) -> Outcome<Section> {
    let seconds = Duration::from_millis(if context.quick { 500 } else { 2_000 });
    let mut rows = Vec::new();
    let mut verdicts = Vec::new();
    for publishers in [1, 100, 1_000] {
        let (mut ours, mut peer, mut lost) = (Vec::new(), Vec::new(), 0);
        for _ in 0..context.repetitions() {
            let broker = FleetBroker::start(context, publishers)?;
            let got = load(broker.address, &broker.devices, true, WINDOW, seconds)?;
            ours.push(got.per_second);
            lost += got.lost;
            drop(broker);
            let mosquitto = Mosquitto::start(context)?;
            let names = crate::fleet_broker::credentials("acme", publishers);
            peer.push(load(mosquitto.address, &names, false, WINDOW, seconds)?.per_second);
        }
        let ratio = median(&ours) / median(&peer);
        rows.push(vec![
            publishers.to_string(),
            thousands(median(&ours)),
            spread(&ours),
            thousands(median(&peer)),
            spread(&peer),
            format!("{ratio:.2}"),
            thousands(lost as f64),
        ]);
        if publishers == 100 {
            verdicts.push(Verdict {
                claim: "pass-through with authorization, 100 publishers".to_owned(),
                aim: format!("{AIM} times Mosquitto's"),
                got: format!("{ratio:.2} times"),
                met: ratio >= AIM,
            });
        }
    }
    Ok(Section {
        title: "Pass-through of the broker, messages a second".to_owned(),
        why_not: "",
        intro: INTRO.to_owned(),
        columns: cells([
            "publishers",
            "ours",
            "from … to",
            "Mosquitto",
            "from … to",
            "ratio",
            "lost by ours",
        ]),
        rows,
        verdicts,
    })
}

/// What a load found.
pub(crate) struct Passed {
    pub(crate) per_second: f64,
    /// Messages that were acknowledged to their publishers and did not arrive.
    pub(crate) lost: u64,
}

/// What publishers and subscriber, who run on threads of their own, tell each other.
#[derive(Default)]
struct Shared {
    subscribed: AtomicBool,
    received: AtomicU64,
    stop: AtomicBool,
}

/// The publishers.
struct Publishers<'a> {
    names: &'a [Credential],
    topics: Vec<String>,
    window: usize,
    login: bool,
    ready: usize,
    publishing: bool,
    ids: Vec<u16>,
    under_way: Vec<usize>,
    sent: u64,
    acknowledged: u64,
    failed: Option<String>,
}

impl<'a> Publishers<'a> {
    fn new(names: &'a [Credential], login: bool, window: usize) -> Publishers<'a> {
        Publishers {
            names,
            topics: names.iter().map(|device| device.topic("heartbeat")).collect(),
            window,
            login,
            ready: 0,
            publishing: false,
            ids: vec![0; names.len()],
            under_way: vec![0; names.len()],
            sent: 0,
            acknowledged: 0,
            failed: None,
        }
    }

    fn publish(&mut self, who: usize, out: &mut Vec<u8>) {
        while self.under_way[who] < self.window {
            self.ids[who] = self.ids[who].checked_add(1).unwrap_or(1);
            packet::publish(out, &self.topics[who], self.ids[who], &PAYLOAD);
            self.under_way[who] += 1;
            self.sent += 1;
        }
    }
}

impl Behaviour for Publishers<'_> {
    fn opened(&mut self, who: usize, out: &mut Vec<u8>) {
        let Credential { name, token } = &self.names[who];
        let login = self.login.then_some((name.as_str(), token.as_str()));
        packet::connect(out, &Connect { client_id: name, login, keep_alive_seconds: 60, will: None });
    }

    fn packet(&mut self, who: usize, packet: Packet<'_>, out: &mut Vec<u8>) {
        match packet {
            Packet::ConnAck { code: 0 } => self.ready += 1,
            Packet::PubAck { .. } => {
                self.acknowledged += 1;
                self.under_way[who] -= 1;
                // Half a window at a time, as a client does that has more to do than to wait for each.
                if self.publishing && self.under_way[who] <= self.window / 2 {
                    self.publish(who, out);
                }
            }
            other => self.failed = Some(format!("{other:?}")),
        }
    }

    fn closed(&mut self, who: usize, why: String) {
        self.failed = Some(format!("publisher {who}: {why}"));
    }
}

/// The subscriber.
struct Subscriber<'a> {
    login: bool,
    shared: &'a Shared,
    failed: Option<String>,
}

impl Behaviour for Subscriber<'_> {
    fn opened(&mut self, _: usize, out: &mut Vec<u8>) {
        let login = self.login.then_some(SERVICE);
        packet::connect(out, &Connect { client_id: "subscriber", login, keep_alive_seconds: 60, will: None });
    }

    fn packet(&mut self, _: usize, packet: Packet<'_>, out: &mut Vec<u8>) {
        match packet {
            Packet::ConnAck { code: 0 } => packet::subscribe(out, &["fleet/v1/acme/device/+/heartbeat"], 1),
            Packet::SubAck { granted: [1] } => self.shared.subscribed.store(true, Ordering::Release),
            Packet::Publish { id, .. } => {
                self.shared.received.fetch_add(1, Ordering::Release);
                packet::puback(out, id);
            }
            other => self.failed = Some(format!("{other:?}")),
        }
    }

    fn closed(&mut self, _: usize, why: String) {
        self.failed = Some(format!("the subscriber: {why}"));
    }
}

fn subscribe(address: SocketAddr, login: bool, shared: &Shared) -> Outcome<()> {
    let mut load = Subscriber { login, shared, failed: None };
    let mut swarm = Swarm::new()?;
    swarm.connect(address, Ipv4Addr::new(127, 3, 0, 1))?;
    let stop = |load: &mut Subscriber<'_>| load.failed.is_some() || shared.stop.load(Ordering::Acquire);
    swarm.run(&mut load, Instant::now() + 10 * PATIENCE, stop)?;
    load.failed.map_or(Ok(()), |why| Err(Failure::new(why)))
}

/// Publishes for `time`, at most `window` messages of each publisher under way, and waits until nothing more arrives.
pub(crate) fn load(
    address: SocketAddr,
    names: &[Credential],
    login: bool,
    window: usize,
    time: Duration,
) -> Outcome<Passed> {
    let shared = Shared::default();
    std::thread::scope(|scope| {
        let subscriber = scope.spawn(|| subscribe(address, login, &shared));
        let passed = publish(address, Publishers::new(names, login, window), time, &shared);
        shared.stop.store(true, Ordering::Release);
        subscriber.join().unwrap_or_else(|_| Err(Failure::new("the subscriber has panicked")))?;
        passed
    })
}

fn publish(
    address: SocketAddr,
    mut load: Publishers<'_>,
    time: Duration,
    shared: &Shared,
) -> Outcome<Passed> {
    let mut swarm = Swarm::new()?;
    let all = load.names.len();
    for n in 0..all {
        swarm.connect(address, Ipv4Addr::new(127, 2, 0, 1 + (n / 40) as u8))?;
    }
    let connected = |load: &mut Publishers<'_>| {
        load.failed.is_some() || load.ready == all && shared.subscribed.load(Ordering::Acquire)
    };
    if !swarm.run(&mut load, Instant::now() + PATIENCE, connected)? || load.failed.is_some() {
        return Err(Failure::new(format!("{} of {all} publishers connected: {:?}", load.ready, load.failed)));
    }
    load.publishing = true;
    for who in 0..all {
        swarm.send(who, |out| load.publish(who, out))?;
    }
    let received = || shared.received.load(Ordering::Acquire);
    // The first part warms up.
    swarm.run(&mut load, Instant::now() + time / 4, |load| load.failed.is_some())?;
    let (begin, before) = (Instant::now(), received());
    swarm.run(&mut load, begin + time, |load| load.failed.is_some())?;
    let per_second = (received() - before) as f64 / begin.elapsed().as_secs_f64();
    load.publishing = false;
    // All that is under way arrives, or nothing does for a while: then it is lost.
    let mut last = (received(), Instant::now());
    swarm.run(&mut load, Instant::now() + PATIENCE, |load| {
        if received() != last.0 {
            last = (received(), Instant::now());
        }
        let all_there = load.acknowledged == load.sent && received() == load.sent;
        load.failed.is_some() || all_there || last.1.elapsed() > Duration::from_millis(500)
    })?;
    match load.failed {
        Some(why) => Err(Failure::new(why)),
        None => Ok(Passed { per_second, lost: load.acknowledged.saturating_sub(received()) }),
    }
}
