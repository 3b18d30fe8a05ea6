//! The answer of the application on the device: status, head and body, in two parts. No panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|parts: (&[u8], &[u8])| agent::fuzzing::application(parts.0, parts.1));
