//! Who may connect over MQTT, decided by the database.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use broker::tls::CertificateHash;
use broker::{Authentication, Authenticator, ConnectAttempt, Principal, PrincipalKey, Refusal};
use protocol::id::{DeviceId, OrgSlug, StateId, UserName};
use protocol::message::DeviceAction;

use super::caller::person_by_api_key;
use super::policy;
use super::token::{TOKEN_LEN, TOKEN_MAX_LEN, TokenHash};
use crate::app::AppState;
use crate::config::Secret;
use crate::domain::user::Email;
use crate::service::ingest::DeviceName;
use crate::service::{Error, tokens};
use crate::store::users::{self, StoredUser};
use crate::store::{certificates, credentials};

/// What the rest of the server needs of the broker beside it: connections that can be ended, and devices that can be told
/// something.
pub trait LiveConnections: Send + Sync + 'static {
    /// Ends every live connection of a principal, and says how many there were.
    fn end(&self, who: &PrincipalKey) -> usize;
    /// Ends those that it made with one API key (the id of its row) or certificate (its serial number), and says how many there
    /// were.
    fn end_with(&self, who: &PrincipalKey, key: &str) -> usize;
    /// Whether a device is connected. Without a broker that knows, its birth has to do.
    fn device_connected(&self, _org: &OrgSlug, _device: &DeviceId) -> bool {
        true
    }
    /// Tells a device something that is meant for this state database of it, and returns once the broker has it.
    fn tell<'a>(
        &'a self,
        device: &'a DeviceName,
        state_id: StateId,
        action: DeviceAction,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;
    /// Whether the broker works.
    fn healthy(&self) -> bool;
}

/// Checks user names and passwords of MQTT clients against the database.
///
/// Devices send `{org}/{device}` and their token, or show a certificate and send no password; people `{org}/{user}` or their e-mail
/// address and an API key or their password. A password that is sent decides alone.
#[derive(Debug)]
pub struct DatabaseAuthenticator {
    app: Arc<AppState>,
}

impl DatabaseAuthenticator {
    /// Uses the parts of the running server.
    #[must_use]
    pub fn new(app: Arc<AppState>) -> Self {
        Self { app }
    }

    async fn check(&self, attempt: ConnectAttempt) -> Result<Principal, Refusal> {
        let address = attempt.peer.ip();
        if attempt.transport.is_plaintext() && !self.app.auth.proxies.plaintext_allowed(address) {
            return Err(Refusal::PlaintextForbidden);
        }
        let (name, password) = match (attempt.username, attempt.password, attempt.certificate) {
            (Some(name), Some(password), _) => (name, password),
            (_, None, Some(certificate)) => {
                return self.certified(address, &attempt.client_id, certificate).await;
            }
            _ => return Err(Refusal::BadCredentials),
        };
        let Some(password) = password.as_str().map(|text| Secret::new(text.to_owned())) else {
            return Err(self.failed(address, &name));
        };
        if let Some((org, local)) = split(&name)
            && let Some(device) = self.device(&org, local, &password).await?
        {
            return Ok(device);
        }
        self.person(address, &name, password).await
    }

    /// The device whose certificate this is. The gate sees to it that client id and user name are its own.
    async fn certified(
        &self,
        address: IpAddr,
        client_id: &str,
        certificate: CertificateHash,
    ) -> Result<Principal, Refusal> {
        let (store, now_ms) = (&self.app.store, self.app.clock.now_ms());
        match certificates::owner(store, certificate, now_ms).await.map_err(unavailable)? {
            Some(known) => Ok(Principal::Device {
                org: known.org.slug,
                device: known.device,
                credential: known.certificate,
            }),
            None => Err(self.failed(address, client_id)),
        }
    }

    /// The device of this name, if there is one and the token is its own.
    async fn device(&self, org: &OrgSlug, name: &str, token: &Secret) -> Result<Option<Principal>, Refusal> {
        let Ok(device) = DeviceId::new(name) else { return Ok(None) };
        if token.expose().len() > TOKEN_MAX_LEN {
            return Ok(None);
        }
        let (app, hash) = (&self.app, TokenHash::of(token.expose()));
        let now_ms = app.clock.now_ms();
        let known = credentials::device(&app.store, org, &device, now_ms).await.map_err(unavailable)?;
        let right = match known.iter().find(|known| known.hash == hash) {
            Some(known) => tokens::settle(app, known, true).await.map_err(unavailable)?,
            None => false,
        };
        Ok(right.then(|| Principal::Device { org: org.clone(), device, credential: None }))
    }

    async fn person(&self, address: IpAddr, name: &str, password: Secret) -> Result<Principal, Refusal> {
        let store = &self.app.store;
        let stored = match (name.parse::<Email>(), split(name)) {
            (Ok(email), _) => users::by_email(store, &email).await.map_err(unavailable)?,
            (Err(_), Some((org, local))) => match UserName::new(local) {
                Ok(user) => users::by_username(store, &org, &user).await.map_err(unavailable)?,
                Err(_) => None,
            },
            (Err(_), None) => None,
        };
        // A key is 64 hex characters: checked first, as it costs nothing.
        if looks_like_a_key(&password) {
            let now_ms = self.app.clock.now_ms();
            let person = person_by_api_key(store, &password, now_ms).await.map_err(refusal)?;
            if let (Some(person), Some(stored)) = (person, &stored)
                && person.user.id == stored.user.id
            {
                let role = policy::mqtt_role(&person).ok_or(Refusal::NotAuthorized)?;
                let credential = person.key.map(|key| key.id);
                return Ok(Principal::Person {
                    org: person.user.org.slug,
                    user: person.user.username,
                    role,
                    credential,
                });
            }
            // A wrong key or a wrong device token. No password is tried: it would cost a second of computing for each
            // of a venue's devices that were decommissioned.
            return Err(self.failed(address, name));
        }
        let hash = stored.as_ref().and_then(|stored| stored.password_hash.clone());
        self.app.auth.check_password(address, name, password, hash).await.map_err(refusal)?;
        match stored {
            Some(StoredUser { user, .. }) if user.is_active && !user.must_change_password => {
                Ok(Principal::Person {
                    org: user.org.slug,
                    user: user.username,
                    role: user.role,
                    credential: None,
                })
            }
            Some(_) => Err(Refusal::NotAuthorized),
            None => Err(Refusal::BadCredentials),
        }
    }

    fn failed(&self, address: IpAddr, account: &str) -> Refusal {
        refusal(self.app.auth.failed(address, account, "wrong user name, password or token"))
    }
}

impl Authenticator for DatabaseAuthenticator {
    fn authenticate<'a>(&'a self, attempt: ConnectAttempt) -> Authentication<'a> {
        Box::pin(self.check(attempt))
    }
}

fn split(name: &str) -> Option<(OrgSlug, &str)> {
    let (org, local) = name.split_once('/')?;
    Some((OrgSlug::new(org).ok()?, local))
}

fn looks_like_a_key(password: &Secret) -> bool {
    let text = password.expose();
    text.len() == TOKEN_LEN && text.bytes().all(|c| c.is_ascii_hexdigit())
}

fn unavailable(error: crate::store::StoreError) -> Refusal {
    tracing::error!(error = &error as &dyn std::error::Error, "cannot check an MQTT login");
    Refusal::Unavailable
}

fn refusal(error: Error) -> Refusal {
    match error {
        Error::Unauthorized(_) => Refusal::BadCredentials,
        Error::TooMany { .. } => Refusal::TooManyFailures,
        Error::Forbidden(_) => Refusal::NotAuthorized,
        other => {
            tracing::error!(error = &other as &dyn std::error::Error, "cannot check an MQTT login");
            Refusal::Unavailable
        }
    }
}
