//! Aim 4: from the HTTP request for a command to its stored result.

use std::{
    sync::mpsc::{SyncSender, sync_channel},
    thread,
    time::{Duration, Instant},
};

use protocol::{codec, id::CommandId, message::CommandReport, topic::Uplink};
use serde_json::json;

use super::Context;
use crate::{
    fleet::{
        Fleet, Result,
        device::{Client, Packet, command_id},
        load::Load,
        numbers::{ms, now_ms, percentile},
    },
    fsync,
    outcome::{Failure, Outcome},
    report::{Section, Verdict},
};

/// Devices that make the load, and the heartbeats that all of them send in a second.
const BESIDE: usize = 500;
const PER_SECOND: u32 = 5_000;

pub(crate) fn run(context: &Context) -> Outcome<Section> {
    measure(context).map_err(|error| Failure::new(error.to_string()))
}

struct Times {
    p50: Duration,
    p99: Duration,
    fsync: Duration,
}

fn measure(context: &Context) -> Result<Section> {
    let count = if context.quick { 50 } else { 500 };
    let (mut fleet, devices) = Fleet::prepare(&context.scratch, &context.bin_dir, "command", BESIDE + 1)?;
    // One device with hundreds of commands a second: what one may send in a second is not measured here.
    fleet.set("FLEET_DEVICE_MESSAGES_PER_SECOND", "0");
    fleet.start()?;
    let (device, beside) = devices.split_first().ok_or("one device")?;
    let mut commands = Commands::start(&fleet, Client::connect(fleet.mqtt, device)?, &device.id)?;
    commands.some(20)?;
    let alone = commands.timed(context, count)?;
    let load = Load::start(fleet.mqtt, beside, PER_SECOND)?;
    thread::sleep(Duration::from_secs(1));
    let busy = commands.timed(context, count)?;
    let acknowledged = load.end()?;
    fleet.stop()?;

    let row =
        |name: &str, times: &Times| vec![name.to_owned(), ms(times.fsync), ms(times.p50), ms(times.p99)];
    let verdicts = [("alone", &alone), ("beside the load", &busy)].into_iter().flat_map(|(name, times)| {
        let allowed = times.fsync * 4 + Duration::from_millis(1);
        [
            Verdict {
                claim: format!("command to stored result, {name}, p50"),
                aim: format!("4 fsyncs + 1 ms = {}", ms(allowed)),
                got: ms(times.p50),
                met: times.p50 <= allowed,
            },
            Verdict {
                claim: format!("command to stored result, {name}, p99"),
                aim: format!("10 × p50 = {}", ms(times.p50 * 10)),
                got: ms(times.p99),
                met: times.p99 <= times.p50 * 10,
            },
        ]
    });
    Ok(Section {
        title: "A command from the HTTP request to its stored result".to_owned(),
        intro: format!(
            "{count} times `POST /devices/{{id}}/commands` with a `ping`, one after the other on one HTTP connection; the device is connected over MQTT, \
             keeps nothing on a disk of its own and answers at once with the three reports `acked`, `running` and `completed` in one message. A time \
             goes from the first byte of the request to the device's receipt of the acknowledgement that covers `completed`: the server sends \
             that after the commit of the result. Two commits lie in it one after the other: the command, which is created as sent, and its reports. \
             Then the same beside {BESIDE} devices that send {PER_SECOND} heartbeats a second ({acknowledged:.0} a second were acknowledged). The \
             fsync is that of 4 KiB on the same file system, measured right before and right after, the median of both."
        ),
        why_not: WHY_NOT,
        columns: ["", "fsync p50", "p50", "p99"].map(str::to_owned).to_vec(),
        rows: vec![row("alone", &alone), row("beside the load", &busy)],
        verdicts: verdicts.collect(),
    })
}

const WHY_NOT: &str = "Two commits lie in it one after the other, and each is more than the probe: it writes 7 to 16 pages of 4 KiB (a new command is in three \
     tables and a dozen of their indexes), which takes as long as an fdatasync, and then waits for one of 60 KiB where the probe's is of 4. On a \
     memory file system, where a commit waits for nothing, the same way takes 1.17 ms. That is some fifteen hand-overs between threads and processes \
     (server, its writer, the router, the device, the client), and the server's work between them, which is long in no one place: sampled, its \
     processor time goes to switches between threads (30 %), SQLite (18 %), files and sockets (10 %), memory (9 %) and everything else. Beside the \
     load each of the two waits for the commit that is under way when it comes. What would help next: fewer pages for a new command, and fewer \
     looks at the database before it.";

/// One device that answers, and one person who asks.
struct Commands {
    http: crate::fleet::http::Http,
    path: String,
    done: std::sync::mpsc::Receiver<Instant>,
}

impl Commands {
    fn start(fleet: &Fleet, client: Client, device: &str) -> Result<Self> {
        let (sender, done) = sync_channel(1);
        thread::Builder::new().name("device".to_owned()).spawn(move || {
            if let Err(error) = answer(client, &sender) {
                // The server has ended, at the latest.
                let _ = error;
            }
        })?;
        Ok(Self { http: fleet.admin()?, path: format!("/devices/{device}/commands"), done })
    }

    fn some(&mut self, count: usize) -> Result<Vec<Duration>> {
        let body = json!({"type": "ping", "payload": {}}).to_string();
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let began = Instant::now();
            self.http.ask("POST", &self.path, &body)?;
            let ended =
                self.done.recv_timeout(Duration::from_secs(40)).map_err(|_| "a command has no end")?;
            times.push(ended - began);
        }
        Ok(times)
    }

    fn timed(&mut self, context: &Context, count: usize) -> Result<Times> {
        let before = fsync::probe(&context.scratch)?.p50;
        let times = self.some(count)?;
        let after = fsync::probe(&context.scratch)?.p50;
        Ok(Times { p50: percentile(&times, 50), p99: percentile(&times, 99), fsync: before.midpoint(after) })
    }
}

trait Midpoint {
    fn midpoint(self, other: Self) -> Self;
}

impl Midpoint for Duration {
    fn midpoint(self, other: Self) -> Self {
        (self + other) / 2
    }
}

/// Reports every command as done, and says when the server has that.
fn answer(mut client: Client, done: &SyncSender<Instant>) -> Result<()> {
    loop {
        let Packet::Publish(last, payload) = client.packet()? else { continue };
        if last != "command" {
            continue;
        }
        let Some(id) = command_id(&payload)? else { continue };
        let id: CommandId = id.parse()?;
        let mut records = Vec::new();
        let mut seq = 0;
        for (report_seq, state) in (1..).zip(["acked", "running", "completed"]) {
            seq = client.next_seq();
            records.push(codec::encode_packed(&CommandReport {
                seq,
                connection: 1,
                ts: now_ms(),
                id: id.clone(),
                report_seq,
                state: state.to_owned(),
                reason: None,
                progress_percent: None,
                result: (state == "completed").then(|| json!({"ts": now_ms()})),
                error: None,
                nonce: None,
                token_sha256: None,
            })?);
        }
        client.publish(Uplink::Status, &codec::batch(records.iter().map(Vec::as_slice)))?;
        client.committed_to(seq)?;
        done.send(Instant::now())?;
    }
}
