//! Pure decisions: no socket, file, clock or task in here.

pub mod sample;
