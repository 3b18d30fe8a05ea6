//! The threads that look at the machine and the application: either may block, the event loop must not.

use std::sync::mpsc as sync;
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::app_status::{AppStatus, Reader};
use crate::config::Config;
use crate::kernel::Kernel;
use crate::metrics::{Metrics, Sampler};

/// Between two looks at the application.
const APP_INTERVAL: Duration = Duration::from_secs(10);

/// What a thread has seen.
#[derive(Debug)]
pub(super) enum Seen {
    Machine(Metrics),
    /// With the number of the question that this answers, if somebody had asked before it began.
    App(Box<AppStatus>, Option<u64>),
}

/// Both threads. They end when this is dropped; one that hangs is left behind.
#[derive(Debug)]
pub(super) struct Probe {
    ask_machine: sync::SyncSender<()>,
    seen: mpsc::Receiver<Seen>,
    /// Its end is the sign to stop.
    ask_app: sync::SyncSender<u64>,
    questions: u64,
}

impl Probe {
    pub(super) fn start(config: &Config, kernel: &Kernel) -> std::io::Result<Self> {
        let (sender, seen) = mpsc::channel(4);
        let (ask_machine, asked) = sync::sync_channel::<()>(1);
        let (ask_app, app_asked) = sync::sync_channel::<u64>(4);
        let mut sampler = Sampler::new(config);
        let to_loop = sender.clone();
        thread::Builder::new().name("metrics".to_owned()).spawn(move || {
            // CPU use is measured from one look to the next.
            sampler.sample();
            while asked.recv().is_ok() {
                if to_loop.blocking_send(Seen::Machine(sampler.sample())).is_err() {
                    return;
                }
            }
        })?;
        let mut reader = Reader::new(config, kernel);
        let kernel = kernel.clone();
        thread::Builder::new().name("app-status".to_owned()).spawn(move || {
            let mut question = None;
            loop {
                if sender.blocking_send(Seen::App(Box::new(reader.read(&kernel)), question)).is_err() {
                    return;
                }
                question = match app_asked.recv_timeout(APP_INTERVAL) {
                    // One look is enough for all who have asked until now.
                    Ok(first) => Some(app_asked.try_iter().last().unwrap_or(first)),
                    Err(sync::RecvTimeoutError::Timeout) => None,
                    Err(sync::RecvTimeoutError::Disconnected) => return,
                };
            }
        })?;
        Ok(Self { ask_machine, seen, ask_app, questions: 0 })
    }

    /// Asks for a look at the application that begins after this. Returns the number of the question: what answers it,
    /// or a later one, has been seen since. If the thread hangs there is no answer.
    pub(super) fn ask_app(&mut self) -> u64 {
        self.questions += 1;
        // When the queue is full the thread hangs, or will look anyway, for an earlier question.
        let _ = self.ask_app.try_send(self.questions);
        self.questions
    }

    /// Asks for a look at the machine. Returns whether the thread can still take the request: if not, it hangs, on a
    /// disk most likely.
    pub(super) fn ask_machine(&self) -> bool {
        self.ask_machine.try_send(()).is_ok()
    }

    /// What was seen next. Never ends.
    pub(super) async fn seen(&mut self) -> Seen {
        match self.seen.recv().await {
            Some(seen) => seen,
            // Both threads have died; heartbeats go on without them.
            None => std::future::pending().await,
        }
    }
}
