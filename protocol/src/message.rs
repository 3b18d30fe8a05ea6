//! Every message: one file for each group, re-exported here.
//!
//! In all of them the order of the fields is their numbering in packed CBOR. Append only, always with
//! `#[serde(default)]`; never reorder, never reuse. `protocol/tests/golden.rs` holds the bytes.

mod downlink;
mod exchange;
mod heartbeat;
mod operator;
mod time;
mod uplink;

pub use downlink::*;
pub use exchange::*;
pub use heartbeat::*;
pub use operator::*;
pub use time::*;
pub use uplink::*;
