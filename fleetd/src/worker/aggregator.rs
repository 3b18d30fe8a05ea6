//! The metrics aggregator: adds heartbeats that have come since the last run to the hourly and daily roll-ups.
//!
//! Each day's table has a mark: rows up to it are in the roll-ups. One transaction adds a slice and moves the mark by
//! compare-and-swap, so that a slice counts once however often and wherever this runs. Heartbeats that were spooled for
//! days are added to the hours in which they were taken.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    app::AppState,
    domain::rollup::{Rollup, period_start},
    store::{
        Store, StoreError,
        device_state::DeviceKey,
        heartbeats::{self, DayInfo},
        rollups::{self, Grain},
    },
};

/// How often without a nudge.
pub const EVERY: Duration = Duration::from_secs(60);
/// Heartbeats in one transaction.
const SLICE: u32 = 2_000;

/// Aggregates all that is there.
///
/// # Errors
/// [`StoreError`].
pub async fn step(app: &AppState) -> Result<(), StoreError> {
    for info in heartbeats::days(&app.store).await? {
        // What another run leaves is for the next one.
        let _all = aggregate_day(&app.store, info).await?;
    }
    Ok(())
}

/// Aggregates one day's table. Says whether all of it is in the roll-ups: not if another run has moved the mark.
///
/// # Errors
/// [`StoreError`].
pub async fn aggregate_day(store: &Store, mut info: DayInfo) -> Result<bool, StoreError> {
    loop {
        let (slice, last) = heartbeats::not_aggregated(store, info, SLICE).await?;
        if slice.is_empty() {
            return Ok(true);
        }
        let mut sums: BTreeMap<(usize, &str, i64), (&DeviceKey, Rollup)> = BTreeMap::new();
        let grains = [Grain::Hourly, Grain::Daily];
        for (key, point) in &slice {
            for (index, grain) in grains.into_iter().enumerate() {
                let start = period_start(point.at, grain.period_ms());
                let sum = sums.entry((index, key.device_id.as_str(), start));
                sum.or_insert_with(|| (key, Rollup::default())).1.add(point);
            }
        }
        let mut statements = vec![heartbeats::mark_aggregated(info, last)];
        statements.extend(
            sums.iter()
                .map(|((index, _, start), (key, rollup))| rollups::add(grains[*index], key, *start, rollup)),
        );
        match store.apply(statements).await {
            Ok(_) => info.aggregated_id = last,
            Err(StoreError::Conflict { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}
