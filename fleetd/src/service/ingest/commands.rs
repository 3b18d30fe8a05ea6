//! Reports about commands, folded in the transaction that commits the records themselves.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use protocol::{
    command::CommandState,
    id::{CommandId, StateId},
    message::CommandReport,
};

use super::{DeviceName, Ingest, Loaded};
use crate::{
    auth::token::TokenHash,
    domain::{
        command::{Command, Path},
        desired::Desired,
        device::DeviceRowId,
        dispatch,
        lane::Stored,
        report::{self, Folded},
    },
    service::desired,
    store::{Statement, StoreError, commands, credentials, desired as wanted, dispatch as lookup},
};

/// How long a device has to use a token that it has announced, in ms.
const TOKEN_LAPSES_MS: i64 = 24 * 3_600_000;

/// Lines that the history of one command may have; past it only what ends the command is written down.
const LINES_MAX: i64 = 2_000;

/// The commands of one device that a batch touches, as they will be after its commit.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// `None`: no command of this device.
    commands: BTreeMap<CommandId, Option<Command>>,
    /// What to write.
    pub(super) statements: Vec<Statement>,
    /// Something was written.
    pub(super) folded: bool,
    /// A command has moved, or a birth has come: the dispatcher and the results worker should look.
    pub(super) moved: bool,
    /// What is desired of the device, once a completed command has changed it.
    desired: Option<Desired>,
}

impl Ingest {
    /// Folds the reports among what is to be stored.
    pub(super) async fn fold_reports(
        &self,
        name: &DeviceName,
        loaded: &Loaded,
        stored: &[Stored],
        touched: &mut Touched,
        now: i64,
    ) -> Result<(), StoreError> {
        let Some(from) = loaded.lane.born.as_ref().map(|born| born.birth.state_id) else { return Ok(()) };
        for stored in stored {
            if let Stored::Report(report) = stored {
                self.fold_report(name, loaded, report, from, touched, now).await?;
            }
        }
        Ok(())
    }

    async fn fold_report(
        &self,
        name: &DeviceName,
        loaded: &Loaded,
        report: &CommandReport,
        from: StateId,
        touched: &mut Touched,
        now: i64,
    ) -> Result<(), StoreError> {
        if !touched.commands.contains_key(&report.id) {
            let known = lookup::by_id(&self.store, report.id.as_str()).await?;
            let own = match known {
                Some(command) if command.order.device_id.as_str() == loaded.key.device_id => Some(command),
                Some(_) => {
                    self.metrics.add("fleet_command_reports_foreign_total", 1);
                    self.complain(name, None, "a report about another device's command; it moves nothing");
                    None
                }
                None => {
                    self.metrics.add("fleet_command_reports_unknown_total", 1);
                    None
                }
            };
            touched.commands.insert(report.id.clone(), own);
        }
        let Some(Some(command)) = touched.commands.get_mut(&report.id) else { return Ok(()) };
        let (step, late) = match report::fold(command, report, from, now) {
            Folded::Changed { step, late } => (step, late),
            Folded::Refused(why) => {
                self.metrics.add("fleet_command_reports_refused_total", 1);
                tracing::debug!(command = %report.id, state = report.state, why, "command report refused");
                return Ok(());
            }
        };
        let mut step = step;
        // Counted only where there can be so many: each line has a revision of its own.
        if step.as_ref().is_some_and(|step| !step.status.is_terminal())
            && command.revision >= LINES_MAX
            && commands::lines(&self.store, command.order.id.as_str()).await? >= LINES_MAX
        {
            step = None;
            self.metrics.add("fleet_command_history_full_total", 1);
        }
        touched.statements.extend(commands::update(command, step.as_ref()));
        if late && step.is_some() {
            touched.statements.push(lookup::keep_quiet(command.order.id.as_str(), command.revision));
        }
        touched.moved = true;
        let completed = step.as_ref().is_some_and(|step| step.status == CommandState::Completed) && !late;
        if let Some(change) = command.config_change().filter(|_| completed) {
            let (org, device) = (command.order.org_id.clone(), command.order.device_id.clone());
            if touched.desired.is_none() {
                touched.desired = Some(wanted::get(&self.store, &org, &device).await?);
            }
            if let Some(desired) = &mut touched.desired {
                touched.statements.extend(desired::merge_config(desired, &change.changes, now));
            }
        }
        if let Some(hash) = report::announced_token(command, report) {
            let (id, device) = (command.order.id.clone(), command.order.device_id.clone());
            let open = commands::open_of(&self.store, &device).await?;
            // Another rotation that has begun keeps its token; this one's is refused when it is used.
            let other = open.iter().any(|other| {
                other.order.id != id
                    && other.order.kind == command.order.kind
                    && other.state() == CommandState::Running
            });
            if !other {
                let (hash, lapses_at) = (TokenHash::from_bytes(hash), now + TOKEN_LAPSES_MS);
                let announce =
                    credentials::announce_token(&command.order.org_id, &device, hash, now, lapses_at);
                touched.statements.push(announce);
            }
        }
        Ok(())
    }

    /// A birth with another state database: what was sent to the old one can never be answered by it.
    pub(super) async fn lose_state(
        &self,
        loaded: &Loaded,
        new: StateId,
        touched: &mut Touched,
        now: i64,
    ) -> Result<(), StoreError> {
        let device = DeviceRowId::new(loaded.key.device_id.clone());
        for command in commands::open_of(&self.store, &device).await? {
            // What the batch has of it already counts more than what is in the database.
            let entry = touched.commands.entry(command.order.id.clone()).or_insert(Some(command));
            let Some(command) = entry else { continue };
            if command.bound == Some(Path::Http) || command.sent_state_id.is_none_or(|sent| sent == new) {
                continue;
            }
            let Some(plan) = dispatch::gives_up(command, now, dispatch::LOST_STATE) else { continue };
            *command = plan.command;
            touched.statements.extend(commands::update(command, plan.step.as_ref()));
            touched.moved = true;
        }
        Ok(())
    }
}
