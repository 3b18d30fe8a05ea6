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
    App(Box<AppStatus>),
}

/// Both threads. They end when this is dropped; one that hangs is left behind.
#[derive(Debug)]
pub(super) struct Probe {
    ask_machine: sync::SyncSender<()>,
    seen: mpsc::Receiver<Seen>,
    /// Its end is the sign to stop.
    _app_runs: sync::SyncSender<()>,
}

impl Probe {
    pub(super) fn start(config: &Config, kernel: &Kernel) -> std::io::Result<Self> {
        let (sender, seen) = mpsc::channel(4);
        let (ask_machine, asked) = sync::sync_channel::<()>(1);
        let (app_runs, stop) = sync::sync_channel::<()>(0);
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
            loop {
                if sender.blocking_send(Seen::App(Box::new(reader.read(&kernel)))).is_err() {
                    return;
                }
                if stop.recv_timeout(APP_INTERVAL) != Err(sync::RecvTimeoutError::Timeout) {
                    return;
                }
            }
        })?;
        Ok(Self { ask_machine, seen, _app_runs: app_runs })
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
