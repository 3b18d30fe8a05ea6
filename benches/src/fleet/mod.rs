//! A `fleetd` under measurement, with as many devices as wanted in its database, and what talks to it.

pub(crate) mod agent;
pub(crate) mod device;
mod floor;
pub(crate) mod http;
pub(crate) mod load;
pub(crate) mod numbers;
mod server;
pub(crate) mod tls;

use std::error::Error;

pub(crate) use server::{Device, Fleet, heartbeat};

/// What a step gives, or why it cannot.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;
