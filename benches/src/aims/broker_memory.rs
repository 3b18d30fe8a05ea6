//! What an idle connection costs the broker.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Context;
use crate::fleet_broker::{FleetBroker, credentials};
use crate::mosquitto::Mosquitto;
use crate::mqtt::devices::Credential;
use crate::mqtt::packet::{self, Connect, Packet};
use crate::mqtt::swarm::{Behaviour, Swarm, address};
use crate::outcome::{Failure, Outcome};
use crate::process::Process;
use crate::report::{Section, Verdict};
use crate::statistics::thousands;

const INTRO: &str = "\
Devices are connected over plain TCP with a last will and three subscriptions each, and say nothing. What is counted is by how much the \
program's resident memory has grown, divided by the connections. What the kernel keeps for a socket is not in it, for either. \
`docs/broker.md` promises 7 kB; Mosquitto, which keeps less of a client, shows what is possible.";

const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn run(context: &Context) -> Outcome<Section> {
    let connections = if context.quick { 500 } else { 5_000 };
    let broker = FleetBroker::start(context, connections)?;
    let ours = idle(broker.address, &broker.process, &broker.devices, true)?;
    drop(broker);
    let mosquitto = Mosquitto::start(context)?;
    let names = credentials("acme", connections);
    let peer = idle(mosquitto.address, &mosquitto.process, &names, false)?;
    let row = |name: &str, idle: &Idle| {
        vec![
            name.to_owned(),
            format!("{:.1} MB", idle.before_kb / 1e3),
            format!("{:.1} MB", idle.after_kb / 1e3),
            format!("{:.1} MB", idle.anon_kb / 1e3),
            format!("{:.1} kB", idle.each_kb),
        ]
    };
    Ok(Section {
        title: "Memory of an idle connection".to_owned(),
        why_not: "",
        intro: INTRO.to_owned(),
        columns: vec![
            String::new(),
            "RSS before".to_owned(),
            format!("with {}", thousands(connections as f64)),
            "of it heap and stacks".to_owned(),
            "each".to_owned(),
        ],
        rows: vec![row("fleet-broker", &ours), row("Mosquitto", &peer)],
        verdicts: vec![Verdict {
            claim: "memory of an idle device's connection at the broker".to_owned(),
            aim: "at most 7 kB".to_owned(),
            got: format!("{:.1} kB; Mosquitto {:.1} kB", ours.each_kb, peer.each_kb),
            met: ours.each_kb <= 7.0,
        }],
    })
}

struct Idle {
    before_kb: f64,
    after_kb: f64,
    anon_kb: f64,
    each_kb: f64,
}

/// Devices that subscribe and are silent then.
struct Silent<'a> {
    names: &'a [Credential],
    login: bool,
    subscribed: usize,
    failed: Option<String>,
}

impl Behaviour for Silent<'_> {
    fn opened(&mut self, who: usize, out: &mut Vec<u8>) {
        let Credential { name, token } = &self.names[who];
        let topic = self.names[who].topic("presence");
        let login = self.login.then_some((name.as_str(), token.as_str()));
        let will = Some((topic.as_str(), &[0xf6; 16][..]));
        packet::connect(out, &Connect { client_id: name, login, keep_alive_seconds: 600, will });
    }

    fn packet(&mut self, who: usize, packet: Packet<'_>, out: &mut Vec<u8>) {
        match packet {
            Packet::ConnAck { code: 0 } => {
                let [a, b, c] = ["command", "desired", "ack"].map(|leaf| self.names[who].topic(leaf));
                packet::subscribe(out, &[&a, &b, &c], 1);
            }
            Packet::SubAck { granted: [1, 1, 1] } => self.subscribed += 1,
            other => self.failed = Some(format!("{other:?}")),
        }
    }

    fn closed(&mut self, who: usize, why: String) {
        self.failed = Some(format!("connection {who}: {why}"));
    }
}

fn idle(to: SocketAddr, process: &Process, names: &[Credential], login: bool) -> Outcome<Idle> {
    let mut load = Silent { names, login, subscribed: 0, failed: None };
    let mut swarm = Swarm::new()?;
    let before_kb = process.memory()?.rss_kb as f64;
    for who in 0..names.len() {
        swarm.connect(to, address(who))?;
        // Not a herd: what a rush leaves behind in the heap is another question.
        swarm.run(&mut load, Instant::now() + PATIENCE, |load| {
            load.failed.is_some() || load.subscribed + 50 > who
        })?;
    }
    let all = |load: &mut Silent<'_>| load.failed.is_some() || load.subscribed == names.len();
    if !swarm.run(&mut load, Instant::now() + PATIENCE, all)? || load.failed.is_some() {
        let why = load.failed.unwrap_or_default();
        return Err(Failure::new(format!("{} of {} subscribed; {why}", load.subscribed, names.len())));
    }
    std::thread::sleep(Duration::from_millis(500));
    let after = process.memory()?;
    let (after_kb, anon_kb) = (after.rss_kb as f64, after.anon_kb as f64);
    Ok(Idle { before_kb, after_kb, anon_kb, each_kb: (after_kb - before_kb) / names.len() as f64 })
}
