//! The heartbeat monitor: turns devices offline that were lost or have gone silent.

use std::time::Duration;

use crate::{
    app::AppState,
    store::{StoreError, device_state},
};

/// A will counts after ten seconds: looking every two is soon enough.
pub const EVERY: Duration = Duration::from_secs(2);

/// One look.
///
/// # Errors
/// [`StoreError`].
pub async fn step(app: &AppState) -> Result<(), StoreError> {
    let timeout_ms = i64::try_from(app.config.heartbeat_timeout.as_millis()).unwrap_or(i64::MAX);
    let gone = device_state::turn_offline(&app.store, timeout_ms, app.clock.now_ms()).await?;
    app.metrics.add("fleet_devices_turned_offline_total", gone.len() as u64);
    for device_id in gone {
        tracing::info!(device_id, "device is offline");
        app.views.mark(&device_id);
    }
    Ok(())
}
