//! Small disks of our own that can be filled to the last byte: memory file systems, mounted where only we see them.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getgid, getuid};

/// Enters a user and mount namespace in which we may mount. To be called before any thread is started.
///
/// # Errors
/// Why this system does not let us, in words.
pub fn enter_namespace() -> Result<(), String> {
    let (user, group) = (getuid(), getgid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
        .map_err(|error| format!("this system gives no user namespace ({error})"))?;
    let write = |file: &str, text: String| {
        fs::write(format!("/proc/self/{file}"), text)
            .map_err(|error| format!("the user namespace cannot be set up: {file}: {error}"))
    };
    write("setgroups", "deny".to_owned())?;
    write("uid_map", format!("0 {user} 1"))?;
    write("gid_map", format!("0 {group} 1"))?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .map_err(|error| format!("mounts cannot be made private ({error})"))
}

/// A folder, on a disk of its own where that is possible.
#[derive(Debug)]
pub struct SmallDisk {
    folder: PathBuf,
    is_own: bool,
}

impl SmallDisk {
    /// Makes the folder, and mounts a disk of `size_mib` there if `own` is wanted.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn make(folder: &Path, size_mib: u32, own: bool) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        if own {
            let options = format!("size={size_mib}m,mode=0700");
            mount(Some("chaos"), folder, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))?;
        }
        Ok(Self { folder: folder.to_owned(), is_own: own })
    }

    /// Leaves not a byte. Says whether that was possible.
    ///
    /// # Errors
    /// Anything but the wanted end.
    pub fn fill(&self) -> io::Result<bool> {
        if !self.is_own {
            return Ok(false);
        }
        let mut file = File::options().create(true).append(true).open(self.filler())?;
        for size in [64 * 1024, 4096, 1] {
            let chunk = vec![0; size];
            loop {
                match file.write(&chunk) {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(true)
    }

    /// Gives the room back.
    pub fn free(&self) {
        // It may not have been filled.
        let _ = fs::remove_file(self.filler());
    }

    fn filler(&self) -> PathBuf {
        self.folder.join("filler")
    }
}
