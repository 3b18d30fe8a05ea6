//! Roll-ups: what many heartbeats of one period come to. Sums, so that late ones can be added, in any order.

use std::collections::BTreeMap;

/// One hour, in ms.
pub const HOUR_MS: i64 = 3_600_000;
/// One day, in ms.
pub const DAY_MS: i64 = 24 * HOUR_MS;

/// The measurements that are rolled up, by their column and JSON name.
pub const METRICS: [&str; 5] = ["cpu_percent", "mem_percent", "disk_free_gb", "temperature_c", "load_1"];

/// What a roll-up needs of one heartbeat.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Point {
    /// When it was taken, ms since 1970.
    pub at: i64,
    /// For how long it stands, ms: the device's interval.
    pub stands_ms: i64,
    /// Whether a recording ran.
    pub recording: bool,
    /// Whether the mixer ran.
    pub mixer: bool,
    /// In the order of [`METRICS`].
    pub metrics: [Option<f64>; METRICS.len()],
}

/// Minimum, sum and maximum of one measurement. An absent sensor adds nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spread {
    /// How many values.
    pub n: i64,
    /// Their sum.
    pub sum: f64,
    /// The least; 0 without values.
    pub min: f64,
    /// The greatest; 0 without values.
    pub max: f64,
}

impl Spread {
    fn add(&mut self, value: f64) {
        self.merge(&Self { n: 1, sum: value, min: value, max: value });
    }

    /// Adds the values of another.
    pub fn merge(&mut self, other: &Self) {
        if other.n == 0 {
            return;
        }
        if self.n == 0 {
            *self = *other;
            return;
        }
        self.n += other.n;
        self.sum += other.sum;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    /// The average, if there are values.
    #[must_use]
    pub fn avg(&self) -> Option<f64> {
        // Counts are far below 2^53.
        #[allow(clippy::cast_precision_loss)]
        (self.n > 0).then(|| self.sum / self.n as f64)
    }
}

/// The heartbeats of one period, added up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rollup {
    /// How many.
    pub samples: i64,
    /// Time with a recording, ms: each heartbeat stands for one interval.
    pub recording_ms: i64,
    /// Time with the mixer, ms.
    pub mixer_ms: i64,
    /// In the order of [`METRICS`].
    pub metrics: [Spread; METRICS.len()],
}

impl Rollup {
    /// Adds a heartbeat.
    pub fn add(&mut self, point: &Point) {
        self.samples += 1;
        self.recording_ms += if point.recording { point.stands_ms } else { 0 };
        self.mixer_ms += if point.mixer { point.stands_ms } else { 0 };
        for (spread, value) in self.metrics.iter_mut().zip(point.metrics) {
            if let Some(value) = value {
                spread.add(value);
            }
        }
    }

    /// Adds the heartbeats of another.
    pub fn merge(&mut self, other: &Self) {
        self.samples += other.samples;
        self.recording_ms += other.recording_ms;
        self.mixer_ms += other.mixer_ms;
        for (spread, more) in self.metrics.iter_mut().zip(&other.metrics) {
            spread.merge(more);
        }
    }
}

/// The beginning of the period of `step_ms` that `at` lies in; periods begin at multiples of the step since 1970 (UTC).
#[must_use]
pub fn period_start(at: i64, step_ms: i64) -> i64 {
    at.div_euclid(step_ms.max(1)) * step_ms.max(1)
}

/// Adds points up by period.
#[must_use]
pub fn by_period<'a>(points: impl IntoIterator<Item = &'a Point>, step_ms: i64) -> BTreeMap<i64, Rollup> {
    let mut periods: BTreeMap<i64, Rollup> = BTreeMap::new();
    for point in points {
        periods.entry(period_start(point.at, step_ms)).or_default().add(point);
    }
    periods
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn point() -> impl Strategy<Value = Point> {
        let metric = || proptest::option::of((0..1000i32).prop_map(|tenths| f64::from(tenths) / 8.0));
        (
            -3 * DAY_MS..3 * DAY_MS,
            any::<bool>(),
            any::<bool>(),
            [metric(), metric(), metric(), metric(), metric()],
        )
            .prop_map(|(at, recording, mixer, metrics)| Point {
                at,
                stands_ms: 60_000,
                recording,
                mixer,
                metrics,
            })
    }

    proptest! {
        #[test]
        fn any_split_into_parts_and_any_order_gives_what_adding_one_by_one_gives(
            points in proptest::collection::vec(point(), 0..60), cut in 0..60usize
        ) {
            let (early, late) = points.split_at(cut.min(points.len()));
            let mut merged = by_period(late, HOUR_MS);
            for (start, rollup) in by_period(early, HOUR_MS) {
                merged.entry(start).or_default().merge(&rollup);
            }
            for (start, rollup) in &merged {
                let inside: Vec<_> =
                    points.iter().filter(|p| p.at >= *start && p.at < start + HOUR_MS).collect();
                prop_assert_eq!(rollup.samples as usize, inside.len());
                let recording = inside.iter().filter(|p| p.recording).count() as i64;
                prop_assert_eq!(rollup.recording_ms, recording * 60_000);
                for (index, spread) in rollup.metrics.iter().enumerate() {
                    let values: Vec<f64> = inside.iter().filter_map(|p| p.metrics[index]).collect();
                    let average = values.iter().sum::<f64>() / values.len() as f64;
                    prop_assert_eq!(spread.n as usize, values.len());
                    if let Some(avg) = spread.avg() {
                        prop_assert!((avg - average).abs() < 1e-9);
                        prop_assert_eq!(spread.min, values.iter().copied().fold(f64::MAX, f64::min));
                        prop_assert_eq!(spread.max, values.iter().copied().fold(f64::MIN, f64::max));
                    }
                }
            }
            prop_assert_eq!(merged.values().map(|r| r.samples as usize).sum::<usize>(), points.len());
        }
    }
}
