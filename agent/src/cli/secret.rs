//! Reads a key or token: from a file, a pipe, or a terminal that shows nothing meanwhile.

use std::fs::File;
use std::io::{self, BufRead as _, IsTerminal as _, Read, Write as _};
use std::path::Path;

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::config::Secret;

/// Longest text that is read, in bytes.
const MAX_LEN: u64 = 1024;
/// What Ctrl-C types while it does not end the program.
const CTRL_C: char = '\u{3}';

/// It cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the {what} from {from}")]
pub(super) struct SecretError {
    what: &'static str,
    from: String,
    source: io::Error,
}

/// The secret from where the arguments say, without the blanks and line ends around it. `what` names it.
pub(super) fn read(
    what: &'static str,
    given: Option<Secret>,
    file: Option<&Path>,
) -> Result<Secret, SecretError> {
    let failed = |from: String| move |source| SecretError { what, from, source };
    let text = match (given, file) {
        (Some(secret), _) if secret.expose() != "-" => secret,
        (_, Some(path)) if path != Path::new("-") => {
            let failed = || failed(path.display().to_string());
            bounded(File::open(path).map_err(failed())?).map_err(failed())?
        }
        _ => {
            let stdin = io::stdin();
            let read = if stdin.is_terminal() { ask(what) } else { bounded(stdin.lock()) };
            read.map_err(failed("standard input".to_owned()))?
        }
    };
    Ok(Secret::new(text.expose().trim().to_owned()))
}

fn bounded(from: impl Read) -> io::Result<Secret> {
    let mut text = Zeroizing::new(String::new());
    from.take(MAX_LEN).read_to_string(&mut text)?;
    Ok(Secret::new(text.as_str().to_owned()))
}

fn ask(what: &str) -> io::Result<Secret> {
    eprint!("The {what} (it is not shown): ");
    io::stderr().flush()?;
    let silence = Silence::begin()?;
    let mut line = Zeroizing::new(String::new());
    let read = io::stdin().lock().take(MAX_LEN).read_line(&mut line);
    drop(silence);
    eprintln!();
    read?;
    if line.contains(CTRL_C) {
        return Err(io::Error::new(io::ErrorKind::Interrupted, "cancelled; nothing was changed"));
    }
    Ok(Secret::new(line.as_str().to_owned()))
}

/// The terminal shows nothing while this lives. Ctrl-C is read as a character, so that it cannot leave the terminal
/// like that.
struct Silence {
    before: Termios,
}

impl Silence {
    fn begin() -> io::Result<Self> {
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
