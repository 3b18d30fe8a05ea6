//! What proves who somebody is and where a request comes from: headers, tokens, ids, queries.
#![no_main]

#[path = "../harness.rs"]
mod harness;

use std::sync::{LazyLock, Mutex};

use harness::Harness;
use libfuzzer_sys::fuzz_target;

static HARNESS: LazyLock<Mutex<Harness>> = LazyLock::new(Mutex::default);

fuzz_target!(|input: &[u8]| HARNESS.lock().expect("no panic before").credential(input));
