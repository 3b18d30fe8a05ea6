#![allow(clippy::unwrap_used)]

use protocol::codec::{self, Record as Decoded};
use protocol::message::{Event, Heartbeat};

use super::*;

fn heartbeat() -> Heartbeat {
    Heartbeat {
        seq: 9,
        connection: 9,
        ts: 1_766_916_000_000,
        since_boot_ms: 86_400_000,
        cpu_permille: Some(152),
        mem_permille: Some(450),
        disk_free_mib: Some(2867),
        disk_total_mib: Some(29_798),
        temperature_decicelsius: None,
        load_centi: Some([40, 30, 20]),
        recording_active: false,
        mixer_active: true,
        active_inputs: 3,
        degradation_level: 0,
        commands_digest: None,
        outbox_depth: 12,
        live: Some(false),
        errors: Vec::new(),
    }
}

#[test]
fn the_stored_body_has_no_numbers_and_the_sent_one_has_those_of_its_birth() {
    let body = Record::Heartbeat(heartbeat()).into_body().unwrap();
    let stored: Heartbeat = codec::decode(&body, 8192).unwrap();
    assert_eq!((stored.seq, stored.connection), (0, 0));

    let sent = stamp(Kind::Heartbeat, &body, 70_000, 513).unwrap();
    let (records, without_seq) = codec::decode_records::<Heartbeat>(&sent, 8192).unwrap();
    assert_eq!(without_seq, 0);
    assert_eq!(records, [Decoded::Good(Heartbeat { seq: 70_000, connection: 513, ..heartbeat() })]);
}

#[test]
fn stamping_adds_no_more_bytes_than_the_outbox_reckons_with() {
    let body = Record::Heartbeat(heartbeat()).into_body().unwrap();
    let sent = stamp(Kind::Heartbeat, &body, u64::MAX, u16::MAX).unwrap();
    assert!(sent.len() <= body.len() + crate::outbox::STAMP_BYTES);
}

#[test]
fn a_body_that_is_no_record_of_its_kind_is_an_error() {
    assert!(stamp(Kind::Heartbeat, b"", 1, 1).is_err());
    assert!(stamp(Kind::Heartbeat, b"\xa1", 1, 1).is_err());
    assert!(stamp(Kind::Event, &Record::Heartbeat(heartbeat()).into_body().unwrap(), 1, 1).is_err());
}

#[test]
fn a_body_over_the_limit_of_its_kind_is_an_error() {
    let long = Heartbeat { errors: vec!["x".repeat(9000)], ..heartbeat() };
    let body = Record::Heartbeat(long).into_body().unwrap();
    assert!(matches!(stamp(Kind::Heartbeat, &body, 1, 1), Err(CodecError::TooLarge { .. })));
}

#[test]
fn a_void_record_is_an_event_that_names_what_is_gone() {
    let gone_numbers: RangeSet = [(3, 3), (5, 5), (7, 9)].into_iter().collect();
    let body = void_body(Void::from_gone(&gone_numbers, 8), 17);
    let event: Event = codec::decode(&stamp(Kind::Void, &body, 12, 1).unwrap(), 65_536).unwrap();
    assert_eq!((event.kind.as_str(), event.seq), (message::event::OUTBOX_THINNED, 12));
    assert_eq!(gone(&body), gone_numbers);
    assert!(gone(b"nonsense").is_empty());
}
