//! Reads a backup as a stream, and believes nothing: names, sizes and hashes have to be those of the manifest, in its
//! order, and nothing may come after. What is unpacked goes into a folder where nobody else looks.

use std::{
    fs::{self, DirBuilder},
    io::{self, Read, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::{
    BackupError, Manifest, Part, Progress,
    archive::{BUFFER, hex},
    manifest::{DATABASE, MANIFEST, MANIFEST_MAX_BYTES},
    work::new_file,
};
use crate::store::folder::sync_folder;

/// The largest window that a frame may ask for, as a power of two of bytes: 128 MiB.
const WINDOW_LOG_MAX: u32 = 27;
/// Room that has to be left on the disk, in bytes.
const SPARE_BYTES: u64 = 32 << 20;
/// What may follow the last part: the end of a tar archive, padded.
const TAIL_MAX_BYTES: u64 = 1 << 20;

/// Unpacks everything: the database to `database`, blobs below `blobs`. All of it is fsynced when this returns.
pub(super) fn unpack(
    input: impl Read,
    known_schema: i64,
    database: &Path,
    blobs: &Path,
    progress: &mut Progress,
) -> Result<Manifest, BackupError> {
    let mut frame = zstd::Decoder::new(input).map_err(not_ours)?;
    frame.window_log_max(WINDOW_LOG_MAX).map_err(not_ours)?;
    let mut archive = tar::Archive::new(frame);
    // Raw: extensions for long names and the like are entries like others, and as such refused.
    let mut entries = archive.entries().map_err(not_ours)?.raw(true);

    let mut entry = match entries.next() {
        Some(Ok(entry)) => entry,
        Some(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(cut_off(error)),
        _ => return Err(BackupError::NotABackup("it is not a tar archive in a zstd frame".to_owned())),
    };
    if !is_file(&entry, MANIFEST) || entry.size() > MANIFEST_MAX_BYTES {
        return Err(BackupError::NotABackup(format!("it does not begin with {MANIFEST}")));
    }
    let mut json = Vec::new();
    Read::by_ref(&mut entry).take(MANIFEST_MAX_BYTES).read_to_end(&mut json).map_err(cut_off)?;
    drop(entry);
    let manifest = Manifest::parse(&json, known_schema)?;
    check_room(database, manifest.bytes())?;

    let (mut done, all) = (0, manifest.bytes());
    for part in &manifest.parts {
        let mut entry = match entries.next() {
            Some(entry) => entry.map_err(cut_off)?,
            None => return Err(BackupError::Damaged(format!("it ends before {:?}", part.name))),
        };
        if !is_file(&entry, &part.name) || entry.size() != part.bytes {
            let why = format!("it does not have {:?} where its manifest says so", part.name);
            return Err(BackupError::Damaged(why));
        }
        let to = place(part, database, blobs)?;
        let mut on = |bytes| {
            done += bytes;
            progress.at("unpacking", done, all);
        };
        write_part(&mut entry, part, &to, &mut on)?;
    }
    if entries.next().is_some() {
        return Err(BackupError::Damaged("it has more in it than its manifest says".to_owned()));
    }
    // To the end: the frame's own checksum comes last.
    let mut rest = archive.into_inner();
    let mut tail = Vec::new();
    Read::by_ref(&mut rest).take(TAIL_MAX_BYTES).read_to_end(&mut tail).map_err(cut_off)?;
    if tail.len() as u64 >= TAIL_MAX_BYTES || tail.iter().any(|byte| *byte != 0) {
        return Err(BackupError::Damaged("it goes on after its end".to_owned()));
    }
    Ok(manifest)
}

fn is_file<R: Read>(entry: &tar::Entry<'_, R>, name: &str) -> bool {
    entry.header().entry_type() == tar::EntryType::Regular && *entry.path_bytes() == *name.as_bytes()
}

fn not_ours(error: io::Error) -> BackupError {
    BackupError::NotABackup(error.to_string())
}

fn cut_off(error: io::Error) -> BackupError {
    BackupError::Damaged(match error.kind() {
        io::ErrorKind::UnexpectedEof => "it is cut off".to_owned(),
        _ => format!("it cannot be read to its end ({error})"),
    })
}

/// Where a part goes. Its name was checked with the manifest: it has no other folders than its own.
fn place(part: &Part, database: &Path, blobs: &Path) -> Result<PathBuf, BackupError> {
    if part.name == DATABASE {
        return Ok(database.to_owned());
    }
    let within = part.name.strip_prefix(super::manifest::BLOBS).unwrap_or(&part.name);
    let path = blobs.join(within);
    if let Some(folder) = path.parent() {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(BackupError::file("make the folder", folder))?;
    }
    Ok(path)
}

fn write_part(
    entry: &mut impl Read,
    part: &Part,
    to: &Path,
    on: &mut dyn FnMut(u64),
) -> Result<(), BackupError> {
    let failed = BackupError::file("write", to);
    let mut file = new_file(to)?;
    let (mut hash, mut left, mut buffer) = (Sha256::new(), part.bytes, vec![0; BUFFER]);
    while left > 0 {
        let read = match entry.read(&mut buffer) {
            Ok(0) => return Err(BackupError::Damaged("it is cut off".to_owned())),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(cut_off(error)),
        };
        let chunk = buffer.get(..read).unwrap_or_default();
        hash.update(chunk);
        file.write_all(chunk).map_err(&failed)?;
        left = left.saturating_sub(read as u64);
        on(read as u64);
    }
    if !hex(&hash.finalize()).eq_ignore_ascii_case(&part.sha256) {
        return Err(BackupError::Damaged(format!("{:?} is not what its manifest says", part.name)));
    }
    file.sync_all().map_err(failed)
}

/// Refused before anything is written, so that a disk is not filled in vain.
fn check_room(database: &Path, bytes: u64) -> Result<(), BackupError> {
    let folder = database.parent().unwrap_or(Path::new("."));
    let free = nix::sys::statvfs::statvfs(folder)
        .map(|found| found.blocks_available().saturating_mul(found.fragment_size()))
        .map_err(|errno| BackupError::file("look at", folder)(errno.into()))?;
    let needed = bytes.saturating_add(SPARE_BYTES);
    if needed > free {
        let folder = folder.to_owned();
        return Err(BackupError::NoRoom { folder, needed: (needed >> 20) + 1, free: free >> 20 });
    }
    Ok(())
}

/// Makes the names of everything below a folder survive a power cut.
pub(super) fn sync_below(folder: &Path) -> Result<(), BackupError> {
    let failed = BackupError::file("sync", folder);
    for entry in fs::read_dir(folder).map_err(&failed)? {
        let entry = entry.map_err(&failed)?;
        if entry.file_type().map_err(&failed)?.is_dir() {
            sync_below(&entry.path())?;
        }
    }
    sync_folder(folder).map_err(failed)
}
