//! A network of its own for processes and tasks of ours: a network namespace, and where it is wanted a mount namespace in which
//! files of the system are replaced.
//!
//! It has no name that others could see. It lives as long as its thread, its processes and its file do: nothing is left of it
//! when this program ends, however it ends.

use std::fs::File;
use std::io::{self, Write as _};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// A namespace with a thread in it, on which tasks can be started.
#[derive(Debug)]
pub(super) struct Namespace {
    net: File,
    mounts: Option<File>,
    tasks: Handle,
    /// The thread ends when this is dropped.
    _stop: oneshot::Sender<()>,
}

impl Namespace {
    /// A new one, with loopback alone. In a mount namespace of its own each of `replaced` (a file of the system and one of ours)
    /// is put in place of the first.
    pub(super) fn new(replaced: &[(&'static str, PathBuf)]) -> io::Result<Self> {
        let replaced = replaced.to_vec();
        let (send, made) = sync_channel(1);
        thread::spawn(move || {
            let (stop, stopped) = oneshot::channel();
            let (runtime, net, mounts) = match prepare(&replaced) {
                Ok(ready) => ready,
                Err(error) => {
                    let _ = send.send(Err(error));
                    return;
                }
            };
            let tasks = runtime.handle().clone();
            if send.send(Ok(Self { net, mounts, tasks, _stop: stop })).is_ok() {
                // An error is the wanted end: the namespace was dropped.
                let _ = runtime.block_on(stopped);
            }
        });
        let namespace = made.recv().map_err(io::Error::other)??;
        namespace.ip("link set lo up\n")?;
        Ok(namespace)
    }

    /// Does something in there.
    pub(super) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let done = thread::scope(|scope| {
            let inside = || {
                self.stay().expect("a namespace of our own can be entered");
                work()
            };
            scope.spawn(inside).join()
        });
        done.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// The calling thread is in there from now on, with all that it starts.
    pub(super) fn stay(&self) -> io::Result<()> {
        setns(&self.net, CloneFlags::CLONE_NEWNET)?;
        if let Some(mounts) = &self.mounts {
            // Threads share their working directory, and who does so cannot change the mounts that it sees.
            unshare(CloneFlags::CLONE_FS)?;
            setns(mounts, CloneFlags::CLONE_NEWNS)?;
        }
        Ok(())
    }

    /// Starts a task in there; its sockets belong there.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// A path that names it to `ip`.
    pub(super) fn path(&self) -> String {
        use std::os::fd::AsRawFd as _;
        format!("/proc/{}/fd/{}", std::process::id(), self.net.as_raw_fd())
    }

    /// Lines for `ip -batch`.
    pub(super) fn ip(&self, lines: &str) -> io::Result<()> {
        self.run("ip", &["-batch", "-"], lines)
    }

    /// Runs a tool in there to its end.
    pub(super) fn run(&self, tool: &str, arguments: &[&str], input: &str) -> io::Result<()> {
        self.ask(tool, arguments, input).map(drop)
    }

    /// What a tool says in there.
    pub(super) fn ask(&self, tool: &str, arguments: &[&str], input: &str) -> io::Result<String> {
        self.enter(|| {
            let mut command = Command::new(find(tool));
            command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().map_err(|error| io::Error::other(format!("{tool}: {error}")))?;
            if let Some(mut stdin) = child.stdin.take() {
                stdin.write_all(input.as_bytes())?;
            }
            let output = child.wait_with_output()?;
            if output.status.success() {
                return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
            }
            let said = String::from_utf8_lossy(&output.stderr);
            Err(io::Error::other(format!("{tool} {arguments:?}: {}\n{input}", said.trim())))
        })
    }

    /// Writes a setting of this network's kernel.
    pub(super) fn set(&self, file: &str, value: &str) -> io::Result<()> {
        self.enter(|| std::fs::write(Path::new("/proc/sys/net").join(file), value))
    }
}

fn prepare(
    replaced: &[(&'static str, PathBuf)],
) -> io::Result<(tokio::runtime::Runtime, File, Option<File>)> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let mut mounts = None;
    if !replaced.is_empty() {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
        for (of_system, ours) in replaced {
            mount(Some(ours), *of_system, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .map_err(|error| io::Error::other(format!("cannot replace {of_system}: {error}")))?;
        }
        mounts = Some(File::open("/proc/thread-self/ns/mnt")?);
    }
    let net = File::open("/proc/thread-self/ns/net")?;
    Ok((Builder::new_current_thread().enable_all().build()?, net, mounts))
}

/// Debian keeps these from people's PATH.
fn find(tool: &str) -> PathBuf {
    let places = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(|folder| Path::new(folder).join(tool));
    places.into_iter().find(|path| path.exists()).unwrap_or_else(|| PathBuf::from(tool))
}
