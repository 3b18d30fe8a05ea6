//! The peer: Debian's Mosquitto, set up for its best.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::aims::Context;
use crate::outcome::{Outcome, Tell};
use crate::process::{Process, free_address};

/// A running Mosquitto: nothing on disk, no limit on what is under way, no authorization, no log.
pub(crate) struct Mosquitto {
    pub(crate) address: SocketAddr,
    pub(crate) process: Process,
}

impl Mosquitto {
    pub(crate) fn start(context: &Context) -> Outcome<Mosquitto> {
        let address = free_address()?;
        let mut config = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\npersistence false\nmax_inflight_messages 0\nmax_queued_messages 0\n\
             max_connections -1\nset_tcp_nodelay true\nlog_dest none\n",
            address.port()
        );
        if nix::unistd::geteuid().is_root() {
            // It would become a user who cannot come into our folder.
            config += "user root\n";
        }
        let path = context.scratch.join("mosquitto.conf");
        std::fs::write(&path, config).tell(format!("write {}", path.display()))?;
        let mut command = Command::new(program());
        let mut process =
            Process::start(command.arg("-c").arg(&path), &context.scratch.join("mosquitto.log"))?;
        process.wait_for_port(address)?;
        Ok(Mosquitto { address, process })
    }
}

/// Debian has it outside of an ordinary user's PATH.
pub(crate) fn program() -> PathBuf {
    let usual = Path::new("/usr/sbin/mosquitto");
    if usual.exists() { usual.to_owned() } else { PathBuf::from("mosquitto") }
}
