//! What a device should be like, as it is sent on its `desired` topic. Pure.
//!
//! The version rises when the content changes and at no other time, so that a device that has reported a version is
//! known to have everything in it. A lock that is over ends by its time: it stays in the content until something else
//! changes.

use std::collections::BTreeMap;

use protocol::message;

use super::device::{Description, DeviceRowId};
use super::org::OrgId;
use super::show_lock::ShowLock;

/// Largest desired config as JSON, in bytes: with everything else it has to fit into one message.
pub const CONFIG_MAX_BYTES: usize = 32 * 1024;
/// A device that says it has a version beyond this is not believed.
const VERSION_MAX: i64 = 1 << 53;

/// A lock as the device has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockedSpan {
    /// From when on, ms since 1970.
    pub from: i64,
    /// Until when, ms since 1970.
    pub until: i64,
    /// The first version that has it.
    pub since_version: i64,
}

impl LockedSpan {
    /// Both times.
    #[must_use]
    pub fn times(&self) -> (i64, i64) {
        (self.from, self.until)
    }
}

/// The desired state of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// The device's row.
    pub device_id: DeviceRowId,
    /// Its organisation.
    pub org_id: OrgId,
    /// 0: nothing was ever desired of it.
    pub version: i64,
    /// Keys and values, as people and `config` commands set them.
    pub config: BTreeMap<String, String>,
    /// Sorted, each once.
    pub show_locks: Vec<LockedSpan>,
    /// Devices of one group are never disrupted at the same time.
    pub redundancy_group: Option<String>,
    /// The release that it is meant to have; information only.
    pub target_version: Option<String>,
}

impl Desired {
    /// A device of which nothing was desired yet.
    #[must_use]
    pub fn nothing(device_id: DeviceRowId, org_id: OrgId) -> Self {
        Self {
            device_id,
            org_id,
            version: 0,
            config: BTreeMap::new(),
            show_locks: Vec::new(),
            redundancy_group: None,
            target_version: None,
        }
    }

    /// Takes over what the description and the locks say; of `locks` those count that hold this device and are not
    /// over at `now` (ms since 1970). Says whether the content, and so the version, has changed.
    pub fn follow(&mut self, description: &Description, locks: &[ShowLock], now: i64) -> bool {
        let mut wanted: Vec<(i64, i64)> = locks
            .iter()
            .filter(|lock| lock.until > now && lock.holds(&self.device_id, &description.tags))
            .map(|lock| (lock.from, lock.until))
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        let known: Vec<LockedSpan> =
            self.show_locks.iter().copied().filter(|span| span.until > now).collect();
        let same_locks = known.iter().map(LockedSpan::times).eq(wanted.iter().copied());
        if same_locks
            && self.redundancy_group == description.redundancy_group
            && self.target_version == description.target_version
        {
            return false;
        }
        self.version += 1;
        let since = |times| {
            known.iter().find(|span| span.times() == times).map_or(self.version, |span| span.since_version)
        };
        self.show_locks = wanted
            .iter()
            .map(|&(from, until)| LockedSpan { from, until, since_version: since((from, until)) })
            .collect();
        self.redundancy_group.clone_from(&description.redundancy_group);
        self.target_version.clone_from(&description.target_version);
        true
    }

    /// A device that has a higher version got it from a server of which this one is an older copy: it would ignore
    /// what it is sent. Takes the number after that; says whether it was needed.
    pub fn overtake(&mut self, reported_version: i64) -> bool {
        if self.version == 0 || reported_version <= self.version || reported_version > VERSION_MAX {
            return false;
        }
        self.version = reported_version + 1;
        for span in &mut self.show_locks {
            span.since_version = self.version;
        }
        true
    }

    /// Replaces the config; says whether it has changed.
    pub fn set_config(&mut self, config: BTreeMap<String, String>) -> bool {
        if self.config == config {
            return false;
        }
        self.config = config;
        self.version += 1;
        true
    }

    /// The config with these changes, if it still fits into [`CONFIG_MAX_BYTES`].
    #[must_use]
    pub fn merged(&self, changes: &BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
        let mut config = self.config.clone();
        config.extend(changes.iter().map(|(key, value)| (key.clone(), value.clone())));
        (config_bytes(&config) <= CONFIG_MAX_BYTES).then_some(config)
    }

    /// Whether a device that has reported this version knows the lock.
    #[must_use]
    pub fn lock_is_known(&self, lock: &ShowLock, reported_version: Option<i64>) -> bool {
        let span = self.show_locks.iter().find(|span| span.times() == (lock.from, lock.until));
        span.zip(reported_version).is_some_and(|(span, reported)| reported >= span.since_version)
    }

    /// As it is sent.
    #[must_use]
    pub fn message(&self) -> message::Desired {
        message::Desired {
            version: u64::try_from(self.version).unwrap_or(0),
            config: self.config.clone(),
            target_version: self.target_version.clone(),
            show_locks: self.show_locks.iter().map(LockedSpan::times).collect(),
            redundancy_group: self.redundancy_group.clone(),
        }
    }
}

/// How many bytes a config takes as JSON.
#[must_use]
pub fn config_bytes(config: &BTreeMap<String, String>) -> usize {
    // Texts as keys and values: this cannot fail.
    serde_json::to_string(config).map_or(usize::MAX, |text| text.len())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::device::UpdateChannel;
    use super::super::show_lock::Subject;
    use super::*;

    const NOW: i64 = 1_766_916_000_000;

    fn device() -> Desired {
        Desired::nothing(DeviceRowId::new("d1".into()), OrgId::new("o1".into()))
    }

    fn described(tags: &[&str], group: Option<&str>) -> Description {
        Description {
            name: "x".into(),
            location: None,
            tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
            metadata: serde_json::json!({}),
            notes: None,
            update_channel: UpdateChannel::Stable,
            target_version: None,
            redundancy_group: group.map(str::to_owned),
            maintenance: false,
        }
    }

    fn lock(subject: Subject, from: i64, until: i64) -> ShowLock {
        ShowLock {
            id: String::new(),
            org_id: OrgId::new("o1".into()),
            subject,
            from,
            until,
            reason: String::new(),
            by: String::new(),
            created_at: NOW,
        }
    }

    fn tagged(tag: &str, from: i64, until: i64) -> ShowLock {
        lock(Subject::Tag(tag.into()), from, until)
    }

    #[test]
    fn the_version_rises_only_when_the_content_changes() {
        let mut desired = device();
        assert!(!desired.follow(&described(&[], None), &[], NOW), "nothing is desired of a plain device");
        assert_eq!(desired.version, 0);
        let locks = [tagged("hall", NOW, NOW + 1000)];
        assert!(!desired.follow(&described(&["other"], None), &locks, NOW));
        assert!(desired.follow(&described(&["hall"], None), &locks, NOW));
        assert!(!desired.follow(&described(&["hall"], None), &locks, NOW));
        assert!(desired.follow(&described(&["hall"], Some("pair")), &locks, NOW));
        assert_eq!(desired.version, 2);
        let span = LockedSpan { from: NOW, until: NOW + 1000, since_version: 1 };
        assert_eq!(desired.show_locks, [span], "the lock is known since version 1");
    }

    #[test]
    fn a_lock_that_is_over_makes_no_new_version_and_goes_with_the_next_change() {
        let mut desired = device();
        let mine = lock(Subject::Device(DeviceRowId::new("d1".into())), NOW, NOW + 1000);
        assert!(desired.follow(&described(&[], None), std::slice::from_ref(&mine), NOW));
        assert!(!desired.follow(&described(&[], None), &[], NOW + 1000));
        assert!(!desired.follow(&described(&[], None), &[mine], NOW + 1000));
        assert_eq!((desired.version, desired.show_locks.len()), (1, 1));
        assert!(desired.follow(&described(&[], Some("pair")), &[], NOW + 1000));
        assert_eq!((desired.version, desired.show_locks.len()), (2, 0));
    }

    #[test]
    fn a_lock_taken_back_before_its_end_makes_a_new_version() {
        let mut desired = device();
        desired.follow(&described(&["hall"], None), &[tagged("hall", NOW, NOW + 1000)], NOW);
        assert!(desired.follow(&described(&["hall"], None), &[], NOW));
        assert_eq!((desired.version, desired.show_locks.len()), (2, 0));
    }

    #[test]
    fn a_lock_is_known_from_the_version_on_that_has_it() {
        let mut desired = device();
        let (first, second) = (tagged("a", NOW, NOW + 1000), tagged("b", NOW, NOW + 2000));
        desired.follow(&described(&["a", "b"], None), std::slice::from_ref(&first), NOW);
        desired.follow(&described(&["a", "b"], None), &[first.clone(), second.clone()], NOW);
        assert!(desired.lock_is_known(&first, Some(1)) && !desired.lock_is_known(&second, Some(1)));
        assert!(desired.lock_is_known(&second, Some(2)) && !desired.lock_is_known(&second, None));
        assert!(!desired.lock_is_known(&tagged("b", NOW, NOW + 3000), Some(9)));
    }

    #[test]
    fn a_device_that_is_ahead_of_a_restored_server_is_overtaken() {
        let mut desired = device();
        assert!(!desired.overtake(7), "nothing is desired: there is nothing to send");
        desired.follow(&described(&["a"], None), &[tagged("a", NOW, NOW + 1000)], NOW);
        assert!(desired.overtake(7));
        assert_eq!((desired.version, desired.show_locks[0].since_version), (8, 8));
        assert!(!desired.overtake(8) && !desired.overtake(i64::MAX));
    }

    #[test]
    fn a_config_that_no_longer_fits_is_not_merged() {
        let mut desired = device();
        let one: BTreeMap<_, _> = [("A".to_owned(), "1".to_owned())].into();
        assert!(desired.set_config(desired.merged(&one).unwrap()));
        assert!(!desired.set_config(desired.merged(&one).unwrap()));
        assert_eq!(desired.version, 1);
        let big = [("B".to_owned(), "x".repeat(CONFIG_MAX_BYTES))].into();
        assert_eq!(desired.merged(&big), None);
    }
}
