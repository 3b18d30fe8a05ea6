//! The dispatcher: looks at the open commands of connected devices, and at what those devices should be like, and says
//! what is due. What to do is decided by [`crate::domain::dispatch`] and [`crate::domain::lease`]; here it is loaded,
//! committed and published, in this order.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use broker::ServicePublisher;
use futures_util::{StreamExt, stream};
use protocol::{
    codec::Bytes,
    command::{CommandState, limits::SILENCE_AFTER_EXPIRY_MS},
    failpoint::reached,
    id::CommandId,
    message::{DeviceAction, Go},
};
use tokio::sync::watch;

use crate::{
    app::{AppState, Worker},
    domain::{
        command::Command,
        device::DeviceRowId,
        dispatch::{self, DesiredSent, DigestWatch, Plan, REQUEST_MS},
        lease::{self, Answer, Ask},
    },
    failpoint,
    mqtt::commands as say,
    service::ingest::DeviceName,
    store::{
        StoreError, commands,
        dispatch::{self as lookup, Target},
        leases,
    },
};

/// How often without a nudge.
pub const EVERY: Duration = Duration::from_secs(1);
/// A look at every device is not taken more often than this, ...
const FULL_EVERY: Duration = Duration::from_millis(100);
/// ... and takes at most this part of the time.
const FULL_SHARE: u32 = 10;
/// Devices that are seen to at the same time.
const AT_ONCE: usize = 32;
/// Commands that one look takes in; the next one goes on behind them.
const COMMANDS_MAX: usize = 20_000;
/// Devices whose past is remembered; past it, some things are said once more than needed.
const REMEMBERED: usize = 50_000;

/// Runs until `stop` turns true.
pub async fn run(app: Arc<AppState>, publisher: ServicePublisher, stop: watch::Receiver<bool>) {
    let dispatcher = Arc::new(Dispatcher::new(app.clone(), publisher));
    super::run(app, stop, Worker::Dispatcher, EVERY, move |_| {
        let dispatcher = dispatcher.clone();
        async move { dispatcher.step().await }
    })
    .await;
}

/// What is worth remembering, though nothing depends on it.
#[derive(Default)]
struct Memory {
    digests: HashMap<DeviceRowId, DigestWatch>,
    desired: DesiredSent,
    /// When `go` was said last, ms since 1970.
    gone: HashMap<CommandId, i64>,
    next_full: Option<Instant>,
    /// The row of the device behind which the next look at all goes on.
    after: String,
}

struct Dispatcher {
    app: Arc<AppState>,
    publisher: ServicePublisher,
    memory: Mutex<Memory>,
}

impl Dispatcher {
    fn new(app: Arc<AppState>, publisher: ServicePublisher) -> Self {
        Self { app, publisher, memory: Mutex::default() }
    }

    async fn step(&self) -> Result<(), StoreError> {
        let marked = self.app.dispatch.take();
        let result = self.look(&marked).await;
        if result.is_err() {
            // Not lost: the next look takes them again.
            marked.iter().for_each(|device| self.app.dispatch.mark(device));
            tokio::time::sleep(FULL_EVERY).await;
        }
        result
    }

    async fn look(&self, marked: &std::collections::BTreeSet<String>) -> Result<(), StoreError> {
        let store = &self.app.store;
        // First those that somebody waits for.
        let loaded: Vec<Result<_, StoreError>> = stream::iter(marked.clone())
            .map(|id| async move {
                let id = DeviceRowId::new(id);
                // Commands are read before their devices: with a state database that is newer than the command, never
                // older.
                let open = commands::open_of(store, &id).await?;
                let target = lookup::target(store, id.as_str()).await?;
                Ok(target.map(|target| (id, (target, open))))
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let mut devices: BTreeMap<DeviceRowId, (Target, Vec<Command>)> = BTreeMap::new();
        for device in loaded {
            devices.extend(device?);
        }
        self.see_to_all(devices).await?;
        if self.full_is_due() {
            let began = Instant::now();
            self.end_overdue().await?;
            let after = self.with_memory(|memory| std::mem::take(&mut memory.after));
            let (mut commands, after) = lookup::open_of_connected(store, &after, COMMANDS_MAX).await?;
            let mut devices = BTreeMap::new();
            for target in lookup::waiting(store).await? {
                let open = commands.remove(&target.id).unwrap_or_default();
                devices.insert(target.id.clone(), (target, open));
            }
            let next = Instant::now() + FULL_EVERY.max(began.elapsed() * FULL_SHARE);
            self.with_memory(|memory| (memory.next_full, memory.after) = (Some(next), after));
            self.see_to_all(devices).await?;
        }
        Ok(())
    }

    async fn see_to_all(
        &self,
        devices: BTreeMap<DeviceRowId, (Target, Vec<Command>)>,
    ) -> Result<(), StoreError> {
        let results: Vec<Result<(), StoreError>> = stream::iter(devices.into_values())
            .map(|(target, open)| async move { self.see_to(&target, open).await })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        results.into_iter().collect()
    }

    fn with_memory<T>(&self, use_it: impl FnOnce(&mut Memory) -> T) -> T {
        use_it(&mut self.memory.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn full_is_due(&self) -> bool {
        self.with_memory(|memory| {
            if memory.digests.len() > REMEMBERED || memory.gone.len() > REMEMBERED {
                *memory = Memory::default();
            }
            memory.desired.bound(REMEMBERED);
            memory.next_full.is_none_or(|next| next <= Instant::now())
        })
    }

    /// Ends what has expired before it was sent, and what nobody can be asked about any more.
    async fn end_overdue(&self) -> Result<(), StoreError> {
        let (store, now) = (&self.app.store, self.app.clock.now_ms());
        for command in lookup::overdue(store, now, now - SILENCE_AFTER_EXPIRY_MS).await? {
            let Some(target) = lookup::target(store, command.order.device_id.as_str()).await? else {
                continue;
            };
            let to = target.recipient(false, false);
            if let Some(plan) = dispatch::plan(&command, &[], &to, now) {
                self.carry_out(&target, plan).await?;
            }
        }
        // Mostly they have ended with the decommissioning itself; some were created at the same moment.
        for command in lookup::open_of_gone(store).await? {
            if let (Some(target), Some(plan)) = (
                lookup::target(store, command.order.device_id.as_str()).await?,
                dispatch::device_is_gone(&command, now),
            ) {
                self.carry_out(&target, plan).await?;
            }
        }
        Ok(())
    }

    async fn see_to(&self, target: &Target, mut open: Vec<Command>) -> Result<(), StoreError> {
        let now = self.app.clock.now_ms();
        let connected =
            self.app.live.get().is_none_or(|live| live.device_connected(&target.org, &target.device));
        let differs = self.digest_differs(target, &open);
        let to = target.recipient(connected, differs);
        if to.reachable {
            self.tell_desired(target, now).await?;
        }
        for at in 0..open.len() {
            // The index is below the length.
            let command = &open[at];
            if to.reachable {
                self.answer_ask(target, command, now).await?;
            }
            if let Some(plan) = dispatch::plan(command, &open, &to, now)
                && let Some(changed) = self.carry_out(target, plan).await?
            {
                open[at] = changed;
            }
        }
        Ok(())
    }

    fn digest_differs(&self, target: &Target, open: &[Command]) -> bool {
        let (Some((at, told)), Some((state_id, born_at))) = (&target.digest, target.born) else {
            return false;
        };
        if *at < born_at || open.is_empty() {
            return false;
        }
        let expected = dispatch::believed_digest(open, state_id);
        self.with_memory(|memory| {
            memory.digests.entry(target.id.clone()).or_default().heard(*at, told, expected)
        })
    }

    async fn tell_desired(&self, target: &Target, now: i64) -> Result<(), StoreError> {
        let (version, Some((_, born_at))) = (target.desired_version, target.born) else { return Ok(()) };
        let due = version > 0
            && self.with_memory(|memory| {
                memory.desired.is_due(target.id.as_str(), version, target.reported_version, born_at, now)
            });
        if due && let Some(desired) = lookup::desired(&self.app.store, &target.id).await? {
            say::desired(&self.publisher, &name(target), &desired).await;
            reached(failpoint::DESIRED_AFTER_PUBLISH);
            self.app.metrics.add("fleet_desired_published_total", 1);
        }
        Ok(())
    }

    /// Stores a plan, then says what it says. `None`: somebody else has changed the command meanwhile.
    async fn carry_out(&self, target: &Target, plan: Plan) -> Result<Option<Command>, StoreError> {
        let Plan { mut command, step, messages, state_id } = plan;
        let statements = commands::update(&mut command, step.as_ref());
        let is_first = step.as_ref().is_some_and(|step| step.status == CommandState::Sent);
        if is_first {
            reached(failpoint::SENT_BEFORE_COMMIT);
        }
        match self.app.store.apply(statements).await {
            Ok(_) => {}
            Err(StoreError::Conflict { .. }) => {
                self.app.dispatch.mark(target.id.as_str());
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        reached(if is_first { failpoint::SENT_AFTER_COMMIT } else { failpoint::REQUEST_AFTER_COMMIT });
        if let Some(step) = step {
            let counter = match step.status {
                CommandState::Sent => "fleet_commands_sent_total",
                CommandState::Expired => "fleet_commands_expired_total",
                CommandState::Cancelled => "fleet_commands_cancelled_total",
                _ => "fleet_commands_given_up_total",
            };
            self.app.metrics.add(counter, 1);
            self.app.views.mark(target.id.as_str());
            self.app.nudges.nudge(Worker::Results);
        }
        if let Some(state_id) = state_id {
            for message in messages {
                let kind = kind(&message);
                say::command(&self.publisher, &name(target), state_id, message).await;
                reached(if kind == "run" {
                    failpoint::SENT_AFTER_PUBLISH
                } else {
                    failpoint::REQUEST_AFTER_PUBLISH
                });
                if !is_first {
                    self.app.metrics.add_labelled("fleet_commands_repeated_total", "kind", kind, 1);
                }
            }
        }
        Ok(Some(command))
    }

    /// A command that waits for its group's lease: gives it if the group allows.
    async fn answer_ask(&self, target: &Target, command: &Command, now: i64) -> Result<(), StoreError> {
        let (Some(nonce), Some(asked_at), Some(state_id), Some(group_name)) =
            (&command.lease_nonce, command.lease_asked_at, command.sent_state_id, &target.redundancy_group)
        else {
            return Ok(());
        };
        let is_here = target.born.is_some_and(|(born, _)| born == state_id);
        if command.state() != CommandState::Held || command.query_first || !is_here {
            return Ok(());
        }
        let store = &self.app.store;
        let ask = Ask {
            device: target.id.clone(),
            command: command.order.id.clone(),
            nonce: nonce.clone(),
            asked_at,
        };
        let group = leases::group(store, &target.org_id, group_name).await?;
        match lease::answer(&group, &ask, now) {
            Answer::Grant => {
                reached(failpoint::LEASE_BEFORE_COMMIT);
                let grant = leases::grant(&target.org_id, group_name, &group, &ask, now);
                match store.apply(grant).await {
                    Ok(_) => {}
                    // A partner was faster.
                    Err(StoreError::Conflict { .. }) => return Ok(()),
                    Err(error) => return Err(error),
                }
                reached(failpoint::LEASE_AFTER_COMMIT);
                self.app.metrics.add("fleet_leases_granted_total", 1);
                tracing::info!(org = %target.org, device = %target.device, group = group_name, command = %ask.command, "lease given");
            }
            Answer::Repeat => {
                let said = self.with_memory(|memory| memory.gone.get(&ask.command).copied());
                if said.is_some_and(|said| (0..REQUEST_MS).contains(&(now - said))) {
                    return Ok(());
                }
                self.app.metrics.add_labelled("fleet_commands_repeated_total", "kind", "go", 1);
            }
            Answer::Wait(why) => {
                tracing::debug!(device = %target.device, group = group_name, why, "no lease now");
                return Ok(());
            }
        }
        self.with_memory(|memory| memory.gone.insert(ask.command.clone(), now));
        let go = DeviceAction::Go(Go { id: ask.command, nonce: Bytes(ask.nonce) });
        say::command(&self.publisher, &name(target), state_id, go).await;
        reached(failpoint::LEASE_AFTER_PUBLISH);
        Ok(())
    }
}

fn name(target: &Target) -> DeviceName {
    (target.org.clone(), target.device.clone())
}

fn kind(message: &DeviceAction) -> &'static str {
    match message {
        DeviceAction::Run(_) => "run",
        DeviceAction::Cancel(_) => "cancel",
        DeviceAction::Query(_) => "query",
        DeviceAction::Override(_) => "override",
        DeviceAction::Go(_) => "go",
    }
}
