//! Aim 2: a backlog in batches of 100, against raw SQLite.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use fleetd::store::heartbeats::{Day, make_day};
use protocol::{
    codec::{self, limit},
    topic::Uplink,
};
use rusqlite::{Connection, params};

use super::Context;
use crate::{
    fleet::{Device, Fleet, Result, device::Client, heartbeat, numbers::now_ms},
    outcome::{Failure, Outcome},
    report::{Section, Verdict},
    statistics::{median, thousands},
};

/// Records in one message, and rows in one transaction of raw SQLite.
const BATCH: u64 = 100;
/// Batches of one device that are under way at the same time: 160 kB, a third of what an agent allows itself.
const UNDER_WAY: u64 = 16;
const DEVICES: usize = 4;

pub(crate) fn run(context: &Context) -> Outcome<Section> {
    measure(context).map_err(|error| Failure::new(error.to_string()))
}

fn measure(context: &Context) -> Result<Section> {
    let (rounds, batches) = if context.quick { (1, 100) } else { (3, 500) };
    let (mut fleet, devices) =
        Fleet::prepare(&context.scratch, &context.bin_dir, "backlog", DEVICES * rounds)?;
    fleet.set("FLEET_DEVICE_MESSAGES_PER_SECOND", "0");
    fleet.start()?;
    let (mut raw, mut ours) = (Vec::new(), Vec::new());
    for some in devices.chunks(DEVICES) {
        raw.push(raw_rows(&context.scratch, batches * DEVICES as u64)?);
        ours.push(drain(&fleet, some, batches)?);
    }
    fleet.stop()?;
    let ratio = median(&ours.iter().zip(&raw).map(|(ours, raw)| ours / raw).collect::<Vec<_>>());
    let list = |all: &[f64]| all.iter().map(|one| thousands(*one)).collect::<Vec<_>>().join(", ");
    Ok(Section {
        title: "A backlog in batches of 100".to_owned(),
        why_not: "",
        intro: format!(
            "{DEVICES} devices drain {} spooled heartbeats each into `fleetd` over MQTT: messages of {BATCH} records, at most \
             {UNDER_WAY} messages of a device without acknowledgement; the time from the first message to the acknowledgement of the last \
             record. The records were encoded before. Beside it a program that does nothing but insert with the same SQLite, on the same disk: \
             one transaction (`synchronous=FULL`) for each {BATCH} rows, one prepared statement, rows with the 25 columns and the values of \
             `fleetd`'s heartbeat table. `fleetd` does more for its rows: it decodes them, checks that none comes twice, keeps the device's \
             latest state and the numbers that are committed, and passes them through its broker; and it may put several batches into one \
             transaction. Each turn has new devices, the table grows.",
            thousands((batches * BATCH) as f64),
        ),
        columns: ["", "rows a second, each turn"].map(str::to_owned).to_vec(),
        rows: vec![
            vec!["raw SQLite".to_owned(), list(&raw)],
            vec!["fleetd, acknowledged".to_owned(), list(&ours)],
        ],
        verdicts: vec![Verdict {
            claim: "backlog in batches of 100".to_owned(),
            aim: "0.3 of raw SQLite's rows a second".to_owned(),
            got: format!("{ratio:.2}"),
            met: ratio >= 0.3,
        }],
    })
}

/// Rows a second of SQLite alone.
fn raw_rows(scratch: &Path, batches: u64) -> Result<f64> {
    let path = scratch.join("raw.db");
    let mut database = Connection::open(&path)?;
    database.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    database.pragma_update(None, "synchronous", "FULL")?;
    let now = now_ms();
    let table = make_day(Day::of(now));
    let create = table.first().ok_or("the table's text")?.sql().to_owned();
    database.execute_batch(&create)?;
    let name = create.split_whitespace().nth(5).ok_or("the table's name")?.to_owned();
    let insert = format!(
        "INSERT INTO {name} (device_id, org_id, received_at, taken_at, ts, state_id, seq, interval_seconds, version, \
         uptime_seconds, cpu_percent, mem_percent, disk_free_gb, disk_total_gb, temperature_c, load_1, load_5, load_15, \
         recording_active, mixer_active, active_inputs, degradation_level, live, errors) VALUES (?1, ?2, ?3, ?4, ?5, \
         ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24)"
    );
    let began = Instant::now();
    for batch in 0..batches {
        let transaction = database.transaction()?;
        {
            let mut statement = transaction.prepare_cached(&insert)?;
            for row in 0..BATCH {
                let seq = i64::try_from(batch * BATCH + row)?;
                statement.execute(params![
                    "0198f3c2-5b7a-7cc3-9d8e-3f2a1b4c5d6e",
                    "00000000-0000-4000-8000-000000000001",
                    now,
                    now - seq,
                    now - seq,
                    "0707070707070707",
                    seq,
                    60,
                    "1.2.3",
                    3_600,
                    15.2,
                    45.0,
                    2.8,
                    29.1,
                    52.0,
                    0.4,
                    0.3,
                    0.2,
                    1,
                    1,
                    r#"["cam1","cam2"]"#,
                    0,
                    1,
                    None::<String>,
                ])?;
            }
        }
        transaction.commit()?;
    }
    let seconds = began.elapsed().as_secs_f64();
    drop(database);
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(scratch.join(format!("raw.db{end}")));
    }
    Ok((batches * BATCH) as f64 / seconds)
}

/// Records a second from the first message to the last acknowledgement.
fn drain(fleet: &Fleet, devices: &[Device], batches: u64) -> Result<f64> {
    let mut ready = Vec::new();
    for device in devices {
        let now = now_ms();
        let mut messages = Vec::new();
        for batch in 0..batches {
            let records = (1..=BATCH)
                .map(|row| {
                    let seq = batch * BATCH + row;
                    // Spooled: taken one after the other, a minute apart, before the birth.
                    let before = i64::try_from((batches - batch) * BATCH - row)? * 60_000;
                    let mut heartbeat = heartbeat(seq, 1, now - before);
                    heartbeat.since_boot_ms = 0;
                    Ok(codec::encode_packed(&heartbeat)?)
                })
                .collect::<Result<Vec<_>>>()?;
            let message = codec::batch(records.iter().map(Vec::as_slice));
            if message.len() > limit::HEARTBEAT_BATCH_BYTES {
                return Err("a batch is too large".into());
            }
            messages.push(message);
        }
        ready.push((Client::connect(fleet.mqtt, device)?, messages));
    }
    thread::sleep(Duration::from_millis(200));
    let began = Instant::now();
    thread::scope(|scope| {
        let threads: Vec<_> = ready
            .into_iter()
            .map(|(mut client, messages)| {
                scope.spawn(move || -> Result<()> {
                    let mut committed = 0;
                    for (sent, message) in (0_u64..).zip(&messages) {
                        while sent >= committed / BATCH + UNDER_WAY {
                            committed = client.ack()?;
                        }
                        client.publish(Uplink::Heartbeat, message)?;
                    }
                    client.committed_to(messages.len() as u64 * BATCH)
                })
            })
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| "a device's thread has panicked")?)
    })?;
    Ok((batches * BATCH) as f64 * devices.len() as f64 / began.elapsed().as_secs_f64())
}
