//! A deterministic simulation of both protocols: the real pure code of agent and server, between a simulated network,
//! simulated disks, clocks, people and applications. docs/testing.md tells what is checked.
//!
//! - Real: `agent::outbox`, `agent::uplink`, `agent::command`, `agent::record`; `fleetd::domain`'s `lane`, `dispatch`,
//!   `report`, `lease`, `command`; `protocol`.
//! - Drivers around them, which do what `agent::run`, `fleetd::service::ingest` and `fleetd::worker::dispatcher` do:
//!   `device.rs`, `say.rs`, `hear.rs`, `effect.rs`; `server.rs`, `dispatcher.rs`.
//! - Simulated: `disk.rs`, `database.rs`, `wire.rs`, and what `world.rs` lets happen.
//! - `check.rs` and the end of `world.rs` are the rules. `bug.rs` names what must be found.
//!
//! One seed, one history: nothing here looks at a clock, a file or the system's chance.

mod bug;
mod check;
mod coverage;
mod database;
mod device;
mod disk;
mod dispatcher;
mod effect;
mod env;
mod hear;
mod mix;
mod rng;
mod say;
mod server;
mod wire;
mod world;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use bug::Bug;
pub use coverage::Coverage;
pub use mix::{MIXES, Mix};
use world::World;

/// Steps of one world before it settles.
pub const WORLD_STEPS: u64 = 3_000;
/// Events that a failure shows.
pub const EVENTS: usize = 60;

/// What a run did.
#[derive(Debug, Default)]
pub struct Run {
    /// Steps made.
    pub steps: u64,
    /// Worlds that came to their end.
    pub worlds: u64,
    /// What happened in them.
    pub coverage: Coverage,
}

/// A rule was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The kind of world.
    pub mix: &'static str,
    /// The world's seed.
    pub seed: u64,
    /// The bug that was put in, if any.
    pub bug: Option<Bug>,
    /// Steps of this world until then.
    pub steps: u64,
    /// Steps of the whole run until then.
    pub steps_of_run: u64,
    /// Which rule.
    pub what: String,
    /// The last events before it.
    pub events: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "after {} steps of a world of the kind \"{}\": {}", self.steps, self.mix, self.what)?;
        writeln!(f, "the last events:")?;
        for event in &self.events {
            writeln!(f, "  {event}")?;
        }
        let bug = self.bug.map_or_else(String::new, |bug| format!(" BUG={}", bug.name()));
        write!(f, "to see it again: make sim-proto SEED={} MIX='{}' WORLDS=1{bug}", self.seed, self.mix)
    }
}

/// Worlds of one kind, one after the other, with seeds from `seed` on, until `steps` have been made.
///
/// # Errors
/// The first rule that was broken.
pub fn run(mix: &'static Mix, seed: u64, steps: u64, bug: Option<Bug>) -> Result<Run, Box<Failure>> {
    let mut run = Run::default();
    while run.steps < steps {
        let seed = seed.wrapping_add(run.worlds);
        match world(mix, seed, bug, EVENTS) {
            Ok((steps, coverage)) => {
                run.steps += steps;
                run.worlds += 1;
                run.coverage.add(&coverage);
            }
            Err(mut failure) => {
                failure.steps_of_run = run.steps + failure.steps;
                return Err(failure);
            }
        }
    }
    Ok(run)
}

/// One world from its beginning to its end: the steps that it took, and what happened.
///
/// # Errors
/// The first rule that was broken. The world is then lived through once more, to tell its last `events`.
pub fn world(
    mix: &'static Mix,
    seed: u64,
    bug: Option<Bug>,
    events: usize,
) -> Result<(u64, Coverage), Box<Failure>> {
    match live(mix, seed, bug, 0) {
        (steps, Ok(world)) => Ok((steps, world.env.coverage)),
        (_, Err(_)) => {
            let (steps, failed) = live(mix, seed, bug, events);
            let (what, events) =
                failed.err().unwrap_or_else(|| ("it does not repeat".to_owned(), Vec::new()));
            Err(Box::new(Failure { mix: mix.name, seed, bug, steps, steps_of_run: steps, what, events }))
        }
    }
}

type Lived = (u64, Result<World, (String, Vec<String>)>);

fn live(mix: &'static Mix, seed: u64, bug: Option<Bug>, events: usize) -> Lived {
    let mut world = World::new(seed, mix, bug, events);
    let mut steps = 0;
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        while steps < WORLD_STEPS && world.env.violation.is_none() {
            world.step();
            steps += 1;
        }
        if world.env.violation.is_none() {
            steps += world.settle();
        }
    }));
    let what = match panicked {
        Ok(()) => world.env.violation.take(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Some(format!("a panic: {}", text.unwrap_or_default()))
        }
    };
    match what {
        None => (steps, Ok(world)),
        Some(what) => (steps, Err((what, world.env.take_trace()))),
    }
}
