//! Where the report was made.

use std::fs::read_to_string;
use std::process::Command;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::utsname::uname;

use crate::aims::Context;
use crate::fsync::Fsync;
use crate::outcome::{Outcome, Tell};

/// Files that 10,000 connections need, with room.
const FILES: u64 = 12_000;

/// Thousands of connections need as many descriptors, here and in the programs that are started from here.
pub(crate) fn raise_file_limit() -> Outcome<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).tell("read the limit of open files")?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).tell("raise the limit of open files")?;
    if most < FILES {
        eprintln!(
            "bench: only {most} files may be open (ulimit -Hn); aims with 10,000 connections need {FILES}"
        );
    }
    Ok(())
}

/// The lines of the report's first table.
pub(crate) fn describe(context: &Context, fsync_after: Fsync) -> Outcome<Vec<(String, String)>> {
    let system = uname().tell("ask the kernel for its name")?;
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = read_to_string("/proc/loadavg").unwrap_or_default();
    let before = context.fsync;
    let mut lines = vec![
        ("date", jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string()),
        ("command", command_line()),
        ("processor", format!("{cores} cores, {}", processor())),
        ("kernel", format!("{} {}", system.sysname().to_string_lossy(), system.release().to_string_lossy())),
        ("load at the end", load.split_whitespace().take(3).collect::<Vec<_>>().join(" ")),
        (
            "write of 4 KiB with fdatasync",
            format!(
                "p50 {:.2} ms, p99 {:.2} ms; at the end p50 {:.2} ms",
                before.p50_ms(),
                before.p99_ms(),
                fsync_after.p50_ms()
            ),
        ),
        ("R58 Fleet", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    lines.push(("Mosquitto", mosquitto_version()));
    lines.push(("SQLite", rusqlite::version().to_owned()));
    if context.quick {
        lines.push(("note", "a quick run: few and short repetitions, the figures mean little".to_owned()));
    }
    Ok(lines.into_iter().map(|(a, b)| (a.to_owned(), b)).collect())
}

fn command_line() -> String {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    format!("`bench {}`", arguments.join(" ")).replace(" `", "`")
}

fn processor() -> String {
    let text = read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or_else(|| "unknown model".to_owned(), |(_, name)| name.trim().to_owned())
}

fn mosquitto_version() -> String {
    let output = Command::new(crate::mosquitto::program()).arg("-h").output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("not installed").trim_start_matches("mosquitto version ").to_owned()
}
