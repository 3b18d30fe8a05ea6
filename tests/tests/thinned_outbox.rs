//! A device that was alone for so long that it gave up tens of thousands of records: the agent's outbox and uplink and
//! the server's lane, put together without a broker between them. Everything that is left must arrive, once, and the
//! server's committed set must never be in its own way.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use agent::outbox::{BUDGET_BYTES, Kind, Loaded, Outbox, Row};
use agent::record::{self, Record};
use agent::uplink::{Action, Uplink};
use fleetd::domain::lane::{APART_MAX, Lane, RANGES_MAX, Stored};
use protocol::codec;
use protocol::id::StateId;
use protocol::message::{Birth, Event, Heartbeat, Void, event};
use protocol::ranges::RangeSet;

const NOW: i64 = 1_766_916_000_000;
const STATE: StateId = StateId([7; 8]);
const CONNECTION: u16 = 5;

fn heartbeat() -> Heartbeat {
    Heartbeat {
        seq: 0,
        connection: 0,
        ts: NOW,
        since_boot_ms: 3_600_000,
        cpu_permille: Some(152),
        mem_permille: Some(450),
        disk_free_mib: Some(2_867),
        disk_total_mib: Some(29_798),
        temperature_decicelsius: Some(520),
        load_centi: Some([40, 30, 20]),
        recording_active: true,
        mixer_active: false,
        active_inputs: 1,
        degradation_level: 0,
        commands_digest: Some(codec::Bytes(vec![1, 2, 3, 4])),
        outbox_depth: 60_000,
        live: Some(true),
        errors: vec![],
    }
}

fn birth() -> Birth {
    Birth {
        state_id: STATE,
        connection: u64::from(CONNECTION),
        next_seq: 1,
        boot_id: "b".to_owned(),
        agent_version: "0.1.0".to_owned(),
        app_version: None,
        arch: "aarch64".to_owned(),
        inputs: vec![],
        command_types: vec![],
        interval_seconds: 60,
        transport: "mqtt".to_owned(),
        ts: NOW,
        since_boot_ms: 3_600_000,
        app_unit: None,
    }
}

/// The agent's index with its database, in memory.
struct Device {
    uplink: Uplink,
    disk: BTreeMap<u64, Row>,
}

impl Device {
    fn load(rows: Vec<Row>, next_seq: u64, budget_bytes: u64) -> Self {
        let records =
            rows.iter().map(|row| (row.seq, row.kind, u32::try_from(row.body.len()).unwrap())).collect();
        let voids =
            rows.iter().filter(|row| row.kind == Kind::Void).map(|row| (row.seq, named(row))).collect();
        let loaded = Loaded { next_seq, released: next_seq, records, voids, ..Loaded::default() };
        Self {
            uplink: Uplink::new(Outbox::load(loaded, budget_bytes)),
            disk: rows.into_iter().map(|row| (row.seq, row)).collect(),
        }
    }

    /// Takes heartbeats until so many were given up for want of room.
    fn alone_until_thinned(thinned: usize, budget_bytes: u64) -> Self {
        let mut device = Self::load(vec![], 1, budget_bytes);
        let body = Record::Heartbeat(heartbeat()).into_body().unwrap();
        for made in 1.. {
            let has_thinned = device.keep(body.clone());
            if has_thinned && made - device.heartbeats().len() >= thinned {
                break;
            }
        }
        device
    }

    /// Keeps a heartbeat; tells whether others had to go for it.
    fn keep(&mut self, body: Vec<u8>) -> bool {
        let change = self.uplink.plan(Kind::Heartbeat, body, NOW).unwrap();
        for seq in &change.delete {
            self.disk.remove(seq).unwrap();
        }
        self.disk.extend(change.insert.iter().map(|row| (row.seq, row.clone())));
        self.uplink.committed(&change);
        !change.delete.is_empty()
    }

    fn heartbeats(&self) -> BTreeSet<u64> {
        self.disk.values().filter(|row| row.kind == Kind::Heartbeat).map(|row| row.seq).collect()
    }

    fn payload(&self, seqs: &[u64]) -> Vec<u8> {
        let stamp = |seq: &u64| {
            let row = &self.disk[seq];
            record::stamp(row.kind, &row.body, row.seq, CONNECTION).unwrap()
        };
        let records: Vec<_> = seqs.iter().map(stamp).collect();
        match records.as_slice() {
            [one] => one.clone(),
            many => codec::batch(many.iter().map(Vec::as_slice)),
        }
    }
}

#[derive(Default)]
struct Server {
    lane: Lane,
    stored: BTreeSet<u64>,
    voids: usize,
    most_ranges: usize,
    left_uncommitted: u64,
}

impl Server {
    fn with(committed: RangeSet) -> Self {
        let mut server = Self::default();
        server.lane.born(birth(), NOW, committed);
        server
    }

    fn take(&mut self, kind: Kind, payload: &[u8]) {
        let taken = self.lane.records(Some(kind.topic()), payload, NOW);
        assert_eq!((taken.mismatched, taken.unnumbered, taken.malformed), (0, 0, None));
        self.left_uncommitted += taken.gaps;
        for stored in taken.stored {
            match stored {
                Stored::Heartbeat(sample) => {
                    let (_, seq) = sample.record.unwrap();
                    assert!(self.stored.insert(seq), "{seq} was stored twice");
                }
                Stored::Event(event) => self.voids += usize::from(!event.void.is_empty()),
                Stored::Alive(_) => {}
                other => panic!("not sent: {other:?}"),
            }
        }
        self.most_ranges = self.most_ranges.max(self.lane.committed.as_slice().len());
        assert!(self.most_ranges <= RANGES_MAX);
    }
}

/// The records of one packet.
type Packet = (Kind, Vec<u64>);

/// Connected until everything has arrived. The broker takes all packets, and the server those that `line` returns. A new heartbeat is made every minute.
fn drain(device: &mut Device, server: &mut Server, mut line: impl FnMut(Vec<Packet>) -> Vec<Packet>) {
    let mut now = Duration::from_secs(1);
    let mut heartbeat_at = now;
    device.uplink.connected();
    for _ in 0..5_000 {
        if now >= heartbeat_at {
            heartbeat_at = now + Duration::from_secs(60);
            device.keep(Record::Heartbeat(heartbeat()).into_body().unwrap());
        }
        let mut births = 0;
        let mut packets = Vec::new();
        while let Some(action) = device.uplink.poll(now) {
            match action {
                Action::Birth(id) => {
                    births += 1;
                    device.uplink.receipt(id, now);
                }
                Action::Records(id, kind, seqs) => {
                    device.uplink.receipt(id, now);
                    packets.push((kind, seqs));
                }
                Action::Release(below) => device.uplink.released(below),
                other => panic!("{other:?}"),
            }
        }
        let idle = births == 0 && packets.is_empty();
        for (kind, seqs) in line(packets) {
            server.take(kind, &device.payload(&seqs));
        }
        now += Duration::from_millis(200);
        device.uplink.acknowledged(&server.lane.committed, now);
        if device.uplink.outbox().depth() == 0 {
            return;
        }
        if idle {
            now = device.uplink.wake_at().unwrap_or(now).max(now);
        }
    }
    panic!(
        "{} records never arrived; ranges {}",
        device.uplink.outbox().depth(),
        server.lane.committed.as_slice().len()
    );
}

fn check(device: &Device, server: &Server, survivors: &BTreeSet<u64>) {
    assert!(survivors.is_subset(&server.stored), "every survivor is stored");
    let all = (1, device.uplink.outbox().next_seq() - 1);
    assert_eq!(server.lane.committed.as_slice(), [all], "and every other number counts as committed");
}

#[test]
fn sixty_thousand_thinned_records_leave_a_backlog_that_arrives_without_a_single_repetition() {
    let mut device = Device::alone_until_thinned(60_000, BUDGET_BYTES);
    let survivors = device.heartbeats();
    let mut server = Server::with(RangeSet::new());
    drain(&mut device, &mut server, |packets| packets);
    check(&device, &server, &survivors);
    assert_eq!(server.left_uncommitted, 0);
    assert!(server.voids > 10);
    assert!(server.most_ranges < 1_100, "so acknowledgements stay small: {}", server.most_ranges);
}

#[test]
fn voids_that_are_lost_at_first_fill_the_set_and_then_open_it_again() {
    let mut device = Device::alone_until_thinned(30_000, BUDGET_BYTES / 2);
    let survivors = device.heartbeats();
    let mut server = Server::with(RangeSet::new());
    let mut lost = BTreeSet::new();
    drain(&mut device, &mut server, |mut packets| {
        packets.retain(|(kind, seqs)| *kind != Kind::Void || !lost.insert(seqs[0]));
        packets
    });
    check(&device, &server, &survivors);
    assert!(
        server.left_uncommitted > 0 && server.most_ranges >= APART_MAX,
        "it was full: {}",
        server.most_ranges
    );
}

#[test]
fn packets_that_overtake_each_other_and_get_lost_all_the_time_arrive_in_the_end() {
    let mut device = Device::alone_until_thinned(10_000, BUDGET_BYTES / 4);
    let survivors = device.heartbeats();
    let mut server = Server::with(RangeSet::new());
    let mut count = 0_u32;
    drain(&mut device, &mut server, |mut packets| {
        packets.retain(|_| {
            count += 1;
            !count.is_multiple_of(3)
        });
        packets.reverse();
        packets
    });
    check(&device, &server, &survivors);
}

#[test]
fn a_set_that_is_full_and_voids_that_name_half_of_their_window_do_not_lock_up() {
    // Every second number is gone, and each void names those of a whole window of 65,536: more than the set can hold.
    // The records between them arrived first, until the set was full; none of them is a neighbour of another.
    const KEPT: u64 = 35_000;
    let ranges = RANGES_MAX as u64;
    let body = Record::Heartbeat(heartbeat()).into_body().unwrap();
    let mut rows: Vec<Row> =
        (0..KEPT).map(|n| Row { seq: 2 * n + 1, kind: Kind::Heartbeat, body: body.clone() }).collect();
    let mut next_seq = 2 * KEPT + 1;
    let gone: Vec<u64> = (1..=KEPT).map(|n| 2 * n).collect();
    for window in gone.chunk_by(|a, b| a >> 16 == b >> 16) {
        let void = Void::from_gone(&window.iter().copied().collect(), 160);
        let kind = event::OUTBOX_THINNED.to_owned();
        let event = Event { seq: 0, connection: 0, ts: NOW, kind, details: None, void };
        rows.push(Row { seq: next_seq, kind: Kind::Void, body: Record::Event(event).into_body().unwrap() });
        next_seq += 1;
    }
    let survivors: BTreeSet<u64> = (ranges..KEPT).map(|n| 2 * n + 1).collect();
    let full: RangeSet = (0..ranges).map(|n| 2 * n + 1).collect();
    for committed in [full, RangeSet::new()] {
        let mut device = Device::load(rows.clone(), next_seq, BUDGET_BYTES);
        let mut server = Server::with(committed);
        drain(&mut device, &mut server, |packets| packets);
        check(&device, &server, &survivors);
        assert!(server.left_uncommitted > 0);
    }
}

/// The numbers that a void record names.
fn named(row: &Row) -> RangeSet {
    let event: Event = codec::decode(&row.body, codec::limit::COMMAND_BYTES).unwrap();
    event.void.iter().filter_map(Void::gone).flat_map(|gone| gone.as_slice().to_vec()).collect()
}
