//! The few words that engines write differently, where a table is made at run time. (Other tables: `migrations/`.)

/// The type of a column that numbers rows in the order in which they were added.
pub(super) const ROW_NUMBER: &str = "INTEGER PRIMARY KEY";
