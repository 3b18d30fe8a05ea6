//! Retention: makes the heartbeat tables of today and tomorrow, drops what is past its time.

use std::time::Duration;

use super::aggregator;
use crate::{
    app::AppState,
    domain::rollup::DAY_MS,
    store::{
        StoreError,
        heartbeats::{self, Day},
        reports::{self, Aging},
    },
};

/// How often.
pub const EVERY: Duration = Duration::from_secs(600);

/// One round.
///
/// # Errors
/// [`StoreError`].
pub async fn step(app: &AppState) -> Result<(), StoreError> {
    let (store, config, now) = (&app.store, &app.config, app.clock.now_ms());
    let today = Day::of(now);
    store.apply([heartbeats::make_day(today), heartbeats::make_day(today.plus(1))].concat()).await?;

    let before = |days: u32| now.saturating_sub(i64::from(days) * DAY_MS);
    let oldest_kept = Day::of(before(config.heartbeat_retention_days));
    for info in heartbeats::days(store).await? {
        // Its heartbeats live on in the roll-ups. While somebody else is adding them the table has to stay.
        if info.day < oldest_kept && aggregator::aggregate_day(store, info).await? {
            store.apply(heartbeats::drop_day(info.day).to_vec()).await?;
        }
    }
    for (table, days) in [
        (Aging::Logs, config.log_retention_days),
        (Aging::Events, config.event_retention_days),
        (Aging::Hourly, config.rollup_retention_days),
        (Aging::Daily, config.rollup_retention_days),
    ] {
        while reports::remove_oldest(store, table, before(days)).await? > 0 {}
    }
    store.give_back().await
}
