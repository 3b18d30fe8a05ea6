//! The few words that engines write differently. (Tables that are not made at run time: `migrations/`.)

/// The type of a column that numbers rows in the order in which they were added.
pub(super) const ROW_NUMBER: &str = "INTEGER PRIMARY KEY";

/// The place of a row, by which it is found at once within one statement.
pub(super) const PLACE: &str = "rowid";

/// Gives free pages back to the file system, a bounded number at a time.
pub(super) const GIVE_BACK: &str = "PRAGMA incremental_vacuum(4000)";

/// The number of the row that this connection has added last.
macro_rules! last_row {
    () => {
        "last_insert_rowid()"
    };
}
pub(super) use last_row;

/// A text of a JSON object; NULL where there is none, or no JSON at all.
macro_rules! json_field {
    ($column:literal, $name:literal) => {
        concat!("CASE WHEN json_valid(", $column, ") THEN ", $column, " ->> '", $name, "' END")
    };
}
pub(super) use json_field;
