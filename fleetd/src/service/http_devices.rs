//! Devices that speak only the old HTTP protocol: they poll for their commands and say what became of them.

use protocol::command::CommandState;
use protocol::failpoint::reached;

use super::{Error, desired};
use crate::app::{AppState, Worker};
use crate::auth::caller::Caller;
use crate::auth::policy::{self, Action};
use crate::domain::command::Command;
use crate::domain::http_hold::{self, Held, Polling, Verdict};
use crate::domain::http_report::{Heeded, HttpReport};
use crate::domain::lease::{self, Answer, Ask, Group};
use crate::failpoint;
use crate::store::credentials::DeviceCredential;
use crate::store::{
    Statement, StoreError, commands, device_state, devices, http_devices as stored, leases, show_locks,
};

/// How often a decision is made anew when something else changes the same command.
const ATTEMPTS: usize = 3;
/// Commands that one poll hands out at most; the next poll gets the others.
const AT_ONCE: usize = 50;
/// What the lease of a device is given for: it cannot ask by a nonce of its own.
const NONCE: &[u8] = b"http";

/// What a device that polls is to do, by priority, then age. It is handed out when this returns.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::Conflict`], [`Error::Store`].
pub async fn poll(app: &AppState, device: &DeviceCredential) -> Result<Vec<Command>, Error> {
    if !device.approved {
        return Ok(Vec::new());
    }
    let state = device_state::get(&app.store, device.row.as_str()).await?;
    let born = state.birth_at.is_some();
    let connected =
        app.live.get().is_some_and(|live| live.device_connected(&device.org.slug, &device.device));
    if http_hold::is_connected(born, connected, state.connected_at, app.clock.now_ms()) {
        return Ok(Vec::new());
    }
    let mut attempt = 1;
    loop {
        match try_poll(app, device).await.map_err(Error::from) {
            Ok(handed_out) => return Ok(handed_out),
            // Read and decided anew: it may have been called back, or an override has come.
            Err(Error::Conflict(_)) if attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}

async fn try_poll(app: &AppState, device: &DeviceCredential) -> Result<Vec<Command>, StoreError> {
    let store = &app.store;
    let open = commands::open_of(store, &device.row).await?;
    if open.is_empty() {
        return Ok(Vec::new());
    }
    // What holds commands back is read after them: never older than they are.
    let now = app.clock.now_ms();
    let state = device_state::get(store, device.row.as_str()).await?;
    let polling = Polling {
        now,
        live: state.recording_active || state.live == Some(true),
        last_heartbeat: state.last_heartbeat,
        locked: !show_locks::standing(store, &device.row, now).await?.is_empty(),
    };
    let mut turn = Turn::load(app, device).await?;
    let (mut handed_out, mut statements) = (Vec::new(), Vec::new());
    let (mut moved, mut disturbs) = (false, false);
    for mut command in open {
        let mut verdict = http_hold::at_poll(&command, &polling);
        if handed_out.len() == AT_ONCE && matches!(verdict, Verdict::HandOut | Verdict::AskGroup) {
            verdict = Verdict::Leave;
        }
        if verdict == Verdict::AskGroup {
            verdict = match turn.ask(&command, now) {
                Ok(grant) => {
                    statements.extend(grant);
                    disturbs |= command.overridden.is_none();
                    Verdict::HandOut
                }
                Err(held) => Verdict::Hold(held),
            };
        }
        let step = match verdict {
            Verdict::Leave | Verdict::AskGroup => continue,
            Verdict::Count => {
                command.polls_since_sent += 1;
                None
            }
            Verdict::HandOut => http_hold::hand_out(&mut command, now),
            Verdict::Hold(held) => match http_hold::hold(&mut command, held, now) {
                None => continue,
                step => step,
            },
            Verdict::GiveUp(why) => http_hold::give_up(&mut command, why, now),
        };
        moved |= step.is_some();
        statements.extend(commands::update(&mut command, step.as_ref()));
        if verdict == Verdict::HandOut {
            handed_out.push(command);
        }
    }
    if statements.is_empty() {
        return Ok(Vec::new());
    }
    if disturbs {
        statements.push(stored::unless_on_show(&device.row, now));
    }
    reached(failpoint::SENT_BEFORE_COMMIT);
    store.apply(statements).await?;
    reached(failpoint::SENT_AFTER_COMMIT);
    if moved {
        tell(app, device.row.as_str());
    }
    app.metrics.add("fleet_commands_handed_out_total", handed_out.len() as u64);
    Ok(handed_out)
}

/// Whose turn it is in the device's redundancy group, if it has one.
struct Turn<'a> {
    device: &'a DeviceCredential,
    group: Option<(String, Group)>,
    given: bool,
}

impl<'a> Turn<'a> {
    async fn load(app: &AppState, device: &'a DeviceCredential) -> Result<Self, StoreError> {
        let found = devices::find(&app.store, &device.org.id, device.row.as_str()).await?;
        let group = match found.and_then(|found| found.description.redundancy_group) {
            Some(name) => {
                let group = leases::group(&app.store, &device.org.id, &name).await?;
                Some((name, group))
            }
            None => None,
        };
        Ok(Self { device, group, given: false })
    }

    /// What has to be stored so that this command may run; at most one at a time in a group.
    fn ask(&mut self, command: &Command, now: i64) -> Result<Vec<Statement>, Held> {
        let Some((name, group)) = &self.group else { return Ok(Vec::new()) };
        let ask = Ask {
            device: self.device.row.clone(),
            command: command.order.id.clone(),
            nonce: NONCE.to_vec(),
            asked_at: now,
        };
        if self.given || matches!(lease::answer(group, &ask, now), Answer::Wait(_)) {
            return Err(Held::AwaitingLease);
        }
        self.given = true;
        Ok(leases::grant(&self.device.org.id, name, group, &ask, now))
    }
}

/// Takes in what a device says of one of its commands.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::NotFound`], [`Error::Conflict`] (it contradicts what is known), [`Error::Store`].
pub async fn report(
    app: &AppState,
    caller: &Caller,
    id: &str,
    report: &HttpReport,
) -> Result<Command, Error> {
    policy::check(caller, Action::ReportCommand, None).map_err(Error::Forbidden)?;
    let Caller::Device(device) = caller else {
        return Err(Error::Forbidden("only a device tells what became of its commands".to_owned()));
    };
    let mut attempt = 1;
    loop {
        let now = app.clock.now_ms();
        let found = commands::one(&app.store, &device.org.id, id).await?;
        // Another device's command does not exist.
        let Some(mut command) = found.filter(|command| command.order.device_id == device.row) else {
            return Err(Error::NotFound("this device has no such command".to_owned()));
        };
        let step = match report.take(&mut command, now) {
            Heeded::Known => return Ok(command),
            Heeded::Refused(why) => return Err(Error::Conflict(why)),
            Heeded::Moved(step) => step,
        };
        let merged = merge(app, &command, now).await?;
        let mut statements = commands::update(&mut command, Some(&step));
        let desires = !merged.is_empty();
        statements.extend(merged);
        reached(failpoint::REPORTS_BEFORE_COMMIT);
        match app.store.apply(statements).await.map_err(Error::from) {
            Ok(_) => {}
            Err(Error::Conflict(_)) if attempt < ATTEMPTS => {
                attempt += 1;
                continue;
            }
            Err(error) => return Err(error),
        }
        reached(failpoint::REPORTS_AFTER_COMMIT);
        tell(app, device.row.as_str());
        if desires {
            desired::tell(app, &device.row);
        }
        return Ok(command);
    }
}

/// What a completed `config` command makes of the device's desired config.
async fn merge(app: &AppState, command: &Command, now: i64) -> Result<Vec<Statement>, StoreError> {
    let order = &command.order;
    let completed = command.state() == CommandState::Completed;
    let Some(change) = command.config_change().filter(|_| completed) else { return Ok(Vec::new()) };
    let mut wanted = crate::store::desired::get(&app.store, &order.org_id, &order.device_id).await?;
    Ok(desired::merge_config(&mut wanted, &change.changes, now))
}

/// The worker's step: gives up what was handed out and never came to an end.
///
/// # Errors
/// [`StoreError`].
pub async fn give_up_overdue(app: &AppState) -> Result<(), StoreError> {
    let now = app.clock.now_ms();
    for mut command in stored::overdue(&app.store, now).await? {
        let Some(why) = http_hold::by_time(&command, now) else { continue };
        let step = http_hold::give_up(&mut command, why, now);
        match app.store.apply(commands::update(&mut command, step.as_ref())).await {
            Ok(_) => tell(app, command.order.device_id.as_str()),
            // It was heard of meanwhile: the next step looks at it again.
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn tell(app: &AppState, device: &str) {
    app.views.mark(device);
    app.nudges.nudge(Worker::Results);
}
