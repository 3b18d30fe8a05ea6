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
        tls,
    },
    outcome::{Failure, Outcome},
    report::{Section, Verdict},
};

/// Idle devices, and the MB that the server may have resident with them.
const STEPS: [(usize, f64); 2] = [(1_000, 16.0), (10_000, 64.0)];
/// What an idle device's connection over TLS may cost, in kB of heap.
const TLS_KB: f64 = 30.0;
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
    let mut rows = vec![row("fleetd, no device".to_owned(), &Memory::of(pid)?)];
    let (mut clients, mut verdicts, mut heaps) = (Vec::new(), Vec::new(), Vec::new());
    for (count, allowed) in steps {
        clients.extend(connect(&fleet, &devices[clients.len()..*count])?);
        thread::sleep(Duration::from_secs(if context.quick { 3 } else { 12 }));
        let memory = Memory::of(pid)?;
        rows.push(row(format!("fleetd, {count} idle devices"), &memory));
        verdicts.push(Verdict {
            claim: format!("fleetd with {count} idle devices"),
            aim: format!("{allowed} MB resident"),
            got: format!("{:.1} MB", memory.rss),
            met: memory.rss <= *allowed,
        });
        heaps.push((*count, memory.anon));
    }
    drop(clients);
    fleet.stop()?;
    let tls_kb =
        tls::connection_kb(&context.scratch, &context.bin_dir, if context.quick { 200 } else { 2_000 })?;
    verdicts.push(Verdict {
        claim: "a connection with TLS".to_owned(),
        aim: format!("{TLS_KB} kB"),
        got: format!("{tls_kb:.1} kB"),
        met: tls_kb <= TLS_KB,
    });
    let agent = agent::figures(context)?;
    rows.push(row("agent".to_owned(), &Memory { rss: agent.rss_mb, anon: agent.anon_mb }));
    let floor = Memory { rss: agent.floor_rss_mb, anon: agent.floor_anon_mb };
    rows.push(row("the bare program of 6, without `libsystemd`".to_owned(), &floor));
    for (what, got, allowed) in [("RssAnon", agent.anon_mb, 3.0), ("RSS", agent.rss_mb, 6.0)] {
        verdicts.push(Verdict {
            claim: format!("agent, {what}"),
            aim: format!("{allowed} MB"),
            got: format!("{got:.2} MB"),
            met: got <= allowed,
        });
    }
    let mut intro = "Plain connections, but where it says TLS. Each device has connected, subscribed, given birth, sent one heartbeat and got its \
                     acknowledgement; then all are silent for some seconds. The server runs with `MALLOC_ARENA_MAX=2`, as its \
                     unit has it. The agent is the `device` build after minutes of heartbeats every 30 s, with an application that \
                     it looks at. Resident is `VmRSS`, with the pages of the program's and the libraries' files, which the \
                     kernel shares among processes, maps around whatever is touched, and drops when memory is short; MB are \
                     millions of bytes."
        .to_owned();
    if let [(few, heap_few), .., (many, heap_many)] = heaps.as_slice() {
        let each_kb = (heap_many - heap_few) * 1e3 / (many - few) as f64;
        intro.push_str(&format!(
            " From {few} to {many} devices the server's heap grows by {each_kb:.1} kB a device."
        ));
    }
    Ok(Section {
        title: "Memory".to_owned(),
        intro,
        why_not: WHY_NOT,
        columns: ["", "resident, MB", "heap and stacks (RssAnon), MB", "files and shared, MB"]
            .map(str::to_owned)
            .to_vec(),
        rows,
        verdicts,
    })
}

const WHY_NOT: &str = "The pages of files count. `fleetd` is a program of 21 MB, and the kernel maps 64 kB around whatever is touched: nearly all of \
     its code and constants that are ever used are resident from the start, some 13 MB, and 2.5 MB of the C library, `libm`, `libsystemd` and what \
     that loads: that alone is the 16 MB. Its heap begins at 4 MB (the database's caches for five connections, prepared statements). An idle device \
     costs 6 kB in the broker (task, session, subscriptions, buffers) and 4 kB more in the server (its birth and committed numbers, retained presence \
     and view); what 1,000 devices add beyond that is the peak of their coming all at once, of which the C library gives little back: it was 18 MB in \
     runs of this aim alone and 26 MB in a whole run. Other allocators were tried: jemalloc, told to keep nothing that is free, had 21 MB where the C \
     library had 18, and mimalloc took 62 MB at the server's start. Of the agent's 7.6 MB its code is 3.2, its constants 0.9, the C library and the loader 1.7, `libsystemd` with the six \
     libraries that it loads 1.0, heap and stacks the rest. From its start on it runs 2,300 functions of 0.95 MB (counted before TLS came in), but they lay \
     in 48 of its 49 windows of 64 kB, in which the kernel maps: so nearly all of the code is resident. Put in the order of their use by the linker they would leave up to 2 MB \
     unmapped, which is more than is missing; that takes a profile for each build, for the ARM64 one too. A bare program with SQLite, a socket and \
     no `libsystemd` has 3.7 MB (the row below).";

/// In MB.
struct Memory {
    rss: f64,
    anon: f64,
}

impl Memory {
    fn of(pid: u32) -> Result<Self> {
        Ok(Self { rss: status_mb(pid, "VmRSS")?, anon: status_mb(pid, "RssAnon")? })
    }
}

fn row(name: String, memory: &Memory) -> Vec<String> {
    let rest = memory.rss - memory.anon;
    vec![name, format!("{:.1}", memory.rss), format!("{:.1}", memory.anon), format!("{rest:.1}")]
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
