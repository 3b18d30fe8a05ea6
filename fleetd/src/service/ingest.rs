//! What devices say, into the database: every record once, acknowledged after its commit.
//!
//! One batch: group by device, load each device's lane, let it decide ([`crate::domain::lane`]), store records and
//! committed set in one transaction per device. The writer puts the transactions of all devices into one commit.
//! Whatever fails is not acknowledged, and the device sends it again. So is what exceeds a device's share of a batch.

mod commands;
mod share;
#[cfg(test)]
mod tests;
mod write;

use std::{
    collections::{BTreeMap, HashMap},
    sync::atomic::{AtomicI64, Ordering},
};

use bytes::Bytes;
use protocol::{
    codec::{self, limit},
    id::{DeviceId, OrgSlug},
    message::{Ack, Birth, HeartbeatJson, Presence},
    topic::Uplink,
};
use tokio::sync::Mutex;

use crate::{
    app::AppState,
    clock::Clock,
    domain::{
        lane::{Lane, PresenceMeans, Stored, Taken},
        sample::Sample,
    },
    failpoint,
    metrics::Metrics,
    store::{
        Statement, Store, StoreError,
        device_state::{self, DeviceKey, Heard},
        dispatch,
        heartbeats::{self, Day, Insert},
        records,
    },
};

/// Devices whose lanes are kept in memory; past it all are loaded anew.
const LANES_MAX: usize = 20_000;
/// The time is told to a device this often, in ms.
const TIME_EVERY_MS: i64 = 3_600_000;
/// How often a device's batch is decided anew after a lost compare-and-swap.
const TRIES: usize = 3;

/// Messages that are not taken are logged at most this often, in ms.
const COMPLAIN_EVERY_MS: i64 = 10_000;

/// Which device, by the names in its topics.
pub type DeviceName = (OrgSlug, DeviceId);

/// A message of a device.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// Its organisation.
    pub org: OrgSlug,
    /// The device.
    pub device: DeviceId,
    /// The topic, if this version knows it.
    pub uplink: Option<Uplink>,
    /// The payload.
    pub payload: Bytes,
    /// With a birth: the address that it came from.
    pub ip_address: Option<String>,
}

/// What a batch leads to. Given only for what is committed.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Tell the device what is committed.
    Ack(DeviceName, Ack),
    /// The device's view has changed; its row id.
    Changed(String),
    /// Its commands have moved, or it was born; its row id.
    Commands(String),
    /// The retained presence is not of the last birth; look again in a moment, since a birth may be on its way.
    CheckPresence(DeviceName),
}

struct Loaded {
    key: DeviceKey,
    lane: Lane,
    /// Of the committed set; 0 without a row.
    revision: i64,
    target_version: Option<String>,
    time_told_at: i64,
    /// The day to which its last heartbeats were added since it was loaded.
    heard_on: Option<Day>,
}

/// What is to become of one device's part of a batch, before its commit.
struct Decision {
    loaded: Loaded,
    draft: write::Draft,
    /// Messages beyond the device's share.
    deferred: u64,
}

impl Decision {
    /// What has to be committed before anything of it counts.
    fn transaction(&mut self) -> Vec<Statement> {
        let mut statements = std::mem::take(&mut self.draft.statements);
        let touched = &mut self.draft.touched;
        touched.folded = !touched.statements.is_empty();
        statements.append(&mut touched.statements);
        if touched.folded {
            protocol::failpoint::reached(failpoint::REPORTS_BEFORE_COMMIT);
        }
        statements
    }
}

/// The way in. One per process; batches pass one at a time.
#[derive(Debug)]
pub struct Ingest {
    store: Store,
    clock: Clock,
    metrics: Metrics,
    inner: Mutex<Inner>,
    next_complaint_at: AtomicI64,
}

#[derive(Default)]
struct Inner {
    lanes: HashMap<DeviceName, Loaded>,
    /// How heartbeats of today are added, whose table is known to be there.
    today: Option<Insert>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Inner({} lanes)", self.lanes.len())
    }
}

/// Why a heartbeat by HTTP was not stored.
#[derive(Debug, thiserror::Error)]
pub enum HeartbeatError {
    /// A field is wrong; what is expected.
    #[error("{field}: {expected}")]
    Field {
        /// Its path in the body.
        field: &'static str,
        /// What it should be.
        expected: String,
    },
    /// The database did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Stores a heartbeat that came by HTTP. It shows everywhere once this returns.
///
/// # Errors
/// [`HeartbeatError`]; then nothing is stored.
pub async fn http_heartbeat(
    app: &AppState,
    key: &DeviceKey,
    heartbeat: HeartbeatJson,
    ip_address: Option<&str>,
) -> Result<(), HeartbeatError> {
    let now = app.clock.now_ms();
    let sample = Sample::from_http(heartbeat, now)
        .map_err(|(field, expected)| HeartbeatError::Field { field, expected })?;
    let day = Day::of(now);
    let mut statements = heartbeats::make_day(day).to_vec();
    statements.push(device_state::make(key));
    statements.push(device_state::put_http(key, ip_address));
    let insert = Insert::into_day(day);
    statements.push(insert.keep_head(key));
    statements.extend(insert.rows(key, std::slice::from_ref(&sample)));
    statements.push(device_state::put_heard(key, &sample, Heard::Http, day));
    app.store.apply(statements).await?;
    app.metrics.add("fleet_heartbeats_http_total", 1);
    app.views.mark(&key.device_id);
    Ok(())
}

impl Ingest {
    /// The way into this store.
    #[must_use]
    pub fn new(store: Store, clock: Clock, metrics: Metrics) -> Self {
        Self {
            store,
            clock,
            metrics,
            inner: Mutex::new(Inner::default()),
            next_complaint_at: AtomicI64::new(0),
        }
    }

    /// Takes a batch of messages, in the order in which they came, and answers after the commit.
    pub async fn take(&self, batch: Vec<Incoming>) -> Vec<Reply> {
        let now = self.clock.now_ms();
        let mut inner = self.inner.lock().await;
        if inner.lanes.len() > LANES_MAX {
            inner.lanes.clear();
        }
        let mut by_device: BTreeMap<DeviceName, Vec<Incoming>> = BTreeMap::new();
        for message in batch {
            let name = (message.org.clone(), message.device.clone());
            by_device.entry(name).or_default().push(message);
        }
        let day = Day::of(now);
        let known = inner.today.take().filter(|insert| insert.day() == day);
        if known.is_none()
            && let Err(error) = self.store.apply(heartbeats::make_day(day).to_vec()).await
        {
            self.metrics.add("fleet_ingest_failures_total", 1);
            let reason = error_chain(&error);
            tracing::warn!(reason, "records not stored; the devices send them again");
            return Vec::new();
        }
        let insert = known.unwrap_or_else(|| Insert::into_day(day));
        inner.today = Some(insert.clone());
        let (mut decided, mut again) = (Vec::new(), Vec::new());
        for (name, messages) in by_device {
            let cached = inner.lanes.remove(&name);
            match self.decide(&name, &messages, cached, now, &insert).await {
                Ok(Some(decision)) => decided.push((name, messages, decision)),
                Ok(None) => {}
                Err(error) => self.not_stored(&name, &error),
            }
        }
        let transactions = decided.iter_mut().map(|(_, _, decision)| decision.transaction()).collect();
        let answers = self.store.apply_each(transactions).await;
        let mut replies = Vec::new();
        for ((name, messages, decision), answer) in decided.into_iter().zip(answers) {
            let done = match answer {
                Ok(_) => self.committed(&name, decision).await,
                Err(error) => Err(error),
            };
            match done {
                Ok((loaded, more)) => {
                    inner.lanes.insert(name, loaded);
                    replies.extend(more);
                }
                // Another process has moved the lane: load it and decide again.
                Err(StoreError::Conflict { .. }) => again.push((name, messages)),
                Err(error) => self.not_stored(&name, &error),
            }
        }
        for (name, messages) in again {
            if let Some((loaded, more)) = self.take_again(&name, &messages, now, &insert).await {
                inner.lanes.insert(name, loaded);
                replies.extend(more);
            }
        }
        replies
    }

    async fn take_again(
        &self,
        name: &DeviceName,
        messages: &[Incoming],
        now: i64,
        insert: &Insert,
    ) -> Option<(Loaded, Vec<Reply>)> {
        for _ in 1..TRIES {
            match self.take_alone(name, messages, now, insert).await {
                Ok(done) => return done,
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => {
                    self.not_stored(name, &error);
                    return None;
                }
            }
        }
        self.metrics.add("fleet_ingest_failures_total", 1);
        tracing::warn!(org = %name.0, device = %name.1, "records not stored: the device's lane keeps changing");
        None
    }

    async fn take_alone(
        &self,
        name: &DeviceName,
        messages: &[Incoming],
        now: i64,
        insert: &Insert,
    ) -> Result<Option<(Loaded, Vec<Reply>)>, StoreError> {
        let Some(mut decision) = self.decide(name, messages, None, now, insert).await? else {
            return Ok(None);
        };
        self.store.apply(decision.transaction()).await?;
        self.committed(name, decision).await.map(Some)
    }

    fn not_stored(&self, name: &DeviceName, error: &StoreError) {
        self.metrics.add("fleet_ingest_failures_total", 1);
        let reason = error_chain(error);
        tracing::warn!(org = %name.0, device = %name.1, reason, "records not stored; the device sends them again");
    }

    /// What is to be done with a device's messages; `None`: the device is not known.
    async fn decide(
        &self,
        name: &DeviceName,
        messages: &[Incoming],
        cached: Option<Loaded>,
        now: i64,
        insert: &Insert,
    ) -> Result<Option<Decision>, StoreError> {
        let loaded = match cached {
            Some(loaded) => Some(loaded),
            None => self.load(name).await?,
        };
        let Some(mut loaded) = loaded else {
            self.metrics.add("fleet_messages_unknown_device_total", messages.len() as u64);
            return Ok(None);
        };
        let mut draft = write::Draft::new(now, insert.clone());
        let mut share = share::Share::default();
        let mut deferred = 0;
        for message in messages {
            match message.uplink {
                Some(Uplink::Birth) => self.birth(&mut loaded, message, &mut draft).await?,
                Some(Uplink::Presence) => self.presence(name, &mut loaded, message, &mut draft),
                _ if share.is_used_up() => deferred += 1,
                uplink => {
                    let taken = loaded.lane.records(uplink, &message.payload, now);
                    share.use_up(message.payload.len(), &taken);
                    self.count(name, uplink, &taken);
                    self.fold_reports(name, &loaded, &taken.stored, &mut draft.touched, now).await?;
                    draft.records(&loaded, uplink, taken);
                }
            }
        }
        draft.finish(&mut loaded);
        Ok(Some(Decision { loaded, draft, deferred }))
    }

    async fn load(&self, name: &DeviceName) -> Result<Option<Loaded>, StoreError> {
        let Some(known) = records::find_device(&self.store, name.0.as_str(), name.1.as_str()).await? else {
            return Ok(None);
        };
        let mut loaded = Loaded {
            key: known.key,
            lane: Lane::default(),
            revision: 0,
            target_version: known.target_version,
            time_told_at: 0,
            heard_on: None,
        };
        if let Some((birth, at)) = known.born {
            let committed = records::committed(&self.store, &loaded.key, birth.state_id).await?;
            loaded.revision = committed.revision;
            loaded.lane.born(birth, at, committed.ranges);
        }
        Ok(Some(loaded))
    }

    async fn birth(
        &self,
        loaded: &mut Loaded,
        message: &Incoming,
        draft: &mut write::Draft,
    ) -> Result<(), StoreError> {
        let birth = match codec::decode::<Birth>(&message.payload, limit::COMMAND_BYTES) {
            Ok(birth) => birth,
            Err(error) => {
                self.malformed(message, &error.to_string());
                return Ok(());
            }
        };
        // What this batch has of the state database so far must be stored under its name before another takes over.
        draft.seal_committed(loaded);
        draft.leave(loaded);
        let same_state = loaded.lane.born.as_ref().is_some_and(|born| born.birth.state_id == birth.state_id);
        if same_state {
            let committed = loaded.lane.committed.clone();
            loaded.lane.born(birth, draft.now, committed);
        } else {
            let committed = match draft.sealed(birth.state_id) {
                Some(sealed) => sealed,
                None => records::committed(&self.store, &loaded.key, birth.state_id).await?,
            };
            loaded.revision = committed.revision;
            self.lose_state(loaded, birth.state_id, &mut draft.touched, draft.now).await?;
            loaded.lane.born(birth, draft.now, committed.ranges);
        }
        draft.touched.moved = true;
        // A birth asks for everything anew, so what may have changed since the lane was loaded is read again.
        if let Some(known) =
            records::find_device(&self.store, message.org.as_str(), message.device.as_str()).await?
        {
            loaded.target_version = known.target_version;
        }
        draft.birth(loaded, message.ip_address.as_deref());
        self.metrics.add("fleet_births_total", 1);
        Ok(())
    }

    fn presence(&self, name: &DeviceName, loaded: &mut Loaded, message: &Incoming, draft: &mut write::Draft) {
        if message.payload.is_empty() {
            // Somebody cleared the retained message: there is nothing to disagree with.
            loaded.lane.presence = None;
            return;
        }
        let presence = match codec::decode::<Presence>(&message.payload, limit::COMMAND_BYTES) {
            Ok(presence) => presence,
            Err(error) => return self.malformed(message, &error.to_string()),
        };
        match loaded.lane.presence(presence) {
            PresenceMeans::Lost => draft.lost(loaded),
            PresenceMeans::Stands => {}
            PresenceMeans::Stale => draft.replies.push(Reply::CheckPresence(name.clone())),
        }
    }

    /// What follows from the commit of a decision.
    async fn committed(
        &self,
        name: &DeviceName,
        decision: Decision,
    ) -> Result<(Loaded, Vec<Reply>), StoreError> {
        let Decision { mut loaded, draft, deferred } = decision;
        let write::Draft { mut replies, acknowledge, full_ack, changed, kinds, now, .. } = draft;
        let moved = draft.touched.moved;
        if draft.touched.folded {
            protocol::failpoint::reached(failpoint::REPORTS_AFTER_COMMIT);
        }
        if deferred > 0 {
            self.metrics.add("fleet_messages_deferred_total", deferred);
            let why = "too many records at once; what is left over is taken when it is sent again";
            self.complain(name, None, why);
        }
        for (kind, count) in kinds {
            self.metrics.add_labelled("fleet_records_stored_total", "kind", kind, count);
        }
        if let (true, Some(born)) = (acknowledge, &loaded.lane.born) {
            let tell_time = full_ack || now - loaded.time_told_at >= TIME_EVERY_MS;
            loaded.time_told_at = if tell_time { now } else { loaded.time_told_at };
            let commands_pending = match full_ack || moved {
                true => Some(dispatch::unacknowledged(&self.store, &loaded.key.device_id).await?),
                false => None,
            };
            let ack = Ack {
                state_id: born.birth.state_id,
                ranges: loaded.lane.committed.clone(),
                commands_pending,
                target_version: loaded.target_version.clone().filter(|_| full_ack),
                server_time: tell_time.then_some(now),
            };
            replies.push(Reply::Ack(name.clone(), ack));
        }
        if changed || moved {
            replies.push(Reply::Changed(loaded.key.device_id.clone()));
        }
        if moved {
            replies.push(Reply::Commands(loaded.key.device_id.clone()));
        }
        Ok((loaded, replies))
    }

    /// The presence that should replace the retained one of a device, if that is still not of the last birth.
    pub async fn presence_correction(&self, name: &DeviceName) -> Option<Presence> {
        self.inner.lock().await.lanes.get(name).and_then(|loaded| loaded.lane.presence_correction())
    }

    /// Notes the version that a device should have; gives what to tell it, if that is news to it.
    pub async fn target_is(&self, name: &DeviceName, target: Option<&str>) -> Option<Ack> {
        let mut inner = self.inner.lock().await;
        let loaded = inner.lanes.get_mut(name)?;
        if loaded.target_version.as_deref() == target {
            return None;
        }
        loaded.target_version = target.map(str::to_owned);
        Some(Ack {
            state_id: loaded.lane.born.as_ref()?.birth.state_id,
            ranges: loaded.lane.committed.clone(),
            commands_pending: None,
            target_version: loaded.target_version.clone(),
            server_time: None,
        })
    }

    fn malformed(&self, message: &Incoming, reason: &str) {
        self.metrics.add_labelled("fleet_messages_malformed_total", "topic", topic_label(message.uplink), 1);
        self.complain(&(message.org.clone(), message.device.clone()), message.uplink, reason);
    }

    /// Logs a message that is not taken, one at a time: a device with a fault sends many.
    fn complain(&self, (org, device): &DeviceName, uplink: Option<Uplink>, reason: &str) {
        let now = self.clock.now_ms();
        let next = self.next_complaint_at.load(Ordering::Relaxed);
        if now >= next && self.next_complaint_at.swap(now + COMPLAIN_EVERY_MS, Ordering::Relaxed) == next {
            let reason: String = reason.chars().take(200).collect();
            tracing::warn!(%org, %device, topic = topic_label(uplink), reason, "message not taken; more are counted in /metrics");
        }
    }

    fn count(&self, name: &DeviceName, uplink: Option<Uplink>, taken: &Taken) {
        self.metrics.add("fleet_records_duplicate_total", taken.duplicates);
        self.metrics.add("fleet_records_mismatched_total", taken.mismatched);
        self.metrics.add("fleet_records_unnumbered_total", taken.unnumbered);
        self.metrics.add("fleet_records_gaps_total", taken.gaps);
        if let Some(reason) = &taken.malformed {
            self.metrics.add_labelled("fleet_messages_malformed_total", "topic", topic_label(uplink), 1);
            self.complain(name, uplink, reason);
        }
        let poison = taken.stored.iter().filter(|stored| matches!(stored, Stored::Poison { .. })).count();
        self.metrics.add("fleet_records_poison_total", poison as u64);
    }
}

/// The last level of a topic, in labels and logs.
fn topic_label(uplink: Option<Uplink>) -> &'static str {
    uplink.map_or("unknown", Uplink::as_str)
}

/// An error with its causes, for the log.
#[must_use]
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}
