//! Aim 6: what an agent costs its device and its link.

use super::Context;
use crate::{
    fleet::{Result, agent},
    outcome::{Failure, Outcome},
    report::{Section, Verdict},
};

const CPU_MS: f64 = 3.0;
const BYTES: f64 = 256.0;

pub(crate) fn run(context: &Context) -> Outcome<Section> {
    measure(context).map_err(|error| Failure::new(error.to_string()))
}

#[expect(clippy::cast_precision_loss, reason = "counts of a few minutes")]
fn measure(context: &Context) -> Result<Section> {
    let found = agent::figures(context)?;
    let minutes = found.span.as_secs_f64() / 60.0;
    let cpu_ms = found.cpu.as_secs_f64() * 1e3 / minutes;
    let bytes = (found.bytes_up + found.bytes_down) as f64 / (found.heartbeats.max(1)) as f64;
    Ok(Section {
        title: "What an agent costs its device and its link".to_owned(),
        intro: format!(
            "The `device` build of the agent over {:.0} s, after its first three heartbeats: one every 30 s, and the application was looked at {} times. CPU is the \
             process's own clock, user and system together. Bytes are those of the MQTT stream in both directions, counted by a proxy, with \
             receipts and pings, divided by the {} heartbeats that were committed; the organisation `default` and the device `cam-00000` have \
             16 characters together.",
            found.span.as_secs_f64(),
            found.polls,
            found.heartbeats,
        ),
        why_not: WHY_NOT,
        columns: ["CPU a minute", "bytes up", "bytes down", "heartbeats"].map(str::to_owned).to_vec(),
        rows: vec![vec![
            format!("{cpu_ms:.2} ms"),
            found.bytes_up.to_string(),
            found.bytes_down.to_string(),
            found.heartbeats.to_string(),
        ]],
        verdicts: vec![
            Verdict {
                claim: "agent CPU a minute".to_owned(),
                aim: format!("{CPU_MS} ms"),
                got: format!("{cpu_ms:.2} ms"),
                met: cpu_ms <= CPU_MS,
            },
            Verdict {
                claim: "application bytes for an acknowledged heartbeat".to_owned(),
                aim: format!("{BYTES} bytes"),
                got: format!("{bytes:.0} bytes"),
                met: found.heartbeats > 0 && bytes <= BYTES,
            },
        ],
    })
}

const WHY_NOT: &str = "What is left is what each event needs: a heartbeat is a commit with an fsync of its own, a look at the sensors and the disks and a publish \
     with its receipt and acknowledgement; the application is asked over HTTP in between, on a connection of its own each time. Every wake-up \
     finds cold caches, which on a machine that does nothing else is most of the time: the same instructions in a row take a fraction of it.";
