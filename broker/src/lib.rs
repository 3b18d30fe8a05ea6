//! The access gate over the MQTT router.
//!
//! `docs/broker.md` tells how it works, what its limits are, and what of MQTT it leaves out.

pub mod access;
pub mod config;
pub mod credentials;
mod limits;
pub mod plaintext;
mod principal;
mod toml_error;

pub use limits::Limits;
pub use principal::{
    Authentication, Authenticator, ConnectAttempt, Principal, PrincipalKey, Refusal, Secret, Transport,
};
pub use toml_error::TomlError;
