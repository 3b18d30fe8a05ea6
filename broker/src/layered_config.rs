//! A config in two layers: a TOML file, and environment variables over it. Both programs, `fleet-broker` and `fleetd`,
//! read theirs this way.
//!
//! A program names its raw type (every field optional, unknown fields refused) and its [`Key`]s. Each layer is checked
//! alone before they are joined: an error then names the file's line and key, or the variable that is wrong. What is
//! not set anywhere, and what does not fit together, is for the program to decide when it resolves the raw type.
//!
//! Pure but for [`read`].

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::{DeserializeOwned, Deserializer, Error as _};

use crate::toml_error::TomlError;

/// Largest config file, in bytes.
pub const MAX_BYTES: u64 = 256 * 1024;

/// Why there is no usable config.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the config file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is larger than any config.
    #[error("{path} has more than {MAX_BYTES} bytes; is it the right file?")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// An unknown key or a bad value in the file.
    #[error(transparent)]
    Toml(#[from] TomlError),
    /// A bad value in the environment.
    #[error("environment variable {variable}: {problem}")]
    Environment {
        /// Which.
        variable: &'static str,
        /// What is wrong, and what is expected.
        problem: String,
    },
}

/// How the text of an environment variable becomes a TOML value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The text as it stands, spaces included: they may belong to a password.
    Text,
    /// The text without the spaces around it.
    TrimmedText,
    /// A whole number.
    Number,
    /// `1` or `true`; `0`, `false` or nothing.
    Switch,
    /// Texts with commas between them.
    List,
}

/// A key of the file and the environment variable that overrides it.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The variable.
    pub variable: &'static str,
    /// The key; `table.key` if it stands in a table.
    pub key: &'static str,
    /// How the variable is read.
    pub kind: Kind,
}

/// A [`Key`], short enough for a table of them.
#[must_use]
pub const fn key(variable: &'static str, key: &'static str, kind: Kind) -> Key {
    Key { variable, key, kind }
}

/// Whether an error about a number or a switch shows the text that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadText {
    /// It does: no variable holds a secret.
    Shown,
    /// It does not: it may be a secret, put into the wrong variable.
    Hidden,
}

/// Reads the file at `path`. A file that does not exist is as an empty one if `must_exist` is false.
///
/// # Errors
/// If it cannot be read, or has more than [`MAX_BYTES`].
pub fn read(path: &Path, must_exist: bool) -> Result<String, ConfigError> {
    let mut text = String::new();
    match File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text)) {
        Ok(_) if text.len() as u64 > MAX_BYTES => Err(ConfigError::TooLarge { path: path.to_owned() }),
        Ok(_) => Ok(text),
        Err(error) if error.kind() == ErrorKind::NotFound && !must_exist => Ok(text),
        Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
    }
}

/// From the text of the file at `path` (which serves the messages alone), and the environment over it.
///
/// # Errors
/// What is wrong and where: file, line and key, or the variable.
pub fn parse<Raw: DeserializeOwned>(
    path: &Path,
    text: &str,
    keys: &[Key],
    bad_text: BadText,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Raw, ConfigError> {
    let in_file = |error| TomlError::new(path, text, &error);
    // Checked as it stands first, so that its errors have a place.
    toml::from_str::<Raw>(text).map_err(in_file)?;
    let mut table: toml::Table = toml::from_str(text).map_err(in_file)?;
    for key in keys {
        if let Some(value) = environment(key.variable) {
            let problem = |problem| ConfigError::Environment { variable: key.variable, problem };
            let value = value_of(key.kind, &value, bad_text).map_err(problem)?;
            // Alone first: what is wrong with it is then the variable's fault, not the file's.
            let mut alone = toml::Table::new();
            insert(&mut alone, key.key, value.clone());
            alone.try_into::<Raw>().map_err(|error| problem(error.message().trim().to_owned()))?;
            insert(&mut table, key.key, value);
        }
    }
    Ok(table.try_into().map_err(in_file)?)
}

/// The TOML value that the text of a variable stands for, or what is wrong with it.
fn value_of(kind: Kind, text: &str, bad_text: BadText) -> Result<toml::Value, String> {
    let trimmed = text.trim();
    let wrong = |shown: &str, hidden: &str| match bad_text {
        BadText::Shown => format!("{trimmed:?} {shown}"),
        BadText::Hidden => hidden.to_owned(),
    };
    Ok(match kind {
        Kind::Text => toml::Value::String(text.to_owned()),
        Kind::TrimmedText => toml::Value::String(trimmed.to_owned()),
        Kind::Number => {
            let number = trimmed.parse();
            toml::Value::Integer(
                number.map_err(|_| wrong("is not a whole number", "expected a whole number"))?,
            )
        }
        Kind::Switch => match trimmed {
            "1" | "true" => toml::Value::Boolean(true),
            "0" | "false" | "" => toml::Value::Boolean(false),
            _ => return Err(wrong("is neither 1 nor 0", "expected 1 or 0")),
        },
        Kind::List => {
            let items = trimmed.split(',').map(str::trim).filter(|item| !item.is_empty());
            toml::Value::Array(items.map(|item| toml::Value::String(item.to_owned())).collect())
        }
    })
}

/// Sets `key`, or `table.key`.
fn insert(table: &mut toml::Table, key: &str, value: toml::Value) {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value);
        }
        Some((outer, inner)) => {
            let nested = table.entry(outer).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            if let toml::Value::Table(nested) = nested {
                nested.insert(inner.to_owned(), value);
            }
        }
    }
}

/// A whole number from `LOW` to `HIGH`.
#[derive(Clone, Copy, Debug)]
pub struct Bounded<const LOW: u64, const HIGH: u64>(u64);

impl<'de, const LOW: u64, const HIGH: u64> serde::Deserialize<'de> for Bounded<LOW, HIGH> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        match u64::try_from(number) {
            Ok(number) if (LOW..=HIGH).contains(&number) => Ok(Bounded(number)),
            _ => Err(D::Error::custom(format!("{number} is out of range, expected {LOW} to {HIGH}"))),
        }
    }
}

impl<const LOW: u64, const HIGH: u64> Bounded<LOW, HIGH> {
    /// As a number of things in memory.
    #[must_use]
    pub fn count(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// As a small number; bounds past `u32::MAX` are not for this one.
    #[must_use]
    pub fn small(self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }

    /// As a number of seconds.
    #[must_use]
    pub fn seconds(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

/// True if `text` is a level, or `tracing` directives such as `warn,broker=debug`.
#[must_use]
pub fn is_log_filter(text: &str) -> bool {
    // Stricter than the filter's own parser, to which a mistyped level is the name of a module.
    let level = |text: &str| text.trim().parse::<tracing::level_filters::LevelFilter>().is_ok();
    let sound =
        |part: &str| part.split_once('=').map_or(level(part), |(module, of)| !module.is_empty() && level(of));
    text.split(',').all(sound) && text.parse::<tracing_subscriber::filter::Targets>().is_ok()
}
