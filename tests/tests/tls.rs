//! Encrypted ways in, without a proxy: an authority of one's own, HTTPS, MQTT over TLS and over WebSocket, with the tools and
//! the agent that people have; certificates that change while everything runs.
#![allow(clippy::unwrap_used)]

use std::io::Read as _;
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use end_to_end::{ADMIN_EMAIL, ADMIN_PASSWORD, Agent, Api, Secure, Server, wait_for};

const SOON: Duration = Duration::from_secs(60);

/// A server with tools around it.
struct Site(Secure);

impl std::ops::Deref for Site {
    type Target = Secure;

    fn deref(&self) -> &Secure {
        &self.0
    }
}

impl std::ops::DerefMut for Site {
    fn deref_mut(&mut self) -> &mut Secure {
        &mut self.0
    }
}

impl Site {
    fn start() -> Self {
        Self(Secure::start_with(&[]))
    }

    fn curl(&self, arguments: &[&str]) -> Output {
        Command::new("curl").args(["-sS", "--max-time", "20"]).args(arguments).output().unwrap()
    }

    /// The serial number of the certificate that a new connection is shown.
    fn serial(&self) -> String {
        let output = Command::new("openssl")
            .args([
                "s_client",
                "-connect",
                &format!("localhost:{}", self.mqtts),
                "-CAfile",
                &self.authority(),
            ])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("Verify return code: 0"), "{text}");
        let mut show = Command::new("openssl")
            .args(["x509", "-noout", "-serial"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut show.stdin.take().unwrap(), &output.stdout).unwrap();
        String::from_utf8(show.wait_with_output().unwrap().stdout).unwrap()
    }
}

/// The device as the server has it, asked at leisure.
fn shown(api: &Api) -> serde_json::Value {
    std::thread::sleep(Duration::from_millis(300));
    api.get("/devices/studio-001")
}

/// `mosquitto_sub` over TLS: one message of the server's status.
fn mosquitto(port: u16, authority: &str) -> Output {
    let port = port.to_string();
    let topic = "fleet/v1/server/+";
    let tool =
        ["-h", "localhost", "-p", &port, "--cafile", authority, "-u", ADMIN_EMAIL, "-P", ADMIN_PASSWORD];
    Command::new("mosquitto_sub").args(tool).args(["-t", topic, "-C", "1", "-W", "20"]).output().unwrap()
}

#[test]
fn people_and_tools_come_in_encrypted_with_the_authority_and_not_without() {
    let secure = Site::start();
    let authority = secure.authority();
    let url = format!("https://localhost:{}/ready", secure.https);
    let answer = secure.curl(&["--cacert", &authority, "-i", &url]);
    let text = String::from_utf8_lossy(&answer.stdout).to_lowercase();
    assert!(text.starts_with("http/1.1 200") && text.contains("strict-transport-security"), "{text}");
    assert_eq!(secure.curl(&[&url]).status.code(), Some(60), "a stranger's certificate is refused");

    let heard = mosquitto(secure.mqtts, &authority);
    assert!(String::from_utf8_lossy(&heard.stdout).contains("\"online\":true"), "{heard:?}");
    assert!(!mosquitto(secure.mqtts, "/etc/ssl/certs/ca-certificates.crt").status.success());
}

#[test]
fn an_agent_is_enrolled_over_https_and_connects_by_mqtts_or_by_wss_where_that_is_all_there_is() {
    let mut secure = Site::start();
    let authority = secure.authority();
    let url = format!("https://localhost:{}", secure.https);
    let key = secure.server.enrollment_key();
    let mut agent = Agent::unenrolled("studio-001");
    let enroll = ["enroll", &url, "--key", "-", "--device-id", "studio-001", "--ca", &authority];
    let refused = agent.run(&enroll[..6], &key);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--ca"), "{refused:?}");
    let output = agent.run(&enroll, &key);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // While the server stops it may fall further than it has to.
    agent.set("R58_FLEET_TEST_CLIMB_SECONDS", Some("3"));
    agent.start();
    let api = secure.server.api();
    let transport = |wanted: &str| {
        wait_for(wanted, SOON, || (shown(&api)["transport"] == wanted).then_some(()));
    };
    transport("mqtts");
    wait_for("heartbeats", SOON, || (api.heartbeat_seqs("studio-001").len() >= 2).then_some(()));

    // Another administrator has a proxy in front of HTTPS alone.
    assert!(secure.server.stop().success());
    secure.server.set("FLEET_MQTTS_LISTEN", None);
    secure.server.set("FLEET_MQTT_LISTEN", Some(""));
    secure.server.start_again();
    let before = secure.server.api().heartbeat_seqs("studio-001").len();
    let api = secure.server.api();
    wait_for("wss", SOON, || (shown(&api)["transport"] == "wss").then_some(()));
    wait_for("more heartbeats", SOON, || (api.heartbeat_seqs("studio-001").len() > before + 2).then_some(()));
    assert!(agent.stop().success());
}

#[test]
fn a_certificate_that_changes_is_in_use_within_seconds_and_a_broken_one_changes_nothing() {
    let secure = Site::start();
    let before = secure.serial();
    secure.server.run_ok(&["tls", "init"], "");
    wait_for("the new certificate", SOON, || (secure.serial() != before).then_some(()));
    let now = secure.serial();
    std::fs::write(secure.server.data_dir().join("tls/server.pem"), "broken").unwrap();
    wait_for("the complaint", SOON, || secure.server.log().contains("the one before stays").then_some(()));
    assert_eq!(secure.serial(), now);
}

#[test]
fn a_client_that_does_not_finish_its_handshake_is_closed_after_ten_seconds() {
    let secure = Site::start();
    for port in [secure.mqtts, secure.https] {
        let mut silent = TcpStream::connect(("127.0.0.1", port)).unwrap();
        silent.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let began = Instant::now();
        assert_eq!(silent.read(&mut [0; 1]).unwrap_or(0), 0);
        assert!((8..20).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    }
}

#[test]
fn a_server_without_its_certificate_says_how_to_make_one() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let mut command = server.command(&["serve"]);
    command.env("FLEET_DATA_DIR", folder.path()).env("FLEET_MQTTS_LISTEN", "127.0.0.1:0");
    let output = command.output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("fleetd tls init"));
}
