//! Certificates of devices: who gets one, whom one lets in, and what ends it.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use broker::tls::CertificateHash;
use broker::{Authenticator as _, ConnectAttempt, Principal, Refusal, Secret, Transport};
use common::{Answer, Server, certificate_request};
use fleetd::auth::mqtt::DatabaseAuthenticator;
use fleetd::auth::token::TokenHash;
use fleetd::service::accounts::KeyTerms;
use fleetd::values;
use protocol::id::Role;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::json;

fn server() -> Server {
    let server = Server::start();
    server.person("default", "admin", Role::Admin);
    server
}

fn ask(server: &Server, token: &str, csr: &str) -> Answer {
    server.post("/api/v1/devices/cam-1/certificate").by_device(token).json(&json!({"csr": csr}))
}

fn hash(answer: &Answer) -> CertificateHash {
    assert_eq!(answer.status, 201, "{}", answer.text);
    let pem = answer.body["certificate"].as_str().unwrap();
    CertificateHash::of(&CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
}

fn serial(server: &Server, certificate: CertificateHash) -> String {
    let sql = "SELECT serial FROM device_certificates WHERE sha256 = ?1";
    let row = server.runtime.block_on(server.app.store.query_one(sql, values![certificate.to_string()]));
    row.unwrap().unwrap().text("serial").unwrap()
}

fn log_in(
    server: &Server,
    certificate: Option<CertificateHash>,
    login: Option<(&str, &str)>,
) -> Result<Principal, Refusal> {
    let attempt = ConnectAttempt {
        client_id: "default/cam-1".to_owned(),
        username: login.map(|(name, _)| name.to_owned()),
        password: login.map(|(_, password)| Secret::new(password)),
        peer: "203.0.113.7:9".parse().unwrap(),
        transport: Transport::Tls,
        certificate,
    };
    let authenticator = DatabaseAuthenticator::new(server.app.clone());
    server.runtime.block_on(authenticator.authenticate(attempt))
}

#[test]
fn a_device_gets_a_certificate_with_its_token_and_logs_in_with_it_alone() {
    let server = server();
    let token = server.device("admin", "cam-1");
    let answer = ask(&server, &token, &certificate_request());
    let certificate = hash(&answer);
    let serial = serial(&server, certificate);
    let principal = log_in(&server, Some(certificate), None).unwrap();
    let Principal::Device { credential, .. } = &principal else { panic!("{principal}") };
    assert_eq!((principal.to_string().as_str(), credential), ("device default/cam-1", &Some(serial)));
    let shown = server.get("/api/v1/devices/cam-1").by_person("admin").send().body;
    assert_eq!(shown["certificate_expires_at"], answer.body["certificate_expires_at"]);
    let life = |field: &str| {
        let at =
            |field: &str| protocol::message::parse_rfc3339(answer.body[field].as_str().unwrap()).unwrap();
        (at(field) - at("server_time")).div_euclid(86_400_000)
    };
    assert_eq!((life("certificate_renew_at"), life("certificate_expires_at")), (59, 89));
    assert!(server.audit().contains(&"device.certificate ok device:default/cam-1 cam-1".to_owned()));
}

#[test]
fn a_password_that_is_sent_decides_alone() {
    let server = server();
    let token = server.device("admin", "cam-1");
    let certificate = hash(&ask(&server, &token, &certificate_request()));
    let with_token = log_in(&server, Some(certificate), Some(("default/cam-1", &token))).unwrap();
    assert!(matches!(with_token, Principal::Device { credential: None, .. }));
    let wrong = log_in(&server, Some(certificate), Some(("default/cam-1", &"0".repeat(64))));
    assert_eq!(wrong, Err(Refusal::BadCredentials));
    assert_eq!(log_in(&server, None, None), Err(Refusal::BadCredentials));
    let unknown = CertificateHash::of(b"a certificate of the same authority that is not in the table");
    assert_eq!(log_in(&server, Some(unknown), None), Err(Refusal::BadCredentials));
    assert!(log_in(&server, Some(unknown), Some(("default/cam-1", &token))).is_ok(), "the token is good");
}

#[test]
fn what_takes_a_certificate_back_ends_its_connections_and_leaves_other_devices_alone() {
    let server = server();
    let other = server.device("admin", "cam-2");
    let csr = certificate_request();
    let of_other =
        server.post("/api/v1/devices/cam-2/certificate").by_device(&other).json(&json!({"csr": csr}));
    let of_other = hash(&of_other);
    for (method, path, token_dies) in [
        ("POST", "/api/v1/devices/cam-1/revoke-certificates", false),
        ("POST", "/api/v1/devices/cam-1/allow-reenrollment", false),
        ("POST", "/api/v1/devices/cam-1/rotate-token", true),
        ("DELETE", "/api/v1/devices/cam-1", true),
    ] {
        let token = server.device("admin", "cam-1");
        let certificate = hash(&ask(&server, &token, &certificate_request()));
        let serial = serial(&server, certificate);
        assert!(log_in(&server, Some(certificate), None).is_ok());
        let answer = server.call(method, path).by_person("admin").send();
        assert!(answer.status < 300, "{path}: {}", answer.text);
        assert_eq!(log_in(&server, Some(certificate), None), Err(Refusal::BadCredentials), "{path}");
        let with_token = log_in(&server, None, Some(("default/cam-1", &token)));
        assert_eq!(with_token.is_err(), token_dies, "{path}");
        std::thread::sleep(Duration::from_millis(900));
        let ended = server.ended.0.lock().unwrap().clone();
        assert!(ended.contains(&format!("device default/cam-1 with {serial}")), "{path}: {ended:?}");
        if path.ends_with("revoke-certificates") {
            assert!(
                !ended.contains(&"device default/cam-1".to_owned()),
                "what its token made stays: {ended:?}"
            );
            assert!(ask(&server, &token, &certificate_request()).status == 201);
        }
        if method == "POST" {
            server.call("DELETE", "/api/v1/devices/cam-1").by_person("admin").send();
        }
    }
    assert!(log_in(&server, Some(of_other), None).is_ok());
    assert!(server.audit().iter().any(|row| row.starts_with("device.revoke_certificates ok user:")));
}

#[test]
fn a_certificate_that_expires_takes_its_connections_along() {
    let server = Server::start_with(|config| config.tls_client_certificate_life = Duration::from_secs(2));
    server.person("default", "admin", Role::Admin);
    let token = server.device("admin", "cam-1");
    let certificate = hash(&ask(&server, &token, &certificate_request()));
    let serial = serial(&server, certificate);
    assert!(log_in(&server, Some(certificate), None).is_ok());
    std::thread::sleep(Duration::from_millis(3_000));
    assert_eq!(log_in(&server, Some(certificate), None), Err(Refusal::BadCredentials));
    let ended = server.ended.0.lock().unwrap().clone();
    assert!(ended.contains(&format!("device default/cam-1 with {serial}")), "{ended:?}");
}

#[test]
fn a_registration_may_ask_for_a_certificate_and_a_repetition_gets_none_for_another_key() {
    let server = server();
    let key = server.enrollment_key("default", KeyTerms { max_uses: Some(1), ..KeyTerms::default() });
    let (token, csr) = ("7".repeat(64), certificate_request());
    let register = |csr: &str| {
        let body = json!({"device_id": "cam-1", "token_sha256": TokenHash::of(&token).to_hex(), "csr": csr});
        server.post("/api/v1/devices/register").header("x-enrollment-key", &key).json(&body)
    };
    let first = register(&csr);
    assert!(log_in(&server, Some(hash(&first)), None).is_ok());
    let again = register(&csr);
    assert!(log_in(&server, Some(hash(&again)), None).is_ok(), "the same key: the same answer");
    // The hash of a token is no secret: whoever knows it and the enrolment key must not become the device.
    let thief = register(&certificate_request());
    assert_eq!(thief.status, 201, "{}", thief.text);
    assert!(thief.body.get("certificate").is_none(), "{}", thief.text);
    server.post("/api/v1/devices/cam-1/revoke-certificates").by_person("admin").send();
    assert!(register(&csr).body.get("certificate").is_none(), "taken back: it shows its token first");
    hash(&ask(&server, &token, &csr));
}

#[test]
fn bad_requests_are_refused_after_the_enrolment_key_and_change_nothing() {
    let server = server();
    let token = server.device("admin", "cam-1");
    let rsa = include_str!("common/rsa.csr.pem");
    for (csr, problem) in [
        (json!("nonsense"), "no certificate request"),
        (json!("A".repeat(5000)), "too long"),
        (json!(rsa), "P-256"),
        (json!(7), "as text"),
    ] {
        let body = json!({"csr": csr});
        let answer = server.post("/api/v1/devices/cam-1/certificate").by_device(&token).json(&body);
        assert_eq!(answer.status, 422, "{}", answer.text);
        assert!(answer.text.contains(problem), "{}", answer.text);
        let body = json!({"device_id": "cam-2", "csr": csr});
        let answer = server.post("/api/v1/devices/register").header("x-enrollment-key", "wrong").json(&body);
        assert_eq!(answer.status, 401, "{}", answer.text);
        let answer = server.post("/api/v1/devices/register").by_person("admin").json(&body);
        assert_eq!(answer.status, 422, "{}", answer.text);
    }
    let huge = json!({"csr": "A".repeat(100_000)});
    let answer = server.post("/api/v1/devices/cam-1/certificate").by_device(&token).json(&huge);
    assert_eq!(answer.status, 413, "{}", answer.text);
    assert_eq!(server.get("/api/v1/devices/cam-2").by_person("admin").send().status, 404);
}

#[test]
fn a_device_asks_for_so_many_and_has_so_few_at_a_time() {
    let server = server();
    let token = server.device("admin", "cam-1");
    let first = hash(&ask(&server, &token, &certificate_request()));
    for _ in 1..30 {
        hash(&ask(&server, &token, &certificate_request()));
    }
    let over = ask(&server, &token, &certificate_request());
    assert_eq!(over.status, 429, "{}", over.text);
    assert!(over.headers.contains_key("retry-after"));
    let row = server.app.store.query_one("SELECT count(*) AS n FROM device_certificates", Vec::new());
    assert_eq!(server.runtime.block_on(row).unwrap().unwrap().int("n").unwrap(), 8);
    assert_eq!(log_in(&server, Some(first), None), Err(Refusal::BadCredentials), "the oldest has made room");
}

#[test]
fn a_server_that_signs_nothing_says_so_and_registers_as_before() {
    let server = Server::start_with(|config| config.tls_client_certificates = false);
    server.person("default", "admin", Role::Admin);
    let token = server.device("admin", "cam-1");
    let answer = ask(&server, &token, &certificate_request());
    assert_eq!(answer.status, 409, "{}", answer.text);
    let body = json!({"device_id": "cam-2", "csr": certificate_request()});
    let answer = server.post("/api/v1/devices/register").by_person("admin").json(&body);
    assert_eq!(answer.status, 409, "{}", answer.text);
    assert_eq!(
        server.get("/api/v1/devices/cam-2").by_person("admin").send().status,
        404,
        "nothing is half done"
    );
    let told = server.get("/api/v1/connect").by_device(&token).send();
    assert_eq!(told.body["client_certificates"], json!(false));
}
