//! One use case each: authorise, load, decide, commit.

pub mod accounts;
pub mod api_keys;
pub mod audit;
pub mod certificates;
pub mod commands;
pub mod desired;
mod desk;
pub mod device_config;
pub mod devices;
pub mod enrollment_keys;
mod error;
pub mod exchange;
pub mod first_start;
pub mod http_devices;
pub mod ingest;
pub mod leases;
pub mod login;
pub mod orgs;
pub mod register;
pub mod revocations;
pub mod show_locks;
pub mod tokens;

pub use desk::Desk;
pub use error::Error;
