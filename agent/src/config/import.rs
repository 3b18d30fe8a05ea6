//! Taking over the `fleet.conf` of an earlier agent, and giving the token back to it.
//!
//! The earlier file is read and never changed by an import. What this agent understands is set in its own file; what it
//! does not understand is put at the end of it as comments, so that nothing gets lost and nothing has an effect that nobody
//! knows.

use std::path::Path;

use super::file::{self, Readers, change_file};
use super::{Config, ConfigError, DEBUG_KEY, EXAMPLE, FileError, Key, edit, environment, lines, value};

/// The keys that say who this device is. They go together.
const IDENTITY: [Key; 4] = [Key::FleetUrl, Key::FleetOrg, Key::DeviceId, Key::DeviceToken];

/// An import is not possible. Nothing is written then.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// What would come of it cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The earlier file enrols no device.
    #[error("{0} has no FLEET_URL or no DEVICE_TOKEN, so there is no device to go on with; enrol it instead")]
    NoDevice(String),
}

/// What an import has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Imported {
    /// The file enrols this device already; nothing was changed.
    IsEnrolled,
    /// The file is written. What is odd is in the texts: lines that have no effect any more.
    Written(Vec<String>),
}

/// Sets in the file `to` what the file `from` of an earlier agent says. May be repeated: a file that enrols this device stays
/// as it is; with `identity`, for an earlier agent that is running now, it is told who the device is, and nothing else.
///
/// # Errors
/// When a file cannot be read or written, or the result would be no good configuration.
pub fn import(from: &Path, to: &Path, identity: bool) -> Result<Imported, ImportError> {
    let mut outcome = Imported::IsEnrolled;
    let earlier = file::read(from)?;
    change_file(to, Some(EXAMPLE), Readers::Owner, |present| {
        let hostname = crate::kernel::hostname();
        let read = |text: &str| Config::from_parts(Some((to, text)), &environment(), &hostname);
        let is_enrolled = read(present)?.is_enrolled();
        let (text, odd) = match (is_enrolled, identity) {
            (true, false) => return Ok(present.to_owned()),
            (true, true) => (with_identity(present, &earlier.text), Vec::new()),
            (false, _) => merge(present, &earlier.text, from),
        };
        if !read(&text)?.is_enrolled() {
            return Err(ImportError::NoDevice(from.display().to_string()));
        }
        if text != present {
            outcome = Imported::Written(odd);
        }
        Ok(text)
    })?;
    Ok(outcome)
}

/// Writes the device's token into the file of the earlier agent if it has another one: the server may have changed it since.
/// Says whether it had to. Everything else in that file stays, also who may read it.
///
/// # Errors
/// When a file cannot be read or written.
pub fn give_token_back(from: &Path, to: &Path) -> Result<bool, ImportError> {
    let key = Key::DeviceToken.name();
    let (ours, theirs) = (file::read(from)?, file::read(to)?);
    let Some(token) = super::value_in(&ours.text, key) else { return Ok(false) };
    if super::value_in(&theirs.text, key).as_ref() == Some(&token) {
        return Ok(false);
    }
    change_file(to, None, Readers::AsBefore, |text| {
        edit::set(text, &[(key, &token)]).map_err(|source| FileError::Edit { path: to.to_owned(), source })
    })?;
    Ok(true)
}

/// `present` with who the device is, as far as the `earlier` text says so.
fn with_identity(present: &str, earlier: &str) -> String {
    let said = IDENTITY.map(|key| (key.name(), super::value_in(earlier, key.name())));
    let changes: Vec<(&str, &str)> =
        said.iter().filter_map(|(key, value)| Some((*key, value.as_deref()?))).collect();
    edit::set(present, &changes).unwrap_or_else(|_| present.to_owned())
}

/// `present` with what the `earlier` text sets; who the device is in any case, other keys where `present` does not set them.
/// Beside it what is odd in the earlier text, for a person.
fn merge(present: &str, earlier: &str, from: &Path) -> (String, Vec<String>) {
    let (entries, bad) = lines::parse(earlier);
    let last = |name: &str| entries.iter().rev().find(|entry| entry.key == name);
    let allowed = last(Key::AllowedConfigKeys.name()).map_or("", |entry| &entry.value);
    let is_known = |name: &str| {
        Key::from_name(name).is_some()
            || name == DEBUG_KEY
            || value::list(allowed).any(|listed| listed == name)
    };
    let is_identity = |name: &str| IDENTITY.iter().any(|key| key.name() == name);

    let mut changes: Vec<(&str, &str)> = Vec::new();
    let mut odd: Vec<(usize, String)> = Vec::new();
    for entry in &entries {
        if !is_known(entry.key) {
            odd.push((entry.line, format!("unknown key {}", entry.key)));
        } else if is_identity(entry.key) || super::value_in(present, entry.key).is_none() {
            changes.push((entry.key, &entry.value));
        }
    }
    odd.extend(bad.iter().map(|bad| (bad.line, bad.problem.to_string())));
    odd.sort();

    // A change can only fail at a line of `present` that is no good, which its reader has refused already; a value that was
    // read from a line fits into one.
    let mut text = edit::set(present, &changes).unwrap_or_else(|_| present.to_owned());
    if !odd.is_empty() {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&format!("\n# --- From {}, without effect here ---\n", from.display()));
        for (number, _) in &odd {
            let line = earlier.lines().nth(number - 1).unwrap_or_default().trim_start_matches('\u{feff}');
            text.push('#');
            text.extend(line.chars().filter(|c| !c.is_control()));
            text.push('\n');
        }
    }
    let told =
        odd.iter().map(|(line, what)| format!("{}, line {line}: {what}; it has no effect", from.display()));
    (text, told.collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    fn earlier() -> String {
        format!(
            "# The recorder's fleet\nFLEET_URL=https://fleet.example.com\nDEVICE_ID='studio-001'\nDEVICE_TOKEN={}\nHEARTBEAT_INTERVAL=30 # soon\n\
             R58_DEBUG=true\nLED_COLOUR=blue\nALLOWED_CONFIG_KEYS=HEARTBEAT_INTERVAL,GAIN\nGAIN=3\nthis is no line\n",
            "ab".repeat(32)
        )
    }

    struct Files {
        _folder: tempfile::TempDir,
        from: std::path::PathBuf,
        to: std::path::PathBuf,
    }

    fn files(text: &str) -> Files {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("earlier.conf"), folder.path().join("etc/fleet.conf"));
        fs::write(&from, text).unwrap();
        fs::set_permissions(&from, Permissions::from_mode(0o640)).unwrap();
        Files { _folder: folder, from, to }
    }

    #[test]
    fn known_keys_are_set_and_the_others_are_comments_with_a_warning() {
        let files = files(&earlier());
        let Imported::Written(odd) = import(&files.from, &files.to, false).unwrap() else { panic!() };
        let path = files.from.display();
        assert_eq!(
            odd,
            [
                format!("{path}, line 7: unknown key LED_COLOUR; it has no effect"),
                format!(
                    "{path}, line 10: this is neither KEY=VALUE nor a comment; put a # before it if it is one; it has no effect"
                ),
            ]
        );
        let config = Config::load(Some(&files.to)).unwrap();
        assert!(config.is_enrolled() && config.debug && config.warnings.is_empty(), "{:?}", config.warnings);
        assert_eq!((config.device_id.as_str(), config.heartbeat_interval_seconds), ("studio-001", 30));
        let text = fs::read_to_string(&files.to).unwrap();
        assert!(text.ends_with("without effect here ---\n#LED_COLOUR=blue\n#this is no line\n"), "{text}");
        assert!(text.contains("\nGAIN=3\n"));
        assert_eq!(fs::metadata(&files.to).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(&files.from).unwrap(), earlier(), "the earlier file is touched");
    }

    #[test]
    fn a_second_import_changes_nothing() {
        let files = files(&earlier());
        import(&files.from, &files.to, false).unwrap();
        let once = fs::read(&files.to).unwrap();
        fs::write(&files.from, earlier().replace("abab", "cdcd")).unwrap();
        assert_eq!(import(&files.from, &files.to, false).unwrap(), Imported::IsEnrolled);
        assert_eq!(fs::read(&files.to).unwrap(), once);
    }

    #[test]
    fn an_earlier_agent_that_runs_knows_better_who_the_device_is_and_nothing_else() {
        let files = files(&earlier());
        import(&files.from, &files.to, false).unwrap();
        let once = fs::read_to_string(&files.to).unwrap();
        assert_eq!(import(&files.from, &files.to, true).unwrap(), Imported::IsEnrolled);

        fs::write(&files.from, earlier().replace("abab", "cdcd").replace("=30", "=31")).unwrap();
        assert_eq!(import(&files.from, &files.to, true).unwrap(), Imported::Written(Vec::new()));
        assert_eq!(fs::read_to_string(&files.to).unwrap(), once.replace("abab", "cdcd"));
    }

    #[test]
    fn what_an_installer_has_set_before_stays() {
        let files = files(&earlier());
        fs::create_dir(files.to.parent().unwrap()).unwrap();
        fs::write(&files.to, "HEARTBEAT_INTERVAL=5\nALLOWED_SERVICES=\nDEVICE_ID=spare\n").unwrap();
        import(&files.from, &files.to, false).unwrap();
        let config = Config::load(Some(&files.to)).unwrap();
        assert_eq!((config.device_id.as_str(), config.heartbeat_interval_seconds), ("studio-001", 5));
        assert!(config.allowed_services.is_empty());
    }

    #[test]
    fn a_file_that_cannot_be_used_is_refused_and_nothing_is_written() {
        for (text, problem) in [
            (earlier().replace("=30 ", "=soon "), "HEARTBEAT_INTERVAL"),
            (earlier().replace("DEVICE_TOKEN=", "OTHER_TOKEN="), "DEVICE_TOKEN"),
            (String::new(), "FLEET_URL"),
        ] {
            let files = files(&text);
            let error = import(&files.from, &files.to, false).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
            assert!(!files.to.exists());
        }
    }

    #[test]
    fn a_token_that_was_changed_since_goes_back_and_nothing_else_does() {
        let files = files(&earlier());
        import(&files.from, &files.to, false).unwrap();
        assert!(!give_token_back(&files.to, &files.from).unwrap());
        assert_eq!(fs::read_to_string(&files.from).unwrap(), earlier());

        let newer = "cd".repeat(32);
        super::super::update_file(&files.to, "", &[("DEVICE_TOKEN", &newer), ("HEARTBEAT_INTERVAL", "7")])
            .unwrap();
        // Who does not understand a file changes nothing in it.
        assert!(give_token_back(&files.to, &files.from).is_err());
        fs::write(&files.from, earlier().replace("this is no line\n", "")).unwrap();
        assert!(give_token_back(&files.to, &files.from).unwrap());
        let expected = earlier().replace("this is no line\n", "").replace(&"ab".repeat(32), &newer);
        assert_eq!(fs::read_to_string(&files.from).unwrap(), expected);
        assert_eq!(fs::metadata(&files.from).unwrap().permissions().mode() & 0o777, 0o640);
    }
}
