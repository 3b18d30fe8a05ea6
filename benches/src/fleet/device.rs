//! A device over MQTT 3.1.1 that does nothing but what is measured: no disk, no timers, packets written by hand.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use protocol::{
    codec::{self, limit},
    id::StateId,
    message::{Ack, Birth},
    topic::Uplink,
};
use serde_json::Value;

use super::Device;
use super::Result;

const ORG: &str = "default";

/// A packet from the server.
pub(crate) enum Packet {
    /// On one of the device's topics: the last level, and the payload.
    Publish(String, Vec<u8>),
    /// Anything else.
    Other,
}

/// A connected device that has given birth.
pub(crate) struct Client {
    stream: TcpStream,
    read: Vec<u8>,
    device: String,
    packet_id: u16,
    seq: u64,
}

impl Client {
    /// Connects, subscribes, gives birth and waits for the acknowledgement.
    pub(crate) fn connect(address: SocketAddr, device: &Device) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut client = Self { stream, read: Vec::new(), device: device.id.clone(), packet_id: 0, seq: 0 };
        let name = format!("{ORG}/{}", device.id);
        let mut body = Vec::new();
        text(&mut body, "MQTT");
        // Version 4; user name, password, clean session; no keep-alive.
        body.extend([4, 0xc2, 0, 0]);
        for part in [&name, &name, &device.token] {
            text(&mut body, part);
        }
        client.write(0x10, &body)?;
        client.wait_for(2)?;
        let mut body = client.next_id().to_be_bytes().to_vec();
        for last in ["command", "desired", "ack"] {
            text(&mut body, &format!("fleet/v1/{ORG}/device/{}/{last}", device.id));
            body.push(1);
        }
        client.write(0x82, &body)?;
        client.wait_for(9)?;
        let birth = Birth {
            state_id: STATE,
            connection: 1,
            next_seq: 1,
            boot_id: "2d7c4a0e-7d0c-4f4a-9c43-1f1ad0b5b5a1".to_owned(),
            agent_version: "0.1.0".to_owned(),
            app_version: Some("1.2.3".to_owned()),
            arch: "aarch64".to_owned(),
            inputs: ["cam1", "cam2", "cam3", "cam4"].map(str::to_owned).to_vec(),
            command_types: ["reboot", "restart_service", "config", "custom", "rotate_token", "ping"]
                .map(str::to_owned)
                .to_vec(),
            interval_seconds: 60,
            transport: "mqtt".to_owned(),
            ts: super::numbers::now_ms(),
            since_boot_ms: 3_600_000,
            app_unit: None,
        };
        client.publish(Uplink::Birth, &codec::encode_packed(&birth)?)?;
        client.ack()?;
        Ok(client)
    }

    /// The number of the next record.
    pub(crate) fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    /// Publishes with QoS 1.
    pub(crate) fn publish(&mut self, uplink: Uplink, payload: &[u8]) -> Result<()> {
        let mut body = Vec::with_capacity(payload.len() + 80);
        text(&mut body, &format!("fleet/v1/{ORG}/device/{}/{}", self.device, uplink.as_str()));
        body.extend(self.next_id().to_be_bytes());
        body.extend_from_slice(payload);
        self.write(0x32, &body)
    }

    /// The next packet.
    pub(crate) fn packet(&mut self) -> Result<Packet> {
        loop {
            if let Some(packet) = self.take()? {
                return Ok(packet);
            }
            let mut part = [0; 65_536];
            let count = self.stream.read(&mut part)?;
            if count == 0 {
                return Err(format!("the broker has closed the connection of {}", self.device).into());
            }
            self.read.extend_from_slice(part.get(..count).unwrap_or_default());
        }
    }

    /// The highest number that the next acknowledgement says is committed; other packets are dropped.
    pub(crate) fn ack(&mut self) -> Result<u64> {
        loop {
            if let Packet::Publish(last, payload) = self.packet()?
                && last == "ack"
            {
                return committed(&payload);
            }
        }
    }

    /// Waits until everything up to `seq` is committed.
    pub(crate) fn committed_to(&mut self, seq: u64) -> Result<()> {
        while self.ack()? < seq {}
        Ok(())
    }

    /// Throws away what has arrived, without waiting; how many acknowledgements were among it.
    pub(crate) fn drain(&mut self) -> Result<usize> {
        self.stream.set_nonblocking(true)?;
        let mut part = [0; 16_384];
        let outcome = loop {
            match self.stream.read(&mut part) {
                Ok(0) => break Err(format!("the broker has closed the connection of {}", self.device).into()),
                Ok(count) => self.read.extend_from_slice(part.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break Ok(()),
                Err(error) => break Err(error.into()),
            }
        };
        self.stream.set_nonblocking(false)?;
        outcome.and_then(|()| {
            let mut acks = 0;
            while let Some(packet) = self.take()? {
                acks += usize::from(matches!(packet, Packet::Publish(last, _) if last == "ack"));
            }
            Ok(acks)
        })
    }

    fn wait_for(&mut self, kind: u8) -> Result<()> {
        loop {
            if let Some((first, body)) = self.take_raw()? {
                let refused = body.last().is_some_and(|code| *code > 2);
                if first >> 4 != kind || refused {
                    return Err(
                        format!("{}: packet {first:#x} {body:?} in place of {kind}", self.device).into()
                    );
                }
                return Ok(());
            }
            let mut part = [0; 256];
            let count = self.stream.read(&mut part)?;
            if count == 0 {
                return Err(format!("{} is not let in", self.device).into());
            }
            self.read.extend_from_slice(part.get(..count).unwrap_or_default());
        }
    }

    fn take(&mut self) -> Result<Option<Packet>> {
        let Some((first, body)) = self.take_raw()? else { return Ok(None) };
        if first >> 4 != 3 {
            return Ok(Some(Packet::Other));
        }
        let length = body.get(..2).map_or(0, |two| usize::from(two[0]) << 8 | usize::from(two[1]));
        let topic = String::from_utf8_lossy(body.get(2..2 + length).unwrap_or_default()).into_owned();
        let mut rest = 2 + length;
        if first & 0x06 != 0 {
            let id = body.get(rest..rest + 2).ok_or("a publish without a number")?.to_vec();
            rest += 2;
            self.write(0x40, &id)?;
        }
        let last = topic.rsplit('/').next().unwrap_or_default().to_owned();
        Ok(Some(Packet::Publish(last, body.get(rest..).unwrap_or_default().to_vec())))
    }

    fn take_raw(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        let (mut length, mut at) = (0_usize, 1);
        loop {
            let Some(byte) = self.read.get(at) else { return Ok(None) };
            length |= usize::from(byte & 0x7f) << (7 * (at - 1));
            at += 1;
            if byte & 0x80 == 0 {
                break;
            }
            if at > 4 {
                return Err("a length of more than four bytes".into());
            }
        }
        if self.read.len() < at + length {
            return Ok(None);
        }
        let first = self.read[0];
        let body = self.read[at..at + length].to_vec();
        self.read.drain(..at + length);
        Ok(Some((first, body)))
    }

    fn write(&mut self, first: u8, body: &[u8]) -> Result<()> {
        let mut packet = Vec::with_capacity(body.len() + 5);
        packet.push(first);
        let mut left = body.len();
        loop {
            // Seven bits at a time.
            let low = u8::try_from(left & 0x7f)?;
            left >>= 7;
            packet.push(if left > 0 { low | 0x80 } else { low });
            if left == 0 {
                break;
            }
        }
        packet.extend_from_slice(body);
        Ok(self.stream.write_all(&packet)?)
    }

    fn next_id(&mut self) -> u16 {
        self.packet_id = self.packet_id % u16::MAX + 1;
        self.packet_id
    }
}

/// Every device's state database; it is unique within a device only.
pub(crate) const STATE: StateId = StateId([7; 8]);

/// The highest committed number in an acknowledgement.
fn committed(payload: &[u8]) -> Result<u64> {
    Ok(codec::decode::<Ack>(payload, limit::LARGEST_BYTES)?.ranges.max().unwrap_or(0))
}

fn text(out: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    out.extend(length.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// The command's id, if the payload of a `command` topic carries one to run.
pub(crate) fn command_id(payload: &[u8]) -> Result<Option<String>> {
    let message: protocol::message::DeviceCommand = codec::decode(payload, limit::COMMAND_BYTES)?;
    let json: Value = serde_json::to_value(message.command)?;
    Ok(json["id"].as_str().map(str::to_owned))
}
