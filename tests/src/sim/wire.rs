//! The network between one device and the server, with the broker in the middle. Either end may believe in a connection
//! that is gone. What the broker has taken survives the connection that it came on, but not the server.

use std::collections::VecDeque;

use agent::uplink::PacketId;
use protocol::message::{Ack, Birth, Desired, DeviceCommand, Presence};
use protocol::topic::Uplink;

use super::env::Env;

/// From the device.
#[derive(Debug, Clone)]
pub(crate) enum Up {
    Birth(Box<Birth>),
    Presence(Presence),
    Records(Uplink, Vec<u8>),
}

/// To the device.
#[derive(Debug, Clone)]
pub(crate) enum Down {
    /// With the number of restores of the server when it was said.
    Ack(Ack, u32),
    Command(Box<DeviceCommand>),
    Desired(Desired),
}

#[derive(Debug, Default)]
pub(crate) struct Wire {
    /// The device believes that it is connected.
    pub(crate) device_up: bool,
    /// The broker believes so.
    pub(crate) broker_up: bool,
    /// Nothing moves before then.
    pub(crate) stalled_until: i64,
    /// The broker takes packets and does not confirm them before then.
    pub(crate) silent_until: i64,
    to_broker: VecDeque<(Option<PacketId>, Up)>,
    receipts: VecDeque<PacketId>,
    pub(crate) to_server: VecDeque<Up>,
    pub(crate) to_device: VecDeque<Down>,
    /// What the broker says when the connection ends.
    will: Option<Presence>,
}

impl Wire {
    pub(crate) fn connect(&mut self, will: Presence) {
        self.broker_loses();
        self.device_loses();
        self.device_up = true;
        self.broker_up = true;
        self.will = Some(will);
    }

    /// The device's side ends. What it has sent may have been taken by nobody.
    pub(crate) fn device_loses(&mut self) {
        self.device_up = false;
        self.to_broker.clear();
        self.receipts.clear();
    }

    /// The broker's side ends: its will is said, and what was to be handed over is gone.
    pub(crate) fn broker_loses(&mut self) {
        if self.broker_up {
            self.to_server.extend(self.will.take().map(Up::Presence));
        }
        self.broker_up = false;
        self.to_device.clear();
    }

    /// The server, and with it the broker, is gone.
    pub(crate) fn server_died(&mut self) {
        self.broker_up = false;
        self.will = None;
        self.to_server.clear();
        self.to_device.clear();
        self.receipts.clear();
    }

    /// What comes after a pause in which nothing could be under way.
    pub(crate) fn forget_everything(&mut self) {
        self.broker_loses();
        self.device_loses();
        self.to_server.clear();
    }

    pub(crate) fn send(&mut self, id: Option<PacketId>, packet: Up) {
        if self.device_up {
            self.to_broker.push_back((id, packet));
        }
    }

    pub(crate) fn flows(&self, now_ms: i64) -> bool {
        self.device_up && self.broker_up && now_ms >= self.stalled_until
    }

    /// The broker takes what was sent, some of it.
    pub(crate) fn broker_takes(&mut self, env: &mut Env) {
        if !self.flows(env.now_ms) {
            return;
        }
        let mut left = 1 + env.rng.below(4);
        while left > 0 {
            left -= 1;
            let Some((id, packet)) = self.to_broker.pop_front() else { return };
            self.receipts.extend(id);
            self.to_server.push_back(packet);
        }
    }

    /// The broker's word that it has a packet, if one comes.
    pub(crate) fn receipt(&mut self, env: &mut Env) -> Option<PacketId> {
        if !self.flows(env.now_ms) || env.now_ms < self.silent_until {
            return None;
        }
        let at = match env.mishap(env.mix.overtake_permille) {
            true => env.rng.place(self.receipts.len()),
            false => 0,
        };
        self.receipts.remove(at)
    }

    /// The next packet that the server takes from the broker's queue.
    pub(crate) fn next_up(&mut self, env: &mut Env) -> Option<Up> {
        next(&mut self.to_server, env)
    }

    /// The next packet that reaches the device.
    pub(crate) fn next_down(&mut self, env: &mut Env) -> Option<Down> {
        if !self.flows(env.now_ms) {
            return None;
        }
        next(&mut self.to_device, env)
    }
}

/// Takes one out of a queue: the first or another, lost or left in it to come again.
fn next<T: Clone>(queue: &mut VecDeque<T>, env: &mut Env) -> Option<T> {
    if queue.is_empty() {
        return None;
    }
    let mut at = 0;
    if queue.len() > 1 && env.mishap(env.mix.overtake_permille) {
        env.count("packet overtaken");
        at = env.rng.place(queue.len());
    }
    if env.mishap(env.mix.repeat_permille) {
        env.count("packet repeated");
        return queue.get(at).cloned();
    }
    let packet = queue.remove(at);
    if env.mishap(env.mix.loss_permille) {
        env.count("packet lost");
        return None;
    }
    packet
}
