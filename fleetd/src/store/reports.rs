//! What devices report besides heartbeats, as it came: command reports, events, log lines.

use protocol::{
    command::CommandState,
    id::{CommandId, StateId},
    message::{CommandReport, Event, LogBatch},
};

use super::{Statement, Store, StoreError, device_state::DeviceKey, parse_column};
use crate::{domain::device::DeviceRowId, values};

fn number(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

/// Stores a command report.
#[must_use]
pub fn put_report(key: &DeviceKey, state_id: StateId, report: &CommandReport, now_ms: i64) -> Statement {
    const SQL: &str = "\
INSERT INTO command_reports (device_id, state_id, seq, org_id, received_at, ts, command_id, report_seq, state, body)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT (device_id, state_id, seq) DO NOTHING";
    Statement::new(
        SQL,
        values![
            key.device_id.as_str(),
            state_id.to_string(),
            number(report.seq),
            key.org_id.as_str(),
            now_ms,
            report.ts,
            report.id.to_string(),
            report.report_seq,
            report.state.as_str(),
            serde_json::to_string(report).unwrap_or_default(),
        ],
    )
}

/// Commands of which there are only a device's reports, and which are open by the last of them: a restored server does not
/// know them.
///
/// # Errors
/// [`StoreError`].
pub async fn open_of_unknown(
    store: &Store,
    device: &DeviceRowId,
    state_id: StateId,
) -> Result<Vec<(CommandId, CommandState)>, StoreError> {
    const SQL: &str = "\
SELECT DISTINCT r.command_id, r.state FROM command_reports r
WHERE r.device_id = ?1 AND r.state_id = ?2 AND r.state IN ('acked', 'held', 'running')
 AND NOT EXISTS (SELECT 1 FROM commands c WHERE c.id = r.command_id)
 AND NOT EXISTS (SELECT 1 FROM command_reports later WHERE later.command_id = r.command_id
  AND later.report_seq > r.report_seq AND later.device_id = r.device_id AND later.state_id = r.state_id)";
    let rows = store.query(SQL, values![device.as_str(), state_id.to_string()]).await?;
    rows.iter().map(|row| Ok((parse_column(row, "command_id")?, parse_column(row, "state")?))).collect()
}

/// Stores an event.
#[must_use]
pub fn put_event(key: &DeviceKey, state_id: StateId, event: &Event, now_ms: i64) -> Statement {
    const SQL: &str = "\
INSERT INTO device_events (device_id, state_id, seq, org_id, received_at, ts, kind, details)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (device_id, state_id, seq) DO NOTHING";
    Statement::new(
        SQL,
        values![
            key.device_id.as_str(),
            state_id.to_string(),
            number(event.seq),
            key.org_id.as_str(),
            now_ms,
            event.ts,
            event.kind.as_str(),
            event.details.as_ref().map(ToString::to_string),
        ],
    )
}

/// Stores the lines of a log batch.
#[must_use]
pub fn put_log(key: &DeviceKey, state_id: StateId, batch: &LogBatch, now_ms: i64) -> Vec<Statement> {
    const SQL: &str = "\
INSERT INTO log_records (device_id, state_id, seq, line, org_id, received_at, ts, unit, level, message, fields)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) ON CONFLICT (device_id, state_id, seq, line) DO NOTHING";
    let state = state_id.to_string();
    let line = |(line, record): (usize, &protocol::message::LogRecord)| {
        let fields =
            (!record.fields.is_empty()).then(|| serde_json::to_string(&record.fields).unwrap_or_default());
        Statement::new(
            SQL,
            values![
                key.device_id.as_str(),
                state.as_str(),
                number(batch.seq),
                i64::try_from(line).unwrap_or(i64::MAX),
                key.org_id.as_str(),
                now_ms,
                record.ts,
                record.unit.as_str(),
                record.level.as_str(),
                record.message.as_str(),
                fields,
            ],
        )
    };
    batch.records.iter().enumerate().map(line).collect()
}

/// A table whose rows go when they are older than their retention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aging {
    /// `log_records`.
    Logs,
    /// `device_events`.
    Events,
    /// `rollups_hourly`.
    Hourly,
    /// `rollups_daily`.
    Daily,
}

/// Removes the oldest rows before `cutoff` (ms): at most one hour's worth, so that no transaction is long. Gives how many
/// went; 0 when nothing is left to remove.
///
/// # Errors
/// [`StoreError`].
pub async fn remove_oldest(store: &Store, table: Aging, cutoff: i64) -> Result<u64, StoreError> {
    const SLICE_MS: i64 = 3_600_000;
    let (oldest, delete) = match table {
        Aging::Logs => (
            "SELECT min(received_at) AS oldest FROM log_records",
            "DELETE FROM log_records WHERE received_at < ?1",
        ),
        Aging::Events => (
            "SELECT min(received_at) AS oldest FROM device_events",
            "DELETE FROM device_events WHERE received_at < ?1",
        ),
        Aging::Hourly => (
            "SELECT min(starts_at) AS oldest FROM rollups_hourly",
            "DELETE FROM rollups_hourly WHERE starts_at < ?1",
        ),
        Aging::Daily => (
            "SELECT min(starts_at) AS oldest FROM rollups_daily",
            "DELETE FROM rollups_daily WHERE starts_at < ?1",
        ),
    };
    let oldest = store.query_one(oldest, vec![]).await?.map_or(Ok(None), |row| row.opt_int("oldest"))?;
    match oldest {
        Some(oldest) if oldest < cutoff => {
            let until = cutoff.min(oldest.saturating_add(SLICE_MS));
            Ok(store.apply_one(Statement::new(delete, values![until])).await?.changed)
        }
        _ => Ok(0),
    }
}
