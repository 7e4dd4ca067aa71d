//! One leaf of the map compaction: the old leaf under the overlay.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use crate::engine::buffer::{RangeMap, Run};
use crate::engine::read::{PageLocation, for_each_extent};
use crate::format::manifest::SegmentId;
use crate::format::map_object::{LEAF_PAGES, Leaf, LeafExtent, LeafNumber};
use crate::ids::PageNumber;

/// Leaf `number` as it is after the overlay.
pub(super) fn merge_leaf(
    number: LeafNumber,
    old: Option<&Leaf>,
    overlay: &RangeMap<Option<PageLocation>>,
) -> Leaf {
    let leaf_first = number.0 * LEAF_PAGES;
    let lost = u64::from(crate::mutant::is("a leaf loses its last page"));
    let pages = PageNumber(leaf_first)..PageNumber(leaf_first + LEAF_PAGES - lost);
    let mut extents = Vec::new();
    for Run {
        first,
        pages,
        value,
    } in overlay.runs(pages)
    {
        let first = first.0 - leaf_first;
        let value = match value {
            Some(None) if crate::mutant::is("map compaction loses holes") => None,
            value => value,
        };
        match (value, old) {
            (Some(Some(location)), _) => push_extent(&mut extents, first, pages, location),
            (None, Some(old)) => {
                let all = for_each_extent(old, first..first + pages, |first, pages, at| {
                    push_extent(&mut extents, first, pages, at);
                    ControlFlow::Continue(())
                });
                assert!(all.is_continue(), "nobody broke off");
            }
            (Some(None), _) | (None, None) => {}
        }
    }
    extents.shrink_to_fit();
    Leaf { extents }
}

/// Appends pages, joined to the extent before if they follow it in its frame.
fn push_extent(extents: &mut Vec<LeafExtent>, first: u64, pages: u64, location: PageLocation) {
    let first = u16::try_from(first).expect("a leaf's pages are counted in 16 bits");
    let pages = u8::try_from(pages).expect("a frame's pages are counted in 8 bits");
    if let Some(last) = extents.last_mut()
        && last.frame == location.frame
        && last.first + u16::from(last.pages) == first
        && last.slot + last.pages == location.slot
    {
        last.pages += pages;
        return;
    }
    extents.push(LeafExtent {
        first,
        pages,
        slot: location.slot,
        frame: location.frame,
    });
}

/// Counts the pages that leaves gained and lost, by segment.
#[derive(Debug, Default)]
pub(super) struct PageBalance {
    change: BTreeMap<SegmentId, i64>,
}

impl PageBalance {
    /// `old` was replaced by `new`.
    pub(super) fn replaced(&mut self, old: Option<&Leaf>, new: &Leaf) {
        for extent in old.iter().flat_map(|leaf| &leaf.extents) {
            *self.change.entry(extent.frame.segment).or_default() -= i64::from(extent.pages);
        }
        for extent in &new.extents {
            *self.change.entry(extent.frame.segment).or_default() += i64::from(extent.pages);
        }
    }

    /// The live pages after the change. `None` if a count would fall below 0 or not fit: the
    /// counts did not belong to the leaves.
    pub(super) fn applied_to(
        &self,
        mut live_pages: BTreeMap<SegmentId, u32>,
    ) -> Option<BTreeMap<SegmentId, u32>> {
        for (segment, change) in &self.change {
            let before = live_pages.get(segment).copied().unwrap_or(0);
            let after = i64::from(before) + change;
            live_pages.insert(*segment, u32::try_from(after).ok()?);
        }
        live_pages.retain(|_, pages| *pages > 0);
        Some(live_pages)
    }
}
