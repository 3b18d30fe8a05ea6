//! Brings messages from a session's link into its queue.
//!
//! While a connected client's queue is full the pump waits, and the router's log holds what follows; what falls out at
//! the log's end meanwhile is counted. For an absent client it drops and counts instead, so that the router holds
//! nothing for it.

use std::sync::Arc;

use bytes::Bytes;

use super::Session;
use super::state::Offer;
use crate::gate::Gate;
use crate::message::Message;
use crate::router::{FromRouter, LinkReceiver, LinkSender};

/// Runs until the session has ended, then gives the link back.
pub(super) async fn pump(
    gate: Arc<Gate>,
    session: Arc<Session>,
    sender: Arc<LinkSender>,
    mut receiver: LinkReceiver,
) {
    let mut places = Places::default();
    while !session.lock().ended {
        match receiver.next().await {
            Ok(FromRouter::Message { channel, offset, bytes }) => {
                gate.counters.dropped_log_wrapped.add(places.gap(&channel, offset));
                if let Some(message) = Message::from_bytes(bytes) {
                    hand_over(&gate, &session, &message).await;
                }
            }
            Ok(FromRouter::Subscribed(token)) => {
                // A new reader of a log begins at its end.
                places = Places::default();
                session.subscribed(token);
            }
            Ok(FromRouter::Other) => {}
            Err(_) => return,
        }
    }
    let channels = session.lock().channels();
    gate.router.recycle(sender, receiver, channels).await;
}

async fn hand_over(gate: &Gate, session: &Session, message: &Message) {
    while session.offer(message) == Offer::Full {
        {
            let inner = session.lock();
            if inner.ended {
                return;
            }
            if !inner.connected {
                gate.counters.dropped_queue_full.one();
                return;
            }
        }
        session.room.notified().await;
    }
}

/// Where the link is in each log it reads, to notice what it has missed.
#[derive(Debug, Default)]
pub(crate) struct Places(Vec<(Bytes, u64)>);

impl Places {
    /// How many messages were lost between the last one of its kind and this one. A link reads one log for each kind, whose name is the channel's end.
    pub(crate) fn gap(&mut self, channel: &Bytes, offset: Option<u64>) -> u64 {
        let Some(offset) = offset else { return 0 };
        let start = channel.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
        let kind = channel.slice(start..);
        match self.0.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, last)) => {
                let gap = offset.saturating_sub(*last + 1);
                *last = offset;
                gap
            }
            None => {
                self.0.push((kind, offset));
                0
            }
        }
    }
}
