//! The fleet server.
//!
//! `http`, `mqtt` and `worker` call `service` (one use case each: authorise, load, decide, commit), which uses `store`
//! and the pure `domain`. `app` holds what they share.

pub mod app;
pub mod auth;
pub mod authority;
pub mod backup;
pub mod check;
pub mod cli;
pub mod clock;
pub mod config;
pub mod domain;
pub mod failpoint;
pub mod http;
pub mod metrics;
pub mod mqtt;
pub mod service;
pub mod store;
pub mod worker;
