#![allow(clippy::unwrap_used)]

mod flood;

use std::collections::BTreeSet;

use proptest::prelude::*;
use protocol::{
    codec::{Bytes as CborBytes, encode_packed},
    id::StateId,
    message::{CommandReport, Event, Heartbeat, LogBatch, LogRecord, Reported, Void, event},
    ranges::RangeSet,
};

use super::*;
use crate::{
    store::{Statement, Value, device_state::DeviceState, heartbeats, records},
    values,
};

pub(crate) const NOW: i64 = 1_766_916_000_000;
const MINUTE: i64 = 60_000;
pub(crate) const STATE: StateId = StateId([7; 8]);

pub(crate) struct Bench {
    folder: tempfile::TempDir,
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) metrics: Metrics,
    pub(crate) ingest: Ingest,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        let _ = tracing_subscriber::fmt().with_test_writer().try_init();
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("fleet.db"), None).unwrap();
        let clock = Clock::fixed(NOW);
        let metrics = Metrics::default();
        let ingest = Ingest::new(store.clone(), clock.clone(), metrics.clone());
        let bench = Self { folder, store, clock, metrics, ingest };
        for device in ["cam-1", "cam-2"] {
            let sql = "INSERT INTO devices (id, org_id, device_id, name, approval, arch, created_at, updated_at) \
                       VALUES (?1, '00000000-0000-4000-8000-000000000001', ?1, ?1, 'approved', 'aarch64', 0, 0)";
            bench.store.apply_one(Statement::new(sql, values![device])).await.unwrap();
        }
        bench
    }

    /// As after a crash: what was in memory is gone, the file is there.
    pub(crate) fn restart(&mut self) {
        self.store.close();
        self.store = Store::open(&self.folder.path().join("fleet.db"), None).unwrap();
        self.ingest = Ingest::new(self.store.clone(), self.clock.clone(), self.metrics.clone());
    }

    pub(crate) async fn send(&self, uplink: impl Into<Option<Uplink>>, payload: Vec<u8>) -> Vec<Reply> {
        self.send_as("cam-1", uplink, payload).await
    }

    pub(crate) async fn send_as(
        &self,
        device: &str,
        uplink: impl Into<Option<Uplink>>,
        payload: Vec<u8>,
    ) -> Vec<Reply> {
        self.ingest.take(vec![message(device, uplink, payload)]).await
    }

    async fn state(&self) -> DeviceState {
        device_state::get(&self.store, "cam-1").await.unwrap()
    }

    async fn stored_seqs(&self) -> Vec<u64> {
        let (items, total) =
            heartbeats::list(&self.store, &key(), 0, i64::MAX / 2, 1, 100_000).await.unwrap();
        assert_eq!(items.len() as u64, total);
        items.iter().map(|item| item.seq.unwrap() as u64).collect()
    }

    pub(crate) async fn count(&self, table: &str) -> i64 {
        let rows = self.store.query(format!("SELECT count(*) AS n FROM {table}"), vec![]).await.unwrap();
        rows[0].int("n").unwrap()
    }
}

pub(crate) fn key() -> DeviceKey {
    DeviceKey { device_id: "cam-1".to_owned(), org_id: "00000000-0000-4000-8000-000000000001".to_owned() }
}

fn message(device: &str, uplink: impl Into<Option<Uplink>>, payload: Vec<u8>) -> Incoming {
    Incoming {
        org: OrgSlug::new("default").unwrap(),
        device: DeviceId::new(device).unwrap(),
        uplink: uplink.into(),
        payload: payload.into(),
        ip_address: Some("192.0.2.7".to_owned()),
    }
}

pub(crate) fn birth(connection: u64) -> Birth {
    Birth {
        state_id: STATE,
        connection,
        next_seq: 1,
        boot_id: "b".to_owned(),
        agent_version: "0.1.0".to_owned(),
        app_version: Some("1.2.3".to_owned()),
        arch: "aarch64".to_owned(),
        inputs: vec!["cam1".to_owned(), "cam2".to_owned()],
        command_types: vec![],
        interval_seconds: 60,
        transport: "mqtt".to_owned(),
        ts: NOW,
        since_boot_ms: 3_600_000,
        app_unit: None,
    }
}

fn heartbeat(seq: u64, connection: u64, ago_ms: i64) -> Heartbeat {
    Heartbeat {
        seq,
        connection: (connection % 65_536) as u16,
        ts: NOW - ago_ms,
        since_boot_ms: (3_600_000 - ago_ms).max(0) as u64,
        cpu_permille: Some(152),
        mem_permille: Some(450),
        disk_free_mib: Some(2867),
        disk_total_mib: Some(29_798),
        temperature_decicelsius: None,
        load_centi: Some([40, 30, 20]),
        recording_active: true,
        mixer_active: false,
        active_inputs: 0b10,
        degradation_level: 0,
        commands_digest: None,
        outbox_depth: 3,
        live: Some(true),
        errors: vec![],
    }
}

pub(crate) fn packed(message: &impl serde::Serialize) -> Vec<u8> {
    encode_packed(message).unwrap()
}

fn ack(replies: &[Reply]) -> Option<&Ack> {
    replies.iter().find_map(|reply| match reply {
        Reply::Ack(_, ack) => Some(ack),
        _ => None,
    })
}

#[tokio::test]
async fn a_heartbeat_is_stored_acknowledged_and_shown() {
    let bench = Bench::new().await;
    let first = bench.send(Uplink::Birth, packed(&birth(5))).await;
    let first = ack(&first).unwrap();
    assert_eq!((first.state_id, &first.ranges, first.server_time), (STATE, &RangeSet::new(), Some(NOW)));
    assert_eq!(first.commands_pending, Some(0));

    let replies = bench.send(Uplink::Heartbeat, packed(&heartbeat(1, 5, 0))).await;
    let second = ack(&replies).unwrap();
    assert_eq!(second.ranges.as_slice(), [(1, 1)]);
    assert_eq!(second.server_time, None, "the time is told hourly");
    assert!(replies.contains(&Reply::Changed("cam-1".to_owned())));

    let state = bench.state().await;
    assert!(state.online && state.recording_active);
    assert_eq!(state.cpu_percent, Some(15.2));
    assert_eq!(state.temperature_c, None, "a missing sensor is absent");
    assert_eq!(state.ip_address.as_deref(), Some("192.0.2.7"));
    let (items, total) = heartbeats::list(&bench.store, &key(), 0, NOW + 1, 1, 50).await.unwrap();
    assert_eq!(total, 1);
    let json = serde_json::to_value(&items[0]).unwrap();
    assert_eq!(json["metrics"]["disk_free_gb"], 2.8);
    assert_eq!(json["status"]["active_inputs"], serde_json::json!(["cam2"]));
    assert_eq!(json["live"], true);
    assert_eq!((&json["seq"], &json["state_id"]), (&1.into(), &"0707070707070707".into()));
    assert!(json["metrics"].get("temperature_c").is_none());
}

#[tokio::test]
async fn a_record_of_another_connection_is_left_uncommitted_and_taken_after_its_birth() {
    let bench = Bench::new().await;
    let before_birth = bench.send(Uplink::Heartbeat, packed(&heartbeat(1, 5, 0))).await;
    assert_eq!(ack(&before_birth), None, "no birth at all");
    bench.send(Uplink::Birth, packed(&birth(65_541))).await;
    let wrong = bench.send(Uplink::Heartbeat, packed(&heartbeat(1, 4, 0))).await;
    assert_eq!(ack(&wrong), None);
    assert_eq!(bench.metrics.total("fleet_records_mismatched_total"), 2);
    let right = bench.send(Uplink::Heartbeat, packed(&heartbeat(1, 65_541, 0))).await;
    assert_eq!(ack(&right).unwrap().ranges.as_slice(), [(1, 1)]);
}

#[tokio::test]
async fn a_new_state_database_begins_with_nothing_committed_and_the_old_one_keeps_its_ranges() {
    let bench = Bench::new().await;
    bench.send(Uplink::Birth, packed(&birth(1))).await;
    bench.send(Uplink::Heartbeat, packed(&heartbeat(1, 1, 0))).await;
    let other = Birth { state_id: StateId([8; 8]), ..birth(1) };
    // In one batch with a last record of the old one, whose set must not be lost.
    let replies = bench
        .ingest
        .take(vec![
            message("cam-1", Uplink::Heartbeat, packed(&heartbeat(2, 1, 0))),
            message("cam-1", Uplink::Birth, packed(&other)),
            message("cam-1", Uplink::Heartbeat, packed(&heartbeat(1, 1, 0))),
        ])
        .await;
    assert_eq!(ack(&replies).unwrap().state_id, StateId([8; 8]));
    assert_eq!(ack(&replies).unwrap().ranges.as_slice(), [(1, 1)]);
    let back = bench.send(Uplink::Birth, packed(&birth(2))).await;
    assert_eq!(ack(&back).unwrap().ranges.as_slice(), [(1, 2)]);
    assert_eq!(records::list(&bench.store, &key()).await.unwrap().len(), 2);
    assert_eq!(bench.stored_seqs().await.len(), 3);
}

#[tokio::test]
async fn poison_is_kept_raw_bounded_counted_and_acknowledged_and_does_not_take_its_neighbours_along() {
    let bench = Bench::new().await;
    bench.send(Uplink::Birth, packed(&birth(1))).await;
    let good = packed(&heartbeat(1, 1, 0));
    // {0: 2, 1: 1, 2: "what time?"}: numbered, of this connection, and no heartbeat.
    let bad = [&[0xa3, 0, 2, 1, 1, 2, 0x6a][..], b"what time?"].concat();
    // {"x": 1}: no number.
    let unnumbered = vec![0xa1, 0x61, b'x', 1];
    let batch = codec::batch([good.as_slice(), &bad, &unnumbered].into_iter());
    let replies = bench.send(Uplink::Heartbeat, batch).await;
    assert_eq!(ack(&replies).unwrap().ranges.as_slice(), [(1, 2)]);
    assert_eq!(bench.stored_seqs().await, [1]);
    let poison = bench.store.query_one("SELECT * FROM poison_records", vec![]).await.unwrap().unwrap();
    assert_eq!((poison.int("seq").unwrap(), poison.text("topic").unwrap()), (2, "heartbeat".to_owned()));
    assert_eq!(bench.metrics.total("fleet_records_poison_total"), 1);
    assert_eq!(bench.metrics.total("fleet_records_unnumbered_total"), 1);

    for seq in 10..160u64 {
        bench.clock.advance_ms(1);
        let bad = [&[0xa2, 0, 0x18, seq as u8, 1, 1][..]].concat();
        bench.send(Uplink::Event, bad).await;
    }
    assert!(bench.count("poison_records").await <= 100, "the newest hundred");
}

#[tokio::test]
async fn a_record_on_a_topic_of_a_newer_agent_is_kept_raw_and_acknowledged_so_that_the_agent_can_forget_it() {
    let bench = Bench::new().await;
    bench.send(Uplink::Birth, packed(&birth(1))).await;
    // {0: 1, 1: 1, 2: "radar"}
    let newer = [&[0xa3, 0, 1, 1, 1, 2, 0x65][..], b"radar"].concat();
    let replies = bench.send(None, newer.clone()).await;
    assert_eq!(ack(&replies).unwrap().ranges.as_slice(), [(1, 1)]);
    let kept = bench.store.query_one("SELECT * FROM poison_records", vec![]).await.unwrap().unwrap();
    assert_eq!((kept.int("seq").unwrap(), kept.text("topic").unwrap()), (1, "unknown".to_owned()));
    let again = bench.send(None, newer).await;
    assert_eq!(ack(&again).unwrap().ranges.as_slice(), [(1, 1)]);
    assert_eq!(bench.count("poison_records").await, 1, "stored once");
}

#[tokio::test]
async fn what_cannot_be_read_at_all_is_counted_and_nothing_breaks() {
    let bench = Bench::new().await;
    bench.send(Uplink::Birth, packed(&birth(1))).await;
    for uplink in Uplink::ALL {
        for payload in
            [vec![], vec![0xff], b"{\"json\": true}".to_vec(), vec![0x80; 300 * 1024], vec![0x9b; 9]]
        {
            bench.send(*uplink, payload).await;
        }
    }
    // A birth with the right shape and a wrong state id; a sequence number that no database column takes.
    bench.send(Uplink::Birth, vec![0xa1, 0, 0x41, 1]).await;
    let huge = Heartbeat { seq: u64::MAX, ..heartbeat(1, 1, 0) };
    let replies = bench.send(Uplink::Heartbeat, packed(&huge)).await;
    assert_eq!(ack(&replies), None);
    assert!(bench.metrics.total("fleet_messages_malformed_total") >= 20);
    let replies = bench.send(Uplink::Heartbeat, packed(&heartbeat(1, 1, 0))).await;
    assert_eq!(ack(&replies).unwrap().ranges.as_slice(), [(1, 1)]);
    assert!(bench.send_as("nobody", Uplink::Heartbeat, packed(&heartbeat(1, 1, 0))).await.is_empty());
}

#[tokio::test]
async fn every_kind_of_record_has_its_table_and_voids_count_as_committed() {
    let bench = Bench::new().await;
    bench.send(Uplink::Birth, packed(&birth(1))).await;
    let report = CommandReport {
        seq: 1,
        connection: 1,
        ts: NOW,
        id: "c-1".parse().unwrap(),
        report_seq: 1,
        state: "acked".to_owned(),
        reason: None,
        progress_percent: None,
        result: None,
        error: None,
        nonce: None,
        token_sha256: None,
    };
    bench.send(Uplink::Status, packed(&report)).await;
    let reported = Reported {
        seq: 2,
        connection: 1,
        ts: NOW,
        desired_version: 4,
        config: [("HEARTBEAT_INTERVAL".to_owned(), "30".to_owned())].into(),
        errors: [].into(),
    };
    bench.send(Uplink::Reported, packed(&reported)).await;
    let line = |text: &str| LogRecord {
        ts: NOW,
        unit: "r58-api".to_owned(),
        level: "info".to_owned(),
        message: text.to_owned(),
        fields: [].into(),
    };
    let log = LogBatch { seq: 3, connection: 1, ts: NOW, records: vec![line("a"), line("b")] };
    bench.send(Uplink::Log, packed(&log)).await;
    let void = vec![Void(4, 9, CborBytes(vec![0b100]))];
    let thinned = Event {
        seq: 12,
        connection: 1,
        ts: NOW,
        kind: event::OUTBOX_THINNED.to_owned(),
        details: None,
        void,
    };
    let replies = bench.send(Uplink::Event, packed(&thinned)).await;
    // 6 is kept, so it is still to come.
    assert_eq!(ack(&replies).unwrap().ranges.as_slice(), [(1, 5), (7, 9), (12, 12)]);
    assert_eq!(bench.count("command_reports").await, 1);
    assert_eq!(bench.count("log_records").await, 2);
    assert_eq!(bench.count("device_events").await, 1);
    assert_eq!(bench.state().await.reported_version, Some(4));

    let greedy = Event { seq: 13, void: vec![Void(1, 1 << 40, CborBytes(vec![]))], ..thinned };
    let replies = bench.send(Uplink::Event, packed(&greedy)).await;
    assert_eq!(ack(&replies).unwrap().ranges.max(), Some(13), "nobody gives up what has no number yet");
    assert_eq!(bench.count("poison_records").await, 1);
}

#[tokio::test]
async fn a_void_with_as_many_gaps_as_fit_does_not_keep_the_others_waiting() {
    let bench = Bench::new().await;
    bench.send(Uplink::Birth, packed(&birth(1))).await;
    // Far above what the void names, with a gap between every two.
    for part in 0..4_u64 {
        let report = |n: u64| Event {
            seq: 1_000_000 + 2 * (part * 4_000 + n),
            connection: 1,
            ts: NOW,
            kind: "x".to_owned(),
            details: None,
            void: vec![],
        };
        let one: Vec<Vec<u8>> = (0..4_000).map(|n| packed(&report(n))).collect();
        for some in one.chunks(1_000) {
            let payload = codec::batch(some.iter().map(Vec::as_slice));
            assert!(ack(&bench.send(Uplink::Event, payload).await).is_some());
        }
    }
    let kept = CborBytes(vec![0b0101_0101; 60_000]);
    let void = vec![Void(1, 8 * 60_000, kept)];
    let hostile = Event { seq: 2_000_000, connection: 1, ts: NOW, kind: "x".to_owned(), details: None, void };
    let began = std::time::Instant::now();
    let replies = bench.send(Uplink::Event, packed(&hostile)).await;
    assert!(began.elapsed() < std::time::Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(ack(&replies), None, "left uncommitted");
    assert_eq!(bench.metrics.total("fleet_records_gaps_total"), 1);
}

#[tokio::test]
async fn backlog_never_makes_a_device_look_online() {
    let bench = Bench::new().await;
    bench.send(Uplink::Birth, packed(&birth(1))).await;
    bench.clock.advance_ms(10 * MINUTE);
    let gone = device_state::turn_offline(&bench.store, 3 * MINUTE, NOW + 10 * MINUTE).await.unwrap();
    assert_eq!(gone, ["cam-1"]);
    let replies = bench.send(Uplink::Heartbeat, packed(&heartbeat(1, 1, 30 * MINUTE))).await;
    assert!(ack(&replies).is_some());
    assert!(!bench.state().await.online, "half an hour old");
    bench.send(Uplink::Heartbeat, packed(&heartbeat(2, 1, -10 * MINUTE))).await;
    let state = bench.state().await;
    assert!(state.online, "taken just now");
    assert_eq!(state.last_heartbeat, Some(NOW + 10 * MINUTE));
}

#[tokio::test]
async fn a_will_counts_after_ten_seconds_and_only_if_it_is_of_the_last_birth() {
    let bench = Bench::new().await;
    let presence = |connection, online| packed(&Presence { state_id: STATE, connection, online });
    bench.send(Uplink::Birth, packed(&birth(1))).await;
    bench.send(Uplink::Birth, packed(&birth(2))).await;
    // The old connection's will, after the new birth: ignored, and to be rewritten.
    let replies = bench.send(Uplink::Presence, presence(1, false)).await;
    let name = (OrgSlug::new("default").unwrap(), DeviceId::new("cam-1").unwrap());
    assert_eq!(replies, [Reply::CheckPresence(name.clone())]);
    let right = bench.ingest.presence_correction(&name).await.unwrap();
    assert_eq!(right, Presence { state_id: STATE, connection: 2, online: true });
    bench.send(Uplink::Presence, packed(&right)).await;
    assert_eq!(bench.ingest.presence_correction(&name).await, None);
    let off = |at: i64| device_state::turn_offline(&bench.store, 3 * MINUTE, at);
    assert!(off(NOW + MINUTE).await.unwrap().is_empty());

    bench.send(Uplink::Presence, presence(2, false)).await;
    assert!(off(NOW + 9_999).await.unwrap().is_empty(), "a birth may still follow");
    // A heartbeat that was taken before the connection was lost comes late: it changes nothing.
    bench.clock.advance_ms(2_000);
    bench.send(Uplink::Heartbeat, packed(&heartbeat(1, 2, 1_000))).await;
    assert_eq!(off(NOW + 10_000).await.unwrap(), ["cam-1"]);
    bench.send(Uplink::Birth, packed(&birth(3))).await;
    assert!(bench.state().await.online);
    assert!(off(NOW + 20_000).await.unwrap().is_empty(), "the birth has lifted the will");
    // A will that overtakes the birth of its own connection.
    bench.send(Uplink::Presence, presence(4, false)).await;
    bench.send(Uplink::Birth, packed(&birth(4))).await;
    assert_eq!(off(NOW + 12_000).await.unwrap(), ["cam-1"]);
}

#[tokio::test]
async fn silence_counts_after_the_timeout_or_three_intervals_whichever_is_longer() {
    let bench = Bench::new().await;
    bench.send(Uplink::Birth, packed(&Birth { interval_seconds: 120, ..birth(1) })).await;
    let off = |at: i64| device_state::turn_offline(&bench.store, 3 * MINUTE, at);
    assert!(off(NOW + 6 * MINUTE).await.unwrap().is_empty());
    assert_eq!(off(NOW + 6 * MINUTE + 1).await.unwrap(), ["cam-1"]);
}

#[tokio::test]
async fn a_full_disk_acknowledges_nothing_and_what_is_sent_again_arrives_once() {
    let bench = Bench::new().await;
    bench.send(Uplink::Birth, packed(&birth(1))).await;
    let pages =
        bench.store.query_one("PRAGMA page_count", vec![]).await.unwrap().unwrap().int("page_count").unwrap();
    let limit = |pages: i64| Statement::new(format!("PRAGMA max_page_count = {pages}"), Vec::<Value>::new());
    bench.store.apply_one(limit(pages)).await.unwrap();
    let long = |seq| {
        let errors = vec!["x".repeat(900); 4];
        packed(&Heartbeat { errors, ..heartbeat(seq, 1, 0) })
    };
    let mut acknowledged = RangeSet::new();
    for seq in 1..=20 {
        if let Some(ack) = ack(&bench.send(Uplink::Heartbeat, long(seq)).await) {
            acknowledged = ack.ranges.clone();
        }
    }
    assert!(acknowledged.len() < 20, "the disk was full at some point");
    let stored: RangeSet = bench.stored_seqs_or_none().await.into_iter().collect();
    assert_eq!(stored, acknowledged);
    bench.store.apply_one(limit(100_000)).await.unwrap();
    let mut last = None;
    for seq in 1..=20 {
        last = ack(&bench.send(Uplink::Heartbeat, long(seq)).await).cloned();
    }
    assert_eq!(last.unwrap().ranges.as_slice(), [(1, 20)]);
    let mut stored = bench.stored_seqs().await;
    stored.sort_unstable();
    assert_eq!(stored, (1..=20).collect::<Vec<_>>());
}

impl Bench {
    async fn stored_seqs_or_none(&self) -> Vec<u64> {
        if heartbeats::days(&self.store).await.unwrap().is_empty() {
            vec![]
        } else {
            self.stored_seqs().await
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Send(Vec<u64>),
    WrongConnection(u64),
    Reconnect,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => proptest::collection::vec(0..40u64, 1..12).prop_map(Step::Send),
        1 => (0..40u64).prop_map(Step::WrongConnection),
        1 => Just(Step::Reconnect),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn every_record_is_stored_once_whatever_the_order_the_repeats_and_the_restarts(
        steps in proptest::collection::vec(step(), 1..14)
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut bench = Bench::new().await;
            let mut connection = 65_530;
            bench.send(Uplink::Birth, packed(&birth(connection))).await;
            let mut model = BTreeSet::new();
            for step in steps {
                match step {
                    Step::Send(seqs) => {
                        let encoded: Vec<_> =
                            seqs.iter().map(|seq| packed(&heartbeat(*seq, connection, 0))).collect();
                        let batch = codec::batch(encoded.iter().map(Vec::as_slice));
                        let replies = bench.send(Uplink::Heartbeat, batch).await;
                        model.extend(seqs);
                        let expected: RangeSet = model.iter().copied().collect();
                        assert_eq!(ack(&replies).unwrap().ranges, expected);
                    }
                    Step::WrongConnection(seq) => {
                        let replies = bench.send(Uplink::Heartbeat, packed(&heartbeat(seq, connection + 1, 0))).await;
                        assert_eq!(ack(&replies), None);
                    }
                    Step::Reconnect => {
                        connection += 1;
                        let replies = bench.send(Uplink::Birth, packed(&birth(connection))).await;
                        assert_eq!(ack(&replies).unwrap().ranges, model.iter().copied().collect());
                    }
                    Step::Restart => bench.restart(),
                }
            }
            let mut stored = bench.stored_seqs_or_none().await;
            stored.sort_unstable();
            assert_eq!(stored, model.into_iter().collect::<Vec<_>>());
        });
    }
}
