//! MQTT 5.

mod connect;
mod format;
mod operation;
mod publish;
mod subscribe;
