//! `make chaos`: see `docs/testing.md`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Parser;
use end_to_end::chaos::disks;
use end_to_end::chaos::plan::Size;
use end_to_end::chaos::world::{self, Options};
use tokio::signal::unix::{SignalKind, signal};

/// Many agents, operators and a server, and everything that can happen to them; then everything is compared.
#[derive(Debug, Parser)]
struct Arguments {
    /// What the plan of faults is drawn from; any number. By default the time.
    #[arg(long)]
    seed: Option<u64>,
    /// Rounds of faults and commands, about one and a half seconds each.
    #[arg(long, default_value_t = 300)]
    rounds: usize,
    /// Devices.
    #[arg(long, default_value_t = 10)]
    agents: usize,
    /// Rounds after which everything is healed and checked.
    #[arg(long, default_value_t = 30)]
    chapter: usize,
    /// Go without full disks: needs no user namespace.
    #[arg(long)]
    no_full_disks: bool,
    /// A new folder for everything that the run leaves. By default one below the temporary folder, which is removed if all
    /// is well.
    #[arg(long)]
    folder: Option<PathBuf>,
}

static STOP: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Before any thread is started.
    let namespace = match arguments.no_full_disks {
        true => Err("nobody wants them".to_owned()),
        false => disks::enter_namespace(),
    };
    if let Err(why) = &namespace {
        println!("without full disks: {why}");
    }
    stop_in_order();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs());
    let seed = arguments.seed.unwrap_or(now);
    let size = Size {
        agents: arguments.agents.clamp(1, 100),
        rounds: arguments.rounds,
        chapter: arguments.chapter.max(1),
    };
    let keeps = arguments.folder.is_some();
    let folder = arguments
        .folder
        .unwrap_or_else(|| std::env::temp_dir().join(format!("r58-chaos-{seed}-{}", std::process::id())));
    if let Err(error) = std::fs::create_dir_all(&folder) {
        println!("cannot make {}: {error}", folder.display());
        return ExitCode::FAILURE;
    }
    let Size { agents, rounds, chapter } = size;
    let again = format!("make chaos SEED={seed} ROUNDS={rounds} AGENTS={agents} CHAPTER={chapter}");
    println!("seed {seed}; everything is in {}; again: {again}", folder.display());
    let options = Options { seed, size, folder: folder.clone(), own_disks: namespace.is_ok() };
    let outcome = world::run(&options, &STOP);
    println!("{}", outcome.summary);
    if outcome.complaints.is_empty() {
        println!("nothing was lost, nothing is there twice, every command has ended truly");
        if !keeps {
            // Left-overs in the temporary folder harm nobody.
            let _ = std::fs::remove_dir_all(&folder);
        }
        return ExitCode::SUCCESS;
    }
    println!("{} complaints:", outcome.complaints.len());
    outcome.complaints.iter().take(30).for_each(|complaint| println!("- {complaint}"));
    println!("everything is in {}", folder.display());
    println!("again: {again}");
    ExitCode::FAILURE
}

/// Ctrl-C and SIGTERM end the run in order, so that no process is left behind.
fn stop_in_order() {
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return };
        runtime.block_on(async {
            let (interrupt, terminate) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
            if let (Ok(mut interrupt), Ok(mut terminate)) = (interrupt, terminate) {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                STOP.store(true, Ordering::SeqCst);
            }
        });
    });
}
