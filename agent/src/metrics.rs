//! How the machine is: processor, memory, disk, temperature, load.
//!
//! A measurement that cannot be had is `None`, never zero. Each sample asks the kernel for exactly what is needed; no
//! process is looked at.

use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;
use nix::sys::sysinfo::sysinfo;
use sysinfo::{Component, Components, CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

use crate::config::Config;

/// After so many samples the list of sensors is made anew: each of them is several files.
const SENSORS_KEPT: u32 = 20;

/// One look at the machine, in the units of the heartbeat.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Metrics {
    /// CPU use of all cores since the sample before, per mille; none in the first sample.
    pub cpu_permille: Option<u16>,
    /// Memory that is not available to a new program, per mille.
    pub mem_permille: Option<u16>,
    /// Free space for ordinary users on the disk that matters, MiB.
    pub disk_free_mib: Option<u32>,
    /// Size of that disk, MiB.
    pub disk_total_mib: Option<u32>,
    /// The hottest sensor of the processor, tenths of a degree Celsius.
    pub temperature_decicelsius: Option<i16>,
    /// Load average over 1, 5 and 15 minutes, hundredths.
    pub load_centi: Option<[u32; 3]>,
}

/// Takes samples; keeps what is needed to compare one with the next.
pub struct Sampler {
    system: Option<System>,
    components: Option<Components>,
    /// Samples since the list of sensors was made.
    sensors_age: u32,
    cpu_has_reference: bool,
    disks: Vec<PathBuf>,
}

impl Sampler {
    /// Nothing is measured yet. The disk is the one of the recordings, or of the application, or of the agent's state:
    /// the first of these folders that is there.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let disks = [config.recordings_dir.as_ref(), Some(&config.app_dir), Some(&config.state_dir)];
        let nothing = RefreshKind::nothing();
        Self {
            system: System::new_with_specifics(nothing)
                .map_err(|error| log_missing("the kernel", &error))
                .ok(),
            components: Components::new_with_refreshed_list()
                .map_err(|error| log_missing("temperature sensors", &error))
                .ok(),
            sensors_age: 0,
            cpu_has_reference: false,
            disks: disks.into_iter().flatten().cloned().collect(),
        }
    }

    /// Measures now. Takes a few milliseconds; a disk that hangs blocks it.
    pub fn sample(&mut self) -> Metrics {
        let (disk_free_mib, disk_total_mib) = self.disks.iter().find_map(|path| disk_mib(path)).unzip();
        Metrics {
            cpu_permille: self.cpu_permille(),
            mem_permille: self.mem_permille(),
            disk_free_mib,
            disk_total_mib,
            temperature_decicelsius: self.temperature_decicelsius(),
            load_centi: load_centi(),
        }
    }

    fn cpu_permille(&mut self) -> Option<u16> {
        let system = self.system.as_mut()?;
        if self.cpu_has_reference {
            system.refresh_cpu_usage();
        } else {
            system.refresh_cpu_list(CpuRefreshKind::nothing().with_usage());
        }
        if system.cpus().is_empty() {
            return None;
        }
        // The use is a difference between two looks, so the first look has none.
        let had_reference = std::mem::replace(&mut self.cpu_has_reference, true);
        had_reference.then(|| permille(f64::from(system.global_cpu_usage()) / 100.0)).flatten()
    }

    fn mem_permille(&mut self) -> Option<u16> {
        let system = self.system.as_mut()?;
        system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
        let (total, available) = (system.total_memory(), system.available_memory());
        if total == 0 {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "a ratio needs no 53 bits")]
        permille(total.saturating_sub(available) as f64 / total as f64)
    }

    fn temperature_decicelsius(&mut self) -> Option<i16> {
        let components = self.components.as_mut()?;
        self.sensors_age += 1;
        if self.sensors_age < SENSORS_KEPT {
            components.iter_mut().for_each(Component::refresh);
        } else {
            // Sensors of a module that is loaded later are found as well.
            components.refresh(true);
            self.sensors_age = 0;
        }
        hottest_processor(components.iter().map(|component| (name_of(component), component.temperature())))
    }
}

fn log_missing(what: &str, error: &sysinfo::Error) {
    tracing::warn!(%error, "{what} cannot be read; those measurements are left out");
}

fn name_of(component: &Component) -> String {
    format!("{} {}", component.id().unwrap_or_default(), component.label()).to_ascii_lowercase()
}

/// Part of one, as per mille; none if it is no such number.
fn permille(part: f64) -> Option<u16> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=1000")]
    part.is_finite().then(|| (part * 1000.0).round().clamp(0.0, 1000.0) as u16)
}

/// Free and total MiB of the disk that holds `path`; none if it is not there.
fn disk_mib(path: &Path) -> Option<(u32, u32)> {
    let disk = statvfs(path).ok()?;
    let mib = |blocks: u64| {
        let bytes = u128::from(blocks) * u128::from(disk.fragment_size());
        u32::try_from(bytes >> 20).unwrap_or(u32::MAX)
    };
    // A file system without blocks (like /proc) has no size to speak of.
    (disk.blocks() > 0).then(|| (mib(disk.blocks_available()), mib(disk.blocks())))
}

fn load_centi() -> Option<[u32; 3]> {
    let (one, five, fifteen) = sysinfo().ok()?.load_average();
    let centi = |load: f64| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to the type's range"
        )]
        (load.is_finite() && load >= 0.0).then(|| (load * 100.0).round().min(f64::from(u32::MAX)) as u32)
    };
    Some([centi(one)?, centi(five)?, centi(fifteen)?])
}

/// The highest plausible temperature among the sensors of the processor; among all if none says what it belongs to.
fn hottest_processor(sensors: impl Iterator<Item = (String, Option<f32>)>) -> Option<i16> {
    const PROCESSOR: [&str; 9] =
        ["cpu", "soc", "core", "package", "tctl", "tdie", "bigcore", "k10temp", "center_thermal"];
    let (mut processor, mut any) = (None, None);
    for (name, celsius) in sensors {
        // Disconnected sensors answer with the ends of their scale.
        let Some(celsius) = celsius.filter(|c| c.is_finite() && (-55.0..=150.0).contains(c)) else {
            continue;
        };
        #[expect(clippy::cast_possible_truncation, reason = "between -550 and 1500")]
        let deci = (celsius * 10.0).round() as i16;
        any = any.max(Some(deci));
        if PROCESSOR.iter().any(|part| name.contains(part)) {
            processor = processor.max(Some(deci));
        }
    }
    processor.or(any)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sensors(list: &[(&str, f32)]) -> Option<i16> {
        hottest_processor(list.iter().map(|(name, c)| ((*name).to_owned(), Some(*c))))
    }

    #[test]
    fn the_hottest_processor_sensor_counts_and_not_a_hotter_disk() {
        assert_eq!(
            sensors(&[("nvme composite", 71.0), ("soc_thermal", 52.04), ("cpu_thermal", 51.0)]),
            Some(520)
        );
        assert_eq!(sensors(&[("nvme composite", 71.0), ("gpu", -3.26)]), Some(710));
    }

    #[test]
    fn a_missing_or_disconnected_sensor_is_absent_and_not_zero() {
        assert_eq!(hottest_processor(std::iter::empty()), None);
        assert_eq!(hottest_processor([("cpu".to_owned(), None)].into_iter()), None);
        assert_eq!(sensors(&[("cpu", -273.0), ("cpu", 255.0), ("cpu", f32::NAN)]), None);
        assert_eq!(disk_mib(Path::new("/no/such/folder")), None);
        assert_eq!(disk_mib(Path::new("/proc")), None);
        assert_eq!(permille(f64::NAN), None);
    }

    #[test]
    fn this_machine_has_plausible_measurements() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::from_parts(None, &[], "host").unwrap();
        config.app_dir = folder.path().join("missing");
        config.state_dir = folder.path().to_owned();
        let mut sampler = Sampler::new(&config);
        assert_eq!(sampler.sample().cpu_permille, None);
        let second = sampler.sample();
        assert!(second.cpu_permille.is_some_and(|v| v <= 1000), "{second:?}");
        assert!(second.mem_permille.is_some_and(|v| (1..=1000).contains(&v)), "{second:?}");
        assert!(second.disk_total_mib.unwrap() >= second.disk_free_mib.unwrap(), "{second:?}");
        assert!(second.load_centi.is_some(), "{second:?}");
    }
}
