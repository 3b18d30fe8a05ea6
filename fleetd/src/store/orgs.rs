//! Organisations.

use protocol::id::OrgSlug;

use super::listing::{self, PageOf, SortKeys};
use super::{Row, Statement, Store, StoreError, parse_column};
use crate::domain::org::{OrgId, OrgRef, Organization};
use crate::values;

const COLUMNS: &str = "id, slug, name, settings, max_devices, created_at, updated_at";

/// What a list of organisations can be sorted by.
pub const SORT_KEYS: &SortKeys =
    &[("slug", "slug"), ("name", "lower(name)"), ("created_at", "created_at"), ("updated_at", "updated_at")];

/// The organisation of this slug.
///
/// # Errors
/// [`StoreError`].
pub async fn by_slug(store: &Store, slug: &OrgSlug) -> Result<Option<Organization>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM organizations WHERE slug = ?1");
    store.query_one(sql, values![slug.as_str()]).await?.map(|row| read(&row)).transpose()
}

/// The organisation with this id.
///
/// # Errors
/// [`StoreError`].
pub async fn by_id(store: &Store, id: &OrgId) -> Result<Option<Organization>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM organizations WHERE id = ?1");
    store.query_one(sql, values![id.as_str()]).await?.map(|row| read(&row)).transpose()
}

/// Every organisation, by slug.
///
/// # Errors
/// [`StoreError`].
pub async fn all(store: &Store) -> Result<Vec<Organization>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM organizations ORDER BY slug");
    store.query(sql, Vec::new()).await?.iter().map(read).collect()
}

/// One page of all organisations, and how many there are.
///
/// # Errors
/// [`StoreError`].
pub async fn page(store: &Store, page: PageOf) -> Result<(Vec<Organization>, i64), StoreError> {
    let (select, from) = (format!("SELECT {COLUMNS}"), "FROM organizations");
    let (rows, total) = listing::page(store, &select, from, "1 = 1", Vec::new(), "slug", page).await?;
    Ok((rows.iter().map(read).collect::<Result<_, _>>()?, total))
}

/// Makes of an organisation what it is to be; only if nobody changed it meanwhile.
#[must_use]
pub fn update(before: &Organization, after: &Organization, now_ms: i64) -> Statement {
    Statement::new(
        "UPDATE organizations SET name = ?2, settings = ?3, max_devices = ?4, updated_at = \
         CASE WHEN ?5 > updated_at THEN ?5 ELSE updated_at + 1 END \
         WHERE id = ?1 AND updated_at = ?6",
        values![
            before.id.as_str(),
            &after.name,
            after.settings.to_string(),
            after.max_devices,
            now_ms,
            before.updated_at
        ],
    )
    .expect_rows(1)
}

/// Fails with a conflict if the organisation has all the devices that it may have; put it before what adds one.
#[must_use]
pub fn check_room(org: &OrgId) -> Statement {
    Statement::new(
        "UPDATE organizations SET max_devices = max_devices WHERE id = ?1 AND (max_devices IS NULL OR max_devices > \
         (SELECT count(*) FROM devices WHERE org_id = ?1 AND decommissioned_at IS NULL))",
        values![org.as_str()],
    )
    .expect_rows(1)
}

/// Adds an organisation; a taken slug is a [`StoreError::Unique`].
#[must_use]
pub fn insert(org: &Organization) -> Statement {
    Statement::new(
        "INSERT INTO organizations (id, slug, name, settings, max_devices, created_at, updated_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        values![
            org.id.as_str(),
            org.slug.as_str(),
            &org.name,
            org.settings.to_string(),
            org.max_devices,
            org.created_at,
            org.updated_at
        ],
    )
}

/// Reads the organisation that a joined query names `org_id` and `org_slug`.
pub(super) fn read_ref(row: &Row) -> Result<OrgRef, StoreError> {
    Ok(OrgRef { id: OrgId::new(row.text("org_id")?), slug: parse_column(row, "org_slug")? })
}

fn read(row: &Row) -> Result<Organization, StoreError> {
    Ok(Organization {
        id: OrgId::new(row.text("id")?),
        slug: parse_column(row, "slug")?,
        name: row.text("name")?,
        settings: row.opt_json("settings")?.unwrap_or_default(),
        max_devices: row.opt_int("max_devices")?,
        created_at: row.int("created_at")?,
        updated_at: row.int("updated_at")?,
    })
}
