//! Who may publish and subscribe what: the access table of `docs/protocol.md`, default deny.
//!
//! Pure code. The gate asks it for every PUBLISH, every will and every filter of a SUBSCRIBE, and again for every filter
//! of a resumed session.

mod filter;
#[cfg(test)]
mod tests;

use protocol::id::Role;
use protocol::topic::{Downlink, PREFIX, SERVER_FILTER, Topic, Uplink, device_subtree};

use crate::principal::Principal;

pub use filter::{MAX_TOPIC_BYTES, valid_filter, valid_topic};

/// What to do with a PUBLISH, or with a will at CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishDecision {
    /// Route it.
    Allow,
    /// A topic unknown to this server inside the device's own subtree: acknowledge it, count it, show it to services
    /// alone and retain nothing; a will of this kind is left out. So a newer agent can talk to an older server.
    ServicesOnly,
    /// Not this principal's to publish.
    Deny,
    /// It might publish here, but nothing is ever retained on this topic.
    DenyRetain,
}

/// What to answer to one filter of a SUBSCRIBE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubscribeDecision {
    /// Grant it.
    Allow,
    /// Well formed, and not covered by anything that this principal may read.
    Deny,
    /// A shared subscription (`$share/…`), which this broker does not have.
    SharedNotSupported,
    /// Not a topic filter.
    Invalid,
}

/// Decides on a PUBLISH of `principal` to `topic`. A will is decided in the same way, at CONNECT.
///
/// A malformed topic ([`valid_topic`]) is denied; the gate tells it apart where MQTT wants another reason code.
#[must_use]
pub fn publish(principal: &Principal, topic: &str, retain: bool) -> PublishDecision {
    if !routable(topic) {
        return PublishDecision::Deny;
    }
    let known = topic.parse::<Topic>().ok();
    let allowed = match principal {
        Principal::Service { .. } => true,
        Principal::Device { org, device, .. } => match &known {
            Some(Topic::Device { org: of, device: from, .. }) => of == org && from == device,
            Some(_) => false,
            None if in_subtree(topic, &device_subtree(org, device)) => {
                return PublishDecision::ServicesOnly;
            }
            None => false,
        },
        Principal::Person { org, user, role, .. } => {
            *role >= Role::Operator
                && matches!(&known, Some(Topic::OperatorCommand { org: of, user: from }) if of == org && from == user)
        }
    };
    if !allowed {
        PublishDecision::Deny
    } else if retain && !known.as_ref().is_some_and(is_retained) {
        PublishDecision::DenyRetain
    } else {
        PublishDecision::Allow
    }
}

/// Decides on one filter of a SUBSCRIBE of `principal`: allowed if something that it may read covers the whole filter.
#[must_use]
pub fn subscribe(principal: &Principal, filter: &str) -> SubscribeDecision {
    // `$share` first: an answer by kind helps more than one about the form of what follows.
    if filter == "$share" || filter.starts_with("$share/") {
        return SubscribeDecision::SharedNotSupported;
    }
    if !valid_filter(filter) {
        return SubscribeDecision::Invalid;
    }
    if readable(principal).iter().any(|allowed| filter::covers(allowed, filter)) {
        SubscribeDecision::Allow
    } else {
        SubscribeDecision::Deny
    }
}

/// The filters that `principal` may read; each may be subscribed as it is or narrower.
fn readable(principal: &Principal) -> Vec<String> {
    let mut filters = vec![SERVER_FILTER.to_owned()];
    match principal {
        Principal::Service { .. } => filters.push("#".to_owned()),
        Principal::Device { org, device, .. } => {
            filters.extend([Downlink::Command, Downlink::Desired, Downlink::Ack].map(|downlink| {
                Topic::ToDevice { org: org.clone(), device: device.clone(), downlink }.to_string()
            }));
        }
        Principal::Person { org, user, role, .. } => {
            let of_all = |uplink: Uplink| format!("{PREFIX}/{org}/device/+/{uplink}");
            filters.push(format!("{PREFIX}/{org}/view/+"));
            filters.extend([Uplink::Heartbeat, Uplink::Birth, Uplink::Presence, Uplink::Event].map(of_all));
            if *role >= Role::Operator {
                filters.push(Topic::OperatorResult { org: org.clone(), user: user.clone() }.to_string());
                filters.extend([Uplink::Status, Uplink::Log].map(of_all));
            }
            if *role >= Role::Admin {
                filters.push(format!("{PREFIX}/{org}/#"));
            }
        }
    }
    filters
}

/// The topics that keep their last message.
pub(crate) fn is_retained(topic: &Topic) -> bool {
    matches!(
        topic,
        Topic::Device { uplink: Uplink::Presence, .. } | Topic::View { .. } | Topic::Server { .. }
    )
}

/// True if the router can carry `topic`. It panics on a name whose first character is not ASCII; `$` belongs to the
/// broker. Nothing of ours starts in either way.
fn routable(topic: &str) -> bool {
    valid_topic(topic) && topic.is_char_boundary(1) && !topic.starts_with('$')
}

/// True if `topic` lies below `subtree`, which ends in a slash.
fn in_subtree(topic: &str, subtree: &str) -> bool {
    topic.strip_prefix(subtree).is_some_and(|rest| !rest.is_empty())
}
