//! The SQLite engine: one writer thread that groups what is queued into one commit, and a few read-only connections.
//!
//! * WAL with `synchronous=FULL`: when an answer is given, its commit has been fsynced.
//! * If any transaction of a group fails, the group is undone and run again, each in a savepoint of its own: one that
//!   fails is undone by itself.
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

use rusqlite::{Connection, ErrorCode, OpenFlags, config::DbConfig, types::ValueRef};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{
    engine::{Outcome, Row, Sql, Statement, StoreError, Value, operation},
    folder::{FolderLock, folder_of},
    functions, migrate,
    swap::like_its_folder,
};

/// Reads that can run at the same time.
const READERS: usize = 4;
/// Transactions waiting for the writer; past it callers wait.
const QUEUE: usize = 1024;
/// A caller that has waited so long for room in the queue is told that the store is busy.
const QUEUE_WAIT: Duration = Duration::from_secs(10);
/// A commit takes in no further transaction past this many, or this many bytes.
const GROUP_TRANSACTIONS: usize = 1024;
const GROUP_BYTES: usize = 4 << 20;
/// How long SQLite waits for a lock of another process (the command-line tools write beside a running server).
const BUSY: Duration = Duration::from_secs(5);
const CACHED_STATEMENTS: usize = 200;
/// A reader keeps fewer: there are several of them, and each statement takes some kilobytes.
const READER_STATEMENTS: usize = 64;
/// Pages that a reader keeps, KiB: every commit of the writer makes them worthless, and the kernel has them too.
const READER_CACHE_KIB: i64 = 512;

/// The statements of one transaction: all are stored or none.
type Transaction = Vec<Statement>;
type Answer = Result<Vec<Outcome>, StoreError>;

/// Transactions that are handed over together. Each gets an answer of its own.
struct Job {
    transactions: Vec<Transaction>,
    answer: oneshot::Sender<Vec<Answer>>,
}

/// Why the writer does not take a job.
#[derive(Clone, Copy)]
enum Refused {
    Closed,
    Busy,
}

impl Refused {
    fn error(self, transaction: Option<&Sql>) -> StoreError {
        let operation = transaction.map_or_else(|| "write".to_owned(), |sql| operation(sql));
        match self {
            Self::Closed => StoreError::Closed { operation },
            Self::Busy => StoreError::Busy { operation },
        }
    }
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

    pub(super) async fn apply(&self, statements: Transaction) -> Answer {
        if statements.is_empty() {
            return Ok(Vec::new());
        }
        single(self.apply_each(vec![statements]).await)
    }

    pub(super) async fn apply_each(&self, transactions: Vec<Transaction>) -> Vec<Answer> {
        let names: Vec<Option<Sql>> = transactions
            .iter()
            .map(|statements| statements.first().map(|first| first.sql().clone()))
            .collect();
        let mut waiting = Vec::new();
        for some in in_commits(transactions) {
            let count = some.len();
            waiting.push((count, self.hand_over(some).await));
        }
        let mut answers = Vec::with_capacity(names.len());
        for (count, handed_over) in waiting {
            let given = match handed_over {
                Ok(answered) => answered.await.map_err(|_| Refused::Closed),
                Err(refused) => Err(refused),
            };
            match given {
                Ok(given) => answers.extend(given),
                Err(refused) => {
                    let named = names.iter().skip(answers.len()).take(count);
                    let errors: Vec<_> = named.map(|name| Err(refused.error(name.as_ref()))).collect();
                    answers.extend(errors);
                }
            }
        }
        answers
    }

    async fn hand_over(
        &self,
        transactions: Vec<Transaction>,
    ) -> Result<oneshot::Receiver<Vec<Answer>>, Refused> {
        let sender = lock(&self.writer).clone().ok_or(Refused::Closed)?;
        let permit = match tokio::time::timeout(QUEUE_WAIT, sender.reserve()).await {
            Ok(permit) => permit.map_err(|_| Refused::Closed)?,
            Err(_) => return Err(Refused::Busy),
        };
        let (answer, answered) = oneshot::channel();
        permit.send(Job { transactions, answer });
        Ok(answered)
    }

    pub(super) async fn query(&self, sql: Sql, params: Vec<Value>) -> Result<Vec<Row>, StoreError> {
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
    pub(super) async fn lookup(&self, sql: Sql, params: Vec<Value>) -> Result<Vec<Row>, StoreError> {
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
        // A row that is replaced is deleted first, and triggers are asked about that.
        connection.pragma_update(None, "recursive_triggers", true)?;
        functions::register(&connection)?;
        // A plan does not depend on the values: otherwise every statement that could use an index of some rows only is
        // prepared anew for each of them.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
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

impl Writer {
    fn run(&mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(first) = jobs.blocking_recv() {
            let mut bytes = weight(&first.transactions);
            let mut count = first.transactions.len();
            let mut taken = vec![first];
            while count < GROUP_TRANSACTIONS && bytes < GROUP_BYTES {
                let Ok(job) = jobs.try_recv() else { break };
                bytes += weight(&job.transactions);
                count += job.transactions.len();
                taken.push(job);
            }
            let group: Vec<&Transaction> = taken.iter().flat_map(|job| &job.transactions).collect();
            let answers = match self.commit(&group) {
                Ok(answers) => answers,
                Err(error) if group.len() == 1 => vec![Err(error)],
                // Every one gets what it would have got alone.
                Err(_) => group.iter().map(|one| self.commit(&[one]).and_then(single)).collect(),
            };
            if answers.iter().any(|answer| matches!(answer, Err(StoreError::Full { .. }))) {
                *lock(&self.last_full) = Some(Instant::now());
            }
            let mut answers = answers.into_iter();
            for job in taken {
                let own = answers.by_ref().take(job.transactions.len()).collect();
                // Nobody waits for the answer any more: the change stands all the same.
                let _ = job.answer.send(own);
            }
        }
    }

    /// One transaction for all, where each gets the answer that it would have got alone; or the reason why nothing at all
    /// was stored.
    fn commit(&self, group: &[&Transaction]) -> Result<Vec<Answer>, StoreError> {
        match self.commit_all(group) {
            Err(_) if group.len() > 1 => self.commit_each(group),
            done => done,
        }
    }

    /// One transaction in which nothing may fail: as nearly always. A savepoint for each would have SQLite keep a copy of
    /// every page that it changes.
    fn commit_all(&self, group: &[&Transaction]) -> Result<Vec<Answer>, StoreError> {
        let transaction = self.begin()?;
        let answers = group.iter().map(|one| self.run_one(one).map(Ok)).collect::<Result<_, _>>()?;
        transaction.commit().map_err(|source| self.failed(source))?;
        Ok(answers)
    }

    /// One transaction in which what fails is undone by itself.
    fn commit_each(&self, group: &[&Transaction]) -> Result<Vec<Answer>, StoreError> {
        let transaction = self.begin()?;
        let command = |sql| -> Result<(), StoreError> {
            let run = |sql| self.connection.prepare_cached(sql)?.execute([]);
            run(sql).map(drop).map_err(|source| self.failed(source))
        };
        let mut answers = Vec::with_capacity(group.len());
        for one in group {
            command("SAVEPOINT one")?;
            let answer = self.run_one(one);
            if let Err(error) = answer {
                if self.connection.is_autocommit() {
                    // The engine has undone the whole transaction.
                    return Err(error);
                }
                command("ROLLBACK TO one")?;
                answers.push(Err(error));
            } else {
                answers.push(answer);
            }
            command("RELEASE one")?;
        }
        transaction.commit().map_err(|source| self.failed(source))?;
        Ok(answers)
    }

    fn begin(&self) -> Result<rusqlite::Transaction<'_>, StoreError> {
        let immediate = rusqlite::TransactionBehavior::Immediate;
        rusqlite::Transaction::new_unchecked(&self.connection, immediate)
            .map_err(|source| self.failed(source))
    }

    fn failed(&self, source: rusqlite::Error) -> StoreError {
        classify(source, "commit", &self.path)
    }

    fn run_one(&self, statements: &Transaction) -> Answer {
        let mut outcomes = Vec::with_capacity(statements.len());
        for statement in statements {
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
    functions::register(connection).map_err(failed)?;
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
    // There is one answer for each transaction.
    answers.pop().unwrap_or_else(|| Ok(Vec::new()))
}

fn weight<'a>(transactions: impl IntoIterator<Item = &'a Transaction>) -> usize {
    transactions.into_iter().flatten().map(Statement::weight).sum()
}

/// In slices that are small enough for a commit, in order.
fn in_commits(transactions: Vec<Transaction>) -> Vec<Vec<Transaction>> {
    let mut slices: Vec<Vec<Transaction>> = Vec::new();
    let mut bytes = GROUP_BYTES;
    for transaction in transactions {
        let more = weight([&transaction]);
        match slices.last_mut() {
            Some(slice) if bytes + more <= GROUP_BYTES && slice.len() < GROUP_TRANSACTIONS => {
                slice.push(transaction);
                bytes += more;
            }
            _ => {
                slices.push(vec![transaction]);
                bytes = more;
            }
        }
    }
    slices
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
