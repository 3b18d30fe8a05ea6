//! Puts a backup in the place of the present data.
//!
//! 1. Nobody else may be at the data: the server's lock, and the database's folder for oneself.
//! 2. The backup is unpacked beside it, checked, brought to this program's schema, and told that it was restored
//!    ([`restored`]). Up to here nothing has changed.
//! 3. The places are changed ([`swap`]): from the moment when that is decided, any power cut leads to the new data.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use protocol::failpoint::reached;

use super::{
    BackupError, Manifest, Progress,
    create::{BLOB_FOLDER, stamp},
    manifest::DATABASE,
    snapshot, unpack,
    work::WorkFolder,
};
use crate::{
    clock::Clock,
    config::Config,
    domain::org::OrgId,
    failpoint,
    store::{
        DataLock, Store,
        folder::{FolderLock, folder_of, with_suffix},
        known_version, make_data_dir, migrate_alone, restored,
        swap::{self, Plan, like_its_folder},
    },
};

/// What may stand beside a database and belongs to it.
const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// What is to be restored, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// The backup; `None`: standard input.
    pub from: Option<PathBuf>,
    /// Whether a database that is there may be set aside.
    pub force: bool,
}

/// What was restored.
#[derive(Debug, Clone)]
pub struct Restored {
    /// Which backup.
    pub manifest: Manifest,
    /// Where the data is that was there before; none if there was none.
    pub aside: Vec<PathBuf>,
    /// Commands that are open in it, about which devices are asked.
    pub open_commands: i64,
}

/// Restores a backup to where `config` says the data is. Blocks.
///
/// # Errors
/// [`BackupError`]; then nothing has changed.
pub fn restore(
    config: &Config,
    options: &Options,
    clock: &Clock,
    progress: &mut Progress,
) -> Result<Restored, BackupError> {
    // First what needs no folder: a mistyped name changes nothing.
    let input: Box<dyn Read> = match &options.from {
        Some(path) => Box::new(File::open(path).map_err(BackupError::file("open", path))?),
        None => Box::new(io::stdin().lock()),
    };
    let (database, data_dir) = (&config.database, &config.data_dir);
    make_data_dir(data_dir)?;
    let folder = folder_of(database);
    make_data_dir(folder)?;
    let _server = DataLock::acquire(data_dir)?;
    let elsewhere = !is_same(folder, data_dir);
    let _its_server = if elsewhere { Some(DataLock::acquire(folder)?) } else { None };
    let _alone = FolderLock::alone(database)?;
    // The empty file of a first start that was cut off is nobody's data.
    let has_data = is_there(database)? && fs::metadata(database).map_or(true, |found| found.len() > 0);
    if has_data && !options.force {
        return Err(BackupError::HasData { database: database.clone() });
    }

    let work = WorkFolder::make(folder, "restore")?;
    let blob_work = if elsewhere { Some(WorkFolder::make(data_dir, "restore")?) } else { None };
    let new_database = work.path().join(DATABASE);
    let new_blobs = blob_work.as_ref().unwrap_or(&work).path().join(BLOB_FOLDER);
    let manifest = unpack::unpack(input, known_version(), &new_database, &new_blobs, progress)?;
    reached(failpoint::RESTORE_AFTER_UNPACKING);
    let now_ms = clock.now_ms();
    progress.at("checking", 0, 1);
    let open_commands = prepare(&new_database, &manifest, now_ms)?;
    progress.at("checking", 1, 1);
    reached(failpoint::RESTORE_AFTER_MARKING);
    give_to_owner(&new_database, folder)?;
    let has_blobs = is_there(&new_blobs)?;
    if has_blobs {
        give_to_owner(&new_blobs, data_dir)?;
    }
    for folder in [Some(&work), blob_work.as_ref()].into_iter().flatten() {
        unpack::sync_below(folder.path())?;
    }

    let name = aside_name(folder, data_dir, now_ms)?;
    let (aside, blobs_aside) = (folder.join(&name), data_dir.join(&name));
    let mut plan = Plan { aside: Vec::new(), place: Vec::new(), remove: vec![work.path().to_owned()] };
    let its_name = |path: &Path| path.file_name().map(PathBuf::from).unwrap_or_default();
    for path in std::iter::once(database.clone()).chain(COMPANIONS.map(|end| with_suffix(database, end))) {
        if is_there(&path)? {
            plan.aside.push((path.clone(), aside.join(its_name(&path))));
        }
    }
    let blobs = data_dir.join(BLOB_FOLDER);
    if is_there(&blobs)? {
        plan.aside.push((blobs.clone(), blobs_aside.join(BLOB_FOLDER)));
    }
    plan.place.push((new_database, database.clone()));
    if has_blobs {
        plan.place.push((new_blobs, blobs));
    }
    plan.remove.extend(blob_work.as_ref().map(|work| work.path().to_owned()));
    let mut asides: Vec<PathBuf> =
        plan.aside.iter().filter_map(|(_, to)| to.parent().map(Path::to_owned)).collect();
    asides.dedup();
    swap::decide(database, &within(plan, folder))?;
    swap::finish(database)?;
    progress.end();
    Ok(Restored { manifest, aside: asides, open_commands })
}

/// Checks the unpacked database and makes it one that a server can go on with; gives the number of open commands.
fn prepare(path: &Path, manifest: &Manifest, now_ms: i64) -> Result<i64, BackupError> {
    let reading = BackupError::sqlite("prepare", path);
    let mut connection = snapshot::open_unpacked(path)?;
    migrate_alone(&mut connection, path)?;
    let orgs: Vec<OrgId> = connection
        .prepare("SELECT id FROM organizations")
        .and_then(|mut all| all.query_map([], |row| row.get(0).map(OrgId::new))?.collect())
        .map_err(&reading)?;
    let copy = restored::Copy {
        made_at: manifest.created_at_ms,
        made_by: manifest.fleetd_version.chars().filter(|c| !c.is_control()).take(40).collect(),
    };
    Store::apply_alone(&connection, path, &restored::mark(&copy, &orgs, now_ms))?;
    let open = connection.query_row(&restored::count_open(), [], |row| row.get(0)).map_err(&reading)?;
    connection.close().map_err(|(_, source)| reading(source))?;
    File::open(path).and_then(|file| file.sync_all()).map_err(BackupError::file("sync", path))?;
    Ok(open)
}

/// Paths within the database's folder are kept without it, so that the folder may be found under another name.
fn within(plan: Plan, folder: &Path) -> Plan {
    let short = |path: PathBuf| {
        path.strip_prefix(folder)
            .map(Path::to_owned)
            .unwrap_or_else(|_| std::path::absolute(&path).unwrap_or(path))
    };
    let both = |moves: Vec<(PathBuf, PathBuf)>| {
        moves.into_iter().map(|(from, to)| (short(from), short(to))).collect()
    };
    Plan {
        aside: both(plan.aside),
        place: both(plan.place),
        remove: plan.remove.into_iter().map(short).collect(),
    }
}

fn is_there(path: &Path) -> Result<bool, BackupError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(BackupError::file("look at", path)(error)),
    }
}

fn is_same(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

/// A name that nothing has in either folder.
fn aside_name(folder: &Path, data_dir: &Path, now_ms: i64) -> Result<String, BackupError> {
    let base = format!("before-restore-{}", stamp(now_ms));
    let mut name = base.clone();
    for count in 2.. {
        if !is_there(&folder.join(&name))? && !is_there(&data_dir.join(&name))? {
            break;
        }
        name = format!("{base}-{count}");
    }
    Ok(name)
}

/// Restored by root, the data still belongs to whom the folder belongs: the server runs as that user.
fn give_to_owner(path: &Path, folder: &Path) -> Result<(), BackupError> {
    let failed = BackupError::file("give to its owner", path);
    like_its_folder(path, folder).map_err(&failed)?;
    if fs::symlink_metadata(path).map_err(&failed)?.is_dir() {
        for entry in fs::read_dir(path).map_err(&failed)? {
            give_to_owner(&entry.map_err(&failed)?.path(), folder)?;
        }
    }
    Ok(())
}
