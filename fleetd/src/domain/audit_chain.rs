//! The chain of the audit log: what each entry's hash covers, and what a walk along the chain finds.
//!
//! The hash of an entry is the SHA-256 over the hash of the entry before it, its number and all of its content. Whoever
//! changes an entry has to change the hashes of all later ones, and so the head, which an admin has noted elsewhere.

use std::{fmt, str::FromStr};

use serde::Serialize;
use sha2::{Digest as _, Sha256};

/// Begins what is hashed: a hash of anything else is never taken for one of these.
const PREFIX: &[u8] = b"r58-fleet audit 1,";

/// One value of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    /// Nothing.
    Null,
    /// A whole number.
    Int(i64),
    /// Text, as its bytes.
    Text(&'a [u8]),
}

/// What is hashed. Every part says where it ends before its content comes, so that no two lists of parts read the same:
/// `n,` for nothing, `i7,` for a number, `t5:hello,` for text.
#[must_use]
pub fn canonical<'a>(parts: impl IntoIterator<Item = Part<'a>>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(512);
    bytes.extend_from_slice(PREFIX);
    for part in parts {
        match part {
            Part::Null => bytes.push(b'n'),
            Part::Int(number) => bytes.extend_from_slice(format!("i{number}").as_bytes()),
            Part::Text(text) => {
                bytes.extend_from_slice(format!("t{}:", text.len()).as_bytes());
                bytes.extend_from_slice(text);
            }
        }
        bytes.push(b',');
    }
    bytes
}

/// The hash of an entry: hexadecimal, 64 characters.
#[must_use]
pub fn hash<'a>(parts: impl IntoIterator<Item = Part<'a>>) -> String {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    let digit = |value: u8| char::from(DIGITS[usize::from(value & 15)]);
    Sha256::digest(canonical(parts)).iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

/// An entry by its number and hash: `12:9f86…`. The last one stands for the whole log up to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Head {
    /// The number, from 1; 0 before the first entry.
    pub number: i64,
    /// The hash; empty before the first entry.
    pub hash: String,
}

impl Head {
    /// Before the first entry.
    #[must_use]
    pub const fn start() -> Self {
        Self { number: 0, hash: String::new() }
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.number, self.hash)
    }
}

impl FromStr for Head {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong =
            "a number, a colon and 64 hexadecimal digits are expected, as `fleetd audit verify` prints them";
        let (number, hash) = text.split_once(':').ok_or(wrong)?;
        let number = number.parse().ok().filter(|number| *number > 0).ok_or(wrong)?;
        if hash.len() != 64 || !hash.bytes().all(|c| c.is_ascii_hexdigit()) {
            return Err(wrong);
        }
        Ok(Self { number, hash: hash.to_ascii_lowercase() })
    }
}

/// An entry as a walk sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number and the hash that it carries.
    pub head: Head,
    /// The hash that it should carry, after the entry before it; `None`: it holds what no entry can hold.
    pub computed: Option<String>,
}

/// What is wrong with a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "fault", rename_all = "snake_case")]
#[allow(missing_docs)] // the fields are what the message names
pub enum Fault {
    /// Numbers are left out.
    #[error("entries {first} to {last} are missing")]
    Missing { first: i64, last: i64 },
    /// A number that no entry has.
    #[error("entry {number} was put before the first one")]
    Stray { number: i64 },
    /// The hash does not fit.
    #[error("entry {number} is not the one that was written after entry {}: it, or its place, was changed", number - 1)]
    Changed { number: i64 },
    /// A noted entry is not there any more.
    #[error("the log ends at entry {end}, but entry {number} was noted: its end was cut off")]
    Cut { number: i64, end: i64 },
    /// A noted entry is there with another hash.
    #[error(
        "entry {number} has another hash than was noted: the log was written anew, from there or from before"
    )]
    Rewritten { number: i64 },
}

/// A walk along the chain, from the first entry to the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walk {
    head: Head,
}

impl Default for Walk {
    fn default() -> Self {
        Self { head: Head::start() }
    }
}

impl Walk {
    /// The last entry that was seen.
    #[must_use]
    pub const fn head(&self) -> &Head {
        &self.head
    }

    /// Goes on to the next entry by number.
    ///
    /// # Errors
    /// [`Fault`], if it is not the one that was written after the last.
    pub fn step(&mut self, link: Link) -> Result<(), Fault> {
        let (number, due) = (link.head.number, self.head.number + 1);
        if number < due {
            return Err(Fault::Stray { number });
        }
        if number > due {
            return Err(Fault::Missing { first: due, last: number - 1 });
        }
        if link.computed.as_deref() != Some(link.head.hash.as_str()) {
            return Err(Fault::Changed { number });
        }
        self.head = link.head;
        Ok(())
    }

    /// Whether an entry that was noted earlier is still in the log; `found`: its hash there. After the last step.
    ///
    /// # Errors
    /// [`Fault::Cut`], [`Fault::Rewritten`].
    pub fn expect(&self, noted: &Head, found: Option<&str>) -> Result<(), Fault> {
        match found {
            Some(hash) if hash == noted.hash => Ok(()),
            Some(_) => Err(Fault::Rewritten { number: noted.number }),
            None => Err(Fault::Cut { number: noted.number, end: self.head.number }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, PartialEq)]
    enum Owned {
        Null,
        Int(i64),
        Text(String),
    }

    fn encoded(parts: &[Owned]) -> Vec<u8> {
        canonical(parts.iter().map(|part| match part {
            Owned::Null => Part::Null,
            Owned::Int(number) => Part::Int(*number),
            Owned::Text(text) => Part::Text(text.as_bytes()),
        }))
    }

    /// Mostly texts that look like the encoding itself.
    fn row() -> impl Strategy<Value = Vec<Owned>> {
        let part = prop_oneof![
            Just(Owned::Null),
            (-12_i64..12).prop_map(Owned::Int),
            "[nit0-3:,-]{0,6}".prop_map(Owned::Text),
        ];
        proptest::collection::vec(part, 0..5)
    }

    proptest! {
        #[test]
        fn different_rows_never_have_the_same_encoding(one in row(), other in row()) {
            prop_assert_eq!(encoded(&one) == encoded(&other), one == other);
        }

        #[test]
        fn text_moved_from_one_column_to_the_next_changes_the_encoding(text in "[a-c:,0-9]{1,8}", at in 0_usize..8) {
            let at = at.min(text.len());
            let cut = vec![Owned::Text(text[..at].to_owned()), Owned::Text(text[at..].to_owned())];
            let whole = vec![Owned::Text(text), Owned::Text(String::new())];
            prop_assert_eq!(encoded(&cut) == encoded(&whole), cut == whole);
        }

        #[test]
        fn a_head_is_read_as_it_is_written(number in 1_i64.., hash in "[0-9a-f]{64}") {
            let head = Head { number, hash };
            prop_assert_eq!(head.to_string().parse::<Head>().unwrap(), head);
        }
    }

    #[test]
    fn the_encoding_is_the_documented_one() {
        let parts = || [Part::Null, Part::Int(-7), Part::Text("hé,".as_bytes())];
        assert_eq!(canonical(parts()), "r58-fleet audit 1,n,i-7,t4:hé,,".as_bytes());
        let hash = hash(parts());
        assert_eq!(
            hash,
            crate::domain::command_request::sha256_hex("r58-fleet audit 1,n,i-7,t4:hé,,".as_bytes())
        );
    }

    #[test]
    fn what_is_no_head_is_refused() {
        let hash = "a".repeat(64);
        for text in [
            "",
            "1",
            "1:",
            "0:",
            "1:ab",
            &hash,
            &format!("0:{hash}"),
            &format!("-1:{hash}"),
            &format!("1:{hash}a"),
        ] {
            assert!(text.parse::<Head>().is_err(), "{text}");
        }
        assert_eq!(format!("3:{}", "A".repeat(64)).parse(), Ok(Head { number: 3, hash }));
    }
}
