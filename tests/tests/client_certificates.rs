//! Certificates of devices, with real processes: how a device comes by one, renews it and loses it without being locked out, and
//! what every other certificate gets.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use end_to_end::{Agent, Secure, wait_for};
use protocol::failpoint::VARIABLE;

const SOON: Duration = Duration::from_secs(60);
const SIGNS: (&str, &str) = ("FLEET_TLS_CLIENT_CERTIFICATES", "1");
const DEVICE: &str = "studio-001";

fn pem(agent: &Agent) -> PathBuf {
    agent.config_file().with_file_name("client.pem")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn openssl(arguments: &[&str]) -> String {
    let output = Command::new("openssl").args(arguments).output().unwrap();
    assert!(output.status.success(), "openssl {arguments:?}: {}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// `mosquitto_pub` with a certificate (and its key in `key`) and no password, as this device.
fn publish(secure: &Secure, device: &str, cert: &str, key: &str, more: &[&str]) -> Output {
    let (port, id) = (secure.mqtts.to_string(), format!("default/{device}"));
    let topic = format!("fleet/v1/default/device/{device}/log");
    Command::new("mosquitto_pub")
        .args(["-h", "localhost", "-p", &port, "--cafile", &secure.authority(), "--cert", cert, "--key", key])
        .args(["-i", &id, "-t", &topic, "-m", "x", "-q", "1"])
        .args(more)
        .output()
        .unwrap()
}

/// Status and body of `GET`, or what `curl` says of the connection. With a certificate and its key, or headers.
fn get(secure: &Secure, path: &str, more: &[&str]) -> Result<(u16, String), String> {
    let url = format!("{}{path}", secure.url());
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "20", "--cacert", &secure.authority(), "-w", "\n%{http_code}", &url])
        .args(more)
        .output()
        .unwrap();
    if !output.status.success() {
        return Err(text(&output));
    }
    let said = String::from_utf8(output.stdout).unwrap();
    let (body, status) = said.rsplit_once('\n').unwrap();
    Ok((status.parse().unwrap(), body.to_owned()))
}

/// As it is in a file, which the agent may be about to replace.
fn serial(path: &Path) -> String {
    openssl(&["x509", "-noout", "-serial", "-in", path.to_str().unwrap()])
}

/// The device is connected, and says something.
fn is_heard(secure: &Secure, agent: &Agent, what: &str) {
    let api = secure.server.api();
    let before = api.heartbeat_seqs(DEVICE).len();
    wait_for(what, SOON, || {
        let connected = agent.status()?["status"]["connection"] == "connected";
        (connected && api.heartbeat_seqs(DEVICE).len() > before).then_some(())
    });
}

#[test]
fn a_device_gets_a_certificate_when_it_is_enrolled_and_needs_nothing_else_to_log_in() {
    let secure = Secure::start_with(&[SIGNS]);
    let mut agent = secure.enroll(DEVICE);
    let path = pem(&agent);
    let file = path.to_str().unwrap();
    let shown = openssl(&["x509", "-noout", "-text", "-in", file]);
    for part in ["CN=default/studio-001", "TLS Web Client Authentication", "prime256v1"] {
        assert!(shown.replace(" = ", "=").contains(part), "{shown}");
    }
    assert!(!shown.contains("TLS Web Server Authentication") && !shown.contains("CA:TRUE"), "{shown}");
    openssl(&["pkey", "-noout", "-in", file]);
    let config = fs::read_to_string(agent.config_file()).unwrap();
    assert!(
        config.contains(&format!("CLIENT_CERT={file}")) && config.contains(&format!("CLIENT_KEY={file}")),
        "{config}"
    );

    // Any tool gets in with it alone, as this device and no other.
    let said = publish(&secure, DEVICE, file, file, &["-d"]);
    assert!(said.status.success(), "{}", text(&said));
    let said = publish(&secure, DEVICE, file, file, &["-u", "default/studio-001"]);
    assert!(said.status.success(), "{}", text(&said));
    for (device, more) in [
        ("studio-002", &[][..]),
        (DEVICE, &["-u", "default/studio-002"]),
        (DEVICE, &["-u", "admin@example.com"]),
    ] {
        let said = publish(&secure, device, file, file, more);
        assert!(!said.status.success(), "{device} {more:?}: {}", text(&said));
    }
    let certified = ["--cert", file, "--key", file];
    assert_eq!(get(&secure, "/api/v1/connect", &certified).unwrap().0, 200);
    assert_eq!(get(&secure, "/api/v1/devices/studio-001", &certified).unwrap().0, 200);
    assert_eq!(get(&secure, "/api/v1/devices", &certified).unwrap().0, 403, "a device, not a person");
    let token = format!("X-Device-Token: {}", "0".repeat(64));
    let wrong = [&certified[..], &["-H", &token]].concat();
    assert_eq!(get(&secure, "/api/v1/connect", &wrong).unwrap().0, 401, "a token that is sent decides alone");

    // The agent as well: its token is of no use to it here.
    agent.set("DEVICE_TOKEN", Some(&"0".repeat(64)));
    agent.set("MQTT_URL", Some(&format!("mqtts://localhost:{}", secure.mqtts)));
    agent.start();
    is_heard(&secure, &agent, "the certificate alone lets the agent in");
    let status = text(&agent.run(&["status"], ""));
    assert!(status.contains("Certificate        valid until 20"), "{status}");
    assert!(secure.server.api().device(DEVICE)["certificate_expires_at"].is_string());
    let listed = secure.server.run_ok(&["device", "list"], "");
    assert!(listed.contains("CERTIFICATE UNTIL"), "{listed}");
    assert!(agent.stop().success());
}

#[test]
fn what_no_certificate_of_this_device_is_does_not_get_in() {
    let secure = Secure::start_with(&[SIGNS]);
    let agent = secure.enroll(DEVICE);
    let own = pem(&agent);
    let folder = secure.server.folder();
    let at = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (key, request) = (at("key.pem"), at("request.pem"));
    openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", &key]);
    openssl(&["req", "-new", "-key", &key, "-subj", "/CN=default\\/studio-001", "-out", &request]);
    let uses = at("uses.cnf");
    fs::write(&uses, "extendedKeyUsage=clientAuth\n").unwrap();
    let sign = |name: &str, ca: &str, ca_key: &str| {
        let cert = at(name);
        let signing =
            ["x509", "-req", "-in", &request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "9"];
        openssl(&[&signing[..], &["-extfile", &uses, "-out", &cert]].concat());
        cert
    };
    // TLS itself refuses what the authority for devices has not signed.
    let self_signed = at("self.pem");
    openssl(&[
        "req",
        "-x509",
        "-new",
        "-key",
        &key,
        "-subj",
        "/CN=default\\/studio-001",
        "-days",
        "9",
        "-out",
        &self_signed,
    ]);
    let (foreign_ca, foreign_key) = (at("foreign-ca.pem"), at("foreign-ca.key"));
    openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", &foreign_key]);
    // The name of ours, and another key.
    openssl(&[
        "req",
        "-x509",
        "-new",
        "-key",
        &foreign_key,
        "-subj",
        "/CN=R58 Fleet devices",
        "-days",
        "9",
        "-out",
        &foreign_ca,
    ]);
    let foreign = sign("foreign.pem", &foreign_ca, &foreign_key);
    let of_servers = sign("of-servers.pem", &secure.authority(), &secure.file("ca.key"));
    for (cert, key) in [
        (&self_signed, &key),
        (&foreign, &key),
        (&of_servers, &key),
        (&secure.file("server.pem"), &secure.file("server.key")),
    ] {
        let said = publish(&secure, DEVICE, cert, key, &[]);
        assert!(!said.status.success(), "{cert}: {}", text(&said));
        let refused = get(&secure, "/api/v1/connect", &["--cert", cert, "--key", key]).unwrap_err();
        assert!(refused.contains("alert") || refused.contains("reset"), "{cert}: {refused}");
    }
    // The authority's key in wrong hands makes certificates that pass TLS and nothing else: the server does not know them.
    let forged = sign("forged.pem", &secure.file("devices-ca.pem"), &secure.file("devices-ca.key"));
    let said = publish(&secure, DEVICE, &forged, &key, &[]);
    assert!(!said.status.success() && text(&said).to_lowercase().contains("refused"), "{}", text(&said));
    assert_eq!(get(&secure, "/api/v1/connect", &["--cert", &forged, "--key", &key]).unwrap().0, 401);
    // The right certificate without its key.
    let said = publish(&secure, DEVICE, own.to_str().unwrap(), &key, &[]);
    assert!(!said.status.success(), "{}", text(&said));
    // What a proxy may say of certificates that it has seen.
    let plain = format!("{}/api/v1/connect", secure.server.url());
    let pem = fs::read_to_string(&own).unwrap().replace('\n', "%0A");
    let headers = [
        "X-Forwarded-For: 127.0.0.1".to_owned(),
        "X-SSL-Client-Verify: SUCCESS".to_owned(),
        "X-SSL-Client-S-DN: CN=default/studio-001".to_owned(),
        "X-Client-CN: default/studio-001".to_owned(),
        format!("X-Forwarded-Client-Cert: Subject=\"CN=default/studio-001\";Cert=\"{pem}\""),
        format!("X-SSL-Client-Cert: {pem}"),
        "Client-Cert: :MIIB:".to_owned(),
    ];
    let arguments: Vec<&str> = headers.iter().flat_map(|header| ["-H", header.as_str()]).collect();
    let said = Command::new("curl")
        .args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", &plain])
        .args(&arguments)
        .output();
    assert_eq!(text(&said.unwrap()), "401");
    assert_eq!(get(&secure, "/api/v1/connect", &arguments).unwrap().0, 401);
    // Nobody has to have one.
    assert_eq!(get(&secure, "/health", &[]).unwrap().0, 200);
}

#[test]
fn of_a_request_the_server_takes_the_key_and_nothing_else() {
    let secure = Secure::start_with(&[SIGNS]);
    let folder = secure.server.folder();
    let at = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (key, request) = (at("key.pem"), at("request.pem"));
    openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", &key]);
    openssl(&[
        "req",
        "-new",
        "-key",
        &key,
        "-subj",
        "/CN=default\\/admin",
        "-addext",
        "basicConstraints=critical,CA:TRUE",
        "-addext",
        "extendedKeyUsage=serverAuth",
        "-addext",
        "subjectAltName=DNS:localhost",
        "-out",
        &request,
    ]);
    let csr = fs::read_to_string(&request).unwrap();
    let body = serde_json::json!({"device_id": DEVICE, "csr": csr});
    let (status, answer) = secure.server.api().post("/devices/register", &body);
    assert_eq!(status, 201, "{answer}");
    let cert = at("cert.pem");
    fs::write(&cert, answer["certificate"].as_str().unwrap()).unwrap();
    let shown = openssl(&["x509", "-noout", "-text", "-in", &cert]).replace(" = ", "=");
    assert!(shown.contains("Subject: CN=default/studio-001"), "{shown}");
    assert!(
        !["CA:TRUE", "localhost", "Server Authentication", "default/admin"]
            .iter()
            .any(|part| shown.contains(part)),
        "{shown}"
    );
    assert!(publish(&secure, DEVICE, &cert, &key, &[]).status.success());
    // A request that was changed after it was signed.
    let der = openssl(&["req", "-in", &request, "-noout", "-modulus"]);
    assert!(!der.is_empty());
    let lines: Vec<&str> = csr.lines().collect();
    let middle = lines.len() / 2;
    let broken = csr.replacen(lines[middle], &lines[middle].chars().rev().collect::<String>(), 1);
    let (status, answer) = secure
        .server
        .api()
        .post("/devices/register", &serde_json::json!({"device_id": "other", "csr": broken}));
    assert_eq!(status, 422, "{answer}");
}

#[test]
fn a_certificate_is_renewed_before_its_end_and_a_device_that_was_off_past_it_comes_back_by_its_token() {
    let life = Duration::from_secs(18);
    let secure = Secure::start_with(&[SIGNS, ("FLEET_TLS_CLIENT_CERTIFICATE_SECONDS", "18")]);
    let mut agent = secure.enroll(DEVICE);
    let (path, first) = (pem(&agent), serial(&pem(&agent)));
    let enrolled = Instant::now();
    agent.start();
    is_heard(&secure, &agent, "the device by its first certificate");
    assert_eq!(serial(&path), first, "the first one is in use");
    wait_for("another certificate", life, || (serial(&path) != first).then_some(()));
    assert!(
        enrolled.elapsed() > life * 6 / 10,
        "not before two thirds of its life: {:?}",
        enrolled.elapsed()
    );
    assert!(agent.log().contains("logs in by a certificate from now on"), "{}", agent.log());
    is_heard(&secure, &agent, "the device by its second certificate");

    assert!(agent.stop().success());
    let second = serial(&path);
    std::thread::sleep(life + Duration::from_secs(1));
    let file = path.to_str().unwrap();
    assert!(!publish(&secure, DEVICE, file, file, &[]).status.success(), "it has expired");
    agent.start();
    is_heard(&secure, &agent, "the device by its token");
    wait_for("a third certificate", SOON, || (serial(&path) != second).then_some(()));
    is_heard(&secure, &agent, "the device by its third certificate");
    assert!(agent.stop().success());
}

#[test]
fn a_certificate_that_is_taken_back_ends_its_connection_at_once_and_the_device_gets_another_one() {
    let secure = Secure::by_mqtts_alone(&[SIGNS]);
    let mut agent = secure.enroll(DEVICE);
    // Somebody has copied the file.
    let stolen = secure.server.folder().join("stolen.pem");
    fs::copy(pem(&agent), &stolen).unwrap();
    let (port, file) = (secure.mqtts.to_string(), stolen.to_str().unwrap());
    let mut thief = Command::new("stdbuf")
        .args(["-oL", "mosquitto_sub", "-h", "localhost", "-p", &port, "--cafile", &secure.authority(), "-d"])
        .args([
            "--cert",
            file,
            "--key",
            file,
            "-i",
            "default/studio-001",
            "-t",
            "fleet/v1/default/device/studio-001/command",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (said, heard) = mpsc::sync_channel(10_000);
    let lines = BufReader::new(thief.stdout.take().unwrap()).lines();
    std::thread::spawn(move || {
        lines.map_while(Result::ok).try_for_each(|line| said.send((Instant::now(), line)))
    });
    let until = |part: &str| loop {
        let (at, line) = heard.recv_timeout(SOON).unwrap_or_else(|_| panic!("no {part}"));
        if line.contains(part) {
            return at;
        }
    };
    until("Subscribed");
    let told = secure.server.run_ok(&["device", "revoke-certificates", "--device-id", DEVICE], "");
    assert_eq!(told, "took back 1 certificate of default/studio-001");
    let done = Instant::now();
    // The tool comes back a second after its connection has ended, and is refused.
    let again = until("sending CONNECT");
    assert!(again.duration_since(done) < Duration::from_millis(2_500), "{:?}", again.duration_since(done));
    let refused = loop {
        let (_, line) = heard.recv_timeout(SOON).unwrap();
        if line.contains("CONNACK") {
            break line;
        }
    };
    assert!(!refused.contains("CONNACK (0)"), "{refused}");
    let _ = thief.kill();
    let _ = thief.wait();

    // The device itself has its token.
    let first = serial(&pem(&agent));
    agent.start();
    is_heard(&secure, &agent, "the device by its token");
    wait_for("another certificate", SOON, || (serial(&pem(&agent)) != first).then_some(()));
    is_heard(&secure, &agent, "the device by its new certificate");
    let second = serial(&pem(&agent));
    let (status, answer) =
        secure.server.api().post("/devices/studio-001/revoke-certificates", &serde_json::json!({}));
    assert_eq!(status, 200, "{answer}");
    wait_for("a third certificate", SOON, || (serial(&pem(&agent)) != second).then_some(()));
    is_heard(&secure, &agent, "the device after its connection was ended");
    assert!(agent.stop().success());
}

#[test]
fn devices_get_certificates_when_their_server_begins_to_sign_and_when_it_has_lost_its_authority() {
    let mut secure = Secure::by_mqtts_alone(&[]);
    let mut agent = secure.enroll(DEVICE);
    assert!(!pem(&agent).exists());
    agent.start();
    is_heard(&secure, &agent, "the device by its token");
    assert!(secure.server.stop().success());
    secure.server.set(SIGNS.0, Some(SIGNS.1));
    secure.server.start_again();
    wait_for("a certificate", 2 * SOON, || pem(&agent).exists().then_some(()));
    is_heard(&secure, &agent, "the device by its certificate");
    let first = serial(&pem(&agent));

    assert!(secure.server.stop().success());
    for name in ["devices-ca.pem", "devices-ca.key"] {
        fs::remove_file(secure.file(name)).unwrap();
    }
    secure.server.start_again();
    is_heard(&secure, &agent, "the device by its token again");
    wait_for("another certificate", 2 * SOON, || (serial(&pem(&agent)) != first).then_some(()));
    is_heard(&secure, &agent, "the device by a certificate of the new authority");

    // And back: a server that asks for no certificates any more.
    assert!(secure.server.stop().success());
    secure.server.set(SIGNS.0, None);
    secure.server.start_again();
    is_heard(&secure, &agent, "the device at a server that signs no more");
    assert!(agent.stop().success());
}

#[test]
fn a_token_is_rotated_while_the_device_logs_in_by_its_certificate() {
    let secure = Secure::by_mqtts_alone(&[SIGNS]);
    let mut agent = secure.enroll(DEVICE);
    agent.start();
    is_heard(&secure, &agent, "the device by its certificate");
    let token = || {
        let config = fs::read_to_string(agent.config_file()).unwrap();
        config.lines().find_map(|line| line.strip_prefix("DEVICE_TOKEN=")).unwrap().to_owned()
    };
    let (api, before) = (secure.server.api(), token());
    let command = api.command(DEVICE, &serde_json::json!({"type": "rotate_token"}));
    let done = api.wait_for_command(&command, &["completed", "failed"], SOON);
    assert_eq!(done["status"], "completed", "{done:#}");
    let status = |token: &str| {
        let (url, header) =
            (format!("{}/api/v1/connect", secure.server.url()), format!("X-Device-Token: {token}"));
        text(
            &Command::new("curl")
                .args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "-H", &header, &url])
                .output()
                .unwrap(),
        )
    };
    assert_eq!((status(&before), status(&token())), ("401".to_owned(), "200".to_owned()));
    is_heard(&secure, &agent, "the device after that");
    assert!(agent.stop().success());
}

#[test]
fn an_agent_with_files_of_somebodys_own_and_no_token_connects_by_them_and_one_with_a_token_does_without_them()
{
    let secure = Secure::start_with(&[SIGNS]);
    let mut agent = secure.enroll(DEVICE);
    let token = fs::read_to_string(agent.config_file()).unwrap();
    let token = token.lines().find(|line| line.starts_with("DEVICE_TOKEN=")).unwrap().to_owned();
    let own = secure.server.folder().join("own.pem");
    fs::copy(pem(&agent), &own).unwrap();
    let config = |own: &Path, more: &str| {
        let (url, authority, own) = (secure.url(), secure.authority(), own.display());
        format!(
            "FLEET_URL={url}\nDEVICE_ID={DEVICE}\nCA_FILE={authority}\nCLIENT_CERT={own}\nCLIENT_KEY={own}\n{more}\n"
        )
    };
    agent.write_config(&config(&own, ""));
    let api = secure.server.api();
    let by = |transport: &str| {
        wait_for(transport, SOON, || {
            std::thread::sleep(Duration::from_millis(300));
            (api.device(DEVICE)["transport"] == transport).then_some(())
        });
    };
    agent.start();
    is_heard(&secure, &agent, "the device by its certificate, which HTTPS takes as well");
    by("mqtts");
    assert!(agent.stop().success());
    agent.set("MQTT_URL", Some(&format!("wss://localhost:{}/mqtt", secure.https)));
    agent.start();
    by("wss");
    is_heard(&secure, &agent, "the device by WebSocket");
    assert!(agent.stop().success());
    agent.set("MQTT_URL", None);

    // Files that are of no use, beside a token that is.
    let foreign = secure.server.folder().join("foreign.pem");
    let key = secure.server.folder().join("foreign.key");
    let (cert, key) = (foreign.to_str().unwrap(), key.to_str().unwrap());
    openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key]);
    openssl(&["req", "-x509", "-new", "-key", key, "-subj", "/CN=x", "-days", "9", "-out", cert]);
    fs::write(cert, fs::read_to_string(cert).unwrap() + &fs::read_to_string(key).unwrap()).unwrap();
    for (name, content) in [("foreign", None), ("no PEM", Some("nothing")), ("missing", None)] {
        if let Some(content) = content {
            fs::write(&foreign, content).unwrap();
        }
        if name == "missing" {
            fs::remove_file(&foreign).unwrap();
        }
        agent.write_config(&config(&foreign, &token));
        agent.start();
        is_heard(&secure, &agent, name);
        assert!(agent.stop().success());
    }
    assert_eq!(fs::read(&own).unwrap(), fs::read(pem(&agent)).unwrap(), "they are left alone");
}

#[test]
fn a_power_cut_at_any_instant_of_an_enrolment_or_a_renewal_leaves_a_device_that_comes_back() {
    let secure = Secure::by_mqtts_alone(&[SIGNS]);
    // The token's file and `fleet.conf` come first; then the authority, the certificate, and `fleet.conf` again.
    let mut agent = Agent::unenrolled(DEVICE);
    for times in 4..=5 {
        for place in agent::config::FILE_FAILPOINTS {
            let _ = fs::remove_file(pem(&agent));
            agent.write_config("# enrolled anew\n");
            secure.server.api().post("/devices/studio-001/allow-reenrollment", &serde_json::json!({}));
            agent.set(VARIABLE, Some(&format!("{place}#{times}")));
            let cut = secure.run_enroll(&agent);
            assert!(!cut.status.success(), "{place}#{times} is passed: {}", text(&cut));
            agent.set(VARIABLE, None);
            agent.start();
            is_heard(&secure, &agent, place);
            assert!(agent.stop().success());
            let again = secure.run_enroll(&agent);
            assert!(
                again.status.success() && text(&again).contains("It has a certificate"),
                "{}",
                text(&again)
            );
        }
    }
    // The connection that is ended was a short one: the agent goes by HTTP exchange, and up again. Twice it writes down by which way;
    // then comes the certificate.
    agent.set("R58_FLEET_TEST_CLIMB_SECONDS", Some("2"));
    for place in agent::config::FILE_FAILPOINTS {
        let before = serial(&pem(&agent));
        agent.set(VARIABLE, Some(&format!("{place}#3")));
        agent.start();
        is_heard(&secure, &agent, "the device by its certificate");
        secure.server.run_ok(&["device", "revoke-certificates", "--device-id", DEVICE], "");
        wait_for("the power cut", 2 * SOON, || agent.ended());
        agent.kill();
        agent.set(VARIABLE, None);
        agent.start();
        is_heard(&secure, &agent, place);
        wait_for("another certificate", SOON, || (serial(&pem(&agent)) != before).then_some(()));
        is_heard(&secure, &agent, "the device by its new certificate");
        assert!(agent.stop().success());
    }
}
