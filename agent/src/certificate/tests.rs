#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateSigningRequestDer, PrivateKeyDer};

use super::*;

const TOKEN: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// A folder with a `fleet.conf` of a device that is enrolled.
fn device(more: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fleet.conf");
    fs::write(
        &file,
        format!("# mine\nFLEET_URL=https://f.example\nDEVICE_ID=studio-1\nDEVICE_TOKEN={TOKEN}\n{more}"),
    )
    .unwrap();
    (folder, file)
}

/// A certificate for this key, by itself.
fn certificate(key: &str) -> String {
    let key = rcgen::KeyPair::from_pem(key).unwrap();
    rcgen::CertificateParams::default().self_signed(&key).unwrap().pem()
}

fn issued(config: &Config) -> Issued {
    let new = request::make().unwrap();
    Issued::new(config, &new.key, &certificate(&new.key), 1_795_000_000_000, 1_796_000_000_000).unwrap()
}

#[test]
fn a_request_is_signed_with_the_new_key_and_openssl_reads_it() {
    for _ in 0..20 {
        let new = request::make().unwrap();
        let der = CertificateSigningRequestDer::from_pem_slice(new.request.as_bytes()).unwrap();
        let length = |bytes: &[u8]| match bytes[1] {
            0x81 => (3, usize::from(bytes[2])),
            short => (2, usize::from(short)),
        };
        let (head, rest) = length(&der);
        assert_eq!(der.len(), head + rest);
        let (info, after) = der[head..].split_at(100);
        let signature = &after[12..];
        assert_eq!((signature[0], usize::from(signature[1]) + 2, signature[2]), (3, signature.len(), 0));
        let point = &info[33..98];
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(info, &signature[3..]).unwrap();
        assert!(matches!(
            PrivateKeyDer::from_pem_slice(new.key.as_bytes()).unwrap(),
            PrivateKeyDer::Pkcs8(_)
        ));
        assert!(new.request.lines().chain(new.key.lines()).all(|line| line.len() <= 64));
    }
    let new = request::make().unwrap();
    let mut child = std::process::Command::new("openssl")
        .args(["req", "-verify", "-noout", "-text"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), new.request.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("verify OK") && said.contains("prime256v1"), "{said}");
}

#[test]
fn one_that_is_kept_is_private_named_in_the_config_and_found_again() {
    let (folder, file) = device("");
    let config = Config::load(Some(&file)).unwrap();
    assert!(!is_ours(&config) && !is_somebodys(&config) && Issued::stored(&config).is_none());
    let new = issued(&config);
    new.keep(&config).unwrap();
    let path = folder.path().join("client.pem");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let config = Config::load(Some(&file)).unwrap();
    assert!(is_ours(&config) && !is_somebodys(&config));
    assert_eq!((&config.client_cert, &config.client_key), (&Some(path.clone()), &Some(path.clone())));
    let found = Issued::stored(&config).unwrap();
    assert_eq!((found.renew_at_ms, found.expires_at_ms), (new.renew_at_ms, new.expires_at_ms));
    assert!(fs::read_to_string(&file).unwrap().starts_with("# mine\n"));
    // The next one takes its place, and `fleet.conf` stays as it is.
    let before = (fs::read(&file).unwrap(), fs::read(&path).unwrap());
    issued(&config).keep(&config).unwrap();
    assert_eq!(fs::read(&file).unwrap(), before.0);
    assert_ne!(fs::read(&path).unwrap(), before.1);
    assert!(crate::tls::Identity::configured(&config).unwrap().is_some(), "a usual PEM file as well");
}

#[test]
fn a_file_that_is_missing_damaged_or_another_devices_counts_as_none() {
    let (folder, file) = device("");
    let config = Config::load(Some(&file)).unwrap();
    issued(&config).keep(&config).unwrap();
    let config = Config::load(Some(&file)).unwrap();
    let path = folder.path().join("client.pem");
    let whole = fs::read_to_string(&path).unwrap();
    let other_key = request::make().unwrap();
    let (start, end) = (whole.find("-----BEGIN PRIVATE").unwrap(), whole.find("-----BEGIN CERT").unwrap());
    for bad in [
        String::new(),
        "x".repeat(300_000),
        whole.replace("Device: default/studio-1", "Device: default/studio-2"),
        whole.replace("Renew: ", ""),
        whole.replace("Expires: 2026", "Expires: soon"),
        whole[..end].to_owned(),
        format!("{}{}", &whole[..start], &whole[end..]),
        format!("{}{}{}", &whole[..start], *other_key.key, &whole[end..]),
    ] {
        fs::write(&path, &bad).unwrap();
        assert!(Issued::stored(&config).is_none(), "{bad}");
    }
    for cut in 0..whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        // A certificate without its last line end is whole.
        assert!(Issued::stored(&config).is_none() || cut + 1 == whole.len(), "cut at {cut}");
    }
    fs::remove_file(&path).unwrap();
    assert!(Issued::stored(&config).is_none());
}

#[test]
fn files_that_somebody_has_configured_are_left_alone() {
    let (folder, file) = device("CLIENT_CERT=/etc/own/cert.pem\nCLIENT_KEY=/etc/own/key.pem\n");
    let config = Config::load(Some(&file)).unwrap();
    assert!(is_somebodys(&config) && !is_ours(&config) && Issued::stored(&config).is_none());
    assert_eq!(path(&config), Some(folder.path().join("client.pem")));
}

#[test]
fn nothing_of_a_key_shows_in_debug_output() {
    let (_folder, file) = device("");
    let config = Config::load(Some(&file)).unwrap();
    let new = issued(&config);
    let shown = format!("{new:?}");
    assert!(!shown.contains("PRIVATE KEY") && !shown.contains(TOKEN), "{shown}");
}
