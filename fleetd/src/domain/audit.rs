//! What the audit log says of a change, or of one that was refused.

use serde_json::Value;

use super::org::OrgId;

/// Who did it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// A person, by e-mail address.
    User(String),
    /// A device, as `{org}/{device}`.
    Device(String),
    /// A key, by its first characters.
    Key(String),
    /// Nobody that could be told.
    Anonymous,
    /// The server itself, or somebody at its command line.
    System,
}

impl std::fmt::Display for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::User(who) => write!(f, "user:{who}"),
            Self::Device(who) => write!(f, "device:{who}"),
            Self::Key(which) => write!(f, "key:{which}"),
            Self::Anonymous => f.write_str("anonymous"),
            Self::System => f.write_str("system"),
        }
    }
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditOutcome {
    /// Done.
    Ok,
    /// Not done.
    Refused,
}

impl AuditOutcome {
    /// As the database and the API have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
        }
    }
}

/// From where and as whom something is done: what every audit row needs besides the change itself.
#[derive(Debug, Clone)]
pub struct AuditContext {
    /// Who.
    pub actor: Actor,
    /// The client's address.
    pub ip_address: Option<String>,
    /// What the client calls itself, cut.
    pub user_agent: Option<String>,
}

impl AuditContext {
    /// For what the server does by itself or at its command line.
    #[must_use]
    pub fn system() -> Self {
        Self { actor: Actor::System, ip_address: None, user_agent: None }
    }
}

/// What was acted on: `device`, `studio-1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// The kind of thing.
    pub kind: &'static str,
    /// Its id; cut, as it may come from outside.
    pub id: String,
}

impl Resource {
    /// Cuts the id to 200 characters and leaves control characters out.
    #[must_use]
    pub fn new(kind: &'static str, id: &str) -> Self {
        Self { kind, id: id.chars().filter(|c| !c.is_control()).take(200).collect() }
    }
}

/// One row of the log, before it is stored.
#[derive(Debug, Clone)]
pub struct AuditEntry<'a> {
    /// The organisation, where it is known.
    pub org_id: Option<&'a OrgId>,
    /// When, ms since 1970.
    pub at: i64,
    /// Who and from where.
    pub context: &'a AuditContext,
    /// What: `device.register`.
    pub action: &'a str,
    /// On what.
    pub resource: Resource,
    /// How it ended.
    pub outcome: AuditOutcome,
    /// What changed, or why it was refused. Never a secret.
    pub details: Value,
}
