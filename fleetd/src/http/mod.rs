//! The HTTP API and the dashboard, by warp. `routes` is the table of contents; one file for each resource beside it.

mod api_keys;
mod audit;
mod auth;
mod certificates;
mod commands;
mod connect;
mod dashboard;
mod device_commands;
mod device_config;
mod devices;
mod enrollment_keys;
mod exchange;
mod headers;
mod history;
mod leases;
mod mqtt_socket;
mod openapi;
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

pub use openapi::openapi;
pub use routes::paths;
pub use server::{Front, serve};

/// The readers of what anybody may send, for fuzzing them without a connection around.
#[doc(hidden)]
pub mod readers {
    use http::HeaderMap;
    use serde_json::Value;

    use crate::auth::caller::Credential;

    /// A credential in headers; `None` where there is none, or none that can be read.
    #[must_use]
    pub fn credential(headers: &HeaderMap) -> Option<Credential> {
        super::request::credential(headers).ok().flatten()
    }

    /// A query, with its readers; true if all of it is good.
    #[must_use]
    pub fn query(raw: &str) -> bool {
        let Ok(mut query) = super::query::Query::parse(raw) else { return false };
        let read = query.page().is_ok()
            && query.time("since").is_ok()
            && query.flag("dry_run").is_ok()
            && query.number("hours", 1, 100).is_ok()
            && query.sort(&[("name", 1), ("id", 2)], 1).is_ok()
            && query.parsed::<protocol::command::CommandState>("status").is_ok();
        query.text("q");
        read && query.finish().is_ok()
    }

    /// A variable part of a path.
    #[must_use]
    pub fn path_part(raw: &str) -> Option<String> {
        super::query::decode(raw, false)
    }

    /// A heartbeat by HTTP; true if it can be read.
    #[must_use]
    pub fn heartbeat(body: Value) -> bool {
        super::history::read_heartbeat(body).is_ok()
    }
}
