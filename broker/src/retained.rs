//! The last message of each topic that keeps one.
//!
//! Bounded in number and bytes. Messages are found by a filter's literal beginning, so that one organisation's
//! subscription does not walk over another's topics. Pure: the clock comes in with each call.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::filter::{literal_prefix, matches};
use crate::message::Message;

/// What became of a message that asked to be retained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// It is the topic's retained message now.
    Kept,
    /// It was empty: the topic has no retained message any more.
    Cleared,
    /// There is no room; the topic's former message, if any, is gone, as it is no longer the last.
    Full,
}

/// How many topics are looked at for one piece.
const LOOKED_AT: usize = 512;

/// Some of the messages for a filter.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) messages: Vec<Message>,
    /// Where to go on; `None` at the end.
    pub(crate) after: Option<String>,
}

/// All retained messages.
#[derive(Debug)]
pub(crate) struct Retained {
    by_topic: BTreeMap<Box<str>, Message>,
    bytes: usize,
    max_messages: usize,
    max_bytes: usize,
}

impl Retained {
    /// An empty store with its bounds.
    pub(crate) fn new(max_messages: usize, max_bytes: usize) -> Retained {
        Retained { by_topic: BTreeMap::new(), bytes: 0, max_messages, max_bytes }
    }

    /// Keeps a message that was published with retain, or clears its topic if it has no payload.
    pub(crate) fn store(&mut self, message: &Message) -> Stored {
        if let Some(old) = self.by_topic.remove(message.topic()) {
            self.bytes -= cost(&old);
        }
        if message.payload().is_empty() {
            return Stored::Cleared;
        }
        if self.by_topic.len() >= self.max_messages || self.bytes + cost(message) > self.max_bytes {
            return Stored::Full;
        }
        self.bytes += cost(message);
        self.by_topic.insert(message.topic().into(), message.clone());
        Stored::Kept
    }

    /// At most `count` messages for `filter` after the topic `after`, in the order of their topics, out of at most
    /// [`LOOKED_AT`] topics: whoever asks for what is not there shall not keep others waiting.
    pub(crate) fn matching(&self, filter: &str, after: Option<&str>, count: usize, now_ms: u64) -> Piece {
        let prefix = literal_prefix(filter);
        let from = match after {
            Some(topic) => Bound::Excluded(topic),
            None => Bound::Included(prefix),
        };
        let mut messages = Vec::new();
        let topics = self.by_topic.range::<str, _>((from, Bound::Unbounded));
        for (looked_at, (topic, message)) in
            topics.take_while(|(topic, _)| topic.starts_with(prefix)).enumerate()
        {
            if matches(filter, topic.as_bytes()) && message.expiry_left(now_ms).is_ok() {
                messages.push(message.clone());
            }
            if messages.len() >= count || looked_at + 1 >= LOOKED_AT {
                return Piece { messages, after: Some(topic.to_string()) };
            }
        }
        Piece { messages, after: None }
    }

    /// Drops what has expired.
    pub(crate) fn expire(&mut self, now_ms: u64) {
        let bytes = &mut self.bytes;
        self.by_topic.retain(|_, message| {
            let keep = message.expiry_left(now_ms).is_ok();
            if !keep {
                *bytes -= cost(message);
            }
            keep
        });
    }

    pub(crate) fn len(&self) -> usize {
        self.by_topic.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The message's own bytes and its topic as key.
fn cost(message: &Message) -> usize {
    message.len() + message.topic().len()
}

#[cfg(test)]
mod tests;
