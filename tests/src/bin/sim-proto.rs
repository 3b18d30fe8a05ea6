//! The simulation of both protocols from the command line: `make sim-proto`.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Instant;

use end_to_end::sim::{self, Bug, Coverage, MIXES, Mix};

const HELP: &str = "\
Simulates devices and a server with the real protocol code and checks the rules after each step.

  make sim-proto [STEPS=1000000] [SEED=1] [MIX='bad line'] [WORLDS=0] [EVENTS=60] [BUG=name]

STEPS   steps of each kind of world
SEED    of the first world; the others count up from it
MIX     one kind of world alone
WORLDS  so many worlds of each kind, whatever the steps
EVENTS  how many events are shown of a world that fails
BUG     puts a bug in, to see that it is found";

struct Asked {
    steps: u64,
    seed: u64,
    worlds: u64,
    events: usize,
    mixes: Vec<&'static Mix>,
    bug: Option<Bug>,
}

fn main() -> ExitCode {
    if std::env::args().len() > 1 {
        println!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let asked = match asked() {
        Ok(asked) => asked,
        Err(problem) => {
            eprintln!("{problem}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    let mut coverage = Coverage::default();
    for mix in &asked.mixes {
        let began = Instant::now();
        match simulate(mix, &asked) {
            Ok((steps, worlds, happened)) => {
                let seconds = began.elapsed().as_secs_f64();
                // For people: a rounded number is enough.
                #[allow(clippy::cast_precision_loss)]
                let speed = steps as f64 / seconds.max(0.001);
                println!(
                    "{:<12} seeds {} to {}: {steps} steps in {seconds:.1} s, {speed:.0} steps/s, every rule held",
                    mix.name,
                    asked.seed,
                    asked.seed + worlds - 1
                );
                coverage.add(&happened);
            }
            Err(failure) => {
                println!("{failure}");
                return ExitCode::FAILURE;
            }
        }
    }
    println!("what happened:\n{}", coverage.table());
    let missing = coverage.missing();
    if !missing.is_empty() {
        println!("what did not happen in these steps: {}", missing.join("; "));
    }
    ExitCode::SUCCESS
}

/// Worlds of one kind: steps, worlds and what happened.
fn simulate(mix: &'static Mix, asked: &Asked) -> Result<(u64, u64, Coverage), Box<sim::Failure>> {
    let (mut steps, mut worlds, mut coverage) = (0, 0, Coverage::default());
    let shows_progress = std::io::stderr().is_terminal();
    loop {
        let (made, happened) = sim::world(mix, asked.seed + worlds, asked.bug, asked.events)?;
        steps += made;
        worlds += 1;
        coverage.add(&happened);
        let done = if asked.worlds > 0 { worlds >= asked.worlds } else { steps >= asked.steps };
        if shows_progress {
            eprint!(
                "\r{:<12} {steps} steps, {worlds} worlds{}",
                mix.name,
                if done { "\r\x1b[K" } else { "" }
            );
            let _ = std::io::stderr().flush();
        }
        if done {
            return Ok((steps, worlds, coverage));
        }
    }
}

fn asked() -> Result<Asked, String> {
    let mixes = match text("MIX") {
        None => MIXES.iter().collect(),
        Some(name) => {
            let mix = MIXES.iter().find(|mix| mix.name == name);
            let names: Vec<&str> = MIXES.iter().map(|mix| mix.name).collect();
            vec![mix.ok_or_else(|| format!("MIX: one of {}", names.join(", ")))?]
        }
    };
    Ok(Asked {
        steps: number("STEPS", 1_000_000)?,
        seed: number("SEED", 1)?,
        worlds: number("WORLDS", 0)?,
        events: usize::try_from(number("EVENTS", 60)?).unwrap_or(usize::MAX),
        mixes,
        bug: text("BUG").map(|name| name.parse()).transpose().map_err(|error| format!("BUG: {error}"))?,
    })
}

fn text(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

fn number(name: &str, default: u64) -> Result<u64, String> {
    text(name).map_or(Ok(default), |text| text.parse().map_err(|_| format!("{name}: a number is expected")))
}
