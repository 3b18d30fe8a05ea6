//! Ten thousand devices that come back at once.

use std::time::{Duration, Instant};

use super::Context;
use crate::fleetd::Fleetd;
use crate::mqtt::devices::Devices;
use crate::mqtt::swarm::{Swarm, address};
use crate::outcome::{Failure, Outcome};
use crate::report::{Section, Verdict, cells};
use crate::statistics::thousands;

const INTRO: &str = "\
The devices, forty behind each address, begin to connect to `fleetd` at the same moment, as after the network of the server was away. \
Each logs in with its token, subscribes, says that it is there (birth), and is served when the server has acknowledged that, which is \
after the commit. A connection that the server ends is begun again after a second. Then every device sends one heartbeat at once.";

const PATIENCE: Duration = Duration::from_secs(60);
/// When a device that was turned away comes back.
const AGAIN: Duration = Duration::from_secs(1);

pub(crate) fn run(context: &Context) -> Outcome<Section> {
    let devices = if context.quick { 1_000 } else { 10_000 };
    let mut rows = Vec::new();
    let mut served = Vec::new();
    let mut slowest: f64 = 0.0;
    let mut peak = 0.0;
    for round in 1..=if context.quick { 1 } else { 2 } {
        let server = Fleetd::start(context, devices)?;
        let before = server.process.memory()?;
        let herd = stampede(&server)?;
        let after = server.process.memory()?;
        rows.push(vec![
            round.to_string(),
            thousands(herd.ready as f64),
            thousands(herd.turned_away as f64),
            format!("{:.2} s", herd.half.as_secs_f64()),
            format!("{:.2} s", herd.all.as_secs_f64()),
            format!("{:.2} s", herd.heartbeats.as_secs_f64()),
            format!("{:.1} MB", before.rss_kb as f64 / 1e3),
            format!("{:.1} MB", after.peak_kb as f64 / 1e3),
            format!("{:.1} s", server.process.cpu()?.as_secs_f64()),
        ]);
        served.push(herd.ready);
        slowest = slowest.max(herd.all.as_secs_f64());
        peak = f64::max(peak, after.peak_kb as f64 / 1e3);
    }
    Ok(Section {
        title: format!("A herd: {} devices reconnect at once", thousands(devices as f64)),
        why_not: "",
        intro: INTRO.to_owned(),
        columns: cells([
            "run",
            "served",
            "turned away and back",
            "half of them after",
            "all after",
            "a heartbeat of each after",
            "RSS before",
            "peak RSS",
            "processor time",
        ]),
        rows,
        verdicts: vec![Verdict {
            claim: format!("{} devices at once", thousands(devices as f64)),
            aim: "all are served".to_owned(),
            got: format!(
                "{} served within {slowest:.1} s, peak {peak:.0} MB",
                thousands(served.iter().copied().min().unwrap_or(0) as f64)
            ),
            met: served.iter().all(|ready| *ready == devices),
        }],
    })
}

struct Herd {
    ready: usize,
    turned_away: usize,
    half: Duration,
    all: Duration,
    heartbeats: Duration,
}

fn stampede(server: &Fleetd) -> Outcome<Herd> {
    let count = server.devices.len();
    let mut devices = Devices::new(&server.devices, 1);
    let mut swarm = Swarm::new()?;
    let begin = Instant::now();
    for who in 0..count {
        swarm.connect(server.mqtt, address(who))?;
    }
    let mut half = None;
    let mut turned_away = 0;
    let deadline = begin + PATIENCE;
    let mut again_at = Instant::now() + AGAIN;
    while devices.ready < count && Instant::now() < deadline {
        swarm.turn(&mut devices, Duration::from_millis(5))?;
        if half.is_none() && devices.ready >= count / 2 {
            half = Some(begin.elapsed());
        }
        if Instant::now() >= again_at {
            again_at += AGAIN;
            for who in devices.come_back() {
                turned_away += 1;
                swarm.reconnect(who, server.mqtt, address(who))?;
            }
        }
    }
    let all = begin.elapsed();
    if devices.ready < count {
        eprintln!("  {} of {count} are served; the last one lost: {}", devices.ready, devices.why_lost);
    }
    let start = Instant::now();
    for who in 0..count {
        swarm.send(who, |out| {
            devices.heartbeat(who, out);
        })?;
    }
    let expected = devices.ready as u64;
    let done = swarm.run(&mut devices, start + PATIENCE, |load| load.acknowledged >= expected)?;
    if !done {
        let got = devices.acknowledged;
        return Err(Failure::new(format!(
            "{got} of {expected} heartbeats acknowledged; {}",
            devices.why_lost
        )));
    }
    Ok(Herd {
        ready: devices.ready,
        turned_away,
        half: half.unwrap_or(all),
        all,
        heartbeats: start.elapsed(),
    })
}
