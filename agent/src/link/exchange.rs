//! The task that drives one connection by HTTP exchange.
//!
//! Two requests at most are under way: one that says something, and one that waits for what the server has to say. Each waits
//! on a thread of its own, since the HTTP client blocks; both are cut off with the link.

#[cfg(test)]
mod tests;

use std::time::Duration;

use protocol::codec::{self, Bytes, limit};
use protocol::message::{Exchange, ExchangeMessage};
use protocol::topic::{Uplink, of_exchange};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Address, LinkError, LinkEvent, LinkSettings, Order, Tag};
use crate::config::HttpUrl;
use crate::http::{self, Answer, HttpError};

/// The longest that the server is asked to wait: just below the minute after which many proxies cut what stands idle.
const LONGEST_WAIT: Duration = Duration::from_secs(55);
/// The shortest, where a proxy cuts sooner.
const SHORTEST_WAIT: Duration = Duration::from_secs(5);
/// What a waiting request may take beyond its wait: a new connection with TLS over a slow network. With the wait it is less
/// than the 90 s after which a network that swallows packets has to be noticed.
const SLACK: Duration = Duration::from_secs(20);
/// What a request that says something may take.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);
/// An answer without a message comes no quicker than this, or it is not the server that gives it.
const EMPTY_ANSWER: Duration = Duration::from_secs(1);
/// Longest answer that is read.
const ANSWER_MAX_BYTES: u64 = limit::EXCHANGE_BYTES as u64;

pub(super) struct Connection {
    settings: LinkSettings,
    server: HttpUrl,
    client: ureq::Agent,
    orders: mpsc::Receiver<Order>,
    /// How long the server is asked to wait.
    wait: Duration,
}

/// A request on a thread of its own.
type Asked = JoinHandle<Result<Exchange, LinkError>>;

/// A request that says something.
struct Saying {
    asked: Asked,
    tags: Vec<Tag>,
    is_birth: bool,
    /// After it, nothing.
    is_last: bool,
}

impl Connection {
    pub(super) fn new(settings: LinkSettings, orders: mpsc::Receiver<Order>) -> Result<Self, LinkError> {
        let (Address::Exchange(server), Some(client)) = (&settings.to, &settings.http) else {
            return Err(LinkError::NoTransport { url: settings.to.clone() });
        };
        let (server, client) = (server.clone(), client.clone());
        Ok(Self { settings, server, client, orders, wait: LONGEST_WAIT })
    }

    /// Runs until the first error, or until nobody listens to the events any more.
    pub(super) async fn run(mut self, events: mpsc::Sender<LinkEvent>) {
        if let Err(error) = self.drive(&events).await {
            // Nobody listens: nobody needs to know.
            let _ = events.send(LinkEvent::Down(error)).await;
        }
    }

    async fn drive(&mut self, events: &mpsc::Sender<LinkEvent>) -> Result<(), LinkError> {
        // Whether the way is free, and the token good.
        joined(self.ask(Exchange::default(), Duration::ZERO, self.settings.patience)).await?;
        if events.send(LinkEvent::Up).await.is_err() {
            return Ok(());
        }
        let mut saying: Option<Saying> = None;
        let mut polling: Option<(Asked, Instant)> = None;
        let mut poll_at = None;
        loop {
            tokio::select! {
                order = self.orders.recv(), if saying.is_none() => {
                    let Some(order) = order else { return Ok(()) };
                    saying = self.say(order);
                    if saying.is_none() {
                        return Err(LinkError::Ended);
                    }
                }
                said = outcome(saying.as_mut().map(|saying| &mut saying.asked)) => {
                    let answer = said?;
                    let Some(Saying { tags, is_birth, is_last, .. }) = saying.take() else { continue };
                    for tag in tags {
                        if events.send(LinkEvent::Receipt(tag)).await.is_err() {
                            return Ok(());
                        }
                    }
                    self.pass_on(answer, events).await;
                    if is_last {
                        return Err(LinkError::Ended);
                    }
                    if is_birth && polling.is_none() {
                        // From now on the server has a connection that it can tell something.
                        poll_at = Some(Instant::now());
                    }
                }
                heard = outcome(polling.as_mut().map(|(asked, _)| asked)) => {
                    let Some((_, since)) = polling.take() else { continue };
                    let is_empty = match heard {
                        Ok(answer) => {
                            let is_empty = answer.0.is_empty();
                            self.pass_on(answer, events).await;
                            is_empty
                        }
                        Err(error) => {
                            self.wait_less(error, since.elapsed())?;
                            true
                        }
                    };
                    poll_at = Some(if is_empty { since + EMPTY_ANSWER } else { Instant::now() });
                }
                () = at(poll_at) => {
                    poll_at = None;
                    polling = Some((self.ask(Exchange::default(), self.wait, self.wait + SLACK), Instant::now()));
                }
                // Nobody has this link any more, although nothing is to be said.
                () = events.closed() => return Ok(()),
            }
        }
    }

    /// Begins to say this, and what else there is to be said by now.
    fn say(&mut self, first: Order) -> Option<Saying> {
        let (mut messages, mut tags, mut bytes) = (Vec::new(), Vec::new(), 0);
        let (mut is_birth, mut is_last) = (false, false);
        let mut next = Some(first);
        while let Some(order) = next.take() {
            match order {
                Order::Say { tag, uplink, payload } => {
                    bytes += payload.len() + limit::EXCHANGE_MESSAGE_OVERHEAD_BYTES;
                    is_birth |= uplink == Uplink::Birth;
                    tags.push(tag);
                    messages.push(ExchangeMessage(uplink.to_string(), Bytes(payload)));
                }
                Order::Goodbye => {
                    is_last = true;
                    break;
                }
            }
            // The next one may be as large as any.
            let room = limit::EXCHANGE_BYTES - limit::LARGEST_BYTES - limit::EXCHANGE_MESSAGE_OVERHEAD_BYTES;
            if messages.len() < limit::EXCHANGE_MESSAGES && bytes < room {
                next = self.orders.try_recv().ok();
            }
        }
        if messages.is_empty() {
            return None;
        }
        let asked = self.ask(Exchange(messages), Duration::ZERO, SEND_TIMEOUT);
        Some(Saying { asked, tags, is_birth, is_last })
    }

    async fn pass_on(&self, answer: Exchange, events: &mpsc::Sender<LinkEvent>) {
        let (org, device) = (&self.settings.org, &self.settings.device);
        for ExchangeMessage(suffix, Bytes(payload)) in answer.0 {
            // A topic that this version does not know is nothing for it. Whoever does not listen any more needs nothing.
            if let Ok(topic) = of_exchange(org, device, &suffix) {
                let _ = events.send(LinkEvent::Message { topic, payload, retained: false }).await;
            }
        }
    }

    /// A poll that was cut off before its time: by a proxy that lets nothing stand idle for so long, if it stood for a while.
    fn wait_less(&mut self, error: LinkError, stood: Duration) -> Result<(), LinkError> {
        let cut = match &error {
            LinkError::Status { status, .. } => matches!(status, 408 | 502 | 504),
            LinkError::Closed { .. } => true,
            _ => false,
        };
        if !cut || self.wait <= SHORTEST_WAIT || stood < SHORTEST_WAIT || stood > self.wait {
            return Err(error);
        }
        self.wait = (stood / 2).max(SHORTEST_WAIT);
        tracing::debug!(%error, wait_seconds = self.wait.as_secs(), "a request that waited was cut off: shorter ones");
        Ok(())
    }

    fn ask(&self, messages: Exchange, wait: Duration, time: Duration) -> Asked {
        let (client, server, to) = (self.client.clone(), self.server.clone(), self.settings.to.clone());
        let token = self.settings.token.clone();
        let path = format!(
            "/api/v1/devices/{}/exchange?wait_seconds={}&connection={}",
            self.settings.device,
            wait.as_secs(),
            self.settings.connection
        );
        tokio::task::spawn_blocking(move || {
            let problem = |problem: String| LinkError::Protocol { url: to.clone(), problem };
            let body = codec::encode_packed(&messages).map_err(|error| problem(error.to_string()))?;
            let request = client.post(server.join(&path)).config().timeout_global(Some(time)).build();
            let request = request.header("Content-Type", "application/cbor");
            let request = match &token {
                Some(token) => request.header("X-Device-Token", token.expose()),
                None => request,
            };
            let called = request.send(&body);
            let answer = match http::finish(&server, called, ANSWER_MAX_BYTES) {
                Ok(answer) => answer,
                Err(HttpError::TimedOut { .. }) => return Err(LinkError::Silent { url: to, waited: time }),
                Err(HttpError::Closed { .. }) => return Err(LinkError::Closed { url: to }),
                Err(error) => return Err(error.into()),
            };
            match answer.status {
                200 => codec::decode(&answer.body, limit::EXCHANGE_BYTES)
                    .map_err(|error| problem(error.to_string())),
                _ => Err(refused(to, &answer)),
            }
        })
    }
}

fn refused(url: Address, answer: &Answer) -> LinkError {
    match answer.status {
        401 => LinkError::Credentials { url },
        // The server does not know this connection, or no more: a birth on another one begins anew.
        409 => LinkError::Closed { url },
        404 | 405 => {
            LinkError::Refused { url, reason: "it has no HTTP exchange, or does not know this device" }
        }
        status => LinkError::Status { url, status, detail: answer.problem_detail() },
    }
}

async fn joined(asked: Asked) -> Result<Exchange, LinkError> {
    asked.await.unwrap_or(Err(LinkError::Ended))
}

/// Resolves with the answer of a request, never if there is none.
async fn outcome(asked: Option<&mut Asked>) -> Result<Exchange, LinkError> {
    match asked {
        Some(asked) => asked.await.unwrap_or(Err(LinkError::Ended)),
        None => std::future::pending().await,
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
