//! Hourly and daily roll-ups: additions by the aggregator, and the series that dashboards draw.

use std::collections::BTreeMap;

use super::{Row, Statement, Store, StoreError, Value, device_state::DeviceKey, heartbeats};
use crate::{
    domain::rollup::{DAY_MS, HOUR_MS, METRICS, Rollup, Spread, period_start},
    values,
};

/// Which roll-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grain {
    /// By hour.
    Hourly,
    /// By day (UTC).
    Daily,
}

impl Grain {
    /// Length of a period, ms.
    #[must_use]
    pub fn period_ms(self) -> i64 {
        match self {
            Self::Hourly => HOUR_MS,
            Self::Daily => DAY_MS,
        }
    }

    fn table(self) -> &'static str {
        match self {
            Self::Hourly => "rollups_hourly",
            Self::Daily => "rollups_daily",
        }
    }
}

/// Adds heartbeats to the roll-up of a period.
#[must_use]
pub fn add(grain: Grain, key: &DeviceKey, starts_at: i64, rollup: &Rollup) -> Statement {
    let table = grain.table();
    let mut columns = "device_id, starts_at, org_id, samples, recording_ms, mixer_ms".to_owned();
    let mut updates =
        ["samples", "recording_ms", "mixer_ms"].map(|c| format!("{c} = {table}.{c} + excluded.{c}")).to_vec();
    let mut params = values![
        key.device_id.as_str(),
        starts_at,
        key.org_id.as_str(),
        rollup.samples,
        rollup.recording_ms,
        rollup.mixer_ms,
    ];
    for (metric, spread) in METRICS.iter().zip(&rollup.metrics) {
        columns.push_str(&format!(", {metric}_n, {metric}_sum, {metric}_min, {metric}_max"));
        let value = |value: f64| if spread.n == 0 { Value::Null } else { Value::Real(value) };
        params.extend([Value::Int(spread.n), value(spread.sum), value(spread.min), value(spread.max)]);
        updates.push(format!("{metric}_n = {table}.{metric}_n + excluded.{metric}_n"));
        // NULL is "no value yet": the other side's counts then.
        let merged = |column: &str, both: String| {
            format!(
                "{column} = CASE WHEN {table}.{column} IS NULL THEN excluded.{column} \
                     WHEN excluded.{column} IS NULL THEN {table}.{column} ELSE {both} END"
            )
        };
        let (sum, min, max) = (format!("{metric}_sum"), format!("{metric}_min"), format!("{metric}_max"));
        updates.push(merged(&sum, format!("{table}.{sum} + excluded.{sum}")));
        for (column, sign) in [(&min, "<"), (&max, ">")] {
            let pick = format!(
                "CASE WHEN excluded.{column} {sign} {table}.{column} THEN excluded.{column} ELSE {table}.{column} END"
            );
            updates.push(merged(column, pick));
        }
    }
    let marks = (1..=params.len()).map(|n| format!("?{n}")).collect::<Vec<_>>().join(", ");
    let sql = format!(
        "INSERT INTO {table} ({columns}) VALUES ({marks}) ON CONFLICT (device_id, starts_at) DO UPDATE SET {}",
        updates.join(", ")
    );
    Statement::new(sql, params)
}

/// A roll-up with its beginning, from columns named as in the tables.
pub(super) fn read_rollup(row: &Row) -> Result<(i64, Rollup), StoreError> {
    let mut rollup = Rollup {
        samples: row.int("samples")?,
        recording_ms: row.int("recording_ms")?,
        mixer_ms: row.int("mixer_ms")?,
        ..Rollup::default()
    };
    for (metric, spread) in METRICS.iter().zip(&mut rollup.metrics) {
        let value =
            |part: &str| Ok::<_, StoreError>(row.opt_real(&format!("{metric}_{part}"))?.unwrap_or(0.0));
        *spread = Spread {
            n: row.int(&format!("{metric}_n"))?,
            sum: value("sum")?,
            min: value("min")?,
            max: value("max")?,
        };
    }
    Ok((row.int("starts_at")?, rollup))
}

/// A device's measurements over time.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Length of a period, seconds.
    pub step_seconds: i64,
    /// The periods in which something was measured: their beginning (ms since 1970) and what it came to.
    pub points: BTreeMap<i64, Rollup>,
    /// All of it added up.
    pub total: Rollup,
}

/// Up to this long a span is always computed from the raw heartbeats.
const RAW_SPAN_MS: i64 = 48 * HOUR_MS;
/// Without a step, about so many points are given.
const POINTS: i64 = 240;
/// How often a read is repeated that the aggregator got in the way of.
const READS_MAX: usize = 5;
/// Most points in an answer.
const POINTS_MAX: i64 = 5000;

/// A device's measurements in `from ≤ time < to` (ms since 1970), by periods of `step_ms` (`None`: a fitting one).
/// Past the raw heartbeats' reach the periods are whole hours or days. What is committed shows at once: heartbeats that
/// the aggregator has not come to yet are added.
///
/// # Errors
/// [`StoreError`].
pub async fn series(
    store: &Store,
    key: &DeviceKey,
    from: i64,
    to: i64,
    step_ms: Option<i64>,
    raw_days: u32,
    now_ms: i64,
) -> Result<Series, StoreError> {
    let span = (to - from).max(1);
    let step = step_ms.unwrap_or(span / POINTS).max(span / POINTS_MAX).max(60_000);
    let step = (step + 999) / 1000 * 1000;
    let has_raw = from >= now_ms - i64::from(raw_days) * DAY_MS;
    if has_raw && (span <= RAW_SPAN_MS || step < HOUR_MS) {
        return Ok(total(step, heartbeats::by_period(store, key, from, to, step, false).await?));
    }
    let grain = if step >= DAY_MS { Grain::Daily } else { Grain::Hourly };
    let period = grain.period_ms();
    let step = (step + period - 1) / period * period;
    // Heartbeats that the aggregator takes over between two reads would be missing or counted twice: then read again.
    let mut days = heartbeats::days(store).await?;
    for _ in 0..READS_MAX {
        let mut periods = heartbeats::by_period(store, key, from, to, step, true).await?;
        for (starts_at, rollup) in stored(store, grain, key, period_start(from, period), to).await? {
            periods.entry(period_start(starts_at, step)).or_default().merge(&rollup);
        }
        let now = heartbeats::days(store).await?;
        if now == days {
            return Ok(total(step, periods));
        }
        days = now;
    }
    Err(StoreError::Busy { operation: "read the roll-ups".to_owned() })
}

/// The roll-ups of a device that begin in `from ≤ time < to` (ms since 1970).
///
/// # Errors
/// [`StoreError`].
pub async fn stored(
    store: &Store,
    grain: Grain,
    key: &DeviceKey,
    from: i64,
    to: i64,
) -> Result<Vec<(i64, Rollup)>, StoreError> {
    let sql = format!(
        "SELECT * FROM {} WHERE device_id = ?1 AND org_id = ?2 AND starts_at >= ?3 AND starts_at < ?4 ORDER BY starts_at",
        grain.table()
    );
    let params = values![key.device_id.as_str(), key.org_id.as_str(), from, to];
    store.query(sql, params).await?.iter().map(read_rollup).collect()
}

fn total(step_ms: i64, points: BTreeMap<i64, Rollup>) -> Series {
    let mut total = Rollup::default();
    points.values().for_each(|rollup| total.merge(rollup));
    Series { step_seconds: step_ms / 1000, points, total }
}
