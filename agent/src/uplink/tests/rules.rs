//! The rules of birth, acknowledgement and repetition, one by one.

use super::super::*;
use crate::outbox::{BUDGET_BYTES, Loaded};

const TS_MS: i64 = 1_766_916_000_000;

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn ranges(pairs: &[(u64, u64)]) -> RangeSet {
    pairs.iter().copied().collect()
}

fn uplink() -> Uplink {
    Uplink::new(Outbox::load(Loaded { next_seq: 1, ..Loaded::default() }, BUDGET_BYTES))
}

fn append(uplink: &mut Uplink, kind: Kind, bytes: usize) -> u64 {
    let change = uplink.plan(kind, vec![7; bytes], TS_MS).unwrap();
    uplink.committed(&change);
    change.insert.last().unwrap().seq
}

/// What to do now; a database that takes everything notes at once what may have been sent.
fn poll(uplink: &mut Uplink, now: Duration) -> Option<Action> {
    match uplink.poll(now) {
        Some(Action::Release(below)) => {
            uplink.released(below);
            uplink.poll(now)
        }
        other => other,
    }
}

fn birth(uplink: &mut Uplink, now: Duration) -> PacketId {
    match uplink.poll(now) {
        Some(Action::Birth(id)) => id,
        other => panic!("a birth, not {other:?}"),
    }
}

fn records(uplink: &mut Uplink, now: Duration) -> (PacketId, Vec<u64>) {
    match poll(uplink, now) {
        Some(Action::Records(id, _, seqs)) => (id, seqs),
        other => panic!("records, not {other:?}"),
    }
}

/// Connected, birth acknowledged.
fn open(uplink: &mut Uplink, now: Duration) {
    uplink.connected();
    let id = birth(uplink, now);
    uplink.receipt(id, now);
    assert!(uplink.acknowledged(&RangeSet::new(), now));
}

#[test]
fn no_record_goes_out_before_the_birth_is_acknowledged() {
    let mut uplink = uplink();
    append(&mut uplink, Kind::Heartbeat, 90);
    assert_eq!(uplink.poll(seconds(0)), None, "not connected");
    uplink.connected();
    let id = birth(&mut uplink, seconds(1));
    assert_eq!(uplink.poll(seconds(1)), None);
    uplink.receipt(id, seconds(2));
    assert_eq!(uplink.poll(seconds(2)), None, "a receipt of the broker is no acknowledgement");
    assert!(uplink.acknowledged(&RangeSet::new(), seconds(3)));
    assert_eq!(records(&mut uplink, seconds(3)).1, [1]);
    assert_eq!(uplink.poll(seconds(3)), None);
}

#[test]
fn an_acknowledgement_from_before_the_birth_does_not_open_the_connection() {
    let mut uplink = uplink();
    append(&mut uplink, Kind::Heartbeat, 90);
    uplink.connected();
    assert!(!uplink.acknowledged(&RangeSet::new(), seconds(1)));
    birth(&mut uplink, seconds(1));
    assert_eq!(uplink.poll(seconds(1)), None);
}

#[test]
fn an_unanswered_birth_is_repeated_after_30_s_and_then_at_doubling_waits_up_to_5_min() {
    let mut uplink = uplink();
    uplink.connected();
    let mut now = seconds(0);
    let mut id = birth(&mut uplink, now);
    for wait in [30, 60, 120, 240, 300, 300] {
        now += seconds(2);
        uplink.receipt(id, now);
        assert_eq!(uplink.wake_at(), Some(now + seconds(wait)));
        assert_eq!(uplink.poll(now + seconds(wait) - Duration::from_millis(1)), None);
        now += seconds(wait);
        id = birth(&mut uplink, now);
    }
}

#[test]
fn an_unacknowledged_record_is_sent_again_after_a_new_birth_is_acknowledged() {
    let mut uplink = uplink();
    open(&mut uplink, seconds(0));
    append(&mut uplink, Kind::Heartbeat, 90);
    append(&mut uplink, Kind::Event, 90);
    let (first, seqs) = records(&mut uplink, seconds(0));
    assert_eq!(seqs, [1]);
    let (second, _) = records(&mut uplink, seconds(0));
    uplink.receipt(first, seconds(1));
    uplink.receipt(second, seconds(1));
    assert_eq!(uplink.poll(seconds(30)), None);
    let id = birth(&mut uplink, seconds(31));
    uplink.receipt(id, seconds(31));
    assert_eq!(uplink.poll(seconds(32)), None, "not before the birth is acknowledged");
    uplink.acknowledged(&ranges(&[(1, 1)]), seconds(33));
    let (again, seqs) = records(&mut uplink, seconds(33));
    assert_eq!(seqs, [2], "only what the server does not have");
    uplink.receipt(again, seconds(34));
    assert_eq!(uplink.wake_at(), Some(seconds(34 + 60)), "the wait has doubled");
}

#[test]
fn a_record_still_under_way_is_not_repeated_with_one_that_is_due() {
    let mut uplink = uplink();
    open(&mut uplink, seconds(0));
    append(&mut uplink, Kind::Event, 90);
    let (first, _) = records(&mut uplink, seconds(0));
    uplink.receipt(first, seconds(0));
    append(&mut uplink, Kind::Event, 90);
    let (second, _) = records(&mut uplink, seconds(25));
    uplink.receipt(second, seconds(25));
    birth(&mut uplink, seconds(30));
    uplink.acknowledged(&RangeSet::new(), seconds(31));
    assert_eq!(records(&mut uplink, seconds(31)).1, [1]);
    assert_eq!(uplink.poll(seconds(31)), None);
}

#[test]
fn a_packet_without_receipt_for_75_s_ends_the_connection() {
    let mut uplink = uplink();
    uplink.connected();
    birth(&mut uplink, seconds(5));
    assert_eq!(uplink.wake_at(), Some(seconds(80)));
    assert_eq!(uplink.poll(seconds(79)), None);
    assert_eq!(uplink.poll(seconds(80)), Some(Action::DropLink));
    assert_eq!(uplink.poll(seconds(80)), None);
}

#[test]
fn after_a_reconnect_everything_unacknowledged_goes_again_in_the_order_of_sending() {
    let mut uplink = uplink();
    open(&mut uplink, seconds(0));
    for kind in [Kind::Heartbeat, Kind::Event, Kind::Heartbeat, Kind::Report] {
        append(&mut uplink, kind, 90);
    }
    let drain = |uplink: &mut Uplink, now| {
        std::iter::from_fn(|| match poll(uplink, now) {
            Some(Action::Records(_, _, seqs)) => Some(seqs),
            _ => None,
        })
        .flatten()
        .collect::<Vec<_>>()
    };
    assert_eq!(drain(&mut uplink, seconds(1)), [4, 3, 1, 2]);
    uplink.acknowledged(&ranges(&[(2, 2)]), seconds(2));
    uplink.disconnected();
    assert_eq!(uplink.poll(seconds(3)), None);
    append(&mut uplink, Kind::Heartbeat, 90);
    uplink.connected();
    birth(&mut uplink, seconds(9));
    uplink.acknowledged(&ranges(&[(2, 2)]), seconds(9));
    assert_eq!(drain(&mut uplink, seconds(9)), [4, 5, 1, 3]);
}

#[test]
fn at_most_32_kib_are_unacknowledged_before_the_first_round_trip() {
    let mut uplink = uplink();
    for _ in 0..2_000 {
        append(&mut uplink, Kind::Heartbeat, 100);
    }
    open(&mut uplink, seconds(0));
    let mut sent = 0;
    while let Some(Action::Records(_, _, seqs)) = poll(&mut uplink, seconds(0)) {
        sent += seqs.len();
    }
    assert!(sent * 112 <= 32 * 1024 && sent * 112 > 30 * 1024, "{sent}");
    // Acknowledged after a tenth of a second: the line carries more than that.
    let first_batch = 1_999 - u64::try_from(sent).unwrap();
    uplink.acknowledged(
        &ranges(&[(1, u64::try_from(sent - 1).unwrap()), (2_000, 2_000)]),
        Duration::from_millis(100),
    );
    let mut more = 0;
    while let Some(Action::Records(_, _, seqs)) = poll(&mut uplink, seconds(1)) {
        more += u64::try_from(seqs.len()).unwrap();
    }
    assert_eq!(more, first_batch + 1, "all the rest");
}

#[test]
fn a_record_larger_than_the_window_goes_when_nothing_else_is_under_way() {
    let mut uplink = uplink();
    open(&mut uplink, seconds(0));
    append(&mut uplink, Kind::Event, 1_000);
    append(&mut uplink, Kind::Log, 200_000);
    assert_eq!(records(&mut uplink, seconds(0)).1, [1]);
    assert_eq!(uplink.poll(seconds(0)), None);
    uplink.acknowledged(&ranges(&[(1, 1)]), seconds(1));
    assert_eq!(records(&mut uplink, seconds(1)).1, [2]);
}

#[test]
fn an_acknowledgement_at_or_past_the_next_number_asks_for_a_new_identity_once() {
    let mut uplink = uplink();
    append(&mut uplink, Kind::Heartbeat, 90);
    uplink.connected();
    birth(&mut uplink, seconds(0));
    assert!(!uplink.acknowledged(&ranges(&[(1, 2)]), seconds(1)));
    assert_eq!(uplink.poll(seconds(1)), Some(Action::NewIdentity));
    assert_eq!(uplink.poll(seconds(1)), None);
    assert_eq!(uplink.outbox().to_take_over(), [1], "what the other copy sent does not cover ours");
}

#[test]
fn records_of_a_time_without_the_server_go_only_after_the_disk_has_noted_that_they_may_have_been_sent() {
    let mut uplink = uplink();
    append(&mut uplink, Kind::Event, 90);
    append(&mut uplink, Kind::Event, 90);
    open(&mut uplink, seconds(0));
    assert_eq!(uplink.poll(seconds(0)), Some(Action::Release(3)));
    uplink.released(3);
    assert_eq!([records(&mut uplink, seconds(0)).1, records(&mut uplink, seconds(0)).1], [[1], [2]]);
    // While records flow, the note is part of what makes a record.
    append(&mut uplink, Kind::Event, 90);
    assert!(matches!(uplink.poll(seconds(0)), Some(Action::Records(..))));
    assert!(!uplink.acknowledged(&ranges(&[(1, 3)]), seconds(1)));
    assert!(uplink.is_open(), "all of it was sent from here");
}

#[test]
fn a_disk_that_refuses_the_note_is_asked_again_and_what_was_noted_before_flows() {
    let mut uplink = uplink();
    open(&mut uplink, seconds(0));
    append(&mut uplink, Kind::Event, 90);
    uplink.disconnected();
    append(&mut uplink, Kind::Event, 90);
    open(&mut uplink, seconds(9));
    assert_eq!(uplink.poll(seconds(9)), Some(Action::Release(3)));
    uplink.not_released(seconds(9));
    match uplink.poll(seconds(9)) {
        Some(Action::Records(_, _, seqs)) => assert_eq!(seqs, [1]),
        other => panic!("what was noted, not {other:?}"),
    }
    assert_eq!(uplink.poll(seconds(38)), None);
    assert_eq!(uplink.wake_at(), Some(seconds(39)));
    assert_eq!(uplink.poll(seconds(39)), Some(Action::Release(3)));
}

#[test]
fn an_older_copy_that_has_caught_up_and_was_started_anew_is_noticed_by_what_it_never_sent() {
    // Numbers 1 to 4 were sent by the original after the copy was made. The copy has given out 2 to 6, alone.
    let records = (1..=6).map(|seq| (seq, Kind::Event, 90)).collect();
    let loaded = Loaded { next_seq: 7, released: 2, records, ..Loaded::default() };
    let mut uplink = Uplink::new(Outbox::load(loaded, BUDGET_BYTES));
    uplink.connected();
    birth(&mut uplink, seconds(0));
    assert!(!uplink.acknowledged(&ranges(&[(1, 4)]), seconds(1)));
    assert_eq!(uplink.poll(seconds(1)), Some(Action::NewIdentity));
    assert_eq!(uplink.outbox().to_take_over(), [1, 2, 3, 4, 5, 6], "none of them is lost");
}

#[test]
fn a_server_that_comes_back_shortens_the_wait() {
    let mut uplink = uplink();
    uplink.connected();
    let id = birth(&mut uplink, seconds(0));
    uplink.receipt(id, seconds(0));
    uplink.server_is_back(seconds(5), seconds(2));
    assert_eq!(uplink.wake_at(), Some(seconds(7)));
    let id = birth(&mut uplink, seconds(7));
    uplink.receipt(id, seconds(7));
    uplink.acknowledged(&RangeSet::new(), seconds(8));
    append(&mut uplink, Kind::Event, 90);
    let (packet, _) = records(&mut uplink, seconds(8));
    uplink.receipt(packet, seconds(8));
    uplink.server_is_back(seconds(10), seconds(1));
    birth(&mut uplink, seconds(11));
}

#[test]
fn a_withdrawn_record_is_not_waited_for() {
    let mut uplink = uplink();
    open(&mut uplink, seconds(0));
    append(&mut uplink, Kind::Event, 90);
    let (packet, _) = records(&mut uplink, seconds(0));
    let change = uplink.plan_drop(&[1], TS_MS);
    uplink.committed(&change);
    uplink.withdrawn(packet, &[1]);
    assert_eq!(records(&mut uplink, seconds(0)).1, [2], "the void record");
}

#[test]
fn a_birth_that_is_out_of_date_is_said_anew_before_any_more_records() {
    let mut uplink = uplink();
    uplink.birth_has_changed();
    assert_eq!(uplink.poll(seconds(0)), None, "not connected");
    open(&mut uplink, seconds(0));
    append(&mut uplink, Kind::Event, 90);
    uplink.birth_has_changed();
    birth(&mut uplink, seconds(1));
    uplink.birth_has_changed();
    birth(&mut uplink, seconds(1));
    assert_eq!(uplink.poll(seconds(1)), None);
    uplink.acknowledged(&RangeSet::new(), seconds(2));
    assert_eq!(records(&mut uplink, seconds(2)).1, [1]);
}
