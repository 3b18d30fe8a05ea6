//! MQTT 5.

mod auth;
mod connack;
mod connect;
mod disconnect;
mod format;
mod operation;
mod properties;
mod publish;
mod sessions;
mod subscribe;
mod wills;
