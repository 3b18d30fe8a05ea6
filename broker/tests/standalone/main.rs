//! `fleet-broker` as a process: its commands, its files, its signals and what it says when something is wrong.

#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod commands;
mod process;
mod running;
