//! Brings messages from a session's link into its queue.
//!
//! While a connected client's queue is full the pump waits, and the router's log holds what follows; what falls out at
//! the log's end meanwhile is counted. For an absent client it drops and counts instead, so that the router holds
//! nothing for it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::Session;
use crate::gate::Gate;
use crate::message::Message;
use crate::router::{FromRouter, LinkReceiver, LinkSender};

/// Bytes of messages that are handed over at once, about.
const BATCH_BYTES: usize = 64 * 1024;
/// A session is behind when so much was published since what it gets that this part of its log may be full of it, ...
const LATE_PART_OF_LOG: usize = 8;
/// ... until it is not, or nothing comes for so long.
const QUIET_TIME: Duration = Duration::from_millis(2);
/// A service that takes nothing for so long is not waited for until it does.
const STUCK_TIME: Duration = Duration::from_millis(200);

/// Runs until the session has ended, then gives the link back.
pub(super) async fn pump(
    gate: Arc<Gate>,
    session: Arc<Session>,
    sender: Arc<LinkSender>,
    mut receiver: LinkReceiver,
) {
    let mut places = Places::default();
    let mut messages = Vec::new();
    let mut behind = None;
    while !session.lock().ended {
        let first = match &behind {
            None => receiver.next().await,
            // Nothing more for a moment: there is nothing left to wait for.
            Some(_) => match timeout(QUIET_TIME, receiver.next()).await {
                Ok(first) => first,
                Err(_) => {
                    behind = None;
                    continue;
                }
            },
        };
        let mut next = Some(first);
        let mut bytes_left = BATCH_BYTES;
        while let Some(event) = next {
            match event {
                Ok(FromRouter::Message { channel, offset, bytes }) => {
                    gate.counters.dropped_log_wrapped.add(places.gap(&channel, offset));
                    bytes_left = bytes_left.saturating_sub(bytes.len());
                    messages.extend(Message::from_bytes(bytes));
                }
                Ok(FromRouter::Subscribed(token)) => {
                    // What came before it goes before the answer.
                    hand_over(&gate, &session, &mut messages, &mut behind).await;
                    // A new reader of a log begins at its end.
                    places = Places::default();
                    session.subscribed(token);
                }
                Ok(FromRouter::Other) => {}
                Err(_) => return,
            }
            next = if bytes_left > 0 { receiver.next_if_there() } else { None };
        }
        hand_over(&gate, &session, &mut messages, &mut behind).await;
    }
    drop(behind);
    let channels = session.lock().channels();
    gate.router.recycle(sender, receiver, channels).await;
}

/// Puts messages into the session's queue, waiting for room if a client is there to make it.
async fn hand_over<'a>(
    gate: &'a Gate,
    session: &Session,
    messages: &mut Vec<Message>,
    behind: &mut Option<Behind<'a>>,
) {
    let mut taken = 0;
    let segment = if session.is_service {
        gate.limits.service_log_segment_bytes
    } else {
        gate.limits.log_segment_bytes
    };
    let late_bytes = (segment * gate.limits.log_segments / LATE_PART_OF_LOG) as u64;
    let mut is_late = messages.first().is_some_and(|message| gate.bytes_since(message) > late_bytes);
    if is_late {
        behind.get_or_insert_with(|| Behind::new(gate));
    }
    loop {
        taken += session.offer_all(&messages[taken..]);
        if taken == messages.len() {
            break;
        }
        let (ended, connected) = {
            let inner = session.lock();
            (inner.ended, inner.connected)
        };
        if ended {
            break;
        }
        if !connected {
            gate.counters.dropped_queue_full.one();
            taken += 1;
            continue;
        }
        // Now it is the client that is slow. What a service gets is worth some waiting, people are not waited for.
        is_late = session.is_service;
        if is_late {
            behind.get_or_insert_with(|| Behind::new(gate));
        } else {
            *behind = None;
        }
        while timeout(STUCK_TIME, session.room.notified()).await.is_err() {
            *behind = None;
        }
    }
    if !is_late {
        *behind = None;
    }
    messages.clear();
}

/// A session is behind for as long as this lives.
struct Behind<'a>(&'a Gate);

impl Behind<'_> {
    fn new(gate: &Gate) -> Behind<'_> {
        gate.behind.send_modify(|behind| *behind += 1);
        Behind(gate)
    }
}

impl Drop for Behind<'_> {
    fn drop(&mut self) {
        self.0.behind.send_modify(|behind| *behind -= 1);
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
