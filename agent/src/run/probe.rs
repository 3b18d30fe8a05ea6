//! The threads that look at the machine and the application: either may block, the event loop must not.
//!
//! They keep time themselves and wake the loop only with something new, so that it sleeps through everything else.

use std::sync::{Arc, Mutex, PoisonError, mpsc as sync};
use std::thread;
use std::time::{Duration, Instant};

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
    /// With the number of the question that this answers, if somebody had asked before it began. Without a question it
    /// comes only if it is not what came last.
    App(Box<AppStatus>, Option<u64>),
}

/// Both threads. They end when this is dropped; one that hangs is left behind.
#[derive(Debug)]
pub(super) struct Probe {
    beat: sync::SyncSender<Beat>,
    seen: mpsc::Receiver<Seen>,
    /// Its end is the sign to stop.
    ask_app: sync::SyncSender<u64>,
    app_looked_at: LookedAt,
    questions: u64,
}

/// When the last look ended.
type LookedAt = Arc<Mutex<Option<Instant>>>;

/// When to look at the machine.
#[derive(Debug, Clone, Copy)]
struct Beat {
    next: Instant,
    interval: Duration,
}

impl Probe {
    pub(super) fn start(config: &Config, kernel: &Kernel) -> std::io::Result<Self> {
        let (sender, seen) = mpsc::channel(4);
        let (beat, beats) = sync::sync_channel(1);
        let (ask_app, app_asked) = sync::sync_channel(4);
        let app_looked_at = LookedAt::default();
        let (sampler, to_loop) = (Sampler::new(config), sender.clone());
        thread::Builder::new()
            .name("metrics".to_owned())
            .spawn(move || watch_machine(sampler, &beats, &to_loop))?;
        let (reader, kernel, looked_at) =
            (Reader::new(config, kernel), kernel.clone(), app_looked_at.clone());
        thread::Builder::new()
            .name("app-status".to_owned())
            .spawn(move || watch_app(reader, &kernel, &app_asked, &looked_at, &sender))?;
        Ok(Self { beat, seen, ask_app, app_looked_at, questions: 0 })
    }

    /// Asks for a look at the application that begins after this. Returns the number of the question: what answers it,
    /// or a later one, has been seen since. If the thread hangs there is no answer.
    pub(super) fn ask_app(&mut self) -> u64 {
        self.questions += 1;
        // When the queue is full the thread hangs, or will look anyway, for an earlier question.
        let _ = self.ask_app.try_send(self.questions);
        self.questions
    }

    /// How long ago the application was looked at.
    pub(super) fn app_looked_for(&self) -> Option<Duration> {
        let at = *self.app_looked_at.lock().unwrap_or_else(PoisonError::into_inner);
        at.map(|at| at.elapsed())
    }

    /// From now on the machine is looked at every `interval`, and first after `first`. If the thread hangs, on a disk most
    /// likely, nothing is seen.
    pub(super) fn look_at_machine_every(&self, interval: Duration, first: Duration) {
        // Full is the queue only while the thread hangs.
        let _ = self.beat.try_send(Beat { next: Instant::now() + first, interval });
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

fn watch_machine(mut sampler: Sampler, beats: &sync::Receiver<Beat>, seen: &mpsc::Sender<Seen>) {
    // CPU use is measured from one look to the next.
    sampler.sample();
    let Ok(mut beat) = beats.recv() else { return };
    loop {
        match beats.recv_timeout(beat.next.saturating_duration_since(Instant::now())) {
            Ok(another) => beat = another,
            Err(sync::RecvTimeoutError::Disconnected) => return,
            Err(sync::RecvTimeoutError::Timeout) => {
                if seen.blocking_send(Seen::Machine(sampler.sample())).is_err() {
                    return;
                }
                // One look is enough for all that were missed.
                let now = Instant::now();
                beat.next += beat.interval;
                if beat.next <= now {
                    beat.next = now + beat.interval;
                }
            }
        }
    }
}

fn watch_app(
    mut reader: Reader,
    kernel: &Kernel,
    asked: &sync::Receiver<u64>,
    looked_at: &LookedAt,
    seen: &mpsc::Sender<Seen>,
) {
    let mut told = None;
    let mut question = None;
    loop {
        let status = reader.read(kernel);
        *looked_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        if question.is_some() || told.as_ref() != Some(&status) {
            told = Some(status.clone());
            if seen.blocking_send(Seen::App(Box::new(status), question)).is_err() {
                return;
            }
        }
        question = match asked.recv_timeout(APP_INTERVAL) {
            // One look is enough for all who have asked until now.
            Ok(first) => Some(asked.try_iter().last().unwrap_or(first)),
            Err(sync::RecvTimeoutError::Timeout) => None,
            Err(sync::RecvTimeoutError::Disconnected) => return,
        };
    }
}
