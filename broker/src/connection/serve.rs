//! A connection's main loop: packets in, packets out.
//!
//! One round handles what has come in, writes what is to be sent, and waits when there is neither. While the output
//! is being written nothing is read, so a client that does not read cannot make the gate collect answers for it.

mod packets;
mod room;

use std::cell::Cell;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant as Timestamp, Sleep};

use super::End;
use super::wire::Wire;
use crate::account::{CONNECTION_BYTES, Share};
use crate::codec::encode::{self, AckKind, Outgoing};
use crate::codec::packet::{self, Packet};
use crate::codec::reason::Reason;
use crate::codec::{Version, frame};
use crate::gate::Gate;
use crate::logs::Route;
use crate::message::{Expired, Message};
use crate::principal::Principal;
use crate::rate::RateLimiter;
use crate::router::{LinkRefused, RouterGone, lock};
use crate::session::state::Next;
use crate::session::{Session, Subscribing};
use room::NextRoom;

/// Output that is collected before it is written, and that of an account which holds much already.
const OUT_BYTES: usize = 32 * 1024;
const SMALL_OUT_BYTES: usize = 8 * 1024;
/// Packets that are handled before others have their turn: a buffer holds thousands of the smallest.
const PACKETS_A_TURN: usize = 256;
/// Looks into the retained messages before others have their turn.
const SEARCHES_A_TURN: usize = 8;
/// With neither a deadline nor a pause this is as good as any time.
const NO_DEADLINE: Duration = Duration::from_secs(3600);
/// What a client that is replaced may have sent before its goodbye, for that to be noticed.
const LAST_WORDS_BYTES: usize = 64 * 1024;
/// Retained messages that are fetched at once.
const RETAINED_CHUNK: usize = 64;

/// Messages that are handed to the router together, each with its channel, before their acknowledgements are written.
type Gathered = Vec<(Bytes, Message)>;

thread_local! {
    /// What a turn gathers in: no connection owns it.
    static GATHERED: Cell<Gathered> = const { Cell::new(Vec::new()) };
}

/// What was agreed at CONNECT.
pub(super) struct Terms {
    pub(super) version: Version,
    pub(super) keep_alive: Duration,
    pub(super) window: usize,
    pub(super) maximum_packet_bytes: usize,
}

/// The gate's side of one connected client.
pub(super) struct Client<S> {
    gate: Arc<Gate>,
    wire: Wire<S>,
    session: Arc<Session>,
    principal: Principal,
    terms: Terms,
    session_expiry: Duration,
    rate: RateLimiter,
    /// The last topic on which this client was allowed to publish what goes to the router alone, and the way there.
    plain: Option<(Box<str>, Route)>,
    /// For the next message, where there was none.
    room: NextRoom,
    link: Link,
    /// What is being read and written.
    buffers: Share,
    /// Nothing is read before.
    paused_until: Option<Instant>,
    last_heard: Instant,
}

/// The session's link to the router, which its first SUBSCRIBE needs.
#[derive(Clone, Copy)]
enum Link {
    NotAsked,
    /// The SUBSCRIBE waits for it.
    Asked,
    There,
    Refused(LinkRefused),
}

impl From<RouterGone> for End {
    fn from(_: RouterGone) -> End {
        End::RouterGone
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(super) fn new(
        gate: Arc<Gate>,
        wire: Wire<S>,
        session: Arc<Session>,
        principal: Principal,
        terms: Terms,
        session_expiry: Duration,
    ) -> Client<S> {
        let now = Instant::now();
        let per_second = match principal {
            Principal::Device { .. } => gate.limits.device_messages_per_second,
            _ => 0,
        };
        let rate = RateLimiter::new(per_second, now);
        let buffers = Share::of(session.account(), CONNECTION_BYTES);
        Client {
            gate,
            wire,
            session,
            principal,
            terms,
            session_expiry,
            rate,
            plain: None,
            room: NextRoom::NotNeeded,
            link: Link::NotAsked,
            buffers,
            paused_until: None,
            last_heard: now,
        }
    }

    /// The goodbye of a client that has been replaced, if it said one that has not been read: who says goodbye and is back
    /// at once has left all the same.
    pub(super) async fn unread_goodbye(&mut self) -> Option<End> {
        // So that the runtime hears of what has come in.
        tokio::task::yield_now().await;
        let mut read = 0;
        while let Some(Ok(count @ 1..)) = self.wire.read().now_or_never() {
            read += count;
            if read > LAST_WORDS_BYTES {
                break;
            }
        }
        while let Ok(Some((header, body))) = self.wire.packet(self.gate.limits.packet_bytes) {
            if let Ok(goodbye @ Packet::Disconnect(_)) = packet::decode(self.terms.version, header, &body) {
                return self.handle(goodbye).err().filter(|end| matches!(end, End::Left { .. }));
            }
        }
        None
    }

    /// How long the client wants its session kept, as of now.
    pub(super) fn session_expiry(&self) -> Duration {
        self.session_expiry
    }

    pub(super) fn into_wire(self) -> Wire<S> {
        self.wire
    }

    /// Runs until the connection ends. May be dropped at any point.
    pub(super) async fn run(&mut self) -> End {
        // One timer for the connection's life, moved only where it would come too late: to set it for each packet
        // would cost more than most packets do.
        let mut timer = std::pin::pin!(tokio::time::sleep(NO_DEADLINE));
        loop {
            if let Err(end) = self.round(timer.as_mut()).await {
                return end;
            }
        }
    }

    async fn round(&mut self, mut timer: Pin<&mut Sleep>) -> Result<(), End> {
        if matches!(self.link, Link::Asked) {
            self.link = match Box::pin(self.session.connect_link(&self.gate)).await {
                Ok(()) => Link::There,
                Err(refused) => Link::Refused(refused),
            };
        }
        let more_input = !self.room.is_asked() && self.take_packets()?;
        let more_output = self.put_packets();
        self.flush().await?;
        if more_input || more_output {
            // Others have their turn.
            tokio::task::yield_now().await;
            return Ok(());
        }
        self.count_buffers()?;
        let waits = self.room.is_asked();
        let now = Instant::now();
        // While nothing is taken from a client its silence is ours.
        let deadline = self.deadline().filter(|_| !waits);
        if deadline.is_some_and(|deadline| deadline <= now) {
            return Err(End::KeepAlive);
        }
        if self.paused_until.is_some_and(|until| until <= now) {
            // The pause ended just now: whole packets may lie in the buffer, for which nothing more will come. The silence
            // was ours.
            self.last_heard = now;
            return Ok(());
        }
        let paused = self.paused_until;
        let wake = Timestamp::from_std(paused.or(deadline).unwrap_or(now + NO_DEADLINE));
        if timer.is_elapsed() || timer.deadline() > wake {
            timer.as_mut().reset(wake);
        }
        let may_read = paused.is_none() && !waits && self.session.subscribing() == Subscribing::Done;
        tokio::select! {
            biased;
            read = self.wire.read(), if may_read => match read {
                Ok(0) => return Err(End::Closed(std::io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => {
                    self.last_heard = Instant::now();
                    self.count_buffers()?;
                }
                Err(error) => return Err(End::Closed(error)),
            },
            there = self.room.wait(), if waits => {
                there?;
                self.last_heard = Instant::now();
            }
            () = self.session.to_send.notified() => {}
            () = timer => {
                if paused.is_some() {
                    // The silence was ours.
                    self.last_heard = Instant::now();
                }
            }
        }
        Ok(())
    }

    /// Writes what is to be written.
    async fn flush(&mut self) -> Result<(), End> {
        if let Some(flushed) = self.wire.flush().now_or_never() {
            return flushed.map_err(End::Closed);
        }
        // Who does not take what it gets keeps no room from others.
        self.room = NextRoom::NotNeeded;
        self.count_buffers()?;
        self.wire.flush().await.map_err(End::Closed)?;
        self.count_buffers()
    }

    /// An account does not hold more with packets that it does not finish, or does not take, than it may hold in all.
    fn count_buffers(&mut self) -> Result<(), End> {
        if self.buffers.try_hold_in_all(self.wire.bytes_held()) {
            return Ok(());
        }
        Err(End::Broken(Reason::QuotaExceeded, "all connections of this account hold too much together"))
    }

    fn deadline(&self) -> Option<Instant> {
        let keep_alive = self.terms.keep_alive;
        (!keep_alive.is_zero()).then(|| self.last_heard + keep_alive + keep_alive / 2)
    }

    /// Handles the whole packets that are there; true if it stopped before the last one.
    fn take_packets(&mut self) -> Result<bool, End> {
        if !self.wire.has_input() && self.session.subscribing() == Subscribing::Done {
            self.paused_until = self.rate.wait_until(Instant::now());
            return Ok(false);
        }
        let input = self.wire.take_input();
        let mut used = 0;
        let mut gathered = GATHERED.take();
        let taken = self.take_packets_of(&input, &mut used, &mut gathered);
        self.wire.put_back(input, used);
        // Before an acknowledgement is written the router has what it is for.
        self.gate.router.publish(&mut gathered)?;
        GATHERED.set(gathered);
        if !self.room.is_asked() {
            self.room = NextRoom::NotNeeded;
        }
        taken
    }

    fn take_packets_of(
        &mut self,
        input: &[u8],
        used: &mut usize,
        gathered: &mut Gathered,
    ) -> Result<bool, End> {
        let mut more = false;
        let now = Instant::now();
        let mut left = PACKETS_A_TURN;
        loop {
            if left == 0 || self.wire.out.len() > OUT_BYTES {
                more = true;
                break;
            }
            left -= 1;
            self.paused_until = self.rate.wait_until(now);
            if self.paused_until.is_some() {
                break;
            }
            match self.session.subscribing() {
                Subscribing::Done => {}
                Subscribing::Asked => break,
                Subscribing::Answered => {
                    more = true;
                    break;
                }
            }
            let rest = &input[*used..];
            let Some(header) = frame::header(rest, self.gate.limits.packet_bytes)? else { break };
            let Some(body) = rest.get(header.header_len..header.total_len) else { break };
            let packet = packet::decode(self.terms.version, header, body)?;
            if let Packet::Publish(publish) = &packet {
                if !self.publish(publish, now, rest.len(), gathered)? {
                    break;
                }
            } else {
                if let Packet::Subscribe(_) | Packet::Unsubscribe { .. } = &packet {
                    // What was published before a filter is changed is not for that filter.
                    self.gate.router.publish(gathered)?;
                    self.gate.router.hand_over()?;
                }
                if let Packet::Unsubscribe { filters, .. } = &packet {
                    left = left.saturating_sub(filters.len());
                }
                if let Packet::Subscribe(subscribe) = &packet {
                    if !self.subscribe(subscribe)? {
                        more = true;
                        break;
                    }
                } else {
                    self.handle(packet)?;
                }
            }
            *used += header.total_len;
        }
        Ok(more)
    }

    /// Collects what is to be sent; true if there is more than fits at once.
    fn put_packets(&mut self) -> bool {
        let now_ms = self.gate.now_ms();
        let session = self.session.clone();
        let mut inner = session.lock();
        while let Some(answer) = inner.answers.pop_front() {
            encode::suback(&mut self.wire.out, self.terms.version, answer.packet_id, &answer.granted);
        }
        let mut more = false;
        let mut searches = 0;
        let out_bytes = if self.buffers.is_tight() { SMALL_OUT_BYTES } else { OUT_BYTES };
        loop {
            if self.wire.out.len() > out_bytes || searches >= SEARCHES_A_TURN {
                more = true;
                break;
            }
            let mut fetched_all = true;
            if inner.state.wants_retained()
                && let Some(mut job) = inner.retained_jobs.pop_front()
            {
                let after = job.after.as_deref();
                let piece = lock(&self.gate.retained).matching(&job.filter, after, RETAINED_CHUNK, now_ms);
                searches += 1;
                let taken = piece.messages.iter().take_while(|message| {
                    job.no_local && message.origin() == session.id
                        || inner.state.offer_retained(message, job.qos)
                });
                let (count, last) = taken.fold((0, None), |(count, _), message| (count + 1, Some(message)));
                fetched_all = count == piece.messages.len();
                if !fetched_all {
                    job.after = last.map(|message| message.topic().to_owned()).or(job.after);
                    inner.retained_jobs.push_front(job);
                } else if piece.after.is_some() {
                    job.after = piece.after;
                    inner.retained_jobs.push_front(job);
                }
            }
            match inner.state.next(self.terms.window) {
                Some(Next::Release { packet_id }) => {
                    self.ack(AckKind::Rel, packet_id, Reason::Success);
                }
                Some(Next::Publish { message, qos, retain, packet_id, dup }) => {
                    let expiry_seconds = match message.expiry_left(now_ms) {
                        Ok(left) => left,
                        // What was sent before has to be sent again until it is acknowledged.
                        Err(Expired) if dup => Some(0),
                        Err(Expired) => {
                            self.gate.counters.dropped_expired.one();
                            inner.state.forget(packet_id);
                            continue;
                        }
                    };
                    let outgoing = Outgoing {
                        dup,
                        qos,
                        retain,
                        topic: message.topic_bytes(),
                        packet_id,
                        expiry_seconds,
                        properties: message.properties(),
                        payload: &message.payload(),
                    };
                    let limit = self.terms.maximum_packet_bytes;
                    if encode::publish(&mut self.wire.out, self.terms.version, outgoing, limit) {
                        self.gate.counters.messages_out.one();
                    } else {
                        self.gate.counters.dropped_too_large.one();
                        inner.state.forget(packet_id);
                    }
                }
                None if fetched_all && inner.state.wants_retained() && !inner.retained_jobs.is_empty() => {}
                None => break,
            }
        }
        session.check_room(&mut inner);
        more
    }
}
