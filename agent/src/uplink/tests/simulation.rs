//! The machine against a simulated server, over a line that loses, repeats and delays, with crashes of either side.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::*;
use crate::outbox::{Loaded, Row};
use crate::record;

const TS_MS: i64 = 1_766_916_000_000;
const BUDGET: u64 = 60_000;

/// On the way to the server, in order, as on one TCP connection through one broker.
#[derive(Debug, Clone)]
enum Up {
    Birth { connection: u64, next_seq: u64 },
    Records { connection: u64, rows: Vec<Row> },
}

#[derive(Debug, Default)]
struct Server {
    connection: Option<u64>,
    stored: BTreeSet<u64>,
    void: RangeSet,
    running: bool,
}

impl Server {
    /// Takes one packet; returns what it acknowledges.
    fn take(&mut self, packet: Up) -> Option<RangeSet> {
        match packet {
            Up::Birth { connection, next_seq } => {
                self.connection = Some(connection);
                assert!(self.ranges().max().is_none_or(|max| max < next_seq));
            }
            Up::Records { connection, rows } => {
                if self.connection != Some(connection) {
                    return None; // Of another birth: left uncommitted.
                }
                for row in rows {
                    if row.kind == Kind::Void {
                        self.void.extend(&record::gone(&row.body));
                    }
                    self.stored.insert(row.seq);
                }
            }
        }
        Some(self.ranges())
    }

    fn ranges(&self) -> RangeSet {
        let mut ranges: RangeSet = self.stored.iter().copied().collect();
        ranges.extend(&self.void);
        ranges
    }
}

struct World {
    now: Duration,
    uplink: Uplink,
    /// What is on the device's disk.
    disk: BTreeMap<u64, Row>,
    disk_next_seq: u64,
    disk_released: u64,
    connected: bool,
    connection: u64,
    up: Vec<(PacketId, Up)>,
    receipts: Vec<PacketId>,
    down: Vec<RangeSet>,
    server: Server,
    /// Every record that was ever committed on the device.
    made: BTreeSet<u64>,
    sent_before_ack: bool,
}

impl World {
    fn new() -> Self {
        Self {
            now: Duration::from_secs(1),
            uplink: load(&BTreeMap::new(), 1, 1),
            disk: BTreeMap::new(),
            disk_next_seq: 1,
            disk_released: 1,
            connected: false,
            connection: 0,
            up: Vec::new(),
            receipts: Vec::new(),
            down: Vec::new(),
            server: Server { running: true, ..Server::default() },
            made: BTreeSet::new(),
            sent_before_ack: false,
        }
    }

    fn append(&mut self, kind: Kind) {
        let Ok(change) = self.uplink.plan(kind, vec![7; 100], TS_MS) else { return };
        for seq in &change.delete {
            let row = self.disk.remove(seq).unwrap();
            let covered = self.server.ranges().contains(*seq);
            assert!(covered || row.kind.may_be_thinned() || row.kind == Kind::Void, "{row:?}");
        }
        self.disk.extend(change.insert.iter().map(|row| (row.seq, row.clone())));
        self.made.extend(change.insert.iter().map(|row| row.seq));
        self.disk_next_seq = change.next_seq;
        self.disk_released = self.disk_released.max(change.released.unwrap_or(0));
        self.uplink.committed(&change);
    }

    fn act(&mut self) {
        for _ in 0..100 {
            match self.uplink.poll(self.now) {
                None => return,
                Some(Action::Birth(id)) => {
                    self.sent_before_ack = true;
                    let birth =
                        Up::Birth { connection: self.connection, next_seq: self.uplink.outbox().next_seq() };
                    self.up.push((id, birth));
                }
                Some(Action::Records(id, kind, seqs)) => {
                    assert!(self.connected && !self.sent_before_ack, "records only after an acknowledgement");
                    assert!(seqs.iter().all(|seq| *seq < self.disk_released), "{seqs:?}");
                    let rows: Vec<Row> = seqs.iter().map(|seq| self.disk[seq].clone()).collect();
                    assert!(rows.iter().all(|row| row.kind == kind));
                    self.up.push((id, Up::Records { connection: self.connection, rows }));
                }
                Some(Action::Release(below)) => {
                    self.disk_released = self.disk_released.max(below);
                    self.uplink.released(below);
                }
                Some(Action::DropLink) => self.disconnect(),
                Some(Action::NewIdentity) => panic!("nothing here calls for a new identity"),
            }
        }
        panic!("it does not come to rest");
    }

    fn connect(&mut self) {
        self.disconnect();
        self.connected = true;
        self.connection += 1;
        self.sent_before_ack = true;
        self.uplink.connected();
    }

    fn disconnect(&mut self) {
        self.connected = false;
        self.up.clear();
        self.receipts.clear();
        self.down.clear();
        self.uplink.disconnected();
    }

    /// The process dies and starts again with what is on disk.
    fn crash(&mut self) {
        self.disconnect();
        self.uplink = load(&self.disk, self.disk_next_seq, self.disk_released);
    }

    fn deliver_up(&mut self, lose_at_server: bool, twice: bool) {
        if self.up.is_empty() {
            return;
        }
        let (id, packet) = self.up.remove(0);
        self.receipts.push(id);
        for _ in 0..=u32::from(twice) {
            if self.server.running && !lose_at_server {
                self.down.extend(self.server.take(packet.clone()));
            }
        }
    }

    fn deliver_receipt(&mut self, which: usize) {
        if !self.receipts.is_empty() {
            let id = self.receipts.remove(which % self.receipts.len());
            self.uplink.receipt(id, self.now);
        }
    }

    /// Acknowledgements may be lost, repeated and overtake each other.
    fn deliver_down(&mut self, which: usize, keep: bool) {
        if !self.down.is_empty() {
            let at = which % self.down.len();
            let ranges = if keep { self.down[at].clone() } else { self.down.remove(at) };
            self.uplink.acknowledged(&ranges, self.now);
            self.sent_before_ack = false;
        }
    }

    /// From now on all goes well: everything must arrive.
    fn settle(&mut self) {
        self.server.running = true;
        self.connect();
        for _ in 0..2_000 {
            self.act();
            while !self.up.is_empty() {
                self.deliver_up(false, false);
            }
            while !self.receipts.is_empty() {
                self.deliver_receipt(0);
            }
            while !self.down.is_empty() {
                self.deliver_down(0, false);
            }
            if self.uplink.outbox().depth() == 0 {
                return;
            }
            if !self.connected {
                self.connect();
            }
            self.now += Duration::from_secs(10);
        }
        panic!("{} records never arrived", self.uplink.outbox().depth());
    }
}

fn load(disk: &BTreeMap<u64, Row>, next_seq: u64, released: u64) -> Uplink {
    let voids = disk.values().filter(|row| row.kind == Kind::Void);
    let loaded = Loaded {
        next_seq,
        released,
        committed: RangeSet::new(),
        records: disk
            .values()
            .map(|row| (row.seq, row.kind, u32::try_from(row.body.len()).unwrap()))
            .collect(),
        voids: voids.map(|row| (row.seq, record::gone(&row.body))).collect(),
    };
    Uplink::new(Outbox::load(loaded, BUDGET))
}

#[derive(Debug, Clone)]
enum Step {
    Append(Kind),
    Connect,
    Disconnect,
    Up { lost: bool, twice: bool },
    Receipt(usize),
    Down { which: usize, keep: bool },
    LoseDown(usize),
    Wait(u64),
    ServerStops,
    ServerStarts,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let kind =
        prop::sample::select(vec![Kind::Heartbeat, Kind::Heartbeat, Kind::Report, Kind::Event, Kind::Log]);
    prop_oneof![
        8 => kind.prop_map(Step::Append),
        2 => Just(Step::Connect),
        1 => Just(Step::Disconnect),
        10 => (prop::bool::weighted(0.2), prop::bool::weighted(0.2)).prop_map(|(lost, twice)| Step::Up { lost, twice }),
        8 => any::<usize>().prop_map(Step::Receipt),
        8 => (any::<usize>(), prop::bool::weighted(0.2)).prop_map(|(which, keep)| Step::Down { which, keep }),
        2 => any::<usize>().prop_map(Step::LoseDown),
        4 => (0u64..400).prop_map(Step::Wait),
        1 => Just(Step::ServerStops),
        1 => Just(Step::ServerStarts),
        1 => Just(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn every_record_arrives_whatever_the_line_does(steps in prop::collection::vec(step(), 1..250)) {
        let mut world = World::new();
        for step in steps {
            match step {
                Step::Append(kind) => world.append(kind),
                Step::Connect => world.connect(),
                Step::Disconnect => world.disconnect(),
                Step::Up { lost, twice } => world.deliver_up(lost, twice),
                Step::Receipt(which) => world.deliver_receipt(which),
                Step::Down { which, keep } => world.deliver_down(which, keep),
                Step::LoseDown(which) => {
                    if !world.down.is_empty() {
                        let at = which % world.down.len();
                        world.down.remove(at);
                    }
                }
                Step::Wait(seconds) => world.now += Duration::from_secs(seconds),
                Step::ServerStops => {
                    world.server.running = false;
                    world.server.connection = None;
                }
                Step::ServerStarts => world.server.running = true,
                Step::Crash => world.crash(),
            }
            world.act();
        }
        world.settle();
        let ranges = world.server.ranges();
        for seq in &world.made {
            prop_assert!(ranges.contains(*seq), "{} was lost", seq);
        }
        prop_assert!(world.server.stored.iter().all(|seq| world.made.contains(seq)));
    }
}
