//! A person's MQTT client that records what it sees.

use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use rumqttc::{Client, Event, MqttOptions, Packet, QoS};

/// One message.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its topic.
    pub topic: String,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// A subscription that runs until it is dropped.
pub struct Watcher {
    client: Client,
    seen: Receiver<Seen>,
}

impl Watcher {
    /// Connects and subscribes; returns once the broker has granted the subscription.
    pub fn start(port: u16, user: &str, password: &str, filter: &str) -> Self {
        let mut options = MqttOptions::new("watcher", "127.0.0.1", port);
        options.set_credentials(user, password);
        options.set_keep_alive(Duration::from_secs(10));
        options.set_max_packet_size(1 << 20, 1 << 20);
        let (client, mut connection) = Client::new(options, 10);
        client.subscribe(filter, QoS::AtLeastOnce).expect("the first request fits");
        let (send, seen) = sync_channel(100_000);
        let (ready, granted) = sync_channel(1);
        std::thread::spawn(move || {
            // Ends when the client is dropped or the connection is lost.
            for event in connection.iter() {
                match event {
                    Ok(Event::Incoming(Packet::SubAck(ack))) => {
                        let _ = ready.send(
                            ack.return_codes
                                .iter()
                                .all(|c| !matches!(c, rumqttc::SubscribeReasonCode::Failure)),
                        );
                    }
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        let message = Seen { topic: publish.topic, payload: publish.payload.to_vec() };
                        if send.send(message).is_err() {
                            return;
                        }
                    }
                    Ok(_) => {}
                    Err(_) => return,
                }
            }
        });
        let granted = granted.recv_timeout(Duration::from_secs(20)).expect("the broker answers");
        assert!(granted, "the broker refused the subscription to {filter}");
        Self { client, seen }
    }

    /// The next message within `limit`.
    pub fn next(&self, limit: Duration) -> Option<Seen> {
        match self.seen.recv_timeout(limit) {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => panic!("the broker closed the watcher's connection"),
        }
    }

    /// Everything until `enough` says so.
    ///
    /// # Panics
    /// It does not say so within `limit`.
    pub fn until(&self, limit: Duration, mut enough: impl FnMut(&[Seen]) -> bool) -> Vec<Seen> {
        let deadline = Instant::now() + limit;
        let mut all = Vec::new();
        while !enough(&all) {
            let left = deadline.saturating_duration_since(Instant::now());
            all.push(
                self.next(left).unwrap_or_else(|| panic!("only {} messages within {limit:?}", all.len())),
            );
        }
        all
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.client.disconnect();
    }
}
