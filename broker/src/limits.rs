//! Every bound of the gate, with its default.
//!
//! A bound exists for each thing that a client can make the server hold or do. The defaults suit a few thousand
//! devices and a few hundred people's tools on a small machine.

use std::time::Duration;

/// The gate's bounds. `Limits::default()` is what the programs run with unless they are told otherwise.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections past login, of all kinds together. The next one is refused with "server busy". 20,000.
    pub connections: usize,
    /// Connections of one person or service at a time. The next one is refused with "quota exceeded". 100.
    pub connections_per_principal: usize,
    /// Connections before login from one address. For the next one the oldest is closed that has sent no CONNECT yet or
    /// was refused; four times as many may wait for a long check of their password. 256: a venue's boxes share an address and
    /// come back together after a power cut.
    pub unauthenticated_per_address: usize,
    /// Connections before login in all, likewise. 4,096.
    pub unauthenticated: usize,
    /// From the first byte to a whole CONNECT; also the time for a connection without one. A password that has to wait
    /// for its turn may take thrice as long to be checked. 10 s.
    pub handshake_time: Duration,
    /// Largest CONNECT packet, in bytes. 64 KiB.
    pub connect_bytes: usize,
    /// CONNECTs of more than 4 KiB that are being read or checked. The next one is closed. 256: some 30 MiB at most.
    pub large_connects: usize,
    /// Largest packet after login, in bytes. 300 KiB: a log batch of 256 KiB and its topic fit.
    pub packet_bytes: usize,
    /// Longest client id, in bytes. 256.
    pub client_id_bytes: usize,
    /// QoS 2 publishes of one client that it has not released yet, and the Receive Maximum told to it. 256.
    pub inflight_in: u16,
    /// Messages sent to one client that it has not acknowledged yet (its own Receive Maximum may be lower). 100.
    pub inflight_out: u16,
    /// Bytes waiting for one client of a person or a service. Past it the oldest messages of the topics that have most there
    /// make room, after publishers have waited a moment for a client that is connected. 1 MiB.
    pub queued_bytes: usize,
    /// Bytes that all sessions and connections of one person or service hold together, beyond a little that each may
    /// hold in any case: messages that wait or are not acknowledged, subscriptions, packets that are being read or
    /// written. 8 MiB.
    pub account_bytes: usize,
    /// Bytes waiting for one device. Past it the device's connection is ended: what it misses is sent again from
    /// the database when it is back. 512 KiB.
    pub device_queued_bytes: usize,
    /// Subscriptions of one session. 200.
    pub subscriptions: usize,
    /// Sessions of people and services, connected or not. The next one is refused with "quota exceeded". 2,000.
    pub sessions: usize,
    /// Sessions of one person or service that outlive the connection; the oldest absent one makes room. 16.
    pub sessions_per_principal: usize,
    /// How long a session outlives its connection at most. 24 h.
    pub session_expiry: Duration,
    /// How long a will can be delayed at most. 1 h.
    pub will_delay: Duration,
    /// Messages a second that one device may publish. Past it the gate reads that connection more slowly; nothing
    /// is dropped. 0 means no limit. 100.
    pub device_messages_per_second: u32,
    /// Failed logins of one (address, user name) within [`Limits::failure_window`]. The next failures of the pair are
    /// answered as too many, two a second. What is right gets in at once. 10.
    pub failures: u32,
    /// See [`Limits::failures`]. 60 s.
    pub failure_window: Duration,
    /// Retained messages. Past it a new topic is delivered but not kept. 50,000.
    pub retained_messages: usize,
    /// Bytes of retained messages with their topics. 64 MiB.
    pub retained_bytes: usize,
    /// How long one write to a client may take. 30 s.
    pub write_time: Duration,
}

/// The longest time that a session or a will is kept, whatever is asked for.
const A_YEAR: Duration = Duration::from_secs(366 * 24 * 3600);

impl Limits {
    /// Values that cannot work, brought to the nearest that do: a window of at least one message, times of at most a
    /// year, packets as MQTT can have them.
    pub(crate) fn workable(self) -> Limits {
        Limits {
            packet_bytes: self.packet_bytes.min(256 * 1024 * 1024),
            inflight_in: self.inflight_in.max(1),
            inflight_out: self.inflight_out.max(1),
            session_expiry: self.session_expiry.min(A_YEAR),
            will_delay: self.will_delay.min(A_YEAR),
            ..self
        }
    }

    /// As many connections as a process has descriptors for that may open so many files: past that a client is told
    /// that the server is busy, rather than not served, and the process can still open its own files.
    pub(crate) fn within(self, descriptors: usize) -> Limits {
        // An eighth for everything else, an eighth for each kind of connection before login.
        let eighth = (descriptors / 8).max(1);
        Limits {
            connections: self.connections.min(eighth * 5),
            unauthenticated: self.unauthenticated.min(eighth),
            ..self
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 20_000,
            connections_per_principal: 100,
            unauthenticated_per_address: 256,
            unauthenticated: 4_096,
            handshake_time: Duration::from_secs(10),
            connect_bytes: 64 * 1024,
            large_connects: 256,
            packet_bytes: 300 * 1024,
            client_id_bytes: 256,
            inflight_in: 256,
            inflight_out: 1_000,
            queued_bytes: 1024 * 1024,
            account_bytes: 8 * 1024 * 1024,
            device_queued_bytes: 512 * 1024,
            subscriptions: 200,
            sessions: 2_000,
            sessions_per_principal: 16,
            session_expiry: Duration::from_secs(24 * 3600),
            will_delay: Duration::from_secs(3600),
            device_messages_per_second: 100,
            failures: 10,
            failure_window: Duration::from_secs(60),
            retained_messages: 50_000,
            retained_bytes: 64 * 1024 * 1024,
            write_time: Duration::from_secs(30),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_descriptors_leave_room_for_the_processs_own_files_and_many_change_nothing() {
        let Limits { connections, unauthenticated, .. } = Limits::default().within(1_024);
        assert_eq!((connections, unauthenticated), (640, 128));
        // Each kind of place before login has as many.
        assert!(connections + 2 * unauthenticated <= 1_024 - 128);
        let Limits { connections, unauthenticated, .. } = Limits::default().within(262_144);
        assert_eq!((connections, unauthenticated), (20_000, 4_096));
        assert_eq!(Limits::default().within(0).connections, 5);
    }
}
