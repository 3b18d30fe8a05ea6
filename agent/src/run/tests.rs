//! The agent against a broker and server that do exactly what each test says, over a real socket and a real state
//! folder.
#![allow(clippy::unwrap_used)]

mod commands;
mod kills;
mod peer;
mod scenarios;
mod words;
