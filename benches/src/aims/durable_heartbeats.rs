//! How many heartbeats a second the server commits and acknowledges.

use std::time::{Duration, Instant};

use super::{Context, pass_through};
use crate::fleet_broker::credentials;
use crate::fleetd::Fleetd;
use crate::fsync;
use crate::mosquitto::Mosquitto;
use crate::mqtt::devices::Devices;
use crate::mqtt::swarm::{Swarm, address};
use crate::outcome::{Failure, Outcome};
use crate::process::cpu_of;
use crate::report::{Section, Verdict, cells};
use crate::statistics::{median, percentile, spread, thousands};

const INTRO: &str = "\
A thousand devices are connected to `fleetd` (its own broker, SQLite with `synchronous=FULL`). Each sends a heartbeat and waits for the \
server's `ack` that covers it, which comes after the commit; then the next. So one is under way for each connection, and what is \
counted has survived a power cut. Beside it, by turns: Mosquitto passing messages of 100 bytes from a thousand publishers to one \
subscriber, one under way each, with nothing durable about it; and a probe of the disk. The aim is 0.8 of the smaller of what \
Mosquitto passes and of connections ÷ time of an fsync, the most that one commit for all of them at a time could give.";

const CONNECTIONS: usize = 1_000;
const PATIENCE: Duration = Duration::from_secs(30);
const AIM: f64 = 0.8;

pub(crate) fn run(context: &Context) -> Outcome<Section> {
    let seconds = Duration::from_secs(if context.quick { 1 } else { 4 });
    let (mut ours, mut peer, mut by_disk, mut p50, mut p99) = (vec![], vec![], vec![], vec![], vec![]);
    let (mut cpu, mut load_cpu) = (vec![], vec![]);
    let names = credentials("acme", CONNECTIONS);
    for _ in 0..context.repetitions().min(4) {
        let server = Fleetd::start(context, CONNECTIONS)?;
        let mut got = stream(&server, seconds)?;
        ours.push(got.per_second);
        p50.push(percentile(&mut got.times, 50.0).as_secs_f64() * 1e3);
        p99.push(percentile(&mut got.times, 99.0).as_secs_f64() * 1e3);
        cpu.push(got.cpu_each.as_secs_f64() * 1e6);
        load_cpu.push(got.load_cpu_each.as_secs_f64() * 1e6);
        drop(server);
        let mosquitto = Mosquitto::start(context)?;
        peer.push(pass_through::load(mosquitto.address, &names, false, 1, seconds / 2)?.per_second);
        drop(mosquitto);
        by_disk.push(CONNECTIONS as f64 / fsync::probe(&context.scratch)?.p50.as_secs_f64());
    }
    let limit = median(&peer).min(median(&by_disk));
    let ratio = median(&ours) / limit;
    let row = |name: &str, values: &[f64]| vec![name.to_owned(), thousands(median(values)), spread(values)];
    let milliseconds = |values: &[f64]| format!("{:.1} ms", median(values));
    Ok(Section {
        title: "Durable, acknowledged heartbeats a second".to_owned(),
        intro: INTRO.to_owned(),
        why_not: WHY_NOT,
        columns: cells(["", "a second", "from … to"]),
        rows: vec![
            row("fleetd: committed and acknowledged", &ours),
            row("Mosquitto: passed on, not durable", &peer),
            row("connections ÷ fsync", &by_disk),
            vec![
                "the server's processor time for each".to_owned(),
                format!("{:.0} µs", median(&cpu)),
                spread(&cpu),
            ],
            vec![
                "the load's, for each".to_owned(),
                format!("{:.0} µs", median(&load_cpu)),
                spread(&load_cpu),
            ],
            vec![
                "a heartbeat's way to its ack, p50 and p99".to_owned(),
                milliseconds(&p50),
                milliseconds(&p99),
            ],
        ],
        verdicts: vec![Verdict {
            claim: "durable acknowledged heartbeats, 1,000 connections".to_owned(),
            aim: format!("{AIM} of {}", thousands(limit)),
            got: format!("{} a second: {ratio:.2}", thousands(median(&ours))),
            met: ratio >= AIM,
        }],
    })
}

struct Streamed {
    per_second: f64,
    /// Processor time for a heartbeat: the server's, and that of the load.
    cpu_each: Duration,
    load_cpu_each: Duration,
    times: Vec<Duration>,
}

fn stream(server: &Fleetd, time: Duration) -> Outcome<Streamed> {
    let mut devices = Devices::new(&server.devices, 1);
    let mut swarm = Swarm::new()?;
    for who in 0..server.devices.len() {
        swarm.connect(server.mqtt, address(who))?;
    }
    let all = server.devices.len();
    let ready =
        swarm.run(&mut devices, Instant::now() + PATIENCE, |load| load.ready == all || load.lost > 0)?;
    if !ready || devices.lost > 0 {
        return Err(Failure::new(format!("{} of {all} are ready; {}", devices.ready, devices.why_lost)));
    }
    devices.streaming = true;
    for who in 0..all {
        swarm.send(who, |out| {
            devices.heartbeat(who, out);
        })?;
    }
    swarm.run(&mut devices, Instant::now() + time / 4, |_| false)?;
    devices.times = Some(Vec::new());
    let (begin, before) = (Instant::now(), devices.acknowledged);
    let (cpu_before, load_before) = (server.process.cpu()?, cpu_of("self")?);
    swarm.run(&mut devices, begin + time, |load| load.lost > 0)?;
    let done = (devices.acknowledged - before) as f64;
    let per_second = done / begin.elapsed().as_secs_f64();
    let cpu_each = (server.process.cpu()? - cpu_before).div_f64(done.max(1.0));
    let load_cpu_each = (cpu_of("self")? - load_before).div_f64(done.max(1.0));
    if devices.lost > 0 {
        return Err(Failure::new(format!("{} connections were lost; {}", devices.lost, devices.why_lost)));
    }
    Ok(Streamed { per_second, cpu_each, load_cpu_each, times: devices.times.take().unwrap_or_default() })
}

const WHY_NOT: &str = "The processor: both cores are busy, with the server and with the load, whose times for a heartbeat stand above; together they allow no more. \
     Sampled, the server's time goes to: the tasks of the connections a third, half of it in two writes to the socket, the receipt and the \
     acknowledgement, which cannot be one since the second comes after the commit; taking in a third, of which decoding and checking a fifth, \
     encoding and handing over the acknowledgements a third, the rest statements and their memory; the writer a fifth (three statements a \
     heartbeat 14 %, the log and its fdatasync 5 %); the router's thread a tenth. 0.8 of Mosquitto would leave some 20 µs for all of it, of which \
     the two writes take half. What would help next: fewer hand-overs between threads. \
     A receipt that waits for the acknowledgement, to go in one write with it, would have to wait some 30 ms under this load.";
