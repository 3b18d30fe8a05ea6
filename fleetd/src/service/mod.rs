//! One use case each: authorise, load, decide, commit.

pub mod accounts;
pub mod audit;
pub mod commands;
pub mod desired;
pub mod device_config;
pub mod devices;
mod error;
pub mod http_devices;
pub mod ingest;
pub mod leases;
pub mod login;
pub mod register;
pub mod revocations;
pub mod show_locks;
pub mod tokens;

pub use error::Error;
