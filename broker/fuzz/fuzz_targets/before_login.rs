//! The bytes of a whole connection, from the first one on.
#![no_main]

#[path = "../harness.rs"]
mod harness;

use std::sync::{LazyLock, Mutex};

use harness::{Harness, Login};
use libfuzzer_sys::fuzz_target;

static HARNESS: LazyLock<Mutex<Harness>> = LazyLock::new(Mutex::default);

fuzz_target!(|input: &[u8]| HARNESS.lock().expect("no panic before").connection(Login::Nobody, input));
