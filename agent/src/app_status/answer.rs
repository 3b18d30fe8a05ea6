//! The application's answer, read by the configured fields and the ones of the known versions.

use serde_json::Value;

use crate::config::StatusFields;

/// Most inputs that are taken over; heartbeats have a bit for each.
const INPUTS_MAX: usize = 64;
/// Most errors that are taken over.
const ERRORS_MAX: usize = 8;
/// Longest name, version or status, in characters.
const WORD_MAX_CHARS: usize = 64;
/// Longest error, in characters.
const ERROR_MAX_CHARS: usize = 200;

/// States that mean live, in the known versions.
const LIVE: [&str; 6] = ["recording", "starting", "stopping", "streaming", "live", "paused"];
/// States that mean idle, in the known versions.
const IDLE: [&str; 1] = ["idle"];

/// Where the known versions of the application have things, in the order in which they are looked for.
const STATUS: &[&str] = &["status", "state", "session.status", "session.state"];
const RECORDING: &[&str] = &["recording_active", "recording", "is_recording", "recording.active"];
const STREAMING: &[&str] =
    &["streaming_active", "streaming", "is_streaming", "streaming.active", "stream.active"];
const MIXER: &[&str] = &["mixer_active", "mixer.active", "mixer.running"];
const INPUTS: &[&str] = &["active_inputs", "inputs"];
const DEGRADATION: &[&str] = &["degradation_level", "degradation.level"];
const VERSION: &[&str] = &["version", "app_version"];

/// What the application says that it is doing, in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum State {
    /// A word that means live.
    Live(String),
    /// A word that means idle.
    Idle(String),
    /// A word with an unknown meaning.
    Other(String),
    /// No word at all.
    #[default]
    Missing,
}

/// What the application says, as far as it concerns the agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AppAnswer {
    /// What it is doing.
    pub state: State,
    /// Whether it records, if it says so apart from the state.
    pub recording: Option<bool>,
    /// Whether it streams.
    pub streaming: Option<bool>,
    /// Whether the mixer runs.
    pub mixer_active: Option<bool>,
    /// Names of the inputs in use.
    pub active_inputs: Vec<String>,
    /// How far it has degraded.
    pub degradation_level: Option<u8>,
    /// Its version.
    pub version: Option<String>,
    /// What is wrong, in its words.
    pub errors: Vec<String>,
}

impl AppAnswer {
    /// Reads an answer.
    ///
    /// # Errors
    /// When it is not a JSON object; why, in words.
    pub fn read(body: &[u8], fields: &StatusFields) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(body).map_err(|error| format!("no JSON: {error}"))?;
        if !value.is_object() {
            return Err("no JSON object".to_owned());
        }
        let find = |configured: &Option<String>, known: &[&str], fits: fn(&Value) -> bool| {
            let found = match configured {
                Some(path) => at(&value, path),
                None => known.iter().filter_map(|path| at(&value, path)).find(|found| fits(found)),
            };
            found.filter(|found| fits(found))
        };
        let truth = |configured, known| find(configured, known, Value::is_boolean).and_then(Value::as_bool);
        let text = |configured, known| {
            find(configured, known, Value::is_string).and_then(Value::as_str).map(|t| cut(t, WORD_MAX_CHARS))
        };
        let state = text(&fields.status, STATUS).map_or(State::Missing, |word| meaning(&word, fields));
        let level = find(&fields.degradation_level, DEGRADATION, Value::is_u64).and_then(Value::as_u64);
        let is_list = |value: &Value| value.is_array() || value.is_object();
        Ok(Self {
            state,
            recording: truth(&None, RECORDING),
            streaming: truth(&fields.streaming, STREAMING),
            mixer_active: truth(&fields.mixer_active, MIXER),
            active_inputs: find(&fields.active_inputs, INPUTS, is_list).map(inputs).unwrap_or_default(),
            degradation_level: level.map(|level| u8::try_from(level).unwrap_or(u8::MAX)),
            version: text(&fields.version, VERSION),
            errors: at(&value, "errors").map(errors).unwrap_or_default(),
        })
    }

    /// Whether it records, as far as it says.
    #[must_use]
    pub fn recording_active(&self) -> bool {
        let by_state = matches!(&self.state, State::Live(word) if word == "recording" || word == "stopping");
        by_state || self.recording == Some(true)
    }
}

/// The value at field names joined by dots.
fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |value, name| value.get(name))
}

fn meaning(word: &str, fields: &StatusFields) -> State {
    let word = word.trim().to_lowercase();
    let among = |more: &[String], known: &[&str]| known.contains(&word.as_str()) || more.contains(&word);
    // A configured meaning comes before a built-in one.
    if fields.live_values.contains(&word) {
        State::Live(word)
    } else if fields.idle_values.contains(&word) || among(&[], &IDLE) {
        State::Idle(word)
    } else if among(&[], &LIVE) {
        State::Live(word)
    } else {
        State::Other(word)
    }
}

/// Names from `["cam1"]`, `[{"id": "cam1", "active": true}]`, `{"cam1": true}` or `{"cam1": {"active": true}}`.
fn inputs(value: &Value) -> Vec<String> {
    let active = |value: &Value| match value {
        Value::Bool(active) => *active,
        Value::Object(fields) => fields.get("active").and_then(Value::as_bool).unwrap_or(true),
        _ => true,
    };
    let name = |value: &Value| match value {
        Value::String(name) => Some(name.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Object(fields) => {
            ["id", "name"].iter().find_map(|key| fields.get(*key)?.as_str().map(str::to_owned))
        }
        _ => None,
    };
    let names: Vec<String> = match value {
        Value::Array(list) => list.iter().filter(|item| active(item)).filter_map(name).collect(),
        Value::Object(map) => {
            map.iter().filter(|(_, item)| active(item)).map(|(key, _)| key.clone()).collect()
        }
        _ => Vec::new(),
    };
    names.iter().take(INPUTS_MAX).map(|name| cut(name, WORD_MAX_CHARS)).collect()
}

fn errors(value: &Value) -> Vec<String> {
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(Value::as_str).take(ERRORS_MAX).map(|text| cut(text, ERROR_MAX_CHARS)).collect()
}

fn cut(text: &str, max_chars: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(max_chars).collect()
}
