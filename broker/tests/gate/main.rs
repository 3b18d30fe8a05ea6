//! The access gate on a real TCP socket: what it lets through, what it refuses and how, and what it survives.

#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod connections;
mod delivery;
mod devices;
mod floods;
mod limits;
mod login;
mod permissions;
mod router_killers;
mod sessions;
mod tools;
mod wills;
