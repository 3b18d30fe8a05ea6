//! The people, programs and devices that try everything.

use std::sync::atomic::{AtomicUsize, Ordering};

use fleetd::auth::password;
use fleetd::auth::policy::SCOPES;
use fleetd::auth::token::NewToken;
use fleetd::config::Secret;
use fleetd::domain::api_key::ApiKey;
use fleetd::domain::audit::AuditContext;
use fleetd::domain::user::User;
use fleetd::service::Desk;
use fleetd::service::accounts::{self, NewService, NewUser};
use fleetd::store::{Statement, api_keys};
use fleetd::values;
use protocol::id::{OrgSlug, Role};
use serde_json::json;

use crate::common::{PASSWORD, Server};

/// What somebody shows.
#[derive(Debug, Clone)]
pub enum Credential {
    Nothing,
    Bearer(String),
    Device(String),
}
use Credential::{Bearer, Device, Nothing};

/// A new account.
pub struct Account {
    pub user: User,
    pub token: String,
}

/// Adds accounts to a server, without the second of computing that a password takes.
pub struct Stage {
    pub server: Server,
    hash: String,
    count: AtomicUsize,
}

impl Stage {
    pub fn new(server: Server) -> Self {
        let hash = password::hash_blocking(&Secret::new(PASSWORD.into())).unwrap();
        let stage = Self { server, hash, count: 0.into() };
        stage.server.runtime.block_on(async {
            let app = &stage.server.app;
            accounts::add_org(&app.store, OrgSlug::new("other").unwrap(), "Other", 1).await.unwrap();
        });
        stage
    }

    /// A name that nobody has; everything of `default` is called something royal.
    pub fn new_name(&self, org: &str) -> String {
        let kind = if org == "default" { "royal" } else { "foreign" };
        format!("{kind}-{}", self.count.fetch_add(1, Ordering::Relaxed))
    }

    /// An address that nobody has called from.
    pub fn new_address(&self) -> String {
        let number = u32::try_from(self.count.fetch_add(1, Ordering::Relaxed)).unwrap();
        std::net::Ipv4Addr::from(0x0a00_0000 + number).to_string()
    }

    fn desk<T>(&self, work: impl AsyncFnOnce(Desk<'_>) -> T) -> T {
        let (app, context) = (&self.server.app, AuditContext::system());
        let desk = Desk { store: &app.store, now_ms: app.clock.now_ms(), source: "", context: &context };
        self.server.runtime.block_on(work(desk))
    }

    pub fn person(&self, org: &str, role: Role, is_superadmin: bool) -> Account {
        self.account(org, role, is_superadmin, false)
    }

    fn account(&self, org: &str, role: Role, is_superadmin: bool, must_change_password: bool) -> Account {
        let name = self.new_name(org);
        let new = NewUser {
            org: OrgSlug::new(org).unwrap(),
            email: format!("{name}@example.org").parse().unwrap(),
            username: None,
            name,
            role,
            is_superadmin,
            must_change_password,
        };
        let user = self.desk(async |desk| {
            let draft = accounts::draft(desk.store, new, desk.now_ms).await.unwrap();
            accounts::add(desk, draft, Some(&self.hash)).await.unwrap()
        });
        let app = &self.server.app;
        let token = app.auth.jwt.issue(&user.id, user.token_version, None, app.clock.now_ms()).unwrap();
        Account { user, token: token.expose().to_owned() }
    }

    pub fn service(&self, like: &User) -> User {
        let name = self.new_name("default");
        let new = NewService { username: name.parse().unwrap(), name, role: Role::Viewer };
        let draft = accounts::draft_service(like.org.clone(), new, 1).unwrap();
        self.desk(async |desk| accounts::add(desk, draft, None).await.unwrap())
    }

    /// An API key: its id and itself.
    pub fn key(&self, owner: &User, scopes: &[&str]) -> (String, String) {
        let name = self.new_name(owner.org.slug.as_str());
        let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        let made = NewToken::generate().unwrap();
        let key = ApiKey {
            id: uuid::Uuid::new_v4().to_string(),
            owner_id: owner.id.clone(),
            owner: owner.username.to_string(),
            name,
            key_prefix: made.prefix().to_owned(),
            scopes,
            expires_at: None,
            last_used_at: None,
            created_at: 1,
        };
        let id = key.id.clone();
        self.apply(api_keys::insert(&owner.org.id, &key, made.hash, i64::MAX));
        (id, made.text.expose().to_owned())
    }

    pub fn execute(&self, sql: &'static str, params: Vec<fleetd::store::Value>) {
        self.apply(Statement::new(sql, params));
    }

    fn apply(&self, statement: Statement) {
        self.server.runtime.block_on(self.server.app.store.apply_one(statement)).unwrap();
    }

    /// A device and its token.
    pub fn device(&self, admin: &Account) -> (String, String) {
        let id = self.new_name(admin.user.org.slug.as_str());
        let made = self.server.post("/api/v1/devices/register").bearer(&admin.token);
        let made = made.json(&json!({"device_id": id}));
        assert_eq!(made.status, 201, "{}", made.text);
        (id, made.body["token"].as_str().unwrap().to_owned())
    }
}

/// Everybody who is the same for every row.
pub struct Cast {
    pub viewer: Account,
    pub operator: Account,
    pub admin: Account,
    pub superadmin: Account,
    /// An admin who makes what the others ask for, and asks for nothing.
    pub stagehand: Account,
    /// The owner of the API keys.
    keeper: Account,
    other_admin: Account,
    other_super: Account,
    fresh: Account,
    sibling: String,
    stranger: String,
    bad: [Credential; 3],
    expired: String,
    revoked: String,
    disabled: [Credential; 2],
}

impl Cast {
    pub fn new(stage: &Stage) -> Self {
        let app = &stage.server.app;
        let stagehand = stage.person("default", Role::Admin, false);
        let admin = stage.person("default", Role::Admin, false);
        let superadmin = stage.person("default", Role::Admin, true);
        let other_admin = stage.person("other", Role::Admin, false);
        let keeper = stage.person("default", Role::Admin, true);
        let gone = stage.person("default", Role::Admin, false);
        let (_, gone_key) = stage.key(&gone.user, &[]);
        stage.execute("UPDATE users SET is_active = 0 WHERE id = ?1", values![gone.user.id]);
        let (expired_id, expired) = stage.key(&keeper.user, &[]);
        stage.execute("UPDATE api_keys SET expires_at = 1 WHERE id = ?1", values![expired_id]);
        let (revoked_id, revoked) = stage.key(&keeper.user, &[]);
        stage.execute("UPDATE api_keys SET revoked_at = 1 WHERE id = ?1", values![revoked_id]);
        // Like ours in everything but the key that signed it.
        let folder = tempfile::tempdir().unwrap();
        let elsewhere = fleetd::auth::jwt::JwtKeys::open(None, folder.path()).unwrap();
        let forged = elsewhere.issue(&superadmin.user.id, 1, None, app.clock.now_ms()).unwrap();
        let unknown = || NewToken::generate().unwrap().text.expose().to_owned();
        Self {
            viewer: stage.person("default", Role::Viewer, false),
            operator: stage.person("default", Role::Operator, false),
            other_super: stage.person("other", Role::Admin, true),
            fresh: stage.account("default", Role::Admin, true, true),
            sibling: stage.device(&stagehand).1,
            stranger: stage.device(&other_admin).1,
            bad: [Bearer(forged.expose().to_owned()), Bearer(unknown()), Device(unknown())],
            disabled: [Bearer(gone.token), Bearer(gone_key)],
            stagehand,
            admin,
            superadmin,
            keeper,
            other_admin,
            expired,
            revoked,
        }
    }

    /// The account of a person among the callers.
    pub fn account(&self, caller: &str) -> Option<&Account> {
        Some(match caller {
            "viewer" => &self.viewer,
            "operator" => &self.operator,
            "admin" => &self.admin,
            "super" => &self.superadmin,
            "with" | "without" => &self.keeper,
            "other-admin" => &self.other_admin,
            "other-super" => &self.other_super,
            "fresh" => &self.fresh,
            _ => return None,
        })
    }

    /// How many credentials a caller tries.
    pub fn shown_by(caller: &str) -> usize {
        match caller {
            "bad" => 3,
            "disabled" => 2,
            _ => 1,
        }
    }

    /// What a caller shows; all of them have to get the same answer. `device`: the token of the device in the path.
    pub fn credentials(&self, stage: &Stage, caller: &str, scope: &str, device: &str) -> Vec<Credential> {
        let key = |scopes: &[&str]| vec![Bearer(stage.key(&self.keeper.user, scopes).1)];
        match caller {
            "none" => vec![Nothing],
            "bad" => self.bad.to_vec(),
            "device" => vec![Device(device.to_owned())],
            "sibling" => vec![Device(self.sibling.clone())],
            "stranger" => vec![Device(self.stranger.clone())],
            "without" => key(&SCOPES.iter().copied().filter(|held| *held != scope).collect::<Vec<_>>()),
            "with" if scope.contains(':') => key(&[scope]),
            "with" => key(&[]),
            "expired" => vec![Bearer(self.expired.clone())],
            "revoked" => vec![Bearer(self.revoked.clone())],
            "disabled" => self.disabled.to_vec(),
            person => vec![Bearer(self.account(person).unwrap().token.clone())],
        }
    }
}
