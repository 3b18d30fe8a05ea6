#![allow(clippy::unwrap_used)]

use protocol::message::{HeartbeatJson, HeartbeatMetrics, HeartbeatStatus, rfc3339};

use super::*;
use crate::{
    auth::AuthState,
    clock::Clock,
    config::Config,
    domain::rollup::{DAY_MS, HOUR_MS, Rollup, by_period},
    service::ingest::http_heartbeat,
    store::{
        Statement, Store,
        device_state::{self, DeviceKey},
        heartbeats::{self, Day, DayInfo},
        rollups::{self, Grain},
    },
    values,
};

const MIDNIGHT: i64 = 1_766_880_000_000;
const MINUTE: i64 = 60_000;
const ORG: &str = "00000000-0000-4000-8000-000000000001";

struct Bench {
    app: Arc<AppState>,
    key: DeviceKey,
    _folder: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        let bench = Self::open(tempfile::tempdir().unwrap());
        let sql = "INSERT INTO devices (id, org_id, device_id, name, approval, arch, created_at, updated_at) \
                   VALUES ('d', ?1, 'cam-1', 'd', 'approved', 'aarch64', 0, 0)";
        bench.app.store.apply_one(Statement::new(sql, values![ORG])).await.unwrap();
        bench
    }

    fn open(folder: tempfile::TempDir) -> Self {
        let config = Config::new(folder.path().to_owned());
        let clock = Clock::fixed(MIDNIGHT);
        let store = Store::open(&config.database, None).unwrap();
        let auth = AuthState::open(&config, &clock).unwrap();
        let key = DeviceKey { device_id: "d".to_owned(), org_id: ORG.to_owned() };
        Self { app: Arc::new(AppState::new(store, config, clock, auth)), key, _folder: folder }
    }

    fn now(&self) -> i64 {
        self.app.clock.now_ms()
    }

    async fn heartbeat(&self, cpu_percent: f64, recording_active: bool) {
        let json = HeartbeatJson {
            ts: rfc3339(self.now()),
            version: None,
            uptime_seconds: Some(1),
            metrics: HeartbeatMetrics { cpu_percent: Some(cpu_percent), ..HeartbeatMetrics::default() },
            status: HeartbeatStatus { recording_active, mixer_active: true, ..HeartbeatStatus::default() },
            errors: vec![],
        };
        http_heartbeat(&self.app, &self.key, json, None).await.unwrap();
    }

    /// One heartbeat each half hour, some of them recording.
    async fn live_through(&self, hours: i64) {
        for n in 0..hours * 2 {
            self.heartbeat((n % 7) as f64 * 10.0, n % 3 == 0).await;
            self.app.clock.advance_ms(30 * MINUTE);
        }
    }

    async fn stored(&self, grain: Grain) -> Vec<(i64, Rollup)> {
        rollups::stored(&self.app.store, grain, &self.key, 0, i64::MAX).await.unwrap()
    }

    async fn series(&self, from: i64, to: i64, step: Option<i64>) -> rollups::Series {
        rollups::series(&self.app.store, &self.key, from, to, step, 14, self.now()).await.unwrap()
    }
}

#[tokio::test]
async fn roll_ups_come_to_what_the_heartbeats_come_to_however_often_the_aggregator_runs() {
    let bench = Bench::new().await;
    for _ in 0..3 {
        bench.live_through(11).await;
        aggregator::step(&bench.app).await.unwrap();
        let (first, second) = tokio::join!(aggregator::step(&bench.app), aggregator::step(&bench.app));
        first.unwrap();
        second.unwrap();
    }
    let mut points = Vec::new();
    for info in heartbeats::days(&bench.app.store).await.unwrap() {
        let all = DayInfo { aggregated_id: 0, ..info };
        let (rows, _) = heartbeats::not_aggregated(&bench.app.store, all, 1000).await.unwrap();
        points.extend(rows.into_iter().map(|(_, point)| point));
    }
    assert_eq!(points.len(), 66);
    let raw =
        |step, only_new| heartbeats::by_period(&bench.app.store, &bench.key, 0, i64::MAX / 2, step, only_new);
    for grain in [Grain::Hourly, Grain::Daily] {
        let naive = by_period(&points, grain.period_ms());
        assert_eq!(bench.stored(grain).await, naive.clone().into_iter().collect::<Vec<_>>());
        assert_eq!(raw(grain.period_ms(), false).await.unwrap(), naive, "as the database adds up");
    }
    assert!(raw(HOUR_MS, true).await.unwrap().is_empty(), "all of it is in the roll-ups");
}

#[tokio::test]
async fn a_heartbeat_shows_in_metrics_at_once_from_raw_and_from_roll_ups_alike() {
    let bench = Bench::new().await;
    bench.live_through(60).await;
    aggregator::step(&bench.app).await.unwrap();
    bench.heartbeat(99.5, true).await;
    let (from, to) = (MIDNIGHT, bench.now() + 1);
    let by_hour = bench.series(from, to, Some(HOUR_MS)).await;
    assert_eq!(by_hour.step_seconds, 3600);
    assert_eq!((by_hour.total.samples, by_hour.points.len()), (121, 61));
    let last = &by_hour.points[&(MIDNIGHT + 60 * HOUR_MS)];
    assert_eq!((last.metrics[0].max, last.recording_ms), (99.5, MINUTE));
    let fine = bench.series(from, to, Some(30 * MINUTE)).await;
    assert_eq!(fine.points.len(), 121);
    // Sums may differ in the last bit by the order of adding; these values are whole.
    assert_eq!(fine.total, by_hour.total);
    let daily = bench.series(from, to, Some(DAY_MS)).await;
    assert_eq!((daily.points.len(), daily.total.samples), (3, 121));
    let unasked = bench.series(to - 2 * HOUR_MS, to, None).await;
    assert_eq!(unasked.step_seconds, 60);
}

#[tokio::test]
async fn retention_drops_whole_days_and_keeps_roll_ups_and_the_latest_state() {
    let bench = Bench::new().await;
    retention::step(&bench.app).await.unwrap();
    bench.live_through(48).await;
    let total = bench.series(MIDNIGHT, bench.now(), Some(HOUR_MS)).await.total;
    retention::step(&bench.app).await.unwrap();
    assert_eq!(heartbeats::days(&bench.app.store).await.unwrap().len(), 4);

    bench.app.clock.advance_ms(15 * DAY_MS);
    retention::step(&bench.app).await.unwrap();
    retention::step(&bench.app).await.unwrap();
    let days = heartbeats::days(&bench.app.store).await.unwrap();
    assert!(days.iter().all(|info| info.day >= Day::of(bench.now() - 14 * DAY_MS)));
    let left = bench
        .app
        .store
        .query("SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'heartbeats_2%'", vec![])
        .await;
    assert_eq!(left.unwrap().len(), days.len(), "the tables are gone, not only their names");
    assert_eq!(
        bench.series(MIDNIGHT, bench.now(), Some(HOUR_MS)).await.total,
        total,
        "the roll-ups have them"
    );
    let heads = bench.app.store.query("SELECT day FROM heartbeat_heads", vec![]).await.unwrap();
    assert!(heads.is_empty(), "and so is where their chains ended");
    let state = device_state::get(&bench.app.store, "d").await.unwrap();
    assert_eq!(state.last_heartbeat, Some(MIDNIGHT + 48 * HOUR_MS - 30 * MINUTE));

    bench.app.clock.advance_ms(731 * DAY_MS);
    retention::step(&bench.app).await.unwrap();
    assert!(bench.stored(Grain::Hourly).await.is_empty());
    assert!(bench.stored(Grain::Daily).await.is_empty());
}

#[tokio::test]
async fn a_page_of_heartbeats_crosses_days_newest_first() {
    let bench = Bench::new().await;
    bench.live_through(50).await;
    let list = |page, size| {
        let (store, key, until) = (bench.app.store.clone(), bench.key.clone(), bench.now());
        async move { heartbeats::list(&store, &key, MIDNIGHT + HOUR_MS, until, page, size).await.unwrap() }
    };
    let (all, total) = list(1, 100).await;
    assert_eq!((all.len(), total), (98, 98));
    let mut paged = Vec::new();
    for page in 1..=6 {
        paged.extend(list(page, 20).await.0);
    }
    assert_eq!(paged, all);
    assert!(all.windows(2).all(|pair| pair[0].received_at > pair[1].received_at));
    let other = DeviceKey { org_id: "another".to_owned(), ..bench.key.clone() };
    let theirs = heartbeats::list(&bench.app.store, &other, 0, bench.now(), 1, 10).await.unwrap();
    assert_eq!(theirs.1, 0, "another organisation sees nothing");
}

/// A device's heartbeats are found along chains: they must miss none, whatever the server's clock does.
#[tokio::test]
async fn the_heartbeats_of_all_days_are_found_though_the_clock_jumps_by_days() {
    let bench = Bench::new().await;
    let other = DeviceKey { device_id: "e".to_owned(), ..bench.key.clone() };
    let sql = "INSERT INTO devices (id, org_id, device_id, name, approval, arch, created_at, updated_at) \
               VALUES ('e', ?1, 'cam-2', 'e', 'approved', 'aarch64', 0, 0)";
    bench.app.store.apply_one(Statement::new(sql, values![ORG])).await.unwrap();
    let mut wanted = [0_u64; 2];
    let jumps = [0, 0, 1, 0, 1, -1, 0, 2, -2, 1, 0, -3, 0, 4, 0, -1, 1, 0, 3, -2, 0, 2, 0];
    for (n, days) in jumps.into_iter().enumerate() {
        bench.app.clock.advance_ms(days * DAY_MS + MINUTE);
        for (at, key) in [&bench.key, &other].into_iter().enumerate() {
            // Not both every time.
            if n % (at + 2) != 0 {
                let json = HeartbeatJson {
                    ts: rfc3339(bench.now()),
                    version: None,
                    uptime_seconds: None,
                    metrics: HeartbeatMetrics::default(),
                    status: HeartbeatStatus::default(),
                    errors: vec![],
                };
                http_heartbeat(&bench.app, key, json, None).await.unwrap();
                wanted[at] += 1;
            }
        }
        for (at, key) in [&bench.key, &other].into_iter().enumerate() {
            let (items, total) =
                heartbeats::list(&bench.app.store, key, 0, i64::MAX / 2, 1, 100).await.unwrap();
            assert_eq!(
                (items.len() as u64, total),
                (wanted[at], wanted[at]),
                "after jump {n} by {days} days"
            );
            let periods =
                heartbeats::by_period(&bench.app.store, key, 0, i64::MAX / 2, DAY_MS, false).await.unwrap();
            assert_eq!(periods.values().map(|rollup| rollup.samples).sum::<i64>() as u64, wanted[at]);
        }
    }
}

#[tokio::test]
async fn after_an_upgrade_in_the_middle_of_a_day_its_heartbeats_from_before_and_after_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = Config::new(folder.path().to_owned()).database;
    let old = crate::store::make_at_version(&path, 14);
    let day = format!("heartbeats_{}", &rfc3339(MIDNIGHT).replace('-', "")[..8]);
    old.execute_batch(&format!(
        "INSERT INTO devices (id, org_id, device_id, name, approval, arch, created_at, updated_at) \
         VALUES ('d', '{ORG}', 'cam-1', 'd', 'approved', 'aarch64', 0, 0); \
         INSERT INTO device_state (device_id, org_id) VALUES ('d', '{ORG}'); \
         INSERT INTO heartbeat_days (day) VALUES ({}); \
         CREATE TABLE {day} (id INTEGER PRIMARY KEY, device_id TEXT NOT NULL, org_id TEXT NOT NULL, \
         received_at BIGINT NOT NULL, taken_at BIGINT NOT NULL, ts BIGINT NOT NULL, state_id TEXT, seq BIGINT, \
         interval_seconds BIGINT NOT NULL, version TEXT, uptime_seconds BIGINT, cpu_percent DOUBLE PRECISION, \
         mem_percent DOUBLE PRECISION, disk_free_gb DOUBLE PRECISION, disk_total_gb DOUBLE PRECISION, \
         temperature_c DOUBLE PRECISION, load_1 DOUBLE PRECISION, load_5 DOUBLE PRECISION, load_15 DOUBLE PRECISION, \
         recording_active BIGINT NOT NULL, mixer_active BIGINT NOT NULL, active_inputs TEXT, \
         degradation_level BIGINT NOT NULL, live BIGINT, errors TEXT); \
         INSERT INTO {day} (device_id, org_id, received_at, taken_at, ts, interval_seconds, recording_active, \
         mixer_active, degradation_level) VALUES ('d', '{ORG}', {MIDNIGHT}, {MIDNIGHT}, {MIDNIGHT}, 60, 0, 0, 0)",
        &day["heartbeats_".len()..]
    ))
    .unwrap();
    drop(old);
    let bench = Bench::open(folder);
    let total = async || {
        heartbeats::list(&bench.app.store, &bench.key, 0, i64::MAX / 2, 1, 100).await.unwrap().0.len()
    };
    assert_eq!(total().await, 1);
    bench.app.clock.advance_ms(MINUTE);
    bench.heartbeat(1.0, false).await;
    assert_eq!(total().await, 2);
    bench.app.clock.advance_ms(DAY_MS);
    bench.heartbeat(1.0, false).await;
    assert_eq!(total().await, 3);
}

#[tokio::test]
async fn a_device_that_speaks_only_http_goes_offline_and_comes_back() {
    let bench = Bench::new().await;
    bench.heartbeat(1.0, false).await;
    assert!(device_state::get(&bench.app.store, "d").await.unwrap().online);
    bench.app.clock.advance_ms(180_001);
    monitor::step(&bench.app).await.unwrap();
    let state = device_state::get(&bench.app.store, "d").await.unwrap();
    assert!(!state.online);
    assert_eq!(state.transport.as_deref(), Some("http"));
    assert!(bench.app.views.take().contains("d"));
    bench.heartbeat(1.0, false).await;
    assert!(device_state::get(&bench.app.store, "d").await.unwrap().online);
}

#[tokio::test]
async fn what_an_http_heartbeat_says_wrongly_is_refused_by_field() {
    let bench = Bench::new().await;
    let good = serde_json::json!({
        "ts": "2031-01-01T00:00:00Z", "version": "unknown", "uptime_seconds": 5,
        "metrics": {"cpu_percent": 15.2, "temperature_c": null}, "status": {}, "errors": [], "extra": 1
    });
    let send = |json: serde_json::Value| {
        let heartbeat: HeartbeatJson = serde_json::from_value(json).unwrap();
        http_heartbeat(&bench.app, &bench.key, heartbeat, Some("192.0.2.1"))
    };
    send(good.clone()).await.unwrap();
    for (field, value) in [("cpu_percent", -1.0), ("cpu_percent", 101.0), ("temperature_c", -300.0)] {
        let mut bad = good.clone();
        bad["metrics"][field] = value.into();
        let error = send(bad).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("metrics.{field}:")), "{error}");
    }
    let mut bad = good;
    bad["ts"] = "yesterday".into();
    assert!(send(bad).await.unwrap_err().to_string().starts_with("ts:"));
    let (items, total) =
        heartbeats::list(&bench.app.store, &bench.key, 0, bench.now() + 1, 1, 10).await.unwrap();
    assert_eq!(total, 1);
    assert_eq!(protocol::message::rfc3339(items[0].ts), "2031-01-01T00:00:00Z", "as sent, though years off");
    assert_eq!(items[0].taken_at, bench.now());
}

#[tokio::test]
async fn a_worker_runs_at_once_after_a_nudge_and_ends_when_told() {
    let bench = Bench::new().await;
    let runs = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let (stop, stopped) = watch::channel(false);
    let counted = runs.clone();
    let worker = tokio::spawn(run(
        bench.app.clone(),
        stopped,
        Worker::Retention,
        Duration::from_secs(3600),
        move |_| {
            let counted = counted.clone();
            async move {
                counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                Err::<(), _>(std::io::Error::other("a failing step does not end the worker"))
            }
        },
    ));
    let reached = |wanted: u32| {
        let runs = runs.clone();
        async move {
            while runs.load(std::sync::atomic::Ordering::SeqCst) < wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), reached(1)).await.unwrap();
    bench.app.nudges.nudge(Worker::Retention);
    tokio::time::timeout(Duration::from_secs(10), reached(2)).await.unwrap();
    stop.send_replace(true);
    tokio::time::timeout(Duration::from_secs(10), worker).await.unwrap().unwrap();
    assert_eq!(bench.app.metrics.total("fleet_worker_failures_total"), 2);
}
