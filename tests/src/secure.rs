//! A server with an authority of its own, and its two encrypted ports.

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

    /// The certificate that clients need to know the server by.
    pub fn authority(&self) -> String {
        self.file("ca.pem")
    }

    /// A file of its folder `tls`.
    pub fn file(&self, name: &str) -> String {
        self.server.data_dir().join("tls").join(name).to_str().expect("a temporary folder").to_owned()
    }

    /// The base of HTTPS.
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.https)
    }

    /// Enrols a device over HTTPS, as an installer would; does not start it.
    pub fn enroll(&self, device: &str) -> Agent {
        let (agent, authority) = (Agent::unenrolled(device), self.authority());
        let arguments = ["enroll", &self.url(), "--key", "-", "--device-id", device, "--ca", &authority];
        let output = agent.run(&arguments, &self.server.enrollment_key());
        assert!(output.status.success(), "enrol: {}", String::from_utf8_lossy(&output.stderr));
        agent
    }
}
