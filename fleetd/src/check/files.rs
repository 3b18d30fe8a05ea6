//! The data folder, the secrets in it, and room on the disk.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};

use super::Finding;
use crate::config::Config;
use crate::store::folder::with_suffix;

/// Less free space than this is told, in bytes.
const ROOM_WANTED: u64 = 1 << 30;
/// With less than this the server soon stops taking anything in, in bytes.
const ROOM_NEEDED: u64 = 100 << 20;

pub(super) fn look(config: &Config, config_file: Option<&Path>) -> Vec<Finding> {
    let mut findings = vec![match config_file {
        Some(path) => Finding::ok("config", format!("{} and the environment", path.display())),
        None => Finding::ok("config", "no file; defaults and the environment"),
    }];
    if let Some(path) = config_file
        && (config.jwt_secret.is_some() || config.admin.is_some())
    {
        findings.extend(is_private(path));
    }
    let folder = &config.data_dir;
    match fs::metadata(folder) {
        Ok(meta) if !meta.is_dir() => {
            findings.push(Finding::error(
                "data folder",
                format!("{} is no folder", folder.display()),
                "set FLEET_DATA_DIR to a folder",
            ));
            return findings;
        }
        Ok(meta) => findings.push(data_folder(folder, &meta)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            findings.push(Finding::ok("data folder", format!("{} will be made", folder.display())));
            return findings;
        }
        Err(error) => {
            let advice = "run the check as the user that runs fleetd, or as root";
            findings.push(Finding::error("data folder", format!("{}: {error}", folder.display()), advice));
            return findings;
        }
    }
    let database = &config.database;
    let beside = ["-wal", "-shm"].map(|suffix| with_suffix(database, suffix));
    let secrets = ["jwt-secret", "first-admin-password"].map(|name| folder.join(name));
    let keys = ["tls/ca.key", "tls/server.key", "tls/devices-ca.key"].map(|name| folder.join(name));
    let private = beside.iter().chain(&secrets).chain(&keys).chain([database]);
    findings.extend(private.filter_map(|path| is_private(path)));
    if secrets[1].exists() {
        let advice = format!("sign in with what {} says, and choose another password", secrets[1].display());
        findings.push(Finding::warning("first account", "its password was not changed yet", advice));
    }
    findings.extend(room(folder));
    findings
}

fn data_folder(folder: &Path, meta: &fs::Metadata) -> Finding {
    let name = folder.display();
    let mode = meta.permissions().mode();
    let advice = format!("chmod 700 {name}");
    if mode & 0o022 != 0 {
        return Finding::error("data folder", format!("{name} can be changed by other users"), advice);
    }
    // Root may write everywhere; the server runs as the folder's owner.
    if access(folder, AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK).is_err() {
        let advice = format!("run as user {}, or as root", meta.uid());
        return Finding::error("data folder", format!("{name} cannot be written by this user"), advice);
    }
    if mode & 0o055 != 0 {
        return Finding::warning("data folder", format!("{name} can be entered by other users"), advice);
    }
    Finding::ok("data folder", name.to_string())
}

/// A finding if others may read the file.
fn is_private(path: &Path) -> Option<Finding> {
    let mode = fs::metadata(path).ok()?.permissions().mode();
    let name = path.display();
    // A config file of the package belongs to root and the server's group.
    let open = if path.extension().is_some_and(|ending| ending == "toml") { 0o007 } else { 0o077 };
    (mode & open != 0).then(|| {
        let advice = format!("chmod {:o} {name}", mode & 0o777 & !open);
        Finding::error(
            "secrets",
            format!("{name} can be read by other users (mode {:o})", mode & 0o777),
            advice,
        )
    })
}

fn room(folder: &Path) -> Option<Finding> {
    let disk = statvfs(folder).ok()?;
    let free = disk.blocks_available().saturating_mul(disk.fragment_size());
    let seen = format!("{} MB free for {}", free / 1_000_000, folder.display());
    let advice = "free some space, or lower heartbeat_retention_days";
    Some(match free {
        ..ROOM_NEEDED => Finding::error("disk", seen, advice),
        ROOM_NEEDED..ROOM_WANTED => Finding::warning("disk", seen, advice),
        _ => Finding::ok("disk", seen),
    })
}
