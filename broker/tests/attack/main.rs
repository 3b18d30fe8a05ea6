//! The program `fleet-broker` under attack. Each test is one attack and three claims: its memory stays below a stated bound,
//! everybody else is served within a second, and afterwards it is alive and has given back what the attack took.

#![allow(clippy::unwrap_used)]

#[path = "../standalone/process.rs"]
#[allow(dead_code)]
mod process;
#[path = "../support/mod.rs"]
mod support;

mod after_login;
mod before_login;
mod crowd;
mod retained;
mod sessions;
mod subscribers;
mod target;
mod witness;
