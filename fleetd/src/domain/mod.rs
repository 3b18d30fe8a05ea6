//! Pure decisions and checked types: no socket, file, clock or task in here.

pub mod audit;
pub mod audit_chain;
pub mod audit_entry;
pub mod command;
pub mod command_outlook;
pub mod command_request;
pub mod desired;
pub mod device;
pub mod dispatch;
pub mod enrollment;
pub mod fields;
pub mod http_hold;
pub mod http_report;
pub mod lane;
pub mod lease;
pub mod network;
pub mod org;
pub mod report;
pub mod rollup;
pub mod sample;
pub mod show_lock;
pub mod summary;
pub mod time;
pub mod timing;
pub mod turns;
pub mod user;
