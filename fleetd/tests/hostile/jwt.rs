//! Access tokens that are not ours, or are ours and not good.

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use protocol::id::Role;
use serde_json::{Value, json};

use crate::common::{PASSWORD, Server};

struct Forge {
    server: Server,
    secret: Vec<u8>,
    /// What a good token says.
    claims: Value,
}

/// Base64 for URLs without padding, as tokens have it.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for part in bytes.chunks(3) {
        let at = |n: usize| u32::from(part.get(n).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for n in 0..=part.len() {
            text.push(char::from(LETTERS[(bits >> (18 - 6 * n) & 63) as usize]));
        }
    }
    text
}

impl Forge {
    fn open() -> Self {
        let server = Server::start();
        server.person("default", "anna", Role::Admin);
        server.person("default", "vera", Role::Viewer);
        let secret = std::fs::read(server.folder.path().join("jwt-secret")).unwrap();
        let me = server.get("/api/v1/auth/me").by_person("vera").send();
        let now = server.app.clock.now_ms() / 1000;
        let claims = json!({"iss": "fleetd", "sub": me.body["id"], "ver": 1, "iat": now, "exp": now + 600});
        Self { server, secret, claims }
    }

    fn with(&self, field: &str, value: Value) -> Value {
        let mut claims = self.claims.clone();
        claims[field] = value;
        claims
    }

    fn signed(&self, header: &Header, claims: &Value) -> String {
        encode(header, claims, &EncodingKey::from_secret(&self.secret)).unwrap()
    }

    fn status(&self, token: &str) -> u16 {
        // What is wrong with it is told to nobody.
        let answer = self.server.get("/api/v1/auth/me").bearer(token).send();
        assert!(token.is_empty() || !answer.text.contains(token), "{}", answer.text);
        answer.status
    }

    /// Not let in. Few at a time: failures are counted, which is told by 429.
    #[track_caller]
    fn refused(&self, what: &str, token: &str) {
        assert!(matches!(self.status(token), 401 | 429), "{what}");
        // It did not come in by way of the limit.
        assert_eq!(self.status(&self.signed(&Header::default(), &self.claims)), 200, "{what}");
    }
}

#[test]
fn no_other_algorithm_and_no_key_that_comes_with_the_token_is_taken() {
    let forge = Forge::open();
    for algorithm in [Algorithm::HS384, Algorithm::HS512] {
        forge.refused("the same secret", &forge.signed(&Header::new(algorithm), &forge.claims));
    }
    let good = forge.signed(&Header::default(), &forge.claims);
    let (_, body) = good.split_once('.').unwrap();
    let (claims, signature) = body.split_once('.').unwrap();
    for header in [
        json!({"alg": "none"}),
        json!({"alg": "NONE", "typ": "JWT"}),
        json!({"alg": "nOnE"}),
        json!({"alg": ""}),
        json!({"alg": null}),
        json!({"typ": "JWT"}),
        json!({}),
        json!({"alg": "RS256"}),
        json!({"alg": "ES256"}),
        json!({"alg": ["HS256"]}),
    ] {
        let header = base64(header.to_string().as_bytes());
        for signature in ["", signature] {
            forge.refused(&header, &format!("{header}.{claims}.{signature}"));
        }
    }
    // A key of the forger's own, named in the header, wherever it may lie.
    let own = EncodingKey::from_secret(b"a secret of somebody else's");
    let key: Value = json!({"kty": "oct", "k": base64(b"a secret of somebody else's"), "alg": "HS256"});
    let headers = [
        Header { kid: Some("../../../../dev/null".to_owned()), ..Header::default() },
        Header { kid: Some("' UNION SELECT 'x".to_owned()), ..Header::default() },
        Header { jku: Some("http://127.0.0.1:9/keys".to_owned()), ..Header::default() },
        Header { x5u: Some("http://127.0.0.1:9/cert".to_owned()), ..Header::default() },
        Header { jwk: Some(serde_json::from_value(key).unwrap()), ..Header::default() },
    ];
    for header in headers {
        forge.refused(&format!("{header:?}"), &encode(&header, &forge.claims, &own).unwrap());
    }
    forge.refused(
        "an empty key",
        &encode(&Header::default(), &forge.claims, &EncodingKey::from_secret(b"")).unwrap(),
    );
}

#[test]
fn a_token_is_good_only_in_its_time_for_its_person_and_as_it_was_signed() {
    let forge = Forge::open();
    let now = forge.server.app.clock.now_ms() / 1000;
    let good = forge.signed(&Header::default(), &forge.claims);
    for (field, value) in [
        ("exp", json!(now - 1)),
        ("exp", json!(0)),
        ("exp", json!(-5)),
        ("exp", json!(i64::MAX)),
        ("exp", json!("9999999999")),
        ("exp", json!(now + 86_400)),
        ("iat", json!(now + 3600)),
        ("iat", json!(i64::MAX)),
        ("iat", json!(i64::MIN)),
        ("nbf", json!(now + 3600)),
        ("iss", json!("somebody")),
        ("iss", json!(["somebody"])),
        ("ver", json!(0)),
        ("ver", json!(2)),
        ("ver", json!("1")),
        ("sub", json!("")),
        ("sub", json!("%")),
        ("sub", json!(null)),
        ("sub", json!("vera@example.org")),
        ("fam", json!("no such login")),
    ] {
        let claims = forge.with(field, value.clone());
        forge.refused(&format!("{field}: {value}"), &forge.signed(&Header::default(), &claims));
    }
    // Somebody else's name under the old signature.
    let anna = forge.server.get("/api/v1/auth/me").by_person("anna").send().body["id"].clone();
    let parts: Vec<&str> = good.split('.').collect();
    let changed = base64(forge.with("sub", anna).to_string().as_bytes());
    forge.refused("another person", &format!("{}.{changed}.{}", parts[0], parts[2]));
    for odd in [
        format!("{good}x"),
        good[..good.len() - 1].to_owned(),
        format!("{good}."),
        format!("{good}.{}", parts[2]),
        format!(".{}.{}", parts[1], parts[2]),
        format!("{}..{}", parts[0], parts[2]),
        "..".to_owned(),
        ".".repeat(3000),
        format!("{}.{}.{}", parts[0], "A".repeat(20_000), parts[2]),
        forge.signed(&Header::default(), &forge.with("pad", json!("x".repeat(3000)))),
    ] {
        forge.refused(&odd[..odd.len().min(60)], &odd);
    }
}

#[test]
fn one_kind_of_token_does_not_do_for_another() {
    let forge = Forge::open();
    let server = &forge.server;
    let login =
        server.post("/api/v1/auth/login").json(&json!({"email": "vera@example.org", "password": PASSWORD}));
    let (access, refresh) =
        (login.body["access_token"].as_str().unwrap(), login.body["refresh_token"].as_str().unwrap());
    let device = server.device("anna", "cam-1");
    let key = server.post("/api/v1/api-keys").by_person("vera").json(&json!({"name": "k"}));
    let key = key.body["key"].as_str().unwrap();
    let enrolment = server.enrollment_key("default", fleetd::service::accounts::KeyTerms::default());
    for wrong in [refresh, &device, &enrolment] {
        forge.refused("as an access token", wrong);
    }
    for wrong in [access, key, &device, &enrolment] {
        let answer = server.post("/api/v1/auth/refresh").json(&json!({"refresh_token": wrong}));
        assert!(matches!(answer.status, 401 | 422), "{}", answer.text);
    }
    for wrong in [access, refresh, key, &enrolment] {
        assert_eq!(server.get("/api/v1/connect").by_device(wrong).send().status, 401);
    }
    for wrong in [access, refresh, key, &device] {
        let call = server.post("/api/v1/devices/register").header("x-enrollment-key", wrong);
        assert_eq!(call.json(&json!({"device_id": "cam-9"})).status, 401);
    }
    // None of it has harmed the login.
    assert_eq!(server.post("/api/v1/auth/refresh").json(&json!({"refresh_token": refresh})).status, 200);
}
