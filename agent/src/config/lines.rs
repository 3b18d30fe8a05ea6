//! The grammar of `fleet.conf`, without any meaning.
//!
//! A file is lines of `KEY=VALUE`, in UTF-8; a byte order mark and Windows line ends are tolerated.
//!
//! - Blank lines and lines that start with `#` or `;` are comments. `export ` before a key is ignored.
//! - Blanks around key and value do not count.
//! - A value without quotes ends before a `#` that follows a blank; everything else in it is taken as it stands.
//! - In `'single quotes'` everything is taken as it stands; in `"double quotes"` `\"`, `\\`, `\$` and `` \` `` stand for
//!   the second character. Nothing is ever expanded. After the closing quote only a comment may follow.
//! - Control characters are refused. When a key stands twice, the later one counts.

use std::ops::Range;

/// Longest name of a key, in bytes.
const KEY_MAX_LEN: usize = 64;

/// One `KEY=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    /// Counted from 1.
    pub(super) line: usize,
    pub(super) key: &'a str,
    /// Without quotes and escapes.
    pub(super) value: String,
    /// Where the value stands in the text, with its quotes.
    pub(super) span: Range<usize>,
}

/// A line that cannot be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadLine {
    /// Counted from 1.
    pub(super) line: usize,
    pub(super) problem: LineProblem,
}

/// What is wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum LineProblem {
    #[error("this is neither KEY=VALUE nor a comment; put a # before it if it is one")]
    NotAssignment,
    #[error("a key has 1 to {KEY_MAX_LEN} letters, digits and '_', the first no digit")]
    BadKey,
    #[error("a quote is opened and not closed on this line")]
    OpenQuote,
    #[error("there is text after the closing quote; put the whole value into the quotes")]
    AfterQuote,
    #[error("it contains a control character; type the line anew")]
    Control,
}

/// All entries in order, and all lines that are wrong.
pub(super) fn parse(text: &str) -> (Vec<Entry<'_>>, Vec<BadLine>) {
    let mut entries = Vec::new();
    let mut bad = Vec::new();
    let mut start = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    for (index, line_text) in text[start..].split('\n').enumerate() {
        let line = index + 1;
        match parse_line(line_text.strip_suffix('\r').unwrap_or(line_text)) {
            Ok(None) => {}
            Ok(Some((key, value, span))) => {
                entries.push(Entry { line, key, value, span: start + span.start..start + span.end });
            }
            Err(problem) => bad.push(BadLine { line, problem }),
        }
        start += line_text.len() + 1;
    }
    (entries, bad)
}

type Assignment<'a> = (&'a str, String, Range<usize>);

fn parse_line(line: &str) -> Result<Option<Assignment<'_>>, LineProblem> {
    let body = line.trim();
    if body.is_empty() || body.starts_with(['#', ';']) {
        return Ok(None);
    }
    if line.chars().any(|c| c.is_control() && c != '\t') {
        return Err(LineProblem::Control);
    }
    let (left, _) = line.split_once('=').ok_or(LineProblem::NotAssignment)?;
    let key = left.trim();
    let key = key.strip_prefix("export").filter(|rest| rest.starts_with([' ', '\t'])).map_or(key, str::trim);
    if !is_key_name(key) {
        return Err(LineProblem::BadKey);
    }
    let after_equals = left.len() + 1;
    let rest = &line[after_equals..];
    let value_start = after_equals + (rest.len() - rest.trim_start().len());
    let rest = rest.trim_start();
    let (value, raw_len) = match rest.chars().next() {
        Some(quote @ ('"' | '\'')) => quoted(rest, quote)?,
        _ => {
            let raw = &rest[..comment_start(rest)];
            (raw.trim_end().to_owned(), raw.trim_end().len())
        }
    };
    if value.chars().any(char::is_control) {
        return Err(LineProblem::Control);
    }
    Ok(Some((key, value, value_start..value_start + raw_len)))
}

/// Whether `key` can stand before the `=`.
pub(super) fn is_key_name(key: &str) -> bool {
    key.len() <= KEY_MAX_LEN
        && key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Where the comment of an unquoted value starts: at a `#` in the first place or after a blank.
fn comment_start(rest: &str) -> usize {
    let mut after_blank = true;
    for (at, c) in rest.char_indices() {
        if c == '#' && after_blank {
            return at;
        }
        after_blank = c.is_whitespace();
    }
    rest.len()
}

/// The value of a quoted text and the length of the text with its quotes.
fn quoted(rest: &str, quote: char) -> Result<(String, usize), LineProblem> {
    let mut value = String::new();
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c == quote {
            let end = at + quote.len_utf8();
            let after = rest[end..].trim_start();
            return if after.is_empty() || after.starts_with('#') {
                Ok((value, end))
            } else {
                Err(LineProblem::AfterQuote)
            };
        }
        match (c, chars.peek()) {
            ('\\', Some(&(_, next @ ('"' | '\\' | '$' | '`')))) if quote == '"' => {
                value.push(next);
                chars.next();
            }
            _ => value.push(c),
        }
    }
    Err(LineProblem::OpenQuote)
}
