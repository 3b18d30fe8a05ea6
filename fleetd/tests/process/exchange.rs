//! A device that speaks by HTTP exchange: one connection of it, which journals nothing.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use protocol::{
    codec::{self, Bytes, limit},
    message::{Ack, Birth, Command, CommandReport, DeviceAction, DeviceCommand, Exchange, ExchangeMessage},
    ranges::RangeSet,
};

use super::{PATIENCE, STATE, birth, heartbeat};

pub struct Line {
    pub http: SocketAddr,
    pub id: String,
    pub token: String,
    pub connection: u64,
}

/// A request's status, what came with it, and the text of a problem.
pub type Answered = (u16, Exchange, String);

/// A message as it is put into a request.
pub fn said(suffix: &str, payload: Vec<u8>) -> ExchangeMessage {
    ExchangeMessage(suffix.to_owned(), Bytes(payload))
}

impl Line {
    pub fn new(http: SocketAddr, id: &str, token: &str, connection: u64) -> Self {
        Self { http, id: id.to_owned(), token: token.to_owned(), connection }
    }

    /// One request with this body.
    pub fn post(&self, query: &str, body: &[u8]) -> Answered {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(70)))
            .build()
            .into();
        let url = format!("http://{}/api/v1/devices/{}/exchange{query}", self.http, self.id);
        let request = agent.post(&url).header("content-type", "application/cbor");
        let mut answer = request.header("x-device-token", &self.token).send(body).unwrap();
        let status = answer.status().as_u16();
        let body = answer.body_mut().read_to_vec().unwrap();
        match status {
            200 => (status, codec::decode(&body, limit::EXCHANGE_BYTES).unwrap(), String::new()),
            _ => (status, Exchange::default(), String::from_utf8(body).unwrap()),
        }
    }

    pub fn ask(&self, wait_seconds: u64, messages: Vec<ExchangeMessage>) -> Answered {
        let body = codec::encode_packed(&Exchange(messages)).unwrap();
        self.post(&format!("?wait_seconds={wait_seconds}&connection={}", self.connection), &body)
    }

    pub fn birth(&self) -> ExchangeMessage {
        let birth = Birth { transport: "https".to_owned(), ..birth(self.connection) };
        said("birth", codec::encode_packed(&birth).unwrap())
    }

    /// Gives birth, and gives what is committed.
    #[track_caller]
    pub fn begin(&self) -> RangeSet {
        self.next(vec![self.birth()], "the first ack", ack)
    }

    #[track_caller]
    pub fn heartbeat(&self, seq: u64) {
        let heartbeat = said("heartbeat", codec::encode_packed(&heartbeat(seq, self.connection)).unwrap());
        self.next(vec![heartbeat], "the heartbeat's ack", |message| {
            ack(message).filter(|ranges| ranges.contains(seq))
        });
    }

    /// Says this, and polls for a message that satisfies.
    #[track_caller]
    pub fn next<T>(
        &self,
        mut messages: Vec<ExchangeMessage>,
        what: &str,
        is_it: impl Fn(&ExchangeMessage) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (status, told, problem) = self.ask(5, std::mem::take(&mut messages));
            assert_eq!(status, 200, "{problem}");
            if let Some(found) = told.0.iter().find_map(&is_it) {
                return found;
            }
            assert!(Instant::now() < deadline, "in vain: {what}");
        }
    }

    /// The next command to run.
    #[track_caller]
    pub fn run(&self) -> Command {
        self.next(vec![], "a command", command)
    }

    /// Reports, and waits until that is committed.
    #[track_caller]
    pub fn report(&self, id: &str, seq: u64, report_seq: u32, state: &str) {
        let report = CommandReport {
            seq,
            connection: self.connection as u16,
            ts: super::now_ms(),
            id: id.parse().unwrap(),
            report_seq,
            state: state.to_owned(),
            reason: None,
            progress_percent: None,
            result: None,
            error: None,
            nonce: None,
            token_sha256: None,
        };
        let report = said("status", codec::encode_packed(&report).unwrap());
        self.next(vec![report], "the report's ack", |message| {
            ack(message).filter(|ranges| ranges.contains(seq))
        });
    }
}

pub fn ack(ExchangeMessage(suffix, payload): &ExchangeMessage) -> Option<RangeSet> {
    let ack: Ack = (suffix == "ack").then(|| codec::decode(&payload.0, 300_000).unwrap())?;
    assert_eq!(ack.state_id, STATE);
    Some(ack.ranges)
}

pub fn command(ExchangeMessage(suffix, payload): &ExchangeMessage) -> Option<Command> {
    let command: DeviceCommand =
        (suffix == "command").then(|| codec::decode(&payload.0, 300_000).unwrap())?;
    match command.action() {
        Some(DeviceAction::Run(command)) => Some(*command),
        _ => None,
    }
}
