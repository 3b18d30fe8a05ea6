//! The SQLite engine: one writer thread that groups what is queued into one commit, and a few read-only connections.
//!
//! * WAL with `synchronous=FULL`: when an answer is given, its commit has been fsynced.
//! * Every [`apply`](super::Store::apply) of a group runs in a savepoint: one that fails is undone by itself.
//! * Where the engine undoes the whole group (a full disk does), the group is run again one by one, so that each gets
//!   the answer it would have got alone.

use std::{
    error::Error,
    fs::OpenOptions,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, OpenFlags, types::ValueRef};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{
    engine::{Outcome, Row, Statement, StoreError, Value, operation},
    folder::{FolderLock, folder_of},
    migrate,
    swap::like_its_folder,
};

/// Reads that can run at the same time.
const READERS: usize = 4;
/// Transactions waiting for the writer; past it callers wait.
const QUEUE: usize = 1024;
/// A caller that has waited so long for room in the queue is told that the store is busy.
const QUEUE_WAIT: Duration = Duration::from_secs(10);
/// A group takes no further transaction past this many, or this many bytes.
const GROUP_JOBS: usize = 256;
const GROUP_BYTES: usize = 4 << 20;
/// How long SQLite waits for a lock of another process (the command-line tools write beside a running server).
const BUSY: Duration = Duration::from_secs(5);
const CACHED_STATEMENTS: usize = 200;
/// A reader keeps fewer: there are several of them, and each statement takes some kilobytes.
const READER_STATEMENTS: usize = 64;
/// Pages that a reader keeps, KiB: every commit of the writer makes them worthless, and the kernel has them too.
const READER_CACHE_KIB: i64 = 512;

struct Job {
    statements: Vec<Statement>,
    answer: oneshot::Sender<Result<Vec<Outcome>, StoreError>>,
}

/// An open SQLite database.
pub(super) struct Sqlite {
    path: PathBuf,
    writer: Mutex<Option<mpsc::Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    readers: Arc<Mutex<Vec<Connection>>>,
    reading: Arc<Semaphore>,
    last_full: Arc<Mutex<Option<Instant>>>,
    /// Until it is closed, no restore puts another file in this one's place.
    inside: Mutex<Option<FolderLock>>,
}

impl Sqlite {
    /// Opens the file, making and migrating it as needed. Blocks.
    pub(super) fn open(path: &Path, locked: bool) -> Result<Self, StoreError> {
        let inside = FolderLock::enter(path)?;
        create_private(path)?;
        let mut connection =
            connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        migrate::migrate(&mut connection, path, locked, migrate::LOCK_WAIT)?;
        prepare_writer(&connection).map_err(|source| classify_open(source, path))?;
        let readers = (0..READERS).map(|_| connect_reader(path)).collect::<Result<Vec<_>, _>>()?;

        let (sender, jobs) = mpsc::channel(QUEUE);
        let last_full = Arc::new(Mutex::new(None));
        let mut writer = Writer { connection, path: path.to_owned(), last_full: last_full.clone() };
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run(jobs))
            .map_err(|source| StoreError::File {
                operation: "start the writer of",
                path: path.to_owned(),
                source,
            })?;
        Ok(Self {
            path: path.to_owned(),
            writer: Mutex::new(Some(sender)),
            thread: Mutex::new(Some(thread)),
            readers: Arc::new(Mutex::new(readers)),
            reading: Arc::new(Semaphore::new(READERS)),
            last_full,
            inside: Mutex::new(Some(inside)),
        })
    }

    pub(super) async fn apply(&self, statements: Vec<Statement>) -> Result<Vec<Outcome>, StoreError> {
        let Some(first) = statements.first() else { return Ok(Vec::new()) };
        let operation = operation(first.sql());
        let closed = || StoreError::Closed { operation: operation.clone() };
        let sender = lock(&self.writer).clone().ok_or_else(closed)?;
        let permit = match tokio::time::timeout(QUEUE_WAIT, sender.reserve()).await {
            Ok(permit) => permit.map_err(|_| closed())?,
            Err(_) => return Err(StoreError::Busy { operation }),
        };
        let (answer, answered) = oneshot::channel();
        permit.send(Job { statements, answer });
        answered.await.map_err(|_| closed())?
    }

    pub(super) async fn query(&self, sql: String, params: Vec<Value>) -> Result<Vec<Row>, StoreError> {
        let closed = |sql: &str| StoreError::Closed { operation: operation(sql) };
        let Ok(permit) = self.reading.clone().acquire_owned().await else { return Err(closed(&sql)) };
        let pool = self.readers.clone();
        let path = self.path.clone();
        let name = sql.clone();
        let work = tokio::task::spawn_blocking(move || {
            // As many permits as connections: one is there.
            let Some(connection) = lock(&pool).pop() else { return Err(closed(&sql)) };
            let once = std::iter::once(params.as_slice());
            let rows = execute(&connection, &sql, once).map(|outcome| outcome.rows);
            lock(&pool).push(connection);
            drop(permit);
            rows.map_err(|source| classify(source, &sql, &path))
        });
        work.await.map_err(|_| closed(&name))?
    }

    /// As `query`, for what is found by key in a few pages: on the caller's own thread if a connection is free. To hand it
    /// to another thread and back takes several times as long.
    pub(super) async fn lookup(&self, sql: String, params: Vec<Value>) -> Result<Vec<Row>, StoreError> {
        let rows = match self.reading.try_acquire() {
            Ok(_permit) => self.read_here(&sql, &params),
            Err(_) => None,
        };
        match rows {
            Some(rows) => rows,
            None => self.query(sql, params).await,
        }
    }

    fn read_here(&self, sql: &str, params: &[Value]) -> Option<Result<Vec<Row>, StoreError>> {
        let connection = lock(&self.readers).pop()?;
        let rows = execute(&connection, sql, std::iter::once(params)).map(|outcome| outcome.rows);
        lock(&self.readers).push(connection);
        Some(rows.map_err(|source| classify(source, sql, &self.path)))
    }

    /// When a write last failed for lack of room.
    pub(super) fn last_full(&self) -> Option<Instant> {
        *lock(&self.last_full)
    }

    /// Commits what is queued and closes the writer. Blocks until done.
    pub(super) fn close(&self) {
        self.reading.close();
        lock(&self.readers).clear();
        lock(&self.writer).take();
        if let Some(thread) = lock(&self.thread).take() {
            // A panic of the thread has been reported by the panic hook; there is nothing to add.
            let _ = thread.join();
        }
        lock(&self.inside).take();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The file holds people's addresses and hashes of secrets; SQLite gives its WAL the same mode.
fn create_private(path: &Path) -> Result<(), StoreError> {
    let made = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    // Made by root at the command line, the server could not open it.
    let made = made.and_then(|_| like_its_folder(path, folder_of(path)));
    made.map_err(|source| StoreError::File { operation: "open", path: path.to_owned(), source })
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, StoreError> {
    let open = || -> rusqlite::Result<Connection> {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY)?;
        connection.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
        connection.pragma_update(None, "foreign_keys", true)?;
        Ok(connection)
    };
    open().map_err(|source| classify_open(source, path))
}

fn connect_reader(path: &Path) -> Result<Connection, StoreError> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.set_prepared_statement_cache_capacity(READER_STATEMENTS);
    // Negative: KiB, not pages.
    let limited = connection.pragma_update(None, "cache_size", -READER_CACHE_KIB);
    limited.map_err(|source| classify_open(source, path))?;
    Ok(connection)
}

fn prepare_writer(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")
}

struct Writer {
    connection: Connection,
    path: PathBuf,
    last_full: Arc<Mutex<Option<Instant>>>,
}

type Answer = Result<Vec<Outcome>, StoreError>;

impl Writer {
    fn run(&mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(first) = jobs.blocking_recv() {
            let mut bytes = weight(&first);
            let mut group = vec![first];
            while group.len() < GROUP_JOBS && bytes < GROUP_BYTES {
                let Ok(job) = jobs.try_recv() else { break };
                bytes += weight(&job);
                group.push(job);
            }
            let answers = match self.commit(&group) {
                Ok(answers) => answers,
                Err(error) if group.len() == 1 => vec![Err(error)],
                // Every job gets what it would have got alone.
                Err(_) => {
                    let alone = |job| self.commit(std::slice::from_ref(job)).and_then(single);
                    group.iter().map(alone).collect()
                }
            };
            for (job, answer) in group.into_iter().zip(answers) {
                if let Err(StoreError::Full { .. }) = answer {
                    *lock(&self.last_full) = Some(Instant::now());
                }
                // Nobody waits for the answer any more: the change stands all the same.
                let _ = job.answer.send(answer);
            }
        }
    }

    /// One transaction for all: the answers, or the reason why nothing at all was stored.
    fn commit(&self, group: &[Job]) -> Result<Vec<Answer>, StoreError> {
        let failed = |source| classify(source, "commit", &self.path);
        let transaction =
            rusqlite::Transaction::new_unchecked(&self.connection, rusqlite::TransactionBehavior::Immediate)
                .map_err(failed)?;
        let mut answers = Vec::with_capacity(group.len());
        let command = |sql| -> rusqlite::Result<()> {
            self.connection.prepare_cached(sql)?.execute([])?;
            Ok(())
        };
        if let [alone] = group {
            // If it fails, so does the transaction: there is nothing else in it.
            answers.push(Ok(self.run_job(alone)?));
            transaction.commit().map_err(failed)?;
            return Ok(answers);
        }
        for job in group {
            command("SAVEPOINT job").map_err(failed)?;
            let answer = self.run_job(job);
            if let Err(error) = answer {
                if self.connection.is_autocommit() {
                    // The engine has undone the whole transaction.
                    return Err(error);
                }
                command("ROLLBACK TO job").map_err(failed)?;
                answers.push(Err(error));
            } else {
                answers.push(answer);
            }
            command("RELEASE job").map_err(failed)?;
        }
        transaction.commit().map_err(failed)?;
        Ok(answers)
    }

    fn run_job(&self, job: &Job) -> Answer {
        let mut outcomes = Vec::with_capacity(job.statements.len());
        for statement in &job.statements {
            let outcome = execute(&self.connection, statement.sql(), statement.runs())
                .map_err(|source| classify(source, statement.sql(), &self.path))?;
            statement.check(outcome.changed)?;
            outcomes.push(outcome);
        }
        Ok(outcomes)
    }
}

/// One transaction on a database that nobody else has open.
pub(super) fn apply_alone(
    connection: &Connection,
    path: &Path,
    statements: &[Statement],
) -> Result<(), StoreError> {
    let failed = |source| classify(source, "commit", path);
    let transaction =
        rusqlite::Transaction::new_unchecked(connection, rusqlite::TransactionBehavior::Immediate)
            .map_err(failed)?;
    for statement in statements {
        let outcome = execute(connection, statement.sql(), statement.runs())
            .map_err(|source| classify(source, statement.sql(), path))?;
        statement.check(outcome.changed)?;
    }
    transaction.commit().map_err(failed)
}

fn single(mut answers: Vec<Answer>) -> Answer {
    // `commit` gives one answer for each job.
    answers.pop().unwrap_or_else(|| Ok(Vec::new()))
}

fn weight(job: &Job) -> usize {
    job.statements.iter().map(Statement::weight).sum()
}

fn execute<'a>(
    connection: &Connection,
    sql: &str,
    runs: impl Iterator<Item = &'a [Value]>,
) -> rusqlite::Result<Outcome> {
    let mut statement = connection.prepare_cached(sql)?;
    let columns: Arc<[String]> = statement.column_names().map(str::to_owned).collect();
    let before = connection.total_changes();
    let mut rows = Vec::new();
    for params in runs {
        let mut found = statement.query(rusqlite::params_from_iter(params.iter().map(to_sql)))?;
        while let Some(row) = found.next()? {
            let mut values = Vec::with_capacity(columns.len());
            for at in 0..columns.len() {
                values.push(row.get_ref(at).and_then(from_sql)?);
            }
            rows.push(Row::new(columns.clone(), values));
        }
    }
    Ok(Outcome { changed: connection.total_changes() - before, rows })
}

fn to_sql(value: &Value) -> rusqlite::types::ToSqlOutput<'_> {
    use rusqlite::types::ToSqlOutput::Borrowed;
    Borrowed(match value {
        Value::Null => ValueRef::Null,
        Value::Int(value) => ValueRef::Integer(*value),
        Value::Real(value) => ValueRef::Real(*value),
        Value::Text(text) => ValueRef::Text(text.as_bytes()),
        Value::Blob(bytes) => ValueRef::Blob(bytes),
    })
}

fn from_sql(value: ValueRef<'_>) -> rusqlite::Result<Value> {
    Ok(match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(value) => Value::Int(value),
        ValueRef::Real(value) => Value::Real(value),
        ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
    })
}

pub(super) fn classify_open(source: rusqlite::Error, path: &Path) -> StoreError {
    classify(source, "open the database", path)
}

fn classify(source: rusqlite::Error, sql: &str, path: &Path) -> StoreError {
    let operation = operation(sql);
    let message = source.to_string();
    let Some(code) = source.sqlite_error().copied() else {
        return StoreError::Engine { operation, source: Box::new(source) };
    };
    let cause: Box<dyn Error + Send + Sync> = Box::new(source);
    match code.code {
        ErrorCode::DiskFull => StoreError::Full { operation, source: cause },
        // A quota or a full file system under the WAL's shared memory shows as an I/O error of a write.
        ErrorCode::SystemIoFailure if is_write_failure(code.extended_code) => {
            StoreError::Full { operation, source: cause }
        }
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => StoreError::Busy { operation },
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
            StoreError::Corrupt { path: path.to_owned(), source: cause }
        }
        ErrorCode::ConstraintViolation => match code.extended_code {
            rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE | rusqlite::ffi::SQLITE_CONSTRAINT_PRIMARYKEY => {
                let what = message.split_once("failed: ").map_or(message.as_str(), |(_, what)| what);
                StoreError::Unique { operation, what: what.to_owned() }
            }
            rusqlite::ffi::SQLITE_CONSTRAINT_FOREIGNKEY => StoreError::Reference { operation },
            _ => StoreError::Engine { operation, source: cause },
        },
        _ => StoreError::Engine { operation, source: cause },
    }
}

fn is_write_failure(extended: i32) -> bool {
    use rusqlite::ffi;
    matches!(
        extended,
        ffi::SQLITE_IOERR_WRITE
            | ffi::SQLITE_IOERR_FSYNC
            | ffi::SQLITE_IOERR_TRUNCATE
            | ffi::SQLITE_IOERR_SHMSIZE
            | ffi::SQLITE_IOERR_SHMMAP
            | ffi::SQLITE_IOERR_SHMOPEN
    )
}
