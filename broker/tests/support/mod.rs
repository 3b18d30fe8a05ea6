//! A real broker on a real socket, and clients that may do anything to it.

// Each test binary uses its own part of this.
#![allow(dead_code, unused_imports, unreachable_pub, missing_docs)]

pub mod broker;
pub mod client;
pub mod tools;
pub mod wire;

pub use broker::TestBroker;
pub use client::{Client, Outcome, PATIENCE, SILENCE};
pub use wire::{BOTH, Connect, Publish, Received, Version, Will, kind, property};

use std::time::{Duration, Instant};

/// Polls until `done` is true; panics with `what` after [`PATIENCE`].
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "still not: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
