//! nginx in front of the server, with the file that people are given (`config/nginx.conf`).
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use end_to_end::{ADMIN_EMAIL, ADMIN_PASSWORD, Agent, Process, Server, free_port, wait_for};

const SOON: Duration = Duration::from_secs(60);
const CONFIG: &str = include_str!("../../config/nginx.conf");

/// A server that only nginx is to be reached by, as docs/reverse-proxy.md has it.
struct Site {
    /// First, so that it ends before the folder with its files goes.
    _nginx: Process,
    server: Server,
    https: u16,
    http: u16,
}

impl Site {
    fn start() -> Self {
        let (https, http) = (free_port(), free_port());
        let server = Server::start_with(&[
            ("FLEET_TRUSTED_PROXIES", "127.0.0.1"),
            ("FLEET_PUBLIC_URL", &format!("https://localhost:{https}")),
            ("FLEET_MQTT_LISTEN", ""),
        ]);
        server.run_ok(&["tls", "init", "--name", "localhost"], "");
        let folder = server.folder().join("nginx");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("nginx.conf"), main_file(&folder, &site_file(&server, https, http))).unwrap();
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-p").arg(&folder).args(["-c", "nginx.conf", "-e", "error.log", "-g", "daemon off;"]);
        let nginx = Process::start(&mut command, &folder.join("output.log"));
        let site = Self { _nginx: nginx, server, https, http };
        wait_for("nginx", SOON, || site.curl(&["-f", &site.url("/ready")]).status.success().then_some(()));
        site
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.https)
    }

    fn authority(&self) -> PathBuf {
        self.server.data_dir().join("tls/ca.pem")
    }

    fn curl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "20", "--cacert"]).arg(self.authority());
        command.args(arguments).output().unwrap()
    }
}

/// The file as shipped, with this test's names, ports and certificate.
fn site_file(server: &Server, https: u16, http: u16) -> String {
    let tls = server.data_dir().join("tls");
    let upstream = server.url().replace("http://", "");
    let changes = [
        ("listen 443 ssl;", format!("listen 127.0.0.1:{https} ssl;"), 1),
        ("listen 80;", format!("listen 127.0.0.1:{http};"), 1),
        ("server_name fleet.example.org;", "server_name localhost;".to_owned(), 2),
        ("server 127.0.0.1:8180;", format!("server {upstream};"), 1),
        (
            "/etc/letsencrypt/live/fleet.example.org/fullchain.pem",
            tls.join("server.pem").display().to_string(),
            1,
        ),
        (
            "/etc/letsencrypt/live/fleet.example.org/privkey.pem",
            tls.join("server.key").display().to_string(),
            1,
        ),
    ];
    let mut text = CONFIG.to_owned();
    for (shipped, ours, times) in changes {
        assert_eq!(text.matches(shipped).count(), times, "{shipped}");
        text = text.replace(shipped, &ours);
    }
    text
}

/// What a distribution's own `nginx.conf` does around it.
fn main_file(folder: &Path, site: &str) -> String {
    let folder = folder.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|name| format!("{name}_temp_path {folder}/{name};\n"))
        .collect();
    format!(
        "pid {folder}/nginx.pid;\nworker_processes 1;\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}{site}\n}}\n"
    )
}

#[test]
fn people_reach_the_api_over_https_and_are_led_there_from_http() {
    let site = Site::start();
    let login = format!(r#"{{"email": "{ADMIN_EMAIL}", "password": "{ADMIN_PASSWORD}"}}"#);
    let answer =
        site.curl(&["-H", "Content-Type: application/json", "-d", &login, &site.url("/api/v1/auth/login")]);
    let text = String::from_utf8_lossy(&answer.stdout);
    assert!(text.contains("access_token"), "{text}");
    let http = format!("http://127.0.0.1:{}/api/v1/devices", site.http);
    let answer = site.curl(&["-i", "-H", "Host: localhost", &http]);
    let text = String::from_utf8_lossy(&answer.stdout).to_lowercase();
    assert!(text.contains(" 301 ") && text.contains("location: https://localhost/api/v1/devices"), "{text}");
}

#[test]
fn a_device_behind_it_enrols_connects_by_websocket_and_stays() {
    let site = Site::start();
    let mut agent = Agent::unenrolled("studio-001");
    let authority = site.authority();
    let arguments = [
        "enroll",
        &site.url(""),
        "--key",
        "-",
        "--device-id",
        "studio-001",
        "--ca",
        authority.to_str().unwrap(),
    ];
    let output = agent.run(&arguments, &site.server.enrollment_key());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    agent.start();
    let api = site.server.api();
    wait_for("wss", SOON, || (api.get("/devices/studio-001")["transport"] == "wss").then_some(()));
    wait_for("heartbeats", SOON, || (api.heartbeat_seqs("studio-001").len() >= 5).then_some(()));
    assert!(agent.stop().success());
}

#[test]
fn the_address_in_the_audit_log_is_the_one_that_nginx_saw_whatever_the_client_claims() {
    let site = Site::start();
    let wrong = format!(r#"{{"email": "{ADMIN_EMAIL}", "password": "not the password"}}"#);
    let claim = "X-Forwarded-For: 203.0.113.9";
    let url = format!("https://localhost:{}/api/v1/auth/login", site.https);
    let call =
        ["--interface", "127.0.0.2", "-H", claim, "-H", "Content-Type: application/json", "-d", &wrong, &url];
    let answer = site.curl(&call);
    assert!(String::from_utf8_lossy(&answer.stdout).contains("401"), "{answer:?}");
    let log = site.server.api().get("/audit").to_string();
    assert!(log.contains("127.0.0.2") && !log.contains("203.0.113.9"), "{log}");
}
