//! Organisations: added and changed by those who own them.

use protocol::id::OrgSlug;
use serde_json::{Value, json};

use super::accounts::read_name;
use super::{Desk, Error};
use crate::domain::audit::{AuditContext, Resource};
use crate::domain::org::{OrgId, OrgPatch, Organization};
use crate::store::{Store, StoreError, orgs};

/// How often a change is tried again when somebody else changes the same organisation.
const ATTEMPTS: usize = 3;

/// An organisation to be added.
#[derive(Debug)]
pub struct NewOrg {
    /// As in topics.
    pub slug: OrgSlug,
    /// For people.
    pub name: String,
    /// Settings, by key.
    pub settings: Value,
    /// Most devices that may be registered.
    pub max_devices: Option<i64>,
}

/// Adds an organisation, as the command line does.
///
/// # Errors
/// As [`create`].
pub async fn add(store: &Store, slug: OrgSlug, name: &str, now_ms: i64) -> Result<Organization, Error> {
    let context = AuditContext::system();
    let new = NewOrg { slug, name: name.to_owned(), settings: json!({}), max_devices: None };
    create(Desk { store, now_ms, source: "", context: &context }, new).await
}

/// Adds an organisation.
///
/// # Errors
/// [`Error::Invalid`] for the name, [`Error::Conflict`] for a slug that is taken.
pub async fn create(desk: Desk<'_>, new: NewOrg) -> Result<Organization, Error> {
    let org = Organization {
        id: OrgId::new(uuid::Uuid::new_v4().to_string()),
        name: read_name(&new.name)?,
        slug: new.slug,
        settings: new.settings,
        max_devices: new.max_devices,
        created_at: desk.now_ms,
        updated_at: desk.now_ms,
    };
    let details = json!({"name": org.name, "max_devices": org.max_devices});
    let resource = Resource::new("org", org.slug.as_str());
    let statements = vec![orgs::insert(&org), desk.note(&org.id, "org.create", resource, details)];
    match desk.store.apply(statements).await {
        Ok(_) => Ok(org),
        Err(StoreError::Unique { .. }) => {
            Err(Error::Conflict(format!("there is already an organisation {}", org.slug)))
        }
        Err(error) => Err(error.into()),
    }
}

/// The organisation of this id.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Store`].
pub async fn get(store: &Store, id: &str) -> Result<Organization, Error> {
    let found = orgs::by_id(store, &OrgId::new(id.to_owned())).await?;
    found.ok_or_else(|| Error::NotFound("there is no organisation of this id".to_owned()))
}

/// Changes an organisation. Fewer devices than there are take none away; no more are registered.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Conflict`], [`Error::Store`].
pub async fn change(desk: Desk<'_>, id: &str, patch: &OrgPatch) -> Result<Organization, Error> {
    let mut attempt = 1;
    loop {
        let before = get(desk.store, id).await?;
        let after = patch.clone().apply(before.clone());
        let details = json!({
            "name": after.name,
            "max_devices": after.max_devices,
            "settings_changed": after.settings != before.settings,
        });
        let resource = Resource::new("org", after.slug.as_str());
        let statements = vec![
            orgs::update(&before, &after, desk.now_ms),
            desk.note(&after.id, "org.update", resource, details),
        ];
        match desk.store.apply(statements).await.map_err(Error::from) {
            Ok(_) => return get(desk.store, id).await,
            Err(Error::Conflict(_)) if attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}
