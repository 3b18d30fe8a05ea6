//! The HTTP API and the dashboard, by warp. `routes` is the table of contents; one file for each resource beside it.

mod api_keys;
mod audit;
mod auth;
mod commands;
mod connect;
mod dashboard;
mod device_commands;
mod device_config;
mod devices;
mod enrollment_keys;
mod headers;
mod history;
mod leases;
mod mqtt_socket;
mod orgs;
mod problem;
mod query;
mod request;
mod routes;
mod server;
mod service_accounts;
mod show_locks;
mod system;
mod table;
mod users;

pub use routes::paths;
pub use server::serve;
