//! Passwords that were right a while ago, known again at the price of one SHA-256. Pure: takes the time.
//!
//! A person who signed in lately gets in past any flood of guesses without waiting. What is kept is a hash under a key
//! that lives and dies with the process, bound to the stored Argon2 hash: after a change of the password it fits
//! nothing. Guesses are quick here as well, so each account has a number of looks a second, whatever the address;
//! past it an attempt takes the slow way like one that is not known.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::config::Secret;

/// How long a password that was found right is known.
const KNOWN_FOR: Duration = Duration::from_hours(12);
/// How many passwords are known; past it the one that was checked longest ago is forgotten.
const KNOWN_MAX: usize = 1024;
/// Looks at one account within a second.
const LOOKS_MAX: u32 = 100;
/// The window of [`LOOKS_MAX`].
const LOOKS_WINDOW: Duration = Duration::from_secs(1);

/// A password tried at an account, as a keyed hash: equal for the same password and the same stored hash.
#[derive(Clone, Copy)]
pub struct Guess([u8; 32]);

impl PartialEq for Guess {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Guess {}

impl fmt::Debug for Guess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guess(…)")
    }
}

#[cfg(test)]
impl From<[u8; 32]> for Guess {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

struct Known {
    guess: Guess,
    checked_at: Instant,
    looks: u32,
    looks_since: Instant,
}

/// The passwords that were found right.
pub struct Verifiers {
    key: Zeroizing<[u8; 32]>,
    /// By the keyed hash of the stored Argon2 hash, which is the account and its present password.
    known: HashMap<[u8; 32], Known>,
}

impl Verifiers {
    /// Knows nothing yet.
    ///
    /// # Errors
    /// When the operating system has no random bytes.
    pub fn new() -> Result<Self, getrandom::Error> {
        let mut key = Zeroizing::new([0; 32]);
        getrandom::fill(key.as_mut_slice())?;
        Ok(Self { key, known: HashMap::new() })
    }

    /// What a password is called here.
    #[must_use]
    pub fn guess(&self, stored: &str, password: &Secret) -> Guess {
        Guess(self.hash(stored, password.expose()))
    }

    /// Whether this guess is known to be right. `false` says nothing about it.
    pub fn knows(&mut self, stored: &str, guess: &Guess, now: Instant) -> bool {
        let account = self.account(stored);
        let Some(known) = self.known.get_mut(&account) else { return false };
        if now.saturating_duration_since(known.checked_at) >= KNOWN_FOR {
            self.known.remove(&account);
            return false;
        }
        if now.saturating_duration_since(known.looks_since) >= LOOKS_WINDOW {
            (known.looks, known.looks_since) = (0, now);
        }
        known.looks = known.looks.saturating_add(1);
        known.looks <= LOOKS_MAX && known.guess == *guess
    }

    /// Remembers a guess that was checked and is right.
    pub fn learn(&mut self, stored: &str, guess: Guess, now: Instant) {
        let account = self.account(stored);
        if self.known.len() >= KNOWN_MAX
            && !self.known.contains_key(&account)
            && let Some(oldest) =
                self.known.iter().min_by_key(|(_, known)| known.checked_at).map(|(account, _)| *account)
        {
            self.known.remove(&oldest);
        }
        // Looks that were used up stay used up.
        let fresh = Known { guess, checked_at: now, looks: 0, looks_since: now };
        self.known.entry(account).or_insert(fresh).checked_at = now;
    }

    fn account(&self, stored: &str) -> [u8; 32] {
        self.hash(stored, "")
    }

    fn hash(&self, stored: &str, password: &str) -> [u8; 32] {
        // The length keeps the two texts apart. The result never leaves the process.
        let length = stored.len().to_be_bytes();
        let hash = Sha256::new_with_prefix(self.key.as_slice());
        hash.chain_update(length).chain_update(stored).chain_update(password).finalize().into()
    }
}

impl fmt::Debug for Verifiers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifiers({} known)", self.known.len())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    #[test]
    fn a_right_password_is_known_again_for_the_same_stored_hash_alone() {
        let (mut verifiers, now) = (Verifiers::new().unwrap(), Instant::now());
        let right = verifiers.guess("hash 1", &secret("correct horse"));
        assert!(!verifiers.knows("hash 1", &right, now));
        verifiers.learn("hash 1", right, now);
        assert!(verifiers.knows("hash 1", &right, now));
        let wrong = verifiers.guess("hash 1", &secret("correct hors"));
        assert!(!verifiers.knows("hash 1", &wrong, now));
        // The password was changed, and set back: another salt.
        let again = verifiers.guess("hash 2", &secret("correct horse"));
        assert!(!verifiers.knows("hash 2", &again, now) && !verifiers.knows("hash 2", &right, now));
        assert!(!verifiers.knows("hash 1", &right, now + KNOWN_FOR), "for a while only");
        assert!(verifiers.known.is_empty());
    }

    #[test]
    fn guessing_is_no_quicker_than_the_looks_of_an_account() {
        let (mut verifiers, now) = (Verifiers::new().unwrap(), Instant::now());
        let right = verifiers.guess("hash", &secret("correct horse"));
        verifiers.learn("hash", right, now);
        for n in 0..LOOKS_MAX {
            let wrong = verifiers.guess("hash", &secret(&n.to_string()));
            assert!(!verifiers.knows("hash", &wrong, now));
        }
        assert!(!verifiers.knows("hash", &right, now));
        verifiers.learn("hash", right, now);
        assert!(!verifiers.knows("hash", &right, now), "a slow check gives no new looks");
        assert!(verifiers.knows("hash", &right, now + LOOKS_WINDOW));
    }

    #[test]
    fn the_number_of_known_passwords_is_bounded() {
        let (mut verifiers, start) = (Verifiers::new().unwrap(), Instant::now());
        let right = verifiers.guess("hash", &secret("correct horse"));
        for n in 0..KNOWN_MAX as u64 + 10 {
            verifiers.learn(&n.to_string(), right, start + Duration::from_millis(n));
        }
        assert_eq!(verifiers.known.len(), KNOWN_MAX);
        assert!(!verifiers.knows("0", &right, start), "the oldest is forgotten");
    }
}
