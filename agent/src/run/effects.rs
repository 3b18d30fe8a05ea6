//! The threads on which effects, and what belongs to them, may block. What comes of it is an event of the loop.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use protocol::command::payload::Payload;
use protocol::id::CommandId;
use tokio::sync::mpsc;

use crate::certificate::{CertificateError, Issued};
use crate::config::Config;
use crate::effect::{self, EffectContext, Observed, Outcome, Prepared, Probed, Refusal};
use crate::failpoint;
use crate::kernel::Kernel;

/// What a thread has come to.
#[derive(Debug)]
pub(super) enum Done {
    /// A payload was checked, and what its effect will change was noted.
    Prepared(CommandId, Result<Box<(Prepared, Observed)>, Refusal>),
    /// An effect has ended.
    Ended(CommandId, Outcome),
    /// It was found out what became of an effect.
    Probed(CommandId, Probed),
    /// The server was asked for a certificate.
    Certificate(Result<Box<Issued>, CertificateError>),
}

/// The way to the threads and back.
#[derive(Debug)]
pub(super) struct Effects {
    sender: mpsc::Sender<Done>,
    done: mpsc::Receiver<Done>,
    /// Ready to be done.
    prepared: BTreeMap<CommandId, (Prepared, Observed)>,
}

impl Effects {
    pub(super) fn new() -> Self {
        let (sender, done) = mpsc::channel(16);
        Self { sender, done, prepared: BTreeMap::new() }
    }

    /// What has been done next. Ends never while nothing is.
    pub(super) async fn done(&mut self) -> Done {
        match self.done.recv().await {
            Some(done) => done,
            // This end has a sender of its own.
            None => std::future::pending().await,
        }
    }

    /// Checks a payload and notes how things are.
    pub(super) fn prepare(
        &self,
        id: CommandId,
        payload: Payload,
        config: Config,
        kernel: Kernel,
    ) -> std::io::Result<()> {
        self.on_a_thread("prepare", move || {
            let prepared = effect::prepare(payload, &config).map(|prepared| {
                let observed = prepared.observe(&kernel);
                Box::new((prepared, observed))
            });
            Done::Prepared(id, prepared)
        })
    }

    /// Keeps what is ready to be done. Of commands that are not open any more nothing is kept.
    pub(super) fn keep(
        &mut self,
        id: CommandId,
        prepared: (Prepared, Observed),
        is_open: impl Fn(&CommandId) -> bool,
    ) {
        self.prepared.retain(|id, _| is_open(id));
        self.prepared.insert(id, prepared);
    }

    /// Does it. Whether it has begun; if not, nothing was done.
    pub(super) fn begin(&mut self, timeout: Duration, context: EffectContext) -> Result<(), String> {
        let id = context.command_id.clone();
        let Some((prepared, observed)) = self.prepared.remove(&id) else {
            return Err("it was not prepared".to_owned());
        };
        let begun = self.on_a_thread("effect", move || {
            failpoint::reached(failpoint::EFFECT_BEFORE);
            let outcome = prepared.run(&observed, timeout, &context);
            failpoint::reached(failpoint::EFFECT_AFTER);
            Done::Ended(id, outcome)
        });
        begun.map_err(|error| format!("the system gives no thread: {error}"))
    }

    /// Finds out what became of an effect.
    pub(super) fn probe(&self, id: CommandId, observed: Observed, kernel: Kernel) -> std::io::Result<()> {
        self.on_a_thread("probe", move || Done::Probed(id, observed.probe(&kernel)))
    }

    /// Makes a key, and asks the server to sign a certificate for it.
    pub(super) fn ask_for_certificate(&self, config: Config) -> std::io::Result<()> {
        self.on_a_thread("certificate", move || super::certificate::ask(&config))
    }

    fn on_a_thread(&self, name: &str, work: impl FnOnce() -> Done + Send + 'static) -> std::io::Result<()> {
        let sender = self.sender.clone();
        let run = move || {
            // Nobody listens at the end of the agent; then nobody wants to know.
            let _ = sender.blocking_send(work());
        };
        thread::Builder::new().name(name.to_owned()).spawn(run).map(|_| ())
    }
}
