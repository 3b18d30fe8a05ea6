//! `fleetd decode`: any message of the protocol as JSON.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::PathBuf,
};

use clap::{Args, ValueEnum};
use protocol::{
    codec::{self, CodecError, limit},
    message::{
        Ack, Birth, CommandReport, Desired, DeviceCommand, Event, Exchange, ExchangeMessage, Heartbeat,
        LogBatch, OperatorRequest, Presence, Reported, ServerStatus,
    },
    topic::{Downlink, Topic, Uplink, of_exchange},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::service::ingest::error_chain;

/// What to decode, and as what.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The message: hex digits, @FILE, or - for standard input.
    #[arg(default_value = "-", value_name = "HEX|@FILE|-")]
    message: String,
    /// The topic that it came on, which tells what it is.
    #[arg(long, conflicts_with = "kind")]
    topic: Option<String>,
    /// What it is. Without topic and kind the bytes are shown as they stand, with field numbers for names.
    #[arg(long, value_enum)]
    kind: Option<Kind>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Birth,
    Presence,
    Heartbeat,
    Status,
    Reported,
    Log,
    Event,
    Command,
    Desired,
    Ack,
    Request,
    Exchange,
}

/// Why a message cannot be shown.
#[derive(Debug, thiserror::Error)]
pub(super) enum DecodeError {
    #[error("cannot read {name}")]
    Read { name: String, source: io::Error },
    #[error("the message is neither hex digits nor @FILE nor -")]
    NotHex,
    #[error("{topic:?} is no topic that carries a binary message")]
    Topic { topic: String },
    #[error("the message cannot be decoded")]
    Codec(#[from] CodecError),
    #[error("cannot write the answer")]
    Write(#[from] io::Error),
    #[error("the message has no JSON form")]
    Json(#[from] serde_json::Error),
}

pub(super) fn run(arguments: &Arguments, out: &mut impl Write) -> Result<(), DecodeError> {
    let payload = read(&arguments.message)?;
    let kind = match &arguments.topic {
        Some(topic) => {
            let kind = topic.parse().ok().as_ref().and_then(kind_of);
            Some(kind.ok_or_else(|| DecodeError::Topic { topic: topic.clone() })?)
        }
        None => arguments.kind,
    };
    let json = match kind {
        Some(Kind::Exchange) => exchange(&payload)?,
        kind => message(kind, &payload)?,
    };
    writeln!(out, "{json}")?;
    Ok(())
}

fn message(kind: Option<Kind>, payload: &[u8]) -> Result<String, DecodeError> {
    Ok(match kind {
        None | Some(Kind::Exchange) => {
            to_json(&codec::decode_any::<codec::Value>(payload, limit::LARGEST_BYTES)?)?
        }
        Some(Kind::Birth) => one::<Birth>(payload)?,
        Some(Kind::Presence) => one::<Presence>(payload)?,
        Some(Kind::Heartbeat) => records::<Heartbeat>(payload)?,
        Some(Kind::Status) => records::<CommandReport>(payload)?,
        Some(Kind::Reported) => records::<Reported>(payload)?,
        Some(Kind::Log) => records::<LogBatch>(payload)?,
        Some(Kind::Event) => records::<Event>(payload)?,
        Some(Kind::Command) => one::<DeviceCommand>(payload)?,
        Some(Kind::Desired) => one::<Desired>(payload)?,
        Some(Kind::Ack) => one::<Ack>(payload)?,
        Some(Kind::Request) => one::<OperatorRequest>(payload)?,
    })
}

/// What was said in an HTTP exchange, each with its topic's end. A message that cannot be understood is shown with the reason.
fn exchange(payload: &[u8]) -> Result<String, DecodeError> {
    let Exchange(messages) = codec::decode(payload, limit::EXCHANGE_BYTES)?;
    // Whose they are does not matter for what they are.
    let whose = "org".parse().ok().zip("device".parse().ok());
    let mut shown = Vec::with_capacity(messages.len());
    for ExchangeMessage(suffix, said) in messages {
        let topic = whose.as_ref().and_then(|(org, device)| of_exchange(org, device, &suffix).ok());
        let json = match topic {
            Some(Topic::Server { .. }) => one::<ServerStatus>(&said.0),
            topic => message(topic.as_ref().and_then(kind_of), &said.0),
        };
        let json = match json {
            Ok(json) => json,
            Err(error) => to_json(&serde_json::json!({"error": error_chain(&error)}))?,
        };
        shown.push(format!("[{}, {json}]", to_json(&suffix)?));
    }
    Ok(format!("[{}]", shown.join(",\n")))
}

fn kind_of(topic: &Topic) -> Option<Kind> {
    Some(match topic {
        Topic::Device { uplink, .. } => match uplink {
            Uplink::Birth => Kind::Birth,
            Uplink::Presence => Kind::Presence,
            Uplink::Heartbeat => Kind::Heartbeat,
            Uplink::Status => Kind::Status,
            Uplink::Reported => Kind::Reported,
            Uplink::Log => Kind::Log,
            Uplink::Event => Kind::Event,
        },
        Topic::ToDevice { downlink, .. } => match downlink {
            Downlink::Command => Kind::Command,
            Downlink::Desired => Kind::Desired,
            Downlink::Ack => Kind::Ack,
        },
        Topic::OperatorCommand { .. } => Kind::Request,
        // These are JSON already.
        Topic::OperatorResult { .. } | Topic::View { .. } | Topic::Server { .. } => return None,
    })
}

fn read(source: &str) -> Result<Vec<u8>, DecodeError> {
    // One more than allowed, so that the decoder says that it is too large.
    let most = 2 * limit::EXCHANGE_BYTES as u64 + 2;
    let all = |input: &mut dyn Read, name: &str| {
        let mut bytes = Vec::new();
        let read = input.take(most).read_to_end(&mut bytes);
        read.map(|_| bytes).map_err(|source| DecodeError::Read { name: name.to_owned(), source })
    };
    if source == "-" {
        let bytes = all(&mut io::stdin().lock(), "standard input")?;
        return Ok(std::str::from_utf8(&bytes).ok().and_then(from_hex).unwrap_or(bytes));
    }
    if let Some(path) = source.strip_prefix('@') {
        let path = PathBuf::from(path);
        let name = path.display().to_string();
        let mut file =
            File::open(&path).map_err(|source| DecodeError::Read { name: name.clone(), source })?;
        return all(&mut file, &name);
    }
    from_hex(source).ok_or(DecodeError::NotHex)
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = digits.as_chunks::<2>();
    if pairs.is_empty() || !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect()
}

fn one<T: DeserializeOwned + Serialize>(payload: &[u8]) -> Result<String, DecodeError> {
    to_json(&codec::decode_any::<T>(payload, limit::LARGEST_BYTES)?)
}

/// A record, or a batch of them as a list. One that cannot be understood is shown with the reason.
fn records<T: DeserializeOwned + Serialize>(payload: &[u8]) -> Result<String, DecodeError> {
    let (records, unnumbered) = codec::decode_records::<T>(payload, limit::LARGEST_BYTES)?;
    let mut shown = Vec::with_capacity(records.len());
    for record in records {
        shown.push(match record {
            codec::Record::Good(good) => serde_json::to_value(good)?,
            codec::Record::Poison { seq, reason, .. } => serde_json::json!({"seq": seq, "error": reason}),
        });
    }
    if unnumbered > 0 {
        shown.push(serde_json::json!({"error": format!("{unnumbered} records without a sequence number")}));
    }
    match shown.as_slice() {
        [one] => to_json(one),
        list => to_json(&list),
    }
}

fn to_json(value: &impl Serialize) -> Result<String, DecodeError> {
    Ok(serde_json::to_string_pretty(value)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn decoded(message: &str, topic: Option<&str>, kind: Option<Kind>) -> Result<String, String> {
        let arguments = Arguments { message: message.to_owned(), topic: topic.map(str::to_owned), kind };
        let mut out = Vec::new();
        run(&arguments, &mut out).map_err(|error| error.to_string())?;
        Ok(String::from_utf8(out).unwrap())
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn a_packed_message_is_shown_with_its_names() {
        let presence = Presence { state_id: protocol::id::StateId([1; 8]), connection: 7, online: true };
        let packed = hex(&codec::encode_packed(&presence).unwrap());
        let json = decoded(&packed, Some("fleet/v1/acme/device/studio-001/presence"), None).unwrap();
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            value,
            serde_json::json!({"state_id": "0101010101010101", "connection": 7, "online": true})
        );
        assert!(decoded(&packed, None, Some(Kind::Presence)).unwrap().contains("connection"));
        assert!(decoded(&packed, None, None).unwrap().contains('7'));
    }

    #[test]
    fn an_exchange_is_shown_with_its_messages() {
        let presence = Presence { state_id: protocol::id::StateId([1; 8]), connection: 7, online: true };
        let said = |suffix: &str, payload: Vec<u8>| ExchangeMessage(suffix.to_owned(), codec::Bytes(payload));
        let messages = Exchange(vec![
            said("presence", codec::encode_packed(&presence).unwrap()),
            said("radar/blips", vec![0xa1, 0, 7]),
            said("ack", vec![0xff]),
        ]);
        let json =
            decoded(&hex(&codec::encode_packed(&messages).unwrap()), None, Some(Kind::Exchange)).unwrap();
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value[0][1]["connection"], 7);
        assert_eq!(value[1], serde_json::json!(["radar/blips", {"0": 7}]));
        assert!(value[2][1]["error"].is_string(), "{json}");
    }

    #[test]
    fn what_cannot_be_decoded_is_an_error_that_says_why() {
        assert!(decoded("zz", None, None).unwrap_err().contains("hex"));
        assert!(decoded("ff", None, Some(Kind::Ack)).is_err());
        assert!(decoded("a0", Some("fleet/v1/acme/view/x"), None).unwrap_err().contains("view"));
        assert!(decoded("@/nonexistent", None, None).unwrap_err().contains("/nonexistent"));
    }
}
