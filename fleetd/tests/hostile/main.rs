//! Those who mean harm, and credentials that have ended, at a running server with its broker.
#![allow(clippy::unwrap_used, unreachable_pub)]

mod bounds;
#[path = "../../../broker/tests/support/client.rs"]
#[allow(dead_code)]
mod client;
#[path = "../common/mod.rs"]
mod common;
mod forwarded;
mod guesses;
mod jwt;
mod live;
mod names;
mod refresh;
mod site;
mod wildcards;
#[path = "../../../broker/tests/support/wire.rs"]
#[allow(dead_code)]
mod wire;
