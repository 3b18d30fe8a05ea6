use super::super::manifest::{Manifest, Part, check_blob};

fn part(name: &str) -> Part {
    Part { name: name.to_owned(), bytes: 1, sha256: "0".repeat(64) }
}

fn parsed(names: &[&str]) -> Result<Manifest, String> {
    let manifest = Manifest::new(1, 0, names.iter().map(|name| part(name)).collect());
    Manifest::parse(&manifest.to_json().unwrap(), 1).map_err(|error| error.to_string())
}

#[test]
fn a_manifest_names_the_database_first_and_every_part_once() {
    assert!(parsed(&["fleet.db"]).is_ok());
    assert!(parsed(&["fleet.db", "blobs/a/b.tar.gz", "blobs/c"]).is_ok());
    assert!(parsed(&[]).unwrap_err().contains("begin"));
    assert!(parsed(&["blobs/a", "fleet.db"]).unwrap_err().contains("begin"));
    assert!(parsed(&["fleet.db", "blobs/a", "blobs/a"]).unwrap_err().contains("twice"));
    assert!(parsed(&["fleet.db", "fleet.db"]).unwrap_err().contains("twice"));
    assert!(parsed(&["fleet.db", "blobs/a", "blobs/a/b"]).unwrap_err().contains("inside"));
}

#[test]
fn no_part_has_a_name_that_leads_out_of_its_folder() {
    for name in [
        "../x",
        "/etc/passwd",
        "blobs/../x",
        "blobs/",
        "blobs//x",
        "blobs/.x",
        "x",
        "fleet.db-wal",
        "blobs/a\\b",
        "blobs/\u{0}",
    ] {
        assert!(parsed(&["fleet.db", name]).is_err(), "{name:?}");
    }
    assert!(check_blob(&"x".repeat(200)).is_err());
}

#[test]
fn a_manifest_of_a_newer_program_is_told_from_a_damaged_one() {
    let json = |text: &str| Manifest::parse(text.as_bytes(), 14).unwrap_err().to_string();
    assert!(json("{").contains("no backup"));
    assert!(json(r#"{"format": "x", "format_version": 1}"#).contains("something else"));
    assert!(json(r#"{"format": "r58-fleet-backup", "format_version": 2}"#).contains("newer fleetd"));
    assert!(json(r#"{"format": "r58-fleet-backup", "format_version": 1}"#).contains("cannot be understood"));
    let newer = Manifest::new(15, 0, vec![part("fleet.db")]).to_json().unwrap();
    assert!(json(&String::from_utf8(newer).unwrap()).contains("schema 15"));
}
