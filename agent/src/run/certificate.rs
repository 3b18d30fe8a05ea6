//! The device's certificate in the event loop: with what the next connection is made, and when another one is asked for, tried
//! out and kept. What it is, and why nothing here can lock a device out, is in [`crate::certificate`].

use std::io;
use std::time::Duration;

use super::agent::{Agent, random};
use super::effects::Done;
use super::session::with_causes;
use crate::backoff::Backoff;
use crate::certificate::{self, Blame, CertificateError, Issued, Trial, With};
use crate::config::{Config, Scheme};
use crate::connect::ConnectError;
use crate::http::HttpError;
use crate::link::{Address, LinkError};
use crate::tls::{Identity, TlsError};

/// After the server has refused, or the new one does not get through: where a proxy takes TLS apart, none ever does.
const RETRY: Backoff = Backoff::new(Duration::from_secs(5), Duration::from_secs(24 * 3600));
/// After one that could not be written.
const WRITE_AGAIN: Duration = Duration::from_secs(30);
/// A whole fleet hears at the same moment that its server signs now.
const OFFER_SPREAD_MS: u64 = 30_000;

#[derive(Debug)]
pub(super) struct Certificates {
    stored: Option<Issued>,
    candidate: Option<Issued>,
    trial: Trial,
    /// With what the connection in use, or tried last, is made.
    pub(super) with: With,
    /// The server signs. Not known where it is not asked for its broker.
    offered: bool,
    asking: bool,
    not_before: Option<Duration>,
    backoff: Backoff,
    /// The server has answered since another credential was tried without a wait.
    may_hurry: bool,
}

/// How a connection shows who the device is.
pub(super) enum Shown {
    Nothing,
    Configured,
    Own(Identity),
}

impl Shown {
    pub(super) fn identity(self, config: &Config) -> Result<Option<Identity>, TlsError> {
        match self {
            Self::Nothing => Ok(None),
            Self::Configured => Identity::configured(config),
            Self::Own(identity) => Ok(Some(identity)),
        }
    }
}

impl Certificates {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            stored: Issued::stored(config),
            candidate: None,
            trial: Trial::default(),
            with: With::Token,
            offered: false,
            asking: false,
            not_before: None,
            backoff: RETRY,
            may_hurry: true,
        }
    }

    /// The configuration was read again.
    pub(super) fn read_again(&mut self, config: &Config) {
        self.stored = Issued::stored(config);
    }

    /// When the one in use ends, and when it is replaced.
    pub(super) fn times(&self) -> Option<(i64, i64)> {
        self.stored.as_ref().map(|stored| (stored.expires_at_ms, stored.renew_at_ms))
    }
}

impl Agent {
    /// The configuration as the next question to the server takes it: without a certificate that may be why the last one failed.
    pub(super) fn config_to_ask_with(&self) -> Config {
        let mut config = self.config.clone();
        if certificate::is_somebodys(&config)
            && config.device_token.is_some()
            && self.certificates.trial.next() == With::Token
        {
            (config.client_cert, config.client_key) = (None, None);
        }
        config
    }

    /// Decides with what to connect there. The agent's own certificate goes alone, and by MQTT over TLS, which no proxy takes
    /// apart; by WebSocket, and without one, it is the token. Somebody's own goes beside the token, if there is one.
    pub(super) fn choose_credential(&mut self, to: &Address) -> Shown {
        let Certificates { stored, candidate, trial, .. } = &self.certificates;
        let (has_token, takes_one) = (self.config.device_token.is_some(), to.scheme() == Scheme::Mqtts);
        let now_ms = self.clock.now_ms(self.kernel.boottime_ms());
        let is_over = |issued: &&Issued| now_ms.is_some_and(|now_ms| now_ms >= issued.expires_at_ms);
        let turn = if has_token { trial.next() } else { With::Certificate };
        // A new token has to be used, or it lapses.
        let token_is_due = has_token && self.token_is_tried_out();
        let (with, shown) = match (candidate, stored) {
            _ if token_is_due => (With::Token, Shown::Nothing),
            (Some(new), _) if takes_one => (With::Candidate, Shown::Own(new.identity.clone())),
            (_, Some(stored))
                if !has_token || takes_one && turn == With::Certificate && !is_over(&stored) =>
            {
                (With::Certificate, Shown::Own(stored.identity.clone()))
            }
            _ if certificate::is_somebodys(&self.config) && turn == With::Certificate => {
                (With::Certificate, Shown::Configured)
            }
            _ => (With::Token, Shown::Nothing),
        };
        self.certificates.with = with;
        shown
    }

    /// Whether the token goes along.
    pub(super) fn sends_token(&self) -> bool {
        self.certificates.with == With::Token
            || self.certificates.with == With::Certificate && certificate::is_somebodys(&self.config)
    }

    /// The server has answered on the connection.
    pub(super) fn certificate_is_answered(&mut self) {
        self.certificates.trial.answered(self.certificates.with);
        self.certificates.may_hurry = true;
    }

    /// A connection did not even begin: a file cannot be read or used, that of the certificate perhaps.
    pub(super) fn certificate_is_unusable(&mut self) {
        self.certificates.trial.failed(self.certificates.with, Blame::Possible);
    }

    /// A connection has ended, or has not come about. Whether that may be the certificate's fault, and another way to log in is worth
    /// an attempt without a wait: once, or a fleet would knock twice as often at a server that cannot cope.
    pub(super) fn certificate_hears_of_link(&mut self, error: &LinkError) -> bool {
        let with = self.certificates.with;
        if self.answered {
            return false;
        }
        let blame = match error {
            LinkError::Credentials { .. } | LinkError::Tls { .. } => Blame::Certain,
            // A certificate is refused after the handshake of TLS 1.3: by an alert, or by an end.
            LinkError::Network { source, .. } if source.kind() == io::ErrorKind::InvalidData => {
                Blame::Certain
            }
            LinkError::Closed { .. } | LinkError::Protocol { .. } => Blame::Possible,
            _ => Blame::Innocent,
        };
        self.certificates.trial.failed(with, blame);
        if with == With::Candidate && self.certificates.candidate.take().is_some() {
            self.no_certificate(&format!("the new one does not get through ({error})"), Duration::ZERO);
        }
        let another_way =
            with != With::Token && blame != Blame::Innocent && self.config.device_token.is_some();
        another_way && std::mem::take(&mut self.certificates.may_hurry)
    }

    /// The server was asked where its broker is.
    pub(super) fn certificate_hears_of_server(&mut self, answer: Result<bool, &ConnectError>) {
        match answer {
            Ok(offered) => self.certificates.offered = offered,
            Err(ConnectError::Http(
                HttpError::Setup(_)
                | HttpError::Tls { .. }
                | HttpError::Certificate { .. }
                | HttpError::Other { .. },
            )) if certificate::is_somebodys(&self.config) => {
                let with = self.certificates.trial.next();
                self.certificates.trial.failed(with, Blame::Possible);
            }
            Err(_) => {}
        }
    }

    /// Asks for another certificate if it is time, and keeps one that has let the device in.
    pub(super) async fn turn_certificate(&mut self) {
        let now = self.now();
        if self.certificates.not_before.is_some_and(|at| now < at) || !self.answered {
            return;
        }
        if self.certificates.with == With::Candidate {
            return self.keep_certificate(now).await;
        }
        let by_mqtts = self.session.tried.as_ref().is_some_and(|url| url.scheme() == Scheme::Mqtts);
        let is_busy =
            self.certificates.asking || self.certificates.candidate.is_some() || self.rotation.is_some();
        if !by_mqtts
            || is_busy
            || self.config.fleet_url.is_none()
            || certificate::path(&self.config).is_none()
        {
            return;
        }
        let Certificates { stored, trial, offered, not_before, .. } = &mut self.certificates;
        let is_wanted = match stored {
            _ if certificate::is_somebodys(&self.config) => false,
            Some(stored) => {
                let now_ms = self.clock.now_ms(self.kernel.boottime_ms());
                trial.is_bad() || now_ms.is_some_and(|now_ms| now_ms >= stored.renew_at_ms)
            }
            None if certificate::is_ours(&self.config) => true,
            None if *offered && not_before.is_none() => {
                *not_before = Some(now + Duration::from_millis(random() % OFFER_SPREAD_MS));
                false
            }
            None => *offered,
        };
        if is_wanted {
            self.certificates.asking = true;
            if let Err(error) = self.effects.ask_for_certificate(self.config.clone()) {
                self.certificate_asked(Err(error)).await;
            }
        }
    }

    /// The server has signed, or not.
    pub(super) async fn certificate_asked(&mut self, asked: io::Result<Result<Issued, CertificateError>>) {
        self.certificates.asking = false;
        match asked {
            Ok(Ok(issued)) => {
                tracing::info!("the server has signed a certificate: connecting with it");
                self.certificates.candidate = Some(issued);
                self.hang_up().await;
            }
            Ok(Err(error)) => {
                let at_least = match &error {
                    CertificateError::Status { retry_after_seconds: Some(seconds), .. } => {
                        Duration::from_secs((*seconds).min(3600))
                    }
                    _ => Duration::ZERO,
                };
                self.no_certificate(&with_causes(&error), at_least);
            }
            Err(error) => self.no_certificate(&error.to_string(), Duration::ZERO),
        }
    }

    async fn keep_certificate(&mut self, now: Duration) {
        let Some(new) = self.certificates.candidate.clone() else { return };
        let (config, keeping) = (self.config.clone(), new.clone());
        let kept = tokio::task::spawn_blocking(move || keeping.keep(&config)).await;
        let problem = match kept {
            Ok(Ok(())) => {
                let until = protocol::message::rfc3339(new.expires_at_ms);
                tracing::info!(until, "this device logs in by a certificate from now on");
                (self.certificates.stored, self.certificates.candidate) = (Some(new), None);
                self.certificates.with = With::Certificate;
                (self.certificates.not_before, self.certificates.backoff) = (None, RETRY);
                self.read_config_again();
                self.reporter.touch();
                return;
            }
            Ok(Err(error)) => with_causes(&error),
            Err(error) => error.to_string(),
        };
        tracing::error!("{problem}");
        self.reporter.error(problem, self.kernel.wall_ms());
        self.certificates.not_before = Some(now + WRITE_AGAIN);
    }

    fn no_certificate(&mut self, problem: &str, at_least: Duration) {
        let wait = self.certificates.backoff.next(random()).max(at_least);
        self.certificates.not_before = Some(self.now() + wait);
        tracing::warn!(retry_in_seconds = wait.as_secs(), "no new certificate: {problem}");
    }
}

/// What the thread says that has asked.
pub(super) fn ask(config: &Config) -> Done {
    Done::Certificate(certificate::ask(config).map(Box::new))
}
