//! What a device says about itself when it enrols. Everything is optional.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Longest fact, in characters.
const FACT_MAX_CHARS: usize = 100;

/// Names of fields with their values; what cannot be found out is left out.
pub(super) fn collect(app_dir: &Path) -> Vec<(&'static str, String)> {
    let tree = Path::new("/proc/device-tree");
    let facts = [
        ("platform", text(&tree.join("model"))),
        ("serial_number", text(&tree.join("serial-number"))),
        ("mac_address", mac_address(Path::new("/sys/class/net"))),
        ("current_version", crate::app_status::installed_version(app_dir)),
    ];
    facts.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// The text of a small file of the kernel's; none if it is missing or empty.
fn text(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(1024).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let clean: String = text.chars().filter(|c| !c.is_control()).take(FACT_MAX_CHARS).collect();
    let clean = clean.trim();
    (!clean.is_empty()).then(|| clean.to_owned())
}

/// The address of the first real network card by name: one that belongs to a device, so no bridge, tunnel or loopback.
fn mac_address(cards: &Path) -> Option<String> {
    let mut folders: Vec<PathBuf> = cards.read_dir().ok()?.flatten().map(|entry| entry.path()).collect();
    folders.sort();
    let real = folders.iter().filter(|folder| folder.join("device").exists());
    real.filter_map(|folder| text(&folder.join("address"))).find(|address| address != "00:00:00:00:00:00")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;

    #[test]
    fn the_first_real_card_gives_the_address() {
        let folder = tempfile::tempdir().unwrap();
        let card = |name: &str, address: &str, real: bool| {
            let card = folder.path().join(name);
            fs::create_dir(&card).unwrap();
            fs::write(card.join("address"), format!("{address}\n")).unwrap();
            if real {
                fs::create_dir(card.join("device")).unwrap();
            }
        };
        assert_eq!(mac_address(folder.path()), None);
        card("br0", "02:00:00:00:00:09", false);
        card("eth1", "02:00:00:00:00:02", true);
        card("eth0", "02:00:00:00:00:01", true);
        card("can0", "00:00:00:00:00:00", true);
        assert_eq!(mac_address(folder.path()).as_deref(), Some("02:00:00:00:00:01"));
        assert_eq!(mac_address(&folder.path().join("none")), None);
    }

    #[test]
    fn what_a_device_tree_holds_is_cleaned() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("model"), "Mekotronics R58\0").unwrap();
        assert_eq!(text(&folder.path().join("model")).as_deref(), Some("Mekotronics R58"));
        fs::write(folder.path().join("model"), "\0").unwrap();
        assert_eq!(text(&folder.path().join("model")), None);
    }
}
