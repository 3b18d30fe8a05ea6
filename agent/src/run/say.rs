//! What the agent says to the server, when the uplink wants it said.

use std::time::Duration;

use protocol::topic::Uplink;

use super::agent::Agent;
use super::messages::{self, BirthFacts};
use super::session::Stage;
use super::store::StoreError;
use crate::failpoint;
use crate::link::Tag;
use crate::outbox::Kind;
use crate::uplink::{Action, PacketId};

impl Agent {
    /// Does what the uplink wants, until it wants no more.
    pub(super) async fn send(&mut self) {
        loop {
            let now = self.now();
            let Some(store) = &mut self.folder.store else { return };
            let Some(action) = store.uplink.poll(now) else { return };
            match action {
                Action::Birth(id) => self.send_birth(Tag::Packet(id)),
                Action::Records(id, kind, seqs) => {
                    if let Err(error) = self.send_records(id, kind, seqs).await {
                        self.kept(Err(error));
                    }
                }
                Action::Release(below) => {
                    let released = store.release(below, now).await;
                    self.kept(released);
                }
                Action::DropLink => {
                    let problem =
                        "the broker does not confirm what is sent to it; connecting again".to_owned();
                    self.connection_failed(problem, Duration::ZERO);
                }
                Action::NewIdentity => self.renew().await,
            }
        }
    }

    async fn send_records(&mut self, id: PacketId, kind: Kind, seqs: Vec<u64>) -> Result<(), StoreError> {
        let Some(store) = &mut self.folder.store else { return Ok(()) };
        let (payload, poison) = store.payload(seqs).await?;
        if let (false, Some(link)) = (payload.is_empty(), self.session.link()) {
            if kind == Kind::Report {
                failpoint::reached(failpoint::REPORT_BEFORE);
            }
            // One that is not taken comes back with the end of the link.
            let _ = link.publish(Tag::Packet(id), kind.topic(), payload);
            if kind == Kind::Report {
                failpoint::reached(failpoint::REPORT_AFTER);
            }
        }
        if !poison.is_empty() {
            store.uplink.withdrawn(id, &poison);
            store.drop_poison(&poison, self.kernel.wall_ms()).await?;
        }
        Ok(())
    }

    fn send_birth(&self, tag: Tag) {
        let (Stage::Linked { link, transport, .. }, Some(store)) = (&self.session.stage, &self.folder.store)
        else {
            return;
        };
        let facts = BirthFacts {
            config: &self.config,
            kernel: &self.kernel,
            app: self.app.as_ref(),
            inputs: &store.inputs,
            transport: *transport,
        };
        let identity = store.identity();
        let next_seq = store.uplink.outbox().next_seq();
        let encoded =
            messages::birth(identity, next_seq, &facts).and_then(|b| Ok((b, identity.presence(true)?)));
        match encoded {
            Ok((birth, presence)) => {
                // In this order: a presence is believed only if it is of the last birth's connection.
                let _ = link.publish(tag, Uplink::Birth, birth)
                    && link.publish(Tag::Presence, Uplink::Presence, presence);
            }
            Err(error) => tracing::error!(%error, "a birth cannot be encoded"),
        }
    }

    async fn renew(&mut self) {
        self.hang_up().await;
        // What the older copy holds may have been done after the copy was made.
        for write in self.commands.given_up(self.kernel.wall_ms()) {
            if !self.journal(write).await {
                // With another identity it would run. The next answer of a server asks for one again.
                let problem = "the commands of an older copy of the state cannot be given up yet".to_owned();
                return self.connection_failed(problem, Duration::ZERO);
            }
        }
        let Some(store) = &mut self.folder.store else { return };
        let renewed = store.renew().await;
        self.kept(renewed);
        let problem = "the state was given a new identity; connecting again".to_owned();
        self.connection_failed(problem, Duration::ZERO);
    }
}
