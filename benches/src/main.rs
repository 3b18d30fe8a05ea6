//! `bench`: measures the release programs side by side with their peers, and writes what it found as Markdown.
//!
//! Each aim is one file in [`aims`]. Absolute figures are those of the machine of the moment; what an aim compares is
//! measured in the same run, by turns, so that a noisy machine hits both.

mod aims;
mod bench_dir;
mod fleet;
mod fleet_broker;
mod fleetd;
mod fsync;
mod machine;
mod mosquitto;
mod mqtt;
mod outcome;
mod process;
mod report;
mod statistics;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::aims::Context;
use crate::outcome::{Outcome, Tell};

/// Measures R58 Fleet against its peers and writes a report. `make bench` builds what it needs.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Only these aims, by number: 1,3
    #[arg(long, value_delimiter = ',')]
    only: Vec<u32>,
    /// Where the report goes; `-` is standard output.
    #[arg(long, default_value = "docs/bench.md")]
    out: PathBuf,
    /// Few and short repetitions: to see that everything works.
    #[arg(long)]
    quick: bool,
    /// Where fleetd, fleet-broker and r58-fleet-agent are; beside this program if not given.
    #[arg(long)]
    bin_dir: Option<PathBuf>,
    /// Where databases are put: on the disk that is to be measured. `target` if not given.
    #[arg(long, default_value = "target")]
    scratch: PathBuf,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Outcome<()> {
    let bin_dir = match args.bin_dir {
        Some(folder) => folder,
        None => {
            let program = std::env::current_exe().tell("find this program")?;
            program.parent().map(PathBuf::from).unwrap_or_default()
        }
    };
    machine::raise_file_limit()?;
    let scratch = bench_dir::BenchDir::new(&args.scratch)?;
    let fsync = fsync::probe(scratch.path())?;
    eprintln!("fsync: p50 {:.2} ms, p99 {:.2} ms", fsync.p50_ms(), fsync.p99_ms());
    let context = Context { quick: args.quick, bin_dir, scratch: scratch.path().to_owned(), fsync };
    let mut sections = Vec::new();
    for aim in aims::ALL {
        if args.only.is_empty() || args.only.contains(&aim.number) {
            eprintln!("aim {}: {}", aim.number, aim.name);
            // What the aims before have left to be written is not to stand in the way of this one's commits.
            nix::unistd::sync();
            let section = (aim.run)(&context).map_err(|error| error.within(format!("aim {}", aim.number)))?;
            eprint!("{}", report::to_terminal(&section));
            sections.push((aim.number, section));
        }
    }
    let fsync_after = fsync::probe(scratch.path())?;
    let text = report::to_markdown(&machine::describe(&context, fsync_after)?, &sections);
    if args.out.as_os_str() == "-" {
        print!("{text}");
        return Ok(());
    }
    std::fs::write(&args.out, text).tell(format!("write {}", args.out.display()))
}
