//! The SQL functions that every connection has beside the engine's own.

use rusqlite::{
    Connection,
    functions::{Context, FunctionFlags},
    types::ValueRef,
};

use crate::domain::audit_chain::{Part, hash};

/// The hash before, the number, and the eleven columns of an entry.
const ENTRY_PARTS: u8 = 13;

/// Makes them known to a connection; again does no harm.
pub(super) fn register(connection: &Connection) -> rusqlite::Result<()> {
    // Only where a statement names it: a schema that somebody has changed cannot call it.
    let flags =
        FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_DIRECTONLY;
    connection.create_scalar_function("audit_hash", ENTRY_PARTS.into(), flags, audit_hash)
}

/// NULL for what no entry can hold, which is the hash of none.
fn audit_hash(context: &Context<'_>) -> rusqlite::Result<Option<String>> {
    let mut parts = [Part::Null; ENTRY_PARTS as usize];
    for (at, part) in parts.iter_mut().enumerate() {
        *part = match context.get_raw(at) {
            ValueRef::Null => Part::Null,
            ValueRef::Integer(number) => Part::Int(number),
            ValueRef::Text(text) => Part::Text(text),
            ValueRef::Real(_) | ValueRef::Blob(_) => return Ok(None),
        };
    }
    Ok(Some(hash(parts)))
}
