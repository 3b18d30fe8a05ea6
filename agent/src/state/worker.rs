//! The one thread that uses the database, so that an fsync on a slow card does not stop the event loop's other work.

use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use super::{Opened, Repair, State, StateError};

/// Jobs that may wait. The event loop awaits each, so there is hardly ever more than one.
const QUEUE: usize = 16;

type Job = Box<dyn FnOnce(&mut State) + Send>;

/// A handle on the thread. Dropping it lets the thread finish what it has and close the database.
#[derive(Debug)]
pub struct StateThread {
    /// Always there until the handle is closed or dropped.
    jobs: Option<mpsc::SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl StateThread {
    /// Starts the thread and opens the database in `dir`; see [`State::open`].
    ///
    /// # Errors
    /// As [`State::open`], or the system gives no thread.
    pub async fn open(dir: PathBuf, now_ms: i64) -> Result<(Self, Option<Repair>), StateError> {
        let (jobs, inbox) = mpsc::sync_channel::<Job>(QUEUE);
        let (opened, answer) = oneshot::channel();
        let path = dir.clone();
        let thread = std::thread::Builder::new()
            .name("state".to_owned())
            .spawn(move || match State::open(&dir, now_ms) {
                Ok(Opened { mut state, repair }) => {
                    if opened.send(Ok(repair)).is_ok() {
                        inbox.into_iter().for_each(|job| job(&mut state));
                    }
                }
                Err(error) => {
                    // Nobody waits any more: nobody wants to know.
                    let _ = opened.send(Err(error));
                }
            })
            .map_err(|source| StateError::File { operation: "start a thread for", path, source })?;
        let repair = answer.await.map_err(|_| StateError::Closed)??;
        Ok((Self { jobs: Some(jobs), thread: Some(thread) }, repair))
    }

    /// Runs `work` on the thread and waits for its outcome.
    ///
    /// # Errors
    /// Those of `work`, or the thread has ended.
    pub async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut State) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, StateError> {
        let (done, answer) = oneshot::channel();
        let job: Job = Box::new(move |state| {
            // The caller may have gone; the work is done all the same.
            let _ = done.send(work(state));
        });
        let jobs = self.jobs.as_ref().ok_or(StateError::Closed)?;
        jobs.send(job).map_err(|_| StateError::Closed)?;
        answer.await.map_err(|_| StateError::Closed)?
    }

    /// Finishes what was asked for and closes the database. Blocks for as long as that takes.
    pub fn close(mut self) {
        self.join();
    }

    fn join(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic in the thread has been reported by the runtime already.
            let _ = thread.join();
        }
    }
}

impl Drop for StateThread {
    fn drop(&mut self) {
        self.join();
    }
}
