//! People.

use protocol::id::{OrgSlug, Role, UserName};
use serde::Serialize;

use super::fields::{FieldError, Fields, flag, name, parsed};
use super::org::{OrgId, OrgRef};
use super::time;

/// Longest e-mail address, in bytes.
pub const EMAIL_MAX_BYTES: usize = 254;
/// Longest name of a person, in characters.
pub const NAME_MAX_CHARS: usize = 200;

/// An e-mail address, in small letters. Only its outer form is checked; whether it receives mail is not known.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Email(String);

/// Why an address was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EmailError {
    /// Longer than [`EMAIL_MAX_BYTES`].
    #[error("an e-mail address has at most {EMAIL_MAX_BYTES} bytes")]
    TooLong,
    /// Not `name@domain`.
    #[error("an e-mail address looks like name@example.org, without spaces")]
    Form,
    /// Letters that look like others would make two accounts look like one.
    #[error("an e-mail address has ASCII characters only; {0:?} may look like another letter")]
    NotAscii(char),
}

impl Email {
    /// The address as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a new account may have it. Accounts that have another one already keep it.
    ///
    /// # Errors
    /// [`EmailError::NotAscii`].
    pub fn check_new(&self) -> Result<(), EmailError> {
        self.0.chars().find(|c| !c.is_ascii()).map_or(Ok(()), |c| Err(EmailError::NotAscii(c)))
    }

    /// The part before the `@`, made to fit the rule for user names; the default user name.
    #[must_use]
    pub fn suggested_username(&self) -> Option<UserName> {
        let local = self.0.split('@').next().unwrap_or_default();
        let fitted: String =
            local
                .chars()
                .map(|c| {
                    if c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-') {
                        c
                    } else {
                        '-'
                    }
                })
                .collect();
        let fitted: String = fitted.trim_start_matches(['-', '_']).chars().take(63).collect();
        UserName::new(&fitted).ok()
    }
}

impl std::str::FromStr for Email {
    type Err = EmailError;

    fn from_str(text: &str) -> Result<Self, EmailError> {
        let text = text.trim();
        if text.len() > EMAIL_MAX_BYTES {
            return Err(EmailError::TooLong);
        }
        let (local, domain) = text.split_once('@').ok_or(EmailError::Form)?;
        let odd =
            |c: char| c.is_whitespace() || c.is_control() || matches!(c, '@' | '/' | '<' | '>' | '"' | ',');
        if local.is_empty() || domain.is_empty() || domain.starts_with('.') || domain.ends_with('.') {
            return Err(EmailError::Form);
        }
        if local.chars().any(odd) || domain.chars().any(odd) {
            return Err(EmailError::Form);
        }
        let small = text.to_lowercase();
        // There are letters whose small form is an ASCII one: no other way to write an address.
        match text.chars().find(|c| !c.is_ascii()) {
            Some(odd) if small.is_ascii() => Err(EmailError::NotAscii(odd)),
            _ => Ok(Self(small)),
        }
    }
}

/// Whose account it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A person's, with an e-mail address and a password.
    Person,
    /// A program's, with API keys alone.
    Service,
}

impl Kind {
    /// As the database has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Person => "person",
            Self::Service => "service",
        }
    }

    /// As the audit log names the resource.
    #[must_use]
    pub const fn resource(self) -> &'static str {
        match self {
            Self::Person => "user",
            Self::Service => "service_account",
        }
    }
}

/// An account as the server needs it. The password's hash stays in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The row: a UUID.
    pub id: String,
    /// Where the person belongs.
    pub org: OrgRef,
    /// Unique on the whole server; a service account has none.
    pub email: Option<Email>,
    /// Unique in the organisation, also among devices.
    pub username: UserName,
    /// For people.
    pub name: String,
    /// What the person may do in the organisation.
    pub role: Role,
    /// Whether the person also owns organisations.
    pub is_superadmin: bool,
    /// A disabled account can do nothing.
    pub is_active: bool,
    /// Somebody else knows the password: whoever signs in with it can do nothing but change it.
    pub must_change_password: bool,
    /// Access tokens of another version are dead.
    pub token_version: i64,
    /// Ms since 1970.
    pub created_at: i64,
    /// Ms since 1970.
    pub last_login_at: Option<i64>,
}

/// A person as the API shows it.
#[derive(Debug, Clone, Serialize)]
pub struct UserView<'a> {
    id: &'a str,
    org_id: &'a OrgId,
    org: &'a OrgSlug,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<&'a Email>,
    username: &'a UserName,
    name: &'a str,
    role: Role,
    is_superadmin: bool,
    is_active: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    must_change_password: bool,
    #[serde(with = "time")]
    created_at: i64,
    #[serde(with = "time::optional", skip_serializing_if = "Option::is_none")]
    last_login: Option<i64>,
}

impl User {
    /// Whose account it is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        if self.email.is_some() { Kind::Person } else { Kind::Service }
    }

    /// As the audit log names it: by address, a service account by organisation and name.
    #[must_use]
    pub fn label(&self) -> String {
        match &self.email {
            Some(email) => email.as_str().to_owned(),
            None => format!("{}/{}", self.org.slug, self.username),
        }
    }

    /// What a password must not be made of.
    #[must_use]
    pub fn about(&self) -> Vec<String> {
        let email = self.email.as_ref().map(|email| email.as_str().to_owned());
        [Some(self.name.clone()), Some(self.username.to_string()), Some(self.org.slug.to_string()), email]
            .into_iter()
            .flatten()
            .collect()
    }

    /// Whether it counts as somebody who can look after the organisation.
    #[must_use]
    pub fn is_acting_admin(&self) -> bool {
        self.kind() == Kind::Person && self.is_active && self.role == Role::Admin
    }

    /// As the API shows it.
    #[must_use]
    pub fn view(&self) -> UserView<'_> {
        UserView {
            id: &self.id,
            org_id: &self.org.id,
            org: &self.org.slug,
            email: self.email.as_ref(),
            username: &self.username,
            name: &self.name,
            role: self.role,
            is_superadmin: self.is_superadmin,
            is_active: self.is_active,
            must_change_password: self.must_change_password,
            created_at: self.created_at,
            last_login: self.last_login_at,
        }
    }
}

/// A change of an account.
#[derive(Debug, Clone, Default)]
pub struct UserPatch {
    /// For people.
    pub name: Option<String>,
    /// What it may do.
    pub role: Option<Role>,
    /// Whether it may do anything.
    pub is_active: Option<bool>,
    /// Whether the person also owns organisations.
    pub is_superadmin: Option<bool>,
}

impl UserPatch {
    /// Reads the body of a PATCH.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn read(mut fields: Fields, kind: Kind) -> Result<Self, Vec<FieldError>> {
        let patch = Self {
            name: fields.change_kept("name", name(NAME_MAX_CHARS)),
            role: fields.change_kept("role", parsed(20)),
            is_active: fields.change_kept("is_active", flag),
            is_superadmin: match kind {
                Kind::Person => fields.change_kept("is_superadmin", flag),
                Kind::Service => None,
            },
        };
        fields.finish()?;
        Ok(patch)
    }

    /// The account as it will be.
    #[must_use]
    pub fn apply(&self, user: &User) -> User {
        User {
            name: self.name.clone().unwrap_or_else(|| user.name.clone()),
            role: self.role.unwrap_or(user.role),
            is_active: self.is_active.unwrap_or(user.is_active),
            is_superadmin: self.is_superadmin.unwrap_or(user.is_superadmin),
            ..user.clone()
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_kept_in_small_letters() {
        assert_eq!("Eve@Example.ORG".parse::<Email>().unwrap().as_str(), "eve@example.org");
    }

    #[test]
    fn what_does_not_look_like_an_address_is_refused() {
        for bad in ["", "eve", "@x", "eve@", "e ve@x.org", "eve@x@y", "eve\0@x.org", "a/b@x.org", "eve@.org"]
        {
            assert!(bad.parse::<Email>().is_err(), "{bad:?}");
        }
        assert!(format!("{}@x.org", "e".repeat(260)).parse::<Email>().is_err());
    }

    #[test]
    fn a_new_address_has_no_letters_that_look_like_others() {
        for bad in [
            "\u{430}nn@example.org",
            "ann@ex\u{430}mple.org",
            "\u{e4}nn@example.org",
            "ann\u{200b}@example.org",
        ] {
            assert!(bad.parse::<Email>().unwrap().check_new().is_err(), "{bad:?}");
        }
        // The sign for kelvin, whose small form is a plain k.
        assert!("\u{212a}im@example.org".parse::<Email>().is_err());
        assert!("Ann+x@Example.org".parse::<Email>().unwrap().check_new().is_ok());
    }

    #[test]
    fn a_user_name_is_suggested_from_the_address() {
        let suggest =
            |text: &str| text.parse::<Email>().unwrap().suggested_username().map(|name| name.to_string());
        assert_eq!(suggest("Eve.Smith+tv@example.org").as_deref(), Some("eve-smith-tv"));
        assert_eq!(suggest("_x@example.org").as_deref(), Some("x"));
        assert_eq!(suggest("ü@example.org"), None);
    }
}
