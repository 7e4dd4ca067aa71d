//! Where an image has content, and where content changed, without reading any.
//!
//! Job: [`View::extents`] answers from the buffer's indexes and the map alone. It goes through the
//! image in steps: between two steps it fetches leaves of the map, several at a time, and lets
//! other tasks run.
//!
//! Invariants:
//! - What is called a hole reads as zeroes, and what is called unchanged reads the same in both
//!   states. The opposite may be wrong: a page that was moved, or written with what it had before,
//!   counts as changed.
//! - An answer is bounded: extents, leaves fetched. One that ends early says where, after at least
//!   one page, so who asks again from there gets to the end.
//!
//! Must never: read content, or keep more leaves than one step needs.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use futures_util::future::try_join_all;

use super::base::Base;
use super::map::{Map, MapRun, PageLocation};
use super::view::View;
use crate::engine::buffer::Buffered;
use crate::engine::error::EngineError;
use crate::env::let_others_run;
use crate::format::map_object::{LEAF_PAGES, Leaf, LeafNumber, RootLeaf};
use crate::ids::PageNumber;
use crate::object_reads::ReadError;

/// Leaves fetched at once: a leaf is 64 KiB or less, so this is a megabyte, and a store that takes
/// 20 ms to answer gets through a terabyte's map in minutes, not in hours.
const LEAVES_AT_ONCE: usize = 16;

/// Leaves fetched for one answer; at 4 KiB pages they stand for 8 GiB of image that is written
/// everywhere.
const LEAVES_MAX: usize = 512;

/// Runs looked at before other tasks get their turn: less than a millisecond.
const RUNS_PER_TURN: usize = 1 << 13;

/// Consecutive bytes of which the same is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// How many, at least 1.
    pub length_bytes: u64,
    /// Whether there is content; compared with a base, whether it may differ.
    pub is_set: bool,
}

/// Where a run of pages is.
#[derive(Debug, Clone, Copy)]
enum Place {
    Buffered,
    BufferedHole,
    Stored(PageLocation),
    Absent,
}

/// Why a walk through the pages paused.
enum Pause {
    /// A leaf is missing: of the view's map, or of the base's.
    Leaf(RootLeaf, Whose),
    /// Others shall have their turn.
    Turn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Whose {
    Views,
    Bases,
}

/// Leaves that were fetched for the present step.
type Held = BTreeMap<(Whose, LeafNumber), Arc<Leaf>>;

/// The extents so far.
struct Collector {
    /// The page after the last that was seen.
    next: PageNumber,
    /// Whether the pages up to there are set, by where that begins to be so.
    found: Vec<(PageNumber, bool)>,
    extents_max: usize,
    /// Runs that may still be seen in this turn.
    runs_left: usize,
}

impl Collector {
    /// Notes what is true of the next `pages`.
    fn push(&mut self, pages: u64, is_set: bool) -> ControlFlow<Stop> {
        if self
            .found
            .last()
            .is_none_or(|(_, before)| *before != is_set)
        {
            if self.found.len() == self.extents_max {
                return ControlFlow::Break(Stop::Full);
            }
            self.found.push((self.next, is_set));
        }
        self.next = PageNumber(self.next.0 + pages);
        self.runs_left = self.runs_left.saturating_sub(1);
        match self.runs_left {
            0 => ControlFlow::Break(Stop::Paused(Pause::Turn)),
            _ => ControlFlow::Continue(()),
        }
    }
}

/// Why a walk ended before the range did.
enum Stop {
    Full,
    Paused(Pause),
}

impl View {
    /// What of `range` has content; with a `base`, what may have other content than the base. At
    /// most `extents_max` extents, from the beginning of the range on; adjacent ones differ.
    ///
    /// # Errors
    /// As for [`View::read`], if not even the first extent can be had.
    ///
    /// # Panics
    /// If the range is empty, or no extent is wanted.
    pub async fn extents(
        &self,
        range: Range<u64>,
        base: Option<&Base>,
        extents_max: usize,
    ) -> Result<Vec<Extent>, EngineError> {
        assert!(
            !range.is_empty() && extents_max > 0,
            "there is something to say"
        );
        let end = self.page_size.page_of(range.end - 1).next();
        let mut collector = Collector {
            next: self.page_size.page_of(range.start),
            found: Vec::new(),
            extents_max,
            runs_left: RUNS_PER_TURN,
        };
        let mut held = Held::new();
        let mut leaves_left = LEAVES_MAX;
        let mut walking = None;
        loop {
            let walked = match base {
                None => self.walk_content(end, &mut collector, &held),
                Some(base) => self.walk_changes(base, end, &mut collector, &held),
            };
            let fetched = match walked {
                ControlFlow::Continue(()) | ControlFlow::Break(Stop::Full) => break,
                ControlFlow::Break(Stop::Paused(Pause::Turn)) => {
                    collector.runs_left = RUNS_PER_TURN;
                    let_others_run().await;
                    continue;
                }
                ControlFlow::Break(Stop::Paused(Pause::Leaf(..))) if leaves_left == 0 => break,
                ControlFlow::Break(Stop::Paused(Pause::Leaf(leaf, whose))) => {
                    if walking.is_none() {
                        walking = Some(self.frames.walk().await);
                    }
                    held.retain(|(_, number), _| *number >= LeafNumber::of(collector.next).0);
                    let map = match (whose, base) {
                        (Whose::Bases, Some(base)) => &base.map,
                        _ => &self.map,
                    };
                    let batch = LEAVES_AT_ONCE.min(leaves_left);
                    let other = match (whose, base) {
                        (_, None) => None,
                        (Whose::Views, Some(base)) => Some(&base.map),
                        (Whose::Bases, Some(_)) => Some(&self.map),
                    };
                    fetch(map, other, leaf, end, batch).await.map(|leaves| {
                        leaves_left = leaves_left.saturating_sub(leaves.len());
                        let keyed = leaves.into_iter().map(|(at, leaf)| ((whose, at), leaf));
                        held.extend(keyed);
                    })
                }
            };
            match fetched {
                Ok(()) => {}
                // What is known is an answer.
                Err(_) if !collector.found.is_empty() => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.in_bytes(&collector, range))
    }

    /// The collected pages as extents of exactly `range`, or of as much of it as was seen.
    fn in_bytes(&self, collector: &Collector, range: Range<u64>) -> Vec<Extent> {
        let seen_to = self.page_size.offset_of(collector.next).min(range.end);
        let begins = collector.found.iter().map(|(page, _)| *page).skip(1);
        let ends = begins
            .map(|page| self.page_size.offset_of(page))
            .chain([seen_to]);
        let mut from = range.start;
        let extents = collector.found.iter().zip(ends).map(|((_, is_set), to)| {
            let length_bytes = to - from;
            from = to;
            Extent {
                length_bytes,
                is_set: *is_set,
            }
        });
        extents.collect()
    }

    fn walk_content(
        &self,
        end: PageNumber,
        collector: &mut Collector,
        held: &Held,
    ) -> ControlFlow<Stop> {
        let pages = collector.next..end;
        self.walk(pages, held, |place, pages| {
            let misses = crate::mutant::is("extents miss what is buffered");
            let is_set =
                matches!(place, Place::Stored(_)) || matches!(place, Place::Buffered) && !misses;
            collector.push(pages.end.0 - pages.start.0, is_set)
        })
    }

    fn walk_changes(
        &self,
        base: &Base,
        end: PageNumber,
        collector: &mut Collector,
        held: &Held,
    ) -> ControlFlow<Stop> {
        let mut from = collector.next;
        while from < end {
            // Leaves that both maps share are compared without being looked at.
            let equal_to = self.unbuffered_to(from, end);
            let equal_to = shared_to(&self.map, &base.map, from, equal_to);
            if equal_to > from {
                collector.push(equal_to.0 - from.0, false)?;
                from = equal_to;
                continue;
            }
            let leaf_end = PageNumber((from.0 / LEAF_PAGES + 1).saturating_mul(LEAF_PAGES));
            let to = leaf_end.min(end);
            self.walk(from..to, held, |place, pages| match place {
                Place::Buffered => collector.push(pages.end.0 - pages.start.0, true),
                Place::BufferedHole | Place::Absent => {
                    self.compare(base, pages, None, collector, held)
                }
                Place::Stored(location) => {
                    self.compare(base, pages, Some(location), collector, held)
                }
            })?;
            from = to;
        }
        ControlFlow::Continue(())
    }

    /// Compares a run of pages with where the base has them.
    fn compare(
        &self,
        base: &Base,
        pages: Range<PageNumber>,
        location: Option<PageLocation>,
        collector: &mut Collector,
        held: &Held,
    ) -> ControlFlow<Stop> {
        let mut stop = None;
        let resident = |leaf: &RootLeaf| find(&base.map, Whose::Bases, leaf, held);
        let visited = base.map.visit(pages.clone(), resident, |run| {
            let ours = location.map(|location| advanced(location, run.first.0 - pages.start.0));
            let changed = !self.is_same(ours, base, run.location);
            match collector.push(run.pages, changed) {
                ControlFlow::Continue(()) => ControlFlow::Continue(()),
                ControlFlow::Break(why) => {
                    stop = Some(why);
                    ControlFlow::Break(())
                }
            }
        });
        ended(visited.map_err(|missing| missing.0), stop, Whose::Bases)
    }

    /// Whether two locations are one place of one object, or both nowhere. The numbers of segments
    /// are those of one history; their objects' names are never used twice.
    fn is_same(
        &self,
        ours: Option<PageLocation>,
        base: &Base,
        theirs: Option<PageLocation>,
    ) -> bool {
        match (ours, theirs) {
            (None, None) => true,
            (Some(ours), Some(theirs)) => {
                if crate::mutant::is("unchanged is judged by the place in a segment") {
                    return ours.slot == theirs.slot && ours.frame.offset == theirs.frame.offset;
                }
                ours.slot == theirs.slot
                    && ours.frame.offset == theirs.frame.offset
                    && self
                        .map
                        .segment_name(ours.frame.segment)
                        .is_some_and(|name| {
                            base.map.segment_name(theirs.frame.segment) == Some(name)
                        })
            }
            _ => false,
        }
    }

    /// The first page from `from` on that is buffered; `end` if none is.
    fn unbuffered_to(&self, from: PageNumber, end: PageNumber) -> PageNumber {
        let first_runs = self
            .generations
            .iter()
            .filter_map(|generation| generation.records.runs(from..end).next());
        first_runs.fold(end, |until, run| match run.value {
            Some(_) => from,
            None => until.min(run.end()),
        })
    }

    /// Calls `each` with where the runs of `pages` are, in order, until it breaks off.
    fn walk(
        &self,
        pages: Range<PageNumber>,
        held: &Held,
        mut each: impl FnMut(Place, Range<PageNumber>) -> ControlFlow<Stop>,
    ) -> ControlFlow<Stop> {
        self.walk_level(0, pages, held, &mut each)
    }

    fn walk_level(
        &self,
        level: usize,
        pages: Range<PageNumber>,
        held: &Held,
        each: &mut dyn FnMut(Place, Range<PageNumber>) -> ControlFlow<Stop>,
    ) -> ControlFlow<Stop> {
        let Some(generation) = self.generations.get(level) else {
            let mut stop = None;
            let resident = |leaf: &RootLeaf| find(&self.map, Whose::Views, leaf, held);
            let visited = self.map.visit(pages, resident, |run: MapRun| {
                let place = run.location.map_or(Place::Absent, Place::Stored);
                match each(place, run.first..PageNumber(run.first.0 + run.pages)) {
                    ControlFlow::Continue(()) => ControlFlow::Continue(()),
                    ControlFlow::Break(why) => {
                        stop = Some(why);
                        ControlFlow::Break(())
                    }
                }
            });
            return ended(visited.map_err(|missing| missing.0), stop, Whose::Views);
        };
        for run in generation.records.runs(pages) {
            let pages = run.first..run.end();
            match run.value {
                Some(Buffered::Data { .. }) => each(Place::Buffered, pages)?,
                Some(Buffered::Hole { .. }) => each(Place::BufferedHole, pages)?,
                None => self.walk_level(level + 1, pages, held, each)?,
            }
        }
        ControlFlow::Continue(())
    }

    /// Reads what of `range` is only in object storage into the cache: as much as fits half of it,
    /// because more would drive out what came first.
    ///
    /// # Errors
    /// As for [`View::read`].
    pub async fn prefetch(&self, range: Range<u64>) -> Result<(), EngineError> {
        if range.is_empty() {
            return Ok(());
        }
        let end = self.page_size.page_of(range.end - 1).next();
        let window_pages = self.frames.prefetch_window_pages();
        let mut pages_left = self.frames.prefetch_max_pages();
        let mut next = self.page_size.page_of(range.start);
        let mut held = Held::new();
        while next < end && pages_left > 0 {
            let mut window: Vec<MapRun> = Vec::new();
            let (mut window_left, mut runs_left) = (window_pages.min(pages_left), RUNS_PER_TURN);
            let walked = self.walk(next..end, &held, |place, pages| {
                let run_pages = pages.end.0 - pages.start.0;
                next = pages.end;
                if let Place::Stored(location) = place {
                    window_left = window_left.saturating_sub(run_pages);
                    window.push(MapRun {
                        first: pages.start,
                        pages: run_pages,
                        location: Some(location),
                    });
                }
                runs_left -= 1;
                match window_left == 0 || runs_left == 0 {
                    true => ControlFlow::Break(Stop::Paused(Pause::Turn)),
                    false => ControlFlow::Continue(()),
                }
            });
            let pages: u64 = window.iter().map(|run| run.pages).sum();
            pages_left = pages_left.saturating_sub(pages);
            // Bringing a window takes long; leaves are not kept meanwhile.
            held.clear();
            self.frames.prefetch(&self.map, &window).await?;
            match walked {
                ControlFlow::Continue(()) => break,
                ControlFlow::Break(Stop::Paused(Pause::Leaf(leaf, whose))) => {
                    let _walking = self.frames.walk().await;
                    let leaves = fetch(&self.map, None, leaf, end, LEAVES_AT_ONCE).await?;
                    held = leaves
                        .into_iter()
                        .map(|(at, leaf)| ((whose, at), leaf))
                        .collect();
                }
                ControlFlow::Break(_) => let_others_run().await,
            }
        }
        Ok(())
    }
}

/// How a visit of a map ended: at its end, by its caller's wish, or for want of a leaf.
fn ended(
    visited: Result<ControlFlow<()>, RootLeaf>,
    stop: Option<Stop>,
    whose: Whose,
) -> ControlFlow<Stop> {
    match (visited, stop) {
        (_, Some(stop)) => ControlFlow::Break(stop),
        (Ok(_), None) => ControlFlow::Continue(()),
        (Err(leaf), None) => ControlFlow::Break(Stop::Paused(Pause::Leaf(leaf, whose))),
    }
}

fn advanced(location: PageLocation, pages: u64) -> PageLocation {
    use crate::engine::buffer::Advance;
    location.advance(pages)
}

fn find(map: &Map, whose: Whose, leaf: &RootLeaf, held: &Held) -> Option<Arc<Leaf>> {
    match held.get(&(whose, leaf.leaf)) {
        Some(kept) => Some(Arc::clone(kept)),
        None => map.resident_leaf(leaf),
    }
}

/// The page up to which two maps are known to say the same from `from` on, because neither has an
/// overlay there and they share their leaves; at most `end`. `from` if nothing is known.
fn shared_to(one: &Map, two: &Map, from: PageNumber, end: PageNumber) -> PageNumber {
    let mut until = end;
    for map in [one, two] {
        match map.overlay().runs(from..until).next() {
            Some(run) if run.value.is_none() => until = until.min(run.end()),
            _ => return from,
        }
    }
    let leaf = LeafNumber::of(from).0;
    let mut rest = [one, two].map(|map| {
        let leaves = &map.root().leaves;
        leaves[leaves.partition_point(|other| other.leaf < leaf)..].iter()
    });
    loop {
        let [next_one, next_two] = rest.each_mut().map(Iterator::next);
        let differs_at = match (next_one, next_two) {
            (None, None) => return until,
            (Some(a), Some(b)) if a.leaf == b.leaf && is_shared(one, a, two, b) => continue,
            (Some(a), Some(b)) => a.leaf.min(b.leaf),
            (Some(a), None) => a.leaf,
            (None, Some(b)) => b.leaf,
        };
        let differs_at = PageNumber(differs_at.0.saturating_mul(LEAF_PAGES));
        return until.min(differs_at.max(from));
    }
}

fn is_shared(one: &Map, a: &RootLeaf, two: &Map, b: &RootLeaf) -> bool {
    a.span == b.span
        && one
            .leaf_object(a)
            .is_some_and(|name| two.leaf_object(b) == Some(name))
}

/// Fetches `first` and `count` leaves at most after it, before `end`: what comes next. Those that
/// another map shares, with which this one is compared, are left out.
async fn fetch(
    map: &Map,
    other: Option<&Map>,
    first: RootLeaf,
    end: PageNumber,
    count: usize,
) -> Result<Vec<(LeafNumber, Arc<Leaf>)>, ReadError> {
    let leaves = &map.root().leaves;
    let from = leaves.partition_point(|leaf| leaf.leaf < first.leaf);
    let last = LeafNumber::of(PageNumber(end.0 - 1)).0;
    let is_other = |leaf: &&RootLeaf| {
        let Some(other) = other else {
            return true;
        };
        let theirs = &other.root().leaves;
        let found = theirs.binary_search_by_key(&leaf.leaf, |other| other.leaf);
        leaf.leaf == first.leaf
            || found.map_or(true, |at| !is_shared(map, leaf, other, &theirs[at]))
    };
    let wanted = leaves[from..]
        .iter()
        .take_while(|leaf| leaf.leaf <= last)
        .take(count)
        .filter(is_other);
    let fetched = wanted.map(|leaf| async move { Ok((leaf.leaf, map.leaf(leaf).await?)) });
    try_join_all(fetched).await
}

#[cfg(test)]
mod tests;
