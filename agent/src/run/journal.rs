//! The command journal's side of the store: a change and its report are one commit.

use protocol::id::CommandId;
use protocol::message::Reported;

use super::store::{Store, StoreError};
use crate::command::{Entry, Wanted, Write};
use crate::outbox::Change;
use crate::record::Record;
use crate::state::Kept;

impl Store {
    /// Commits a change of a command and its report. What comes back is the change as the database has it; when it
    /// does, an effect that depends on it may start. `trusted_ms` is the time, if it has been confirmed.
    pub(super) async fn journal(
        &mut self,
        mut write: Write,
        ts_ms: i64,
        trusted_ms: Option<i64>,
    ) -> Result<Write, StoreError> {
        let change = if write.says {
            let change = self.plan(Record::Report(write.entry.report.clone()), ts_ms)?;
            // The new record is the last of those that are inserted.
            write.entry.record_seq = change.next_seq - 1;
            change
        } else {
            self.no_record()
        };
        let (change, write) = self
            .thread
            .call(move |state| state.journal(&write, &change, trusted_ms).map(|_| (change, write)))
            .await?;
        self.uplink.committed(&change);
        Ok(write)
    }

    /// A command in the journal, open or not.
    pub(super) async fn command(&self, id: CommandId) -> Result<Option<Entry>, StoreError> {
        Ok(self.thread.call(move |state| state.command(&id)).await?)
    }

    /// Queues a command's last report once more, and returns the number of that record.
    pub(super) async fn repeat(&mut self, entry: &Entry, ts_ms: i64) -> Result<u64, StoreError> {
        let change = self.plan(Record::Report(entry.report.clone()), ts_ms)?;
        let (id, seq) = (entry.id.clone(), change.next_seq - 1);
        let change = self.thread.call(move |state| state.repeat(&id, seq, &change).map(|()| change)).await?;
        self.uplink.committed(&change);
        Ok(seq)
    }

    /// Stores what the server wants together with the report about it, if that is a new one.
    pub(super) async fn keep_desired(
        &mut self,
        kept: Kept,
        reports: bool,
        ts_ms: i64,
    ) -> Result<(), StoreError> {
        let news = (kept.desired != self.kept.desired).then(|| super::desired::wanted(kept.desired.as_ref()));
        if let Some(wanted) = &news {
            // A new lock counts even if the disk does not take it. The version does not: it is tried again.
            self.wanted = Wanted { version: self.wanted.version, ..wanted.clone() };
        }
        let report: Option<Reported> = kept.reported.clone().filter(|_| reports);
        let change = match report {
            Some(report) => self.plan(Record::Reported(report), ts_ms)?,
            None => self.no_record(),
        };
        let (change, kept) =
            self.thread.call(move |state| state.keep(&kept, &change).map(|()| (change, kept))).await?;
        self.uplink.committed(&change);
        self.wanted = news.unwrap_or_else(|| self.wanted.clone());
        self.kept = kept;
        Ok(())
    }

    pub(super) fn plan(&self, record: Record, ts_ms: i64) -> Result<Change, StoreError> {
        let kind = record.kind();
        Ok(self.uplink.plan(kind, record.into_body()?, ts_ms)?)
    }

    fn no_record(&self) -> Change {
        Change { next_seq: self.uplink.outbox().next_seq(), ..Change::default() }
    }
}
