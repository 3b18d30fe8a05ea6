//! Devices whose network lets neither MQTT nor WebSockets through: they say what they have to say in HTTP requests and are told
//! with the answers what there is for them, after waiting for it if they like.
//!
//! A birth makes a connection at the broker, and everything takes the way that it takes over MQTT: the same rules, the same
//! lanes, the same end. Nothing is kept for a device that its queue there does not hold. What goes down with a lost answer is
//! said again by the rules that hold for a lost packet.

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use broker::{Broker, DeviceLink, DeviceLinkError, DeviceLogin, DevicePlace, Kick};
use protocol::{
    codec::{self, Bytes, limit},
    id::StateId,
    message::{Birth, Exchange, ExchangeMessage, Presence},
    topic::{Topic, Uplink, exchange_suffix},
};
use tokio::{
    sync::{Notify, watch},
    time::Instant as Moment,
};

use super::{Error, ingest::DeviceName};

/// A device that has asked for nothing for so long is gone. A poll takes up to a minute, and its network may be slow.
const SILENCE: Duration = Duration::from_secs(90);
/// An answer holds so many bytes, and one message more.
const ANSWER_BYTES: usize = limit::EXCHANGE_BYTES
    - limit::LARGEST_BYTES
    - limit::EXCHANGE_MESSAGES * limit::EXCHANGE_MESSAGE_OVERHEAD_BYTES;

/// One request of a device.
#[derive(Debug)]
pub struct Asked {
    /// The device, which has shown its token or certificate.
    pub name: DeviceName,
    /// The certificate's serial number, if it was that.
    pub certificate: Option<String>,
    /// Where it is.
    pub peer: SocketAddr,
    /// Before that was looked at.
    pub at: Instant,
    /// What it says.
    pub messages: Exchange,
    /// How long it waits if there is nothing for it.
    pub wait: Duration,
    /// The number of the connection that it means, if it says so.
    pub connection: Option<u64>,
}

/// Why a connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The broker ended it.
    Kicked(Kick),
    /// The device asked for nothing any more.
    Silent,
    /// The device said goodbye.
    Left,
}

/// The devices that are connected in this way. Cheap to clone.
#[derive(Clone, Default)]
pub struct Exchanges {
    live: Arc<Mutex<HashMap<DeviceName, Arc<Live>>>>,
}

/// One connection.
struct Live {
    /// Of its birth.
    id: (StateId, u64),
    link: DeviceLink,
    heard: Mutex<Moment>,
    /// The number of the newest request that waits.
    newest: watch::Sender<u64>,
    goodbye: Notify,
    ended: watch::Sender<Option<End>>,
}

impl std::fmt::Debug for Exchanges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Exchanges({} devices)", lock(&self.live).len())
    }
}

impl Exchanges {
    /// Takes what a device says, and gives what there is for it. Waits for that until `gone` resolves, its time is up, or a
    /// newer request of the device waits.
    ///
    /// # Errors
    /// [`Error::Conflict`]: there is no such connection, and the device has to begin one with a birth. [`Error::Unauthorized`]:
    /// its token has died meanwhile. [`Error::Unavailable`]: the broker is away, stops, or is full.
    pub async fn exchange(
        &self,
        broker: Option<&Broker>,
        asked: Asked,
        gone: impl Future<Output = ()>,
    ) -> Result<Exchange, Error> {
        // Another connection's is as good as none: an earlier one of the same device may still be there.
        let is_meant = |live: &Arc<Live>| asked.connection.is_none_or(|number| number == live.id.1);
        let mut live = lock(&self.live).get(&asked.name).cloned().filter(is_meant);
        if asked.messages.0.is_empty() && asked.wait.is_zero() && live.is_none() {
            // It wants to know whether the way is free.
            return Ok(Exchange::default());
        }
        for message in &asked.messages.0 {
            if message.0 == Uplink::Birth.as_str() {
                live = self.birth(broker, &asked, &message.1.0, live).await?;
            }
            let live = live.as_deref().ok_or_else(no_connection)?;
            *lock(&live.heard) = Moment::now();
            live.say(message).await?;
        }
        let live = live.ok_or_else(no_connection)?;
        *lock(&live.heard) = Moment::now();
        live.hear(asked.wait, gone).await
    }

    /// A birth begins a connection, unless it is said once more on the one that it has begun.
    async fn birth(
        &self,
        broker: Option<&Broker>,
        asked: &Asked,
        payload: &[u8],
        live: Option<Arc<Live>>,
    ) -> Result<Option<Arc<Live>>, Error> {
        let Ok(birth) = codec::decode::<Birth>(payload, limit::COMMAND_BYTES) else {
            // With a connection it is counted as over MQTT; without, nothing can begin.
            return live.map(Some).ok_or_else(no_connection);
        };
        let id = (birth.state_id, birth.connection);
        if live.as_ref().is_some_and(|live| live.id == id && live.ended.borrow().is_none()) {
            return Ok(live);
        }
        let broker = broker.ok_or(Error::Unavailable("the broker does not run yet; try again"))?;
        let will = Presence { state_id: id.0, connection: id.1, online: false };
        let (org, device) = asked.name.clone();
        let login = DeviceLogin {
            org,
            device,
            credential: asked.certificate.clone(),
            peer: asked.peer,
            asked_at: asked.at,
            will: codec::encode_named(&will).map_err(Error::internal)?,
        };
        let (link, place) = broker.device_link(login).await.map_err(|error| match error {
            DeviceLinkError::Replaced => no_connection(),
            DeviceLinkError::Full => Error::Unavailable("too many connections; try again"),
            DeviceLinkError::Stopping => stopping(),
        })?;
        let live = Arc::new(Live {
            id,
            link,
            heard: Mutex::new(Moment::now()),
            newest: watch::Sender::new(0),
            goodbye: Notify::new(),
            ended: watch::Sender::new(None),
        });
        // The one before has left: its place at the broker was given back after it went from this table.
        lock(&self.live).insert(asked.name.clone(), live.clone());
        tokio::spawn(keep(self.clone(), asked.name.clone(), live.clone(), place));
        Ok(Some(live))
    }
}

/// Holds a connection's place until its end.
async fn keep(exchanges: Exchanges, name: DeviceName, live: Arc<Live>, mut place: DevicePlace) {
    let end = loop {
        let silent_at = *lock(&live.heard) + SILENCE;
        tokio::select! {
            kick = place.ended() => break End::Kicked(kick),
            () = live.goodbye.notified() => break End::Left,
            () = tokio::time::sleep_until(silent_at) => {
                if lock(&live.heard).elapsed() >= SILENCE {
                    break End::Silent;
                }
            }
        }
    };
    {
        let mut table = lock(&exchanges.live);
        if table.get(&name).is_some_and(|listed| Arc::ptr_eq(listed, &live)) {
            table.remove(&name);
        }
    }
    live.ended.send_replace(Some(end));
    // A server that stops knows nothing about its devices: they are there, and will be back.
    place.leave(!matches!(end, End::Left | End::Kicked(Kick::ShuttingDown))).await;
}

impl Live {
    async fn say(&self, ExchangeMessage(suffix, Bytes(payload)): &ExchangeMessage) -> Result<(), Error> {
        self.is_open()?;
        if !self.link.publish(suffix, payload).await.map_err(|_| stopping())? {
            return Err(Error::Forbidden(format!("a device may not publish on {:?}", shortened(suffix))));
        }
        let is_goodbye = suffix == Uplink::Presence.as_str()
            && codec::decode::<Presence>(payload, limit::COMMAND_BYTES)
                .is_ok_and(|said| !said.online && (said.state_id, said.connection) == self.id);
        if is_goodbye {
            self.goodbye.notify_one();
        }
        Ok(())
    }

    async fn hear(&self, wait: Duration, gone: impl Future<Output = ()>) -> Result<Exchange, Error> {
        let until = Moment::now() + wait;
        let mut number = None;
        if !wait.is_zero() {
            // Read where it is made: of two requests that come at once only one is the newest.
            self.newest.send_modify(|newest| {
                *newest += 1;
                number = Some(*newest);
            });
        }
        let (mut newest, mut ended) = (self.newest.subscribe(), self.ended.subscribe());
        let is_older = |newest: u64| number.is_some_and(|number| number != newest);
        let mut gone = std::pin::pin!(gone);
        loop {
            if is_older(*self.newest.borrow()) {
                return Ok(Exchange::default());
            }
            let told = self.link.take(limit::EXCHANGE_MESSAGES, ANSWER_BYTES);
            if !told.is_empty() {
                return Ok(Exchange(told.into_iter().filter_map(message).collect()));
            }
            self.is_open()?;
            if number.is_none() || self.ended.borrow().is_some() {
                return Ok(Exchange::default());
            }
            tokio::select! {
                biased;
                // The next round says what to do.
                _ = ended.wait_for(Option::is_some) => {}
                _ = newest.wait_for(|newest| is_older(*newest)) => {}
                () = &mut gone => return Ok(Exchange::default()),
                () = self.link.something() => {}
                () = tokio::time::sleep_until(until) => return Ok(Exchange::default()),
            }
        }
    }

    fn is_open(&self) -> Result<(), Error> {
        match *self.ended.borrow() {
            None | Some(End::Left) => Ok(()),
            Some(End::Kicked(Kick::Revoked)) => Err(Error::Unauthorized(
                "this device's token was changed, or the device was taken out of service",
            )),
            Some(End::Kicked(Kick::ShuttingDown)) => Err(stopping()),
            Some(End::Kicked(Kick::TakenOver | Kick::QueueFull) | End::Silent) => Err(no_connection()),
        }
    }
}

fn message(told: broker::Told) -> Option<ExchangeMessage> {
    let topic = told.topic.parse::<Topic>().ok()?;
    Some(ExchangeMessage(exchange_suffix(&topic)?, Bytes(told.payload.into())))
}

fn no_connection() -> Error {
    Error::Conflict("the device is not connected in this way: begin with a birth".to_owned())
}

fn stopping() -> Error {
    Error::Unavailable("the server stops; try again")
}

/// What a stranger sent may be long.
fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

/// What is behind the locks is whole at every moment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
