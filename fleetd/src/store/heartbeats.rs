//! Raw heartbeats: one table for each day of arrival (UTC).
//!
//! A table is only appended to, and is dropped whole when its retention is over. Nothing is ever deleted row by row. Each
//! row names the row before it of the same device; the last one is named by `device_state` for the device's newest day, by
//! `heartbeat_heads` for the days before. So a device's rows are found without looking at others', and neither a heartbeat
//! nor the end of a day costs a page of an index.

use std::collections::BTreeMap;

use protocol::message::{HeartbeatMetrics, HeartbeatStatus, rfc3339};
use serde::Serialize;

use super::{
    Row, Sql, Statement, Store, StoreError, Value,
    device_state::DeviceKey,
    dialect::{ROW_NUMBER, last_row},
    rollups::read_rollup,
};
use crate::{
    domain::{
        rollup::{DAY_MS, METRICS, Point, Rollup},
        sample::Sample,
        time,
    },
    values,
};

/// A day in UTC, counted from 1970-01-01.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(i64);

impl Day {
    /// The day of a time in ms since 1970.
    #[must_use]
    pub fn of(ms: i64) -> Self {
        Self(ms.div_euclid(DAY_MS))
    }

    /// When it begins, ms since 1970.
    #[must_use]
    pub fn starts_at(self) -> i64 {
        self.0 * DAY_MS
    }

    /// So many days later.
    #[must_use]
    pub fn plus(self, days: i64) -> Self {
        Self(self.0 + days)
    }

    /// As in `heartbeat_days`: 20261231.
    pub(super) fn number(self) -> i64 {
        let digits: String =
            rfc3339(self.starts_at()).chars().take(10).filter(char::is_ascii_digit).collect();
        digits.parse().unwrap_or(0)
    }

    fn from_number(number: i64) -> Option<Self> {
        let (year, month, day) = (number / 10_000, number / 100 % 100, number % 100);
        let text = format!("{year:04}-{month:02}-{day:02}T00:00:00Z");
        protocol::message::parse_rfc3339(&text).ok().map(Self::of)
    }

    /// Built of digits alone, so that it can stand in SQL text.
    fn table(self) -> String {
        format!("heartbeats_{:08}", self.number())
    }
}

/// Makes the table of a day, if it is not there.
#[must_use]
pub fn make_day(day: Day) -> [Statement; 2] {
    let sql = format!(
        "CREATE TABLE IF NOT EXISTS {} (id {ROW_NUMBER}, device_id TEXT NOT NULL, org_id TEXT NOT NULL, \
         received_at BIGINT NOT NULL, taken_at BIGINT NOT NULL, ts BIGINT NOT NULL, state_id TEXT, seq BIGINT, \
         interval_seconds BIGINT NOT NULL, version TEXT, uptime_seconds BIGINT, cpu_percent DOUBLE PRECISION, \
         mem_percent DOUBLE PRECISION, disk_free_gb DOUBLE PRECISION, disk_total_gb DOUBLE PRECISION, \
         temperature_c DOUBLE PRECISION, load_1 DOUBLE PRECISION, load_5 DOUBLE PRECISION, load_15 DOUBLE PRECISION, \
         recording_active BIGINT NOT NULL, mixer_active BIGINT NOT NULL, active_inputs TEXT, \
         degradation_level BIGINT NOT NULL, live BIGINT, errors TEXT, before BIGINT)",
        day.table()
    );
    let listed = "INSERT INTO heartbeat_days (day) VALUES (?1) ON CONFLICT (day) DO NOTHING";
    [Statement::new(sql, Vec::new()), Statement::new(listed, values![day.number()])]
}

/// What a day's heartbeats are added with; made once, for thousands of them.
#[derive(Clone, Debug)]
pub struct Insert {
    day: Day,
    sql: Sql,
}

impl Insert {
    /// Into the table of this day, which must be there.
    #[must_use]
    pub fn into_day(day: Day) -> Self {
        let (table, number, last) = (day.table(), day.number(), last_row!());
        let sql = format!(
            "INSERT INTO {table} (device_id, org_id, received_at, taken_at, ts, state_id, seq, interval_seconds, version, \
             uptime_seconds, cpu_percent, mem_percent, disk_free_gb, disk_total_gb, temperature_c, load_1, load_5, \
             load_15, recording_active, mixer_active, active_inputs, degradation_level, live, errors, before) VALUES (?1, \
             ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, \
             CASE ?25 WHEN 1 THEN {head} ELSE {last} END)",
            head = head_sql("?1", &number.to_string()),
        );
        Self { day, sql: sql.into() }
    }

    /// The day of arrival that it is for.
    #[must_use]
    pub fn day(&self) -> Day {
        self.day
    }

    /// Adds heartbeats of one device that arrived on this day. `device_state::put_heard` must follow at once: it names the
    /// row that was added last. Before the first of a day goes [`keep_head`](Self::keep_head).
    #[must_use]
    pub fn rows(&self, key: &DeviceKey, samples: &[Sample]) -> Option<Statement> {
        let (first, others) = samples.split_first()?;
        let insert = Statement::new(self.sql.clone(), columns(key, first, true));
        Some(others.iter().fold(insert, |insert, sample| insert.and(columns(key, sample, false))))
    }

    /// Notes where the chain of the device's newest day ends, if that is another than this.
    #[must_use]
    pub fn keep_head(&self, key: &DeviceKey) -> Statement {
        const SQL: &str = "INSERT INTO heartbeat_heads (day, device_id, last_row) \
                           SELECT heartbeat_day, device_id, heartbeat_row FROM device_state \
                           WHERE device_id = ?1 AND heartbeat_day <> ?2 \
                           ON CONFLICT (day, device_id) DO UPDATE SET last_row = excluded.last_row";
        Statement::new(SQL, values![key.device_id.as_str(), self.day.number()])
    }
}

/// SQL for the last row of a device's chain on a day, NULL if there is none.
fn head_sql(device: &str, day: &str) -> String {
    format!(
        "coalesce((SELECT CASE heartbeat_day WHEN {day} THEN heartbeat_row END FROM device_state \
         WHERE device_id = {device}), (SELECT last_row FROM heartbeat_heads WHERE day = {day} AND device_id = {device}))"
    )
}

fn columns(key: &DeviceKey, sample: &Sample, is_first: bool) -> Vec<Value> {
    let (json, metrics, status) = (&sample.json, &sample.json.metrics, &sample.json.status);
    let whole = |number: u64| i64::try_from(number).ok();
    values![
        key.device_id.as_str(),
        key.org_id.as_str(),
        sample.received_at,
        sample.at,
        sample.ts,
        sample.record.map(|(state_id, _)| state_id.to_string()),
        sample.record.and_then(|(_, seq)| whole(seq)),
        sample.interval_seconds,
        json.version.as_deref(),
        json.uptime_seconds.and_then(whole),
        metrics.cpu_percent,
        metrics.mem_percent,
        metrics.disk_free_gb,
        metrics.disk_total_gb,
        metrics.temperature_c,
        metrics.load_avg.map(|load| load[0]),
        metrics.load_avg.map(|load| load[1]),
        metrics.load_avg.map(|load| load[2]),
        status.recording_active,
        status.mixer_active,
        list_to_text(&status.active_inputs),
        status.degradation_level,
        sample.live,
        list_to_text(&json.errors),
        is_first,
    ]
}

fn list_to_text(list: &[String]) -> Option<String> {
    if list.is_empty() { None } else { serde_json::to_string(list).ok() }
}

/// A stored heartbeat as the API shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StoredHeartbeat {
    /// Names the row for ever.
    pub id: String,
    /// When it arrived, ms since 1970.
    #[serde(with = "time")]
    pub received_at: i64,
    /// When it was taken, corrected for the device's clock, ms since 1970.
    #[serde(with = "time")]
    pub taken_at: i64,
    /// The state database that it came from; none if it came by HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_id: Option<String>,
    /// Its number there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<i64>,
    // What follows is as in `HeartbeatJson`.
    /// The device's clock, ms since 1970.
    #[serde(with = "time")]
    pub ts: i64,
    /// Version of the application.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Seconds since boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uptime_seconds: Option<u64>,
    /// Measurements.
    pub metrics: HeartbeatMetrics,
    /// What the application does.
    pub status: HeartbeatStatus,
    /// Whether an interruption would have been heard or seen; none if nobody knew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<bool>,
    /// What is wrong, in the application's words.
    pub errors: Vec<String>,
}

/// The columns that [`read`] takes, in its order.
const LISTED: &str = "uptime_seconds, load_1, load_5, load_15, h.id, received_at, taken_at, state_id, seq, ts, version, \
     cpu_percent, mem_percent, disk_free_gb, disk_total_gb, temperature_c, recording_active, mixer_active, active_inputs, \
     degradation_level, live, errors";

fn read(row: &Row, day: i64) -> Result<StoredHeartbeat, StoreError> {
    let seconds = row.opt_int("uptime_seconds")?.and_then(|seconds| u64::try_from(seconds).ok());
    let load = (row.opt_real("load_1")?, row.opt_real("load_5")?, row.opt_real("load_15")?);
    Ok(StoredHeartbeat {
        id: format!("{day}-{}", row.int("id")?),
        received_at: row.int("received_at")?,
        taken_at: row.int("taken_at")?,
        state_id: row.opt_text("state_id")?,
        seq: row.opt_int("seq")?,
        ts: row.int("ts")?,
        version: row.opt_text("version")?,
        uptime_seconds: seconds,
        metrics: HeartbeatMetrics {
            cpu_percent: row.opt_real("cpu_percent")?,
            mem_percent: row.opt_real("mem_percent")?,
            disk_free_gb: row.opt_real("disk_free_gb")?,
            disk_total_gb: row.opt_real("disk_total_gb")?,
            temperature_c: row.opt_real("temperature_c")?,
            load_avg: match load {
                (Some(one), Some(five), Some(fifteen)) => Some([one, five, fifteen]),
                _ => None,
            },
        },
        status: HeartbeatStatus {
            recording_active: row.bool("recording_active")?,
            mixer_active: row.bool("mixer_active")?,
            active_inputs: row.opt_json("active_inputs")?.unwrap_or_default(),
            degradation_level: u8::try_from(row.int("degradation_level")?).unwrap_or(u8::MAX),
        },
        live: row.opt_bool("live")?,
        errors: row.opt_json("errors")?.unwrap_or_default(),
    })
}

/// A day's table and how far it is in the roll-ups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DayInfo {
    /// Which day.
    pub day: Day,
    /// Whether its rows are chained; else it is from before they were.
    pub chained: bool,
    /// Rows up to this one are in the roll-ups.
    pub aggregated_id: i64,
}

/// The days that have a table, oldest first.
///
/// # Errors
/// [`StoreError`].
pub async fn days(store: &Store) -> Result<Vec<DayInfo>, StoreError> {
    let rows =
        store.query("SELECT day, chained, aggregated_id FROM heartbeat_days ORDER BY day", vec![]).await?;
    let read = |row: &Row| {
        Ok(Day::from_number(row.int("day")?).map(|day| (day, row.bool("chained"), row.int("aggregated_id"))))
    };
    let mut days = Vec::with_capacity(rows.len());
    for row in &rows {
        if let Some((day, chained, aggregated_id)) = read(row)? {
            days.push(DayInfo { day, chained: chained?, aggregated_id: aggregated_id? });
        }
    }
    Ok(days)
}

/// SQL for a device's rows past the row `after` (SQL) of a day: what comes before the SELECT, what stands between FROM and the
/// other conditions, which must name the device: others' rows may be among them, and how it ends to have the newest first. The
/// table is `h`. What it needs is added to the parameters. `None`: there are none.
async fn rows_of(
    store: &Store,
    key: &DeviceKey,
    info: DayInfo,
    after: &str,
    params: &mut Vec<Value>,
) -> Result<Option<(String, String, &'static str)>, StoreError> {
    let table = info.day.table();
    if !info.chained {
        return Ok(Some((String::new(), format!("{table} h WHERE"), "ORDER BY received_at DESC, id DESC")));
    }
    let head = format!("SELECT {} AS head", head_sql("?1", "?2"));
    let found = store.lookup_one(head, values![key.device_id.as_str(), info.day.number()]).await?;
    let Some(head) = found.map_or(Ok(None), |row| row.opt_int("head"))? else { return Ok(None) };
    params.push(head.into());
    let last = params.len();
    // Only numbers go from step to step, and each row is looked up while its page is at hand. The steps have an order, and the
    // rows come in it: to sort them as well would have all of them read and copied before the first is given.
    let with = format!(
        "WITH RECURSIVE own (id, before) AS (SELECT id, before FROM {table} WHERE id = ?{last} AND id > {after} \
         UNION ALL SELECT h.id, h.before FROM own o JOIN {table} h ON h.id = o.before AND h.id > {after} ORDER BY 1 DESC)"
    );
    Ok(Some((with, format!("own o CROSS JOIN {table} h WHERE h.id = o.id AND"), "")))
}

/// One page of a device's heartbeats that arrived in `since ≤ received_at < until` (ms), newest first, and how many
/// there are in all. `page` counts from 1.
///
/// # Errors
/// [`StoreError`].
pub async fn list(
    store: &Store,
    key: &DeviceKey,
    since: i64,
    until: i64,
    page: u32,
    page_size: u32,
) -> Result<(Vec<StoredHeartbeat>, u64), StoreError> {
    let mut skip = i64::from(page.max(1) - 1) * i64::from(page_size);
    let mut wanted = i64::from(page_size);
    let mut total = 0;
    let mut items = Vec::new();
    let (first, last) = (Day::of(since), Day::of(until));
    for info in days(store).await?.iter().rev().filter(|info| (first..=last).contains(&info.day)) {
        let filter = "device_id = ?1 AND org_id = ?2 AND received_at >= ?3 AND received_at < ?4";
        let mut params = values![key.device_id.as_str(), key.org_id.as_str(), since, until];
        let Some((with, from, order)) = rows_of(store, key, *info, "0", &mut params).await? else { continue };
        let counted = (format!("{with} SELECT count(*) AS n FROM {from} {filter}"), params.clone());
        params.extend(values![wanted, skip]);
        let (limit, offset) = (params.len() - 1, params.len());
        let sql =
            format!("{with} SELECT {LISTED} FROM {from} {filter} {order} LIMIT ?{limit} OFFSET ?{offset}");
        let rows = if wanted > 0 { store.query(sql, params).await? } else { Vec::new() };
        let found = i64::try_from(rows.len()).unwrap_or(i64::MAX);
        // What was not cut short is known without counting.
        let here = match (1..wanted).contains(&found) || (found == 0 && skip == 0 && wanted > 0) {
            true => skip + found,
            false => store.query_one(counted.0, counted.1).await?.map_or(Ok(0), |row| row.int("n"))?,
        };
        total += here;
        wanted -= found;
        let day = info.day.number();
        items.extend(rows.iter().map(|row| read(row, day)).collect::<Result<Vec<_>, _>>()?);
        skip = (skip - here).max(0);
    }
    Ok((items, u64::try_from(total).unwrap_or(0)))
}

const POINT_COLUMNS: &str = "id, device_id, org_id, taken_at, interval_seconds, recording_active, mixer_active, \
     cpu_percent, mem_percent, disk_free_gb, temperature_c, load_1";

fn point(row: &Row) -> Result<Point, StoreError> {
    Ok(Point {
        at: row.int("taken_at")?,
        stands_ms: row.int("interval_seconds")? * 1000,
        recording: row.bool("recording_active")?,
        mixer: row.bool("mixer_active")?,
        metrics: [
            row.opt_real("cpu_percent")?,
            row.opt_real("mem_percent")?,
            row.opt_real("disk_free_gb")?,
            row.opt_real("temperature_c")?,
            row.opt_real("load_1")?,
        ],
    })
}

/// What was taken of a device in `from ≤ taken_at < to` (ms), added up by periods of `step_ms`, from the raw heartbeats.
/// `only_new`: only those that are not in the roll-ups yet.
///
/// # Errors
/// [`StoreError`].
pub async fn by_period(
    store: &Store,
    key: &DeviceKey,
    from: i64,
    to: i64,
    step_ms: i64,
    only_new: bool,
) -> Result<BTreeMap<i64, Rollup>, StoreError> {
    // Added up by the database: a device with an interval of a second has a million rows.
    let period = "(taken_at / ?5) * ?5";
    let mut sums = format!(
        "{period} AS starts_at, count(*) AS samples, \
         CAST(sum(recording_active * interval_seconds) * 1000 AS BIGINT) AS recording_ms, \
         CAST(sum(mixer_active * interval_seconds) * 1000 AS BIGINT) AS mixer_ms"
    );
    for metric in METRICS {
        sums.push_str(&format!(
            ", count({metric}) AS {metric}_n, sum({metric}) AS {metric}_sum, min({metric}) AS {metric}_min, \
             max({metric}) AS {metric}_max"
        ));
    }
    let mut periods: BTreeMap<i64, Rollup> = BTreeMap::new();
    // Nothing is taken after it arrived, so that earlier days hold nothing of the span; later ones may.
    for info in days(store).await?.iter().filter(|info| info.day >= Day::of(from)) {
        let after = if only_new { info.aggregated_id } else { 0 };
        let mut params =
            values![key.device_id.as_str(), key.org_id.as_str(), from, to, step_ms.max(1), after];
        let Some((with, from, _)) = rows_of(store, key, *info, "?6", &mut params).await? else { continue };
        let sql = format!(
            "{with} SELECT {sums} FROM {from} device_id = ?1 AND org_id = ?2 AND taken_at >= ?3 AND taken_at < ?4 \
             AND h.id > ?6 GROUP BY {period}"
        );
        for row in store.query(sql, params).await? {
            let (starts_at, rollup) = read_rollup(&row)?;
            periods.entry(starts_at).or_default().merge(&rollup);
        }
    }
    Ok(periods)
}

/// The next heartbeats of a day that are not in the roll-ups, in order of arrival, and the number of the last one.
///
/// # Errors
/// [`StoreError`].
pub async fn not_aggregated(
    store: &Store,
    info: DayInfo,
    most: u32,
) -> Result<(Vec<(DeviceKey, Point)>, i64), StoreError> {
    let sql = format!("SELECT {POINT_COLUMNS} FROM {} WHERE id > ?1 ORDER BY id LIMIT ?2", info.day.table());
    let rows = store.query(sql, values![info.aggregated_id, most]).await?;
    let last = rows.last().map_or(Ok(info.aggregated_id), |row| row.int("id"))?;
    let read = |row: &Row| {
        Ok((DeviceKey { device_id: row.text("device_id")?, org_id: row.text("org_id")? }, point(row)?))
    };
    Ok((rows.iter().map(read).collect::<Result<_, StoreError>>()?, last))
}

/// Notes that a day is aggregated up to `to_id`; a conflict if another process has moved it meanwhile.
#[must_use]
pub fn mark_aggregated(info: DayInfo, to_id: i64) -> Statement {
    let sql = "UPDATE heartbeat_days SET aggregated_id = ?2 WHERE day = ?1 AND aggregated_id = ?3";
    Statement::new(sql, values![info.day.number(), to_id, info.aggregated_id]).expect_rows(1)
}

/// Drops a day whole.
#[must_use]
pub fn drop_day(day: Day) -> [Statement; 3] {
    [
        Statement::new("DELETE FROM heartbeat_heads WHERE day = ?1", values![day.number()]),
        Statement::new(format!("DROP TABLE IF EXISTS {}", day.table()), Vec::<Value>::new()),
        Statement::new("DELETE FROM heartbeat_days WHERE day = ?1", values![day.number()]),
    ]
}
