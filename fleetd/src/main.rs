//! The fleet server's program.

fn main() -> std::process::ExitCode {
    fleetd::cli::main()
}
