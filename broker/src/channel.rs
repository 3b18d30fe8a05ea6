//! Which of the router's topics a message travels on.
//!
//! The router keeps a log for every filter that was ever subscribed and never frees one, so clients' own topics and
//! filters stay out of it. Every topic belongs to one *kind* (heartbeats, views, …), and the router only knows
//! channels, each of which has one log: one for each organisation and kind, named `o/{org}/{kind}`, which people read, and one
//! for each kind, `a/-/{kind}`, which services read and has everybody's messages. That bounds the logs by the number of
//! organisations. A client's filter is turned into the set of kinds that it can match; what comes through those
//! channels is matched against the client's own filters in its session.

use protocol::id::OrgSlug;
use protocol::topic::{Downlink, PREFIX, SERVER_FILTER, Topic, Uplink};

use crate::filter::overlap;
use crate::principal::Principal;
use protocol::id::Role;

/// What a topic is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Birth,
    Presence,
    Heartbeat,
    Status,
    Reported,
    Log,
    Event,
    Command,
    Desired,
    Ack,
    OperatorCommand,
    OperatorResult,
    View,
    /// `server/+`, which belongs to no organisation.
    Server,
    /// Whatever a service publishes outside of the protocol's topics.
    Other,
    /// What a device publishes in its own subtree on topics that this version does not know: for services alone.
    Unknown,
}

impl Kind {
    pub(crate) const ALL: [Kind; 16] = [
        Kind::Birth,
        Kind::Presence,
        Kind::Heartbeat,
        Kind::Status,
        Kind::Reported,
        Kind::Log,
        Kind::Event,
        Kind::Command,
        Kind::Desired,
        Kind::Ack,
        Kind::OperatorCommand,
        Kind::OperatorResult,
        Kind::View,
        Kind::Server,
        Kind::Other,
        Kind::Unknown,
    ];

    fn name(self) -> &'static str {
        match self {
            Kind::Birth => "birth",
            Kind::Presence => "presence",
            Kind::Heartbeat => "heartbeat",
            Kind::Status => "status",
            Kind::Reported => "reported",
            Kind::Log => "log",
            Kind::Event => "event",
            Kind::Command => "command",
            Kind::Desired => "desired",
            Kind::Ack => "ack",
            Kind::OperatorCommand => "operator-command",
            Kind::OperatorResult => "operator-result",
            Kind::View => "view",
            Kind::Server => "server",
            Kind::Other => "other",
            Kind::Unknown => "unknown",
        }
    }

    pub(crate) fn of(topic: &Topic) -> Kind {
        match topic {
            Topic::Device { uplink, .. } => match uplink {
                Uplink::Birth => Kind::Birth,
                Uplink::Presence => Kind::Presence,
                Uplink::Heartbeat => Kind::Heartbeat,
                Uplink::Status => Kind::Status,
                Uplink::Reported => Kind::Reported,
                Uplink::Log => Kind::Log,
                Uplink::Event => Kind::Event,
            },
            Topic::ToDevice { downlink, .. } => match downlink {
                Downlink::Command => Kind::Command,
                Downlink::Desired => Kind::Desired,
                Downlink::Ack => Kind::Ack,
            },
            Topic::OperatorCommand { .. } => Kind::OperatorCommand,
            Topic::OperatorResult { .. } => Kind::OperatorResult,
            Topic::View { .. } => Kind::View,
            Topic::Server { .. } => Kind::Server,
        }
    }

    /// Its messages belong to no organisation.
    pub(crate) fn is_of_no_org(self) -> bool {
        matches!(self, Kind::Server | Kind::Other | Kind::Unknown)
    }

    /// The filter that matches all topics of this kind in `org` (`+` for all).
    fn filter(self, org: &str) -> Option<String> {
        Some(match self {
            Kind::OperatorCommand => format!("{PREFIX}/{org}/operator/+/command"),
            Kind::OperatorResult => format!("{PREFIX}/{org}/operator/+/result"),
            Kind::View => format!("{PREFIX}/{org}/view/+"),
            Kind::Server => SERVER_FILTER.to_owned(),
            Kind::Other | Kind::Unknown => return None,
            leaf => format!("{PREFIX}/{org}/device/+/{}", leaf.name()),
        })
    }
}

/// A set of kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kinds(u16);

impl Kinds {
    pub(crate) fn with(self, kind: Kind) -> Kinds {
        Kinds(self.0 | 1 << kind as u16)
    }

    pub(crate) fn contains(self, kind: Kind) -> bool {
        self.0 & (1 << kind as u16) != 0
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn union(self, other: Kinds) -> Kinds {
        Kinds(self.0 | other.0)
    }

    /// What is in `self` and not in `other`.
    pub(crate) fn without(self, other: Kinds) -> Kinds {
        Kinds(self.0 & !other.0)
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = Kind> {
        Kind::ALL.into_iter().filter(move |kind| self.contains(*kind))
    }
}

/// Whose messages a client can see at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// One organisation's, and the servers'.
    Org {
        /// Which one.
        org: OrgSlug,
        /// Also what a service publishes outside of the protocol's topics.
        other: bool,
    },
    /// Everything.
    All,
}

impl Scope {
    pub(crate) fn of(principal: &Principal) -> Scope {
        match principal {
            Principal::Device { org, .. } => Scope::Org { org: org.clone(), other: false },
            Principal::Person { org, role, .. } => {
                Scope::Org { org: org.clone(), other: *role >= Role::Admin }
            }
            Principal::Service { .. } => Scope::All,
        }
    }

    /// The kinds of which `filter` matches every message within this scope.
    pub(crate) fn whole_kinds(&self, filter: &str) -> Kinds {
        let org = match self {
            Scope::Org { org, .. } => org.as_str(),
            Scope::All => "+",
        };
        let whole = |kind: &Kind| kind.filter(org).is_some_and(|of_kind| of_kind == filter);
        Kind::ALL.into_iter().filter(whole).fold(Kinds::default(), Kinds::with)
    }

    /// The kinds of messages that `filter` can match within this scope.
    pub(crate) fn kinds(&self, filter: &str) -> Kinds {
        let (org, other, unknown) = match self {
            Scope::Org { org, other } => (org.as_str(), *other, false),
            Scope::All => ("+", true, true),
        };
        let mut kinds = Kinds::default();
        for kind in Kind::ALL {
            let needed = match kind {
                Kind::Other => other,
                Kind::Unknown => unknown,
                kind => kind.filter(org).is_some_and(|of_kind| overlap(filter, &of_kind)),
            };
            if needed {
                kinds = kinds.with(kind);
            }
        }
        kinds
    }

    /// The router's name for the log of one kind.
    pub(crate) fn channel(&self, kind: Kind) -> String {
        let kind_name = kind.name();
        match self {
            Scope::All => format!("a/-/{kind_name}"),
            Scope::Org { .. } if kind.is_of_no_org() => format!("s/-/{kind_name}"),
            Scope::Org { org, .. } => format!("o/{org}/{kind_name}"),
        }
    }
}

/// The router's filters of organisations and people, whose logs are small, as patterns.
pub(crate) const SMALL_LOGS: [&str; 2] = ["o/+/+", "s/+/+"];

/// The organisation that a topic belongs to.
pub(crate) fn org_of(topic: &Topic) -> Option<&OrgSlug> {
    match topic {
        Topic::Device { org, .. }
        | Topic::ToDevice { org, .. }
        | Topic::OperatorCommand { org, .. }
        | Topic::OperatorResult { org, .. }
        | Topic::View { org, .. } => Some(org),
        Topic::Server { .. } => None,
    }
}

#[cfg(test)]
mod tests;
