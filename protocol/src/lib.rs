//! What the parts of R58 Fleet say to each other: topics, messages, their encoding and the command states.
//!
//! Everything here but `failpoint` is pure: no socket, no file, no clock. `docs/protocol.md` describes the same things for people,
//! `protocol/fleet.cddl` for machines.

pub mod codec;
pub mod command;
pub mod failpoint;
pub mod id;
pub mod message;
pub mod ranges;
pub mod text;
pub mod topic;
