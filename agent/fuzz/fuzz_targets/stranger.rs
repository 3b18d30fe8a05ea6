//! Whoever answers in the place of a proxy, a web server or a broker. No panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    agent::fuzzing::proxy(bytes);
    agent::fuzzing::stranger(bytes);
});
