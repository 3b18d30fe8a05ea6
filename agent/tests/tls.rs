//! TLS as a device does it, against a real TLS server.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use agent::config::{Config, HttpUrl, Key};
use agent::connect::{self, ConnectError};
use agent::http::HttpError;
use agent::tls::{TlsError, client_config};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
}

/// A server that does one handshake and answers one request; gives back the number of certificates that it was shown.
fn server() -> (HttpUrl, JoinHandle<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port()).parse().unwrap();
    let thread = std::thread::spawn(move || {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(file("ca.pem")).unwrap()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let chain = vec![CertificateDer::from_pem_file(file("server.pem")).unwrap()];
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.allow_unauthenticated().build().unwrap())
            .with_single_cert(chain, PrivateKeyDer::from_pem_file(file("server.key")).unwrap())
            .unwrap();
        let (socket, _) = listener.accept().unwrap();
        let mut stream: StreamOwned<ServerConnection, TcpStream> =
            StreamOwned::new(ServerConnection::new(Arc::new(config)).unwrap(), socket);
        let mut request = [0; 4096];
        // A client that does not trust this server ends the handshake here.
        if stream.read(&mut request).is_ok() {
            let body = r#"{"mqtts_url": "mqtts://localhost:8883"}"#;
            let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        }
        stream.conn.peer_certificates().map_or(0, <[_]>::len)
    });
    (url, thread)
}

fn config(url: &HttpUrl, more: &[(Key, PathBuf)]) -> Config {
    let mut environment = vec![(Key::FleetUrl, url.to_string()), (Key::DeviceToken, "a".repeat(64))];
    environment.extend(more.iter().map(|(key, path)| (*key, path.to_str().unwrap().to_owned())));
    Config::from_parts(None, &environment, "host").unwrap()
}

#[test]
fn a_server_with_an_authority_of_its_own_is_trusted_through_ca_file() {
    let (url, thread) = server();
    let endpoints = connect::fetch(&config(&url, &[(Key::CaFile, file("ca.pem"))])).unwrap();
    assert_eq!(endpoints.mqtts_url.unwrap().to_string(), "mqtts://localhost");
    assert_eq!(thread.join().unwrap(), 0);
}

#[test]
fn a_device_shows_its_certificate_when_it_has_one() {
    let (url, thread) = server();
    let identity = [
        (Key::CaFile, file("ca.pem")),
        (Key::ClientCert, file("device.pem")),
        (Key::ClientKey, file("device.key")),
    ];
    connect::fetch(&config(&url, &identity)).unwrap();
    assert_eq!(thread.join().unwrap(), 1);
}

#[test]
fn a_server_that_nobody_vouches_for_gets_no_token_and_the_person_a_hint() {
    let (url, thread) = server();
    // Some other certificate as the only authority.
    let error = connect::fetch(&config(&url, &[(Key::CaFile, file("device.pem"))])).unwrap_err();
    assert!(matches!(error, ConnectError::Http(HttpError::Certificate { .. })), "{error:?}");
    assert!(
        error.to_string().contains("CA_FILE if the server has a certificate authority of its own"),
        "{error}"
    );
    thread.join().unwrap();
}

#[test]
fn files_that_are_missing_or_hold_something_else_are_named() {
    let url: HttpUrl = "https://localhost:1".parse().unwrap();
    let error = |more: &[(Key, PathBuf)]| client_config(&config(&url, more)).unwrap_err();
    let missing = error(&[(Key::CaFile, "/no/ca.pem".into())]);
    assert!(missing.to_string().contains("/no/ca.pem"), "{missing}");
    let none = error(&[(Key::CaFile, file("README.md"))]);
    assert!(matches!(none, TlsError::Pem { what: "authority certificate", .. }), "{none:?}");
    let pair = |cert: &str, key: &str| {
        error(&[(Key::CaFile, file("ca.pem")), (Key::ClientCert, file(cert)), (Key::ClientKey, file(key))])
    };
    assert!(matches!(pair("device.pem", "device.pem"), TlsError::Pem { what: "private key", .. }));
    assert!(matches!(pair("device.key", "device.key"), TlsError::Pem { what: "certificate", .. }));
    let misfit = pair("device.pem", "server.key");
    assert!(misfit.to_string().contains("cannot be used with CLIENT_KEY"), "{misfit}");
}
