#![allow(clippy::unwrap_used)]

mod fake;
mod scripts;
mod systemd;
