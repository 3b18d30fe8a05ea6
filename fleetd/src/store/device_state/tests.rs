#![allow(clippy::unwrap_used)]

use protocol::message::{HeartbeatJson, HeartbeatMetrics, HeartbeatStatus, rfc3339};

use super::*;

const NOW: i64 = 1_766_916_000_000;
const YEAR: i64 = 365 * 24 * 3_600_000;

async fn bench() -> (tempfile::TempDir, Store, DeviceKey) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("fleet.db"), None).unwrap();
    let key =
        DeviceKey { device_id: "d".to_owned(), org_id: "00000000-0000-4000-8000-000000000001".to_owned() };
    let sql = "INSERT INTO devices (id, org_id, device_id, name, approval, arch, created_at, updated_at) \
               VALUES ('d', ?1, 'cam-1', 'd', 'approved', 'aarch64', 0, 0)";
    store.apply_one(Statement::new(sql, values![key.org_id.as_str()])).await.unwrap();
    (folder, store, key)
}

fn sample(cpu_percent: f64, now_ms: i64) -> Sample {
    let json = HeartbeatJson {
        ts: rfc3339(now_ms),
        version: None,
        uptime_seconds: None,
        metrics: HeartbeatMetrics { cpu_percent: Some(cpu_percent), ..HeartbeatMetrics::default() },
        status: HeartbeatStatus::default(),
        errors: vec![],
    };
    Sample::from_http(json, now_ms).unwrap()
}

fn heard(key: &DeviceKey, sample: &Sample, heard: Heard) -> Statement {
    put_heard(key, sample, heard, Day::of(sample.received_at))
}

#[tokio::test]
async fn an_older_heartbeat_does_not_replace_a_newer_one() {
    let (_folder, store, key) = bench().await;
    let older = Sample { at: NOW - 60_000, ..sample(1.0, NOW + 1000) };
    let newer = heard(&key, &sample(2.0, NOW), Heard::Spooled);
    store.apply(vec![make(&key), newer, heard(&key, &older, Heard::Spooled)]).await.unwrap();
    assert_eq!(get(&store, "d").await.unwrap().cpu_percent, Some(2.0));
}

#[tokio::test]
async fn a_server_clock_that_was_years_ahead_does_not_freeze_what_is_shown() {
    let (_folder, store, key) = bench().await;
    let later = NOW + 4 * YEAR;
    let will = Statement::new("UPDATE device_state SET will_at = ?1", values![later]);
    let ahead = heard(&key, &sample(1.0, later), Heard::Connected(later));
    store.apply(vec![make(&key), ahead, will]).await.unwrap();
    turn_offline(&store, 180_000, later + WILL_GRACE_MS).await.unwrap();
    store.apply_one(heard(&key, &sample(77.0, NOW), Heard::Connected(NOW))).await.unwrap();
    let state = get(&store, "d").await.unwrap();
    assert_eq!((state.cpu_percent, state.last_heartbeat, state.online), (Some(77.0), Some(NOW), true));
    assert!(turn_offline(&store, 180_000, NOW + WILL_GRACE_MS).await.unwrap().is_empty());
}
