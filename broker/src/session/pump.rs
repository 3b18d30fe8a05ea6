//! Brings messages from a session's link into its queue.
//!
//! The pump takes whatever the router has for the link, so that the router's logs hold nothing for a client that is slow or
//! away: what does not fit into the queue makes older messages leave it. Where a client takes its messages and is just
//! not fast enough, the pump waits for it, and so does who publishes; not for long, if the client is a person's.

use std::sync::Arc;

use tokio::time::timeout;

use super::{FromLog, Session};
use crate::gate::Gate;
use crate::message::Message;
use crate::router::{FromRouter, LinkReceiver, LinkSender};

/// Bytes of messages that are handed over at once, about.
const BATCH_BYTES: usize = 64 * 1024;

/// Runs until the session has ended, then gives the link back.
pub(super) async fn pump(
    gate: Arc<Gate>,
    session: Arc<Session>,
    sender: Arc<LinkSender>,
    mut receiver: LinkReceiver,
) {
    let mut batch = Vec::new();
    while !session.lock().ended {
        let mut next = Some(receiver.next().await);
        let mut bytes_left = BATCH_BYTES;
        while let Some(event) = next {
            match event {
                Ok(FromRouter::Message { channel, offset, bytes }) => {
                    bytes_left = bytes_left.saturating_sub(bytes.len());
                    let message = Message::from_bytes(bytes);
                    batch.extend(message.map(|message| FromLog { channel, offset, message }));
                }
                Ok(FromRouter::Subscribed(token)) => {
                    // What came before it goes before the answer.
                    hand_over(&gate, &session, &mut batch).await;
                    session.subscribed(token);
                }
                Ok(FromRouter::Other) => {}
                Err(_) => return,
            }
            next = if bytes_left > 0 { receiver.next_if_there() } else { None };
        }
        hand_over(&gate, &session, &mut batch).await;
    }
    let channels = session.leave_logs();
    gate.router.recycle(sender, receiver, channels).await;
}

/// Puts messages into the session's queue.
async fn hand_over(gate: &Gate, session: &Session, batch: &mut Vec<FromLog>) {
    let mut taken = 0;
    while taken < batch.len() {
        let handed = session.hand_over(&batch[taken..]);
        taken += handed.taken;
        gate.counters.dropped_log_wrapped.add(handed.lost);
        gate.counters.dropped_queue_full.add(handed.dropped);
        if handed.waits && timeout(session.patience(), session.room.notified()).await.is_err() {
            session.give_up();
        }
    }
    batch.clear();
}
