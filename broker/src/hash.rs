//! `fleet-broker hash`: the hash of a secret from standard input.

use std::io::{BufRead, IsTerminal, Read};

use argon2::Argon2;
use argon2::password_hash::PasswordHasher;
use argon2::password_hash::phc::PasswordHash;
use broker::credentials::Sha256Hash;
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::Outcome;
use broker::cli::SecretKind;

/// Longest secret, in bytes; the gate takes no longer ones.
const MAX_SECRET_BYTES: u64 = 1024;

/// Shortest password that a person may choose, in characters.
const MIN_PASSWORD_CHARS: usize = 8;

pub(crate) fn hash(kind: SecretKind) -> Outcome<()> {
    let secret = read_secret()?;
    if secret.is_empty() {
        return Err("no secret on standard input; write it there, followed by a newline".into());
    }
    let line = match kind {
        SecretKind::Token => Sha256Hash::of(secret.as_bytes()).to_string(),
        SecretKind::Password => {
            if secret.chars().count() < MIN_PASSWORD_CHARS {
                return Err(format!(
                    "the password is too short; take at least {MIN_PASSWORD_CHARS} characters"
                )
                .into());
            }
            let hash: PasswordHash = Argon2::default()
                .hash_password(secret.as_bytes())
                .map_err(|error| format!("cannot hash the password: {error}"))?;
            hash.to_string()
        }
    };
    crate::print(format!("{line}\n").as_bytes())
}

/// One line of standard input, without its end. A terminal does not show what is typed.
fn read_secret() -> Outcome<Zeroizing<String>> {
    let input = std::io::stdin();
    let hidden = if input.is_terminal() {
        eprint!("Secret: ");
        Some(HiddenInput::start()?)
    } else {
        None
    };
    let mut line = Zeroizing::new(String::with_capacity(MAX_SECRET_BYTES as usize + 2));
    let read = input.lock().take(MAX_SECRET_BYTES + 2).read_line(&mut line);
    if hidden.is_some() {
        eprintln!();
    }
    drop(hidden);
    read.map_err(|error| format!("cannot read the secret from standard input: {error}"))?;
    let end = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(end);
    if end as u64 > MAX_SECRET_BYTES {
        return Err(format!("the secret has more than {MAX_SECRET_BYTES} bytes").into());
    }
    Ok(line)
}

/// While it lives, the terminal does not show what is typed.
struct HiddenInput {
    before: Termios,
}

impl HiddenInput {
    fn start() -> Outcome<HiddenInput> {
        let before = tcgetattr(std::io::stdin())?;
        let mut hidden = before.clone();
        hidden.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(std::io::stdin(), SetArg::TCSAFLUSH, &hidden)?;
        Ok(HiddenInput { before })
    }
}

impl Drop for HiddenInput {
    fn drop(&mut self) {
        // Nothing can be done about a failure here, and the terminal has most likely gone.
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSAFLUSH, &self.before);
    }
}
