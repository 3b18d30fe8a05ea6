//! What the gate counts, for `/metrics`.
//!
//! A gauge goes up and down, everything else only rises and starts at zero with the process.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// One number, changed from any thread.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    pub(crate) fn one(&self) {
        self.add(1);
    }

    /// For gauges: takes back what [`Counter::add`] added.
    pub(crate) fn take(&self, n: u64) {
        self.0.fetch_sub(n, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The live counters.
        #[derive(Debug, Default)]
        pub(crate) struct Counters { $(pub(crate) $name: Counter,)* }

        /// The counters at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct CountersSnapshot { $($(#[$doc])* pub $name: u64,)* }

        impl Counters {
            pub(crate) fn snapshot(&self) -> CountersSnapshot {
                CountersSnapshot { $($name: self.$name.get(),)* }
            }
        }

        impl CountersSnapshot {
            /// Every counter by name, in the order of the fields.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Gauge: connections before login.
    connections_unauthenticated,
    /// Gauge: connected devices.
    connections_devices,
    /// Gauge: connected clients of people.
    connections_people,
    /// Gauge: connected clients of services, without in-process ones.
    connections_services,
    /// Gauge: of all these, those over plain TCP.
    connections_tcp,
    /// Gauge: those over TLS.
    connections_tls,
    /// Gauge: those over WebSocket.
    connections_websocket,
    /// Gauge: devices that are connected by HTTP exchange.
    connections_exchange,
    /// Gauge: sessions of people and services, connected or not.
    sessions,
    /// Gauge: retained messages.
    retained_messages,
    /// Gauge: bytes of retained messages with their topics.
    retained_bytes,
    /// Logins that succeeded.
    connects,
    /// Connections closed before login to make room for a newer one (in all, or from one address).
    refused_before_login,
    /// Connections that sent no whole CONNECT in time, or something else.
    refused_handshake,
    /// CONNECTs of an MQTT version other than 3.1.1 and 5.
    refused_version,
    /// Wrong user name, password or token.
    refused_credentials,
    /// Known, but may not connect; or credentials over plain TCP from elsewhere.
    refused_not_authorized,
    /// Wrong user name, password or token after many failures of the same (address, user name).
    refused_too_many_failures,
    /// Answers to these that were held back.
    answers_held_back,
    /// Credentials could not be checked.
    refused_unavailable,
    /// Client ids that are not acceptable.
    refused_client_id,
    /// Wills on topics where the client may not publish.
    refused_will,
    /// No room for another connection or session.
    refused_busy,
    /// Messages that clients published, refused ones included.
    messages_in,
    /// Messages handed to clients.
    messages_out,
    /// Publishes on topics where the client may not publish.
    publishes_refused,
    /// Publishes with retain where the topic has none.
    publishes_refused_retain,
    /// Publishes of a device on topics of its own subtree that this version does not know: acknowledged, and shown to
    /// services alone.
    publishes_unknown_topic,
    /// Filters that the client may not subscribe to.
    subscribes_refused,
    /// `$share` filters, malformed filters and filters past the limit of a session.
    subscribes_unsupported,
    /// Messages that left a session's queue, or did not get into it, because it was full or its account held too much.
    dropped_queue_full,
    /// Messages dropped because they were larger than the client accepts.
    dropped_too_large,
    /// Messages whose expiry passed before they could be delivered.
    dropped_expired,
    /// Messages that fell out of the router's log before a part of the server that stood still took them.
    dropped_log_wrapped,
    /// Messages to a device that is not connected: the database sends what is open when it comes back.
    dropped_device_absent,
    /// Retained messages that were delivered but not kept because the store was full.
    dropped_retained_full,
    /// Device connections ended because their queue was full.
    device_queue_overflows,
    /// Connections ended because the client broke the protocol or a limit.
    protocol_errors,
    /// Connections ended because the client was silent for 1.5 keep-alive intervals.
    keep_alive_timeouts,
    /// Connections ended because a write took too long.
    write_timeouts,
    /// Connections ended by the server on request.
    kicks,
    /// Connections replaced by a newer one of the same client.
    takeovers,
    /// Warnings that two devices seem to share one identity.
    identity_conflicts,
    /// Wills published.
    wills,
}
