//! Types for single values of `fleet.conf`.

use std::fmt;
use std::str::FromStr;

/// The value does not have the form its key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadForm;

/// The name of a systemd unit, as given, with or without `.service`.
///
/// It never starts with `-`, so it cannot be taken for an option of `systemctl`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitName(String);

impl UnitName {
    /// The name with its type: `.service` unless it has another one.
    #[must_use]
    pub fn full(&self) -> String {
        const TYPES: [&str; 8] =
            [".service", ".socket", ".target", ".timer", ".path", ".mount", ".slice", ".scope"];
        let has_type = TYPES.iter().any(|kind| self.0.ends_with(kind));
        if has_type { self.0.clone() } else { format!("{}.service", self.0) }
    }

    /// `r58-api`, the unit of the application unless told otherwise.
    pub(super) fn of_the_application() -> Self {
        Self("r58-api".to_owned())
    }

    /// The name as given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UnitName {
    type Err = BadForm;
    fn from_str(text: &str) -> Result<Self, BadForm> {
        let good = |b: u8| b.is_ascii_alphanumeric() || b":_.\\@-".contains(&b);
        let bad =
            text.is_empty() || text.len() > 255 || text.starts_with(['-', '.']) || !text.bytes().all(good);
        if bad { Err(BadForm) } else { Ok(Self(text.to_owned())) }
    }
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where things are in the application's answer, and what its states mean. See [`crate::app_status`].
///
/// Paths are field names joined by dots. What is not given here is looked for where the known versions of the
/// application have it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatusFields {
    /// The state, a text.
    pub status: Option<String>,
    /// Whether a stream is sent, true or false.
    pub streaming: Option<String>,
    /// Whether the mixer runs, true or false.
    pub mixer_active: Option<String>,
    /// The inputs in use, a list.
    pub active_inputs: Option<String>,
    /// The degradation level, a number.
    pub degradation_level: Option<String>,
    /// The version of the application, a text.
    pub version: Option<String>,
    /// More states that mean live.
    pub live_values: Vec<String>,
    /// More states that mean idle.
    pub idle_values: Vec<String>,
}

impl FromStr for StatusFields {
    type Err = BadForm;
    fn from_str(text: &str) -> Result<Self, BadForm> {
        let mut fields = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').ok_or(BadForm)?;
            let (name, value) = (name.trim(), value.trim());
            let values = || value.split('|').map(|v| v.trim().to_ascii_lowercase()).collect::<Vec<_>>();
            let place = match name {
                "status" => &mut fields.status,
                "streaming" => &mut fields.streaming,
                "mixer_active" => &mut fields.mixer_active,
                "active_inputs" => &mut fields.active_inputs,
                "degradation_level" => &mut fields.degradation_level,
                "version" => &mut fields.version,
                "live_values" if values().iter().all(|v| !v.is_empty()) => {
                    fields.live_values = values();
                    continue;
                }
                "idle_values" if values().iter().all(|v| !v.is_empty()) => {
                    fields.idle_values = values();
                    continue;
                }
                _ => return Err(BadForm),
            };
            if value.split('.').any(str::is_empty) {
                return Err(BadForm);
            }
            *place = Some(value.to_owned());
        }
        // A state that means both would make a recording interruptible.
        if fields.idle_values.iter().any(|value| fields.live_values.contains(value)) {
            return Err(BadForm);
        }
        Ok(fields)
    }
}

/// `true` and `false` as people write them.
pub(super) fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// The parts of a comma-separated list without blanks around them; empty parts do not count.
pub(super) fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

/// Longest host name part that fits behind `r58-`.
const HOST_PART_MAX_LEN: usize = protocol::id::NAME_MAX_LEN - "r58-".len();

/// `r58-<hostname>` made to fit the rule for ids: lower case, `-` for what is not allowed (once for a run of them, none
/// at the end), cut to length. A host name without any usable character gives `r58-device`.
#[must_use]
pub fn device_id_for_host(hostname: &str) -> String {
    let mut part = String::new();
    for c in hostname.chars() {
        match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9' | '_') => part.push(c),
            _ if part.is_empty() || part.ends_with('-') => {}
            _ => part.push('-'),
        }
        if part.len() == HOST_PART_MAX_LEN {
            break;
        }
    }
    let part = part.trim_end_matches('-');
    if part.is_empty() { "r58-device".to_owned() } else { format!("r58-{part}") }
}
