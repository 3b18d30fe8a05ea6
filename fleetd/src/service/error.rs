//! How a use case fails. What a client is told and what the log says are two things: the first is the text of the
//! variants up to `TooMany`, the second the sources of the last two.

use std::error::Error as StdError;

use crate::domain::fields::FieldError;
use crate::store::StoreError;

/// Why a use case was not carried out. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No credential, or one that is no good.
    #[error("{0}")]
    Unauthorized(&'static str),
    /// Known, but may not.
    #[error("{0}")]
    Forbidden(String),
    /// Not there, or another organisation's.
    #[error("{0}")]
    NotFound(String),
    /// Does not go with the present state.
    #[error("{0}")]
    Conflict(String),
    /// Readable, but wrong.
    #[error("some fields are not right")]
    Invalid(Vec<FieldError>),
    /// Too often.
    #[error("too many attempts; try again in {retry_after_seconds} s")]
    TooMany {
        /// When it is worth trying again.
        retry_after_seconds: u32,
    },
    /// The database did not do it.
    #[error("the database did not answer")]
    Store(#[source] StoreError),
    /// A part of the server that is needed is away.
    #[error("{0}")]
    Unavailable(&'static str),
    /// A fault of the server.
    #[error("an internal error")]
    Internal(#[source] Box<dyn StdError + Send + Sync>),
}

impl Error {
    /// A fault of the server.
    pub fn internal(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Internal(source.into())
    }

    /// Why, in one line: with the fields that are not right, for answers that have no room for a list.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::Invalid(errors) => {
                let told: Vec<_> = errors
                    .iter()
                    .map(|error| match error.field.as_str() {
                        "" => error.message.clone(),
                        field => format!("{field}: {}", error.message),
                    })
                    .collect();
                told.join("; ")
            }
            other => other.to_string(),
        }
    }

    /// Whether the caller was refused, and it is not the server that cannot.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Unauthorized(_)
                | Self::Forbidden(_)
                | Self::NotFound(_)
                | Self::Conflict(_)
                | Self::Invalid(_)
        )
    }

    /// One wrong field.
    #[must_use]
    pub fn field(field: &str, message: impl Into<String>) -> Self {
        Self::Invalid(vec![FieldError { field: field.to_owned(), message: message.into() }])
    }
}

impl From<StoreError> for Error {
    fn from(source: StoreError) -> Self {
        match source {
            StoreError::Conflict { .. } => {
                Self::Conflict("it was changed by somebody else at the same moment; read it again".to_owned())
            }
            other => Self::Store(other),
        }
    }
}
