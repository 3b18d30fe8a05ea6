//! An entry of the audit log as the API and the command line show it.

use protocol::message::rfc3339;
use serde::Serialize;
use serde_json::Value;

use super::time;

/// An entry that is stored.
#[derive(Debug, Clone, Serialize)]
pub struct AuditLogEntry {
    /// Its place in the chain, from 1.
    pub number: i64,
    /// The id.
    pub id: String,
    /// When, ms since 1970.
    #[serde(with = "time")]
    pub at: i64,
    /// The organisation, as in topics; nothing where none could be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub org: Option<String>,
    /// Who.
    pub actor: String,
    /// What.
    pub action: String,
    /// On what kind of thing.
    pub resource_type: String,
    /// On which.
    pub resource_id: String,
    /// `ok` or `refused`.
    pub outcome: String,
    /// What changed, or why it was refused.
    pub details: Value,
    /// The client's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_address: Option<String>,
    /// What the client calls itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// The hash of the chain up to here.
    pub hash: String,
}

/// How entries are written one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditFormat {
    /// Comma-separated values, RFC 4180, with a heading.
    Csv,
    /// A JSON object on each line.
    Jsonl,
}

const COLUMNS: [&str; 13] = [
    "number",
    "id",
    "at",
    "org",
    "actor",
    "action",
    "resource_type",
    "resource_id",
    "outcome",
    "details",
    "ip_address",
    "user_agent",
    "hash",
];

impl AuditFormat {
    /// For the `Content-Type` header.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv; charset=utf-8; header=present",
            Self::Jsonl => "application/x-ndjson",
        }
    }

    /// For the `Content-Disposition` header: browsers save it under this name.
    #[must_use]
    pub const fn disposition(self) -> &'static str {
        match self {
            Self::Csv => "attachment; filename=\"audit.csv\"",
            Self::Jsonl => "attachment; filename=\"audit.jsonl\"",
        }
    }

    /// What comes before the first entry.
    #[must_use]
    pub fn heading(self) -> String {
        match self {
            Self::Csv => COLUMNS.join(",") + "\r\n",
            Self::Jsonl => String::new(),
        }
    }

    /// Adds a line with this entry.
    pub fn write(self, entry: &AuditLogEntry, to: &mut String) {
        match self {
            Self::Csv => csv_line(entry, to),
            Self::Jsonl => {
                // An entry is text, numbers and JSON: it can always be written.
                to.push_str(&serde_json::to_string(entry).unwrap_or_default());
                to.push('\n');
            }
        }
    }
}

impl std::str::FromStr for AuditFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "csv" => Ok(Self::Csv),
            "jsonl" => Ok(Self::Jsonl),
            _ => Err("csv or jsonl is expected"),
        }
    }
}

fn csv_line(entry: &AuditLogEntry, to: &mut String) {
    let (number, at, details) = (entry.number.to_string(), rfc3339(entry.at), entry.details.to_string());
    let cells = [
        number.as_str(),
        &entry.id,
        &at,
        entry.org.as_deref().unwrap_or_default(),
        &entry.actor,
        &entry.action,
        &entry.resource_type,
        &entry.resource_id,
        &entry.outcome,
        &details,
        entry.ip_address.as_deref().unwrap_or_default(),
        entry.user_agent.as_deref().unwrap_or_default(),
        &entry.hash,
    ];
    for (at, cell) in cells.into_iter().enumerate() {
        if at > 0 {
            to.push(',');
        }
        csv_cell(cell, to);
    }
    to.push_str("\r\n");
}

/// Text that a spreadsheet would take for a formula gets an apostrophe before it: it may come from outside.
fn csv_cell(cell: &str, to: &mut String) {
    let formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']);
    if !formula && !cell.contains(['"', ',', '\r', '\n']) {
        to.push_str(cell);
        return;
    }
    to.push('"');
    if formula {
        to.push('\'');
    }
    to.push_str(&cell.replace('"', "\"\""));
    to.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(text: &str) -> String {
        let mut to = String::new();
        csv_cell(text, &mut to);
        to
    }

    #[test]
    fn a_cell_is_quoted_where_it_has_to_be() {
        assert_eq!(cell("plain text"), "plain text");
        assert_eq!(cell(""), "");
        assert_eq!(cell("a,b"), "\"a,b\"");
        assert_eq!(cell("say \"x\""), "\"say \"\"x\"\"\"");
        assert_eq!(cell("two\r\nlines"), "\"two\r\nlines\"");
    }

    #[test]
    fn no_cell_is_a_formula() {
        for text in ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "=HYPERLINK(\"http://x\",\"y\")"] {
            assert!(cell(text).starts_with("\"'"), "{text}");
        }
        assert_eq!(cell("=\"a\""), "\"'=\"\"a\"\"\"");
        assert_eq!(cell("a=1"), "a=1");
    }
}
