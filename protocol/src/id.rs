//! Identifiers: validated once, then carried as types that cannot be mixed up.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Longest name of an organisation, device or user, in bytes.
pub const NAME_MAX_LEN: usize = 63;

/// Why a name was refused. The text is meant for the person who chose the name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("it is empty; a name has 1 to {NAME_MAX_LEN} characters")]
    Empty,
    /// Longer than [`NAME_MAX_LEN`].
    #[error("it has {0} characters; a name has at most {NAME_MAX_LEN}")]
    TooLong(usize),
    /// The first character is `_` or `-`.
    #[error("it starts with {0:?}; a name starts with a-z or 0-9")]
    BadStart(char),
    /// A character outside the alphabet.
    #[error("it contains {0:?}; a name has only a-z, 0-9, '-' and '_'")]
    BadCharacter(char),
    /// A name with a meaning of its own.
    #[error("\"{0}\" is reserved; choose another name")]
    Reserved(&'static str),
}

/// The rule that all names share: `[a-z0-9][a-z0-9_-]{0,62}`.
///
/// # Errors
/// The first thing that is wrong with `name`.
pub fn check_name(name: &str) -> Result<(), NameError> {
    let is_fine = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
    if let [b'a'..=b'z' | b'0'..=b'9', rest @ ..] = name.as_bytes()
        && rest.len() < NAME_MAX_LEN
        && rest.iter().all(|byte| is_fine(*byte))
    {
        return Ok(());
    }
    // What is wrong with it?
    let first = name.chars().next().ok_or(NameError::Empty)?;
    if let Some(bad) = name.chars().find(|c| !u8::try_from(*c).is_ok_and(is_fine)) {
        return Err(NameError::BadCharacter(bad));
    }
    if matches!(first, '_' | '-') {
        return Err(NameError::BadStart(first));
    }
    if name.len() > NAME_MAX_LEN {
        return Err(NameError::TooLong(name.len()));
    }
    Ok(())
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident $(, reserved: $reserved:literal)?) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// Checks `name` against the rule of [`check_name`].
            ///
            /// # Errors
            /// What is wrong with it.
            pub fn new(name: &str) -> Result<Self, NameError> {
                check_name(name)?;
                $(if name == $reserved {
                    return Err(NameError::Reserved($reserved));
                })?
                Ok(Self(name.into()))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(s: &str) -> Result<Self, NameError> {
                Self::new(s)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = String::deserialize(d)?;
                Self::new(&text).map_err(|e| de::Error::custom(format!("bad name {text:?}: {e}")))
            }
        }
    };
}

name_type!(
    /// The short name of an organisation, as in topics. `server` is nobody's: its topics are the servers' own.
    OrgSlug, reserved: "server"
);
name_type!(
    /// The readable id of a device within its organisation.
    DeviceId
);
name_type!(
    /// The name of a person or a service account within its organisation.
    UserName
);
name_type!(
    /// One server process among several.
    InstanceName
);

/// The identity of one state database of a device: 8 random bytes made with the database. CBOR carries it as a byte
/// string, JSON as 16 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateId(pub [u8; 8]);

/// The text is not a state id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a state id is 16 hex digits")]
pub struct StateIdError;

impl fmt::Display for StateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for StateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StateId({self})")
    }
}

impl FromStr for StateId {
    type Err = StateIdError;
    fn from_str(s: &str) -> Result<Self, StateIdError> {
        if s.len() != 16 || !s.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(StateIdError);
        }
        u64::from_str_radix(s, 16).map(|n| Self(n.to_be_bytes())).map_err(|_| StateIdError)
    }
}

impl Serialize for StateId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.collect_str(self) } else { s.serialize_bytes(&self.0) }
    }
}

impl<'de> Deserialize<'de> for StateId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = StateId;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a state id: 8 bytes, or 16 hex digits")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<StateId, E> {
                bytes.try_into().map(StateId).map_err(|_| E::invalid_length(bytes.len(), &self))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<StateId, E> {
                text.parse().map_err(E::custom)
            }
        }
        if d.is_human_readable() { d.deserialize_str(Visitor) } else { d.deserialize_bytes(Visitor) }
    }
}

/// Longest command id, in bytes.
pub const COMMAND_ID_MAX_LEN: usize = 64;

/// The identity of a command; made by the server, opaque to everybody else. 1 to 64 characters of `[A-Za-z0-9_.-]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(Box<str>);

/// The text is not a command id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a command id has 1 to {COMMAND_ID_MAX_LEN} characters of A-Z, a-z, 0-9, '_', '.' and '-'")]
pub struct CommandIdError;

impl CommandId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for CommandId {
    type Err = CommandIdError;
    fn from_str(s: &str) -> Result<Self, CommandIdError> {
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        if s.is_empty() || s.len() > COMMAND_ID_MAX_LEN || !s.bytes().all(good) {
            return Err(CommandIdError);
        }
        Ok(Self(s.into()))
    }
}

impl Serialize for CommandId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for CommandId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

crate::text::text_enum! {
    /// What a person or a service account may do in its organisation. Ordered: each role may do what the ones before
    /// it may.
    Role {
        /// Reads devices and commands.
        Viewer = "viewer",
        /// Also updates devices and sends commands, except updates.
        Operator = "operator",
        /// Everything in the organisation.
        Admin = "admin",
    }
}
