//! What both versions ask for; each claim takes the version that it is shown in.

pub(crate) mod connack;
pub(crate) mod connect;
pub(crate) mod data;
pub(crate) mod format;
pub(crate) mod publish;
pub(crate) mod qos;
pub(crate) mod retained;
pub(crate) mod sessions;
pub(crate) mod subscribe;
pub(crate) mod topics;
pub(crate) mod wills;
