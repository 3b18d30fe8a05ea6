//! What a person wants to know of a certificate. Only read, never believed: whether it is trusted, rustls decides.
//!
//! A reader for the few fields of X.509 that are shown, over bytes of a stranger: every length is checked, nothing
//! recurses, and whatever does not fit is simply not known.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Longest name that is shown, in characters.
const NAME_MAX_CHARS: usize = 100;
/// Names that are shown at most.
const NAMES_MAX: usize = 8;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ORGANISATION: &[u8] = &[0x55, 0x04, 0x0a];
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 0x1d, 0x11];

/// The fields that are shown; what is missing or odd is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Whose it is.
    pub(super) subject: String,
    /// Who says so.
    pub(super) issuer: String,
    /// From when it is good, milliseconds since 1970.
    pub(super) not_before_ms: Option<i64>,
    /// Until when.
    pub(super) not_after_ms: Option<i64>,
    /// The names and addresses of servers that it is for.
    pub(super) names: Vec<String>,
}

impl Facts {
    /// Of a certificate in DER form.
    pub(super) fn of(der: &[u8]) -> Option<Self> {
        let mut input = der;
        let mut certificate = expect(&mut input, SEQUENCE)?;
        let mut body = expect(&mut certificate, SEQUENCE)?;
        let rest = &mut body;
        let mut first = element(rest)?;
        if first.0 == 0xa0 {
            // The version; the serial number follows.
            first = element(rest)?;
        }
        (first.0 == 0x02).then_some(())?;
        expect(rest, SEQUENCE)?;
        let issuer = name(expect(rest, SEQUENCE)?);
        let mut validity = expect(rest, SEQUENCE)?;
        let (not_before, not_after) = (element(&mut validity)?, element(&mut validity)?);
        let subject = name(expect(rest, SEQUENCE)?);
        // The key; then, in a version 3 certificate, what else there is.
        expect(rest, SEQUENCE)?;
        let mut names = Vec::new();
        while let Some((tag, contents)) = element(rest) {
            if tag == 0xa3 {
                names = alternative_names(contents).unwrap_or_default();
            }
        }
        Some(Self { subject, issuer, not_before_ms: time(not_before), not_after_ms: time(not_after), names })
    }

    /// Whose it is, in a few words.
    pub(super) fn whose(&self) -> String {
        match (self.subject.as_str(), self.names.first()) {
            ("", Some(name)) => name.clone(),
            ("", None) => "nobody".to_owned(),
            (subject, _) => subject.to_owned(),
        }
    }

    /// What it is for, in a few words.
    pub(super) fn for_whom(&self) -> String {
        if self.names.is_empty() { self.whose() } else { self.names.join(", ") }
    }
}

/// Tag and contents of the next element.
fn element<'a>(input: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&tag, after) = input.split_first()?;
    let (&first, mut after) = after.split_first()?;
    let len = match first {
        0..=0x7f => usize::from(first),
        0x81..=0x84 => {
            let (digits, rest) = after.split_at_checked(usize::from(first & 0x7f))?;
            after = rest;
            digits.iter().fold(0, |len, digit| len << 8 | usize::from(*digit))
        }
        _ => return None,
    };
    let (contents, rest) = after.split_at_checked(len)?;
    *input = rest;
    Some((tag, contents))
}

fn expect<'a>(input: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    element(input).filter(|(found, _)| *found == tag).map(|(_, contents)| contents)
}

/// The common name in a distinguished name, else the organisation, else nothing.
fn name(mut sets: &[u8]) -> String {
    let mut organisation = String::new();
    while let Some(mut set) = expect(&mut sets, SET) {
        while let Some(mut pair) = expect(&mut set, SEQUENCE) {
            let (Some(kind), Some(value)) = (expect(&mut pair, 0x06), element(&mut pair)) else { continue };
            if kind == COMMON_NAME {
                return text(value);
            }
            if kind == ORGANISATION {
                organisation = text(value);
            }
        }
    }
    organisation
}

fn text((tag, bytes): (u8, &[u8])) -> String {
    let text = if tag == 0x1e {
        let units: Vec<u16> = bytes.chunks_exact(2).map(|two| u16::from_be_bytes([two[0], two[1]])).collect();
        String::from_utf16_lossy(&units)
    } else {
        String::from_utf8_lossy(bytes).into_owned()
    };
    text.chars().filter(|c| !c.is_control()).take(NAME_MAX_CHARS).collect()
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`.
fn time((tag, bytes): (u8, &[u8])) -> Option<i64> {
    let digits = std::str::from_utf8(bytes).ok()?.strip_suffix('Z')?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then_some(())?;
    let (year, rest) = match (tag, digits.len()) {
        (0x17, 12) => {
            let (year, rest) = digits.split_at(2);
            let century = if year < "50" { "20" } else { "19" };
            (format!("{century}{year}"), rest)
        }
        (0x18, 14) => (digits[..4].to_owned(), &digits[4..]),
        _ => return None,
    };
    let two = |at: usize| &rest[at..at + 2];
    let text = format!("{year}-{}-{}T{}:{}:{}Z", two(0), two(2), two(4), two(6), two(8));
    protocol::message::parse_rfc3339(&text).ok()
}

fn alternative_names(mut extensions: &[u8]) -> Option<Vec<String>> {
    let mut list = expect(&mut extensions, SEQUENCE)?;
    while let Some(mut extension) = expect(&mut list, SEQUENCE) {
        if expect(&mut extension, 0x06)? != ALTERNATIVE_NAMES {
            continue;
        }
        let (mut tag, mut value) = element(&mut extension)?;
        if tag == 0x01 {
            (tag, value) = element(&mut extension)?;
        }
        (tag == 0x04).then_some(())?;
        let mut names = expect(&mut value, SEQUENCE)?;
        let mut found = Vec::new();
        while let Some((tag, bytes)) = element(&mut names)
            && found.len() < NAMES_MAX
        {
            match (tag, bytes.len()) {
                (0x82, _) => found.push(text((0x0c, bytes))),
                (0x87, 4) => {
                    found.extend(<[u8; 4]>::try_from(bytes).ok().map(|ip| Ipv4Addr::from(ip).to_string()))
                }
                (0x87, 16) => {
                    found.extend(<[u8; 16]>::try_from(bytes).ok().map(|ip| Ipv6Addr::from(ip).to_string()))
                }
                _ => {}
            }
        }
        return Some(found);
    }
    None
}
