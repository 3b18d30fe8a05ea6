//! Tokens of machines: 64 hex characters, of which only the SHA-256 is kept.
//!
//! Device tokens, API keys, enrolment keys and refresh tokens are all of this kind. The hash is taken over the
//! token's text, so that `printf %s "$TOKEN" | sha256sum` gives what the database holds.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::config::Secret;

/// Length of a token that this server makes, in characters.
pub const TOKEN_LEN: usize = 64;

/// Longest token that is looked at, in bytes; anything longer is refused unread.
pub const TOKEN_MAX_LEN: usize = 256;

/// How much of an API key or enrolment key may be shown, to tell keys apart.
pub(crate) const PREFIX_LEN: usize = 8;

/// The operating system gave no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gave no random bytes: {0}")]
pub struct RandomError(getrandom::Error);

/// A token that was just made: shown once, then only its hash is known.
pub struct NewToken {
    /// The token itself.
    pub text: Secret,
    /// What the database keeps.
    pub hash: TokenHash,
}

impl NewToken {
    /// Makes a token of 32 random bytes.
    ///
    /// # Errors
    /// When the operating system has no random bytes.
    pub fn generate() -> Result<Self, RandomError> {
        let mut bytes = zeroize::Zeroizing::new([0_u8; TOKEN_LEN / 2]);
        getrandom::fill(bytes.as_mut_slice()).map_err(RandomError)?;
        let text = Secret::new(hex(bytes.as_slice()));
        let hash = TokenHash::of(text.expose());
        Ok(Self { text, hash })
    }

    /// The first characters, which may be shown in lists.
    #[must_use]
    pub fn prefix(&self) -> &str {
        self.text.expose().get(..PREFIX_LEN).unwrap_or_default()
    }
}

/// The SHA-256 of a token. Comparison takes the same time for every value.
#[derive(Clone, Copy)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// Hashes a token as it was sent.
    #[must_use]
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// A SHA-256 that somebody else has computed.
    #[must_use]
    pub const fn from_bytes(hash: [u8; 32]) -> Self {
        Self(hash)
    }

    /// Reads 64 hex digits, in either case.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        let mut bytes = [0_u8; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let high = char::from(pair[0]).to_digit(16)?;
            let low = char::from(pair[1]).to_digit(16)?;
            *byte = u8::try_from(high * 16 + low).ok()?;
        }
        Some(Self(bytes))
    }

    /// As the database keeps it: 64 small hex digits.
    #[must_use]
    pub fn to_hex(self) -> String {
        hex(&self.0)
    }
}

impl PartialEq for TokenHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for TokenHash {}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(…)")
    }
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_new_token_is_64_hex_characters_and_never_the_same() {
        let (a, b) = (NewToken::generate().unwrap(), NewToken::generate().unwrap());
        assert_eq!(a.text.expose().len(), TOKEN_LEN);
        assert!(a.text.expose().bytes().all(|c| c.is_ascii_hexdigit()));
        assert_ne!(a.text.expose(), b.text.expose());
        assert_eq!(a.hash, TokenHash::of(a.text.expose()));
        assert_ne!(a.hash, b.hash);
    }

    #[test]
    fn the_hash_is_sha256_over_the_text() {
        let hash = TokenHash::of("abc");
        assert_eq!(hash.to_hex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(TokenHash::from_hex(&hash.to_hex().to_uppercase()), Some(hash));
    }

    #[test]
    fn what_is_not_64_hex_digits_is_no_hash() {
        for text in ["", "ab", &"g".repeat(64), &"é".repeat(32), &"a".repeat(65)] {
            assert!(TokenHash::from_hex(text).is_none(), "{text}");
        }
    }
}
