//! Answers the gate from a credentials file.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};

use argon2::password_hash::phc::PasswordHash;
use tokio::sync::Semaphore;

use super::{Credentials, Sha256Hash};
use crate::password;
use crate::plaintext::PlaintextPolicy;
use crate::principal::{
    Authentication, Authenticator, ConnectAttempt, Principal, PrincipalKey, Refusal, Secret,
};

/// Password checks at a time. Each takes a processor for some 50 ms and tens of megabytes.
const PASSWORD_CHECKS: usize = 2;

/// Longest password that is hashed, in bytes.
const MAX_PASSWORD_BYTES: usize = 1024;

/// An [`Authenticator`] over [`Credentials`] that can be replaced while it runs.
pub struct FileAuthenticator {
    current: RwLock<Arc<Credentials>>,
    plaintext: PlaintextPolicy,
    password_checks: Arc<Semaphore>,
}

impl FileAuthenticator {
    /// With the credentials to begin with.
    #[must_use]
    pub fn new(credentials: Credentials, plaintext: PlaintextPolicy) -> FileAuthenticator {
        FileAuthenticator {
            current: RwLock::new(Arc::new(credentials)),
            plaintext,
            password_checks: Arc::new(Semaphore::new(PASSWORD_CHECKS)),
        }
    }

    /// Puts `new` in the place of the present credentials. Returns whose connections must end: those who are gone or
    /// changed.
    pub fn replace(&self, new: Credentials) -> BTreeSet<PrincipalKey> {
        let new = Arc::new(new);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *current, Arc::clone(&new));
        drop(current);
        old.outdated_by(&new)
    }

    fn current(&self) -> Arc<Credentials> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    async fn check(&self, attempt: ConnectAttempt) -> Result<Principal, Refusal> {
        if !self.plaintext.permits(attempt.peer.ip(), attempt.transport) {
            return Err(Refusal::PlaintextForbidden);
        }
        let (Some(login), Some(secret)) = (attempt.username, attempt.password) else {
            return Err(Refusal::BadCredentials);
        };
        let credentials = self.current();
        let Some(account) = credentials.find(&login) else {
            // Names are no secret (they stand in topics), so an unknown one is refused without the work of a password
            // check, which strangers could order in any number.
            return Err(Refusal::BadCredentials);
        };
        let right = match (&account.token_sha256, &account.password) {
            (Some(hash), _) if *hash == Sha256Hash::of(secret.as_bytes()) => true,
            (_, Some(hash)) => self.password_matches(hash.clone(), secret).await?,
            _ => false,
        };
        // The file may have been replaced while the password was hashed.
        if right && self.current().find(&login) == Some(account) {
            Ok(account.principal.clone())
        } else {
            Err(Refusal::BadCredentials)
        }
    }

    /// Checks a password on a thread of its own.
    async fn password_matches(&self, hash: PasswordHash, secret: Secret) -> Result<bool, Refusal> {
        if secret.as_bytes().len() > MAX_PASSWORD_BYTES {
            return Ok(false);
        }
        let turn =
            Arc::clone(&self.password_checks).acquire_owned().await.map_err(|_| Refusal::Unavailable)?;
        let check = move || {
            // Kept until the work is done, also if the client has gone in the meantime.
            let _turn = turn;
            password::is_right(secret.as_bytes(), &hash)
        };
        tokio::task::spawn_blocking(check).await.map_err(|_| Refusal::Unavailable)
    }
}

impl Authenticator for FileAuthenticator {
    fn authenticate<'a>(&'a self, attempt: ConnectAttempt) -> Authentication<'a> {
        Box::pin(self.check(attempt))
    }
}
