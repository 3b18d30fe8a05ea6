//! Commands and their history. Every change is a compare-and-swap on the revision, together with the line of history
//! that tells it.

use std::collections::{HashMap, HashSet};

use protocol::command::standing::Standing;
use protocol::command::{CommandState, CommandType};
use protocol::id::StateId;

use super::{Row, Statement, Store, StoreError, Value, parse_column};
use crate::domain::command::{Command, Order, Overridden, Path, Step};
use crate::domain::device::DeviceRowId;
use crate::domain::org::OrgId;
use crate::values;

/// The columns that [`read`] needs, of the tables called `c` (commands) and `d` (devices).
pub(crate) const COLUMNS: &str = "c.id, c.org_id, c.device_id, d.device_id AS device, c.type, c.payload, c.priority, \
     c.timeout_seconds, c.notes, c.created_by, c.created_by_name, c.created_at, c.expires_at, c.reference, \
     c.request_hash, c.override_reason, c.override_by, c.override_at, c.status, c.inferred, c.revision, c.held_reason, \
     c.progress_percent, c.result, c.error, c.reason, c.acked_at, c.started_at, c.completed_at, c.bound, \
     c.sent_state_id, c.sent_at, c.last_sent_at, c.report_seq, c.heard_at, c.cancel_requested_at, c.cancel_sent_at, \
     c.override_sent_at, c.query_sent_at, c.query_first, c.lease_nonce, c.lease_asked_at, c.polls_since_sent";

/// `FROM` for [`COLUMNS`].
pub(crate) const FROM: &str = "FROM commands c JOIN devices d ON d.id = c.device_id";

/// The states of a command that has not ended, for SQL.
pub(crate) const OPEN: &str = "('pending', 'sent', 'acked', 'held', 'running')";

fn number<T: TryFrom<i64>>(row: &Row, column: &'static str) -> Result<T, StoreError> {
    T::try_from(row.int(column)?)
        .map_err(|_| StoreError::Column { column: column.to_owned(), expected: "a smaller number" })
}

/// Reads a row of [`COLUMNS`].
pub(crate) fn read(row: &Row) -> Result<Command, StoreError> {
    let progress = row.opt_int("progress_percent")?.and_then(|percent| u8::try_from(percent).ok());
    let overridden =
        match (row.opt_text("override_reason")?, row.opt_text("override_by")?, row.opt_int("override_at")?) {
            (Some(reason), Some(by), Some(at)) => Some(Overridden { reason, by, at }),
            _ => None,
        };
    Ok(Command {
        order: Order {
            id: parse_column(row, "id")?,
            org_id: OrgId::new(row.text("org_id")?),
            device_id: DeviceRowId::new(row.text("device_id")?),
            device: parse_column(row, "device")?,
            kind: parse_column(row, "type")?,
            payload: row.opt_json("payload")?.unwrap_or_default(),
            priority: number(row, "priority")?,
            timeout_seconds: number(row, "timeout_seconds")?,
            notes: row.opt_text("notes")?,
            created_by: row.text("created_by")?,
            created_by_name: row.opt_text("created_by_name")?,
            created_at: row.int("created_at")?,
            expires_at: row.int("expires_at")?,
            reference: row.opt_text("reference")?,
            request_hash: row.text("request_hash")?,
        },
        standing: Standing {
            state: parse_column(row, "status")?,
            inferred: row.bool("inferred")?,
            report_seq: number(row, "report_seq")?,
        },
        overridden,
        revision: row.int("revision")?,
        held_reason: row.opt_text("held_reason")?,
        progress_percent: progress,
        result: row.opt_json("result")?,
        error: row.opt_text("error")?,
        reason: row.opt_text("reason")?,
        acked_at: row.opt_int("acked_at")?,
        started_at: row.opt_int("started_at")?,
        completed_at: row.opt_int("completed_at")?,
        bound: row.opt_text("bound")?.is_some().then(|| parse_column(row, "bound")).transpose()?,
        sent_state_id: row
            .opt_text("sent_state_id")?
            .is_some()
            .then(|| parse_column::<StateId>(row, "sent_state_id"))
            .transpose()?,
        sent_at: row.opt_int("sent_at")?,
        last_sent_at: row.opt_int("last_sent_at")?,
        heard_at: row.opt_int("heard_at")?,
        cancel_requested_at: row.opt_int("cancel_requested_at")?,
        cancel_sent_at: row.opt_int("cancel_sent_at")?,
        override_sent_at: row.opt_int("override_sent_at")?,
        query_sent_at: row.opt_int("query_sent_at")?,
        query_first: row.bool("query_first")?,
        lease_nonce: row.opt_blob("lease_nonce")?,
        lease_asked_at: row.opt_int("lease_asked_at")?,
        polls_since_sent: row.int("polls_since_sent")?,
    })
}

/// Reads what can be read. A row that a newer server has written, say, stops nothing but itself.
pub(crate) fn readable<T>(rows: &[Row], read: impl Fn(&Row) -> Result<T, StoreError>) -> Vec<T> {
    let read =
        |row| read(row).inspect_err(|error| tracing::error!(%error, "a row that cannot be read is left out"));
    rows.iter().filter_map(|row| read(row).ok()).collect()
}

/// Stores a new command with the first line of its history, and a second one with `sent` if it is created as sent.
#[must_use]
pub fn insert(command: &Command, sent: Option<&Step>) -> Vec<Statement> {
    let order = &command.order;
    let (reason, by, at) = overridden(command);
    let row = Statement::new(
        "INSERT INTO commands (id, org_id, device_id, type, payload, priority, timeout_seconds, notes, created_by, \
         created_by_name, created_at, expires_at, reference, request_hash, override_reason, override_by, override_at, \
         status, revision, bound, sent_state_id, sent_at, last_sent_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23)",
        values![
            order.id.as_str(),
            order.org_id.as_str(),
            order.device_id.as_str(),
            order.kind.as_str(),
            order.payload.to_string(),
            order.priority,
            order.timeout_seconds,
            order.notes.clone(),
            order.created_by.as_str(),
            order.created_by_name.clone(),
            order.created_at,
            order.expires_at,
            order.reference.clone(),
            order.request_hash.as_str(),
            reason,
            by,
            at,
            command.state().as_str(),
            command.revision,
            command.bound.map(Path::as_str),
            command.sent_state_id.map(|id| id.to_string()),
            command.sent_at,
            command.last_sent_at,
        ],
    );
    let created = Step {
        status: CommandState::Pending,
        at: order.created_at,
        device_at: None,
        report_seq: None,
        detail: order.notes.clone(),
    };
    let mut statements = vec![row, history(command, 1, &created)];
    statements.extend(sent.map(|step| history(command, command.revision, step)));
    statements
}

/// Lets the transaction fail unless the person has sent these very bytes to this device since `since_ms` for the first
/// time.
#[must_use]
pub fn unless_repeated(command: &Command, since_ms: i64) -> Statement {
    let order = &command.order;
    let sql = format!("UPDATE commands SET revision = revision WHERE {REPEATED} AND device_id = ?5");
    let params = values![
        order.org_id.as_str(),
        order.created_by_name.clone(),
        order.request_hash.as_str(),
        since_ms,
        order.device_id.as_str()
    ];
    Statement::new(sql, params).expect_rows(0)
}

/// A command without a name of its own that a person (`?2`) of an organisation (`?1`) asked for in these bytes (`?3`)
/// after `?4`.
const REPEATED: &str =
    "org_id = ?1 AND created_by_name = ?2 AND request_hash = ?3 AND created_at > ?4 AND reference IS NULL";

/// Lets the transaction fail if the device has `most` commands that have not ended.
#[must_use]
pub fn unless_full(device: &DeviceRowId, most: i64) -> Statement {
    let sql = format!(
        "UPDATE commands SET revision = revision WHERE id = \
         (SELECT id FROM commands WHERE device_id = ?1 AND status IN {OPEN} LIMIT 1 OFFSET ?2)"
    );
    Statement::new(sql, values![device.as_str(), most - 1]).expect_rows(0)
}

/// Lets the transaction fail if the device has a command that it has not acknowledged: that one's turn comes first.
#[must_use]
pub fn unless_any_waits(device: &DeviceRowId) -> Statement {
    // The index has the open ones alone, and is used if they are named.
    let sql = format!(
        "UPDATE commands SET revision = revision WHERE device_id = ?1 AND status IN {OPEN} AND status IN ('pending', 'sent')"
    );
    Statement::new(sql, values![device.as_str()]).expect_rows(0)
}

/// Lets the transaction fail while a change of the device's token is open: there is one at a time.
#[must_use]
pub fn unless_rotating(device: &DeviceRowId) -> Statement {
    let sql = format!(
        "UPDATE commands SET revision = revision WHERE device_id = ?1 AND type = 'rotate_token' AND status IN {OPEN}"
    );
    Statement::new(sql, values![device.as_str()]).expect_rows(0)
}

/// Stores a command as it is now if it is still at the revision that it was read with. With `step` the history gets a
/// line. The command's own `revision` is raised to the new one.
#[must_use]
pub fn update(command: &mut Command, step: Option<&Step>) -> Vec<Statement> {
    let before = command.revision;
    command.revision += 1;
    let (reason, by, at) = overridden(command);
    let params = values![
        command.order.id.as_str(),
        before,
        command.revision,
        reason,
        by,
        at,
        command.state().as_str(),
        command.standing.inferred,
        command.standing.report_seq,
        command.held_reason.clone(),
        command.progress_percent.map(i64::from),
        command.result.as_ref().map(ToString::to_string),
        command.error.clone(),
        command.reason.clone(),
        command.acked_at,
        command.started_at,
        command.completed_at,
        command.bound.map(Path::as_str),
        command.sent_state_id.map(|id| id.to_string()),
        command.sent_at,
        command.last_sent_at,
        command.heard_at,
        command.cancel_requested_at,
        command.cancel_sent_at,
        command.override_sent_at,
        command.query_sent_at,
        command.query_first,
        command.lease_nonce.clone(),
        command.lease_asked_at,
        command.polls_since_sent,
    ];
    const SQL: &str = "\
UPDATE commands SET revision = ?3, override_reason = ?4, override_by = ?5, override_at = ?6, status = ?7, inferred = ?8,
 report_seq = ?9, held_reason = ?10, progress_percent = ?11, result = ?12, error = ?13, reason = ?14, acked_at = ?15,
 started_at = ?16, completed_at = ?17, bound = ?18, sent_state_id = ?19, sent_at = ?20, last_sent_at = ?21,
 heard_at = ?22, cancel_requested_at = ?23, cancel_sent_at = ?24, override_sent_at = ?25, query_sent_at = ?26,
 query_first = ?27, lease_nonce = ?28, lease_asked_at = ?29, polls_since_sent = ?30
WHERE id = ?1 AND revision = ?2";
    let mut statements = vec![Statement::new(SQL, params).expect_rows(1)];
    statements.extend(step.map(|step| history(command, command.revision, step)));
    statements
}

fn overridden(command: &Command) -> (Option<String>, Option<String>, Option<i64>) {
    let overridden = command.overridden.as_ref();
    (overridden.map(|o| o.reason.clone()), overridden.map(|o| o.by.clone()), overridden.map(|o| o.at))
}

fn history(command: &Command, revision: i64, step: &Step) -> Statement {
    Statement::new(
        "INSERT INTO command_history (command_id, revision, org_id, status, at, device_at, report_seq, detail) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        values![
            command.order.id.as_str(),
            revision,
            command.order.org_id.as_str(),
            step.status.as_str(),
            step.at,
            step.device_at,
            step.report_seq.map(i64::from),
            step.detail.clone(),
        ],
    )
}

/// Commands that `condition` names (of the tables `c` and `d`), in the order of `order`.
async fn select(store: &Store, condition: &str, params: Vec<Value>) -> Result<Vec<Command>, StoreError> {
    let rows = store.query(format!("SELECT {COLUMNS} {FROM} WHERE {condition}"), params).await?;
    rows.iter().map(read).collect()
}

/// One command of an organisation.
///
/// # Errors
/// [`StoreError`].
pub async fn one(store: &Store, org: &OrgId, id: &str) -> Result<Option<Command>, StoreError> {
    let found = select(store, "c.org_id = ?1 AND c.id = ?2", values![org.as_str(), id]).await?;
    Ok(found.into_iter().next())
}

/// The commands of a device that have not ended, by priority, then age.
///
/// # Errors
/// [`StoreError`].
pub async fn open_of(store: &Store, device: &DeviceRowId) -> Result<Vec<Command>, StoreError> {
    let condition =
        format!("c.device_id = ?1 AND c.status IN {OPEN} ORDER BY c.priority, c.created_at, c.id");
    let sql = format!("SELECT {COLUMNS} {FROM} WHERE {condition}");
    Ok(readable(&store.lookup(sql, values![device.as_str()]).await?, read))
}

/// The commands to which a person gave this name; of one device, or of all.
///
/// # Errors
/// [`StoreError`].
pub async fn by_reference(
    store: &Store,
    org: &OrgId,
    user: &str,
    reference: &str,
    device: Option<&DeviceRowId>,
) -> Result<Vec<Command>, StoreError> {
    let mut condition = String::from("c.org_id = ?1 AND c.created_by_name = ?2 AND c.reference = ?3");
    let mut params = values![org.as_str(), user, reference];
    if let Some(device) = device {
        condition.push_str(" AND c.device_id = ?4");
        params.push(device.as_str().into());
    }
    select(store, &condition, params).await
}

/// The commands without a name that a person asked for in these very bytes after `since_ms`.
///
/// # Errors
/// [`StoreError`].
pub async fn by_request(
    store: &Store,
    org: &OrgId,
    user: &str,
    request_hash: &str,
    since_ms: i64,
    device: Option<&DeviceRowId>,
) -> Result<Vec<Command>, StoreError> {
    let mut condition = format!("c.id IN (SELECT id FROM commands WHERE {REPEATED})");
    let mut params = values![org.as_str(), user, request_hash, since_ms];
    if let Some(device) = device {
        condition.push_str(" AND c.device_id = ?5");
        params.push(device.as_str().into());
    }
    select(store, &condition, params).await
}

/// How many commands of an organisation have not ended.
///
/// # Errors
/// [`StoreError`].
pub async fn open_in_all(store: &Store, org: &OrgId) -> Result<i64, StoreError> {
    let sql = format!("SELECT count(*) AS open FROM commands WHERE org_id = ?1 AND status IN {OPEN}");
    store.lookup_one(sql, values![org.as_str()]).await?.map_or(Ok(0), |row| row.int("open"))
}

/// How many commands of each device of an organisation have not ended; devices without any are left out.
///
/// # Errors
/// [`StoreError`].
pub async fn open_counts(store: &Store, org: &OrgId) -> Result<HashMap<DeviceRowId, i64>, StoreError> {
    let sql = format!(
        "SELECT device_id, count(*) AS open FROM commands WHERE org_id = ?1 AND status IN {OPEN} GROUP BY device_id"
    );
    let rows = store.query(sql, values![org.as_str()]).await?;
    rows.iter().map(|row| Ok((DeviceRowId::new(row.text("device_id")?), row.int("open")?))).collect()
}

/// The devices of an organisation whose token is being changed.
///
/// # Errors
/// [`StoreError`].
pub async fn rotating(store: &Store, org: &OrgId) -> Result<HashSet<DeviceRowId>, StoreError> {
    let sql = format!(
        "SELECT device_id FROM commands WHERE org_id = ?1 AND status IN {OPEN} AND type = 'rotate_token'"
    );
    let rows = store.query(sql, values![org.as_str()]).await?;
    rows.iter().map(|row| row.text("device_id").map(DeviceRowId::new)).collect()
}

/// How many commands of a device have not ended.
///
/// # Errors
/// [`StoreError`].
pub async fn open_count(store: &Store, device: &DeviceRowId) -> Result<i64, StoreError> {
    let sql = format!("SELECT count(*) AS open FROM commands WHERE device_id = ?1 AND status IN {OPEN}");
    store.lookup_one(sql, values![device.as_str()]).await?.map_or(Ok(0), |row| row.int("open"))
}

/// What a list of commands can be sorted by. Ties are broken by age and id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SortKey {
    /// When it was created.
    CreatedAt,
    /// When it expires.
    ExpiresAt,
    /// When it ended; commands that have not come last.
    CompletedAt,
    /// The most urgent first.
    Priority,
    /// The state, by its text.
    Status,
    /// The type, by its text.
    Type,
    /// The device's readable id.
    Device,
}

impl SortKey {
    /// Every key with its name in the API.
    pub const ALL: [(&'static str, Self); 7] = [
        ("created_at", Self::CreatedAt),
        ("expires_at", Self::ExpiresAt),
        ("completed_at", Self::CompletedAt),
        ("priority", Self::Priority),
        ("status", Self::Status),
        ("type", Self::Type),
        ("device", Self::Device),
    ];

    const fn sql(self) -> &'static str {
        match self {
            Self::CreatedAt => "c.created_at",
            Self::ExpiresAt => "c.expires_at",
            Self::CompletedAt => "c.completed_at",
            Self::Priority => "c.priority",
            Self::Status => "c.status",
            Self::Type => "c.type",
            Self::Device => "d.device_id",
        }
    }
}

/// Which states a list shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusFilter {
    /// One.
    Is(CommandState),
    /// Every one that is no end.
    Open,
}

impl std::str::FromStr for StatusFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "open" => Ok(Self::Open),
            text => text.parse().map(Self::Is).map_err(|why| format!("{why}, or open")),
        }
    }
}

/// Which commands, in which order, which page.
#[derive(Debug, Clone)]
pub struct Selection {
    /// Only those that stand so.
    pub status: Option<StatusFilter>,
    /// Only those of this type.
    pub kind: Option<CommandType>,
    /// Only those of this device.
    pub device: Option<DeviceRowId>,
    /// The order.
    pub sort: SortKey,
    /// The order turned round.
    pub descending: bool,
    /// How many to skip.
    pub offset: i64,
    /// How many at most.
    pub limit: i64,
}

/// The commands of an organisation, one page of them, and how many there are in all.
///
/// # Errors
/// [`StoreError`].
pub async fn list(
    store: &Store,
    org: &OrgId,
    selection: &Selection,
) -> Result<(Vec<Command>, i64), StoreError> {
    let mut params = values![org.as_str()];
    let mut conditions = String::from("c.org_id = ?1");
    match selection.status {
        Some(StatusFilter::Open) => conditions.push_str(&format!(" AND c.status IN {OPEN}")),
        Some(StatusFilter::Is(state)) => {
            params.push(state.as_str().into());
            if state.is_open() {
                // So that the index of the open ones is used.
                conditions.push_str(&format!(" AND c.status IN {OPEN}"));
            }
            conditions.push_str(&format!(" AND c.status = ?{}", params.len()));
        }
        None => {}
    }
    if let Some(kind) = selection.kind {
        params.push(kind.as_str().into());
        conditions.push_str(&format!(" AND c.type = ?{}", params.len()));
    }
    if let Some(device) = &selection.device {
        params.push(device.as_str().into());
        conditions.push_str(&format!(" AND c.device_id = ?{}", params.len()));
    }
    let total = store
        .query_one(format!("SELECT count(*) AS total FROM commands c WHERE {conditions}"), params.clone())
        .await?
        .map_or(Ok(0), |row| row.int("total"))?;
    let key = selection.sort.sql();
    let direction = if selection.descending { "DESC" } else { "ASC" };
    params.extend([selection.limit.into(), selection.offset.into()]);
    let (limit, offset) = (params.len() - 1, params.len());
    let first = match selection.sort {
        // As the indexes are.
        SortKey::CreatedAt => String::new(),
        SortKey::CompletedAt => format!("CASE WHEN {key} IS NULL THEN 1 ELSE 0 END, {key} {direction}, "),
        _ => format!("{key} {direction}, "),
    };
    let page = format!(
        "{conditions} ORDER BY {first}c.created_at {direction}, c.id {direction} LIMIT ?{limit} OFFSET ?{offset}"
    );
    Ok((select(store, &page, params).await?, total))
}

/// How many lines the history of a command has.
///
/// # Errors
/// [`StoreError`].
pub async fn lines(store: &Store, id: &str) -> Result<i64, StoreError> {
    const SQL: &str = "SELECT count(*) AS lines FROM command_history WHERE command_id = ?1";
    store.query_one(SQL, values![id]).await?.map_or(Ok(0), |row| row.int("lines"))
}

/// The history of a command, from its first step on, each with the revision that it made.
///
/// # Errors
/// [`StoreError`].
pub async fn steps(store: &Store, org: &OrgId, id: &str) -> Result<Vec<(i64, Step)>, StoreError> {
    let sql = "SELECT revision, status, at, device_at, report_seq, detail FROM command_history \
               WHERE org_id = ?1 AND command_id = ?2 ORDER BY revision";
    let rows = store.query(sql, values![org.as_str(), id]).await?;
    let read = |row: &Row| {
        let report_seq = row.opt_int("report_seq")?.and_then(|number| u32::try_from(number).ok());
        let step = Step {
            status: parse_column(row, "status")?,
            at: row.int("at")?,
            device_at: row.opt_int("device_at")?,
            report_seq,
            detail: row.opt_text("detail")?,
        };
        Ok((row.int("revision")?, step))
    };
    rows.iter().map(read).collect()
}
