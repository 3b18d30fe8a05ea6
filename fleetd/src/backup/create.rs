//! Makes a backup.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use protocol::failpoint::reached;

use super::{
    BackupError, Manifest, Progress,
    archive::{self, Source},
    manifest::{BLOBS, DATABASE, check_blob},
    snapshot,
    work::{self, WorkFolder},
};
use crate::{clock::Clock, config::Config, failpoint, store::folder::folder_of};

/// The folder for blobs in the data folder.
pub(super) const BLOB_FOLDER: &str = "blobs";

/// Where a backup goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A new file of this name; in a folder of this name, one that is named by the time.
    File(PathBuf),
    /// Standard output.
    Stdout,
}

/// A backup that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// The file; none where it went to standard output.
    pub path: Option<PathBuf>,
    /// What is in it.
    pub manifest: Manifest,
}

/// Makes a backup of what `config` names. Works beside a running server and without one. Blocks.
///
/// # Errors
/// [`BackupError`]; then there is no file of that name, and nothing else is left.
pub fn create(
    config: &Config,
    target: &Target,
    clock: &Clock,
    progress: &mut Progress,
) -> Result<Made, BackupError> {
    let file = match target {
        Target::File(path) => Some(file_name(path, clock.now_ms())),
        Target::Stdout => None,
    };
    if let Some(file) = &file {
        work::refuse_existing(file)?;
    }
    let beside = file.as_deref().map_or_else(std::env::temp_dir, |file| folder_of(file).to_owned());
    let folder = WorkFolder::make(&beside, "backup")?;
    let copy = folder.path().join(DATABASE);
    let taken = snapshot::take(&config.database, &copy, || clock.now_ms(), progress)?;
    reached(failpoint::BACKUP_AFTER_SNAPSHOT);

    let mut sources = Vec::new();
    let size = fs::metadata(&taken.path).map_or(0, |found| found.len());
    sources.push(archive::measure(taken.path, DATABASE.to_owned(), &mut |done| {
        progress.at("reading", done, size);
    })?);
    sources.extend(blobs(&config.data_dir.join(BLOB_FOLDER))?);
    let parts = sources.iter().map(|source| source.part.clone()).collect();
    let manifest = Manifest::new(taken.schema_version, taken.taken_at, parts);

    match &file {
        None => {
            let mut out = io::stdout().lock();
            let name = Path::new("standard output");
            archive::write(&mut out, name, &manifest, &sources, progress)?;
            out.flush().map_err(BackupError::file("write", name))?;
        }
        Some(file) => {
            let packed = folder.path().join("backup");
            let out = io::BufWriter::with_capacity(archive::BUFFER, work::new_file(&packed)?);
            let out = archive::write(out, file, &manifest, &sources, progress)?;
            let failed = BackupError::file("write", file);
            let out: File = out.into_inner().map_err(|error| failed(error.into_error()))?;
            out.sync_all().map_err(&failed)?;
            reached(failpoint::BACKUP_AFTER_PACKING);
            work::name_it(&packed, file)?;
            reached(failpoint::BACKUP_AFTER_RENAME);
        }
    }
    progress.end();
    Ok(Made { path: file, manifest })
}

/// In a folder, a file gets a name that sorts by time.
fn file_name(path: &Path, now_ms: i64) -> PathBuf {
    if !path.is_dir() {
        return path.to_owned();
    }
    path.join(format!("fleet-{}.tar.zst", stamp(now_ms)))
}

/// A time as it stands in names: `20261231T235959Z`.
pub(super) fn stamp(now_ms: i64) -> String {
    let text = protocol::message::rfc3339(now_ms);
    let digits: String = text.chars().take(19).filter(|c| !matches!(c, '-' | ':')).collect();
    format!("{digits}Z")
}

/// The files of the blob folder, if there is one, sorted by name. Blobs are written whole and never changed.
fn blobs(folder: &Path) -> Result<Vec<Source>, BackupError> {
    let (mut found, mut folders) = (Vec::new(), vec![(folder.to_owned(), String::new())]);
    while let Some((path, within)) = folders.pop() {
        let failed = BackupError::file("read the folder", &path);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(error)),
        };
        for entry in entries {
            let entry = entry.map_err(&failed)?;
            let (path, kind) = (entry.path(), entry.file_type().map_err(&failed)?);
            let refused = |why| BackupError::Blob { path: path.clone(), why };
            let name = entry.file_name().into_string().map_err(|_| refused("its name is not UTF-8"))?;
            // Unfinished work.
            if name.starts_with('.') {
                continue;
            }
            let name = format!("{within}{name}");
            if kind.is_dir() {
                folders.push((path, format!("{name}/")));
            } else if kind.is_file() {
                check_blob(&name).map_err(refused)?;
                found.push((path, name));
            } else {
                return Err(refused("it is neither a file nor a folder"));
            }
        }
    }
    found.sort_by(|a, b| a.1.cmp(&b.1));
    let mut sources = Vec::with_capacity(found.len());
    for (path, name) in found {
        match archive::measure(path, format!("{BLOBS}{name}"), &mut |_| {}) {
            Ok(source) => sources.push(source),
            // Removed meanwhile: nothing in the database as of the copy may need it any more, or retention took it.
            Err(BackupError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sources)
}
