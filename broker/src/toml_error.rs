//! Where in a TOML file an error is: the line, and the key that stands on it.

use std::path::{Path, PathBuf};

/// A TOML file that cannot be used. The text names file, line, key and what is wrong; it never quotes a value, which
/// might be a secret in the wrong place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}{}: {problem}", path.display(), line.map_or(String::new(), |line| format!(", line {line}")),
    key.as_ref().map_or(String::new(), |key| format!(", key {key}")))]
pub struct TomlError {
    /// The file.
    pub path: PathBuf,
    /// The line, from 1, if the error has a place.
    pub line: Option<usize>,
    /// The key on that line, if there is one.
    pub key: Option<String>,
    /// What is wrong, and what is expected.
    pub problem: String,
}

impl TomlError {
    /// From what the parser says about `text`, the content of `path`.
    #[must_use]
    pub fn new(path: &Path, text: &str, error: &toml::de::Error) -> TomlError {
        let at = error.span().map(|span| span.start.min(text.len()));
        let key = at.and_then(|at| key_at(text, at));
        TomlError {
            path: path.to_owned(),
            line: at.map(|at| line_at(text, at)),
            key,
            problem: without_values(error.message()),
        }
    }
}

fn line_at(text: &str, at: usize) -> usize {
    1 + text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count()
}

/// The key of the line at byte `at`: what stands before its `=`, or a table's header. On a line that is neither (the
/// middle of a list), of the nearest line above that is.
fn key_at(text: &str, at: usize) -> Option<String> {
    let end =
        text.as_bytes()[at..].iter().position(|byte| *byte == b'\n').map_or(text.len(), |more| at + more);
    // The slice is cut at newlines only, so it is whole characters.
    text.get(..end)?.lines().rev().find_map(|line| {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.starts_with('[') && line.ends_with(']') && !line.contains('=') && !line.contains('"') {
            return Some(line.to_owned());
        }
        let (key, _) = line.split_once('=')?;
        let key = key.trim();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '"');
        (!key.is_empty() && key.chars().all(plain)).then(|| key.to_owned())
    })
}

/// The parser quotes a value of a wrong type ("invalid type: string \"abc\", expected u64"): leave that part out.
fn without_values(message: &str) -> String {
    let message = message.trim();
    match (message.strip_prefix("invalid type: "), message.rsplit_once(", expected ")) {
        (Some(rest), Some((_, expected))) => {
            let kind = rest.split([' ', ',']).next().unwrap_or("value");
            format!(
                "{} {kind} stands here, expected {expected}",
                if kind.starts_with(['a', 'i']) { "an" } else { "a" }
            )
        }
        _ => message.replace('\n', "; "),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Example {
        number: Option<u32>,
        list: Option<Vec<u32>>,
    }

    #[test]
    fn the_example_reads_what_is_right() {
        let good: Example = toml::from_str("number = 1\nlist = [2, 3]\n").unwrap();
        assert_eq!((good.number, good.list), (Some(1), Some(vec![2, 3])));
    }

    fn error(text: &str) -> String {
        let error = toml::from_str::<Example>(text).unwrap_err();
        TomlError::new(Path::new("/etc/x.toml"), text, &error).to_string()
    }

    #[test]
    fn an_error_names_file_line_and_key_but_no_value() {
        let wrong_type = error("# comment\n\nnumber = \"hunter2\"\n");
        assert!(
            wrong_type.starts_with("/etc/x.toml, line 3, key number: a string stands here, expected"),
            "{wrong_type}"
        );
        assert!(!wrong_type.contains("hunter2"));
        let unknown = error("number = 1\nnumbr = 2\n");
        assert!(
            unknown.starts_with("/etc/x.toml, line 2, key numbr: unknown field `numbr`, expected"),
            "{unknown}"
        );
        let nested = error("list = [\n  1,\n  \"x\",\n]\n");
        assert!(nested.starts_with("/etc/x.toml, line 3, key list:"), "{nested}");
        let broken = error("number = \n");
        assert!(broken.starts_with("/etc/x.toml, line 1, key number:"), "{broken}");
    }

    #[test]
    fn an_error_in_any_text_is_an_error_and_never_a_panic() {
        for text in [
            "é = é",
            "[",
            "\u{feff}[[",
            "number = 99999999999999999999",
            "list = [",
            "=\n=",
            "é\n[é]\nx",
            "\r\n\r\nx = ",
        ] {
            assert!(error(text).starts_with("/etc/x.toml"), "{text:?}");
        }
    }
}
