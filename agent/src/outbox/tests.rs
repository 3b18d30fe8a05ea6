#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::void;
use super::*;
use crate::record;

const TS_MS: i64 = 1_766_916_000_000;

/// An outbox with its database, and a naive record of everything that ever happened.
struct Model {
    outbox: Outbox,
    database: BTreeMap<u64, Row>,
    sent: BTreeSet<u64>,
    /// What the server has committed, void numbers included.
    server: RangeSet,
    /// What it ever had.
    ever_acked: RangeSet,
    refused: usize,
}

impl Model {
    fn new(budget_bytes: u64) -> Self {
        let loaded = Loaded { next_seq: 1, ..Loaded::default() };
        Self {
            outbox: Outbox::load(loaded, budget_bytes),
            database: BTreeMap::new(),
            sent: BTreeSet::new(),
            server: RangeSet::new(),
            ever_acked: RangeSet::new(),
            refused: 0,
        }
    }

    fn commit(&mut self, change: &Change) {
        assert!(change.delete.is_sorted() && change.insert.is_sorted_by_key(|row| row.seq));
        for seq in &change.delete {
            let row = self.database.remove(seq).expect("only what is there is deleted");
            let acked = self.ever_acked.contains(*seq);
            assert!(acked || matches!(row.kind, Kind::Heartbeat | Kind::Log | Kind::Void), "{row:?}");
        }
        for row in &change.insert {
            assert!(self.database.insert(row.seq, row.clone()).is_none());
        }
        self.outbox.apply(change);
    }

    fn append(&mut self, kind: Kind, bytes: usize) -> Option<u64> {
        match self.outbox.plan(kind, vec![7; bytes], TS_MS) {
            Ok(change) => {
                self.commit(&change);
                change.insert.last().map(|row| row.seq)
            }
            Err(_) => {
                self.refused += 1;
                None
            }
        }
    }

    fn release(&mut self) {
        self.outbox.release(self.outbox.next_seq());
    }

    /// Releases all, and sends what is to be sent next.
    fn send(&mut self, room_bytes: usize) -> Vec<u64> {
        self.release();
        self.send_released(room_bytes)
    }

    fn send_released(&mut self, room_bytes: usize) -> Vec<u64> {
        let (_, seqs) = self.outbox.next_to_send(room_bytes);
        self.outbox.mark_sent(&seqs);
        self.sent.extend(&seqs);
        seqs
    }

    /// The server commits what was sent and `pick` chooses, and acknowledges.
    fn acknowledge(&mut self, pick: impl Fn(u64) -> bool) {
        for seq in self.sent.iter().copied().filter(|seq| pick(*seq)) {
            self.server.insert(seq);
            if let Some(row) = self.database.get(&seq).filter(|row| row.kind == Kind::Void) {
                self.server.extend(&record::gone(&row.body));
            }
        }
        self.hear();
    }

    fn hear(&mut self) {
        assert_eq!(self.outbox.judge(&self.server), Verdict::Fits);
        self.outbox.take_committed(&self.server);
        self.ever_acked.extend(&self.server);
    }

    /// The numbers that void records in the database name.
    fn told_gone(&self) -> RangeSet {
        let mut told = RangeSet::new();
        for row in self.database.values().filter(|row| row.kind == Kind::Void) {
            told.extend(&record::gone(&row.body));
        }
        told
    }

    fn check(&self) {
        let index: Vec<u64> = self.outbox.entries.iter().map(|entry| entry.seq).collect();
        assert_eq!(index, self.database.keys().copied().collect::<Vec<_>>(), "index and database agree");
        let cost: u64 = self.database.values().map(|row| cost_bytes(row.body.len())).sum();
        assert_eq!(cost, self.outbox.cost_bytes());
        let told = self.told_gone();
        for seq in 1..self.outbox.next_seq() {
            let here = self.database.contains_key(&seq);
            let safe = here || self.ever_acked.contains(seq);
            assert!(safe || told.contains(seq), "{seq} vanished");
            assert!(!(here && told.contains(seq)), "{seq} is kept, yet told to be gone");
        }
    }
}

/// The order of sending, as simply as it can be put.
fn first_by_the_rule(outbox: &Outbox, database: &BTreeMap<u64, Row>) -> Option<u64> {
    let waiting: Vec<&Entry> = outbox.entries.iter().filter(|entry| outbox.is_waiting(entry)).collect();
    let newest_heartbeat = outbox.entries.iter().rev().find(|entry| entry.kind == Kind::Heartbeat);
    let report = waiting.iter().find(|entry| entry.kind == Kind::Report).map(|entry| entry.seq);
    let newest = newest_heartbeat.filter(|entry| outbox.is_waiting(entry)).map(|entry| entry.seq);
    let place = |entry: &&&Entry| match entry.kind {
        Kind::Void => record::gone(&database[&entry.seq].body).as_slice()[0].0,
        _ => entry.seq,
    };
    report.or(newest).or(waiting.iter().min_by_key(place).map(|entry| entry.seq))
}

#[derive(Debug, Clone)]
enum Step {
    Append(Kind, usize),
    Release,
    Send(usize),
    Resend,
    Ack(u64),
    Restart,
    ServerRestored(u64),
    Poison(usize),
}

fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    let kind = prop::sample::select(vec![
        Kind::Heartbeat,
        Kind::Heartbeat,
        Kind::Heartbeat,
        Kind::Report,
        Kind::Reported,
        Kind::Log,
        Kind::Event,
    ]);
    let step = prop_oneof![
        12 => (kind, 1usize..300).prop_map(|(kind, bytes)| Step::Append(kind, bytes)),
        3 => Just(Step::Release),
        4 => (0usize..4000).prop_map(Step::Send),
        1 => Just(Step::Resend),
        2 => any::<u64>().prop_map(Step::Ack),
        1 => Just(Step::Restart),
        1 => any::<u64>().prop_map(Step::ServerRestored),
        1 => any::<usize>().prop_map(Step::Poison),
    ];
    prop::collection::vec(step, 1..most)
}

fn run(model: &mut Model, step: Step) {
    match step {
        Step::Append(kind, bytes) => {
            model.append(kind, bytes);
        }
        Step::Send(room) => {
            let expected = first_by_the_rule(&model.outbox, &model.database);
            assert_eq!(model.send_released(room).first().copied(), expected);
        }
        Step::Release => model.release(),
        Step::Resend => {
            let sent: Vec<u64> = model.sent.iter().copied().collect();
            model.outbox.mark_waiting(&sent);
        }
        Step::Ack(bits) => model.acknowledge(|seq| bits >> (seq % 64) & 1 == 1),
        Step::Restart => {
            // As the database would: what is committed may be out of date, void bodies are read again.
            let stored = if model.outbox.committed_is_stored {
                model.outbox.committed.clone()
            } else {
                RangeSet::new()
            };
            let loaded = Loaded {
                next_seq: model.outbox.next_seq(),
                committed: stored,
                released: model.outbox.released,
                records: model
                    .database
                    .values()
                    .map(|row| (row.seq, row.kind, u32::try_from(row.body.len()).unwrap()))
                    .collect(),
                voids: model
                    .database
                    .values()
                    .filter(|row| row.kind == Kind::Void)
                    .map(|row| (row.seq, record::gone(&row.body)))
                    .collect(),
            };
            model.outbox = Outbox::load(loaded, model.outbox.budget_bytes);
        }
        Step::ServerRestored(bits) => {
            // A backup: some of what was committed is not any more. Records that are still here must wait again.
            let kept = model.server.as_slice().iter().flat_map(|&(lo, hi)| lo..=hi);
            model.server = kept.filter(|seq| bits >> (seq % 64) & 1 == 1).collect();
            model.hear();
        }
        Step::Poison(pick) => {
            let candidates: Vec<u64> = model
                .database
                .values()
                .filter(|row| matches!(row.kind, Kind::Heartbeat | Kind::Log))
                .map(|row| row.seq)
                .collect();
            if !candidates.is_empty() {
                let change = model.outbox.plan_drop(&[candidates[pick % candidates.len()]], TS_MS);
                model.commit(&change);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn nothing_vanishes_untold_and_the_order_is_kept_whatever_happens(
        steps in steps(120), budget in 3_000u64..40_000,
    ) {
        let mut model = Model::new(budget);
        for step in steps {
            let poison = matches!(step, Step::Poison(_));
            let before = model.outbox.cost_bytes();
            run(&mut model, step);
            model.check();
            // Telling of poison may cost a little more than it frees.
            let telling = if poison { 16_384 } else { 0 };
            let ceiling = (budget + 2 * REPORTS_HIGH_BYTES).max(before) + telling;
            prop_assert!(model.outbox.cost_bytes() <= ceiling);
        }
    }

    #[test]
    fn void_records_name_exactly_the_gone_numbers(gone in prop::collection::btree_set(1u64..3_000, 1..400)) {
        let set: RangeSet = gone.iter().copied().collect();
        let body = record::void_body(void::entries(&set), TS_MS);
        prop_assert!(body.len() < 16_384);
        prop_assert_eq!(record::gone(&body), set);
    }
}

#[test]
fn reports_go_first_then_the_newest_heartbeat_then_the_rest_oldest_first() {
    let mut model = Model::new(BUDGET_BYTES);
    use Kind::{Event, Heartbeat, Log, Report};
    for kind in [Heartbeat, Heartbeat, Log, Heartbeat, Report, Heartbeat, Event, Report, Heartbeat] {
        model.append(kind, 100).unwrap();
    }
    let mut order = Vec::new();
    loop {
        let sent = model.send(10_000);
        if sent.is_empty() {
            break;
        }
        order.push(sent);
    }
    assert_eq!(order, [vec![5, 8], vec![9], vec![1, 2], vec![3], vec![4, 6], vec![7]]);
}

#[test]
fn a_void_record_goes_where_the_first_number_that_it_names_would_have_gone() {
    let mut model = Model::new(BUDGET_BYTES);
    for _ in 0..9 {
        model.append(Kind::Heartbeat, 100).unwrap();
    }
    model.append(Kind::Report, 100).unwrap();
    let change = model.outbox.plan_drop(&[4, 6], TS_MS);
    model.commit(&change);
    let order = |model: &mut Model| -> Vec<Vec<u64>> {
        std::iter::from_fn(|| Some(model.send(10_000)).filter(|sent| !sent.is_empty())).collect()
    };
    let expected = [vec![10], vec![9], vec![1, 2, 3], vec![11], vec![5, 7, 8]];
    assert_eq!(order(&mut model), expected);
    // Acknowledged, and then lost by the server: it has its place again.
    model.acknowledge(|_| true);
    model.server = [(9, 10)].into_iter().collect();
    model.hear();
    assert_eq!(order(&mut model), expected[2..]);
}

#[test]
fn where_gone_and_kept_alternate_a_window_has_several_void_records_that_each_open_few_gaps() {
    let mut model = Model::new(BUDGET_BYTES / 2);
    for _ in 0..45_000 {
        model.append(Kind::Heartbeat, 100).unwrap();
    }
    let voids: Vec<(u64, RangeSet)> = model
        .database
        .values()
        .filter(|row| row.kind == Kind::Void)
        .map(|row| (row.seq, record::gone(&row.body)))
        .collect();
    assert!(voids.len() >= 5);
    assert!(voids.iter().all(|(_, gone)| gone.as_slice().len() <= void::RANGES_PER_RECORD));
    // When the server has some of them, only the others are told anew.
    let (first, named) = &voids[0];
    model.release();
    model.sent.insert(*first);
    model.outbox.mark_sent(&[*first]);
    model.acknowledge(|_| true);
    let poison = named.as_slice()[0].0 + 1;
    let change = model.outbox.plan_drop(&[poison], TS_MS);
    model.commit(&change);
    model.check();
    let told = model.told_gone();
    assert!(model.database.contains_key(first), "it stays while there is room");
    assert!(voids.iter().all(|(_, gone)| gone.as_slice().iter().all(|range| told.contains(range.0))));
    assert!(told.contains(poison));
}

#[test]
fn a_batch_stays_within_its_room_and_its_limits_but_one_record_always_goes() {
    let mut model = Model::new(BUDGET_BYTES);
    for _ in 0..6_000 {
        model.append(Kind::Heartbeat, 40).unwrap();
    }
    assert_eq!(model.send(0), [6_000]);
    assert_eq!(model.send(0), [1]);
    assert_eq!(model.send(5 + 3 * 52).len(), 3);
    assert_eq!(model.send(usize::MAX).len(), 4_096);
}

#[test]
fn acknowledged_records_stay_while_there_is_room_and_then_the_oldest_go_first() {
    let mut model = Model::new(100 * cost_bytes(100));
    for _ in 0..100 {
        model.append(Kind::Heartbeat, 100).unwrap();
    }
    while !model.send(10_000).is_empty() {}
    model.acknowledge(|seq| seq <= 60);
    assert_eq!(model.database.len(), 100);
    for _ in 0..10 {
        model.append(Kind::Heartbeat, 100).unwrap();
    }
    assert_eq!(model.database.keys().copied().next(), Some(11));
    assert_eq!(model.outbox.depth(), 50);
    model.check();
}

#[test]
fn what_a_restored_server_no_longer_has_is_sent_again() {
    let mut model = Model::new(BUDGET_BYTES);
    for _ in 0..10 {
        model.append(Kind::Event, 50).unwrap();
    }
    while !model.send(10_000).is_empty() {}
    model.acknowledge(|_| true);
    assert!(!model.outbox.has_waiting());
    model.server = [(1, 3), (8, 10)].into_iter().collect();
    model.hear();
    let again: Vec<u64> = std::iter::from_fn(|| model.send(10_000).first().copied()).collect();
    assert_eq!(again, [4, 5, 6, 7]);
}

#[test]
fn a_full_outbox_gives_up_every_second_of_the_oldest_heartbeats_and_tells_which() {
    let mut model = Model::new(1_000 * cost_bytes(100));
    for _ in 0..1_001 {
        model.append(Kind::Heartbeat, 100).unwrap();
    }
    let told = model.told_gone();
    assert!(told.len() >= 30, "{told:?}");
    let numbers: Vec<u64> = told.as_slice().iter().flat_map(|&(lo, hi)| lo..=hi).collect();
    assert_eq!(
        numbers,
        (1..=told.len()).map(|n| 2 * n).collect::<Vec<_>>(),
        "every second, the oldest first"
    );
    assert_eq!(model.database.values().filter(|row| row.kind == Kind::Void).count(), 1);
    model.check();
}

#[test]
fn a_device_alone_for_a_year_keeps_a_trace_of_the_whole_year_within_the_budget() {
    let budget = 400 * cost_bytes(100);
    let mut model = Model::new(budget);
    for _ in 0..20_000 {
        model.append(Kind::Heartbeat, 100).unwrap();
        assert!(model.outbox.cost_bytes() <= budget);
    }
    assert_eq!(model.refused, 0);
    model.check();
    let kept: Vec<u64> =
        model.database.values().filter(|r| r.kind == Kind::Heartbeat).map(|r| r.seq).collect();
    let gap = kept.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(gap < 8_000, "no span of it is gone whole: {gap}");
    assert!(model.database.values().filter(|row| row.kind == Kind::Void).count() <= 2);
}

#[test]
fn seven_days_of_heartbeats_at_the_default_interval_are_kept_whole() {
    let mut model = Model::new(BUDGET_BYTES);
    let week = u64::try_from(room::PROTECTED_HEARTBEATS).unwrap();
    for n in 0..week {
        model.append(Kind::Heartbeat, 120).unwrap();
        if n % 4 == 0 {
            model.append(Kind::Log, 3_000).unwrap();
        }
    }
    let kept = model.database.values().filter(|row| row.kind == Kind::Heartbeat).count();
    assert_eq!(kept as u64, week);
    assert!(!model.told_gone().is_empty(), "logs made room");
    assert!(model.outbox.cost_bytes() <= BUDGET_BYTES);
}

#[test]
fn reports_events_and_config_are_never_given_up() {
    let mut model = Model::new(20_000);
    for _ in 0..150 {
        model.append(Kind::Event, 100);
        model.append(Kind::Heartbeat, 100);
    }
    assert!(model.refused > 0, "an outbox full of what must be kept refuses more");
    let events = model.database.values().filter(|row| row.kind == Kind::Event).count();
    assert!(events > 50);
    assert!(model.append(Kind::Report, 100).is_some(), "reports still have room");
    model.check();
}

#[test]
fn a_record_over_the_limit_is_refused_and_takes_no_number() {
    let outbox = Model::new(BUDGET_BYTES).outbox;
    let refused = outbox.plan(Kind::Heartbeat, vec![0; 8_192], TS_MS).unwrap_err();
    assert!(matches!(refused, Refused::TooLarge { limit: 8_192, .. }));
    assert_eq!(outbox.next_seq(), 1);
}

#[test]
fn dropped_poison_is_told() {
    let mut model = Model::new(BUDGET_BYTES);
    for _ in 0..5 {
        model.append(Kind::Heartbeat, 100).unwrap();
    }
    let change = model.outbox.plan_drop(&[2, 4, 99], TS_MS);
    model.commit(&change);
    assert_eq!(model.told_gone().as_slice(), [(2, 2), (4, 4)]);
    // More of the same window: the first void record gives way to one that names it too.
    let change = model.outbox.plan_drop(&[5], TS_MS);
    model.commit(&change);
    assert_eq!(model.told_gone().as_slice(), [(2, 2), (4, 6)]);
    assert_eq!(model.database.keys().copied().collect::<Vec<_>>(), [1, 3, 7]);
}

#[test]
fn an_acknowledgement_past_the_next_number_is_not_ours() {
    let mut model = Model::new(BUDGET_BYTES);
    model.append(Kind::Heartbeat, 10).unwrap();
    model.send(100);
    assert_eq!(model.outbox.judge(&[(1, 1)].into_iter().collect()), Verdict::Fits);
    assert_eq!(model.outbox.judge(&[(1, 2)].into_iter().collect()), Verdict::NotOurs);
    assert_eq!(model.outbox.judge(&[(9, u64::MAX)].into_iter().collect()), Verdict::NotOurs);
}

#[test]
fn an_acknowledgement_of_a_record_that_was_not_released_is_not_ours_also_after_a_restart() {
    let mut model = Model::new(BUDGET_BYTES);
    for _ in 0..3 {
        model.append(Kind::Heartbeat, 10).unwrap();
    }
    assert_eq!(model.outbox.judge(&[(1, 1)].into_iter().collect()), Verdict::NotOurs);
    run(&mut model, Step::Restart);
    assert_eq!(model.outbox.judge(&[(1, 1)].into_iter().collect()), Verdict::NotOurs);
    model.release();
    assert_eq!(model.outbox.judge(&[(1, 3)].into_iter().collect()), Verdict::Fits);
    model.append(Kind::Heartbeat, 10).unwrap();
    run(&mut model, Step::Restart);
    assert_eq!(model.outbox.judge(&[(1, 3)].into_iter().collect()), Verdict::Fits);
    assert_eq!(model.outbox.judge(&[(1, 4)].into_iter().collect()), Verdict::NotOurs);
}

#[test]
fn nothing_goes_out_that_was_not_released_and_it_may_be_thinned_all_the_same() {
    let mut model = Model::new(BUDGET_BYTES);
    model.append(Kind::Heartbeat, 10).unwrap();
    model.append(Kind::Event, 10).unwrap();
    model.release();
    for kind in [Kind::Heartbeat, Kind::Report, Kind::Log] {
        model.append(kind, 10).unwrap();
    }
    assert_eq!([model.send_released(1000), model.send_released(1000)], [[1], [2]]);
    assert_eq!(model.send_released(1000), [0; 0]);
    assert!(model.outbox.has_unreleased());
    let poison = model.outbox.plan_drop(&[5], TS_MS);
    model.commit(&poison);
    model.release();
    assert!(!model.outbox.has_unreleased());
    assert_eq!([model.send(1000), model.send(1000), model.send(1000)], [[4], [3], [6]]);
}

#[test]
fn no_new_commands_while_a_megabyte_of_reports_is_unacknowledged() {
    let mut model = Model::new(BUDGET_BYTES);
    assert!(model.outbox.takes_commands());
    while model.outbox.takes_commands() {
        model.append(Kind::Report, 60_000).unwrap();
    }
    assert!(model.outbox.cost_bytes() >= REPORTS_HIGH_BYTES);
    while !model.send(100_000).is_empty() {}
    model.acknowledge(|_| true);
    assert!(model.outbox.takes_commands());
}

#[test]
fn the_cost_of_a_record_is_its_share_of_pages() {
    assert!(cost_bytes(104) >= 104 + 14);
    assert!(cost_bytes(104) <= 130);
    assert_eq!(cost_bytes(2_100), 4_096);
    assert!(cost_bytes(5_000) >= 8_192);
    assert!(cost_bytes(256 * 1024) >= 256 * 1024);
}
