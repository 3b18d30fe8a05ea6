//! File descriptors: every connection needs one, and a process that has none left can open no file either.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the number of files that this process may have open to the most that the system allows it. Programs call it
/// at their start. What cannot be raised stays as it is.
pub fn raise_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(now, most)| {
        if now < most { setrlimit(Resource::RLIMIT_NOFILE, most, most) } else { Ok(()) }
    });
    if let Err(error) = raised {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// How many files this process may have open.
pub(crate) fn limit() -> Option<usize> {
    let (now, _) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    usize::try_from(now).ok()
}

/// True if an operation failed because this process or the machine has no descriptor left.
pub(crate) fn are_used_up(error: &std::io::Error) -> bool {
    use nix::errno::Errno;
    error.raw_os_error().is_some_and(|code| [Errno::EMFILE as i32, Errno::ENFILE as i32].contains(&code))
}
