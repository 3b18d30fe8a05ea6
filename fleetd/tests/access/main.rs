//! Who may do what: everything that can be asked for, asked by everybody, compared with tables that a person can read.
#![allow(clippy::unwrap_used, unreachable_pub)]

mod cast;
#[path = "../common/mod.rs"]
mod common;
mod http;
mod props;
mod table;
