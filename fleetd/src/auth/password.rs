//! Passwords: Argon2id, computed on blocking threads, a few at a time.

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher, PasswordVerifier};
use tokio::sync::Semaphore;

use crate::config::Secret;

/// Shortest password, in characters.
pub const PASSWORD_MIN_CHARS: usize = 8;
/// Longest password, in bytes.
pub const PASSWORD_MAX_BYTES: usize = 256;

/// Each hash takes about 19 MiB and a full core for tens of milliseconds.
const AT_ONCE: usize = 2;

/// What was wrong with a password or with hashing it.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// Too short, in characters.
    #[error("the password has {0} characters; it needs at least {PASSWORD_MIN_CHARS}")]
    TooShort(usize),
    /// Too long, in bytes.
    #[error("the password has {0} bytes; it may have at most {PASSWORD_MAX_BYTES}")]
    TooLong(usize),
    /// Control characters cannot be typed again with certainty.
    #[error("the password contains a control character")]
    ControlCharacter,
    /// The hash in the database cannot be read.
    #[error("the stored password hash is damaged: {0}")]
    Damaged(String),
    /// Hashing itself failed.
    #[error("hashing the password failed: {0}")]
    Hashing(String),
}

/// Checks what a person chose.
///
/// # Errors
/// What is wrong with it.
pub fn check_new(password: &str) -> Result<(), PasswordError> {
    if password.len() > PASSWORD_MAX_BYTES {
        return Err(PasswordError::TooLong(password.len()));
    }
    let chars = password.chars().count();
    if chars < PASSWORD_MIN_CHARS {
        return Err(PasswordError::TooShort(chars));
    }
    if password.chars().any(char::is_control) {
        return Err(PasswordError::ControlCharacter);
    }
    Ok(())
}

/// Hashes a password that was checked before. Takes tens of milliseconds of a core.
///
/// # Errors
/// When the library or the random source fails.
pub fn hash_blocking(password: &Secret) -> Result<String, PasswordError> {
    Argon2::default()
        .hash_password(password.expose().as_bytes())
        .map(|hash| hash.to_string())
        .map_err(|e| PasswordError::Hashing(e.to_string()))
}

fn verify_blocking(password: &Secret, stored: &str) -> Result<bool, PasswordError> {
    let stored = PasswordHash::new(stored).map_err(|e| PasswordError::Damaged(e.to_string()))?;
    Ok(Argon2::default().verify_password(password.expose().as_bytes(), &stored).is_ok())
}

/// The place where passwords are checked; bounds how many are computed at once.
#[derive(Debug)]
pub struct Passwords {
    slots: Semaphore,
    /// The hash of a password that nobody has, so that an unknown account takes as long as a known one.
    decoy: String,
}

impl Passwords {
    /// Makes the decoy hash, which takes tens of milliseconds.
    ///
    /// # Errors
    /// When hashing fails.
    pub fn new() -> Result<Self, PasswordError> {
        let nobodys =
            super::token::NewToken::generate().map_err(|e| PasswordError::Hashing(e.to_string()))?;
        Ok(Self { slots: Semaphore::new(AT_ONCE), decoy: hash_blocking(&nobodys.text)? })
    }

    /// Hashes a new password. Check it with [`check_new`] first.
    ///
    /// # Errors
    /// When hashing fails.
    pub async fn hash(&self, password: Secret) -> Result<String, PasswordError> {
        self.run(move || hash_blocking(&password)).await?
    }

    /// Whether `password` is the one behind `stored`. Without a stored hash the same work is done and the answer is no.
    ///
    /// # Errors
    /// When the stored hash cannot be read.
    pub async fn verify(&self, password: Secret, stored: Option<String>) -> Result<bool, PasswordError> {
        if password.expose().len() > PASSWORD_MAX_BYTES {
            return Ok(false);
        }
        let known = stored.is_some();
        let stored = stored.unwrap_or_else(|| self.decoy.clone());
        Ok(self.run(move || verify_blocking(&password, &stored)).await?? && known)
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PasswordError> {
        let _slot = self.slots.acquire().await.map_err(|e| PasswordError::Hashing(e.to_string()))?;
        tokio::task::spawn_blocking(work).await.map_err(|e| PasswordError::Hashing(e.to_string()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_right_password_and_no_other_is_accepted() {
        let passwords = Passwords::new().unwrap();
        let stored = passwords.hash(Secret::new("correct horse".into())).await.unwrap();
        assert!(stored.starts_with("$argon2id$"));
        assert!(passwords.verify(Secret::new("correct horse".into()), Some(stored.clone())).await.unwrap());
        assert!(!passwords.verify(Secret::new("correct hors".into()), Some(stored)).await.unwrap());
    }

    #[tokio::test]
    async fn an_unknown_account_is_never_let_in() {
        let passwords = Passwords::new().unwrap();
        assert!(!passwords.verify(Secret::new("correct horse".into()), None).await.unwrap());
    }

    #[tokio::test]
    async fn a_damaged_hash_is_an_error_and_not_a_refusal() {
        let passwords = Passwords::new().unwrap();
        let outcome =
            passwords.verify(Secret::new("correct horse".into()), Some("$argon2id$broken".into())).await;
        assert!(matches!(outcome, Err(PasswordError::Damaged(_))));
    }

    #[test]
    fn a_new_password_is_bounded_and_typable() {
        assert!(check_new("eight888").is_ok());
        assert!(matches!(check_new("seven77"), Err(PasswordError::TooShort(7))));
        assert!(matches!(check_new(&"x".repeat(257)), Err(PasswordError::TooLong(257))));
        assert!(matches!(check_new("with\0nul-inside"), Err(PasswordError::ControlCharacter)));
    }
}
