//! Passwords: Argon2id, computed on blocking threads, a few at a time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher};
use tokio::sync::{Semaphore, oneshot};

use super::limiter::FailureKey;
use super::line::{Joined, Line};
use super::verifiers::{Guess, Verifiers};
use crate::config::Secret;

/// Shortest password, in characters.
pub const PASSWORD_MIN_CHARS: usize = 8;
/// Longest password, in bytes.
pub const PASSWORD_MAX_BYTES: usize = 256;

/// Each hash takes about 19 MiB and a full core for tens of milliseconds. A new password is hashed beside these.
const AT_ONCE: usize = 2;
/// From one check of a password of one (address, account) to the next: twenty guesses a second.
const PACE: Duration = Duration::from_millis(50);
/// How long an attempt waits at most: a full queue at that pace, within the time that a request may take.
pub const PATIENCE: Duration = Duration::from_secs(22);
/// How many may wait for a guess that another has brought already.
const SHARING_MAX: usize = 2048;

/// What was wrong with a password or with hashing it.
#[derive(Debug, Clone, thiserror::Error)]
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
    /// A dictionary, the account's own names or a keyboard give it away. Says why, without the password.
    #[error("the password is easy to guess{0}")]
    Weak(String),
    /// The hash in the database cannot be read.
    #[error("the stored password hash is damaged: {0}")]
    Damaged(String),
    /// Hashing itself failed.
    #[error("hashing the password failed: {0}")]
    Hashing(String),
}

/// How many guesses a password has to withstand: as many as eight random characters are counted for. Argon2id makes slow ones of them.
const GUESSES_MIN: u64 = 100_000_000;

/// Checks what a person chose. `about`: names and addresses of the account, which are guessed first. Takes milliseconds.
///
/// # Errors
/// What is wrong with it.
pub fn check_new(password: &str, about: &[String]) -> Result<(), PasswordError> {
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
    let about: Vec<&str> = about.iter().map(String::as_str).collect();
    let estimate = zxcvbn::zxcvbn(password, &about);
    if estimate.guesses() >= GUESSES_MIN {
        return Ok(());
    }
    // The advice is fixed text of the library: nothing of the password is in it.
    let advice = estimate.feedback().map(|feedback| {
        let warning = feedback.warning().map(|warning| warning.to_string());
        let hints = feedback.suggestions().iter().map(ToString::to_string);
        warning.into_iter().chain(hints).collect::<Vec<_>>().join(" ")
    });
    Err(PasswordError::Weak(
        advice.filter(|text| !text.is_empty()).map_or_else(String::new, |text| format!(": {text}")),
    ))
}

/// Makes a password for somebody to be told once: 100 random bits, without letters that look alike.
///
/// # Errors
/// When the operating system has no random bytes.
pub fn generate() -> Result<Secret, PasswordError> {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut bytes = zeroize::Zeroizing::new([0_u8; 20]);
    getrandom::fill(bytes.as_mut_slice()).map_err(|e| PasswordError::Hashing(e.to_string()))?;
    let groups: Vec<String> = bytes
        .chunks(5)
        .map(|group| group.iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect())
        .collect();
    Ok(Secret::new(groups.join("-")))
}

/// Checks a new password and hashes it. Takes tens of milliseconds of a core.
///
/// # Errors
/// As [`check_new`] and [`hash_blocking`].
pub fn check_and_hash_blocking(password: &Secret, about: &[String]) -> Result<String, PasswordError> {
    check_new(password.expose(), about)?;
    hash_blocking(password)
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
    Ok(broker::password::is_right(password.expose().as_bytes(), &stored))
}

/// What a check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It is the account's password.
    Right,
    /// It is not, or there is no such account.
    Wrong,
    /// It was not looked at: too many different guesses at this account wait, or it waited for [`PATIENCE`].
    TurnedAway,
}

/// The place where passwords are checked, one after another; see [`Line`] for the order.
#[derive(Debug)]
pub struct Passwords {
    waiting: Mutex<Waiting>,
    verifiers: Mutex<Verifiers>,
    /// New passwords have a way of their own, as no stranger can have one hashed.
    hashing: Arc<Semaphore>,
    /// The hash of a password that nobody has, so that an unknown account takes as long as a known one.
    decoy: String,
}

#[derive(Debug, Default)]
struct Waiting {
    line: Line<Check>,
    running: usize,
    /// Who waits for a guess that another has brought already, about: counted when they come, until it is checked.
    sharing: usize,
}

/// A guess that waits for its turn, and who wants to know.
#[derive(Debug)]
struct Check {
    guess: Guess,
    password: Secret,
    stored: String,
    known: bool,
    tell: Vec<oneshot::Sender<Result<Answer, PasswordError>>>,
}

impl Passwords {
    /// Makes the decoy hash, which takes tens of milliseconds.
    ///
    /// # Errors
    /// When hashing fails.
    pub fn new() -> Result<Arc<Self>, PasswordError> {
        let nobodys =
            super::token::NewToken::generate().map_err(|e| PasswordError::Hashing(e.to_string()))?;
        Ok(Arc::new(Self {
            waiting: Mutex::default(),
            verifiers: Mutex::new(Verifiers::new().map_err(|e| PasswordError::Hashing(e.to_string()))?),
            hashing: Arc::new(Semaphore::new(1)),
            decoy: hash_blocking(&nobodys.text)?,
        }))
    }

    /// Checks a new password and hashes it.
    ///
    /// # Errors
    /// As [`check_new`]; when hashing fails.
    pub async fn hash(&self, password: Secret, about: Vec<String>) -> Result<String, PasswordError> {
        let failed = |e: &dyn std::fmt::Display| PasswordError::Hashing(e.to_string());
        let slot = self.hashing.clone().acquire_owned().await.map_err(|e| failed(&e))?;
        let work = move || {
            // Kept until the work is done, also if nobody waits for it any more.
            let _slot = slot;
            check_and_hash_blocking(&password, &about)
        };
        tokio::task::spawn_blocking(work).await.map_err(|e| failed(&e))?
    }

    /// Whether `password` is the one behind `stored`. Without a stored hash the same work is done and the answer is no.
    /// A password that was right lately is known at once; any other waits for its turn, [`PATIENCE`] at most.
    ///
    /// # Errors
    /// When the stored hash cannot be read.
    pub async fn check(
        self: &Arc<Self>,
        key: &FailureKey,
        password: Secret,
        stored: Option<String>,
    ) -> Result<Answer, PasswordError> {
        if password.expose().len() > PASSWORD_MAX_BYTES {
            return Ok(Answer::Wrong);
        }
        let known = stored.is_some();
        let stored = stored.unwrap_or_else(|| self.decoy.clone());
        let guess = {
            let mut verifiers = lock(&self.verifiers);
            let guess = verifiers.guess(&stored, &password);
            if known && verifiers.knows(&stored, &guess, Instant::now()) {
                return Ok(Answer::Right);
            }
            guess
        };
        let (tell, told) = oneshot::channel();
        if !self.enqueue(key, Check { guess, password, stored, known, tell: vec![tell] }) {
            return Ok(Answer::TurnedAway);
        }
        self.serve();
        match tokio::time::timeout(PATIENCE, told).await {
            Ok(Ok(answer)) => answer,
            // Lost its place to somebody who floods less, or waited too long.
            Ok(Err(_)) | Err(_) => Ok(Answer::TurnedAway),
        }
    }

    /// Puts a guess into the line, or beside the same one that waits already. `false`: there is no room.
    fn enqueue(&self, key: &FailureKey, check: Check) -> bool {
        let mut waiting = lock(&self.waiting);
        let Waiting { line, sharing, .. } = &mut *waiting;
        if let Some(same) = line.same(key, &check.guess) {
            let room = *sharing < SHARING_MAX;
            if room {
                *sharing += check.tell.len();
                same.tell.extend(check.tell);
            }
            return room;
        }
        match line.join(key, check.guess, check) {
            Joined::Waiting => true,
            Joined::Instead(left) => {
                *sharing -= left.tell.len() - 1;
                true
            }
            Joined::Full(_) => false,
        }
    }

    /// Starts checks while there are slots and somebody may be checked.
    fn serve(self: &Arc<Self>) {
        let mut waiting = lock(&self.waiting);
        while waiting.running < AT_ONCE
            && let Some((key, check)) = waiting.line.call()
        {
            waiting.running += 1;
            waiting.sharing -= check.tell.len() - 1;
            tokio::spawn(self.clone().run(key, check));
        }
    }

    /// Checks one guess, tells everybody who brought it, and lets its account rest before the next.
    async fn run(self: Arc<Self>, key: FailureKey, check: Check) {
        let next_at = tokio::time::Instant::now() + PACE;
        let Check { guess, password, stored, known, tell } = check;
        // Whoever brought it may have gone meanwhile: then it costs nothing.
        let wanted = tell.iter().any(|tell| !tell.is_closed());
        if wanted {
            let work = move || verify_blocking(&password, &stored).map(|right| (right && known, stored));
            let checked = tokio::task::spawn_blocking(work).await;
            let answer = match checked.map_err(|e| PasswordError::Hashing(e.to_string())).flatten() {
                Ok((true, stored)) => {
                    lock(&self.verifiers).learn(&stored, guess, Instant::now());
                    Ok(Answer::Right)
                }
                Ok((false, _)) => Ok(Answer::Wrong),
                Err(error) => Err(error),
            };
            for tell in tell {
                // An error: it has gone.
                let _ = tell.send(answer.clone());
            }
        }
        lock(&self.waiting).running -= 1;
        self.serve();
        if wanted {
            tokio::time::sleep_until(next_at).await;
        }
        lock(&self.waiting).line.rested(&key);
        self.serve();
    }
}

/// What is kept here is whole after every step, so a poisoned lock is still good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;
    use crate::auth::line::QUEUE_MAX;

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    fn key(account: &str) -> FailureKey {
        FailureKey::new("203.0.113.7".parse().unwrap(), account)
    }

    async fn with_anna() -> (Arc<Passwords>, String) {
        let passwords = Passwords::new().unwrap();
        let stored = passwords.hash(secret("correct horse"), Vec::new()).await.unwrap();
        (passwords, stored)
    }

    async fn check(passwords: &Arc<Passwords>, password: &str, stored: Option<&str>) -> Answer {
        passwords.check(&key("anna"), secret(password), stored.map(str::to_owned)).await.unwrap()
    }

    /// Fills the queue of an account from the same address. Nobody is served until somebody else comes.
    fn flood(passwords: &Passwords, account: &str, stored: &str, guesses: usize) {
        for n in 0..guesses {
            let password = secret(&format!("guess {n}"));
            let guess = lock(&passwords.verifiers).guess(stored, &password);
            // Nobody waits for the answers, so that a turn costs nothing.
            let (tell, _) = oneshot::channel();
            let check = Check { guess, password, stored: stored.to_owned(), known: true, tell: vec![tell] };
            passwords.enqueue(&key(account), check);
        }
    }

    #[tokio::test]
    async fn the_right_password_and_no_other_is_accepted_the_second_time_as_well() {
        let (passwords, stored) = with_anna().await;
        assert!(stored.starts_with("$argon2id$"));
        for _ in 0..2 {
            assert_eq!(check(&passwords, "correct horse", Some(&stored)).await, Answer::Right);
            assert_eq!(check(&passwords, "correct hors", Some(&stored)).await, Answer::Wrong);
        }
    }

    #[tokio::test]
    async fn an_unknown_account_is_never_let_in() {
        let (passwords, stored) = with_anna().await;
        check(&passwords, "correct horse", Some(&stored)).await;
        assert_eq!(check(&passwords, "correct horse", None).await, Answer::Wrong);
    }

    #[tokio::test]
    async fn a_damaged_hash_is_an_error_and_not_a_refusal() {
        let passwords = Passwords::new().unwrap();
        let outcome =
            passwords.check(&key("anna"), secret("correct horse"), Some("$argon2id$broken".into())).await;
        assert!(matches!(outcome, Err(PasswordError::Damaged(_))));
    }

    #[tokio::test]
    async fn a_right_password_gets_its_turn_among_guesses_and_few_are_computed_at_once() {
        let (passwords, stored) = with_anna().await;
        let mut attempts = JoinSet::new();
        for n in 0..60 {
            let (passwords, stored) = (passwords.clone(), stored.clone());
            let password = if n == 40 { "correct horse".to_owned() } else { format!("guess {n}") };
            // Half of them at another account, so that more than one could be computed.
            let key = key(if n % 2 == 0 { "anna" } else { "anna@example.org" });
            attempts.spawn(async move {
                (n, passwords.check(&key, secret(&password), Some(stored)).await.unwrap())
            });
        }
        while let Some(attempt) = attempts.join_next().await {
            let (n, answer) = attempt.unwrap();
            assert_eq!(answer, if n == 40 { Answer::Right } else { Answer::Wrong }, "{n}");
            assert!(lock(&passwords.waiting).running <= AT_ONCE);
        }
    }

    #[tokio::test]
    async fn a_flood_of_one_guess_costs_one_check() {
        let (passwords, stored) = with_anna().await;
        let mut attempts = JoinSet::new();
        for _ in 0..1000 {
            let (passwords, stored) = (passwords.clone(), stored.clone());
            attempts.spawn(async move { check(&passwords, "wrong wrong", Some(&stored)).await });
        }
        // One that is being checked, one that waits: a thousand would take most of a minute.
        let begun = Instant::now();
        let answers = attempts.join_all().await;
        assert!(answers.iter().all(|answer| *answer == Answer::Wrong));
        assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
        let waiting = lock(&passwords.waiting);
        assert_eq!((waiting.sharing, waiting.running), (0, 0));
    }

    #[tokio::test]
    async fn a_full_queue_turns_away_what_is_not_known_and_nobody_else() {
        let (passwords, stored) = with_anna().await;
        flood(&passwords, "anna", &stored, QUEUE_MAX + 10);
        assert_eq!(check(&passwords, "correct horse", Some(&stored)).await, Answer::TurnedAway);
        // From elsewhere, at once.
        let elsewhere = FailureKey::new("198.51.100.1".parse().unwrap(), "anna");
        let answer = passwords.check(&elsewhere, secret("correct horse"), Some(stored.clone())).await;
        assert_eq!(answer.unwrap(), Answer::Right);
        flood(&passwords, "anna", &stored, QUEUE_MAX + 10);
        assert_eq!(check(&passwords, "correct horse", Some(&stored)).await, Answer::Right);
    }

    #[tokio::test]
    async fn guesses_whose_senders_have_gone_cost_nothing() {
        let (passwords, stored) = with_anna().await;
        flood(&passwords, "anna", &stored, QUEUE_MAX - 1);
        let begun = Instant::now();
        assert_eq!(check(&passwords, "correct horse", Some(&stored)).await, Answer::Right);
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }

    #[test]
    fn a_new_password_is_bounded_and_typable() {
        let check = |password: &str| check_new(password, &[]);
        assert!(check("k4-vq8.w").is_ok());
        assert!(matches!(check("seven77"), Err(PasswordError::TooShort(7))));
        assert!(matches!(check(&"x".repeat(257)), Err(PasswordError::TooLong(257))));
        assert!(matches!(check("with\0nul-inside"), Err(PasswordError::ControlCharacter)));
    }

    #[test]
    fn a_password_that_is_guessed_early_is_refused_with_advice_and_without_itself() {
        let about = ["Vera Hall".to_owned(), "vera@example.org".to_owned()];
        for weak in
            ["password1", "Qwertyuiop12", "11111111111", "vera@example.org", "iloveyou2024", "abcabcabcabc"]
        {
            let error = check_new(weak, &about).unwrap_err();
            assert!(matches!(error, PasswordError::Weak(_)), "{weak}: {error}");
            assert!(
                error.to_string().contains("easy to guess") && !error.to_string().contains(weak),
                "{error}"
            );
        }
        for good in ["correct horse battery", "another password", "2564de45f45491356957d359"] {
            assert!(check_new(good, &about).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_made_password_passes_and_is_never_the_same() {
        let (one, two) = (generate().unwrap(), generate().unwrap());
        assert_ne!(one.expose(), two.expose());
        assert_eq!(one.expose().len(), 23);
        assert!(check_new(one.expose(), &[]).is_ok());
    }
}
