//! What was seen of the application and the machine: into heartbeats and events, and to the commands that wait for it.

use super::agent::{Agent, random};
use super::messages;
use super::session::Stage;
use crate::app_status::AppStatus;
use crate::metrics::Metrics;
use crate::record::Record;

impl Agent {
    pub(super) async fn app_seen(&mut self, app: AppStatus, answers: Option<u64>) {
        let ts = self.kernel.wall_ms();
        let live = app.liveness.as_option();
        let before = self.app.as_ref().and_then(|app| app.liveness.as_option());
        let version_changed = self.app.as_ref().and_then(|app| app.version.as_ref()) != app.version.as_ref();
        self.app = Some(app);
        self.reporter.touch();
        if answers >= self.fresh_look && self.fresh_look.take().is_some() {
            // Before anything else: what was seen is fresh now.
            self.commands.looked(self.moment());
            self.turn_commands().await;
        }
        self.note_inputs().await;
        if let (Some(store), true) = (&mut self.folder.store, version_changed) {
            store.uplink.birth_has_changed();
        }
        let (Some(store), Some(event)) = (&mut self.folder.store, messages::show_event(before, live, ts))
        else {
            return;
        };
        let kept = store.keep(Record::Event(event), ts).await;
        self.kept(kept);
    }

    /// The server answers over a new connection: remembers the way, and tells if it is another one than before.
    pub(super) async fn note_way(&mut self) {
        let now = self.now();
        let before = self.session.works(&self.config, now, random());
        let Stage::Linked { transport, .. } = &self.session.stage else { return };
        let Some(before) = before.and_then(|way| way.transport()).filter(|before| before != transport) else {
            return;
        };
        let ts = self.kernel.wall_ms();
        tracing::info!("connected over {} now, over {} before", transport.as_str(), before.as_str());
        let event = messages::transport_event(before, *transport, ts);
        let Some(store) = &mut self.folder.store else { return };
        let kept = store.keep(Record::Event(event), ts).await;
        self.kept(kept);
    }

    /// Gives the inputs in use that have no number yet the next ones. What cannot be stored is tried again with the next
    /// heartbeat.
    async fn note_inputs(&mut self) {
        let (Some(store), Some(app)) = (&mut self.folder.store, &self.app) else { return };
        let new = messages::new_inputs(&app.answer.active_inputs, &store.inputs);
        if new.is_empty() {
            return;
        }
        let added = store.add_inputs(new).await;
        store.uplink.birth_has_changed();
        if let Err(error) = added {
            self.store_failed(&error);
        }
    }

    /// The machine was looked at.
    pub(super) async fn measured(&mut self, metrics: &Metrics) {
        let (now, interval) = (self.now(), self.interval());
        let expected = std::mem::replace(&mut self.next_heartbeat, now + interval);
        if std::mem::take(&mut self.metrics_hang) {
            tracing::warn!("the measurements of this machine work again");
            // The heartbeat that they were meant for went without them a moment ago.
            if expected > now + interval / 2 {
                return;
            }
        }
        self.heartbeat(metrics).await;
    }

    /// The machine should have been looked at by now.
    pub(super) async fn metrics_are_missing(&mut self) {
        if !std::mem::replace(&mut self.metrics_hang, true) {
            tracing::warn!("the measurements of this machine hang; a disk is the usual reason");
        }
        self.heartbeat(&Metrics::default()).await;
    }

    async fn heartbeat(&mut self, metrics: &Metrics) {
        self.note_inputs().await;
        let ts = self.kernel.wall_ms();
        let Some(store) = &mut self.folder.store else { return };
        let depth = store.uplink.outbox().depth();
        let heartbeat = messages::heartbeat(
            &self.kernel,
            metrics,
            self.app.as_ref(),
            &store.inputs,
            depth,
            self.commands.digest(),
        );
        let kept = store.keep(Record::Heartbeat(heartbeat), ts).await;
        if kept.is_ok() {
            self.reporter.heartbeat(ts, self.now());
        }
        self.kept(kept);
    }
}
