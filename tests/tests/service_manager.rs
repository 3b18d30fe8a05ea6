//! What the agent tells systemd, on a notify socket of the test's own (sd_notify(3)).
#![allow(clippy::unwrap_used)]

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use end_to_end::{Agent, Server};

/// Waits for a message with this line.
fn told(socket: &UnixDatagram, line: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut buffer = [0; 4096];
    while Instant::now() < deadline {
        let Ok(length) = socket.recv(&mut buffer) else { continue };
        if String::from_utf8_lossy(&buffer[..length]).lines().any(|said| said == line) {
            return;
        }
    }
    panic!("systemd was not told {line}");
}

#[test]
fn the_agent_says_when_it_is_ready_feeds_the_watchdog_and_says_when_it_stops() {
    let server = Server::start();
    let path = server.folder().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let agent = Agent::enroll(&server, "studio-001").with("NOTIFY_SOCKET", path.to_str().unwrap());
    let mut agent = agent.with("WATCHDOG_USEC", "3000000");
    agent.start();
    told(&socket, "READY=1");
    for _ in 0..3 {
        told(&socket, "WATCHDOG=1");
    }
    assert!(agent.stop().success());
    told(&socket, "STOPPING=1");
}
