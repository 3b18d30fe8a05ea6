//! The device agent.

pub mod app_status;
pub mod backoff;
mod certificate;
mod child;
pub mod cli;
pub mod command;
pub mod config;
pub mod connect;
pub mod core_dumps;
pub mod doctor;
pub mod effect;
pub mod enroll;
pub mod failpoint;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod http;
pub mod kernel;
pub mod ladder;
pub mod link;
pub mod lock;
pub mod metrics;
pub mod outbox;
pub mod proxy;
pub mod record;
pub mod run;
pub mod service_manager;
pub mod spool_file;
pub mod state;
pub mod status;
mod systemctl;
pub mod tls;
pub mod uplink;
