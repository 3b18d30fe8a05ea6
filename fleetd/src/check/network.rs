//! Where the server listens or will listen, and what travels there in the clear.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use broker::tls::Certificates;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;

use super::Finding;
use crate::config::Config;
use crate::service::ingest::error_chain;
use crate::store::{DataLock, LockError};

/// How long a running server may take to say that it is ready.
const PATIENCE: Duration = Duration::from_secs(10);

/// What of `addresses.json` is needed.
#[derive(Deserialize)]
struct Addresses {
    http: SocketAddr,
}

pub(super) fn look(config: &Config) -> Vec<Finding> {
    let mut findings = match DataLock::is_held(&config.data_dir) {
        Ok(true) => vec![running(config)],
        Ok(false) => ports(config),
        Err(LockError::InUse { .. } | LockError::File { .. }) => Vec::new(),
    };
    findings.extend(certificate(config));
    findings.push(plaintext(config));
    findings.extend(public_url(config));
    findings
}

fn running(config: &Config) -> Finding {
    let addresses = std::fs::read(config.data_dir.join("addresses.json"))
        .ok()
        .and_then(|text| serde_json::from_slice::<Addresses>(&text).ok());
    let Some(Addresses { http }) = addresses else {
        return Finding::warning("server", "it is starting", "try again in a moment");
    };
    // It listens everywhere: this machine is somewhere.
    let near =
        if http.ip().is_unspecified() { SocketAddr::from(([127, 0, 0, 1], http.port())) } else { http };
    match ready(near) {
        Ok(200) => Finding::ok("server", format!("running and ready at {http}")),
        Ok(status) => {
            let advice = format!("see its log, and http://{near}/ready");
            Finding::error("server", format!("running at {http}, not ready (it answers {status})"), advice)
        }
        Err(error) => {
            let seen = format!("running, but {near} does not answer: {error}");
            Finding::error("server", seen, "see its log: journalctl -u fleetd")
        }
    }
}

/// The status of `GET /ready`.
fn ready(address: SocketAddr) -> io::Result<u16> {
    let ask = async {
        let stream = TcpStream::connect(address).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        let request = http::Request::get("/ready")
            .header(http::header::HOST, address.to_string())
            .body(Empty::<bytes::Bytes>::new())
            .map_err(io::Error::other)?;
        let answer = sender.send_request(request).await.map_err(io::Error::other)?;
        Ok(answer.status().as_u16())
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::time::timeout(PATIENCE, ask).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
    })
}

fn ports(config: &Config) -> Vec<Finding> {
    let wanted = [
        ("FLEET_HTTP_LISTEN", Some(config.http_listen)),
        ("FLEET_MQTT_LISTEN", config.mqtt_listen),
        ("FLEET_HTTPS_LISTEN", config.https_listen),
        ("FLEET_MQTTS_LISTEN", config.mqtts_listen),
    ];
    let of = |(variable, address): (&str, Option<SocketAddr>)| {
        let address = address?;
        Some(match TcpListener::bind(address) {
            Ok(_) => Finding::ok("listen", format!("{address} is free ({variable})")),
            Err(error) => {
                let advice = format!("stop what listens there, or set {variable} to another address");
                Finding::error("listen", format!("{address}: {error}"), advice)
            }
        })
    };
    let not_running = Finding::ok("server", "not running");
    std::iter::once(not_running).chain(wanted.into_iter().filter_map(of)).collect()
}

fn certificate(config: &Config) -> Option<Finding> {
    config.https_listen.or(config.mqtts_listen)?;
    Some(match Certificates::load(&config.tls_cert, &config.tls_key) {
        Ok(_) => Finding::ok("certificate", config.tls_cert.display().to_string()),
        Err(error) => {
            let advice = "fleetd tls init makes one, or name yours in FLEET_TLS_CERT and FLEET_TLS_KEY";
            Finding::error("certificate", error_chain(&error), advice)
        }
    })
}

fn plaintext(config: &Config) -> Finding {
    let far = |address: &SocketAddr| !address.ip().is_loopback();
    let is_reachable = far(&config.http_listen) || config.mqtt_listen.as_ref().is_some_and(far);
    if config.allow_plaintext && is_reachable {
        return Finding::warning(
            "encryption",
            "passwords and tokens are taken over unencrypted connections from everywhere",
            "put a TLS proxy in front, name it in FLEET_TRUSTED_PROXIES, and unset FLEET_ALLOW_PLAINTEXT",
        );
    }
    let proxies = config.trusted_proxies.len();
    Finding::ok(
        "encryption",
        format!("credentials over plain connections only from this machine and {proxies} trusted proxies"),
    )
}

fn public_url(config: &Config) -> Option<Finding> {
    match &config.public_url {
        None => Some(Finding::warning(
            "public URL",
            "not set: devices are told the address that they asked at",
            "set FLEET_PUBLIC_URL, for example to https://fleet.example.org",
        )),
        Some(url) if url.starts_with("http://") && !config.allow_plaintext && !is_near(url) => {
            Some(Finding::error(
                "public URL",
                format!("{url} is not encrypted, and from other machines no token is taken there"),
                "put a TLS proxy in front and name its https:// URL",
            ))
        }
        Some(url) => Some(Finding::ok("public URL", url.clone())),
    }
}

fn is_near(url: &str) -> bool {
    let host = url.trim_start_matches("http://");
    ["localhost", "127.", "[::1]"].iter().any(|near| host.starts_with(near))
}
