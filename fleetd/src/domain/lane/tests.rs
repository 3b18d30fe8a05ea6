#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use proptest::prelude::*;
use protocol::{codec::encode_packed, id::StateId};

use super::*;

const NOW: i64 = 1_766_916_000_000;

fn lane(committed: RangeSet) -> Lane {
    let birth = Birth {
        state_id: StateId([7; 8]),
        connection: 1,
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
        since_boot_ms: 0,
        app_unit: None,
    };
    let mut lane = Lane::default();
    lane.born(birth, NOW, committed);
    lane
}

/// Sends an event that says what is gone, if anything.
fn send(lane: &mut Lane, seq: u64, gone: &RangeSet) -> Taken {
    let void = Void::from_gone(gone, 160);
    let event = Event { seq, connection: 1, ts: NOW, kind: "x".to_owned(), details: None, void };
    lane.records(Some(Uplink::Event), &encode_packed(&event).unwrap(), NOW)
}

fn none() -> RangeSet {
    RangeSet::new()
}

/// So many ranges of one number each, from `first`, with one number between every two.
fn scattered(first: u64, count: usize) -> RangeSet {
    (0..count as u64).map(|n| first + 2 * n).collect()
}

#[test]
fn a_full_set_takes_no_record_apart_but_every_neighbour_and_the_very_first() {
    let mut lane = lane(scattered(1_001, APART_MAX));
    let far = send(&mut lane, 500_000, &none());
    assert_eq!((far.gaps, far.acknowledge, far.stored.len()), (1, false, 0));
    for seq in [1_000, 1_002, 1] {
        assert_eq!(send(&mut lane, seq, &none()).stored.len(), 1, "{seq}");
    }
    // One gap has closed and the first number is a new range; one more, and there is room again.
    assert_eq!(send(&mut lane, 500_000, &none()).gaps, 1);
    send(&mut lane, 1_004, &none());
    assert_eq!(send(&mut lane, 500_000, &none()).stored.len(), 1);
}

#[test]
fn a_set_full_of_records_has_room_for_the_largest_void_of_an_agent() {
    let mut lane = lane(scattered(500_001, APART_MAX));
    let gone = scattered(2, 1_024);
    assert_eq!(send(&mut lane, 900_000, &gone).stored.len(), 1);
    assert_eq!(lane.committed.as_slice().len(), APART_MAX + 1_024 + 1);
}

#[test]
fn a_void_that_closes_gaps_is_taken_though_the_set_is_at_its_very_end() {
    let mut lane = lane(scattered(1_001, RANGES_MAX));
    // Its own number is a range too, so it must close one gap.
    let touches = [(1_002, 1_002)].into_iter().collect();
    assert_eq!(send(&mut lane, 900_000, &touches).stored.len(), 1);
    assert_eq!(lane.committed.as_slice().len(), RANGES_MAX);
}

#[test]
fn a_void_that_does_not_fit_is_kept_back_and_taken_when_records_have_closed_gaps() {
    let gone = scattered(2, 30_000);
    let mut lane = lane(none());
    let refused = send(&mut lane, 900_000, &gone);
    assert_eq!((refused.gaps, refused.acknowledge, refused.stored.len()), (1, false, 0));
    assert!(lane.committed.is_empty());
    for seq in scattered(1, 30_000).as_slice().iter().map(|range| range.0) {
        send(&mut lane, seq, &none());
    }
    assert_eq!(lane.committed.as_slice().len(), APART_MAX, "as many as go");
    assert_eq!(send(&mut lane, 900_000, &gone).stored.len(), 1);
    for seq in scattered(1, 30_000).as_slice().iter().map(|range| range.0) {
        send(&mut lane, seq, &none());
    }
    assert_eq!(lane.committed.as_slice(), [(1, 60_000), (900_000, 900_000)]);
}

#[test]
fn a_void_that_cannot_be_believed_is_poison_and_gives_nothing_up() {
    let mut lane = lane(none());
    let taken = send(&mut lane, 9, &[(3, 9)].into_iter().collect());
    assert!(matches!(taken.stored.as_slice(), [Stored::Poison { seq: 9, .. }]));
    assert_eq!(lane.committed.as_slice(), [(9, 9)]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn what_is_committed_is_what_was_taken_and_what_it_named_and_stays_within_the_bound(
        steps in proptest::collection::vec((1..400u64, proptest::collection::btree_set(1..400u64, 0..20)), 1..60),
        room in 0..30usize,
    ) {
        let filler = scattered(1_000, RANGES_MAX - room);
        let mut lane = lane(filler.clone());
        let mut model = BTreeSet::new();
        for (seq, gone) in steps {
            let gone: RangeSet = gone.into_iter().filter(|n| *n < seq).collect();
            let before = lane.committed.as_slice().len();
            let taken = send(&mut lane, seq, &gone);
            prop_assert_eq!(taken.stored.len() as u64 + taken.duplicates + taken.gaps, 1);
            if !taken.stored.is_empty() {
                model.insert(seq);
                model.extend(gone.as_slice().iter().flat_map(|range| range.0..=range.1));
            }
            prop_assert!(lane.committed.as_slice().len() <= RANGES_MAX.max(before + usize::from(seq == 1)));
        }
        let mut expected: RangeSet = model.iter().copied().collect();
        expected.extend(&filler);
        prop_assert_eq!(&lane.committed, &expected);
    }
}

#[test]
fn only_a_heartbeat_that_was_taken_since_the_birth_says_what_is_open() {
    let mut lane = lane(none());
    let birth = Birth { next_seq: 5, ..lane.born.clone().unwrap().birth };
    lane.born(birth, NOW, none());
    let mut digest = |seq: u64| {
        let heartbeat = Heartbeat {
            seq,
            connection: 1,
            ts: NOW,
            since_boot_ms: 0,
            cpu_permille: None,
            mem_permille: None,
            disk_free_mib: None,
            disk_total_mib: None,
            temperature_decicelsius: None,
            load_centi: None,
            recording_active: false,
            mixer_active: false,
            active_inputs: 0,
            degradation_level: 0,
            commands_digest: Some(codec::Bytes(vec![1; 4])),
            outbox_depth: 0,
            live: None,
            errors: Vec::new(),
        };
        let taken = lane.records(Some(Uplink::Heartbeat), &encode_packed(&heartbeat).unwrap(), NOW);
        match taken.stored.last() {
            Some(Stored::Heartbeat(sample)) => sample.commands_digest.clone(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!([digest(4), digest(5)], [None, Some(vec![1; 4])]);
}
