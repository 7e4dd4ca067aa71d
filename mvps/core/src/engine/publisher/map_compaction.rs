//! Map compaction: what segments changed since the last one becomes leaves of a new map object.
//!
//! Job: decide when a map compaction is worth its price and which leaves it writes ([`is_due`],
//! [`MapCompactionPlan`]: pure), carry it out ([`compact`]), and say what changes in the manifest
//! ([`CompactedMap::apply_to`]). A map compaction writes index entries, never data.
//!
//! Invariants: after a map compaction the overlay is empty, and the live pages of every segment are
//! exactly the pages that the leaves point to. The number of map objects is bounded: a map
//! compaction also writes the leaves of map objects that are mostly dead, or too many, again.
//!
//! Must never: touch the manifest of an earlier version, or drop a segment that a leaf points to.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::format::manifest::{
    Manifest, MapObjectEntry, MapObjectId, RetiredObject, RootEntry, SegmentId,
};
use crate::format::map_object::{
    EXTENT_BYTES, LEAF_MAX_BYTES, LEAF_PAGES, LeafNumber, Root, RootLeaf,
};

use crate::engine::limits::Limits;
use crate::engine::read::Map;
use crate::ids::PageNumber;

mod execute;
mod merge;

pub use execute::{MapCompactionError, MapCompactionRequest, compact};

/// Fewer segments than this are not worth a map compaction: reading their indexes at opening is
/// cheap.
pub const TAIL_SEGMENTS_WORTH_COMPACTION: usize = 16;

/// More segments than this are compacted whatever it costs: opening reads one index for each.
pub const TAIL_SEGMENTS_MAX: usize = 256;

/// Between the two limits on segments, a map compaction may write one byte of leaves for this many
/// bytes of data that the segments stored: the map costs at most a quarter on top of the data.
const DATA_BYTES_PER_LEAF_BYTE: u64 = 4;

/// For the sake of space, a map compaction may write one byte of leaves for this many bytes of data
/// that were stored since the last one or wait to be dropped: about four percent on top of the
/// data.
const MOVED_BYTES_PER_LEAF_BYTE: u64 = 24;

/// Encoded length of a leaf's entry in the root, about.
const ROOT_LEAF_BYTES: u64 = 10;

/// A map object of which less than one part in this many is alive is written again.
const MOSTLY_DEAD_DIVISOR: u64 = 4;

/// What the decision to compact the map depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapCompactionState {
    /// Segments since the last map compaction.
    pub tail_segments: usize,
    /// Their bytes in object storage.
    pub tail_bytes: u64,
    /// Entries of the overlay.
    pub overlay_entries: usize,
    /// Estimate of the bytes that the map compaction would write.
    pub leaf_bytes: u64,
    /// Bytes of all segments.
    pub stored_bytes: u64,
    /// Bytes that the map compaction would find dead, as far as that can be seen without reading a
    /// leaf.
    pub dead: DeadBytes,
}

/// Bytes of segments that nothing points to any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeadBytes {
    /// Of segments of the tail that were overwritten or freed as a whole since.
    pub tail: u64,
    /// Of older segments, estimated by the leaves that lie within holes.
    pub older: u64,
}

/// What a map compaction is good for beside a shorter tail, and from which length a tail is long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapCompactionIncentive {
    /// Bytes of segments that wait for the compaction to be dropped, if one for the sake of space
    /// is wanted now.
    pub reclaimable_bytes: Option<u64>,
    /// Least bytes of the tail and of what waits that such a map compaction is made for.
    pub space_bytes_min: u64,
    /// See [`TAIL_SEGMENTS_WORTH_COMPACTION`].
    pub tail_segments_worth: usize,
    /// See [`TAIL_SEGMENTS_MAX`].
    pub tail_segments_max: usize,
    /// See [`Limits::overlay_entries_max`].
    pub overlay_entries_max: usize,
    /// See [`Limits::dead_bytes_worth_compaction`].
    pub dead_bytes_worth: u64,
}

impl Default for MapCompactionIncentive {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            reclaimable_bytes: None,
            space_bytes_min: 0,
            tail_segments_worth: TAIL_SEGMENTS_WORTH_COMPACTION,
            tail_segments_max: TAIL_SEGMENTS_MAX,
            overlay_entries_max: limits.overlay_entries_max,
            dead_bytes_worth: limits.dead_bytes_worth_compaction,
        }
    }
}

/// Whether to compact the map now.
#[must_use]
pub fn is_due(state: &MapCompactionState, incentive: &MapCompactionIncentive) -> bool {
    let long = state.tail_segments >= incentive.tail_segments_max;
    if long || state.overlay_entries > incentive.overlay_entries_max {
        return true;
    }
    let affordable_bytes = state.tail_bytes / DATA_BYTES_PER_LEAF_BYTE;
    if state.tail_segments >= incentive.tail_segments_worth && state.leaf_bytes <= affordable_bytes
    {
        return true;
    }
    // Nothing is dropped, and no segment is known to be mostly dead, before a map compaction has
    // counted.
    let Some(reclaimable_bytes) = incentive.reclaimable_bytes else {
        return false;
    };
    // Most of the image is gone, as after a discard of the disk: nothing else would bring a map
    // compaction.
    let dead_bytes = state.dead.tail + state.dead.older;
    if dead_bytes >= incentive.dead_bytes_worth
        && dead_bytes >= state.stored_bytes / 2
        && state.leaf_bytes <= dead_bytes / MOVED_BYTES_PER_LEAF_BYTE
    {
        return true;
    }
    let moved_bytes = state.tail_bytes + state.dead.older + reclaimable_bytes;
    state.tail_segments > 0
        && moved_bytes >= incentive.space_bytes_min
        && state.leaf_bytes <= moved_bytes / MOVED_BYTES_PER_LEAF_BYTE
}

/// How much of a map object is still used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapObjectUse {
    /// Which.
    pub id: MapObjectId,
    /// Its size.
    pub size_bytes: u64,
    /// Bytes of leaves in it that the new root will still point to, unless they are written again.
    pub live_bytes: u64,
}

/// Which map objects to write again, so that none is mostly dead and, with the new one, there are
/// at most `objects_max`: the ones that cost least.
fn choose_rewrites(uses: &[MapObjectUse], objects_max: usize) -> BTreeSet<MapObjectId> {
    let mostly_dead =
        |object: &&MapObjectUse| object.live_bytes < object.size_bytes / MOSTLY_DEAD_DIVISOR;
    let alive = || uses.iter().filter(|object| object.live_bytes > 0);
    let mut rewrites: BTreeSet<MapObjectId> = alive()
        .filter(mostly_dead)
        .map(|object| object.id)
        .collect();
    let mut kept: Vec<&MapObjectUse> = alive()
        .filter(|object| !rewrites.contains(&object.id))
        .collect();
    kept.sort_by_key(|object| (object.live_bytes, object.id));
    let excess = (kept.len() + 1).saturating_sub(objects_max);
    rewrites.extend(kept.iter().take(excess).map(|object| object.id));
    rewrites
}

/// Which leaves a map compaction writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapCompactionPlan {
    /// Leaves that the overlay changes, ascending.
    changed: BTreeSet<LeafNumber>,
    /// Leaves that do not change, but move because their map objects are given up.
    moved: BTreeSet<LeafNumber>,
    /// Estimate of the bytes to be written.
    leaf_bytes: u64,
}

impl MapCompactionPlan {
    /// The plan for this map, of the version that `manifest` publishes or is about to, so that the
    /// version uses at most `objects_max` map objects. Takes time in proportion to the overlay:
    /// tens of milliseconds when it is largest.
    #[must_use]
    pub fn new(map: &Map, manifest: &Manifest, objects_max: usize) -> Self {
        let changed = changed_leaves(map);
        let root = map.root();
        let uses = uses_without(root, manifest, &changed);
        let rewrites = choose_rewrites(&uses, objects_max);
        let stays = |leaf: &LeafNumber| !changed.contains(leaf);
        let in_rewrites = root
            .leaves
            .iter()
            .filter(|leaf| rewrites.contains(&leaf.map));
        let moved: BTreeSet<LeafNumber> = in_rewrites.map(|leaf| leaf.leaf).filter(stays).collect();
        let leaf_bytes = estimate_bytes(map, &changed, &moved);
        Self {
            changed,
            moved,
            leaf_bytes,
        }
    }

    /// What [`is_due`] decides on.
    #[must_use]
    pub fn state(&self, map: &Map, manifest: &Manifest) -> MapCompactionState {
        let in_tail = |id: &SegmentId| manifest.tail.contains(id);
        let tail = manifest.segments.iter().filter(|entry| in_tail(&entry.id));
        MapCompactionState {
            tail_segments: manifest.tail.len(),
            tail_bytes: tail.map(|entry| entry.size_bytes).sum(),
            overlay_entries: map.overlay_entries(),
            leaf_bytes: self.leaf_bytes,
            stored_bytes: manifest.segments.iter().map(|entry| entry.size_bytes).sum(),
            dead: dead_bytes(map, manifest),
        }
    }

    /// About how much is written.
    #[must_use]
    pub fn leaf_bytes(&self) -> u64 {
        self.leaf_bytes
    }

    /// The leaves to be written, ascending.
    fn written(&self) -> BTreeSet<LeafNumber> {
        self.changed.union(&self.moved).copied().collect()
    }
}

/// The leaves that the overlay changes: those with new pages, and of those with new holes the ones
/// that exist (a hole may cover the whole image).
fn changed_leaves(map: &Map) -> BTreeSet<LeafNumber> {
    let mut changed = BTreeSet::new();
    let leaves = &map.root().leaves;
    for (range, location) in map.overlay().iter() {
        let number = |page: u64| match crate::mutant::is("page numbers of the map have 32 bits") {
            true => PageNumber(page & u64::from(u32::MAX)),
            false => PageNumber(page),
        };
        let (first, _) = LeafNumber::of(number(range.start.0));
        let (last, _) = LeafNumber::of(number(range.end.0 - 1));
        if location.is_some() {
            // A frame's run spans two leaves at most.
            changed.extend([first, last]);
        } else {
            let from = leaves.partition_point(|leaf| leaf.leaf < first);
            let in_hole = leaves[from..].iter().take_while(|leaf| leaf.leaf <= last);
            let freed = match crate::mutant::is("a hole frees the first leaf that it covers") {
                true => 1,
                false => usize::MAX,
            };
            changed.extend(in_hole.map(|leaf| leaf.leaf).take(freed));
        }
    }
    changed
}

/// What a map compaction would find dead, without reading a leaf.
fn dead_bytes(map: &Map, manifest: &Manifest) -> DeadBytes {
    let locations = map.overlay().iter().filter_map(|(_, location)| *location);
    let alive: BTreeSet<SegmentId> = locations.map(|location| location.frame.segment).collect();
    let tail: BTreeSet<SegmentId> = manifest.tail.iter().copied().collect();
    let (mut dead_tail, mut older) = (0, 0);
    for entry in &manifest.segments {
        if !tail.contains(&entry.id) {
            older += entry.size_bytes;
        } else if entry.pages > 0 && !alive.contains(&entry.id) {
            dead_tail += entry.size_bytes;
        }
    }
    let image_pages = manifest.size_bytes >> manifest.page_size.bits();
    let (in_holes, all) = leaf_bytes_in_holes(map, image_pages);
    let share = u128::from(older) * u128::from(in_holes) / u128::from(all.max(1));
    DeadBytes {
        tail: dead_tail,
        older: u64::try_from(share).expect("a share is no larger than the whole"),
    }
}

/// Bytes of the leaves whose pages are all within a hole of the overlay, and of all leaves.
fn leaf_bytes_in_holes(map: &Map, image_pages: u64) -> (u64, u64) {
    let leaves = &map.root().leaves;
    let bytes = |leaves: &[RootLeaf]| -> u64 {
        let bytes = leaves.iter().map(|leaf| u64::from(leaf.span.bytes));
        bytes.sum()
    };
    let mut in_holes = 0;
    let mut count = |hole: &Range<u64>| {
        // The last leaf may reach beyond the image's end.
        let end = if hole.end >= image_pages {
            u64::MAX
        } else {
            hole.end
        };
        let from = leaves.partition_point(|leaf| leaf.leaf.0 * LEAF_PAGES < hole.start);
        let to = leaves.partition_point(|leaf| (leaf.leaf.0 + 1) * LEAF_PAGES <= end);
        in_holes += bytes(leaves.get(from..to).unwrap_or_default());
    };
    // Holes of requests that followed each other are one.
    let mut hole = 0..0;
    for (range, location) in map.overlay().iter() {
        if location.is_some() {
            continue;
        }
        if range.start.0 != hole.end {
            count(&hole);
            hole.start = range.start.0;
        }
        hole.end = range.end.0;
    }
    count(&hole);
    (in_holes, bytes(leaves))
}

fn uses_without(
    root: &Root,
    manifest: &Manifest,
    changed: &BTreeSet<LeafNumber>,
) -> Vec<MapObjectUse> {
    let mut live: BTreeMap<MapObjectId, u64> = BTreeMap::new();
    for leaf in root
        .leaves
        .iter()
        .filter(|leaf| !changed.contains(&leaf.leaf))
    {
        *live.entry(leaf.map).or_default() += u64::from(leaf.span.bytes);
    }
    let use_of = |entry: &MapObjectEntry| MapObjectUse {
        id: entry.id,
        size_bytes: entry.size_bytes,
        live_bytes: live.get(&entry.id).copied().unwrap_or(0),
    };
    manifest.maps.iter().map(use_of).collect()
}

/// The old size of every leaf that exists, an extent for every entry of the overlay, and the root.
fn estimate_bytes(map: &Map, changed: &BTreeSet<LeafNumber>, moved: &BTreeSet<LeafNumber>) -> u64 {
    let is_written = |leaf: &LeafNumber| changed.contains(leaf) || moved.contains(leaf);
    let leaves = map.root().leaves.iter();
    let old = leaves.filter(|leaf| is_written(&leaf.leaf));
    let old_bytes: u64 = old.map(|leaf| u64::from(leaf.span.bytes)).sum();
    let extent_bytes = EXTENT_BYTES as u64;
    let leaf_bytes = old_bytes + map.overlay_entries() as u64 * extent_bytes;
    let leaves = map.root().leaves.len() + changed.len();
    leaf_bytes.min(most_bytes(changed, moved)) + leaves as u64 * ROOT_LEAF_BYTES
}

/// What the leaves take at most: an overwritten page's old extent is gone.
fn most_bytes(changed: &BTreeSet<LeafNumber>, moved: &BTreeSet<LeafNumber>) -> u64 {
    (changed.len() + moved.len()) as u64 * LEAF_MAX_BYTES as u64
}

/// What a map compaction did.
#[derive(Clone)]
pub struct CompactedMap {
    /// The map after it: the same content, an empty overlay.
    pub map: Map,
    /// The map object that it wrote.
    pub object: MapObjectEntry,
    /// The new root.
    pub root: RootEntry,
    /// Live pages of every segment that has any.
    pub live_pages: BTreeMap<SegmentId, u32>,
    /// Segments that were in the map before.
    pub compacted: BTreeSet<SegmentId>,
}

impl CompactedMap {
    /// Changes the manifest of the version that the map compaction was made for: new root, new live
    /// counts, no tail, and what nothing points to any more goes from `segments` and `maps` to
    /// `retired`. Segments that were added to the manifest while the map compaction ran stay as
    /// they are: apply their indexes to [`CompactedMap::map`] with [`Map::with_segment`].
    pub fn apply_to(&self, manifest: &mut Manifest) {
        let mut retired = Vec::new();
        manifest.tail.retain(|id| !self.compacted.contains(id));
        manifest.segments.retain_mut(|entry| {
            if !self.compacted.contains(&entry.id) {
                return true;
            }
            entry.live_pages = self.live_pages.get(&entry.id).copied().unwrap_or(0);
            if entry.live_pages == 0 {
                retired.push(entry.name.clone());
            }
            entry.live_pages > 0
        });
        manifest.maps.retain(|entry| {
            let used = self.map.objects().contains_key(&entry.id);
            if !used {
                retired.push(entry.name.clone());
            }
            used
        });
        manifest.maps.push(self.object.clone());
        manifest.maps.sort_by_key(|entry| entry.id);
        manifest.next_map = manifest.next_map.max(MapObjectId(self.object.id.0 + 1));
        manifest.root = Some(self.root);
        let retired = retired.into_iter().map(|name| RetiredObject { name });
        manifest.retired.extend(retired);
        manifest.retired.sort();
        manifest.retired.dedup();
    }
}

#[cfg(test)]
mod tests;
