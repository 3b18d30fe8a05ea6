//! The server's answer to the question how it is reached over MQTT. No panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| agent::fuzzing::endpoints(body));
