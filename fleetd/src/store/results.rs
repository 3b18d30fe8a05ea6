//! Steps of commands that the operators who asked for them have not been told yet.

use protocol::command::CommandState;
use protocol::id::{CommandId, OrgSlug, UserName};
use serde_json::Value as Json;

use super::{Row, Statement, Store, StoreError, parse_column};
use crate::values;

/// Commands whose steps one look takes in.
const COMMANDS_MAX: i64 = 200;
/// Steps that one look takes in.
const STEPS_MAX: i64 = 2_000;

/// A step to tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Untold {
    /// The command.
    pub command: CommandId,
    /// The number of the step in its history.
    pub revision: i64,
    /// The organisation, as in topics.
    pub org: OrgSlug,
    /// Who asked; `None`: nobody who has a result topic.
    pub user: Option<UserName>,
    /// The device, as in topics.
    pub device: String,
    /// The sender's own name for the command.
    pub reference: Option<String>,
    /// The state that the step tells.
    pub status: CommandState,
    /// When the server learned of it, ms since 1970.
    pub at: i64,
    /// Why.
    pub detail: Option<String>,
    /// With an end: what came out of it.
    pub result: Option<Json>,
    /// With an end: what went wrong.
    pub error: Option<String>,
}

/// Untold steps: all of each command that is named at all, in the order in which its operator shall hear of them.
///
/// # Errors
/// [`StoreError`].
pub async fn untold(store: &Store) -> Result<Vec<Untold>, StoreError> {
    const SQL: &str = "\
SELECT h.command_id, h.revision, h.status, h.at, h.detail, o.slug, d.device_id, c.reference, c.created_by_name,
 CASE WHEN c.status = h.status THEN c.result END AS result, CASE WHEN c.status = h.status THEN c.error END AS error
FROM command_history h JOIN commands c ON c.id = h.command_id JOIN devices d ON d.id = c.device_id
JOIN organizations o ON o.id = c.org_id
WHERE h.told = 0 AND h.command_id IN (SELECT command_id FROM command_history WHERE told = 0 ORDER BY at LIMIT ?1)
ORDER BY h.command_id, h.revision LIMIT ?2";
    let rows = store.query(SQL, values![COMMANDS_MAX, STEPS_MAX]).await?;
    let (mut steps, mut unreadable) = (Vec::new(), Vec::new());
    for row in &rows {
        match read(row) {
            Ok(step) => steps.push(step),
            Err(error) => {
                tracing::error!(%error, "a step that cannot be read is told to nobody");
                unreadable.push(mark(&row.text("command_id")?, row.int("revision")?));
            }
        }
    }
    if !unreadable.is_empty() {
        // Otherwise they would stand before the others for ever.
        store.apply(unreadable).await?;
    }
    in_order(&mut steps);
    Ok(steps)
}

/// By time, but a command's own steps by their numbers, whatever the clock did.
fn in_order(steps: &mut [Untold]) {
    let mut latest: Option<(CommandId, i64)> = None;
    let mut keys = std::collections::HashMap::new();
    for step in steps.iter() {
        let after = match &latest {
            Some((command, at)) if *command == step.command => *at,
            _ => i64::MIN,
        };
        let at = step.at.max(after);
        keys.insert((step.command.clone(), step.revision), at);
        latest = Some((step.command.clone(), at));
    }
    steps.sort_by_cached_key(|step| {
        let key = (step.command.clone(), step.revision);
        (keys.get(&key).copied().unwrap_or(step.at), key)
    });
}

fn read(row: &Row) -> Result<Untold, StoreError> {
    let status: CommandState = parse_column(row, "status")?;
    let ended = status.is_terminal();
    Ok(Untold {
        command: parse_column(row, "command_id")?,
        revision: row.int("revision")?,
        org: parse_column(row, "slug")?,
        user: row.opt_text("created_by_name")?.and_then(|name| name.parse().ok()),
        device: row.text("device_id")?,
        reference: row.opt_text("reference")?,
        status,
        at: row.int("at")?,
        detail: row.opt_text("detail")?,
        result: row.opt_json("result")?.filter(|_| ended),
        error: row.opt_text("error")?.filter(|_| ended),
    })
}

/// Marks steps as told.
#[must_use]
pub fn told(steps: &[Untold]) -> Vec<Statement> {
    steps.iter().map(|step| mark(step.command.as_str(), step.revision)).collect()
}

fn mark(command: &str, revision: i64) -> Statement {
    let sql = "UPDATE command_history SET told = 1 WHERE command_id = ?1 AND revision = ?2";
    Statement::new(sql, values![command, revision])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn step(command: &str, revision: i64, at: i64) -> Untold {
        Untold {
            command: command.parse().unwrap(),
            revision,
            org: OrgSlug::new("default").unwrap(),
            user: None,
            device: "cam-1".to_owned(),
            reference: None,
            status: CommandState::Acked,
            at,
            detail: None,
            result: None,
            error: None,
        }
    }

    #[test]
    fn a_commands_steps_stay_in_order_when_the_clock_goes_back() {
        let mut steps =
            vec![step("a", 1, 50), step("a", 2, 10), step("a", 3, 60), step("b", 1, 20), step("b", 4, 55)];
        in_order(&mut steps);
        let order: Vec<_> = steps.iter().map(|step| (step.command.as_str(), step.revision)).collect();
        assert_eq!(order, [("b", 1), ("a", 1), ("a", 2), ("b", 4), ("a", 3)]);
    }
}
