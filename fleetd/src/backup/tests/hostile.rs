//! Files that are no backup, or no more, or were made to do harm. None of them changes anything.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{
    super::{
        BackupError, Manifest,
        archive::hex,
        manifest::{MANIFEST, Part},
    },
    NOW, Place, names,
};

/// What stands in a hostile archive.
enum Entry {
    File(&'static str, Vec<u8>),
    Other(&'static str, tar::EntryType, Vec<u8>),
}

fn pack(entries: &[Entry]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for entry in entries {
        let (name, kind, content) = match entry {
            Entry::File(name, content) => (name, tar::EntryType::Regular, content),
            Entry::Other(name, kind, content) => (name, *kind, content),
        };
        let mut header = tar::Header::new_ustar();
        // Names that `set_path` refuses.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_entry_type(kind);
        header.set_cksum();
        archive.append(&header, content.as_slice()).unwrap();
    }
    zstd::encode_all(archive.into_inner().unwrap().as_slice(), 1).unwrap()
}

fn part(name: &str, content: &[u8]) -> Part {
    Part { name: name.to_owned(), bytes: content.len() as u64, sha256: hex(&Sha256::digest(content)) }
}

fn manifest(parts: Vec<Part>) -> Entry {
    Entry::File(MANIFEST, Manifest::new(crate::store::known_version(), NOW, parts).to_json().unwrap())
}

/// A place with data, and a sound backup of it.
fn stage() -> (Place, Vec<u8>, Vec<u8>) {
    let place = Place::new();
    std::fs::create_dir(place.data("blobs")).unwrap();
    std::fs::write(place.data("blobs/one"), "one").unwrap();
    place.back_up("sound").unwrap();
    place.sql("UPDATE organizations SET name = 'mine'");
    let sound = std::fs::read(place.file("sound")).unwrap();
    let database = std::fs::read(&place.config.database).unwrap();
    (place, sound, database)
}

/// Restoring this fails, says why, and leaves everything as it was.
#[track_caller]
fn refused(place: &Place, bytes: &[u8]) -> String {
    let file: PathBuf = place.file("hostile");
    std::fs::write(&file, bytes).unwrap();
    let before = std::fs::read(&place.config.database).unwrap();
    let error = place.restore(&file, true).unwrap_err();
    assert_eq!(std::fs::read(&place.config.database).unwrap(), before);
    assert_eq!(names(&place.config.data_dir), ["blobs", "fleet.db", "fleetd.lock"]);
    assert_eq!(names(place.folder.path()), ["data", "hostile", "sound"]);
    crate::service::ingest::error_chain(&error)
}

#[test]
fn a_backup_that_is_cut_off_anywhere_or_has_a_wrong_bit_is_refused() {
    let (place, sound, _) = stage();
    for part in 0..40 {
        let length = sound.len() * part / 40;
        let why = refused(&place, &sound[..length]);
        assert!(
            why.contains("cut off") || why.contains("no backup") || why.contains("ends before"),
            "{length}: {why}"
        );
    }
    let why = refused(&place, &sound[..sound.len() - 1]);
    assert!(why.contains("cut off"), "{why}");
    let content = zstd::decode_all(sound.as_slice()).unwrap();
    let mut refusals = 0;
    for part in 0..60 {
        let mut wrong = sound.clone();
        wrong[sound.len() * part / 60] ^= 1 << (part % 8);
        // A few bits of a frame say nothing: what is unpacked is the same.
        if zstd::decode_all(wrong.as_slice()).is_ok_and(|unpacked| unpacked == content) {
            continue;
        }
        refused(&place, &wrong);
        refusals += 1;
    }
    assert!(refusals > 50, "{refusals}");
    let why = refused(&place, &[sound.as_slice(), b"more"].concat());
    assert!(why.contains("cannot be used"), "{why}");
    place.restore(&place.file("sound"), true).unwrap();
}

#[test]
fn what_is_something_else_is_called_so() {
    let (place, _, database) = stage();
    for bytes in
        [b"".to_vec(), b"hello".to_vec(), database.clone(), zstd::encode_all(&b"hello"[..], 1).unwrap()]
    {
        let why = refused(&place, &bytes);
        assert!(why.contains("no backup of fleetd") || why.contains("cut off"), "{why}");
    }
    let why = refused(&place, &pack(&[Entry::File("fleet.db", database)]));
    assert!(why.contains("does not begin with manifest.json"), "{why}");
    let nowhere = place.restore(Path::new("/no/such/file"), true).unwrap_err();
    assert!(nowhere.to_string().contains("cannot open /no/such/file"), "{nowhere}");
}

#[test]
fn entries_that_the_manifest_does_not_name_in_this_place_are_refused() {
    let (place, _, database) = stage();
    let both = || manifest(vec![part("fleet.db", &database), part("blobs/x", b"x")]);
    let db = || Entry::File("fleet.db", database.clone());
    let link = tar::EntryType::Symlink;
    for (what, entries) in [
        ("escape", vec![both(), db(), Entry::File("blobs/../../x", b"x".to_vec())]),
        ("absolute", vec![both(), db(), Entry::File("/tmp/x", b"x".to_vec())]),
        ("link", vec![both(), db(), Entry::Other("blobs/x", link, b"x".to_vec())]),
        ("hard link", vec![both(), db(), Entry::Other("blobs/x", tar::EntryType::Link, b"x".to_vec())]),
        ("device", vec![both(), db(), Entry::Other("blobs/x", tar::EntryType::Char, b"x".to_vec())]),
        (
            "long name",
            vec![both(), db(), Entry::Other("blobs/x", tar::EntryType::GNULongName, b"x".to_vec())],
        ),
        ("order", vec![both(), Entry::File("blobs/x", b"x".to_vec()), db()]),
        ("size", vec![both(), db(), Entry::File("blobs/x", b"xx".to_vec())]),
        ("content", vec![both(), db(), Entry::File("blobs/x", b"y".to_vec())]),
        ("too few", vec![both(), db()]),
        (
            "too many",
            vec![manifest(vec![part("fleet.db", &database)]), db(), Entry::File("fleet.db-wal", vec![1])],
        ),
        ("named outside", vec![manifest(vec![part("fleet.db", &database), part("../x", b"x")]), db()]),
    ] {
        let why = refused(&place, &pack(&entries));
        assert!(why.contains("cannot be used"), "{what}: {why}");
    }
}

#[test]
fn a_size_that_no_disk_has_is_refused_before_anything_is_written() {
    let (place, _, _) = stage();
    let huge = Part { bytes: u64::MAX / 4, ..part("fleet.db", b"") };
    let why = refused(&place, &pack(&[manifest(vec![huge])]));
    assert!(why.contains("MB are free"), "{why}");
    // A manifest of a terabyte of zeros, in a few bytes.
    let mut header = tar::Header::new_ustar();
    header.set_path(MANIFEST).unwrap();
    header.set_size(1 << 40);
    header.set_cksum();
    let bomb = [header.as_bytes().as_slice(), &[0; 1 << 16]].concat();
    let why = refused(&place, &zstd::encode_all(bomb.as_slice(), 19).unwrap());
    assert!(why.contains("does not begin with"), "{why}");
}

#[test]
fn a_database_that_is_not_ours_or_not_sound_is_refused() {
    let (place, _, database) = stage();
    let with = |change: &str| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        std::fs::write(&path, &database).unwrap();
        rusqlite::Connection::open(&path).unwrap().execute_batch(change).unwrap();
        std::fs::read(&path).unwrap()
    };
    let packed = |database: &[u8]| {
        pack(&[manifest(vec![part("fleet.db", database)]), Entry::File("fleet.db", database.to_vec())])
    };
    let cases: [(&str, Vec<u8>, &str); 8] = [
        ("no database", b"hello".to_vec(), "cannot be used"),
        ("empty", Vec::new(), "not one of fleetd"),
        ("another program's", with("PRAGMA application_id = 7"), "not one of fleetd"),
        (
            "trigger",
            with("CREATE TRIGGER t AFTER INSERT ON users BEGIN DELETE FROM devices; END"),
            "not one of fleetd",
        ),
        (
            "trigger of our name",
            with(
                "DROP TRIGGER audit_log_is_not_cut; \
                 CREATE TRIGGER audit_log_is_not_cut BEFORE DELETE ON audit_log BEGIN DELETE FROM users; END",
            ),
            "not one of fleetd",
        ),
        ("view", with("CREATE VIEW v AS SELECT 1"), "not one of fleetd"),
        (
            "dangling",
            with("PRAGMA foreign_keys = OFF; INSERT INTO device_tags VALUES ('x', 'y', 'z')"),
            "does not have",
        ),
        ("newer", with("INSERT INTO refinery_schema_history VALUES (99, 'x', 'x', 'x')"), "newer fleetd"),
    ];
    for (what, bytes, expected) in cases {
        let why = refused(&place, &packed(&bytes));
        assert!(why.contains(expected), "{what}: {why}");
    }
    let mut torn = database.clone();
    let (from, to) = (torn.len() / 3, torn.len() / 2);
    torn[from..to].fill(0x55);
    let why = refused(&place, &packed(&torn));
    assert!(why.contains("damaged") || why.contains("cannot be read"), "{why}");
}

#[test]
fn an_error_of_a_backup_names_what_to_do() {
    let newer = BackupError::Newer { what: "database schema", found: 15, known: 14 };
    assert!(newer.to_string().contains("install that version first"));
}
