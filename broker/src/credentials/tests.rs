//! The file's form, its errors, and what a login with it gives.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;

use argon2::password_hash::PasswordHasher;
use argon2::{Algorithm, Argon2, Version};

use super::authenticator::FileAuthenticator;
use super::*;
use crate::plaintext::PlaintextPolicy;
use crate::principal::{Authenticator, ConnectAttempt, Refusal, Secret, Transport};

fn sha(text: &str) -> String {
    Sha256Hash::of(text.as_bytes()).to_string()
}

/// A real hash, with little work so that tests are quick.
fn quick_argon2id(password: &str) -> String {
    let params = Params::new(64, 1, 1, None).unwrap();
    let hash: PasswordHash =
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password(password.as_bytes()).unwrap();
    hash.to_string()
}

fn example() -> String {
    format!(
        r#"
[[device]]
org = "acme"
id = "cam-1"
token_sha256 = "{}"

[[person]]
org = "acme"
user = "otto"
role = "operator"
email = "Otto@Example.org"
api_key_sha256 = "{}"

[[person]]
org = "acme"
user = "ada"
role = "admin"
password_argon2id = "{}"

[[service]]
name = "fleetd"
secret_sha256 = "{}"
"#,
        sha("token of cam-1"),
        sha("key of otto"),
        quick_argon2id("ada's password"),
        sha("secret of fleetd"),
    )
}

fn parse(text: &str) -> Result<Credentials, CredentialsError> {
    Credentials::parse(Path::new("/etc/c.toml"), text)
}

fn login(
    authenticator: &FileAuthenticator,
    peer: &str,
    username: &str,
    password: &str,
) -> Result<Principal, Refusal> {
    let attempt = ConnectAttempt {
        client_id: "any".to_owned(),
        username: Some(username.to_owned()),
        password: Some(Secret::new(password)),
        peer: peer.parse::<SocketAddr>().unwrap(),
        transport: Transport::Tcp,
        certificate: None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(authenticator.authenticate(attempt))
}

#[test]
fn each_kind_logs_in_with_its_own_secret_and_no_other() {
    let authenticator = FileAuthenticator::new(parse(&example()).unwrap(), PlaintextPolicy::default());
    let enter = |name: &str, password: &str| {
        login(&authenticator, "127.0.0.1:9", name, password).map(|principal| principal.key().to_string())
    };
    assert_eq!(enter("acme/cam-1", "token of cam-1").unwrap(), "device acme/cam-1");
    assert_eq!(enter("acme/otto", "key of otto").unwrap(), "user acme/otto");
    assert_eq!(enter("otto@example.org", "key of otto").unwrap(), "user acme/otto");
    assert_eq!(enter("OTTO@example.ORG", "key of otto").unwrap(), "user acme/otto");
    assert_eq!(enter("acme/ada", "ada's password").unwrap(), "user acme/ada");
    assert_eq!(enter("fleetd", "secret of fleetd").unwrap(), "service fleetd");
    for (name, password) in [
        ("acme/cam-1", "key of otto"),
        ("acme/cam-1", ""),
        ("acme/cam-1", &sha("token of cam-1")),
        ("acme/CAM-1", "token of cam-1"),
        ("cam-1", "token of cam-1"),
        ("other/cam-1", "token of cam-1"),
        ("acme/ada", "ada's passwor"),
        ("acme/ada", &"x".repeat(100_000)),
        ("acme/nobody", "ada's password"),
        ("", ""),
        ("acme/\0", "x"),
    ] {
        assert_eq!(enter(name, password), Err(Refusal::BadCredentials), "{name:?}");
    }
}

#[test]
fn the_role_comes_from_the_file() {
    let credentials = parse(&example()).unwrap();
    let role = |login: &str| match &credentials.find(login).unwrap().principal {
        Principal::Person { role, .. } => *role,
        other => panic!("{other:?}"),
    };
    assert_eq!((role("acme/otto"), role("acme/ada")), (Role::Operator, Role::Admin));
    assert_eq!(credentials.counts(), (1, 2, 1));
}

#[test]
fn credentials_over_plain_tcp_are_taken_from_loopback_or_as_the_policy_says() {
    let credentials = parse(&example()).unwrap();
    let elsewhere = "192.0.2.7:9";
    let enter = |policy: PlaintextPolicy| {
        let authenticator = FileAuthenticator::new(credentials.clone(), policy);
        login(&authenticator, elsewhere, "acme/cam-1", "token of cam-1").map(drop)
    };
    assert_eq!(enter(PlaintextPolicy::default()), Err(Refusal::PlaintextForbidden));
    assert_eq!(enter(PlaintextPolicy { allow_all: true, ..Default::default() }), Ok(()));
    let trusted_proxies = vec!["192.0.2.0/24".parse().unwrap()];
    assert_eq!(enter(PlaintextPolicy { trusted_proxies, ..Default::default() }), Ok(()));
}

#[test]
fn a_replaced_file_counts_at_once_and_tells_whose_connections_must_end() {
    let old = parse(&example()).unwrap();
    assert!(old.outdated_by(&old).is_empty(), "the same file ends nobody's connection");
    let outdated = |text: &str| {
        old.outdated_by(&parse(text).unwrap()).iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    assert_eq!(outdated(""), "device acme/cam-1, user acme/ada, user acme/otto, service fleetd");
    assert_eq!(
        outdated(&example().replace(&sha("token of cam-1"), &sha("new"))),
        "device acme/cam-1, user acme/ada"
    );
    let with_same_password = |change: &dyn Fn(String) -> String| {
        let text = example();
        let first = parse(&text).unwrap();
        let second = parse(&change(text)).unwrap();
        first.outdated_by(&second).iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    assert_eq!(with_same_password(&|text| text.replace("\"operator\"", "\"viewer\"")), "user acme/otto");
    assert_eq!(with_same_password(&|text| text.replace("Otto@", "o.tto@")), "user acme/otto");
    assert_eq!(with_same_password(&|text| text.replace("\"cam-1\"", "\"cam-2\"")), "device acme/cam-1");
    let newcomer = format!("[[device]]\norg = \"acme\"\nid = \"cam-9\"\ntoken_sha256 = \"{}\"\n", sha("9"));
    assert_eq!(with_same_password(&|text| newcomer.clone() + &text), "", "a newcomer disturbs nobody");

    let authenticator = FileAuthenticator::new(old, PlaintextPolicy::default());
    let ended = authenticator.replace(parse(&newcomer).unwrap());
    assert_eq!(ended.len(), 4);
    assert_eq!(
        login(&authenticator, "[::1]:9", "acme/cam-1", "token of cam-1"),
        Err(Refusal::BadCredentials)
    );
    assert!(login(&authenticator, "[::1]:9", "acme/cam-9", "9").is_ok());
}

#[test]
fn every_mistake_in_the_file_is_an_error_that_says_where_and_what_to_do() {
    let good = sha("x");
    let device = |org: &str, id: &str, hash: &str| {
        format!("[[device]]\norg = \"{org}\"\nid = \"{id}\"\ntoken_sha256 = \"{hash}\"\n")
    };
    let cases = [
        (device("acme", "cam-1", "5ecret-t0ken"), "line 4, key token_sha256: this is no SHA-256: 64 hex digits"),
        (device("acme", "cam-1", &"é".repeat(32)), "line 4, key token_sha256: this is no SHA-256"),
        (device("acme", "cam-1", &format!("+{}", &good[1..])), "line 4, key token_sha256: this is no SHA-256"),
        (device("Acme", "cam-1", &good), "line 2, key org: bad name \"Acme\""),
        (device("acme", "cam/1", &good), "line 3, key id: bad name \"cam/1\""),
        (device("server", "cam-1", &good), "line 2, key org: bad name \"server\""),
        (device("acme", "cam-1", &good) + "tokn = 1\n", "line 5, key tokn: unknown field `tokn`"),
        ("[[devices]]\n".to_owned(), "line 1, key [[devices]]: unknown field `devices`, expected one of"),
        (device("acme", "a", &good) + &device("acme", "a", &good), "\"acme/a\" stands there twice"),
        ("[[person]]\norg = \"acme\"\nuser = \"otto\"\nrole = \"boss\"\n".to_owned(), "line 4, key role"),
        ("[[person]]\norg = \"acme\"\nuser = \"otto\"\nrole = \"viewer\"\n".to_owned(), "\"acme/otto\" has no secret; add"),
        (
            "[[person]]\norg = \"acme\"\nuser = \"o\"\nrole = \"viewer\"\npassword_argon2id = \"5ecret-t0ken\"\n".to_owned(),
            "line 5, key password_argon2id: this is no Argon2id hash",
        ),
        (
            format!("[[person]]\norg = \"acme\"\nuser = \"o\"\nrole = \"viewer\"\nemail = \"o\"\napi_key_sha256 = \"{good}\"\n"),
            "line 5, key email: this is no e-mail address",
        ),
        (format!("[[service]]\nname = \"acme/x\"\nsecret_sha256 = \"{good}\"\n"), "line 2, key name: bad service name"),
        ("[[device]\n".to_owned(), "/etc/c.toml, line 1"),
    ];
    for (text, expected) in cases {
        let error = parse(&text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}\nexpected: {expected}");
        assert!(error.starts_with("/etc/c.toml"), "{error}");
        assert!(!error.contains("5ecret") && !error.contains(&good), "{error}");
    }
}

#[test]
fn a_password_hash_that_would_take_all_memory_is_refused_when_read() {
    let text = |params: &str| {
        let hash = quick_argon2id("x").replace("m=64,t=1,p=1", params);
        format!(
            "[[person]]\norg = \"acme\"\nuser = \"o\"\nrole = \"viewer\"\npassword_argon2id = \"{hash}\"\n"
        )
    };
    assert!(parse(&text("m=64,t=1,p=1")).is_ok());
    for params in ["m=4194304,t=1,p=1", "m=64,t=1000,p=1", "m=1024,t=1,p=100"] {
        let error = parse(&text(params)).unwrap_err().to_string();
        assert!(error.contains("too much memory or time"), "{error}");
    }
}

#[test]
fn hashes_do_not_show_in_debug_output() {
    let credentials = parse(&example()).unwrap();
    let shown = format!("{credentials:?}");
    assert!(
        shown.contains("cam-1") && !shown.contains(&sha("token of cam-1")) && !shown.contains("argon2id"),
        "{shown}"
    );
}

#[test]
fn a_file_that_others_can_read_is_refused_with_the_command_that_mends_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("credentials.toml");
    std::fs::write(&path, example()).unwrap();
    let set = |mode: u32| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    for mode in [0o600, 0o400] {
        set(mode);
        assert!(file::load(&path).is_ok(), "{mode:o}");
    }
    for mode in [0o644, 0o640, 0o604, 0o620, 0o660, 0o777] {
        set(mode);
        let error = file::load(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("mode {mode:o}")), "{error}");
        assert!(error.ends_with(&format!("run: chmod 600 {}", path.display())), "{error}");
    }
}

#[test]
fn a_missing_or_unreadable_or_endless_file_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("credentials.toml");
    let check = |expected: &str| {
        let error = file::load(&path).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("credentials.toml"), "{error}");
    };
    check("cannot read the credentials file");
    let write = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    write(b"\xff\xfe");
    check("cannot read the credentials file");
    write(&vec![b' '; usize::try_from(file::MAX_BYTES).unwrap() + 1]);
    check("is it the right file?");
}
