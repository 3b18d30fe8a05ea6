//! The HTTP API and the dashboard, by warp. `routes` is the table of contents; one file for each resource beside it.

mod audit;
mod auth;
mod commands;
mod connect;
mod dashboard;
mod device_commands;
mod device_config;
mod devices;
mod headers;
mod history;
mod leases;
mod problem;
mod query;
mod request;
mod routes;
mod server;
mod show_locks;
mod system;
mod table;

pub use routes::paths;
pub use server::serve;
