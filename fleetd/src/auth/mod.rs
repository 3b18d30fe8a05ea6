//! Who is calling, and what they may do.

pub mod caller;
pub mod jwt;
pub mod limiter;
pub mod line;
pub mod mqtt;
pub mod password;
pub mod policy;
pub mod token;
pub mod verifiers;

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::clock::Clock;
use crate::config::{Config, Secret};
use crate::domain::network::Proxies;
use crate::service::Error;
use jwt::{JwtKeys, KeyError};
use limiter::{FAILURES_MAX, FAILURES_WINDOW_MS, FailureKey, FailureLimiter, RequestLimiter};
use password::{Answer, PasswordError, Passwords};

/// When to come again for a password that was not looked at. The line moves on meanwhile.
const TURNED_AWAY_SECONDS: u32 = 5;
/// Rows about refused requests that one (address, account) may add to the audit log within the window.
const REFUSALS_NOTED_MAX: u32 = 30;
/// Certificates that one device may ask for in an hour. Each is a signature and a row of the audit log.
const CERTIFICATES_MAX: u32 = 30;
const CERTIFICATES_WINDOW_MS: i64 = 3_600_000;

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
    passwords: Arc<Passwords>,
    clock: Clock,
    failures: Mutex<FailureLimiter>,
    requests: Mutex<RequestLimiter>,
    refusals: Mutex<FailureLimiter>,
    certificates: Mutex<RequestLimiter>,
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
            certificates: Mutex::new(RequestLimiter::new(CERTIFICATES_MAX, CERTIFICATES_WINDOW_MS)),
        })
    }

    /// Checks and hashes a new password that came in the field `field`. `about`: names and addresses of the account.
    ///
    /// # Errors
    /// [`Error::Invalid`] for one that will not do, [`Error::Internal`] when hashing fails.
    pub async fn hash_new(&self, field: &str, password: Secret, about: Vec<String>) -> Result<String, Error> {
        self.passwords.hash(password, about).await.map_err(|error| not_taken(field, error))
    }

    /// Whether the password is right, where `account` was tried from `address`. A failure is counted, and past the
    /// limit answered as one too many; a right password is let in all the same. Under a flood it takes until its turn.
    ///
    /// # Errors
    /// [`Error::Unauthorized`] for a wrong password, [`Error::TooMany`] for a wrong one past the limit or when there is
    /// no room to wait, [`Error::Internal`].
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
        match self.passwords.check(&key, password, stored).await.map_err(Error::internal)? {
            Answer::Right => {
                lock(&self.failures).forget(&key);
                Ok(())
            }
            Answer::Wrong => Err(over
                .map_or(Error::Unauthorized("wrong e-mail address or password"), |retry_after_seconds| {
                    Error::TooMany { retry_after_seconds }
                })),
            Answer::TurnedAway => Err(Error::TooMany { retry_after_seconds: TURNED_AWAY_SECONDS }),
        }
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
        self.count(&self.requests, credential_id)
    }

    /// Counts a certificate that a device (its row's id) asks for.
    ///
    /// # Errors
    /// [`Error::TooMany`] past the limit.
    pub fn count_certificate(&self, device: &str) -> Result<(), Error> {
        self.count(&self.certificates, device)
    }

    fn count(&self, limiter: &Mutex<RequestLimiter>, id: &str) -> Result<(), Error> {
        match lock(limiter).count(&id.to_owned(), self.clock.now_ms()) {
            Some(retry_after_seconds) => Err(Error::TooMany { retry_after_seconds }),
            None => Ok(()),
        }
    }

    /// Whether a refusal may still be written to the audit log, which must not be filled from outside.
    pub fn may_note_refusal(&self, address: IpAddr, account: &str) -> bool {
        lock(&self.refusals).count(&FailureKey::new(address, account), self.clock.now_ms()).is_none()
    }
}

/// Tells whoever chose a password in the field `field` why it was not taken.
#[must_use]
pub fn not_taken(field: &str, error: PasswordError) -> Error {
    match error {
        PasswordError::Damaged(_) | PasswordError::Hashing(_) => Error::internal(error),
        chosen => Error::field(field, chosen.to_string()),
    }
}

/// A poisoned counter is still a counter.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
