//! Core dumps: the memory of our programs has passwords and tokens in it, so none is ever written to a disk.

use nix::sys::resource::{Resource, setrlimit};

/// Has the system write no core dump of this process and of those that it starts. Programs call it before they
/// read a secret. A system that does not allow it goes on; the units say it as well.
pub fn forbid() {
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
}
