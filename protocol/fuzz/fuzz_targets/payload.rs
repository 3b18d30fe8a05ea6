//! Any payload, read as every message: a value or an error. What reads must write and read back as itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::codec::{self, Record, limit};
use protocol::message::*;

fn round_trip<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq>(payload: &[u8]) {
    if let Ok(message) = codec::decode_any::<T>(payload, limit::LARGEST_BYTES) {
        let again = codec::encode_packed(&message).expect("what was read can be written");
        assert!(codec::decode::<T>(&again, usize::MAX).is_ok_and(|m| m == message));
    }
}

fuzz_target!(|payload: &[u8]| {
    round_trip::<Birth>(payload);
    round_trip::<Presence>(payload);
    round_trip::<Heartbeat>(payload);
    round_trip::<Reported>(payload);
    round_trip::<LogBatch>(payload);
    round_trip::<Ack>(payload);
    round_trip::<Desired>(payload);
    round_trip::<Exchange>(payload);
    let _ = codec::decode::<DeviceCommand>(payload, limit::COMMAND_BYTES).map(DeviceCommand::action);
    let _ = codec::decode::<CommandReport>(payload, limit::COMMAND_BYTES);
    let _ = codec::decode_any::<OperatorRequest>(payload, limit::COMMAND_BYTES);
    let _ = codec::record_seqs(payload, limit::LARGEST_BYTES);
    if let Ok((events, _)) = codec::decode_records::<Event>(payload, limit::COMMAND_BYTES) {
        for event in events {
            if let Record::Good(event) = event {
                event.void.iter().for_each(|void| drop(void.gone()));
            }
        }
    }
});
