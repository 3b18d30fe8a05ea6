//! Reads a password: from a terminal without showing it, or from a pipe.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::Failure;
use crate::config::Secret;

/// Most bytes that are read.
const READ_MAX: u64 = 4096;
/// What Ctrl-C types while it does not end the program.
const CTRL_C: char = '\u{3}';

/// Asks at a terminal (twice), or takes the first line of standard input.
pub(super) fn read_new() -> Result<Secret, Failure> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        let line = read_line()?;
        if line.is_empty() {
            return Err("no password came on standard input; for example: printf %s 'the password' | fleetd user add …".into());
        }
        return Ok(Secret::new(line.as_str().to_owned()));
    }
    let first = ask("Password: ")?;
    let second = ask("The same again: ")?;
    if first != second {
        return Err("the two passwords differ; nothing was changed".into());
    }
    Ok(Secret::new(first.as_str().to_owned()))
}

fn ask(prompt: &str) -> Result<Zeroizing<String>, Failure> {
    let mut out = io::stderr();
    out.write_all(prompt.as_bytes())?;
    out.flush()?;
    let silence = Silence::begin()?;
    let line = read_line();
    drop(silence);
    writeln!(out)?;
    let line = line?;
    if line.contains(CTRL_C) { Err("cancelled; nothing was changed".into()) } else { Ok(line) }
}

fn read_line() -> Result<Zeroizing<String>, Failure> {
    let mut line = Zeroizing::new(Vec::new());
    io::stdin().lock().take(READ_MAX).read_until(b'\n', &mut line)?;
    let text = std::str::from_utf8(&line).map_err(|_| "the password is not UTF-8")?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    Ok(Zeroizing::new(text.strip_suffix('\r').unwrap_or(text).to_owned()))
}

/// The terminal shows nothing while this lives. Ctrl-C is read as a character, so that it cannot leave the terminal
/// like that.
struct Silence {
    before: Termios,
}

impl Silence {
    fn begin() -> Result<Self, Failure> {
        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO | LocalFlags::ISIG);
        tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &silent)?;
        Ok(Self { before })
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &self.before) {
            eprintln!("cannot put the terminal back as it was ({error}); type: stty sane");
        }
    }
}
