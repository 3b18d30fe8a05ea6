//! rumqttd's router behind an interface that cannot hurt it.
//!
//! The router is one thread that panics, and takes the broker with it, on input that a careless or hostile client can
//! produce. This module is the only one that talks to it, and keeps to what is safe (facts are of version 0.20.0):
//!
//! - Its topics, filters and client ids are made by [`channel`](crate::channel) and by numbering, never from what a
//!   client sent: a topic that begins with a non-ASCII character panics it.
//! - Everything goes in and comes out with QoS 0, without properties and without retain. Acknowledgements, retained
//!   messages, wills and `$share` have a flaw each.
//! - A link never leaves: [`Router::recycle`] unsubscribes it, waits until it is quiet and keeps it for the next client.
//!   An event for a link that has gone panics the router, ids of links that left are never freed, and a stale id in its
//!   ready queue can stall the others.
//! - Links that subscribe never publish: an unsubscribe in one batch with a publish leaves a subscription behind. One link
//!   publishes for everybody: so messages are in the logs in the order in which they were handed over.
//! - A log forgets its oldest messages when it is full: [`logs`](crate::logs) sees to it that nobody still wants them.
//! - `Ready` is sent exactly once for each `Unschedule`.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use rumqttd::local::{LinkBuilder, LinkRx, LinkTx};
use rumqttd::protocol::{Filter, Packet, PingReq, Publish, QoS, RetainForwardRule, Subscribe, Unsubscribe};
use rumqttd::{Notification, RouterConfig, SegmentConfig};
use tokio::sync::{Notify, watch};

use crate::channel::SMALL_LOGS;
use crate::limits::Limits;
use crate::logs::{SEGMENTS, SERVICE_SEGMENT_BYTES, SMALL_SEGMENT_BYTES};
use crate::message::Message;

/// Room for so many messages on their way to the router is kept when there are none.
const KEEP_WAITING: usize = 1_024;
/// How long the router may leave a question unanswered before it counts as gone.
const ROUTER_PATIENCE: Duration = Duration::from_secs(20);

/// The router thread has ended or no longer answers. The process must be started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the MQTT router has stopped")]
pub(crate) struct RouterGone;

/// Why there is no link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkRefused {
    Gone,
    /// As many links as sessions are allowed.
    Full,
}

type MakeLink = dyn Fn(&str) -> Result<(LinkTx, LinkRx, Notification), RouterGone> + Send + Sync;

/// The running router.
pub(crate) struct Router {
    make: Box<MakeLink>,
    uplink: Arc<Uplink>,
    idle: Mutex<Vec<(Arc<LinkSender>, LinkReceiver)>>,
    made: AtomicU64,
    max_links: u64,
    alive: watch::Sender<bool>,
}

impl Router {
    /// Starts the router thread and a task that watches it. Must be called within a tokio runtime.
    pub(crate) fn start(limits: &Limits) -> Result<Arc<Router>, RouterGone> {
        let max_links = limits.sessions as u64 + 64;
        let small = SegmentConfig { max_segment_size: SMALL_SEGMENT_BYTES, max_segment_count: SEGMENTS };
        let config = RouterConfig {
            // Sessions, parts of the server, the uplink and the watch.
            max_connections: limits.sessions + 64 + 2,
            max_outgoing_packet_count: 100,
            max_segment_size: SERVICE_SEGMENT_BYTES,
            max_segment_count: SEGMENTS,
            custom_segment: Some(SMALL_LOGS.map(|filter| (filter.to_owned(), small.clone())).into()),
            ..RouterConfig::default()
        };
        let events = rumqttd::Router::new(0, config).spawn();
        // The type of the router's events has no public name; a closure hides it.
        let make: Box<MakeLink> =
            Box::new(move |id| LinkBuilder::new(id, events.clone()).build().map_err(|_| RouterGone));
        let uplink = Arc::new(Uplink::new(build(&make, "uplink")?.0));
        let (sender, receiver) = build(&make, "watch")?;
        let (alive, _) = watch::channel(true);
        let router = Arc::new(Router {
            make,
            uplink: uplink.clone(),
            idle: Mutex::default(),
            made: AtomicU64::new(0),
            max_links,
            alive,
        });
        tokio::spawn(async move { uplink.carry().await });
        tokio::spawn(watch_router(Arc::downgrade(&router), sender, receiver));
        Ok(router)
    }

    /// A link for one session: a used one, or a new one.
    pub(crate) async fn link(self: &Arc<Self>) -> Result<(Arc<LinkSender>, LinkReceiver), LinkRefused> {
        let router = self.clone();
        tokio::task::spawn_blocking(move || router.link_now()).await.unwrap_or(Err(LinkRefused::Gone))
    }

    /// As [`Router::link`]; blocks until the router has answered.
    pub(crate) fn link_now(&self) -> Result<(Arc<LinkSender>, LinkReceiver), LinkRefused> {
        if let Some(link) = lock(&self.idle).pop() {
            return Ok(link);
        }
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        if number >= self.max_links {
            self.made.fetch_sub(1, Ordering::Relaxed);
            return Err(LinkRefused::Full);
        }
        let (sender, receiver) =
            build(&self.make, &format!("link-{number}")).map_err(|RouterGone| LinkRefused::Gone)?;
        Ok((Arc::new(sender), receiver))
    }

    /// Takes a session's link back: unsubscribes it and drops what is still on its way.
    pub(crate) async fn recycle(
        &self,
        sender: Arc<LinkSender>,
        mut receiver: LinkReceiver,
        filters: Vec<String>,
    ) {
        let quiet = async {
            sender.unsubscribe(filters)?;
            sender.ping()?;
            // Pings of before may be unanswered yet; the last answer comes after everything else.
            while receiver.pings.load(Ordering::Acquire) > 0 {
                receiver.next().await?;
            }
            Ok::<(), RouterGone>(())
        };
        if quiet.await.is_ok() {
            lock(&self.idle).push((sender, receiver));
        }
    }

    /// Takes messages, each with its channel, to hand them to the router in a moment, and leaves none.
    pub(crate) fn publish(&self, messages: &mut Vec<(Bytes, Message)>) -> Result<(), RouterGone> {
        self.uplink.publish(messages)
    }

    /// Hands to the router what was published so far: before a subscription that is not to get it.
    pub(crate) fn hand_over(&self) -> Result<(), RouterGone> {
        self.uplink.hand_over()
    }

    pub(crate) fn is_alive(&self) -> bool {
        *self.alive.borrow()
    }

    /// Resolves when the router thread is gone.
    pub(crate) async fn gone(&self) {
        // The sender lives in `self`, so waiting ends only with the value.
        let _ = self.alive.subscribe().wait_for(|alive| !alive).await;
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.uplink.close();
    }
}

/// The link that publishes for everybody.
///
/// To wake the router's thread costs more than a message does. So what is published waits until the tasks that are ready
/// now have run, and what they publish goes along: many messages for each time under load, one where there is none.
struct Uplink {
    sender: LinkSender,
    waiting: Mutex<Vec<(Bytes, Message)>>,
    /// Something waits, or it is over.
    comes: Notify,
    is_closed: AtomicBool,
}

impl Uplink {
    fn new(sender: LinkSender) -> Uplink {
        Uplink { sender, waiting: Mutex::default(), comes: Notify::new(), is_closed: AtomicBool::new(false) }
    }

    fn publish(&self, messages: &mut Vec<(Bytes, Message)>) -> Result<(), RouterGone> {
        if messages.is_empty() {
            return Ok(());
        }
        if self.is_closed.load(Ordering::Acquire) {
            return Err(RouterGone);
        }
        let mut waiting = lock(&self.waiting);
        let is_first = waiting.is_empty();
        waiting.append(messages);
        drop(waiting);
        if is_first {
            self.comes.notify_one();
        }
        Ok(())
    }

    fn hand_over(&self) -> Result<(), RouterGone> {
        // Held while the messages are on their way, so that no later ones overtake them.
        let mut tx = lock(&self.sender.tx);
        let mut waiting = std::mem::take(&mut *lock(&self.waiting));
        let Some((channel, message)) = waiting.pop() else { return Ok(()) };
        let before = waiting.drain(..).map(|(channel, message)| packet(channel, &message));
        let pushed = push_all(&mut tx, before, packet(channel, &message));
        let mut next = lock(&self.waiting);
        if next.capacity() == 0 && waiting.capacity() <= KEEP_WAITING {
            *next = waiting;
        }
        pushed
    }

    /// Hands over what comes, until the end.
    async fn carry(&self) {
        while !self.is_closed.load(Ordering::Acquire) {
            self.comes.notified().await;
            tokio::task::yield_now().await;
            if self.hand_over().is_err() {
                self.close();
            }
        }
    }

    fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.comes.notify_one();
    }
}

fn build(make: &MakeLink, id: &str) -> Result<(LinkSender, LinkReceiver), RouterGone> {
    let (tx, rx, _) = make(id)?;
    // Room for 200 packets of 400 bytes is set aside for each link; it grows again where it is needed.
    tx.buffer().shrink_to(4);
    let pings = Arc::new(AtomicUsize::new(0));
    Ok((LinkSender { tx: Mutex::new(tx), pings: pings.clone() }, LinkReceiver { rx, pings }))
}

/// Asks the router every second whether it is there. The question also sets a stalled ready queue going again.
async fn watch_router(router: std::sync::Weak<Router>, sender: LinkSender, mut receiver: LinkReceiver) {
    loop {
        let answered = async {
            sender.ping()?;
            while receiver.pings.load(Ordering::Acquire) > 0 {
                receiver.next().await?;
            }
            Ok::<(), RouterGone>(())
        };
        let alive = matches!(tokio::time::timeout(ROUTER_PATIENCE, answered).await, Ok(Ok(())));
        let Some(router) = router.upgrade() else { return };
        if !alive {
            tracing::error!("the MQTT router thread has stopped; the process has to be started again");
            router.alive.send_replace(false);
            return;
        }
        drop(router);
        // The receiver ends at once when the thread does; nothing else arrives here.
        if let Ok(Err(RouterGone)) = tokio::time::timeout(Duration::from_secs(1), receiver.next()).await {
            continue;
        }
    }
}

/// The sending half of a link.
pub(crate) struct LinkSender {
    tx: Mutex<LinkTx>,
    pings: Arc<AtomicUsize>,
}

impl LinkSender {
    fn push(&self, packet: Packet) -> Result<(), RouterGone> {
        push_all(&mut lock(&self.tx), std::iter::empty(), packet)
    }

    /// Subscribes; the answer is [`FromRouter::Subscribed`] with the same token.
    pub(crate) fn subscribe(&self, token: u16, filters: Vec<String>) -> Result<(), RouterGone> {
        let filters = filters
            .into_iter()
            .map(|path| Filter {
                path,
                qos: QoS::AtMostOnce,
                nolocal: false,
                preserve_retain: false,
                retain_forward_rule: RetainForwardRule::Never,
            })
            .collect();
        self.push(Packet::Subscribe(Subscribe { pkid: token, filters }, None))
    }

    pub(crate) fn unsubscribe(&self, filters: Vec<String>) -> Result<(), RouterGone> {
        if filters.is_empty() {
            return Ok(());
        }
        self.push(Packet::Unsubscribe(Unsubscribe { pkid: 0, filters }, None))
    }

    /// Asks for [`FromRouter::Other`], which wakes the receiver after everything that came before.
    pub(crate) fn ping(&self) -> Result<(), RouterGone> {
        self.pings.fetch_add(1, Ordering::AcqRel);
        self.push(Packet::PingReq(PingReq))
    }
}

/// Hands packets over. The router takes all waiting packets at one event, so an event is sent only with the first.
fn push_all(tx: &mut LinkTx, before: impl Iterator<Item = Packet>, last: Packet) -> Result<(), RouterGone> {
    {
        let mut waiting = tx.buffer();
        let is_first = waiting.is_empty();
        waiting.extend(before);
        if !is_first {
            waiting.push_back(last);
            return Ok(());
        }
    }
    // `send` is async in name only: it has nothing to wait for but room in a channel, for which it blocks.
    match tx.send(last).now_or_never() {
        Some(Ok(_)) => Ok(()),
        _ => Err(RouterGone),
    }
}

fn packet(channel: Bytes, message: &Message) -> Packet {
    Packet::Publish(Publish::new(channel, message.bytes().clone(), false), None)
}

/// What the router has for a link.
#[derive(Debug)]
pub(crate) enum FromRouter {
    /// A message, with the channel it came on and its place in that channel's log.
    Message { channel: Bytes, offset: Option<u64>, bytes: Bytes },
    /// The subscription with this token stands.
    Subscribed(u16),
    /// Something that only wakes.
    Other,
}

/// The receiving half of a link.
pub(crate) struct LinkReceiver {
    rx: LinkRx,
    pings: Arc<AtomicUsize>,
}

impl LinkReceiver {
    /// The next thing. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Result<FromRouter, RouterGone> {
        loop {
            let notification = self.rx.next().await.map_err(|_| RouterGone)?;
            if let Some(event) = self.event(notification)? {
                return Ok(event);
            }
        }
    }

    /// As [`LinkReceiver::next`], if there is something already.
    pub(crate) fn next_if_there(&mut self) -> Option<Result<FromRouter, RouterGone>> {
        self.next().now_or_never()
    }

    /// As [`LinkReceiver::next`], blocking.
    pub(crate) fn next_now(&mut self) -> Result<FromRouter, RouterGone> {
        loop {
            let notification = self.rx.recv().map_err(|_| RouterGone)?;
            if let Some(event) = self.event(notification)? {
                return Ok(event);
            }
        }
    }

    fn event(&self, notification: Option<Notification>) -> Result<Option<FromRouter>, RouterGone> {
        let Some(notification) = notification else { return Ok(None) };
        Ok(Some(match notification {
            Notification::Forward(forward) => FromRouter::Message {
                channel: forward.publish.topic,
                offset: forward.cursor.map(|(_, offset)| offset),
                bytes: forward.publish.payload,
            },
            Notification::Unschedule => {
                self.rx.ready().map_err(|_| RouterGone)?;
                return Ok(None);
            }
            Notification::Disconnect(..) => return Err(RouterGone),
            notification => match Option::<Packet>::from(notification) {
                Some(Packet::SubAck(suback, _)) => FromRouter::Subscribed(suback.pkid),
                Some(Packet::PingResp(_)) => {
                    self.pings.fetch_sub(1, Ordering::AcqRel);
                    FromRouter::Other
                }
                _ => FromRouter::Other,
            },
        }))
    }
}

/// A lock whose data is sound even if another thread panicked while it held it: every change is a single step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
