//! Ends live connections for changes that another process made: the command line, or a server beside this one; and of keys
//! and certificates whose time is over.

use std::sync::Arc;
use std::time::Duration;

use protocol::id::{DeviceId, UserName};

use crate::app::AppState;
use crate::store::{StoreError, api_keys, certificates, revocations};

/// How often the notes are read. What they tell has to be done within a second.
const EVERY: Duration = Duration::from_millis(400);

/// Reads the notes of others for as long as the server runs.
pub async fn watch(app: Arc<AppState>) {
    let (mut seen, mut expired_until) = (None, app.clock.now_ms());
    let mut failing = false;
    loop {
        match look(&app, &mut seen, &mut expired_until).await {
            Ok(()) => failing = false,
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "cannot read whose connections must end; trying again");
                }
                failing = true;
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn look(app: &AppState, seen: &mut Option<i64>, expired_until: &mut i64) -> Result<(), StoreError> {
    *seen = Some(step(app, *seen).await?);
    // A clock that was set back finds the same keys again, which does no harm.
    let now_ms = app.clock.now_ms();
    for (org, user, key) in api_keys::expired(&app.store, *expired_until, now_ms).await? {
        app.end_key(&org, &user, &key);
    }
    for (org, device, serial) in certificates::expired(&app.store, *expired_until, now_ms).await? {
        app.end_certificate(&org, &device, &serial);
    }
    *expired_until = now_ms;
    Ok(())
}

/// Does what the notes after `seen` say, and gives the number of the last one. The first time they are only counted:
/// nobody was connected when they were written.
async fn step(app: &AppState, seen: Option<i64>) -> Result<i64, StoreError> {
    let Some(mut seen) = seen else { return revocations::last(&app.store).await };
    for note in revocations::after(&app.store, seen).await? {
        seen = note.id;
        if note.source == app.instance {
            continue;
        }
        // The names were checked when they were given; one that no longer fits has no connection.
        if note.is_device {
            if let Ok(device) = DeviceId::new(&note.name) {
                match &note.key {
                    Some(serial) => app.end_certificate(&note.org, &device, serial),
                    None => app.end_device(&note.org, &device),
                }
            }
        } else if let Ok(user) = UserName::new(&note.name) {
            match &note.key {
                Some(key) => app.end_key(&note.org, &user, key),
                None => app.end_person(&note.org, &user),
            }
        }
    }
    Ok(seen)
}
