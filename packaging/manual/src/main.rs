//! `manual FOLDER` writes the man pages of all programs and their subcommands, and what shells complete, as packages have them:
//! `FOLDER/PROGRAM/man/*.1` and `FOLDER/PROGRAM/completions/{PROGRAM.bash,_PROGRAM,PROGRAM.fish}`.

use std::error::Error;
use std::fs;
use std::io::Result;
use std::path::Path;

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).ok_or("usage: manual FOLDER")?;
    for program in [agent::cli::command(), broker::cli::command(), fleetd::cli::command()] {
        write(program, Path::new(&folder))?;
    }
    Ok(())
}

fn write(mut program: Command, folder: &Path) -> Result<()> {
    let name = program.get_name().to_owned();
    let [man, completions] = ["man", "completions"].map(|part| folder.join(&name).join(part));
    // Not one page more than there are commands.
    if man.exists() {
        fs::remove_dir_all(&man)?;
    }
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut program, &name, &completions)?;
    }
    pages(&program, &man)
}

/// The page of a command that has been built, and those of its subcommands. `help` has none: it shows what they say.
fn pages(command: &Command, folder: &Path) -> Result<()> {
    for subcommand in command.get_subcommands().filter(|one| one.get_name() != "help") {
        pages(subcommand, folder)?;
    }
    let version = concat!("R58 Fleet ", env!("CARGO_PKG_VERSION"));
    let command = command.clone().disable_help_subcommand(true);
    Man::new(command).source(version).manual("R58 Fleet").generate_to(folder).map(drop)
}
