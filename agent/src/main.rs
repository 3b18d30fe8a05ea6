//! Entry point.

fn main() -> std::process::ExitCode {
    agent::cli::main()
}
