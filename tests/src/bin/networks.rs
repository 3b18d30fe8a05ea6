//! `make test-networks`: see `docs/networks.md`.

use std::collections::BTreeSet;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use end_to_end::networks::{self, Options, Told};
use nix::unistd::geteuid;
use tokio::signal::unix::{SignalKind, signal};

/// A server and agents in networks of their own, and everything that networks do to them, one by one; needs root.
#[derive(Debug, Parser)]
struct Arguments {
    /// Draws at which moment of a fault commands come; any number.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// One scenario; may be given several times. By default all.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Shorter faults: a few minutes in all.
    #[arg(long)]
    quick: bool,
    /// So many scenarios at the same time.
    #[arg(long, default_value_t = 16)]
    jobs: usize,
    /// Print the names of the scenarios.
    #[arg(long)]
    list: bool,
    /// Write the table, with an introduction, into this file if all is well.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// A new folder for everything that the run leaves. By default one below the temporary folder, which is removed if all is
    /// well.
    #[arg(long)]
    folder: Option<PathBuf>,
}

/// In all.
const LIMIT: Duration = Duration::from_secs(40 * 60);

static STOP: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let all = networks::list();
    if arguments.list {
        all.iter().for_each(|(name, what)| println!("{name:<20} {what}"));
        return ExitCode::SUCCESS;
    }
    if let Some(unknown) = arguments.only.iter().find(|name| all.iter().all(|(known, _)| known != name)) {
        println!("there is no scenario {unknown:?}; see --list");
        return ExitCode::from(2);
    }
    if !geteuid().is_root() {
        println!("networks of one's own need root: run `make test-networks`, which asks for it");
        return ExitCode::from(2);
    }
    stop_in_order();
    let keeps = arguments.folder.is_some();
    let own = || std::env::temp_dir().join(format!("r58-networks-{}", std::process::id()));
    let folder = arguments.folder.unwrap_or_else(own);
    if let Err(error) = std::fs::create_dir_all(&folder) {
        println!("cannot make {}: {error}", folder.display());
        return ExitCode::FAILURE;
    }
    println!("seed {}; everything is in {}", arguments.seed, folder.display());
    let progress = Progress::new();
    let is_whole = arguments.only.is_empty() && !arguments.quick;
    let options = Options {
        seed: arguments.seed,
        quick: arguments.quick,
        only: arguments.only,
        jobs: arguments.jobs,
        folder: &folder,
        stop: &STOP,
    };
    let outcome = networks::run(&options, &|told| progress.tell(&told));
    progress.end();
    println!("{}", outcome.table);
    if !outcome.complaints.is_empty() {
        println!("{} complaints:", outcome.complaints.len());
        outcome.complaints.iter().take(30).for_each(|complaint| println!("- {complaint}"));
        println!("everything is in {}", folder.display());
        return ExitCode::FAILURE;
    }
    if !keeps {
        // Left-overs in the temporary folder harm nobody.
        let _ = std::fs::remove_dir_all(&folder);
    }
    if let Some(out) = arguments.out.filter(|_| is_whole)
        && let Err(error) = std::fs::write(&out, networks::page(&outcome.table, options.seed))
    {
        println!("cannot write {}: {error}", out.display());
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// What runs, for people who wait.
struct Progress {
    began: Instant,
    /// What runs now; nothing more is shown once it is none.
    running: Arc<Mutex<Option<BTreeSet<String>>>>,
}

impl Progress {
    fn new() -> Self {
        let progress = Self { began: Instant::now(), running: Arc::new(Mutex::new(Some(BTreeSet::new()))) };
        let (began, running) = (progress.began, Arc::clone(&progress.running));
        if std::io::stdout().is_terminal() {
            std::thread::spawn(move || {
                loop {
                    std::thread::sleep(Duration::from_secs(1));
                    let running = running.lock().unwrap_or_else(PoisonError::into_inner);
                    let Some(running) = running.as_ref() else { return };
                    let names: Vec<&str> = running.iter().map(String::as_str).collect();
                    print!("\r\x1b[K{:4} s  {}", began.elapsed().as_secs(), names.join(", "));
                    let _ = std::io::stdout().flush();
                }
            });
        }
        progress
    }

    fn tell(&self, told: &Told<'_>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(running) = running.as_mut() else { return };
        match told {
            Told::Begins(name) => {
                running.insert((*name).to_owned());
            }
            Told::Ended(name, after, complaints) => {
                running.remove(*name);
                let how =
                    if complaints.is_empty() { "all is well".to_owned() } else { complaints.join("; ") };
                let clear = if std::io::stdout().is_terminal() { "\r\x1b[K" } else { "" };
                let (now, after) = (self.began.elapsed().as_secs(), after.as_secs());
                println!("{clear}{now:4} s  {name}, {after} s: {how}");
            }
        }
    }

    fn end(&self) {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = None;
        println!();
    }
}

/// Ctrl-C and SIGTERM end the run in order, so that no process is left behind; so does a run that takes too long.
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
                    () = tokio::time::sleep(LIMIT) => println!("not done after {} min", LIMIT.as_secs() / 60),
                }
                STOP.store(true, Ordering::SeqCst);
            }
        });
    });
}
