//! Time that passes faster than it does: heartbeats of a device that is alone, put into its outbox by the agent's own code, which
//! decides what is given up when there is no more room.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use agent::lock::StateLock;
use agent::outbox::{BUDGET_BYTES, Change, Kind, Outbox, Row};
use agent::record::Record;
use agent::state::State;
use protocol::message::Heartbeat;

/// When heartbeats are taken, by the device's clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// The first, in milliseconds since 1970.
    pub(super) from_ms: i64,
    /// The same, since boot.
    pub(super) from_boot_ms: u64,
    /// From one to the next.
    pub(super) every_ms: u64,
}

/// Adds so many heartbeats to the state of an agent that does not run; how many were given up for want of room.
pub(super) fn alone(state_dir: &Path, heartbeats: u64, times: Times) -> io::Result<u64> {
    let _lock = StateLock::take(state_dir).map_err(io::Error::other)?;
    let mut state = State::open(state_dir, times.from_ms).map_err(io::Error::other)?.state;
    let loaded = state.load().map_err(io::Error::other)?;
    let were_there: BTreeSet<u64> = loaded.records.iter().map(|record| record.0).collect();
    let mut outbox = Outbox::load(loaded, BUDGET_BYTES);
    let mut new: BTreeMap<u64, Row> = BTreeMap::new();
    // One commit for all: what is decided does not depend on it.
    let mut all = Change::default();
    let mut given_up = 0;
    for n in 0..heartbeats {
        let passed_ms = n * times.every_ms;
        let ts_ms = times.from_ms.saturating_add_unsigned(passed_ms);
        let body = Record::Heartbeat(heartbeat(ts_ms, times.from_boot_ms + passed_ms)).into_body();
        let change = outbox.plan(Kind::Heartbeat, body.map_err(io::Error::other)?, ts_ms);
        let change = change.map_err(io::Error::other)?;
        outbox.apply(&change);
        for seq in &change.delete {
            match new.remove(seq) {
                Some(row) if row.kind == Kind::Heartbeat => given_up += 1,
                // A void that another has replaced.
                Some(_) => {}
                None if were_there.contains(seq) => all.delete.push(*seq),
                None => return Err(io::Error::other(format!("record {seq} goes, and was never there"))),
            }
        }
        new.extend(change.insert.into_iter().map(|row| (row.seq, row)));
    }
    all.delete.sort_unstable();
    all.insert = new.into_values().collect();
    all.next_seq = outbox.next_seq();
    state.commit(&all).map_err(io::Error::other)?;
    Ok(given_up)
}

fn heartbeat(ts_ms: i64, since_boot_ms: u64) -> Heartbeat {
    Heartbeat {
        seq: 0,
        connection: 0,
        ts: ts_ms,
        since_boot_ms,
        cpu_permille: Some(152),
        mem_permille: Some(450),
        disk_free_mib: Some(2_867),
        disk_total_mib: Some(29_798),
        temperature_decicelsius: Some(520),
        load_centi: Some([40, 30, 20]),
        recording_active: false,
        mixer_active: true,
        active_inputs: 1,
        degradation_level: 0,
        commands_digest: None,
        outbox_depth: 60_000,
        live: Some(false),
        errors: vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_given_up_and_told_and_the_rest_is_on_disk() {
        let folder = tempfile::tempdir().unwrap();
        let times = Times { from_ms: 1_766_916_000_000, from_boot_ms: 1_000, every_ms: 5_000 };
        let given_up = alone(folder.path(), 110_000, times).unwrap();
        assert!(given_up > 1_000, "{given_up}");
        let loaded = State::open(folder.path(), 0).unwrap().state.load().unwrap();
        let heartbeats = loaded.records.iter().filter(|record| record.1 == Kind::Heartbeat).count() as u64;
        assert_eq!(heartbeats + given_up, 110_000);
        let told: u64 = loaded.voids.iter().map(|(_, gone)| gone.len()).sum();
        assert!(told >= given_up, "{told}");
    }
}
