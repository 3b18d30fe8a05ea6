//! What the server says to the agent.

use std::time::Duration;

use protocol::codec::{self, limit};
use protocol::message::{Ack, ServerStatus};
use protocol::topic::{Downlink, Topic};

use super::agent::{Agent, random};
use crate::spool_file;

/// The whole fleet hears at the same moment that a server is back.
const SERVER_BACK_SPREAD_MS: u64 = 5_000;
/// A clock that is off by more is worth a word in the log.
const CLOCK_OFF_MS: u64 = 60_000;

impl Agent {
    /// Takes in what the server says.
    pub(super) async fn message(&mut self, topic: Topic, payload: &[u8], retained: bool) {
        match topic {
            Topic::ToDevice { downlink: Downlink::Ack, .. } => self.ack(payload).await,
            Topic::ToDevice { downlink: Downlink::Command, .. } => self.command(payload).await,
            Topic::ToDevice { downlink: Downlink::Desired, .. } => self.desired(payload).await,
            Topic::Server { .. } if !retained => self.server_said(payload),
            _ => {}
        }
    }

    async fn ack(&mut self, payload: &[u8]) {
        let ack: Ack = match codec::decode(payload, limit::LARGEST_BYTES) {
            Ok(ack) => ack,
            Err(error) => return tracing::warn!(%error, "an acknowledgement cannot be read"),
        };
        self.server_time(ack.server_time);
        let now = self.now();
        let Some(store) = &mut self.folder.store else { return };
        if ack.state_id != store.state_id || self.session.link().is_none() {
            return;
        }
        let opened = store.uplink.acknowledged(&ack.ranges, now);
        spool_file::acknowledged(store.state_id, store.uplink.outbox().committed());
        let waiting = store.uplink.outbox().depth();
        self.reporter.last_ack_at_ms = Some(self.kernel.wall_ms());
        self.reporter.touch();
        if opened && !self.answered {
            self.answered = true;
            self.certificate_is_answered();
            let link = self.session.tried.as_ref().map(ToString::to_string).unwrap_or_default();
            tracing::info!(link, waiting, "connected; the server answers");
            self.note_way().await;
            self.report_config().await;
        }
    }

    /// Compares the clocks; a wrong one harms nothing here, but people should know.
    pub(super) fn server_time(&mut self, server_ms: Option<i64>) {
        let Some(server_ms) = server_ms else { return };
        self.clock.server_says(server_ms, self.kernel.boottime_ms());
        let offset = server_ms.saturating_sub(self.kernel.wall_ms());
        let moved = offset.abs_diff(self.clock_offset_ms.unwrap_or(0)) > CLOCK_OFF_MS;
        if moved && offset.unsigned_abs() > CLOCK_OFF_MS {
            let seconds = offset / 1000;
            tracing::warn!(
                "this device's clock differs from the server's by {seconds} s; check its time settings (NTP)"
            );
        }
        self.clock_offset_ms = Some(offset);
    }

    fn server_said(&mut self, payload: &[u8]) {
        let now = self.now();
        match codec::decode_any::<ServerStatus>(payload, limit::COMMAND_BYTES) {
            Ok(ServerStatus { online: true, .. }) => {
                if let Some(store) = &mut self.folder.store {
                    let wait = Duration::from_millis(random() % SERVER_BACK_SPREAD_MS);
                    store.uplink.server_is_back(now, wait);
                }
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "a server's status cannot be read"),
        }
    }
}
