//! Chaos: many agents, operators and a server as real processes, and everything that can happen to them.
//!
//! [`plan`] draws from a seed what is done to whom; [`world`] does it; [`check`] compares at the end of each chapter what
//! the agents say they spooled ([`spool`]) and what was done to their machines with the server's database.

pub mod check;
pub mod database;
mod device;
pub mod disks;
pub mod ledger;
pub(crate) mod operator;
pub mod plan;
pub(crate) mod random;
pub mod spool;
mod tally;
pub mod world;
