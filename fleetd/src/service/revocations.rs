//! Ends live connections for changes that another process made: the command line, or a server beside this one.

use std::sync::Arc;
use std::time::Duration;

use protocol::id::{DeviceId, UserName};

use crate::app::AppState;
use crate::store::{StoreError, revocations};

/// How often the notes are read. What they tell has to be done within a second.
const EVERY: Duration = Duration::from_millis(400);

/// Reads the notes of others for as long as the server runs.
pub async fn watch(app: Arc<AppState>) {
    let mut seen = None;
    let mut failing = false;
    loop {
        match step(&app, seen).await {
            Ok(last) => {
                seen = Some(last);
                failing = false;
            }
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
                app.end_device(&note.org, &device);
            }
        } else if let Ok(user) = UserName::new(&note.name) {
            app.end_person(&note.org, &user);
        }
    }
    Ok(seen)
}
