//! People's accounts, and the name space that they share with devices.

use protocol::id::{OrgSlug, UserName};

use super::{Row, Statement, Store, StoreError, Value, orgs, parse_column};
use crate::domain::org::OrgId;
use crate::domain::user::{Email, User};
use crate::values;

const SELECT: &str = "SELECT u.id, u.org_id, o.slug AS org_slug, u.email, u.username, u.name, u.role, \
     u.is_superadmin, u.is_active, u.password_hash, u.token_version, u.created_at, u.last_login_at \
     FROM users u JOIN organizations o ON o.id = u.org_id";

/// An account with the hash of its password. The hash goes nowhere but into the comparison.
pub struct StoredUser {
    /// The account.
    pub user: User,
    /// Argon2id, in PHC form.
    pub password_hash: String,
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

/// All accounts, or those of one organisation, by e-mail address.
///
/// # Errors
/// [`StoreError`].
pub async fn all(store: &Store, org: Option<&OrgSlug>) -> Result<Vec<User>, StoreError> {
    let (condition, params) = match org {
        Some(org) => (" WHERE o.slug = ?1", values![org.as_str()]),
        None => ("", Vec::new()),
    };
    let rows = store.query(format!("{SELECT}{condition} ORDER BY u.email"), params).await?;
    rows.iter().map(|row| read(row).map(|stored| stored.user)).collect()
}

/// Whether there is any account at all.
///
/// # Errors
/// [`StoreError`].
pub async fn any(store: &Store) -> Result<bool, StoreError> {
    Ok(store.query_one("SELECT id FROM users LIMIT 1", Vec::new()).await?.is_some())
}

/// Adds an account and takes its name in the organisation. A taken name is a [`StoreError::Unique`] on
/// `principal_names.name`, a taken address one on `users.email`.
#[must_use]
pub fn insert(user: &User, password_hash: &str) -> [Statement; 2] {
    [
        take_name(&user.org.id, user.username.as_str(), "user", &user.id),
        Statement::new(
            "INSERT INTO users (id, org_id, email, username, name, role, is_superadmin, is_active, password_hash, \
             token_version, created_at, updated_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?11)",
            values![
                &user.id,
                user.org.id.as_str(),
                user.email.as_str(),
                user.username.as_str(),
                &user.name,
                user.role.as_str(),
                user.is_superadmin,
                user.is_active,
                password_hash,
                user.token_version,
                user.created_at
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
#[must_use]
pub fn set_password(user: &User, password_hash: &str, now_ms: i64) -> [Statement; 2] {
    [
        Statement::new(
            "UPDATE users SET password_hash = ?3, token_version = token_version + 1, updated_at = ?4 \
             WHERE id = ?1 AND token_version = ?2",
            values![&user.id, user.token_version, password_hash, now_ms],
        )
        .expect_rows(1),
        drop_refresh_tokens(&user.id),
    ]
}

/// Disables the account and ends every token of it.
#[must_use]
pub fn disable(user_id: &str, now_ms: i64) -> [Statement; 2] {
    [
        Statement::new(
            "UPDATE users SET is_active = 0, token_version = token_version + 1, updated_at = ?2 WHERE id = ?1",
            values![user_id, now_ms],
        )
        .expect_rows(1),
        drop_refresh_tokens(user_id),
    ]
}

fn drop_refresh_tokens(user_id: &str) -> Statement {
    Statement::new("DELETE FROM refresh_tokens WHERE user_id = ?1", values![user_id])
}

async fn one(store: &Store, condition: &str, params: Vec<Value>) -> Result<Option<StoredUser>, StoreError> {
    let row = store.lookup_one(format!("{SELECT} WHERE {condition}"), params).await?;
    row.map(|row| read(&row)).transpose()
}

fn read(row: &Row) -> Result<StoredUser, StoreError> {
    Ok(StoredUser {
        user: User {
            id: row.text("id")?,
            org: orgs::read_ref(row)?,
            email: parse_column(row, "email")?,
            username: parse_column(row, "username")?,
            name: row.text("name")?,
            role: parse_column(row, "role")?,
            is_superadmin: row.bool("is_superadmin")?,
            is_active: row.bool("is_active")?,
            token_version: row.int("token_version")?,
            created_at: row.int("created_at")?,
            last_login_at: row.opt_int("last_login_at")?,
        },
        password_hash: row.text("password_hash")?,
    })
}
