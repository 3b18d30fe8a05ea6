//! Aim 5: memory of the server with idle devices, and of an agent.

use std::{thread, time::Duration};

use protocol::{codec, topic::Uplink};

use super::Context;
use crate::{
    fleet::{
        Device, Fleet, Result, agent,
        device::Client,
        heartbeat,
        numbers::{now_ms, status_mb},
    },
    outcome::{Failure, Outcome},
    report::{Section, Verdict},
};

/// Idle devices, and the MB that the server may have resident with them.
const STEPS: [(usize, f64); 2] = [(1_000, 16.0), (10_000, 64.0)];
/// Devices that connect at the same time.
const AT_ONCE: usize = 8;

pub(crate) fn run(context: &Context) -> Outcome<Section> {
    measure(context).map_err(|error| Failure::new(error.to_string()))
}

fn measure(context: &Context) -> Result<Section> {
    let steps = if context.quick { &STEPS[..1] } else { &STEPS[..] };
    let most = steps.last().map_or(0, |(devices, _)| *devices);
    let (mut fleet, devices) = Fleet::prepare(&context.scratch, &context.bin_dir, "memory", most)?;
    fleet.start()?;
    let pid = fleet.pid()?;
    let mut rows = vec![vec![
        "fleetd, no device".to_owned(),
        format!("{:.1}", status_mb(pid, "VmRSS")?),
        format!("{:.1}", status_mb(pid, "RssAnon")?),
    ]];
    let (mut clients, mut verdicts) = (Vec::new(), Vec::new());
    for (count, allowed) in steps {
        clients.extend(connect(&fleet, &devices[clients.len()..*count])?);
        thread::sleep(Duration::from_secs(if context.quick { 3 } else { 12 }));
        let (rss, anon) = (status_mb(pid, "VmRSS")?, status_mb(pid, "RssAnon")?);
        rows.push(vec![format!("fleetd, {count} idle devices"), format!("{rss:.1}"), format!("{anon:.1}")]);
        verdicts.push(Verdict {
            claim: format!("fleetd with {count} idle devices"),
            aim: format!("{allowed} MB resident"),
            got: format!("{rss:.1} MB"),
            met: rss <= *allowed,
        });
    }
    drop(clients);
    fleet.stop()?;
    let agent = agent::figures(context)?;
    rows.push(vec!["agent".to_owned(), format!("{:.1}", agent.rss_mb), format!("{:.1}", agent.anon_mb)]);
    for (what, got, allowed) in [("RssAnon", agent.anon_mb, 3.0), ("RSS", agent.rss_mb, 6.0)] {
        verdicts.push(Verdict {
            claim: format!("agent, {what}"),
            aim: format!("{allowed} MB"),
            got: format!("{got:.2} MB"),
            met: got <= allowed,
        });
    }
    Ok(Section {
        title: "Memory".to_owned(),
        intro: "Plain connections. Each device has connected, subscribed, given birth, sent one heartbeat and got its acknowledgement; then all are \
                silent for some seconds. The agent is the `device` build after minutes of heartbeats every 30 s, with an \
                application that it looks at. Resident is `VmRSS`: with the program's own pages, shared or not; MB are millions of bytes."
            .to_owned(),
        columns: ["", "resident, MB", "heap and stacks (RssAnon), MB"].map(str::to_owned).to_vec(),
        rows,
        verdicts,
    })
}

fn connect(fleet: &Fleet, devices: &[Device]) -> Result<Vec<Client>> {
    let some = devices.len().div_ceil(AT_ONCE).max(1);
    thread::scope(|scope| {
        let threads: Vec<_> = devices
            .chunks(some)
            .map(|devices| {
                scope.spawn(move || -> Result<Vec<Client>> {
                    let one = |device| -> Result<Client> {
                        let mut client = Client::connect(fleet.mqtt, device)?;
                        let seq = client.next_seq();
                        client.publish(
                            Uplink::Heartbeat,
                            &codec::encode_packed(&heartbeat(seq, 1, now_ms()))?,
                        )?;
                        client.committed_to(seq)?;
                        Ok(client)
                    };
                    devices.iter().map(one).collect()
                })
            })
            .collect();
        let mut clients = Vec::new();
        for thread in threads {
            clients.extend(thread.join().map_err(|_| "a thread has panicked")??);
        }
        Ok(clients)
    })
}
