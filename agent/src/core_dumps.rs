//! Core dumps: the memory of the agent has the device's token in it, so none is ever written to the disk.

use nix::sys::resource::{Resource, setrlimit};

/// Has the system write no core dump of this process and of what it starts. Called before a secret is read. A system that
/// does not allow it goes on; the unit says it as well.
pub fn forbid() {
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
}
