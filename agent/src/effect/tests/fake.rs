//! A systemd that is a folder, and the kernel of another boot.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::config::Config;
use crate::effect::*;
use crate::systemctl::Systemd;

const SYSTEMCTL: &str = include_str!("../../../tests/systemctl/systemctl");

pub(super) struct FakeSystemd {
    folder: tempfile::TempDir,
}

impl FakeSystemd {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        script(&folder.path().join("systemctl"), SYSTEMCTL);
        Self { folder }
    }

    /// With these units, all of them up.
    pub(super) fn with_units(units: &[&str]) -> Self {
        let systemd = Self::new();
        units.iter().for_each(|unit| systemd.start(unit));
        systemd
    }

    pub(super) fn start(&self, unit: &str) {
        let program = self.file("systemctl");
        assert!(Command::new(program).args(["test-start", unit]).status().unwrap().success());
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn way(&self) -> Systemd {
        Systemd::on_path(format!("{}:/usr/bin:/bin", self.folder.path().display()))
    }

    /// The effects so far.
    pub(super) fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.file("calls")).unwrap_or_default();
        calls.lines().map(str::to_owned).collect()
    }
}

pub(super) fn script(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

pub(super) fn config(text: &str) -> Config {
    Config::from_parts(Some((Path::new("/etc/fleet.conf"), text)), &[], "box-7").unwrap()
}

pub(super) fn kernel() -> Kernel {
    Kernel::open().unwrap()
}

pub(super) fn context() -> EffectContext {
    EffectContext {
        command_id: "c-1".parse().unwrap(),
        device_id: DeviceId::new("studio-001").unwrap(),
        kernel: kernel(),
    }
}

/// The note as it comes back from the journal.
pub(super) fn from_journal(observed: &Observed) -> Observed {
    Observed::from_text(&observed.to_text()).unwrap()
}

pub(super) const LONG: Duration = Duration::from_secs(30);
