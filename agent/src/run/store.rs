//! The state folder in use: its lock, the database thread, and the uplink whose index it feeds.

use std::path::Path;
use std::time::Duration;

use protocol::id::StateId;

use super::messages::Identity;
use crate::backoff::Backoff;
use crate::command::{Entry, Wanted};
use crate::lock::{LockError, StateLock};
use crate::outbox::{BUDGET_BYTES, Outbox, Refused};
use crate::record::Record;
use crate::state::{Kept, Repair, StateError, StateThread};
use crate::uplink::Uplink;

/// While the folder cannot be used: often enough that a person who has made room sees it work.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));

/// Why a record was not kept, or the state cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("a record cannot be encoded")]
    Encode(#[from] protocol::codec::CodecError),
}

impl StoreError {
    /// Whether the database must be opened again before anything else is done with it: nobody knows what it holds.
    pub(super) fn is_fatal(&self) -> bool {
        match self {
            // The database refused, and nothing was changed.
            Self::State(error @ StateError::Database { .. }) => !error.is_disk_full(),
            // A file beside the database comes after its commit: the index here does not have what was committed.
            Self::State(_) => true,
            _ => false,
        }
    }
}

/// An opened state folder.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) thread: StateThread,
    pub(super) uplink: Uplink,
    pub(super) state_id: StateId,
    /// The last connection number in use.
    pub(super) connection: u64,
    pub(super) inputs: Vec<String>,
    /// What the server wants, and what was reported about it.
    pub(super) kept: Kept,
    /// The same, as commands depend on it.
    pub(super) wanted: Wanted,
    /// The open commands, until the event loop takes them over.
    pub(super) open_commands: Vec<Entry>,
    /// What was wrong with the state when it was opened, until the event loop takes it over.
    pub(super) repair: Option<Repair>,
    /// The record that was kept last, and its number: it is the next to be sent most of the time.
    fresh: Option<(u64, Record)>,
}

impl Store {
    /// Opens the database in `dir`, whose lock the caller holds.
    pub(super) async fn open(dir: &Path, now_ms: i64) -> Result<Self, StoreError> {
        let (thread, repair) = StateThread::open(dir.to_owned(), now_ms).await?;
        if let Some(repair) = &repair {
            tracing::error!("{repair}");
        }
        let (loaded, state_id, connection, inputs) = thread
            .call(|state| Ok((state.load()?, state.state_id(), state.last_connection()?, state.inputs()?)))
            .await?;
        let (kept, open_commands) = thread.call(|state| Ok((state.kept()?, state.open_commands()?))).await?;
        let wanted = super::desired::wanted(kept.desired.as_ref());
        let uplink = Uplink::new(Outbox::load(loaded, BUDGET_BYTES));
        tracing::info!(%state_id, waiting = uplink.outbox().depth(), "state opened");
        Ok(Self {
            thread,
            uplink,
            state_id,
            connection,
            inputs,
            kept,
            wanted,
            open_commands,
            repair,
            fresh: None,
        })
    }

    pub(super) fn identity(&self) -> Identity {
        Identity { state_id: self.state_id, connection: self.connection }
    }

    /// Takes the number of the next connection. A full disk does not keep the device from being seen: the number then
    /// lasts only as long as this process.
    pub(super) async fn next_connection(&mut self) -> Result<(), StoreError> {
        self.connection = match self.thread.call(|state| state.next_connection()).await {
            Ok(number) => number.max(self.connection + 1),
            Err(error) if error.is_disk_full() => self.connection + 1,
            Err(error) => return Err(error.into()),
        };
        Ok(())
    }

    /// Keeps a record: when this returns, it is on disk and will be sent.
    pub(super) async fn keep(&mut self, record: Record, ts_ms: i64) -> Result<(), StoreError> {
        let change = self.plan(record.clone(), ts_ms)?;
        let change = self.thread.call(move |state| state.commit(&change).map(|()| change)).await?;
        self.uplink.committed(&change);
        // The new record is the last of those that are inserted.
        self.fresh = Some((change.next_seq - 1, record));
        Ok(())
    }

    /// Notes on the disk that records below this number may be sent; on a full disk they wait until that is possible.
    pub(super) async fn release(&mut self, below: u64, now: Duration) -> Result<(), StoreError> {
        let noted = self.thread.call(move |state| state.release(below)).await;
        match noted {
            Ok(()) => self.uplink.released(below),
            Err(_) => self.uplink.not_released(now),
        }
        Ok(noted?)
    }

    /// The payload of records that were chosen to be sent, and which of them can never be sent.
    pub(super) async fn payload(&mut self, seqs: Vec<u64>) -> Result<(Vec<u8>, Vec<u64>), StoreError> {
        let connection = self.identity().connection_in_records();
        if let Some((seq, record)) = self.fresh.as_mut().filter(|(seq, _)| seqs == [*seq])
            && let Ok(payload) = record.stamped(*seq, connection)
            && payload.len() <= record.kind().max_record_bytes()
        {
            return Ok((payload, Vec::new()));
        }
        let encoded = self
            .thread
            .call(move |state| {
                let mut good = Vec::new();
                let mut poison = Vec::new();
                for row in state.rows(&seqs)? {
                    match crate::record::stamp(row.kind, &row.body, row.seq, connection) {
                        Ok(bytes) => good.push(bytes),
                        Err(error) => {
                            tracing::error!(seq = row.seq, kind = ?row.kind, %error, "a record is dropped: it cannot be sent");
                            poison.push(row.seq);
                        }
                    }
                }
                Ok((good, poison))
            })
            .await?;
        let (mut good, poison) = encoded;
        let payload = match good.len() {
            0 => Vec::new(),
            1 => good.remove(0),
            _ => protocol::codec::batch(good.iter().map(Vec::as_slice)),
        };
        Ok((payload, poison))
    }

    /// Gives up records that can never be sent, and tells the server.
    pub(super) async fn drop_poison(&mut self, seqs: &[u64], ts_ms: i64) -> Result<(), StoreError> {
        let change = self.uplink.plan_drop(seqs, ts_ms);
        let change = self.thread.call(move |state| state.commit(&change).map(|()| change)).await?;
        self.uplink.committed(&change);
        Ok(())
    }

    /// Gives the state a new identity; the connection must be made anew.
    pub(super) async fn renew(&mut self) -> Result<(), StoreError> {
        let take_over = self.uplink.outbox().to_take_over();
        let old = self.state_id;
        let (state_id, loaded) = self
            .thread
            .call(move |state| state.renew(&take_over).and_then(|id| Ok((id, state.load()?))))
            .await?;
        self.state_id = state_id;
        self.uplink = Uplink::new(Outbox::load(loaded, BUDGET_BYTES));
        self.fresh = None;
        tracing::warn!(
            %old, new = %state_id, waiting = self.uplink.outbox().depth(),
            "the server knows records of this state that this device never sent: an older copy of the state was \
             restored, or another device has one too. The state has a new identity now"
        );
        Ok(())
    }

    /// Stores the names of inputs that were not seen before.
    pub(super) async fn add_inputs(&mut self, names: Vec<String>) -> Result<(), StoreError> {
        for name in names {
            let stored = name.clone();
            self.thread.call(move |state| state.add_input(&stored)).await?;
            self.inputs.push(name);
        }
        Ok(())
    }

    /// Closes the database. Blocks until that is done.
    pub(super) fn close(self) {
        self.thread.close();
    }
}

/// The state folder, in use or not.
#[derive(Debug)]
pub(super) struct Folder {
    /// Taken once and held for the life of the process.
    pub(super) lock: Option<StateLock>,
    pub(super) store: Option<Store>,
    /// When to try again.
    pub(super) retry_at: Duration,
    backoff: Backoff,
}

impl Folder {
    pub(super) const fn new() -> Self {
        Self { lock: None, store: None, retry_at: Duration::ZERO, backoff: RETRY }
    }

    /// Tries to get at the state.
    pub(super) async fn open(
        &mut self,
        dir: &Path,
        status_file: &Path,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        if self.lock.is_none() {
            let mut lock = StateLock::take(dir)?;
            lock.announce(status_file)?;
            self.lock = Some(lock);
        }
        self.store = Some(Store::open(dir, now_ms).await?);
        Ok(())
    }

    /// Something was written. Opening alone proves little: a broken disk may allow that again and again.
    pub(super) fn works(&mut self) {
        self.backoff.reset();
    }

    /// It could not be opened, or must be opened again.
    pub(super) fn failed(&mut self, now: Duration, random: u64) {
        self.store = None;
        self.retry_at = now + self.backoff.next(random);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use protocol::message::Desired;

    use super::*;

    #[tokio::test]
    async fn a_show_lock_counts_although_the_disk_does_not_take_it_and_the_version_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path(), 0).await.unwrap();
        let desired = |version, show_locks| Desired {
            version,
            config: BTreeMap::new(),
            target_version: None,
            show_locks,
            redundancy_group: Some("pair".to_owned()),
        };
        let keep = |desired| Kept { desired: Some(desired), reported: None };
        store.keep_desired(keep(desired(1, Vec::new())), false, 0).await.unwrap();
        let database = rusqlite::Connection::open(dir.path().join("db/state.db")).unwrap();
        database.execute_batch("ALTER TABLE desired RENAME TO elsewhere").unwrap();
        store.keep_desired(keep(desired(2, vec![(0, 9)])), false, 0).await.unwrap_err();
        assert_eq!((store.wanted.version, store.wanted.show_locks.as_slice()), (1, &[(0, 9)][..]));

        // A report about what is stored does not take it back.
        database.execute_batch("ALTER TABLE elsewhere RENAME TO desired").unwrap();
        store.keep_desired(store.kept.clone(), false, 0).await.unwrap();
        assert_eq!((store.wanted.version, store.wanted.show_locks.len()), (1, 1));
        store.keep_desired(keep(desired(2, Vec::new())), false, 0).await.unwrap();
        assert_eq!((store.wanted.version, store.wanted.show_locks.len()), (2, 0));
    }

    #[test]
    fn a_full_disk_leaves_the_index_right_only_if_the_database_itself_refused() {
        let refused =
            rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL), None);
        let database = StateError::Database { operation: "store", path: "db".into(), source: refused };
        assert!(!StoreError::State(database).is_fatal());
        // The journal's number is written after the commit.
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let file = StateError::File { operation: "write", path: "journal-high.new".into(), source: full };
        assert!(StoreError::State(file).is_fatal());
        assert!(!StoreError::Refused(Refused::Full).is_fatal());
    }
}
