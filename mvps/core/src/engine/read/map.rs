//! The map: which frame of which segment holds each page of a version.
//!
//! Job: a [`Map`] is one version's map, immutable and cheap to clone. The *base* is what the last
//! map compaction wrote: leaves of [`LEAF_PAGES`] pages, fetched when somebody asks and kept in a
//! bounded cache, under a root that is resident. The *overlay* holds what segments since then
//! changed.
//!
//! Invariants: the overlay wins over the base. A page that neither knows reads as zeroes.
//!
//! Must never: change after it was made (a view holds it), or fetch a leaf that the overlay hides
//! completely.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use imbl::OrdMap;

use crate::engine::buffer::{Advance, RangeMap};
use crate::format::location::FrameLocation;
use crate::format::manifest::{MapObjectId, SegmentId};
use crate::format::map_object::{LEAF_PAGES, Leaf, LeafExtent, LeafNumber, Root, RootLeaf};
use crate::format::object_name::ObjectName;
use crate::format::segment::{PageSpan, SegmentIndex};
use crate::ids::PageNumber;
use crate::object_reads::ReadError;

pub mod leaf_reads;
mod open;

pub use leaf_reads::{LEAF_CACHE_BYTES, LeafReads};

/// Leaves that one step of a look-up may hold at the same time: as many pages as the longest
/// request has at the smallest page size (32 MiB), which may begin in the middle of a leaf.
const STEP_LEAVES_MAX: u64 = 3;

/// Where a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageLocation {
    /// The frame that holds it.
    pub frame: FrameLocation,
    /// Which of the frame's pages it is.
    pub slot: u8,
}

impl Advance for PageLocation {
    fn advance(&self, pages: u64) -> Self {
        let pages = u8::try_from(pages).expect("a run lies within a frame");
        Self {
            frame: self.frame,
            slot: self.slot + pages,
        }
    }
}

/// Consecutive pages that lie one after the other in one frame, or read as zeroes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapRun {
    /// The first page.
    pub first: PageNumber,
    /// How many, at least 1.
    pub pages: u64,
    /// Where the first page is, the others following it; `None` where pages read as zeroes.
    pub location: Option<PageLocation>,
}

/// A leaf that [`Map::try_lookup`] needs has to be fetched first: use [`Map::lookup`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotResident(pub(super) RootLeaf);

/// The map of one version: page to frame. Immutable, and cheap to clone.
#[derive(Clone)]
pub struct Map {
    overlay: RangeMap<Option<PageLocation>>,
    root: Arc<Root>,
    objects: Arc<BTreeMap<MapObjectId, ObjectName>>,
    segments: OrdMap<SegmentId, Arc<ObjectName>>,
    leaves: Arc<LeafReads>,
}

impl Map {
    /// The map of an image that was never written.
    #[must_use]
    pub fn empty(leaves: Arc<LeafReads>) -> Self {
        Self {
            overlay: RangeMap::new(),
            root: Arc::default(),
            objects: Arc::default(),
            segments: OrdMap::new(),
            leaves,
        }
    }

    /// The object of a segment that a location names.
    #[must_use]
    pub fn segment_name(&self, segment: SegmentId) -> Option<&Arc<ObjectName>> {
        self.segments.get(&segment)
    }

    pub(in crate::engine) fn overlay(&self) -> &RangeMap<Option<PageLocation>> {
        &self.overlay
    }

    /// The object that holds a leaf of the root.
    pub(in crate::engine) fn leaf_object(&self, leaf: &RootLeaf) -> Option<&ObjectName> {
        self.name_of(leaf)
    }

    pub(in crate::engine) fn root(&self) -> &Root {
        &self.root
    }

    /// The map objects that the root's leaves are in, and the root's own.
    pub(in crate::engine) fn objects(&self) -> &BTreeMap<MapObjectId, ObjectName> {
        &self.objects
    }

    pub(in crate::engine) fn leaf_reads(&self) -> &LeafReads {
        &self.leaves
    }

    /// A leaf of the base.
    pub(in crate::engine) async fn leaf(&self, leaf: &RootLeaf) -> Result<Arc<Leaf>, ReadError> {
        match self
            .name_of(leaf)
            .and_then(|name| self.leaves.cached(name, leaf))
        {
            Some(cached) => Ok(cached),
            None => self.fetch(leaf).await,
        }
    }

    /// The map of the same content after a map compaction wrote everything into a new base.
    pub(in crate::engine) fn compacted(
        &self,
        root: Arc<Root>,
        objects: Arc<BTreeMap<MapObjectId, ObjectName>>,
        live_pages: &BTreeMap<SegmentId, u32>,
    ) -> Self {
        let live = self
            .segments
            .iter()
            .filter(|(id, _)| live_pages.contains_key(id));
        Self {
            overlay: RangeMap::new(),
            root,
            objects,
            segments: live.map(|(id, name)| (*id, Arc::clone(name))).collect(),
            leaves: Arc::clone(&self.leaves),
        }
    }

    /// How many entries the overlay has: what a map compaction would clear.
    #[must_use]
    pub fn overlay_entries(&self) -> usize {
        self.overlay.len()
    }

    /// This map after the pages and holes of a newly written segment. Takes about a microsecond
    /// per run of pages.
    #[must_use]
    pub fn with_segment(&self, id: SegmentId, name: ObjectName, index: &SegmentIndex) -> Self {
        let mut map = self.clone();
        map.segments.insert(id, Arc::new(name));
        for frame in &index.frames {
            let mut location = PageLocation {
                frame: frame.location(id),
                slot: 0,
            };
            for run in &frame.runs {
                map.overlay.insert(range_of(run), Some(location));
                location = location.advance(run.pages);
            }
        }
        for hole in &index.holes {
            map.overlay.insert(range_of(hole), None);
        }
        map
    }

    /// Appends the runs of `pages` to `out`, in order and without gaps, if every leaf that it
    /// takes is resident; else leaves `out` as it was. Does not allocate for the result if `out`
    /// has room.
    ///
    /// # Errors
    /// [`NotResident`]: call [`Map::lookup`].
    pub fn try_lookup(
        &self,
        pages: Range<PageNumber>,
        out: &mut Vec<MapRun>,
    ) -> Result<(), NotResident> {
        let before = out.len();
        let found = self.resolve(pages, out, |leaf| {
            self.leaves.cached(self.name_of(leaf)?, leaf)
        });
        if found.is_err() {
            out.truncate(before);
        }
        found
    }

    /// The runs of `pages`, in order and without gaps. Fetches leaves that are not resident.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn lookup(&self, pages: Range<PageNumber>) -> Result<Vec<MapRun>, ReadError> {
        let mut runs = Vec::new();
        let mut first = pages.start;
        while first < pages.end {
            let step_end = (first.0 / LEAF_PAGES).saturating_add(STEP_LEAVES_MAX);
            let end = PageNumber(step_end.saturating_mul(LEAF_PAGES)).min(pages.end);
            for run in self.lookup_step(first..end).await? {
                push_run(&mut runs, 0, run);
            }
            first = end;
        }
        Ok(runs)
    }

    /// Looks up so few pages that all their leaves can be held at the same time: the cache may let
    /// go of one while the next is fetched.
    async fn lookup_step(&self, pages: Range<PageNumber>) -> Result<Vec<MapRun>, ReadError> {
        let mut held: Vec<(LeafNumber, Arc<Leaf>)> = Vec::new();
        let mut runs = Vec::new();
        loop {
            let found = self.resolve(pages.clone(), &mut runs, |leaf| {
                let kept = held.iter().find(|(number, _)| *number == leaf.leaf);
                match kept {
                    Some((_, kept)) => Some(Arc::clone(kept)),
                    None => self.leaves.cached(self.name_of(leaf)?, leaf),
                }
            });
            let Err(NotResident(missing)) = found else {
                return Ok(runs);
            };
            runs.clear();
            held.push((missing.leaf, self.fetch(&missing).await?));
        }
    }

    /// Looks up `pages` with the leaves that `resident` returns.
    fn resolve(
        &self,
        pages: Range<PageNumber>,
        out: &mut Vec<MapRun>,
        resident: impl FnMut(&RootLeaf) -> Option<Arc<Leaf>>,
    ) -> Result<(), NotResident> {
        let floor = out.len();
        let found = self.visit(pages, resident, |run| {
            push_run(out, floor, run);
            ControlFlow::Continue(())
        });
        found.map(drop)
    }

    /// Calls `each` with the runs of `pages`, in order and without gaps, until it breaks off. Runs
    /// that read as zeroes may follow each other.
    ///
    /// # Errors
    /// [`NotResident`] if `resident` has not got a leaf that is needed; `each` has seen everything
    /// before that leaf then.
    pub(in crate::engine) fn visit(
        &self,
        pages: Range<PageNumber>,
        mut resident: impl FnMut(&RootLeaf) -> Option<Arc<Leaf>>,
        mut each: impl FnMut(MapRun) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, NotResident> {
        for run in self.overlay.runs(pages) {
            let flow = match run.value {
                Some(location) => each(MapRun {
                    first: run.first,
                    pages: run.pages,
                    location,
                }),
                None => self.visit_base(run.first..run.end(), &mut resident, &mut each)?,
            };
            if flow.is_break() {
                return Ok(flow);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn visit_base(
        &self,
        pages: Range<PageNumber>,
        resident: &mut impl FnMut(&RootLeaf) -> Option<Arc<Leaf>>,
        each: &mut impl FnMut(MapRun) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, NotResident> {
        let mut next = pages.start;
        // A run up to `end`; what is empty is none.
        let mut run_to = |next: &mut PageNumber, end: PageNumber, location| {
            let run = MapRun {
                first: *next,
                pages: end.0 - next.0,
                location,
            };
            *next = end;
            match run.pages {
                0 => ControlFlow::Continue(()),
                _ => each(run),
            }
        };
        let first_leaf = LeafNumber::of(pages.start).0;
        let leaves = &self.root.leaves;
        let from = leaves.partition_point(|leaf| leaf.leaf < first_leaf);
        for root_leaf in &leaves[from..] {
            let leaf_first = root_leaf.leaf.0 * LEAF_PAGES;
            if leaf_first >= pages.end.0 {
                break;
            }
            let Some(leaf) = resident(root_leaf) else {
                let gap_end = PageNumber(leaf_first).max(next);
                let gap = run_to(&mut next, gap_end, None);
                return match gap {
                    ControlFlow::Break(()) => Ok(gap),
                    ControlFlow::Continue(()) => Err(NotResident(*root_leaf)),
                };
            };
            // Counted from the leaf's first page.
            let from = next.0.saturating_sub(leaf_first);
            let to = (pages.end.0 - leaf_first).min(LEAF_PAGES);
            let flow = for_each_extent(&leaf, from..to, |first, pages, location| {
                let first = PageNumber(leaf_first + first);
                run_to(&mut next, first, None)?;
                run_to(&mut next, PageNumber(first.0 + pages), Some(location))
            });
            if flow.is_break() {
                return Ok(flow);
            }
        }
        Ok(run_to(&mut next, pages.end, None))
    }

    /// The leaf, if it is in memory.
    pub(in crate::engine) fn resident_leaf(&self, leaf: &RootLeaf) -> Option<Arc<Leaf>> {
        self.leaves.cached(self.name_of(leaf)?, leaf)
    }

    fn name_of(&self, leaf: &RootLeaf) -> Option<&ObjectName> {
        self.objects.get(&leaf.map)
    }

    async fn fetch(&self, leaf: &RootLeaf) -> Result<Arc<Leaf>, ReadError> {
        let name = self.name_of(leaf);
        let name = name.expect("opening and compacting name every map object of the root");
        self.leaves.fetch(name, leaf).await
    }
}

fn range_of(span: &PageSpan) -> Range<PageNumber> {
    span.first..span.end()
}

/// Calls `each` with what lies in `pages` (counted from the leaf's first), until it breaks off: the
/// first page, how many, and where the first one is.
pub(in crate::engine) fn for_each_extent(
    leaf: &Leaf,
    pages: Range<u64>,
    mut each: impl FnMut(u64, u64, PageLocation) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let end_of = |extent: &LeafExtent| u64::from(extent.first) + u64::from(extent.pages);
    let from = leaf
        .extents
        .partition_point(|extent| end_of(extent) <= pages.start);
    for extent in &leaf.extents[from..] {
        let first = u64::from(extent.first).max(pages.start);
        let end = end_of(extent).min(pages.end);
        if first >= pages.end {
            break;
        }
        let location = PageLocation {
            frame: extent.frame,
            slot: extent.slot,
        };
        each(
            first,
            end - first,
            location.advance(first - u64::from(extent.first)),
        )?;
    }
    ControlFlow::Continue(())
}

/// Appends a run; one that reads as zeroes continues the one before it, except one before `floor`,
/// which belongs to the caller.
fn push_run(out: &mut Vec<MapRun>, floor: usize, run: MapRun) {
    if run.location.is_none()
        && let Some(last) = out[floor..].last_mut()
        && last.location.is_none()
        && last.first.0 + last.pages == run.first.0
    {
        last.pages += run.pages;
        return;
    }
    out.push(run);
}

#[cfg(test)]
mod measurements;
#[cfg(test)]
pub(crate) mod test_world;
#[cfg(test)]
mod tests;
