//! What the rest of fleetd says to a database, in terms that no engine owns: values, rows, statements, errors.
//!
//! SQL texts are constants with numbered parameters (`?1`), times are `BIGINT` milliseconds since 1970, ids and JSON
//! are `TEXT`, truth values are `BIGINT` 0 or 1. What differs between engines lives in `migrations/` and in the engine.

use std::{
    error::Error,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// A value that goes into a statement or comes out of a row.
#[derive(Clone, PartialEq)]
pub enum Value {
    /// SQL NULL.
    Null,
    /// A whole number; also times (ms) and truth values (0, 1).
    Int(i64),
    /// A floating point number.
    Real(f64),
    /// Text; also ids and JSON.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

// Parameters can be hashes of secrets or people's addresses: only the kind and the length are shown.
impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Null => f.write_str("Null"),
            Self::Int(value) => write!(f, "Int({value})"),
            Self::Real(value) => write!(f, "Real({value})"),
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
            Self::Blob(bytes) => write!(f, "Blob({} bytes)", bytes.len()),
        }
    }
}

impl Value {
    /// Bytes that this value takes, roughly; bounds how much one commit takes in.
    #[must_use]
    pub fn weight(&self) -> usize {
        match self {
            Self::Null | Self::Int(_) | Self::Real(_) => 8,
            Self::Text(text) => text.len(),
            Self::Blob(bytes) => bytes.len(),
        }
    }
}

macro_rules! value_from {
    ($($from:ty => |$value:ident| $make:expr),+ $(,)?) => {
        $(impl From<$from> for Value { fn from($value: $from) -> Self { $make } })+
    };
}

value_from! {
    i64 => |value| Self::Int(value),
    i32 => |value| Self::Int(value.into()),
    u32 => |value| Self::Int(value.into()),
    u16 => |value| Self::Int(value.into()),
    u8 => |value| Self::Int(value.into()),
    bool => |value| Self::Int(value.into()),
    f64 => |value| Self::Real(value),
    String => |value| Self::Text(value),
    &String => |value| Self::Text(value.clone()),
    &str => |value| Self::Text(value.to_owned()),
    Vec<u8> => |value| Self::Blob(value),
    &[u8] => |value| Self::Blob(value.to_vec()),
    uuid::Uuid => |value| Self::Text(value.to_string()),
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// `values![a, b, c]`: the parameters of a statement, in order.
#[macro_export]
macro_rules! values {
    ($($value:expr),* $(,)?) => { vec![$($crate::store::Value::from($value)),*] };
}

/// One row of an answer. The getters go by column name and give an error, never a panic, for a column that is absent
/// or of another type.
#[derive(Debug)]
pub struct Row {
    columns: Arc<[String]>,
    values: Vec<Value>,
    /// Behind the column that was asked for last: rows are mostly read in the order of their columns.
    next: AtomicUsize,
}

macro_rules! getters {
    ($($(#[$doc:meta])* $name:ident, $opt:ident: $type:ty = $expected:literal, $pattern:pat => $take:expr;)+) => {
        $(
            $(#[$doc])*
            ///
            /// # Errors
            /// [`StoreError::Column`] when the column is absent, NULL or of another type.
            pub fn $name(&self, column: &str) -> Result<$type, StoreError> {
                self.$opt(column)?.ok_or_else(|| wrong_column(column, $expected))
            }

            $(#[$doc])*
            /// NULL is `None`.
            ///
            /// # Errors
            /// [`StoreError::Column`] when the column is absent or of another type.
            pub fn $opt(&self, column: &str) -> Result<Option<$type>, StoreError> {
                match self.get(column)? {
                    Value::Null => Ok(None),
                    $pattern => Ok(Some($take)),
                    _ => Err(wrong_column(column, $expected)),
                }
            }
        )+
    };
}

impl Row {
    /// A row of these values under these names, which are as many.
    #[must_use]
    pub fn new(columns: Arc<[String]>, values: Vec<Value>) -> Self {
        Self { columns, values, next: AtomicUsize::new(0) }
    }

    fn get(&self, column: &str) -> Result<&Value, StoreError> {
        let (next, all) = (self.next.load(Ordering::Relaxed), self.columns.len());
        let mut places = (next..all).chain(0..next.min(all));
        let at = places.find(|at| self.columns[*at] == column);
        self.next.store(at.map_or(0, |at| at + 1), Ordering::Relaxed);
        at.and_then(|at| self.values.get(at)).ok_or_else(|| wrong_column(column, "in the answer"))
    }

    getters! {
        /// A whole number, or a time in ms.
        int, opt_int: i64 = "a whole number", Value::Int(value) => *value;
        /// A truth value, stored as 0 or 1.
        bool, opt_bool: bool = "0 or 1", Value::Int(value @ (0 | 1)) => *value == 1;
        /// Text.
        text, opt_text: String = "text", Value::Text(value) => value.clone();
        /// Bytes.
        blob, opt_blob: Vec<u8> = "bytes", Value::Blob(value) => value.clone();
    }

    /// A number; a whole one is widened. NULL is `None`.
    ///
    /// # Errors
    /// [`StoreError::Column`] when the column is absent or of another type.
    pub fn opt_real(&self, column: &str) -> Result<Option<f64>, StoreError> {
        match self.get(column)? {
            Value::Null => Ok(None),
            Value::Real(value) => Ok(Some(*value)),
            // Sums and averages of integers: far below 2^53, where f64 is exact.
            #[allow(clippy::cast_precision_loss)]
            Value::Int(value) => Ok(Some(*value as f64)),
            _ => Err(wrong_column(column, "a number")),
        }
    }

    /// JSON text, decoded. NULL is `None`.
    ///
    /// # Errors
    /// [`StoreError::Column`] when the column is absent, not text, or not JSON of that shape.
    pub fn opt_json<T: serde::de::DeserializeOwned>(&self, column: &str) -> Result<Option<T>, StoreError> {
        let wrong = || wrong_column(column, "JSON of the expected shape");
        match self.get(column)? {
            Value::Null => Ok(None),
            Value::Text(text) => serde_json::from_str(text).map(Some).map_err(|_| wrong()),
            _ => Err(wrong()),
        }
    }
}

/// Text that its type's own rules can read.
///
/// # Errors
/// [`StoreError::Column`] when the column is absent, not text, or refused by the type.
pub(super) fn parse_column<T: std::str::FromStr>(row: &Row, column: &str) -> Result<T, StoreError> {
    row.text(column)?.parse().map_err(|_| wrong_column(column, "a value of its type"))
}

fn wrong_column(column: &str, expected: &'static str) -> StoreError {
    StoreError::Column { column: column.to_owned(), expected }
}

/// How many rows a statement must change, or the whole transaction is undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expectation {
    Anything,
    Exactly(u64),
}

/// The text of a statement: a constant, or made once and shared by all that use it.
#[derive(Clone, Debug)]
pub enum Sql {
    /// A constant.
    Static(&'static str),
    /// Made at run time.
    Shared(Arc<str>),
}

impl std::ops::Deref for Sql {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Static(text) => text,
            Self::Shared(text) => text,
        }
    }
}

impl From<&'static str> for Sql {
    fn from(text: &'static str) -> Self {
        Self::Static(text)
    }
}

impl From<String> for Sql {
    fn from(text: String) -> Self {
        Self::Shared(text.into())
    }
}

/// One SQL statement of a transaction; with several rows of parameters it is run once for each.
#[derive(Clone, Debug)]
pub struct Statement {
    sql: Sql,
    params: Vec<Value>,
    more: Vec<Vec<Value>>,
    expectation: Expectation,
}

impl Statement {
    /// This SQL with these parameters ([`values!`](crate::values)).
    pub fn new(sql: impl Into<Sql>, params: Vec<Value>) -> Self {
        Self { sql: sql.into(), params, more: Vec::new(), expectation: Expectation::Anything }
    }

    /// Runs once more with these parameters, right after the others.
    #[must_use]
    pub fn and(mut self, params: Vec<Value>) -> Self {
        self.more.push(params);
        self
    }

    /// Compare and swap: unless exactly `rows` rows change, the transaction fails with [`StoreError::Conflict`].
    #[must_use]
    pub fn expect_rows(mut self, rows: u64) -> Self {
        self.expectation = Expectation::Exactly(rows);
        self
    }

    /// The text.
    #[must_use]
    pub fn sql(&self) -> &Sql {
        &self.sql
    }

    /// The parameters, `?1` first; of several runs those of the first.
    #[must_use]
    pub fn params(&self) -> &[Value] {
        &self.params
    }

    /// The parameters of every run, in order.
    pub(super) fn runs(&self) -> impl Iterator<Item = &[Value]> {
        std::iter::once(self.params.as_slice()).chain(self.more.iter().map(Vec::as_slice))
    }

    /// Bytes, roughly, that this statement puts into a commit.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.runs().map(|params| 64 + params.iter().map(Value::weight).sum::<usize>()).sum()
    }

    /// Checks the number of rows changed against the expectation.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when it differs.
    pub fn check(&self, changed: u64) -> Result<(), StoreError> {
        match self.expectation {
            Expectation::Exactly(rows) if rows != changed => {
                Err(StoreError::Conflict { operation: operation(&self.sql), expected: rows, changed })
            }
            _ => Ok(()),
        }
    }
}

/// What one statement of a committed transaction did.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Rows inserted, updated or deleted.
    pub changed: u64,
    /// What `RETURNING` gave.
    pub rows: Vec<Row>,
}

type Cause = Box<dyn Error + Send + Sync>;

/// Why the store did not do what was asked. Nothing of a failed [`apply`](super::Store::apply) is stored.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the fields are what the message names
pub enum StoreError {
    /// No room. Nothing was stored; the same request works once there is room.
    #[error("{operation}: the disk or the database is full; free some space, the server goes on by itself")]
    Full { operation: String, source: Cause },
    /// A compare-and-swap lost against another change: read again and decide again.
    #[error("{operation}: something else changed it meanwhile ({changed} rows, expected {expected})")]
    Conflict { operation: String, expected: u64, changed: u64 },
    /// A unique value is taken. `what` is `table.column, table.column`.
    #[error("{operation}: {what} must be unique, and this value is taken")]
    Unique { operation: String, what: String },
    /// A row refers to something that is not there.
    #[error("{operation}: it refers to a row that does not exist")]
    Reference { operation: String },
    /// Too much to do at the moment, or another process holds the write lock.
    #[error("{operation}: the database is busy; try again")]
    Busy { operation: String },
    /// The file is damaged or is no database.
    #[error("{path}: this file is damaged or is no SQLite database; put a backup in its place")]
    Corrupt { path: PathBuf, source: Cause },
    /// A sound database of some other program.
    #[error(
        "{path}: this is the database of another program; point FLEET_DATABASE_URL or FLEET_DATA_DIR elsewhere"
    )]
    Foreign { path: PathBuf },
    /// Written by a later fleetd.
    #[error(
        "{path}: the database was written by a newer fleetd (schema {found}, this one knows {known}); \
         install that version or restore a backup made before the upgrade"
    )]
    Newer { path: PathBuf, found: i64, known: i64 },
    /// An older server has the database open, and this program would have to change its schema.
    #[error(
        "{path}: the schema must be brought up to date, but a server is running on it; restart the server first"
    )]
    ServerRunning { path: PathBuf },
    /// A restore is putting another database in its place.
    #[error("{path}: a restore is at work on this database; wait until it has ended")]
    BeingRestored { path: PathBuf },
    /// Somebody has it open who would not expect another in its place.
    #[error("{path}: another fleetd command has this database open; wait until it has ended, or stop it")]
    InUse { path: PathBuf },
    /// A row lacks a column or holds another type than the code expects.
    #[error("column {column}: expected {expected}")]
    Column { column: String, expected: &'static str },
    /// The store has been closed.
    #[error("{operation}: the database is closed")]
    Closed { operation: String },
    /// The file or folder cannot be used.
    #[error("{operation} {path}")]
    File { operation: &'static str, path: PathBuf, source: std::io::Error },
    /// Anything else the engine refused.
    #[error("{operation}: the database refused it")]
    Engine { operation: String, source: Cause },
}

impl StoreError {
    /// Whether the same request may work later without anybody changing it.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(
            self,
            Self::Full { .. } | Self::Busy { .. } | Self::BeingRestored { .. } | Self::Closed { .. }
        )
    }

    /// Whether a unique constraint that involves `column` (`table.column`) refused it.
    #[must_use]
    pub fn is_unique_on(&self, column: &str) -> bool {
        matches!(self, Self::Unique { what, .. } if what.split(", ").any(|part| part == column))
    }
}

/// What a statement does, for an error message: its first words, without any value.
#[must_use]
pub fn operation(sql: &str) -> String {
    sql.split_whitespace().take(3).collect::<Vec<_>>().join(" ").chars().take(60).collect()
}
