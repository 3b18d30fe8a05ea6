//! MQTT 3.1.1.

mod connect;
mod format;
mod operation;
mod publish;
mod subscribe;
