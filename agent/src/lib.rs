//! The device agent.

pub mod config;
pub mod connect;
pub mod http;
pub mod kernel;
pub mod lock;
pub mod metrics;
pub mod service_manager;
pub mod status;
pub mod tls;
