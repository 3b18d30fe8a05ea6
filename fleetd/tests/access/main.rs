//! Who may do what: everything that can be asked for, asked by everybody, compared with tables that a person can read.
#![allow(clippy::unwrap_used, unreachable_pub)]

mod cast;
#[path = "../../../broker/tests/support/client.rs"]
#[allow(dead_code)]
mod client;
#[path = "../common/mod.rs"]
mod common;
mod http;
mod mqtt;
#[path = "../process/mod.rs"]
mod process;
mod props;
mod table;
mod troupe;
#[path = "../../../broker/tests/support/wire.rs"]
#[allow(dead_code)]
mod wire;
mod witness;
