//! What all connections share, and the one way by which a message gets in.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use protocol::id::{OrgSlug, UserName};
use protocol::topic::Topic;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use crate::counters::Counters;
use crate::descriptors;
use crate::failures::Failures;
use crate::limits::Limits;
use crate::log_pace::LogPace;
use crate::logs::{Logs, Places, Room, Route};
use crate::message::{Draft, Message};
use crate::places::{self, Number};
use crate::principal::{Authenticator, PrincipalKey};
use crate::registry::{Kick, Registry, Will};
use crate::retained::{Retained, Stored};
use crate::router::{Router, RouterGone, lock};
use crate::session::state::Offer;

/// The most connections at a time that have been told why they end and may still read it.
const GOODBYES: usize = 256;

/// How long the will of a connection that ends waits for room, before it goes without.
const WILL_TIME: Duration = Duration::from_secs(1);

/// The shared state of the gate.
pub(crate) struct Gate {
    pub(crate) limits: Limits,
    pub(crate) auth: Arc<dyn Authenticator>,
    pub(crate) router: Arc<Router>,
    pub(crate) logs: Logs,
    pub(crate) registry: Registry,
    pub(crate) retained: Mutex<Retained>,
    pub(crate) failures: Mutex<Failures>,
    pub(crate) counters: Counters,
    pub(crate) stopping: watch::Sender<bool>,
    /// Hears of people whose requests were refused since they were retained.
    pub(crate) refused_retains: Mutex<Option<mpsc::Sender<(OrgSlug, UserName)>>>,
    unauthenticated: Mutex<places::Places<oneshot::Sender<()>>>,
    /// Permits for CONNECTs that are large.
    large_connects: Arc<Semaphore>,
    /// Permits for connections that have been told why they end and may still read it.
    pub(crate) goodbyes: Semaphore,
    refusals: Mutex<LogPace>,
    conflicts: Mutex<LogPace>,
    numbers: AtomicU64,
    started: Instant,
}

impl Gate {
    pub(crate) fn start(limits: Limits, auth: Arc<dyn Authenticator>) -> Result<Arc<Gate>, RouterGone> {
        let mut limits = limits.workable();
        if let Some(descriptors) = descriptors::limit() {
            let wanted = limits.connections;
            limits = limits.within(descriptors);
            if limits.connections < wanted {
                let connections = limits.connections;
                tracing::info!(
                    descriptors,
                    connections,
                    "fewer connections, as there are descriptors for no more"
                );
            }
        }
        let router = Router::start(&limits)?;
        let gate = Arc::new(Gate {
            auth,
            router,
            logs: Logs::new(),
            registry: Registry::default(),
            retained: Mutex::new(Retained::new(limits.retained_messages, limits.retained_bytes)),
            failures: Mutex::new(Failures::new(limits.failures, limits.failure_window)),
            counters: Counters::default(),
            stopping: watch::channel(false).0,
            refused_retains: Mutex::default(),
            large_connects: Arc::new(Semaphore::new(limits.large_connects)),
            goodbyes: Semaphore::new(limits.unauthenticated.min(GOODBYES)),
            refusals: Mutex::new(LogPace::new(Instant::now())),
            conflicts: Mutex::new(LogPace::new(Instant::now())),
            unauthenticated: Mutex::new(places::Places::new(
                limits.unauthenticated_per_address,
                limits.unauthenticated,
            )),
            numbers: AtomicU64::new(1),
            started: Instant::now(),
            limits,
        });
        tokio::spawn(sweep(Arc::downgrade(&gate)));
        tokio::spawn(close_logs(Arc::downgrade(&gate)));
        Ok(gate)
    }

    /// Milliseconds of the gate's own clock, which never jumps.
    pub(crate) fn now_ms(&self) -> u64 {
        // Half a billion years fit.
        self.started.elapsed().as_millis() as u64
    }

    /// A number that nothing else in this process has.
    pub(crate) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Where a message on this topic goes; `None` for one that is not of the protocol.
    pub(crate) fn destination(&self, topic: Option<&Topic>) -> Destination {
        let to = match topic {
            Some(Topic::ToDevice { org, device, .. }) => {
                To::Device(PrincipalKey::Device { org: org.clone(), device: device.clone() })
            }
            Some(Topic::Server { .. }) => To::Devices,
            Some(Topic::Device { .. }) => To::ReadersAlone,
            _ => To::Readers,
        };
        Destination { to, route: self.logs.route(topic) }
    }

    /// Where a message goes that is on a topic of a device's own subtree which this version does not know: to services. It
    /// may be a record of a newer agent, which has to be acknowledged as a record. Nobody else gets it.
    pub(crate) fn unknown_destination(&self) -> Destination {
        Destination { to: To::Readers, route: self.logs.route_unknown() }
    }

    /// A message that is published now.
    pub(crate) fn message(&self, draft: &Draft<'_>, origin: u64, places: Places, now: Instant) -> Message {
        Message::new(draft, origin, now.saturating_duration_since(self.started).as_millis() as u64, places)
    }

    /// Publishes a message that the access rules allow and that has its places.
    pub(crate) fn publish(
        &self,
        origin: u64,
        draft: &Draft<'_>,
        destination: Destination,
        places: Places,
    ) -> Result<(), RouterGone> {
        let Destination { to, route } = destination;
        if route.is_empty() && !draft.retain && matches!(to, To::Readers | To::ReadersAlone) {
            return Ok(());
        }
        let message = self.message(draft, origin, places, Instant::now());
        // Kept before it is routed: a subscriber that comes between gets it twice rather than not at all.
        if draft.retain {
            let mut retained = lock(&self.retained);
            if retained.store(&message) == Stored::Full {
                self.counters.dropped_retained_full.one();
            }
        }
        let mut to_readers = route.channels().map(|channel| (channel.clone(), message.clone())).collect();
        match to {
            To::Device(key) => self.hand_to_device(&key, message),
            To::Devices => {
                for session in self.registry.devices() {
                    // A device that does not take its messages is ended by what is sent to it alone.
                    session.offer(message.clone());
                }
            }
            To::Readers | To::ReadersAlone => {}
        }
        self.router.publish(&mut to_readers)
    }

    /// As [`Gate::publish`], after waiting for room if there is none.
    pub(crate) async fn publish_in_turn(
        &self,
        origin: u64,
        draft: &Draft<'_>,
        topic: Option<&Topic>,
    ) -> Result<(), RouterGone> {
        self.publish_to(origin, draft, self.destination(topic)).await
    }

    /// The same, where it is known where the message goes.
    pub(crate) async fn publish_to(
        &self,
        origin: u64,
        draft: &Draft<'_>,
        destination: Destination,
    ) -> Result<(), RouterGone> {
        let places = match destination.route.try_enter(draft.len()) {
            Some(places) => places,
            None => {
                let mut room = destination.route.clone().reserve(draft.len()).await?;
                // It is for this one.
                let enter_at_once = || destination.route.enter_at_once(draft.len());
                room.enter(&destination.route, draft.len()).unwrap_or_else(enter_at_once)
            }
        };
        self.publish(origin, draft, destination, places)
    }

    fn hand_to_device(&self, key: &PrincipalKey, message: Message) {
        let Some(session) = self.registry.device(key) else {
            self.counters.dropped_device_absent.one();
            return;
        };
        match session.offer(message) {
            Offer::Queued => {}
            Offer::NotWanted => self.counters.dropped_device_absent.one(),
            Offer::Full | Offer::NoRoom => {
                if self.registry.kick(key, Kick::QueueFull) > 0 {
                    self.counters.device_queue_overflows.one();
                    tracing::warn!(client = %key, "device does not take its messages, ending its connection");
                }
            }
        }
    }

    /// Tells whoever wants to know that a request was refused since it was retained. Past what waits to be heard, nothing.
    pub(crate) fn refused_retain(&self, topic: &str) {
        if let Ok(Topic::OperatorCommand { org, user }) = topic.parse()
            && let Some(told) = lock(&self.refused_retains).as_ref()
        {
            let _ = told.try_send((org, user));
        }
    }

    /// Publishes a will, after waiting for room if there is none.
    pub(crate) async fn publish_will(&self, origin: u64, will: &Will) {
        self.counters.wills.one();
        let draft = will.draft();
        if self.publish_in_turn(origin, &draft, draft.topic.parse().ok().as_ref()).await.is_err() {
            tracing::error!("a will could not be published: the router has stopped");
        }
    }

    /// Waits until there is room for a will that may be due in a moment; not for long.
    pub(crate) async fn room_for(&self, will: &Will) -> Option<Room> {
        let draft = will.draft();
        let reserve = self.destination(draft.topic.parse().ok().as_ref()).route.reserve(draft.len());
        tokio::time::timeout(WILL_TIME, reserve).await.ok()?.ok()
    }

    /// Publishes a will now, with the room that was kept for it, or without.
    pub(crate) fn publish_will_now(&self, origin: u64, will: &Will, room: Option<Room>) {
        self.counters.wills.one();
        let draft = will.draft();
        let destination = self.destination(draft.topic.parse().ok().as_ref());
        let reserved = room.and_then(|mut room| room.enter(&destination.route, draft.len()));
        let places = reserved.unwrap_or_else(|| destination.route.enter_at_once(draft.len()));
        if self.publish(origin, &draft, destination, places).is_err() {
            tracing::error!("a will could not be published: the router has stopped");
        }
    }

    /// Lets one more connection in before login. Where there is no room, the one that has been open longest leaves. The
    /// receiver resolves when this one has to.
    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr) -> (Admission, oneshot::Receiver<()>) {
        let (tell, told) = oneshot::channel();
        let admission = Admission {
            gate: self.clone(),
            address: places::site(address),
            number: self.number(),
            long: 0,
            large: None,
        };
        let leaves = lock(&self.unauthenticated).open(admission.address, admission.number, tell);
        if let Some(leaves) = leaves {
            self.counters.refused_before_login.one();
            // An error: it was just going by itself.
            let _ = leaves.send(());
        }
        self.counters.connections_unauthenticated.one();
        (admission, told)
    }

    /// Closes connections before login, at most so many, since there is no descriptor left; returns how many.
    pub(crate) fn make_room(&self, count: usize) -> usize {
        let mut places = lock(&self.unauthenticated);
        let leaves: Vec<_> = std::iter::from_fn(|| places.make_room()).take(count).collect();
        drop(places);
        self.counters.refused_before_login.add(leaves.len() as u64);
        let count = leaves.len();
        for leaves in leaves {
            let _ = leaves.send(());
        }
        count
    }

    /// Whether one more line about a refused connection may be logged: `Some` with how many were left out.
    pub(crate) fn may_log_refusal(&self) -> Option<u64> {
        lock(&self.refusals).admit(Instant::now())
    }

    /// As [`Gate::may_log_refusal`], of clients that replace each other.
    pub(crate) fn may_log_conflict(&self) -> Option<u64> {
        lock(&self.conflicts).admit(Instant::now())
    }

    /// Connections past login.
    pub(crate) fn connections(&self) -> u64 {
        let counters = &self.counters;
        counters.connections_devices.get()
            + counters.connections_people.get()
            + counters.connections_services.get()
    }
}

/// Where a message goes.
pub(crate) struct Destination {
    to: To,
    pub(crate) route: Route,
}

/// Who gets a message beside the readers of its logs.
enum To {
    Readers,
    /// Nobody, and nobody ever will.
    ReadersAlone,
    Device(PrincipalKey),
    /// All devices that have subscribed to it.
    Devices,
}

impl Destination {
    /// Its messages go to the router and nowhere else, unless they are to be retained.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self.to, To::ReadersAlone)
    }
}

/// A connection's place before login; given back when dropped.
pub(crate) struct Admission {
    gate: Arc<Gate>,
    address: IpAddr,
    number: Number,
    /// How many places for long checks it has.
    long: usize,
    /// It has sent a large CONNECT, or the beginning of one.
    large: Option<OwnedSemaphorePermit>,
}

impl Admission {
    /// The client has sent a CONNECT: it goes behind those that are silent, or were refused.
    pub(crate) fn renew(&mut self) {
        let number = self.gate.number();
        lock(&self.gate.unauthenticated).renew(self.address, self.number, number);
        self.number = number;
    }

    /// Counts the connection among those with a large CONNECT. `false`: there are too many already.
    pub(crate) fn begin_large_connect(&mut self) -> bool {
        if self.large.is_none() {
            self.large = Arc::clone(&self.gate.large_connects).try_acquire_owned().ok();
        }
        self.large.is_some()
    }

    /// Changes the open place for one that nobody takes away, as the check takes long. `false`: there is none, too many
    /// are being checked already.
    pub(crate) fn begin_long_check(&mut self, connect_bytes: usize) -> bool {
        let weight = places::weight(connect_bytes);
        let mut places = lock(&self.gate.unauthenticated);
        if places.check(self.address, weight) {
            self.long = weight;
            places.close(self.address, self.number);
        }
        self.is_long()
    }

    /// Whether it has such a place.
    pub(crate) fn is_long(&self) -> bool {
        self.long > 0
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.gate.counters.connections_unauthenticated.take(1);
        let mut places = lock(&self.gate.unauthenticated);
        places.close(self.address, self.number);
        if self.long > 0 {
            places.checked(self.address, self.long);
        }
    }
}

/// Lets nobody wait for a router that has gone.
async fn close_logs(gate: Weak<Gate>) {
    let Some(router) = gate.upgrade().map(|gate| gate.router.clone()) else { return };
    router.gone().await;
    if let Some(gate) = gate.upgrade() {
        gate.logs.close();
    }
}

/// Ends sessions and publishes wills whose time has come, and drops expired retained messages.
async fn sweep(gate: Weak<Gate>) {
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for round in 0u64.. {
        tick.tick().await;
        let Some(gate) = gate.upgrade() else { return };
        gate.logs.forsake_stuck_readers();
        let wills = gate.registry.sweep(Instant::now());
        if !wills.is_empty() {
            // They may have to wait, and it may be for what this task does next.
            let gate = gate.clone();
            tokio::spawn(async move {
                for (origin, will) in wills {
                    gate.publish_will(origin, &will).await;
                }
            });
        }
        // Expired ones are not delivered in any case; this gives their room back.
        if round % 64 == 0 {
            lock(&gate.retained).expire(gate.now_ms());
        }
    }
}
