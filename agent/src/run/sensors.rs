//! What was seen of the application and the machine: into heartbeats and events, and to the commands that wait for it.

use super::agent::Agent;
use super::messages;
use crate::app_status::AppStatus;
use crate::metrics::Metrics;
use crate::record::Record;

impl Agent {
    pub(super) async fn app_seen(&mut self, app: AppStatus, answers: Option<u64>) {
        self.app_seen_at = Some(self.now());
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
        let Some(store) = &mut self.folder.store else { return };
        let active = self.app.as_ref().map(|app| app.answer.active_inputs.as_slice()).unwrap_or_default();
        let new = messages::new_inputs(active, &store.inputs);
        let birth_changed = version_changed || !new.is_empty();
        let added = if new.is_empty() { Ok(()) } else { store.add_inputs(new).await };
        if birth_changed {
            store.uplink.birth_has_changed();
        }
        if let Err(error) = added {
            self.store_failed(&error);
        }
        let (Some(store), Some(event)) = (&mut self.folder.store, messages::show_event(before, live, ts))
        else {
            return;
        };
        let kept = store.keep(Record::Event(event), ts).await;
        self.kept(kept);
    }

    pub(super) async fn heartbeat(&mut self, metrics: &Metrics) {
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
            self.reporter.last_heartbeat_at_ms = Some(ts);
            self.reporter.touch();
        }
        self.kept(kept);
    }
}
