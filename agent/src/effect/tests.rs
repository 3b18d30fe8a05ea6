#![allow(clippy::unwrap_used)]

mod fake;
mod kills;
mod rotation;
mod scripts;
mod settings;
mod systemd;
