//! Topics: one type builds and parses them all; nobody formats a topic by hand.
//!
//! ```
//! use protocol::topic::{Topic, Uplink};
//!
//! let topic: Topic = "fleet/v1/acme/device/studio-001/heartbeat".parse()?;
//! let Topic::Device { org, device, uplink } = &topic else { panic!("a device's topic") };
//! assert_eq!((org.as_str(), device.as_str(), *uplink), ("acme", "studio-001", Uplink::Heartbeat));
//! assert_eq!(topic.to_string(), "fleet/v1/acme/device/studio-001/heartbeat");
//!
//! assert!("fleet/v1/acme/device/+/heartbeat".parse::<Topic>().is_err(), "a filter is no topic");
//! assert!("fleet/v1/Acme/view/studio-001".parse::<Topic>().is_err(), "names are lower case");
//! # Ok::<(), protocol::topic::TopicError>(())
//! ```

use std::fmt;
use std::str::FromStr;

use crate::id::{DeviceId, InstanceName, NameError, OrgSlug, UserName};
use crate::text::text_enum;

/// What every topic begins with.
pub const PREFIX: &str = "fleet/v1";

text_enum! {
    /// What a device publishes, below `device/{device}/`.
    Uplink {
        /// On every connect.
        Birth = "birth",
        /// Online or not; also the last will.
        Presence = "presence",
        /// One heartbeat, or a batch.
        Heartbeat = "heartbeat",
        /// Command reports.
        Status = "status",
        /// The config that the device runs with.
        Reported = "reported",
        /// Log records.
        Log = "log",
        /// What must be told at once.
        Event = "event",
    }
}

text_enum! {
    /// What the server publishes to a device, below `device/{device}/`.
    Downlink {
        /// Commands, and questions about them.
        Command = "command",
        /// Desired config, target release, show locks.
        Desired = "desired",
        /// What is committed.
        Ack = "ack",
    }
}

impl Uplink {
    /// Whether the payload is one or more records with sequence numbers, kept by the device until committed.
    #[must_use]
    pub fn is_record(self) -> bool {
        !matches!(self, Self::Birth | Self::Presence)
    }
}

/// A topic of the protocol.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Topic {
    /// `fleet/v1/{org}/device/{device}/{uplink}`: from a device.
    Device {
        /// The device's organisation.
        org: OrgSlug,
        /// The device.
        device: DeviceId,
        /// What it says.
        uplink: Uplink,
    },
    /// `fleet/v1/{org}/device/{device}/{downlink}`: to a device.
    ToDevice {
        /// The device's organisation.
        org: OrgSlug,
        /// The device.
        device: DeviceId,
        /// What it is told.
        downlink: Downlink,
    },
    /// `fleet/v1/{org}/operator/{user}/command`: a command request.
    OperatorCommand {
        /// The operator's organisation.
        org: OrgSlug,
        /// The operator.
        user: UserName,
    },
    /// `fleet/v1/{org}/operator/{user}/result`: what became of it.
    OperatorResult {
        /// The operator's organisation.
        org: OrgSlug,
        /// The operator.
        user: UserName,
    },
    /// `fleet/v1/{org}/view/{device}`: the device as the HTTP API shows it.
    View {
        /// The device's organisation.
        org: OrgSlug,
        /// The device.
        device: DeviceId,
    },
    /// `fleet/v1/server/{instance}`: a server process.
    Server {
        /// Which one.
        instance: InstanceName,
    },
}

/// Why a text is not a topic of this protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Not below `fleet/v1/`, or of a shape that this version does not know.
    #[error("not a topic of this protocol version")]
    Unknown,
    /// The shape is right, a name in it is not.
    #[error("bad {level} in topic: {source}")]
    BadName {
        /// Which level.
        level: &'static str,
        /// What is wrong with it.
        source: NameError,
    },
}

impl FromStr for Topic {
    type Err = TopicError;

    fn from_str(text: &str) -> Result<Self, TopicError> {
        let rest = text.strip_prefix("fleet/v1/").ok_or(TopicError::Unknown)?;
        let mut levels = [""; 4];
        let mut count = 0;
        let mut rest = Some(rest);
        while let Some(level) = next_level(&mut rest) {
            *levels.get_mut(count).ok_or(TopicError::Unknown)? = level;
            count += 1;
        }
        let org = || {
            OrgSlug::new(levels[0]).map_err(|source| TopicError::BadName { level: "organisation", source })
        };
        let device =
            || DeviceId::new(levels[2]).map_err(|source| TopicError::BadName { level: "device", source });
        let user =
            || UserName::new(levels[2]).map_err(|source| TopicError::BadName { level: "user", source });
        match levels[..count] {
            ["server", instance] => InstanceName::new(instance)
                .map(|instance| Self::Server { instance })
                .map_err(|source| TopicError::BadName { level: "instance", source }),
            [_, "view", _] => Ok(Self::View { org: org()?, device: device()? }),
            [_, "operator", _, "command"] => Ok(Self::OperatorCommand { org: org()?, user: user()? }),
            [_, "operator", _, "result"] => Ok(Self::OperatorResult { org: org()?, user: user()? }),
            [_, "device", _, leaf] => {
                if let Some(uplink) = Uplink::of_text(leaf) {
                    Ok(Self::Device { org: org()?, device: device()?, uplink })
                } else if let Some(downlink) = Downlink::of_text(leaf) {
                    Ok(Self::ToDevice { org: org()?, device: device()?, downlink })
                } else {
                    Err(TopicError::Unknown)
                }
            }
            _ => Err(TopicError::Unknown),
        }
    }
}

/// Takes the first level off the rest of a topic. Levels are short: a search for what ends one would cost more.
fn next_level<'a>(rest: &mut Option<&'a str>) -> Option<&'a str> {
    let text = (*rest)?;
    let level = text.bytes().position(|byte| byte == b'/').and_then(|at| text.split_at_checked(at));
    *rest = level.map(|(_, rest)| &rest[1..]);
    Some(level.map_or(text, |(level, _)| level))
}

impl Topic {
    fn with_levels<T>(&self, with: impl FnOnce(&[&str]) -> T) -> T {
        match self {
            Self::Device { org, device, uplink } => {
                with(&[PREFIX, org.as_str(), "device", device.as_str(), uplink.as_str()])
            }
            Self::ToDevice { org, device, downlink } => {
                with(&[PREFIX, org.as_str(), "device", device.as_str(), downlink.as_str()])
            }
            Self::OperatorCommand { org, user } => {
                with(&[PREFIX, org.as_str(), "operator", user.as_str(), "command"])
            }
            Self::OperatorResult { org, user } => {
                with(&[PREFIX, org.as_str(), "operator", user.as_str(), "result"])
            }
            Self::View { org, device } => with(&[PREFIX, org.as_str(), "view", device.as_str()]),
            Self::Server { instance } => with(&[PREFIX, "server", instance.as_str()]),
        }
    }

    /// As `to_string`, and quicker: it is done for every message.
    #[must_use]
    pub fn text(&self) -> String {
        self.with_levels(|levels| levels.join("/"))
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

/// The subtree of one device, with the final slash: everything a device may ever publish lies below it.
///
/// ```
/// # use protocol::{id::{DeviceId, OrgSlug}, topic::device_subtree};
/// let subtree = device_subtree(&OrgSlug::new("acme").unwrap(), &DeviceId::new("studio-001").unwrap());
/// assert_eq!(subtree, "fleet/v1/acme/device/studio-001/");
/// ```
#[must_use]
pub fn device_subtree(org: &OrgSlug, device: &DeviceId) -> String {
    format!("{PREFIX}/{org}/device/{device}/")
}

/// The device whose subtree `topic` is in, whether or not this version knows the topic.
///
/// ```
/// # use protocol::topic::subtree_of;
/// let (org, device) = subtree_of("fleet/v1/acme/device/studio-001/radar/blips").unwrap();
/// assert_eq!((org.as_str(), device.as_str()), ("acme", "studio-001"));
/// assert_eq!(subtree_of("fleet/v1/acme/view/studio-001"), None);
/// assert_eq!(subtree_of("fleet/v1/acme/device/studio-001"), None);
/// ```
#[must_use]
pub fn subtree_of(topic: &str) -> Option<(OrgSlug, DeviceId)> {
    let mut rest = Some(topic.strip_prefix("fleet/v1/")?);
    let (org, kind, device) = (next_level(&mut rest)?, next_level(&mut rest)?, next_level(&mut rest)?);
    rest.filter(|rest| kind == "device" && !rest.is_empty())?;
    Some((OrgSlug::new(org).ok()?, DeviceId::new(device).ok()?))
}

/// What an HTTP exchange with a device calls a topic: its end. `None` for what is of no concern to a device.
///
/// ```
/// # use protocol::topic::{Topic, exchange_suffix, of_exchange};
/// # let (org, device) = ("acme".parse().unwrap(), "studio-001".parse().unwrap());
/// for (topic, suffix) in [
///     ("fleet/v1/acme/device/studio-001/heartbeat", "heartbeat"),
///     ("fleet/v1/acme/device/studio-001/ack", "ack"),
///     ("fleet/v1/server/fleet-1", "server/fleet-1"),
/// ] {
///     let topic: Topic = topic.parse().unwrap();
///     assert_eq!(exchange_suffix(&topic).as_deref(), Some(suffix));
///     assert_eq!(of_exchange(&org, &device, suffix), Ok(topic));
/// }
/// assert_eq!(exchange_suffix(&"fleet/v1/acme/view/studio-001".parse().unwrap()), None);
/// assert!(of_exchange(&org, &device, "server/fleet-1/more").is_err());
/// ```
#[must_use]
pub fn exchange_suffix(topic: &Topic) -> Option<String> {
    match topic {
        Topic::Device { uplink, .. } => Some(uplink.to_string()),
        Topic::ToDevice { downlink, .. } => Some(downlink.to_string()),
        Topic::Server { instance } => Some(format!("server/{instance}")),
        Topic::OperatorCommand { .. } | Topic::OperatorResult { .. } | Topic::View { .. } => None,
    }
}

/// The topic that a suffix stands for in an HTTP exchange with this device.
///
/// # Errors
/// This version knows no such topic.
pub fn of_exchange(org: &OrgSlug, device: &DeviceId, suffix: &str) -> Result<Topic, TopicError> {
    match suffix.strip_prefix("server/") {
        Some(_) => format!("{PREFIX}/{suffix}").parse(),
        None => (device_subtree(org, device) + suffix).parse(),
    }
}

/// The filter that matches one kind of uplink of every device of every organisation.
///
/// ```
/// # use protocol::topic::{Uplink, uplink_filter};
/// assert_eq!(uplink_filter(Uplink::Birth), "fleet/v1/+/device/+/birth");
/// ```
#[must_use]
pub fn uplink_filter(uplink: Uplink) -> String {
    format!("{PREFIX}/+/device/+/{uplink}")
}

/// The filter that matches the status of every server process.
pub const SERVER_FILTER: &str = "fleet/v1/server/+";

/// The filter that matches the command requests of every operator of every organisation.
pub const OPERATOR_COMMAND_FILTER: &str = "fleet/v1/+/operator/+/command";
