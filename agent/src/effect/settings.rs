//! `config`, and the config part of what the server wants: changes keys of `fleet.conf`.
//!
//! Only keys of `ALLOWED_CONFIG_KEYS` may be changed, and some not even then. The changed file is resolved as a whole, by
//! the same rules as at the start of the agent, before a byte of it is written; so a bad value is refused with the file,
//! the key and what is expected, and no change can keep the agent from starting again. The file is replaced in one step:
//! after a power cut there is the old one or the new one. Comments, order and everything else in it stay as they are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Outcome, Probed, Refusal, short, with_causes};
use crate::config::{self, Config, Environment, FileError, Key, Readers};
use crate::kernel;

/// Keys that nobody changes from afar, whatever the allow list says: secrets, and the allow lists themselves.
const NEVER: [Key; 5] =
    [Key::DeviceToken, Key::ClientKey, Key::AllowedServices, Key::AllowedConfigKeys, Key::ScriptsDir];

/// A change that is allowed.
#[derive(Debug, Clone)]
pub(super) struct Change {
    file: PathBuf,
    changes: BTreeMap<String, String>,
}

/// How the file was before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Before {
    file: PathBuf,
    /// Keys and what they shall be.
    changes: BTreeMap<String, String>,
    /// What they were; absent if they were not in the file. Absent altogether if it could not be read.
    values: Option<BTreeMap<String, Option<String>>>,
}

/// Why the file is not changed.
#[derive(Debug, thiserror::Error)]
enum ChangeError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{0}")]
    Wrong(String),
}

impl Change {
    pub(super) fn prepare(changes: BTreeMap<String, String>, config: &Config) -> Result<Self, Refusal> {
        let environment = config::environment();
        let file = file_of(config).map_err(Refusal::NotAllowed)?;
        for key in changes.keys() {
            check_key(key, config, &environment).map_err(Refusal::NotAllowed)?;
        }
        let text = config::read_file(&file).map_err(|error| Refusal::Invalid(with_causes(&error)))?;
        changed(&file, &text, &changes).map_err(|error| Refusal::Invalid(with_causes(&error)))?;
        Ok(Self { file, changes })
    }

    pub(super) fn observe(&self) -> Before {
        Before { file: self.file.clone(), changes: self.changes.clone(), values: self.values().ok() }
    }

    fn values(&self) -> Result<BTreeMap<String, Option<String>>, FileError> {
        let text = config::read_file(&self.file)?;
        Ok(self.changes.keys().map(|key| (key.clone(), config::value_in(&text, key))).collect())
    }

    pub(super) fn run(&self, before: &Before) -> Outcome {
        let file = &self.file;
        let written =
            config::change_file(file, None, Readers::AsBefore, |text| changed(file, text, &self.changes));
        if let Err(error) = written {
            return Outcome::failed(with_causes(&error));
        }
        match self.values() {
            Ok(now) if holds(&self.changes, &now) => Outcome::Completed(before.told()),
            Ok(_) => Outcome::failed(format!("{} was written and holds something else now", file.display())),
            Err(error) => Outcome::failed(with_causes(&error)),
        }
    }
}

impl Before {
    fn told(&self) -> serde_json::Value {
        let is_new = |(key, value): &(&String, &String)| {
            let before = self.values.as_ref().and_then(|values| values.get(*key)?.as_ref());
            before != Some(*value)
        };
        let changed: Vec<&String> = self.changes.iter().filter(is_new).map(|(key, _)| key).collect();
        json!({ "file": self.file, "changed": changed })
    }
}

/// After a crash.
pub(super) fn probe(before: &Before) -> Probed {
    let change = Change { file: before.file.clone(), changes: before.changes.clone() };
    match change.values() {
        Ok(now) if holds(&before.changes, &now) => Probed::Done(before.told()),
        Ok(now) if before.values.as_ref() == Some(&now) => Probed::NotDone,
        Ok(_) => {
            Probed::Unknown(format!("{} has been changed by somebody else as well", before.file.display()))
        }
        Err(error) => Probed::Unknown(with_causes(&error)),
    }
}

/// Sets the keys that the server wants to be set, as far as that is allowed and they are right; the others are left alone
/// and returned, with the reasons. Nothing is written if all of them are set already.
#[must_use]
pub fn apply_config(wanted: &BTreeMap<String, String>, config: &Config) -> BTreeMap<String, String> {
    if wanted.is_empty() {
        return BTreeMap::new();
    }
    let environment = config::environment();
    let mut errors = BTreeMap::new();
    let applied = file_of(config).map_err(ChangeError::Wrong).and_then(|file| {
        config::change_file(&file, None, Readers::AsBefore, |text| {
            let mut text = text.to_owned();
            for (key, value) in wanted {
                let one = BTreeMap::from([(key.clone(), value.clone())]);
                let result = check_key(key, config, &environment)
                    .map_err(ChangeError::Wrong)
                    .and_then(|()| changed(&file, &text, &one));
                match result {
                    Ok(changed) => text = changed,
                    Err(error) => drop(errors.insert(key.clone(), short(with_causes(&error)))),
                }
            }
            Ok::<_, ChangeError>(text)
        })
    });
    if let Err(error) = applied {
        // None of them is in the file.
        let problem = short(with_causes(&error));
        for key in wanted.keys() {
            errors.entry(key.clone()).or_insert_with(|| problem.clone());
        }
    }
    errors
}

/// The file of this device.
pub(super) fn file_of(config: &Config) -> Result<PathBuf, String> {
    let file = config.file.clone().ok_or("this device has no fleet.conf: all comes from the environment")?;
    match file.to_str() {
        Some(_) => Ok(file),
        // It is noted in the journal, as text.
        None => Err(format!("the path of {} is not UTF-8", file.display())),
    }
}

/// Whether `key` may be changed from afar and a change would have an effect.
fn check_key(key: &str, config: &Config, environment: &Environment) -> Result<(), String> {
    if NEVER.iter().any(|never| never.name() == key) {
        return Err(format!("{key} is never changed from afar; change it on the device"));
    }
    if !config.allowed_config_keys.iter().any(|allowed| allowed == key) {
        let allowed = &config.allowed_config_keys;
        let allowed = if allowed.is_empty() { "none".to_owned() } else { allowed.join(", ") };
        return Err(format!("{key} is not in this device's ALLOWED_CONFIG_KEYS ({allowed})"));
    }
    if environment.iter().any(|(overridden, _)| overridden.name() == key) {
        return Err(format!("{key} comes from the agent's environment, which overrides the file"));
    }
    Ok(())
}

/// The text with the changes, if the agent can start with it.
fn changed(file: &Path, text: &str, changes: &BTreeMap<String, String>) -> Result<String, ChangeError> {
    // A value that is there already is left as it is written.
    let news: Vec<_> = changes
        .iter()
        .filter(|(key, value)| config::value_in(text, key).as_ref() != Some(*value))
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    let result = config::set(text, &news).map_err(|error| ChangeError::Wrong(error.to_string()))?;
    // As the agent resolves it when it starts, with the environment that it has now.
    Config::from_parts(Some((file, &result)), &config::environment(), &kernel::hostname())
        .map_err(|error| ChangeError::Wrong(error.to_string()))?;
    Ok(result)
}

fn holds(changes: &BTreeMap<String, String>, now: &BTreeMap<String, Option<String>>) -> bool {
    changes.iter().all(|(key, value)| now.get(key).and_then(Option::as_ref) == Some(value))
}
