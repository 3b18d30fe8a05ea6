//! What the agent says of itself: births, presences, heartbeats. Pure.

use protocol::codec::{self, Bytes, CodecError};
use protocol::command::CommandType;
use protocol::id::StateId;
use protocol::message::{Birth, Event, Heartbeat, Presence, event};

use crate::app_status::AppStatus;
use crate::config::Config;
use crate::kernel::Kernel;
use crate::link::Transport;
use crate::metrics::Metrics;

/// Heartbeats name the inputs by their position in the birth, in one 64-bit number.
pub(super) const MOST_INPUTS: usize = 64;
/// What this agent can run.
const COMMAND_TYPES: [CommandType; 6] = [
    CommandType::Ping,
    CommandType::RestartService,
    CommandType::Reboot,
    CommandType::Config,
    CommandType::Custom,
    CommandType::RotateToken,
];
/// Most bytes of error texts in one heartbeat; its limit is 8 KiB.
const ERRORS_MAX_BYTES: usize = 4 * 1024;

/// One connection of one state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) state_id: StateId,
    pub(super) connection: u64,
}

impl Identity {
    pub(super) fn presence(self, online: bool) -> Result<Vec<u8>, CodecError> {
        codec::encode_packed(&Presence { state_id: self.state_id, connection: self.connection, online })
    }

    /// As it stands in records.
    #[expect(clippy::cast_possible_truncation, reason = "the contract has it modulo 65536")]
    pub(super) const fn connection_in_records(self) -> u16 {
        self.connection as u16
    }
}

/// What a birth says besides the identity.
pub(super) struct BirthFacts<'a> {
    pub(super) config: &'a Config,
    pub(super) kernel: &'a Kernel,
    pub(super) app: Option<&'a AppStatus>,
    pub(super) inputs: &'a [String],
    pub(super) transport: Transport,
}

pub(super) fn birth(
    identity: Identity,
    next_seq: u64,
    facts: &BirthFacts<'_>,
) -> Result<Vec<u8>, CodecError> {
    codec::encode_packed(&Birth {
        state_id: identity.state_id,
        connection: identity.connection,
        next_seq,
        boot_id: facts.kernel.boot_id().to_string(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        app_version: facts.app.and_then(|app| app.version.clone()),
        arch: std::env::consts::ARCH.to_owned(),
        inputs: facts.inputs.to_vec(),
        command_types: COMMAND_TYPES.iter().map(ToString::to_string).collect(),
        interval_seconds: facts.config.heartbeat_interval_seconds,
        transport: facts.transport.as_str().to_owned(),
        ts: facts.kernel.wall_ms(),
        since_boot_ms: facts.kernel.boottime_ms(),
        app_unit: Some(facts.config.app_unit.to_string()),
    })
}

/// A heartbeat; `inputs` are those of the birth.
pub(super) fn heartbeat(
    kernel: &Kernel,
    metrics: &Metrics,
    app: Option<&AppStatus>,
    inputs: &[String],
    outbox_depth: usize,
    commands_digest: [u8; 4],
) -> Heartbeat {
    let answer = app.map(|app| &app.answer);
    Heartbeat {
        seq: 0,
        connection: 0,
        ts: kernel.wall_ms(),
        since_boot_ms: kernel.boottime_ms(),
        cpu_permille: metrics.cpu_permille,
        mem_permille: metrics.mem_permille,
        disk_free_mib: metrics.disk_free_mib,
        disk_total_mib: metrics.disk_total_mib,
        temperature_decicelsius: metrics.temperature_decicelsius,
        load_centi: metrics.load_centi,
        recording_active: answer.is_some_and(|answer| answer.recording_active()),
        mixer_active: answer.is_some_and(|answer| answer.mixer_active == Some(true)),
        active_inputs: answer.map_or(0, |answer| positions(&answer.active_inputs, inputs)),
        degradation_level: answer.and_then(|answer| answer.degradation_level).unwrap_or(0),
        commands_digest: Some(Bytes(commands_digest.to_vec())),
        outbox_depth: u32::try_from(outbox_depth).unwrap_or(u32::MAX),
        live: app.and_then(|app| app.liveness.as_option()),
        errors: answer.map(|answer| bounded(&answer.errors)).unwrap_or_default(),
    }
}

/// The names among `active` that are not yet among `known`, as far as there is room for them.
pub(super) fn new_inputs(active: &[String], known: &[String]) -> Vec<String> {
    let mut new: Vec<String> = Vec::new();
    for name in active {
        if !known.contains(name) && !new.contains(name) && known.len() + new.len() < MOST_INPUTS {
            new.push(name.clone());
        }
    }
    new
}

/// Bit n stands for input n.
fn positions(active: &[String], inputs: &[String]) -> u64 {
    let is_active = |name: &String| active.contains(name);
    inputs
        .iter()
        .take(MOST_INPUTS)
        .enumerate()
        .filter(|(_, name)| is_active(name))
        .fold(0, |bits, (n, _)| bits | 1 << n)
}

fn bounded(errors: &[String]) -> Vec<String> {
    let mut left = ERRORS_MAX_BYTES;
    let fits = |text: &&String| {
        let fits = text.len() <= left;
        left = left.saturating_sub(text.len());
        fits
    };
    errors.iter().take_while(fits).cloned().collect()
}

/// A show began or ended, if that is what the change from `before` to `now` (live, idle, or unknown) means.
pub(super) fn show_event(before: Option<bool>, now: Option<bool>, ts: i64) -> Option<Event> {
    let kind = match (before, now) {
        (Some(false) | None, Some(true)) => event::SHOW_STARTED,
        (Some(true), Some(false)) => event::SHOW_ENDED,
        _ => return None,
    };
    Some(Event { seq: 0, connection: 0, ts, kind: kind.to_owned(), details: None, void: Vec::new() })
}

/// The device is connected in another way than before.
pub(super) fn transport_event(before: Transport, now: Transport, ts: i64) -> Event {
    let details = serde_json::json!({"from": before.as_str(), "to": now.as_str()});
    let kind = event::TRANSPORT_CHANGED.to_owned();
    Event { seq: 0, connection: 0, ts, kind, details: Some(details), void: Vec::new() }
}
