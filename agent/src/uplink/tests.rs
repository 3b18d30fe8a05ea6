#![allow(clippy::unwrap_used)]

mod rules;
mod simulation;
