//! `rotate_token`: the files of a change of the device's token.
//!
//! | file | what |
//! |---|---|
//! | `STATE_DIR/token-next` | the command and the token that it made, until the rotation has ended |
//! | `fleet.conf`, `DEVICE_TOKEN` | the token that is used |
//! | `STATE_DIR/token-previous` | the token before the last rotation, until the next one |
//!
//! Each file is replaced in one step and is on the disk before the next step begins; the two in `STATE_DIR` have mode
//! 0600. So after a kill at any instant [`Rotation::standing`] finds one of three states, and every step may be repeated:
//!
//! 1. [`Rotation::make`]: `token-next` is there, `fleet.conf` has another one ([`Standing::Made`]). Now its hash may be
//!    reported, and once the server has committed that:
//! 2. [`Rotation::switch`]: the token in use becomes `token-previous`, then the new one is put into `fleet.conf`
//!    ([`Standing::Switched`]). Now the agent connects with it.
//! 3. [`Rotation::confirm`] when the server has answered on such a connection, or [`Rotation::fall_back`] when it has
//!    refused the new token: either takes `token-next` away ([`Standing::Nothing`]).
//!
//! Later a server may refuse the token in use and take the one before: it was restored from a backup of before the
//! rotation. Then [`Rotation::go_back`] puts that one into `fleet.conf`.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::PathBuf;

use protocol::failpoint;
use protocol::id::CommandId;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{Probed, Refusal, settings, with_causes};
use crate::config::{self, Config, FileError, Key, Readers, Secret};

const NEXT: &str = "token-next";
const PREVIOUS: &str = "token-previous";
/// Longest of these files, in bytes.
const FILE_MAX_LEN: u64 = 1024;

/// The old token is in its file, and still in use.
const PREVIOUS_KEPT: &str = "agent.rotation.previous-kept";
/// The new one is in `fleet.conf`.
const SWITCHED: &str = "agent.rotation.switched";
/// The rotation has failed, and the old one is in `fleet.conf` again.
const FALLEN_BACK: &str = "agent.rotation.fallen-back";
/// `token-next` is about to be removed.
const BEFORE_END: &str = "agent.rotation.before-end";
/// Places at which a test kills the process, besides those of each file that is replaced.
pub const FAILPOINTS: [&str; 4] = [PREVIOUS_KEPT, SWITCHED, FALLEN_BACK, BEFORE_END];

/// The files of this device. No token is ever shown by `Debug`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    state_dir: PathBuf,
    config_file: PathBuf,
}

/// How far a rotation has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// None is under way.
    Nothing,
    /// A token was made, and the one before is still used.
    Made(Made),
    /// The new token is in `fleet.conf`.
    Switched(Made),
}

/// A new token, as it may be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// The command that it was made for.
    pub command_id: CommandId,
    /// What the server is told: SHA-256 of its text.
    pub sha256: [u8; 32],
}

/// A step cannot be made. Nothing is half done, and it may be tried again.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// A file cannot be read or replaced.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file of the rotation cannot be read or removed.
    #[error("cannot {doing} {path}")]
    Io {
        /// Which operation.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The system has no randomness to give.
    #[error("cannot make a token: the system gives no random numbers")]
    Random(#[source] getrandom::Error),
    /// There is no token to go on with.
    #[error("{0}")]
    Missing(String),
}

/// What `token-next` holds.
struct Next {
    command_id: CommandId,
    token: Secret,
}

impl Next {
    fn made(&self) -> Made {
        Made { command_id: self.command_id.clone(), sha256: sha256(&self.token) }
    }
}

/// What is noted before a rotation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Before {
    files: Rotation,
    /// Of the token in use; a hash of 256 random bits tells nobody anything.
    sha256: Option<[u8; 32]>,
}

impl Rotation {
    /// The files, if this device can change its token.
    ///
    /// # Errors
    /// When the token is not in a file that the agent may change.
    pub fn of(config: &Config) -> Result<Self, Refusal> {
        let refused = |why: &str| Err(Refusal::NotAllowed(why.to_owned()));
        match (&config.file, &config.device_token) {
            (_, None) => refused("this device has no token: it logs in by its certificate"),
            (_, Some(_)) if config.token_from_environment => {
                refused("DEVICE_TOKEN comes from the agent's environment, where it cannot be changed")
            }
            (_, Some(_)) => {
                let config_file = settings::file_of(config).map_err(Refusal::NotAllowed)?;
                Ok(Self { state_dir: config.state_dir.clone(), config_file })
            }
        }
    }

    /// Makes the new token for this command, or finds the one that was made for it. One that was left over by another
    /// command is replaced: only one rotation is under way at a time.
    ///
    /// # Errors
    /// When it cannot be written, or there are no random numbers.
    pub fn make(&self, command_id: &CommandId) -> Result<Made, RotationError> {
        if let Some(next) = self.next()?.filter(|next| next.command_id == *command_id) {
            return Ok(next.made());
        }
        let mut bytes = Zeroizing::new([0_u8; 32]);
        getrandom::fill(&mut *bytes).map_err(RotationError::Random)?;
        let next = Next { command_id: command_id.clone(), token: Secret::new(hex(&*bytes)) };
        let text = Zeroizing::new(format!("{command_id}\n{}\n", next.token.expose()));
        config::write_private(&self.state_dir.join(NEXT), text.as_bytes())?;
        Ok(next.made())
    }

    /// How far the rotation has come.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn standing(&self) -> Result<Standing, RotationError> {
        let Some(next) = self.next()? else { return Ok(Standing::Nothing) };
        let made = next.made();
        Ok(if is_same(self.in_use()?.as_ref(), &next.token) {
            Standing::Switched(made)
        } else {
            Standing::Made(made)
        })
    }

    /// Puts the new token into `fleet.conf`, and keeps the one before.
    ///
    /// # Errors
    /// When there is no new token, or a file cannot be replaced.
    pub fn switch(&self) -> Result<(), RotationError> {
        let next = self.next()?.ok_or_else(|| missing("there is no new token to switch to"))?;
        let in_use = self.in_use()?;
        if is_same(in_use.as_ref(), &next.token) {
            return Ok(());
        }
        let in_use =
            in_use.ok_or_else(|| missing("there is no DEVICE_TOKEN in fleet.conf to fall back to"))?;
        let text = Zeroizing::new(format!("{}\n", in_use.expose()));
        config::write_private(&self.state_dir.join(PREVIOUS), text.as_bytes())?;
        failpoint::reached(PREVIOUS_KEPT);
        self.use_token(&next.token)?;
        failpoint::reached(SWITCHED);
        Ok(())
    }

    /// The new token works: the rotation has ended.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn confirm(&self) -> Result<(), RotationError> {
        self.end()
    }

    /// The new token is refused, or no longer wanted: puts the one before back into `fleet.conf`, if it is not there.
    ///
    /// # Errors
    /// When a file cannot be read or replaced.
    pub fn fall_back(&self) -> Result<(), RotationError> {
        let Some(next) = self.next()? else { return Ok(()) };
        if is_same(self.in_use()?.as_ref(), &next.token) {
            let previous =
                self.previous()?.ok_or_else(|| missing("the token before is not there any more"))?;
            self.use_token(&previous)?;
            failpoint::reached(FALLEN_BACK);
        }
        self.end()
    }

    /// The token before the last rotation, if it is another one than `refused`.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn token_before(&self, refused: &Secret) -> Result<Option<Secret>, RotationError> {
        Ok(self.previous()?.filter(|previous| !is_same(Some(previous), refused)))
    }

    /// The server takes the token before, and not the one in `fleet.conf`: puts it there again.
    ///
    /// # Errors
    /// When it is gone, or the file cannot be replaced.
    pub fn go_back(&self) -> Result<(), RotationError> {
        let previous = self.previous()?.ok_or_else(|| missing("the token before is not there any more"))?;
        self.use_token(&previous)
    }

    fn end(&self) -> Result<(), RotationError> {
        failpoint::reached(BEFORE_END);
        let path = self.state_dir.join(NEXT);
        let failed = |source| RotationError::Io { doing: "remove", path: path.clone(), source };
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            removed => removed.map_err(failed)?,
        }
        File::open(&self.state_dir).and_then(|folder| folder.sync_all()).map_err(failed)
    }

    fn use_token(&self, token: &Secret) -> Result<(), RotationError> {
        let file = &self.config_file;
        config::change_file(file, None, Readers::AsBefore, |text| {
            config::set(text, &[(Key::DeviceToken.name(), token.expose())])
                .map_err(|source| FileError::Edit { path: file.clone(), source }.into())
        })
    }

    /// The token in `fleet.conf`.
    fn in_use(&self) -> Result<Option<Secret>, RotationError> {
        let text = config::read_file(&self.config_file)?;
        Ok(config::value_in(&text, Key::DeviceToken.name()).map(Secret::new))
    }

    fn next(&self) -> Result<Option<Next>, RotationError> {
        let Some(text) = self.read(NEXT)? else { return Ok(None) };
        let mut lines = text.lines();
        let next = lines.next().and_then(|id| id.parse().ok()).zip(lines.next().and_then(token));
        if next.is_none() {
            // It was never half written; whatever it is, no server knows of a token in it.
            tracing::warn!(file = NEXT, "this file is damaged and does not count");
        }
        Ok(next.map(|(command_id, token)| Next { command_id, token }))
    }

    fn previous(&self) -> Result<Option<Secret>, RotationError> {
        Ok(self.read(PREVIOUS)?.and_then(|text| token(text.trim_end())))
    }

    fn read(&self, name: &str) -> Result<Option<Zeroizing<String>>, RotationError> {
        let path = self.state_dir.join(name);
        // Large enough at once, so that no part of it is left behind in memory.
        let mut text = Zeroizing::new(String::with_capacity(4096));
        match File::open(&path).and_then(|file| file.take(FILE_MAX_LEN).read_to_string(&mut text)) {
            Ok(_) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            // Not text: damaged, like one with something else in it.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(Some(Zeroizing::default())),
            Err(source) => Err(RotationError::Io { doing: "read", path, source }),
        }
    }

    pub(super) fn observe(&self) -> Before {
        let sha256 = self.in_use().ok().flatten().map(|token| sha256(&token));
        Before { files: self.clone(), sha256 }
    }
}

/// After a crash: whether there is something to go on with.
pub(super) fn probe(before: &Before) -> Probed {
    let seen = before.files.standing().and_then(|standing| Ok((standing, before.files.in_use()?)));
    match seen {
        Err(error) => Probed::Unknown(with_causes(&error)),
        Ok((Standing::Made(_) | Standing::Switched(_), _)) => Probed::StillGoing,
        Ok((Standing::Nothing, in_use)) if in_use.as_ref().map(sha256) == before.sha256 => Probed::NotDone,
        Ok((Standing::Nothing, _)) => Probed::Done(json!({})),
    }
}

fn missing(what: &str) -> RotationError {
    RotationError::Missing(what.to_owned())
}

fn token(line: &str) -> Option<Secret> {
    let good = line.len() == 64 && line.bytes().all(|byte| byte.is_ascii_hexdigit());
    good.then(|| Secret::new(line.to_owned()))
}

/// Both are this device's own, so how long this takes tells nobody anything.
fn is_same(in_use: Option<&Secret>, token: &Secret) -> bool {
    in_use.is_some_and(|in_use| in_use.expose() == token.expose())
}

fn sha256(token: &Secret) -> [u8; 32] {
    Sha256::digest(token.expose()).into()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    // Of the right size at once, so that no part of it is left behind in memory.
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
