//! The fleet server's program.

fn main() -> std::process::ExitCode {
    broker::core_dumps::forbid();
    fleetd::cli::main()
}
