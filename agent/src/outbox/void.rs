//! Which records are gone, and the `void` records that say so.
//!
//! Numbers are told in windows of 65,536. Each window with gone numbers has void records that the server has not
//! committed; when more of the window goes, new records take their place. So what must be told never outgrows what is
//! kept, however long the device is alone. Normally a window has one record; where gone and kept numbers alternate it
//! has several, since the server must be able to take each by itself ([`RANGES_PER_RECORD`]). A record fits well
//! within the limit of an event.

use std::collections::BTreeMap;

use protocol::codec::Bytes;
use protocol::message::Void;
use protocol::ranges::RangeSet;

const WINDOW: u64 = 1 << 16;
/// A gone number this far from the one before begins a new entry: that is shorter than a longer bitmap.
const MAX_REACH: u64 = 160;
/// Ranges that one record names, at most. Until the records between them arrive each is a range of its own in the
/// server's committed set, which is bounded, and in every acknowledgement.
pub(super) const RANGES_PER_RECORD: usize = 1024;

/// The void records of one window by their numbers, and what each names.
pub(super) type Voided = BTreeMap<u64, RangeSet>;

/// The window of a number.
pub(super) const fn window(seq: u64) -> u64 {
    seq / WINDOW
}

/// Takes up a void record that was found in the database.
pub(super) fn remember(voids: &mut BTreeMap<u64, Voided>, seq: u64, gone: &RangeSet) {
    for &(lo, hi) in gone.as_slice() {
        // A damaged record could name any span; ours never leave their window.
        voids.entry(window(lo)).or_default().entry(seq).or_default().insert_range(lo, hi);
    }
}

/// What the server has committed need not be told again.
pub(super) fn forget_committed(voids: &mut BTreeMap<u64, Voided>, committed: &RangeSet) {
    voids.retain(|_, voided| {
        voided.retain(|seq, _| !committed.contains(*seq));
        !voided.is_empty()
    });
}

/// What must be told of each window when `gone` numbers go as well, and the void records that are replaced and so go
/// too.
pub(super) fn merge(voids: &BTreeMap<u64, Voided>, gone: &[u64]) -> (BTreeMap<u64, RangeSet>, Vec<u64>) {
    let mut windows = BTreeMap::<u64, RangeSet>::new();
    let mut replaced = Vec::new();
    let mut to_do = gone.to_vec();
    while let Some(seq) = to_do.pop() {
        let told = windows.entry(window(seq)).or_insert_with(|| {
            let mut told = RangeSet::new();
            for (record, gone) in voids.get(&window(seq)).into_iter().flatten() {
                // The replaced records are gone themselves, possibly in another window.
                to_do.push(*record);
                replaced.push(*record);
                told.extend(gone);
            }
            told
        });
        told.insert(seq);
    }
    replaced.sort_unstable();
    replaced.dedup();
    (windows, replaced)
}

/// What each of a window's void records is to name.
pub(super) fn shares(gone: &RangeSet) -> impl Iterator<Item = RangeSet> {
    gone.as_slice().chunks(RANGES_PER_RECORD).map(|share| share.iter().copied().collect())
}

/// Numbers of one window in the wire form: bitmaps where kept and gone ones alternate, plain ranges where few are
/// kept.
pub(super) fn entries(gone: &RangeSet) -> Vec<Void> {
    let mut entries = Vec::new();
    let mut group: Vec<(u64, u64)> = Vec::new();
    for &range in gone.as_slice() {
        if group.last().is_some_and(|last| range.0 - last.0 > MAX_REACH) {
            entries.push(entry(&group));
            group.clear();
        }
        group.push(range);
    }
    if !group.is_empty() {
        entries.push(entry(&group));
    }
    entries
}

/// `group` is not empty, ascending, and within one window.
fn entry(group: &[(u64, u64)]) -> Void {
    let (lo, hi) = (group[0].0, group[group.len() - 1].1);
    let mut kept = Vec::new();
    for pair in group.windows(2) {
        for seq in pair[0].1 + 1..pair[1].0 {
            // Below 65,536.
            let index = (seq - lo) as usize;
            if kept.len() <= index / 8 {
                kept.resize(index / 8 + 1, 0u8);
            }
            kept[index / 8] |= 1 << (index % 8);
        }
    }
    Void(lo, hi, Bytes(kept))
}
