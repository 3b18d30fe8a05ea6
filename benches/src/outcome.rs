//! Why a measurement did not come about.

use std::error::Error;
use std::fmt;

/// What was tried, and what came of it, outermost first.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// A result that fails with a text for a person.
pub(crate) type Outcome<T> = Result<T, Failure>;

impl Failure {
    /// A failure without another cause.
    pub(crate) fn new(what: impl Into<String>) -> Failure {
        Failure { what: what.into(), source: None }
    }

    /// The same, said to have happened within something larger.
    pub(crate) fn within(self, what: impl Into<String>) -> Failure {
        Failure { what: what.into(), source: Some(self.into()) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        // The whole chain: nobody reads this but a person at a terminal.
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl Error for Failure {}

/// Says what was tried when it fails.
pub(crate) trait Tell<T> {
    /// `what` completes "cannot …".
    fn tell(self, what: impl Into<String>) -> Outcome<T>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> Tell<T> for Result<T, E> {
    fn tell(self, what: impl Into<String>) -> Outcome<T> {
        self.map_err(|error| Failure { what: format!("cannot {}", what.into()), source: Some(error.into()) })
    }
}

impl<T> Tell<T> for Option<T> {
    fn tell(self, what: impl Into<String>) -> Outcome<T> {
        self.ok_or_else(|| Failure::new(format!("cannot {}", what.into())))
    }
}
