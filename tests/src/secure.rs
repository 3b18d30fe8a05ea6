//! A server with an authority of its own, and its two encrypted ports.

use std::process::Output;

use crate::{Agent, Server, free_port};

/// The server, and where it listens encrypted.
pub struct Secure {
    /// The server itself; it listens in plain text as well.
    pub server: Server,
    /// The port of HTTPS.
    pub https: u16,
    /// The port of MQTT over TLS.
    pub mqtts: u16,
}

impl Secure {
    /// Starts one for `localhost` and `127.0.0.1`, with these environment variables besides.
    pub fn start_with(settings: &[(&str, &str)]) -> Self {
        let (https, mqtts) = (free_port(), free_port());
        let mut server = Server::start();
        assert!(server.stop().success());
        let told = server.run_ok(&["tls", "init", "--name", "localhost", "--name", "127.0.0.1"], "");
        assert!(told.contains("localhost, 127.0.0.1"), "{told}");
        server.set("FLEET_HTTPS_LISTEN", Some(&format!("127.0.0.1:{https}")));
        server.set("FLEET_MQTTS_LISTEN", Some(&format!("127.0.0.1:{mqtts}")));
        for (key, value) in settings {
            server.set(key, Some(value));
        }
        server.start_again();
        Self { server, https, mqtts }
    }

    /// As [`Self::start_with`], where devices find MQTT over TLS alone; they are enrolled over plain HTTP.
    pub fn by_mqtts_alone(settings: &[(&str, &str)]) -> Self {
        let mut secure = Self::start_with(settings);
        assert!(secure.server.stop().success());
        secure.server.set("FLEET_HTTPS_LISTEN", None);
        secure.server.set("FLEET_MQTT_LISTEN", Some(""));
        secure.server.start_again();
        secure.https = 0;
        secure
    }

    /// The certificate that clients need to know the server by.
    pub fn authority(&self) -> String {
        self.file("ca.pem")
    }

    /// A file of its folder `tls`.
    pub fn file(&self, name: &str) -> String {
        self.server.data_dir().join("tls").join(name).to_str().expect("a temporary folder").to_owned()
    }

    /// The base of HTTPS, or of HTTP where there is none.
    pub fn url(&self) -> String {
        if self.https == 0 { self.server.url() } else { format!("https://localhost:{}", self.https) }
    }

    /// Enrols a device, as an installer would; does not start it. After a fall it looks at better ways within seconds.
    pub fn enroll(&self, device: &str) -> Agent {
        let agent = Agent::unenrolled(device).with("R58_FLEET_TEST_CLIMB_SECONDS", "2");
        let output = self.run_enroll(&agent);
        assert!(output.status.success(), "enrol: {}", String::from_utf8_lossy(&output.stderr));
        agent
    }

    /// Runs the installer's command.
    pub fn run_enroll(&self, agent: &Agent) -> Output {
        let (url, authority) = (self.url(), self.authority());
        let arguments = ["enroll", &url, "--key", "-", "--device-id", agent.device(), "--ca", &authority];
        agent.run(&arguments, &self.server.enrollment_key())
    }
}
