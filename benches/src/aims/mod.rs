//! The aims, each in a file of its own: what is measured, how, and why it is not met where it is not.

mod backlog;
mod broker_memory;
mod command;
mod durable_heartbeats;
mod frugality;
mod herd;
mod memory;
mod pass_through;
mod reads;

use std::path::PathBuf;

use crate::fsync::Fsync;
use crate::outcome::{Failure, Outcome};
use crate::report::Section;

/// What every aim is given.
pub(crate) struct Context {
    /// Few and short repetitions.
    pub(crate) quick: bool,
    /// Where the release programs are.
    pub(crate) bin_dir: PathBuf,
    /// A folder on the disk that is measured; it goes when everything has ended.
    pub(crate) scratch: PathBuf,
    /// What a durable write cost there when the run began.
    pub(crate) fsync: Fsync,
}

impl Context {
    /// One of our programs.
    pub(crate) fn program(&self, name: &str) -> Outcome<PathBuf> {
        let path = self.bin_dir.join(name);
        if path.exists() {
            return Ok(path);
        }
        Err(Failure::new(format!("{} is missing: `make bench` builds it", path.display())))
    }

    /// How often ours and the peer take turns.
    pub(crate) fn repetitions(&self) -> usize {
        if self.quick { 1 } else { 5 }
    }
}

/// One aim.
pub(crate) struct Aim {
    pub(crate) number: u32,
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Context) -> Outcome<Section>,
}

/// In the order in which they run.
pub(crate) const ALL: &[Aim] = &[
    Aim { number: 1, name: "durable acknowledged heartbeats", run: durable_heartbeats::run },
    Aim { number: 2, name: "a backlog in batches", run: backlog::run },
    Aim { number: 3, name: "pass-through of the broker", run: pass_through::run },
    Aim { number: 4, name: "a command from request to result", run: command::run },
    Aim { number: 5, name: "memory", run: memory::run },
    Aim { number: 6, name: "what an agent costs", run: frugality::run },
    Aim { number: 7, name: "reads while heartbeats come in", run: reads::run },
    Aim { number: 8, name: "a herd of devices", run: herd::run },
    Aim { number: 9, name: "memory of an idle connection", run: broker_memory::run },
];
