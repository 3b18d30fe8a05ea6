//! Entry point.

fn main() -> std::process::ExitCode {
    agent::core_dumps::forbid();
    agent::cli::main()
}
