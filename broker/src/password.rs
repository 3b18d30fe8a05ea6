//! Checking a password against its Argon2 hash, in memory that is used again.
//!
//! One check needs some 20 MB. An allocator that is asked for as much from ever other threads keeps several times that for
//! good, so a flood of guesses would grow the process by hundreds of megabytes. Here it is set aside once for each check
//! that runs at the same time, and kept.

use std::sync::{Mutex, PoisonError};

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Block, Params, Version};
use subtle::ConstantTimeEq;

/// Memory that no check is using. Callers bound how many run at the same time.
static IDLE: Mutex<Vec<Vec<Block>>> = Mutex::new(Vec::new());

/// True if `password` is the one that was hashed; false also for a hash that cannot be computed. Takes tens of
/// milliseconds of a processor, as the hash wants it.
#[must_use]
pub fn is_right(password: &[u8], hash: &PasswordHash) -> bool {
    let (Some(salt), Some(wanted)) = (&hash.salt, &hash.hash) else { return false };
    let Ok(algorithm) = Algorithm::try_from(hash.algorithm.as_str()) else { return false };
    let version = hash.version.map_or(Ok(Version::default()), Version::try_from);
    let (Ok(version), Ok(params)) = (version, Params::try_from(hash)) else { return false };
    let blocks = params.block_count();
    let mut memory = idle().pop().unwrap_or_default();
    if memory.len() < blocks {
        memory = vec![Block::new(); blocks];
    }
    let mut got = vec![0; wanted.as_bytes().len()];
    let computed = Argon2::new(algorithm, version, params).hash_password_into_with_memory(
        password,
        salt.as_ref(),
        &mut got,
        &mut memory[..blocks],
    );
    idle().push(memory);
    computed.is_ok() && bool::from(got.ct_eq(wanted.as_bytes()))
}

fn idle() -> std::sync::MutexGuard<'static, Vec<Vec<Block>>> {
    IDLE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use argon2::PasswordHasher;

    use super::*;

    fn hashed(password: &str, memory_kib: u32) -> String {
        let params = Params::new(memory_kib, 1, 1, None).unwrap();
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        argon2.hash_password(password.as_bytes()).unwrap().to_string()
    }

    #[test]
    fn the_right_password_is_right_and_others_are_not_whatever_was_checked_before() {
        for memory_kib in [64, 1_024, 8, 512] {
            let text = hashed("right horse", memory_kib);
            let hash = PasswordHash::new(&text).unwrap();
            assert!(is_right(b"right horse", &hash));
            assert!(!is_right(b"wrong horse", &hash) && !is_right(b"", &hash));
        }
    }

    #[test]
    fn a_hash_that_cannot_be_computed_is_never_right() {
        for text in ["$argon2id$v=19$m=64,t=1,p=1", "$scrypt$ln=16$aM15713r3Xsvxbi31lqr1Q"] {
            assert!(!is_right(b"", &PasswordHash::new(text).unwrap()), "{text}");
        }
    }
}
