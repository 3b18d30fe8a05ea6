//! The access gate over the MQTT router.
//!
//! `docs/broker.md` tells how it works, what its limits are, and what of MQTT it leaves out.

pub mod access;
mod account;
mod broker;
mod channel;
pub mod cli;
mod codec;
pub mod config;
mod connection;
pub mod core_dumps;
mod counters;
pub mod credentials;
pub mod descriptors;
mod device_link;
mod failures;
mod filter;
mod gate;
pub mod layered_config;
mod limits;
mod listen;
mod log_pace;
mod logs;
mod message;
pub mod password;
mod places;
pub mod plaintext;
mod principal;
mod rate;
mod registry;
mod retained;
mod router;
mod service;
pub mod service_manager;
mod session;
pub mod tls;
mod toml_error;

pub use broker::{Broker, BrokerError};
pub use counters::CountersSnapshot;
pub use device_link::{DeviceLink, DeviceLinkError, DeviceLogin, DevicePlace, Told};
pub use limits::Limits;
pub use listen::listen;
pub use principal::{
    Authentication, Authenticator, ConnectAttempt, Origin, Principal, PrincipalKey, Refusal, Secret,
    Transport,
};
pub use registry::{ConnectionInfo, Kick};
pub use service::{Message, QoS, ServicePublisher, ServiceSubscriber};
pub use toml_error::TomlError;
