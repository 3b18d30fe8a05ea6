//! The access gate over the MQTT router.
//!
//! `docs/broker.md` tells how it works, what its limits are, and what of MQTT it leaves out.

mod limits;
mod principal;

pub use limits::Limits;
pub use principal::{
    Authentication, Authenticator, ConnectAttempt, Principal, PrincipalKey, Refusal, Secret, Transport,
};
