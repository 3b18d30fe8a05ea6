//! Enrolment keys: made and taken back.

use protocol::id::OrgSlug;
use serde_json::json;

use super::accounts::find_org;
use super::{Desk, Error};
use crate::auth::token::NewToken;
use crate::config::Secret;
use crate::domain::audit::{AuditContext, Resource};
use crate::domain::enrollment::EnrollmentKey;
use crate::domain::org::OrgId;
use crate::store::{Store, enrollment_keys};

const HOUR_MS: i64 = 3_600_000;

/// How an enrolment key may be used.
#[derive(Debug, Clone, Default)]
pub struct KeyTerms {
    /// How many devices; `None`: any number.
    pub max_uses: Option<i64>,
    /// For how long; `None`: for ever.
    pub expires_in_hours: Option<i64>,
    /// Whether an admin has to approve each device.
    pub require_approval: bool,
}

impl KeyTerms {
    /// When a key made now ends, ms since 1970.
    #[must_use]
    pub fn expires_at(&self, now_ms: i64) -> Option<i64> {
        self.expires_in_hours.map(|hours| now_ms.saturating_add(hours.saturating_mul(HOUR_MS)))
    }
}

/// Adds an enrolment key, as the command line does; the key itself is known only to the caller.
///
/// # Errors
/// [`Error::NotFound`] for the organisation, [`Error::Store`].
pub async fn add(store: &Store, org: &OrgSlug, terms: &KeyTerms, now_ms: i64) -> Result<Secret, Error> {
    let org = find_org(store, org).await?;
    let context = AuditContext::system();
    let desk = Desk { store, now_ms, source: "", context: &context };
    let (max_uses, approval) = (terms.max_uses, terms.require_approval);
    Ok(create(desk, &org.id, max_uses, terms.expires_at(now_ms), approval).await?.1)
}

/// Adds an enrolment key, and gives the key itself, this once.
///
/// # Errors
/// [`Error::Store`].
pub async fn create(
    desk: Desk<'_>,
    org: &OrgId,
    max_uses: Option<i64>,
    expires_at: Option<i64>,
    require_approval: bool,
) -> Result<(EnrollmentKey, Secret), Error> {
    let made = NewToken::generate().map_err(Error::internal)?;
    let key = EnrollmentKey {
        id: uuid::Uuid::new_v4().to_string(),
        key_prefix: made.prefix().to_owned(),
        max_uses,
        uses: 0,
        require_approval,
        expires_at,
        created_at: desk.now_ms,
    };
    // The key as the API shows it, without what comes with time.
    let details = json!({
        "max_uses": key.max_uses,
        "expires_at": key.expires_at.map(protocol::message::rfc3339),
        "require_approval": key.require_approval,
    });
    let resource = Resource::new("enrollment_key", &key.key_prefix);
    let statements = vec![
        enrollment_keys::insert(org, &key, made.hash),
        desk.note(org, "enrollment_key.create", resource, details),
    ];
    desk.store.apply(statements).await?;
    Ok((key, made.text))
}

/// The key of this row, unless it was taken back.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Store`].
pub async fn get(store: &Store, org: &OrgId, id: &str) -> Result<EnrollmentKey, Error> {
    enrollment_keys::in_org(store, org, id).await?.ok_or_else(|| {
        Error::NotFound("there is no enrolment key of this id in your organisation".to_owned())
    })
}

/// Takes a key back. Devices that enrolled with it keep their own tokens.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Conflict`], [`Error::Store`].
pub async fn revoke(desk: Desk<'_>, org: &OrgId, id: &str) -> Result<EnrollmentKey, Error> {
    let key = get(desk.store, org, id).await?;
    let resource = Resource::new("enrollment_key", &key.key_prefix);
    let details = json!({"uses": key.uses});
    let statements = vec![
        enrollment_keys::revoke(&key.id, desk.now_ms),
        desk.note(org, "enrollment_key.revoke", resource, details),
    ];
    desk.store.apply(statements).await?;
    Ok(key)
}
