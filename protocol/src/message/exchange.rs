//! What a device and the server say to each other in HTTP requests, where MQTT does not get through: the same messages, each
//! with the end of its topic.

use std::fmt;

use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::codec::{Bytes, limit};

/// One message: `["heartbeat", h'…']`. The text is what [`crate::topic::exchange_suffix`] makes of its topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExchangeMessage(pub String, pub Bytes);

/// The body of a request, and of its answer: messages in the order in which they were said, at most
/// [`limit::EXCHANGE_MESSAGES`]. Reading stops at the first that is too many.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Exchange(pub Vec<ExchangeMessage>);

impl<'de> Deserialize<'de> for Exchange {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Messages;
        impl<'de> Visitor<'de> for Messages {
            type Value = Vec<ExchangeMessage>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of messages")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut messages = Vec::new();
                while let Some(message) = list.next_element()? {
                    if messages.len() == limit::EXCHANGE_MESSAGES {
                        return Err(A::Error::custom(format_args!(
                            "more than {} messages",
                            limit::EXCHANGE_MESSAGES
                        )));
                    }
                    messages.push(message);
                }
                Ok(messages)
            }
        }
        d.deserialize_seq(Messages).map(Self)
    }
}
