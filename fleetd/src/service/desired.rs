//! Keeps `device_desired` as the devices' descriptions, the show locks and the desired configs say.
//!
//! A change of one device brings its statements into its own transaction ([`Basis`], [`merge_config`]); what concerns
//! many devices is brought about by [`refresh_tag`] and by the worker, device by device. All of it may be done twice.

use std::collections::BTreeMap;

use crate::app::{AppState, Worker};
use crate::domain::desired::Desired;
use crate::domain::device::{Description, Device, DeviceRowId};
use crate::domain::org::OrgId;
use crate::domain::show_lock::ShowLock;
use crate::store::desired::{self as stored, Standing, Which};
use crate::store::{Statement, Store, StoreError, show_locks};

/// Devices that are looked at in one go.
const CHUNK: i64 = 200;

/// What has to be known to change what is desired of one device.
#[derive(Debug, Clone)]
pub struct Basis {
    /// As it is stored.
    pub desired: Desired,
    /// The device's own lock and those of every tag.
    pub locks: Vec<ShowLock>,
    /// The version that the device has reported; of a server that was restored from a copy it may be ahead.
    pub reported_version: Option<i64>,
}

impl Basis {
    /// Loads it; `now_ms` is ms since 1970.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load(store: &Store, device: &Device, now_ms: i64) -> Result<Self, StoreError> {
        Ok(Self {
            desired: stored::get(store, &device.org_id, &device.id).await?,
            locks: show_locks::concerning(store, &device.org_id, &device.id, now_ms).await?,
            reported_version: stored::reported(store, &device.id).await?.version,
        })
    }

    /// What has to be stored for the desired state to follow a description: nothing, if it does already.
    #[must_use]
    pub fn follow(&self, description: &Description, now_ms: i64) -> Option<Statement> {
        let mut desired = self.desired.clone();
        let changed = desired.follow(description, &self.locks, now_ms);
        // A version that the device believes to have would pass for known.
        let overtakes = self.reported_version.is_some_and(|reported| desired.overtake(reported));
        (changed || overtakes).then(|| stored::put(&desired, self.desired.version, now_ms))
    }
}

/// Merges the changes of a completed `config` command into what is desired of its device: the statements for the
/// transaction that completes the command, none if the config has it all. `desired` must be as
/// [`crate::store::desired::get`] gave it in this attempt, or as an earlier call for the same transaction left it; if
/// it has moved on meanwhile, the transaction ends in [`StoreError::Conflict`] and is to be decided anew. After the
/// commit call [`tell`].
#[must_use]
pub fn merge_config(
    desired: &mut Desired,
    changes: &BTreeMap<String, String>,
    now_ms: i64,
) -> Vec<Statement> {
    let before = desired.version;
    let Some(config) = desired.merged(changes) else {
        tracing::warn!(
            device_id = desired.device_id.as_str(),
            "the desired config would become too large; not merged"
        );
        return Vec::new();
    };
    let changed = desired.set_config(config);
    changed.then(|| stored::put(desired, before, now_ms)).into_iter().collect()
}

/// What is desired of a device has changed: it is to be sent.
pub fn tell(app: &AppState, device: &DeviceRowId) {
    app.dispatch.mark(device.as_str());
}

/// Brings every device with this tag up to the locks, before whoever changed one is answered. What fails is left to the
/// worker.
pub async fn refresh_tag(app: &AppState, org: &OrgId, tag: &str) {
    if let Err(error) = refresh(app, Which::Tagged(org, tag)).await {
        tracing::warn!(%error, "not every device with a locked tag knows of it yet; it is tried again");
        app.nudges.nudge(Worker::Desired);
    }
}

/// The worker's step: every device.
///
/// # Errors
/// [`StoreError`].
pub async fn refresh_all(app: &AppState) -> Result<(), StoreError> {
    refresh(app, Which::All).await
}

async fn refresh(app: &AppState, which: Which<'_>) -> Result<(), StoreError> {
    let now_ms = app.clock.now_ms();
    let locks = match which {
        Which::All => show_locks::all(&app.store, now_ms).await?,
        Which::Tagged(org, _) => {
            let locks = show_locks::all(&app.store, now_ms).await?;
            locks.into_iter().filter(|lock| lock.org_id == *org).collect()
        }
    };
    let mut by_org: BTreeMap<String, Vec<ShowLock>> = BTreeMap::new();
    for lock in locks {
        by_org.entry(lock.org_id.as_str().to_owned()).or_default().push(lock);
    }
    let (mut after, mut failure) = (String::new(), None);
    loop {
        let chunk = stored::standings(&app.store, which, &after, CHUNK).await?;
        let Some(last) = chunk.last() else { break };
        after = last.device.id.as_str().to_owned();
        let statements: Vec<(DeviceRowId, Statement)> = chunk
            .into_iter()
            .filter_map(|standing| {
                let locks = by_org.get(standing.device.org_id.as_str()).map_or(&[][..], Vec::as_slice);
                let device = standing.device.id.clone();
                bring_up(standing, locks, now_ms).map(|statement| (device, statement))
            })
            .collect();
        // One transaction each, in one commit: another change of one device does not hold up the others.
        let work = statements
            .into_iter()
            .map(|(device, one)| async move { (device, app.store.apply_one(one).await) });
        for (device, outcome) in futures_util::future::join_all(work).await {
            match outcome {
                Ok(_) => tell(app, &device),
                // Whoever was faster may not have known of the lock.
                Err(StoreError::Conflict { .. }) => app.nudges.nudge(Worker::Desired),
                Err(error) => failure = Some(error),
            }
        }
    }
    failure.map_or(Ok(()), Err)
}

fn bring_up(standing: Standing, locks: &[ShowLock], now_ms: i64) -> Option<Statement> {
    let Standing { device, mut desired, reported_version, .. } = standing;
    let before = desired.version;
    let follows = desired.follow(&device.description, locks, now_ms);
    let overtakes = reported_version.is_some_and(|reported| desired.overtake(reported));
    (follows || overtakes).then(|| stored::put(&desired, before, now_ms))
}
