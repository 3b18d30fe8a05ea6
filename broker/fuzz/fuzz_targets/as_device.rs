//! The bytes of a device's connection after its login.
#![no_main]

#[path = "../harness.rs"]
mod harness;

use std::sync::{LazyLock, Mutex};

use harness::{Harness, Login};
use libfuzzer_sys::fuzz_target;

static HARNESS: LazyLock<Mutex<Harness>> = LazyLock::new(Mutex::default);

fuzz_target!(|input: &[u8]| HARNESS.lock().expect("no panic before").connection(Login::Device, input));
