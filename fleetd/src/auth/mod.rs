//! Who is calling, and what they may do.

pub mod caller;
pub mod jwt;
pub mod limiter;
pub mod mqtt;
pub mod password;
pub mod policy;
pub mod token;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::config::{Config, Secret};
use crate::domain::network::Proxies;
use crate::service::Error;
use jwt::{JwtKeys, KeyError};
use limiter::{FAILURES_MAX, FAILURES_WINDOW_MS, FailureKey, FailureLimiter, RequestLimiter};
use password::{PasswordError, Passwords};

/// How long each guess waits once an (address, account) has used up its failures. A right password still gets in.
const SLOW_GUESS: Duration = Duration::from_secs(1);
/// How many guesses of one (address, account) may wait at once.
const SLOW_GUESSES_MAX: u32 = 3;
/// Rows about refused requests that one (address, account) may add to the audit log within the window.
const REFUSALS_NOTED_MAX: u32 = 30;

/// Authentication could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The key of access tokens.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Password hashing.
    #[error(transparent)]
    Password(#[from] PasswordError),
}

/// What authentication keeps while the server runs.
#[derive(Debug)]
pub struct AuthState {
    /// Signs and checks access tokens.
    pub jwt: JwtKeys,
    /// Who may speak for others, and over what.
    pub proxies: Proxies,
    passwords: Passwords,
    clock: Clock,
    failures: Mutex<FailureLimiter>,
    requests: Mutex<RequestLimiter>,
    refusals: Mutex<FailureLimiter>,
    guessing: Mutex<HashMap<FailureKey, u32>>,
}

impl AuthState {
    /// Opens or makes the signing key in the data folder. Blocks for some tens of milliseconds.
    ///
    /// # Errors
    /// [`AuthError`] with what is wrong with the key.
    pub fn open(config: &Config, clock: &Clock) -> Result<Self, AuthError> {
        Self::with(config, clock, &config.data_dir)
    }

    fn with(config: &Config, clock: &Clock, data_dir: &Path) -> Result<Self, AuthError> {
        let period_ms = i64::try_from(config.rate_limit_period.as_millis()).unwrap_or(i64::MAX / 2);
        Ok(Self {
            jwt: JwtKeys::open(config.jwt_secret.as_ref(), data_dir)?,
            proxies: Proxies {
                trusted: config.trusted_proxies.clone(),
                allow_plaintext: config.allow_plaintext,
            },
            passwords: Passwords::new()?,
            clock: clock.clone(),
            failures: Mutex::new(FailureLimiter::new(FAILURES_MAX, FAILURES_WINDOW_MS)),
            requests: Mutex::new(RequestLimiter::new(config.rate_limit_requests, period_ms)),
            refusals: Mutex::new(FailureLimiter::new(REFUSALS_NOTED_MAX, FAILURES_WINDOW_MS)),
            guessing: Mutex::new(HashMap::new()),
        })
    }

    /// Hashes a new password that was checked.
    ///
    /// # Errors
    /// [`Error::Internal`] when hashing fails.
    pub async fn hash_password(&self, password: Secret) -> Result<String, Error> {
        self.passwords.hash(password).await.map_err(Error::internal)
    }

    /// Whether the password is right, where `account` was tried from `address`. A failure is counted. Past the limit
    /// each guess waits, and when too many wait it is refused unread.
    ///
    /// # Errors
    /// [`Error::TooMany`] past the limit, [`Error::Unauthorized`] for a wrong password, [`Error::Internal`].
    pub async fn check_password(
        &self,
        address: IpAddr,
        account: &str,
        password: Secret,
        stored: Option<String>,
    ) -> Result<(), Error> {
        let key = FailureKey::new(address, account);
        // Counted before it is looked at: guesses that come at the same time count as well. A success clears the count.
        let over = lock(&self.failures).count(&key, self.clock.now_ms());
        let too_many = |retry_after_seconds| Error::TooMany { retry_after_seconds };
        let _turn = match over {
            Some(wait_seconds) => {
                let turn = SlowTurn::take(self, key.clone()).ok_or(too_many(wait_seconds))?;
                tokio::time::sleep(SLOW_GUESS * turn.position).await;
                Some(turn)
            }
            None => None,
        };
        if self.passwords.verify(password, stored).await.map_err(Error::internal)? {
            lock(&self.failures).forget(&key);
            return Ok(());
        }
        Err(over.map_or(Error::Unauthorized("wrong e-mail address or password"), too_many))
    }

    /// Counts a failure and says how it is answered: 401, or 429 past the limit.
    pub fn failed(&self, address: IpAddr, account: &str, reason: &'static str) -> Error {
        let key = FailureKey::new(address, account);
        match lock(&self.failures).count(&key, self.clock.now_ms()) {
            Some(retry_after_seconds) => Error::TooMany { retry_after_seconds },
            None => Error::Unauthorized(reason),
        }
    }

    /// Counts a request of a credential against the general limit.
    ///
    /// # Errors
    /// [`Error::TooMany`] past the limit.
    pub fn count_request(&self, credential_id: &str) -> Result<(), Error> {
        match lock(&self.requests).count(&credential_id.to_owned(), self.clock.now_ms()) {
            Some(retry_after_seconds) => Err(Error::TooMany { retry_after_seconds }),
            None => Ok(()),
        }
    }

    /// Whether a refusal may still be written to the audit log, which must not be filled from outside.
    pub fn may_note_refusal(&self, address: IpAddr, account: &str) -> bool {
        lock(&self.refusals).count(&FailureKey::new(address, account), self.clock.now_ms()).is_none()
    }
}

/// A place among the guesses of one (address, account) that wait; given back when dropped.
struct SlowTurn<'a> {
    auth: &'a AuthState,
    key: FailureKey,
    position: u32,
}

impl<'a> SlowTurn<'a> {
    fn take(auth: &'a AuthState, key: FailureKey) -> Option<Self> {
        let mut guessing = lock(&auth.guessing);
        let waiting = guessing.entry(key.clone()).or_insert(0);
        if *waiting >= SLOW_GUESSES_MAX {
            return None;
        }
        *waiting += 1;
        let position = *waiting;
        drop(guessing);
        Some(Self { auth, key, position })
    }
}

impl Drop for SlowTurn<'_> {
    fn drop(&mut self) {
        let mut guessing = lock(&self.auth.guessing);
        if let Some(waiting) = guessing.get_mut(&self.key) {
            *waiting -= 1;
            if *waiting == 0 {
                guessing.remove(&self.key);
            }
        }
    }
}

/// A poisoned counter is still a counter.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
