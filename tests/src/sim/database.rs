//! What the server has on its disk. It stands for `fleetd::store`.

use std::collections::BTreeMap;

use fleetd::domain::command::Command;
use fleetd::domain::lane::Born;
use protocol::command::CommandState;
use protocol::id::{CommandId, StateId};
use protocol::message::Desired;
use protocol::ranges::RangeSet;

use super::bug::Bug;
use super::env::Env;

/// How far a restore moves numbers, past any that was given out since the copy was made.
const FAR: u32 = 1_000_000;

/// One device's row.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) born: Option<Born>,
    /// How often the server had been restored at that birth.
    pub(crate) born_after: u32,
    pub(crate) online: bool,
    pub(crate) will_at: Option<i64>,
    pub(crate) last_seen_at: Option<i64>,
    /// When the newest heartbeat was taken, and, if that was since the birth, its digest of open commands.
    pub(crate) heartbeat_at: Option<i64>,
    pub(crate) digest: Option<Vec<u8>>,
    /// After a restore, until the device has shown what it has open.
    pub(crate) restored_at: Option<i64>,
    pub(crate) reported_version: Option<u64>,
    pub(crate) desired: Desired,
}

/// The lease of the one redundancy group.
#[derive(Debug, Clone, Default)]
pub(crate) struct LeaseRow {
    pub(crate) revision: i64,
    pub(crate) holder: Option<(usize, CommandId, Vec<u8>, i64)>,
}

/// Everything that is committed.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    pub(crate) devices: Vec<Row>,
    pub(crate) committed: BTreeMap<(usize, StateId), RangeSet>,
    /// What was stored: each record's token.
    pub(crate) stored: BTreeMap<(usize, StateId), BTreeMap<u64, u64>>,
    /// What stored records name as gone.
    pub(crate) void: BTreeMap<(usize, StateId), RangeSet>,
    pub(crate) commands: BTreeMap<CommandId, Command>,
    /// The number and state of each command's last report, whether the command is known or not.
    pub(crate) reports: BTreeMap<(usize, StateId), BTreeMap<CommandId, (u32, CommandState)>>,
    pub(crate) lease: LeaseRow,
}

/// The redundancy group of some of the devices.
pub(crate) const GROUP: &str = "pair";

impl Database {
    pub(crate) fn new(grouped: &[bool]) -> Self {
        let desired = |grouped: bool| Desired {
            version: 1,
            config: BTreeMap::new(),
            target_version: None,
            show_locks: Vec::new(),
            redundancy_group: grouped.then(|| GROUP.to_owned()),
        };
        let row = |grouped: bool| Row {
            born: None,
            born_after: 0,
            online: false,
            will_at: None,
            last_seen_at: None,
            heartbeat_at: None,
            digest: None,
            restored_at: None,
            reported_version: None,
            desired: desired(grouped),
        };
        Self {
            devices: grouped.iter().copied().map(row).collect(),
            committed: BTreeMap::new(),
            stored: BTreeMap::new(),
            void: BTreeMap::new(),
            commands: BTreeMap::new(),
            reports: BTreeMap::new(),
            lease: LeaseRow::default(),
        }
    }

    /// The rules for a copy that takes a later database's place; see docs/protocol.md.
    pub(crate) fn restored(mut self, env: &Env) -> Self {
        let now_ms = env.now_ms;
        for command in self.commands.values_mut().filter(|command| command.state().is_open()) {
            command.query_first = !env.has(Bug::QueryFirstForgotten);
            command.query_sent_at = None;
            command.revision += i64::from(FAR);
        }
        for row in &mut self.devices {
            row.restored_at = Some(now_ms).filter(|_| !env.has(Bug::RestoreGivesLease));
            row.digest = None;
            let version = row.desired.version + u64::from(FAR);
            row.desired.version = version.max(now_ms.cast_unsigned());
        }
        self
    }

    /// As `store::reports::open_of_unknown`.
    pub(crate) fn open_of_unknown(&self, device: usize, state_id: StateId) -> Vec<(CommandId, CommandState)> {
        let reports = self.reports.get(&(device, state_id)).into_iter().flatten();
        let unknown = reports.filter(|(id, (_, state))| state.is_open() && !self.commands.contains_key(*id));
        unknown.map(|(id, (_, state))| (id.clone(), *state)).collect()
    }

    /// The open commands of a device, by priority, then age.
    pub(crate) fn open_of(&self, device: usize) -> Vec<Command> {
        let row = row_id(device);
        let open = |command: &&Command| command.state().is_open() && command.order.device_id.as_str() == row;
        let mut open: Vec<Command> = self.commands.values().filter(open).cloned().collect();
        open.sort_by(|a, b| {
            let key = |c: &Command| (c.order.priority, c.order.created_at, c.order.id.clone());
            key(a).cmp(&key(b))
        });
        open
    }
}

/// The name of a device's row.
pub(crate) fn row_id(device: usize) -> String {
    format!("d{device}")
}
