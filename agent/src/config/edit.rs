//! Changes keys in the text of a `fleet.conf` and leaves everything else byte for byte as it is.

use zeroize::Zeroize as _;

use super::lines;

/// Why a text cannot be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// The text itself is broken, so the effect of a change is not sure.
    #[error("line {line}: {problem}")]
    BadLine {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// Not a name of a key.
    #[error("{0:?} cannot be the name of a key")]
    BadKey(String),
    /// A line cannot hold this value. The value is not shown: it may be a secret.
    #[error("the value for {0} contains a control character or a line break")]
    BadValue(String),
}

/// `text` with each `(key, value)` of `changes` set. The place that counts (the last one) is changed, with its comment
/// kept; a key that is not there is put behind the line that has it commented out, or else at the end.
///
/// # Errors
/// When `text` has a line that cannot be understood, or a key or value cannot be written. Nothing is changed then.
pub fn set(text: &str, changes: &[(&str, &str)]) -> Result<String, EditError> {
    let mut result = text.to_owned();
    for (key, value) in changes {
        let changed = set_one(&result, key, value);
        // There may be a token in it.
        result.zeroize();
        result = changed?;
    }
    Ok(result)
}

fn set_one(text: &str, key: &str, value: &str) -> Result<String, EditError> {
    if !lines::is_key_name(key) {
        return Err(EditError::BadKey(key.to_owned()));
    }
    if value.chars().any(char::is_control) {
        return Err(EditError::BadValue(key.to_owned()));
    }
    let (entries, bad) = lines::parse(text);
    if let Some(bad) = bad.first() {
        return Err(EditError::BadLine { line: bad.line, problem: bad.problem.to_string() });
    }
    let written = quote(value);
    if let Some(entry) = entries.iter().rev().find(|entry| entry.key == key) {
        let mut result = String::with_capacity(text.len() + written.len());
        result.push_str(&text[..entry.span.start]);
        result.push_str(&written);
        // An empty value may stand directly before its comment, which needs a blank to remain one.
        if entry.span.is_empty() && text[entry.span.end..].starts_with('#') {
            result.push(' ');
        }
        result.push_str(&text[entry.span.end..]);
        return Ok(result);
    }
    let line_end = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let at = behind_commented(text, key).unwrap_or(text.len());
    let (before, after) = text.split_at(at);
    let mut result = String::with_capacity(text.len() + key.len() + written.len() + 5);
    result.push_str(before);
    if !before.is_empty() && !before.ends_with('\n') && before != "\u{feff}" {
        result.push_str(line_end);
    }
    result.push_str(key);
    result.push('=');
    result.push_str(&written);
    result.push_str(line_end);
    result.push_str(after);
    Ok(result)
}

/// Where the line after the last `#KEY=…` starts.
fn behind_commented(text: &str, key: &str) -> Option<usize> {
    let mut end = 0;
    let mut found = None;
    for line in text.split_inclusive('\n') {
        end += line.len();
        let commented = line
            .trim_start_matches('\u{feff}')
            .strip_prefix('#')
            .and_then(|rest| rest.trim_start().strip_prefix(key))
            .is_some_and(|rest| rest.trim_start().starts_with('='));
        if commented {
            found = Some(end);
        }
    }
    found
}

/// `value` as it has to be written: plain if everybody who reads such files agrees on it, else in double quotes.
fn quote(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:,@%+=?&~".contains(c);
    if value.chars().all(plain) {
        return value.to_owned();
    }
    let mut quoted = String::with_capacity(value.len() + 2);
    quoted.push('"');
    for c in value.chars() {
        if matches!(c, '"' | '\\' | '$' | '`') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}
