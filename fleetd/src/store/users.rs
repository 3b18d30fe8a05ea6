//! Accounts of people and services, and the name space that they share with devices.

use protocol::id::{OrgSlug, UserName};

use super::listing::{self, PageOf, SortKeys};
use super::{Row, Statement, Store, StoreError, Value, orgs, parse_column};
use crate::domain::org::OrgId;
use crate::domain::user::{Email, Kind, User};
use crate::values;

const SELECT: &str = "SELECT u.id, u.org_id, o.slug AS org_slug, u.email, u.username, u.name, u.role, \
     u.is_superadmin, u.is_active, u.password_hash, u.must_change_password, u.token_version, u.created_at, u.last_login_at, u.kind";

const FROM: &str = "FROM users u JOIN organizations o ON o.id = u.org_id";

/// What a list of accounts can be sorted by.
pub const SORT_KEYS: &SortKeys = &[
    ("username", "u.username"),
    ("name", "lower(u.name)"),
    ("email", "u.email"),
    ("role", "u.role"),
    ("created_at", "u.created_at"),
    ("last_login", "u.last_login_at"),
];

/// An account with the hash of its password. The hash goes nowhere but into the comparison.
pub struct StoredUser {
    /// The account.
    pub user: User,
    /// Argon2id, in PHC form; a service account has none.
    pub password_hash: Option<String>,
}

/// The account of this id.
///
/// # Errors
/// [`StoreError`].
pub async fn by_id(store: &Store, id: &str) -> Result<Option<StoredUser>, StoreError> {
    one(store, "u.id = ?1", values![id]).await
}

/// The account of this e-mail address.
///
/// # Errors
/// [`StoreError`].
pub async fn by_email(store: &Store, email: &Email) -> Result<Option<StoredUser>, StoreError> {
    one(store, "u.email = ?1", values![email.as_str()]).await
}

/// The account of this name in an organisation.
///
/// # Errors
/// [`StoreError`].
pub async fn by_username(
    store: &Store,
    org: &OrgSlug,
    name: &UserName,
) -> Result<Option<StoredUser>, StoreError> {
    one(store, "o.slug = ?1 AND u.username = ?2", values![org.as_str(), name.as_str()]).await
}

/// The account of this kind and id in an organisation.
///
/// # Errors
/// [`StoreError`].
pub async fn find(store: &Store, org: &OrgId, kind: Kind, id: &str) -> Result<Option<User>, StoreError> {
    let condition = "u.id = ?1 AND u.org_id = ?2 AND u.kind = ?3";
    Ok(one(store, condition, values![id, org.as_str(), kind.as_str()]).await?.map(|stored| stored.user))
}

/// All accounts of a kind, or those of one organisation, by name.
///
/// # Errors
/// [`StoreError`].
pub async fn all(store: &Store, kind: Kind, org: Option<&OrgSlug>) -> Result<Vec<User>, StoreError> {
    let (condition, mut params) = match org {
        Some(org) => ("AND o.slug = ?2", values![org.as_str()]),
        None => ("", Vec::new()),
    };
    params.insert(0, kind.as_str().into());
    let sql = format!("{SELECT} {FROM} WHERE u.kind = ?1 {condition} ORDER BY o.slug, u.username");
    let rows = store.query(sql, params).await?;
    rows.iter().map(|row| read(row).map(|stored| stored.user)).collect()
}

/// One page of an organisation's accounts of a kind, and how many there are.
///
/// # Errors
/// [`StoreError`].
pub async fn page(
    store: &Store,
    org: &OrgId,
    kind: Kind,
    page: PageOf,
) -> Result<(Vec<User>, i64), StoreError> {
    let (condition, params) = ("u.org_id = ?1 AND u.kind = ?2", values![org.as_str(), kind.as_str()]);
    let (rows, total) = listing::page(store, SELECT, FROM, condition, params, "u.username", page).await?;
    let users = rows.iter().map(|row| read(row).map(|stored| stored.user)).collect::<Result<_, _>>()?;
    Ok((users, total))
}

/// Whether there is any person at all.
///
/// # Errors
/// [`StoreError`].
pub async fn any(store: &Store) -> Result<bool, StoreError> {
    Ok(store.query_one("SELECT id FROM users WHERE kind = 'person' LIMIT 1", Vec::new()).await?.is_some())
}

/// Whether there is a person whose password has to be changed.
///
/// # Errors
/// [`StoreError`].
pub async fn any_with_first_password(store: &Store) -> Result<bool, StoreError> {
    let sql = "SELECT id FROM users WHERE must_change_password = 1 AND is_active = 1 LIMIT 1";
    Ok(store.query_one(sql, Vec::new()).await?.is_some())
}

/// That there is another person than `?1` who can look after their organisation.
const ANOTHER_ADMIN: &str = "EXISTS (SELECT 1 FROM users o, users u WHERE u.id = ?1 AND o.org_id = u.org_id AND o.id <> u.id \
     AND o.kind = 'person' AND o.role = 'admin' AND o.is_active = 1)";

/// Whether the organisation of this account has another active admin.
///
/// # Errors
/// [`StoreError`].
pub async fn has_another_admin(store: &Store, id: &str) -> Result<bool, StoreError> {
    Ok(store.query_one(format!("SELECT 1 AS one WHERE {ANOTHER_ADMIN}"), values![id]).await?.is_some())
}

/// Adds an account and takes its name in the organisation. A taken name is a [`StoreError::Unique`] on
/// `principal_names.name`, a taken address one on `users.email`.
#[must_use]
pub fn insert(user: &User, password_hash: Option<&str>) -> [Statement; 2] {
    let (name_of, address) = match &user.email {
        Some(email) => ("user", email.as_str().to_owned()),
        None => ("service", format!("service:{}", user.id)),
    };
    [
        take_name(&user.org.id, user.username.as_str(), name_of, &user.id),
        Statement::new(
            "INSERT INTO users (id, org_id, email, username, name, role, is_superadmin, is_active, password_hash, \
             token_version, created_at, updated_at, kind, must_change_password) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?11, ?12, ?13)",
            values![
                &user.id,
                user.org.id.as_str(),
                address,
                user.username.as_str(),
                &user.name,
                user.role.as_str(),
                user.is_superadmin,
                user.is_active,
                password_hash.unwrap_or_default(),
                user.token_version,
                user.created_at,
                user.kind().as_str(),
                user.must_change_password
            ],
        ),
    ]
}

/// Takes a name in the name space of an organisation; fails if somebody has it.
#[must_use]
pub fn take_name(org: &OrgId, name: &str, kind: &'static str, owner_id: &str) -> Statement {
    Statement::new(
        "INSERT INTO principal_names (org_id, name, kind, owner_id) VALUES (?1, ?2, ?3, ?4)",
        values![org.as_str(), name, kind, owner_id],
    )
}

/// Notes a login.
#[must_use]
pub fn note_login(user_id: &str, now_ms: i64) -> Statement {
    Statement::new("UPDATE users SET last_login_at = ?2 WHERE id = ?1", values![user_id, now_ms])
}

/// Gives the account a new password and ends every access and refresh token of it; only if nobody did so meanwhile.
/// `must_change`: it has to be changed at its first use.
#[must_use]
pub fn set_password(user: &User, password_hash: &str, must_change: bool, now_ms: i64) -> [Statement; 2] {
    [
        Statement::new(
            "UPDATE users SET password_hash = ?3, token_version = token_version + 1, updated_at = ?4, must_change_password = ?5 \
             WHERE id = ?1 AND token_version = ?2",
            values![&user.id, user.token_version, password_hash, now_ms, must_change],
        )
        .expect_rows(1),
        drop_refresh_tokens(&user.id),
    ]
}

/// Makes of an account what it is to be; only if it is still what it was, and leaves the organisation an admin. One that is
/// disabled by it loses every token.
#[must_use]
pub fn update(before: &User, after: &User, now_ms: i64) -> Vec<Statement> {
    let disabled = before.is_active && !after.is_active;
    let bereft = before.is_acting_admin() && !after.is_acting_admin();
    let sql = format!(
        "UPDATE users SET name = ?2, role = ?3, is_active = ?4, is_superadmin = ?5, token_version = token_version + ?6, \
         updated_at = ?7 WHERE id = ?1 AND role = ?8 AND is_active = ?9 AND is_superadmin = ?10 AND token_version = ?11 \
         AND {}",
        if bereft { ANOTHER_ADMIN } else { "1 = 1" }
    );
    let params = values![
        &before.id,
        &after.name,
        after.role.as_str(),
        after.is_active,
        after.is_superadmin,
        i64::from(disabled),
        now_ms,
        before.role.as_str(),
        before.is_active,
        before.is_superadmin,
        before.token_version
    ];
    let mut statements = vec![Statement::new(sql, params).expect_rows(1)];
    if disabled {
        statements.push(drop_refresh_tokens(&before.id));
    }
    statements
}

fn drop_refresh_tokens(user_id: &str) -> Statement {
    Statement::new("DELETE FROM refresh_tokens WHERE user_id = ?1", values![user_id])
}

async fn one(store: &Store, condition: &str, params: Vec<Value>) -> Result<Option<StoredUser>, StoreError> {
    let row = store.lookup_one(format!("{SELECT} {FROM} WHERE {condition}"), params).await?;
    row.map(|row| read(&row)).transpose()
}

fn read(row: &Row) -> Result<StoredUser, StoreError> {
    let is_person = row.text("kind")? == Kind::Person.as_str();
    Ok(StoredUser {
        user: User {
            id: row.text("id")?,
            org: orgs::read_ref(row)?,
            email: if is_person { Some(parse_column(row, "email")?) } else { None },
            username: parse_column(row, "username")?,
            name: row.text("name")?,
            role: parse_column(row, "role")?,
            is_superadmin: row.bool("is_superadmin")?,
            is_active: row.bool("is_active")?,
            must_change_password: row.bool("must_change_password")?,
            token_version: row.int("token_version")?,
            created_at: row.int("created_at")?,
            last_login_at: row.opt_int("last_login_at")?,
        },
        password_hash: Some(row.text("password_hash")?).filter(|hash| !hash.is_empty()),
    })
}
