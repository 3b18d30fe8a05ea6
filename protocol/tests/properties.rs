//! Property tests: round trips of every message, and no bytes that make a decoder panic.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use protocol::codec::{self, Bytes, Record};
use protocol::command::{CommandState, Mover, open_digest};
use protocol::id::{self, CommandId, DeviceId, OrgSlug, StateId, UserName};
use protocol::message::*;
use protocol::ranges::RangeSet;
use protocol::topic::{Downlink, Topic, Uplink, exchange_suffix, of_exchange};

const LIMIT: usize = codec::limit::LARGEST_BYTES;

fn name() -> impl Strategy<Value = String> {
    "[a-z0-9][a-z0-9_-]{0,62}"
}

fn topic() -> impl Strategy<Value = Topic> {
    let org = name().prop_filter_map("reserved", |n| OrgSlug::new(&n).ok());
    (org, name(), 0..14usize).prop_map(|(org, second, kind)| {
        let device = DeviceId::new(&second).unwrap();
        let user = UserName::new(&second).unwrap();
        match kind {
            0..7 => Topic::Device { org, device, uplink: Uplink::ALL[kind] },
            7..10 => Topic::ToDevice { org, device, downlink: Downlink::ALL[kind - 7] },
            10 => Topic::OperatorCommand { org, user },
            11 => Topic::OperatorResult { org, user },
            12 => Topic::View { org, device },
            _ => Topic::Server { instance: second.parse().unwrap() },
        }
    })
}

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes)
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        ".{0,12}".prop_map(Into::into),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Into::into),
            btree_map("[a-z]{1,6}", inner, 0..4)
                .prop_map(|m| serde_json::Value::Object(m.into_iter().collect())),
        ]
    })
}

fn command_id() -> impl Strategy<Value = CommandId> {
    "[A-Za-z0-9_.-]{1,64}".prop_map(|s| s.parse().unwrap())
}

fn heartbeat() -> impl Strategy<Value = Heartbeat> {
    let sensors = (any::<Option<u16>>(), any::<Option<u16>>(), any::<Option<u32>>(), any::<Option<u32>>());
    let more =
        (any::<Option<i16>>(), any::<Option<[u32; 3]>>(), any::<[bool; 2]>(), any::<u64>(), any::<u8>());
    let rest = (proptest::option::of(bytes()), any::<u32>(), any::<Option<bool>>(), vec(".{0,20}", 0..3));
    (any::<(u64, u16, i64, u64)>(), sensors, more, rest).prop_map(|(head, sensors, more, rest)| Heartbeat {
        seq: head.0,
        connection: head.1,
        ts: head.2,
        since_boot_ms: head.3,
        cpu_permille: sensors.0,
        mem_permille: sensors.1,
        disk_free_mib: sensors.2,
        disk_total_mib: sensors.3,
        temperature_decicelsius: more.0,
        load_centi: more.1,
        recording_active: more.2[0],
        mixer_active: more.2[1],
        active_inputs: more.3,
        degradation_level: more.4,
        commands_digest: rest.0,
        outbox_depth: rest.1,
        live: rest.2,
        errors: rest.3,
    })
}

fn command_report() -> impl Strategy<Value = CommandReport> {
    let opt_text = || proptest::option::of(".{0,20}");
    let tail = (
        proptest::option::of(json()),
        opt_text(),
        proptest::option::of(bytes()),
        proptest::option::of(bytes()),
    );
    (any::<(u64, u16, i64, u32, Option<u8>)>(), command_id(), ".{0,12}", opt_text(), tail).prop_map(
        |(head, id, state, reason, tail)| CommandReport {
            seq: head.0,
            connection: head.1,
            ts: head.2,
            id,
            report_seq: head.3,
            state,
            reason,
            progress_percent: head.4,
            // A JSON null is the same as absent.
            result: tail.0.filter(|v| !v.is_null()),
            error: tail.1,
            nonce: tail.2,
            token_sha256: tail.3,
        },
    )
}

fn range_set() -> impl Strategy<Value = RangeSet> {
    vec((any::<u32>(), 0..1000u32), 0..20)
        .prop_map(|r| r.into_iter().map(|(lo, n)| (u64::from(lo), u64::from(lo) + u64::from(n))).collect())
}

fn both_forms<T>(message: &T) -> Result<(), TestCaseError>
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    for encoded in [codec::encode_packed(message).unwrap(), codec::encode_named(message).unwrap()] {
        prop_assert_eq!(&codec::decode::<T>(&encoded, LIMIT).unwrap(), message);
    }
    Ok(())
}

proptest! {
    #[test]
    fn every_topic_is_read_back_as_it_was_written(topic in topic()) {
        prop_assert_eq!(topic.to_string().parse::<Topic>(), Ok(topic));
    }

    #[test]
    fn any_text_is_a_topic_that_prints_the_same_or_an_error(text in "(fleet/v1/)?([a-z+#$]{0,6}/){0,5}[a-z\\PC]{0,9}") {
        if let Ok(topic) = text.parse::<Topic>() {
            prop_assert_eq!(topic.to_string(), text);
        }
    }

    #[test]
    fn a_name_is_accepted_exactly_by_the_rule(text in "\\PC{0,70}|[a-z0-9_-]{0,70}") {
        let rule = !text.is_empty() && text.len() <= 63
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
            && !text.starts_with(['_', '-']);
        prop_assert_eq!(id::check_name(&text).is_ok(), rule);
    }

    #[test]
    fn heartbeats_survive_the_round_trip(heartbeat in heartbeat()) {
        both_forms(&heartbeat)?;
        let json = serde_json::to_string(&heartbeat).unwrap();
        prop_assert_eq!(serde_json::from_str::<Heartbeat>(&json).unwrap(), heartbeat);
    }

    #[test]
    fn command_reports_survive_the_round_trip(report in command_report()) {
        both_forms(&report)?;
    }

    #[test]
    fn exchanges_survive_the_round_trip(messages in vec((".{0,20}", bytes()), 0..=codec::limit::EXCHANGE_MESSAGES)) {
        both_forms(&Exchange(messages.into_iter().map(|(suffix, payload)| ExchangeMessage(suffix, payload)).collect()))?;
    }

    #[test]
    fn a_topic_that_concerns_a_device_has_a_suffix_that_leads_back_to_it(topic in topic()) {
        let (org, device) = match &topic {
            Topic::Device { org, device, .. } | Topic::ToDevice { org, device, .. } => (org.clone(), device.clone()),
            _ => ("acme".parse().unwrap(), "cam-1".parse().unwrap()),
        };
        if let Some(suffix) = exchange_suffix(&topic) {
            prop_assert_eq!(of_exchange(&org, &device, &suffix), Ok(topic));
        }
    }

    #[test]
    fn any_suffix_is_a_topic_of_that_device_or_of_a_server_or_an_error(suffix in "(server/)?[a-z/+#$.]{0,12}") {
        let (org, device) = ("acme".parse().unwrap(), "cam-1".parse().unwrap());
        if let Ok(topic) = of_exchange(&org, &device, &suffix) {
            prop_assert_eq!(exchange_suffix(&topic), Some(suffix));
        }
    }

    #[test]
    fn acks_survive_the_round_trip(
        state in any::<[u8; 8]>(), ranges in range_set(), pending in any::<Option<u32>>(), time in any::<Option<i64>>(),
    ) {
        both_forms(&Ack { state_id: StateId(state), ranges, commands_pending: pending, target_version: None, server_time: time })?;
    }

    #[test]
    fn a_heartbeat_of_any_time_has_a_json_form(heartbeat in heartbeat(), inputs in vec("[a-z]{1,5}", 0..70)) {
        let json = heartbeat.to_json(&inputs, None);
        prop_assert!(parse_rfc3339(&json.ts).is_ok(), "{}", json.ts);
    }

    #[test]
    fn any_bytes_give_a_value_or_an_error(bytes in vec(any::<u8>(), 0..600)) {
        decode_everything(&bytes);
    }

    #[test]
    fn a_damaged_message_gives_a_value_or_an_error(report in command_report(), at in any::<usize>(), to in any::<u8>()) {
        let mut bytes = codec::encode_packed(&report).unwrap();
        let at = at % bytes.len();
        bytes[at] = to;
        decode_everything(&bytes);
        bytes.truncate(at);
        decode_everything(&bytes);
    }

    #[test]
    fn one_bad_record_does_not_take_the_batch_with_it(good in vec(heartbeat(), 1..5), seq in any::<u64>()) {
        // A record whose connection number is a text.
        let bad = codec::encode_packed(&(std::collections::BTreeMap::from([("seq", seq)]))).unwrap();
        let mut parts: Vec<Vec<u8>> = good.iter().map(|h| codec::encode_packed(h).unwrap()).collect();
        parts.push(bad);
        let batch = codec::batch(parts.iter().map(Vec::as_slice));
        let (records, without_seq) = codec::decode_records::<Heartbeat>(&batch, LIMIT).unwrap();
        prop_assert_eq!(without_seq, 0);
        let (poison, rest) = records.split_last().unwrap();
        let is_poison = matches!(poison, Record::Poison { seq: s, .. } if *s == seq);
        prop_assert!(is_poison);
        for (read, sent) in rest.iter().zip(&good) {
            prop_assert_eq!(read, &Record::Good(sent.clone()));
        }
        prop_assert_eq!(codec::record_seqs(&batch, LIMIT).unwrap().len(), good.len() + 1);
    }

    #[test]
    fn ranges_are_the_set_that_a_plain_set_is(ops in vec((0..200u64, 0..12u64), 0..60)) {
        let (mut ranges, mut model) = (RangeSet::new(), BTreeSet::new());
        for &(lo, n) in &ops {
            if n == 0 {
                prop_assert_eq!(ranges.insert(lo), model.insert(lo));
            } else {
                ranges.insert_range(lo, lo + n);
                model.extend(lo..=lo + n);
            }
        }
        prop_assert_eq!(ranges.len(), model.len() as u64);
        prop_assert!((0..220).all(|n| ranges.contains(n) == model.contains(&n)));
        prop_assert!(ranges.as_slice().windows(2).all(|w| w[0].1 + 1 < w[1].0), "touching ranges: {:?}", ranges);
        prop_assert_eq!(ranges.max(), model.last().copied());
        let unordered: RangeSet = ops.iter().rev().map(|&(lo, n)| (lo, lo + n)).collect();
        prop_assert_eq!(unordered, ranges);
    }

    #[test]
    fn ranges_at_the_end_of_the_numbers_do_not_overflow(
        ops in vec((prop_oneof![0..4u64, u64::MAX - 4..=u64::MAX], prop_oneof![0..4u64, u64::MAX - 4..=u64::MAX]), 0..8),
    ) {
        let set: RangeSet = ops.iter().copied().collect();
        let _ = set.len();
        let mut other = RangeSet::new();
        ops.iter().for_each(|&(lo, hi)| other.insert_range(lo, hi));
        prop_assert_eq!(set, other);
    }

    #[test]
    fn voids_name_exactly_what_is_gone(numbers in proptest::collection::btree_set(0..3000u64, 0..200), gap in 0..80u64) {
        let gone: RangeSet = numbers.iter().copied().collect();
        let mut named = RangeSet::new();
        for void in Void::from_gone(&gone, gap) {
            named.extend(&void.gone().unwrap());
        }
        prop_assert_eq!(named, gone);
    }

    #[test]
    fn a_hostile_void_is_a_set_or_nothing(lo in any::<u64>(), hi in any::<u64>(), kept in bytes()) {
        let _ = Void(lo, hi, kept.clone()).gone();
        let _ = Void(u64::MAX - lo % 400, u64::MAX, kept).gone();
    }

    #[test]
    fn the_digest_does_not_depend_on_order(ids in proptest::collection::btree_set("[a-z]{1,6}", 0..6)) {
        let ids: Vec<CommandId> = ids.iter().map(|s| s.parse().unwrap()).collect();
        let forward = open_digest(ids.iter().map(|i| (i, CommandState::Held)));
        let backward = open_digest(ids.iter().rev().map(|i| (i, CommandState::Held)));
        prop_assert_eq!(forward, backward);
    }

    #[test]
    fn whatever_is_reported_a_command_ends_at_most_once_by_the_device(
        moves in vec((0..CommandState::ALL.len(), 0..3usize), 0..40),
    ) {
        let (mut state, mut inferred, mut device_ends, mut running) = (CommandState::Pending, false, 0, 0);
        for (next, mover) in moves {
            let (next, mover) = (CommandState::ALL[next], [Mover::Server, Mover::Inference, Mover::Device][mover]);
            if state.may_become(next, mover, inferred) {
                prop_assert!(state.is_open() || inferred, "{state} was an end");
                running += usize::from(next == CommandState::Running && state == CommandState::Running);
                device_ends += usize::from(next.is_terminal() && mover == Mover::Device);
                (state, inferred) = (next, mover == Mover::Inference);
            }
        }
        prop_assert!(device_ends <= 1 && running == 0);
    }
}

fn decode_everything(bytes: &[u8]) {
    let _ = codec::decode::<Birth>(bytes, LIMIT);
    let _ = codec::decode::<Presence>(bytes, LIMIT);
    let _ = codec::decode::<Ack>(bytes, LIMIT);
    let _ = codec::decode::<Desired>(bytes, LIMIT);
    let _ = codec::decode::<Exchange>(bytes, LIMIT);
    let _ = codec::decode::<DeviceCommand>(bytes, LIMIT).map(DeviceCommand::action);
    let _ = codec::decode_any::<OperatorRequest>(bytes, LIMIT);
    let _ = codec::decode_any::<OperatorResult>(bytes, LIMIT);
    let _ = codec::decode_any::<ServerStatus>(bytes, LIMIT);
    let _ = codec::decode_records::<Heartbeat>(bytes, LIMIT);
    let _ = codec::decode_records::<CommandReport>(bytes, LIMIT);
    let _ = codec::decode_records::<Reported>(bytes, LIMIT);
    let _ = codec::decode_records::<LogBatch>(bytes, LIMIT);
    let _ = codec::decode_records::<Event>(bytes, LIMIT);
    let _ = codec::record_seqs(bytes, LIMIT);
}

#[test]
fn a_payload_is_refused_by_its_size_before_it_is_decoded() {
    let error = codec::decode::<Presence>(&[0xff; 1025], 1024).unwrap_err();
    assert!(matches!(error, codec::CodecError::TooLarge { size_bytes: 1025, limit_bytes: 1024 }), "{error}");
}

#[test]
fn an_exchange_of_too_many_messages_is_refused_and_not_kept() {
    let message = |n: usize| {
        codec::encode_packed(&vec![ExchangeMessage("log".to_owned(), Bytes::default()); n]).unwrap()
    };
    let most = codec::limit::EXCHANGE_MESSAGES;
    assert_eq!(codec::decode::<Exchange>(&message(most), LIMIT).unwrap().0.len(), most);
    let error = codec::decode::<Exchange>(&message(most + 1), LIMIT).unwrap_err();
    assert!(error.to_string().contains("64 messages"), "{error}");
    // It claims many and holds one.
    assert!(
        codec::decode::<Exchange>(&[0x9b, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0x82, 0x60, 0x40], LIMIT)
            .is_err()
    );
}

#[test]
fn deep_nesting_is_an_error_not_a_stack_overflow() {
    let deep = vec![0x81; 200_000];
    assert!(codec::decode::<codec::Value>(&deep, LIMIT).is_err());
    let deep_json = "[".repeat(200_000);
    assert!(codec::decode_any::<OperatorRequest>(deep_json.as_bytes(), LIMIT).is_err());
}

#[test]
fn a_record_is_a_map_and_not_a_list_of_its_fields() {
    let good = codec::encode_packed(&CommandReport {
        seq: 7,
        connection: 1,
        ts: 2,
        id: "c".parse().unwrap(),
        report_seq: 1,
        state: "acked".to_owned(),
        reason: None,
        progress_percent: None,
        result: None,
        error: None,
        nonce: None,
        token_sha256: None,
    });
    // [8, 1, 2, "c", 1, "acked"]
    let list = [0x86, 8, 1, 2, 0x61, b'c', 1, 0x65, b'a', b'c', b'k', b'e', b'd'];
    let batch = codec::batch([good.unwrap().as_slice(), &list].into_iter());
    let (records, without_seq) = codec::decode_records::<CommandReport>(&batch, LIMIT).unwrap();
    assert_eq!((records.len(), without_seq), (1, 1));
    assert!(matches!(&records[0], Record::Good(report) if report.seq == 7));
}

#[test]
fn an_array_that_claims_more_than_it_holds_is_an_error() {
    assert!(
        codec::decode_records::<Heartbeat>(&[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], LIMIT)
            .is_err()
    );
}

#[test]
fn json_is_known_by_its_first_character_after_byte_order_mark_and_white_space() {
    let request =
        codec::decode_any::<OperatorRequest>(b"\xef\xbb\xbf \r\n\t{\"to\":\"*\",\"type\":\"ping\"}", 100)
            .unwrap();
    assert_eq!(request.kind.as_deref(), Some("ping"));
    let cbor = codec::encode_named(&request).unwrap();
    assert_eq!(codec::decode_any::<OperatorRequest>(&cbor, 100).unwrap(), request);
    let unknown = codec::decode_any::<OperatorRequest>(b"{\"to\":\"*\",\"typ\":\"ping\"}", 100).unwrap_err();
    assert!(unknown.to_string().contains("typ"), "{unknown}");
}
