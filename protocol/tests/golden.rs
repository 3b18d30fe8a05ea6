//! The bytes of every message, held by fixtures: field order is wire contract. `UPDATE_GOLDEN=1 cargo test -p protocol`
//! writes fixtures that do not exist yet; one that exists is never rewritten, since devices in the field speak it.
#![allow(clippy::unwrap_used)]

use std::fmt::Debug;
use std::path::PathBuf;

use protocol::codec::{self, Bytes};
use protocol::id::StateId;
use protocol::message::*;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

const TS: i64 = 1_766_916_000_123;
const STATE: StateId = StateId([0xde, 0xad, 0xbe, 0xef, 1, 2, 3, 4]);

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn hex(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
    digits.chunks(32).map(|line| line.concat() + "\n").collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap()).collect()
}

fn check_bytes(file: &str, bytes: &[u8]) {
    let path = fixture(file);
    if !path.exists() && std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, hex(bytes)).unwrap();
    }
    let held = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(
        hex(bytes),
        held,
        "{file}: the bytes of this message have changed; that breaks devices in the field"
    );
}

/// Both forms have the bytes of their fixtures, and the fixtures read back as the message.
fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, message: &T) {
    for (form, bytes) in
        [("packed", codec::encode_packed(message).unwrap()), ("named", codec::encode_named(message).unwrap())]
    {
        let file = format!("{name}.{form}.hex");
        check_bytes(&file, &bytes);
        let held = unhex(&std::fs::read_to_string(fixture(&file)).unwrap());
        assert_eq!(&codec::decode::<T>(&held, codec::limit::LARGEST_BYTES).unwrap(), message, "{file}");
    }
}

fn heartbeat() -> Heartbeat {
    Heartbeat {
        seq: 4711,
        connection: 12,
        ts: TS,
        since_boot_ms: 86_400_000,
        cpu_permille: Some(152),
        mem_permille: Some(450),
        disk_free_mib: Some(2867),
        disk_total_mib: Some(29_798),
        temperature_decicelsius: Some(520),
        load_centi: Some([40, 30, 20]),
        recording_active: false,
        mixer_active: true,
        active_inputs: 0b11,
        degradation_level: 0,
        commands_digest: Some(Bytes(vec![1, 2, 3, 4])),
        outbox_depth: 3,
        live: Some(false),
        errors: vec![],
    }
}

#[test]
fn heartbeat_keeps_its_bytes() {
    check("heartbeat", &heartbeat());
    let bare = Heartbeat {
        cpu_permille: None,
        mem_permille: None,
        disk_free_mib: None,
        disk_total_mib: None,
        temperature_decicelsius: None,
        load_centi: None,
        commands_digest: None,
        live: None,
        errors: vec!["cam2: no signal".into()],
        ..heartbeat()
    };
    check("heartbeat-without-sensors", &bare);
}

#[test]
fn birth_keeps_its_bytes() {
    check(
        "birth",
        &Birth {
            state_id: STATE,
            connection: 65_548,
            next_seq: 4711,
            boot_id: "7b0c1c9e-5a3a-4f0e-9d4e-0d6b3f1f2a11".into(),
            agent_version: "0.1.0".into(),
            app_version: Some("1.0.0".into()),
            arch: "aarch64".into(),
            inputs: vec!["cam1".into(), "cam2".into()],
            command_types: vec!["ping".into(), "reboot".into()],
            interval_seconds: 60,
            transport: "mqtts".into(),
            ts: TS,
            since_boot_ms: 86_400_000,
            app_unit: Some("r58-api".into()),
        },
    );
}

#[test]
fn presence_keeps_its_bytes() {
    check("presence", &Presence { state_id: STATE, connection: 65_548, online: true });
}

#[test]
fn command_report_keeps_its_bytes() {
    check(
        "command-report",
        &CommandReport {
            seq: 4712,
            connection: 12,
            ts: TS,
            id: "0198c1f0-7c6a-7d6e-8a54-2f3c4d5e6f70".parse().unwrap(),
            report_seq: 3,
            state: "held".into(),
            reason: Some("awaiting_lease".into()),
            progress_percent: Some(40),
            result: Some(serde_json::json!({"exit_code": 0, "output": "done"})),
            error: Some("none".into()),
            nonce: Some(Bytes(vec![9; 8])),
            token_sha256: Some(Bytes(vec![7; 32])),
        },
    );
}

#[test]
fn reported_keeps_its_bytes() {
    check(
        "reported",
        &Reported {
            seq: 4713,
            connection: 12,
            ts: TS,
            desired_version: 5,
            config: [("HEARTBEAT_INTERVAL".to_owned(), "60".to_owned())].into(),
            errors: [("R58_DEBUG".to_owned(), "expected true or false".to_owned())].into(),
        },
    );
}

#[test]
fn log_batch_keeps_its_bytes() {
    check(
        "log-batch",
        &LogBatch {
            seq: 4714,
            connection: 12,
            ts: TS,
            records: vec![LogRecord {
                ts: TS,
                unit: "r58-api.service".into(),
                level: "warning".into(),
                message: "disk is filling up".into(),
                fields: [("PRIORITY".to_owned(), "4".to_owned())].into(),
            }],
        },
    );
}

#[test]
fn event_keeps_its_bytes() {
    let gone = (100..=140).filter(|n| n % 2 == 0).collect();
    check(
        "event",
        &Event {
            seq: 4715,
            connection: 12,
            ts: TS,
            kind: event::OUTBOX_THINNED.into(),
            details: Some(serde_json::json!({"heartbeats": 21})),
            void: Void::from_gone(&gone, 64),
        },
    );
}

#[test]
fn ack_keeps_its_bytes() {
    check(
        "ack",
        &Ack {
            state_id: STATE,
            ranges: [(1, 99), (141, 4710)].into_iter().collect(),
            commands_pending: Some(2),
            target_version: Some("1.1.0".into()),
            server_time: Some(TS),
        },
    );
}

#[test]
fn desired_keeps_its_bytes() {
    check(
        "desired",
        &Desired {
            version: 5,
            config: [("HEARTBEAT_INTERVAL".to_owned(), "60".to_owned())].into(),
            target_version: Some("1.1.0".into()),
            show_locks: vec![(TS, TS + 3_600_000)],
            redundancy_group: Some("main-hall".into()),
        },
    );
}

fn command() -> Command {
    Command {
        id: "0198c1f0-7c6a-7d6e-8a54-2f3c4d5e6f70".parse().unwrap(),
        kind: "restart_service".into(),
        payload: serde_json::json!({"service": "r58-api"}),
        priority: 1,
        created_at: TS,
        expires_at: TS + 3_600_000,
        timeout_seconds: 120,
        desired_version: 5,
        override_show: Some("the director asked".into()),
    }
}

#[test]
fn device_commands_keep_their_bytes() {
    let id = command().id;
    let nothing = DeviceCommand {
        state_id: STATE,
        command: None,
        cancel: None,
        query: None,
        override_show: None,
        go: None,
    };
    check("device-command", &DeviceCommand { command: Some(command()), ..nothing.clone() });
    check("device-cancel", &DeviceCommand { cancel: Some(id.clone()), ..nothing.clone() });
    check("device-query", &DeviceCommand { query: Some(id.clone()), ..nothing.clone() });
    let order = Override { id: id.clone(), reason: "the director asked".into() };
    check("device-override", &DeviceCommand { override_show: Some(order), ..nothing.clone() });
    check("device-go", &DeviceCommand { go: Some(Go { id, nonce: Bytes(vec![9; 8]) }), ..nothing });
}

#[test]
fn operator_request_and_result_keep_their_bytes() {
    check(
        "operator-request",
        &OperatorRequest {
            to: Some("studio-001".into()),
            kind: Some("restart_service".into()),
            payload: Some(serde_json::json!({"service": "r58-api"})),
            priority: Some(1),
            expires_in_seconds: Some(3600),
            timeout_seconds: Some(120),
            reference: Some("my-note-17".into()),
            notes: Some("after soundcheck".into()),
            override_show: Some(OverrideReason { reason: "the director asked".into() }),
            ..OperatorRequest::default()
        },
    );
    check(
        "operator-result",
        &OperatorResult {
            reference: Some("my-note-17".into()),
            id: Some(command().id),
            device: Some("studio-001".into()),
            status: "completed".into(),
            reason: None,
            revision: Some(6),
            result: Some(serde_json::json!({"active": true})),
            error: None,
            at: "2025-12-28T10:00:00Z".into(),
        },
    );
}

#[test]
fn server_status_keeps_its_bytes() {
    let status =
        ServerStatus { online: true, version: "0.1.0".into(), started: "2025-12-28T10:00:00Z".into() };
    check("server-status", &status);
    check_bytes("server-status.json.hex", &serde_json::to_vec(&status).unwrap());
}

#[test]
fn exchange_keeps_its_bytes() {
    let presence =
        codec::encode_packed(&Presence { state_id: STATE, connection: 65_548, online: true }).unwrap();
    let messages = vec![
        ExchangeMessage("presence".into(), Bytes(presence)),
        ExchangeMessage("server/fleet-1".into(), Bytes(b"{}".to_vec())),
    ];
    check("exchange", &Exchange(messages));
    check("exchange-nothing", &Exchange::default());
}

#[test]
fn a_batch_is_an_array_of_the_records_bytes() {
    let one = codec::encode_packed(&heartbeat()).unwrap();
    let batch = codec::batch([one.as_slice(), one.as_slice()].into_iter());
    check_bytes("heartbeat-batch.packed.hex", &batch);
    let (records, without_seq) =
        codec::decode_records::<Heartbeat>(&batch, codec::limit::HEARTBEAT_BATCH_BYTES).unwrap();
    assert_eq!(without_seq, 0);
    assert!(records.iter().all(|r| *r == codec::Record::Good(heartbeat())));
}

/// A presence as a later version might write it: two fields more at the end.
#[derive(Serialize, Deserialize)]
struct NewerPresence {
    state_id: StateId,
    connection: u64,
    online: bool,
    signal_dbm: i32,
    operator_name: String,
}

#[test]
fn an_old_reader_takes_a_newer_message_in_both_forms() {
    let newer = NewerPresence {
        state_id: STATE,
        connection: 65_548,
        online: true,
        signal_dbm: -71,
        operator_name: "Venue LTE".into(),
    };
    for (form, bytes) in
        [("packed", codec::encode_packed(&newer).unwrap()), ("named", codec::encode_named(&newer).unwrap())]
    {
        let file = format!("presence-of-a-newer-version.{form}.hex");
        check_bytes(&file, &bytes);
        let held = unhex(&std::fs::read_to_string(fixture(&file)).unwrap());
        let read: Presence = codec::decode(&held, 1024).unwrap();
        assert_eq!(read, Presence { state_id: STATE, connection: 65_548, online: true });
    }
}

#[test]
fn a_new_reader_takes_an_older_message_without_the_appended_fields() {
    // A birth of the first version: it ended with `transport`.
    let older = unhex(
        "aa 00 48deadbeef01020304 01 01 02 01 03 6162 04 65302e312e30 06 6761617263683634 07 80 08 80 09 183c 0a 646d717474",
    );
    let birth: Birth = codec::decode(&older, 1024).unwrap();
    assert_eq!((birth.transport.as_str(), birth.ts, birth.app_unit), ("mqtt", 0, None));
}

#[test]
fn a_heartbeat_with_every_field_takes_at_most_104_bytes() {
    // Every number as large as a device in the field can make it: ten years of heartbeats, a terabyte disk, all of 16
    // inputs, a load of 600.
    let large = Heartbeat {
        seq: 315_360_000,
        connection: u16::MAX,
        ts: i64::MAX / 2,
        since_boot_ms: 315_360_000_000,
        cpu_permille: Some(1000),
        mem_permille: Some(1000),
        disk_free_mib: Some(1 << 20),
        disk_total_mib: Some(1 << 20),
        temperature_decicelsius: Some(1200),
        load_centi: Some([60_000; 3]),
        recording_active: true,
        mixer_active: true,
        active_inputs: 0xffff,
        degradation_level: 255,
        commands_digest: Some(Bytes(vec![0xff; 4])),
        outbox_depth: 60_000,
        live: Some(true),
        errors: vec![],
    };
    let size = codec::encode_packed(&large).unwrap().len();
    assert!(size <= HEARTBEAT_TYPICAL_MAX_BYTES, "{size} bytes");
}
