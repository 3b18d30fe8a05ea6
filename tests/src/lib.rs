//! Real processes for the end-to-end tests: a server with its broker, agents, and people with MQTT tools. Everything
//! lives in a temporary folder, listens on loopback, and is killed when its handle is dropped.

mod agent;
mod api;
pub mod chaos;
mod machine;
mod mosquitto;
pub mod networks;
mod process;
mod proxy;
mod secure;
mod server;
pub mod sim;
mod venue;
mod watcher;

pub use agent::Agent;
pub use api::Api;
pub use machine::Machine;
pub use mosquitto::{Person, Results};
pub use process::{Process, Signal, free_port, program, wait_for};
pub use proxy::{Direction, Flow, Proxy};
pub use secure::Secure;
pub use server::{ADMIN_EMAIL, ADMIN_PASSWORD, Server};
pub use venue::{BlackHole, ConnectProxy, Front, Manners};
pub use watcher::{Seen, Watcher};
