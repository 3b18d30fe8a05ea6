//! The simulation of both protocols: the real pure code of agent and server, a million steps. `make sim-proto` runs any
//! number.
#![allow(clippy::unwrap_used)]

use std::thread;

use end_to_end::sim::{self, Coverage, Failure, MIXES, Run};

/// Of each kind of world.
const STEPS: u64 = 260_000;

/// Moves that take several accidents at once: a report that tells them overtakes all the ones before. Some of them happen in
/// a million steps, all of them only in long runs.
const RARE: [&str; 28] = [
    "pending → held by device",
    "pending → running by device",
    "pending → completed by device",
    "pending → failed by device",
    "pending → timed_out by device",
    "pending → cancelled by device",
    "pending → expired by device",
    "pending → rejected by device",
    "sent → failed by device",
    "sent → timed_out by device",
    "acked → completed by device",
    "acked → failed by device",
    "acked → timed_out by device",
    "acked → indeterminate by device",
    "held → completed by device",
    "held → failed by device",
    "held → timed_out by device",
    "held → indeterminate by device",
    "held → rejected by device",
    "running → rejected by device",
    "running → cancelled by device",
    "running → expired by device",
    "indeterminate (inferred) → completed by device",
    "indeterminate (inferred) → failed by device",
    "indeterminate (inferred) → timed_out by device",
    "indeterminate (inferred) → indeterminate by device",
    "indeterminate (inferred) → rejected by device",
    "indeterminate (inferred) → cancelled by device",
];

/// Some steps of every kind of world, each on a thread of its own.
fn every_kind(steps: u64, seed: u64) -> Vec<Result<Run, Box<Failure>>> {
    thread::scope(|scope| {
        let runs: Vec<_> =
            MIXES.iter().map(|mix| scope.spawn(move || sim::run(mix, seed, steps, None))).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    })
}

#[test]
fn a_million_steps_break_no_rule_and_come_to_everything_that_can_happen() {
    let mut coverage = Coverage::default();
    let mut steps = 0;
    for run in every_kind(STEPS, 1) {
        let run = run.unwrap_or_else(|failure| panic!("{failure}"));
        steps += run.steps;
        coverage.add(&run.coverage);
    }
    assert!(steps >= 1_000_000);
    let missing = coverage.missing();
    let missing: Vec<&String> = missing.iter().filter(|what| !RARE.contains(&what.as_str())).collect();
    assert!(missing.is_empty(), "did not happen: {missing:?}\n{}", coverage.table());
}

#[test]
fn the_same_seed_gives_the_same_world() {
    for mix in &MIXES {
        let lived = || sim::world(mix, 77, None, 0).unwrap();
        assert_eq!(lived(), lived(), "{}", mix.name);
    }
}
