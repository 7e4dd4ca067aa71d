//! Which segments to clean: pure.
//!
//! Two reasons. *Space*: the segments take more than [`CompactionSettings::clean_above_percent`] of
//! their live bytes; then those are chosen whose cleaning frees most for what it copies, old ones
//! first (cost-benefit: what stayed alive for long will stay), until the target would be met.
//! *Number*: many small segments of about the same size are merged into one.
//!
//! Invariants: a byte is copied only if checkpoints wrote enough to pay for it, or if it frees
//! twice what it copies, or to merge small segments, which happens to a byte a logarithmic number
//! of times. Must never choose a segment that is wholly alive for the sake of space.
//!
//! Live counts are exact right after a map compaction and too high otherwise, so a plan may copy
//! less than it expected and free more, never the other way round.

use std::collections::BTreeMap;

use super::CompactionSettings;
use crate::format::manifest::SegmentId;

/// A segment of which more than this many quarters are alive is not worth copying.
const LIVE_QUARTERS_MAX: u64 = 3;

/// A segment of which at most one part in this many is alive is cleaned without credit: freeing two
/// bytes for each copied one pays for itself.
const FREE_DIVISOR: u64 = 3;

/// A segment of another image is let go of when at most one part in this many of it is alive.
/// Before, copying would take space here and free none there.
const FOREIGN_DIVISOR: u64 = 16;

/// Segments of one round: each has its index read, a few megabytes.
pub const VICTIMS_MAX: usize = 64;

/// Small segments are of about the same size if they are in the same tier: below this, below
/// [`TIER_FACTOR`] times this, and so on.
const FIRST_TIER_BYTES: u64 = 64 << 10;

/// A merge of as many segments as a tier takes ends up in the next tier.
const TIER_FACTOR: u64 = 16;

/// What the plan knows about one segment that is not in the tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentSpace {
    /// Which.
    pub id: SegmentId,
    /// Its size.
    pub size_bytes: u64,
    /// Pages it holds.
    pub pages: u32,
    /// Pages of it that were alive at the last map compaction.
    pub live_pages: u32,
    /// It belongs to another image.
    pub foreign: bool,
    /// It could be read so far.
    pub readable: bool,
}

impl SegmentSpace {
    /// Bytes of it that are alive, if pages were all stored in as many bytes.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        live_bytes(self.size_bytes, self.pages, self.live_pages)
    }

    fn dead_bytes(&self) -> u64 {
        self.size_bytes - self.live_bytes()
    }
}

/// The live share of a segment's bytes.
pub(super) fn live_bytes(size_bytes: u64, pages: u32, live_pages: u32) -> u64 {
    let live = u128::from(size_bytes) * u128::from(live_pages.min(pages));
    u64::try_from(live / u128::from(pages.max(1))).unwrap_or(size_bytes)
}

/// What the image's own segments hold together.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct OwnPages {
    pub(super) stored_bytes: u64,
    pages: u64,
    live_pages: u64,
}

impl OwnPages {
    /// Adds a segment.
    pub(super) fn add(&mut self, size_bytes: u64, pages: u32, live_pages: u32) {
        self.stored_bytes += size_bytes;
        self.pages += u64::from(pages);
        self.live_pages += u64::from(live_pages.min(pages));
    }

    /// What is alive takes no more than this, if pages are all stored in as many bytes and the
    /// image has `image_pages`.
    pub(super) fn live_bytes_most(&self, image_pages: u64) -> u64 {
        let live = u128::from(self.stored_bytes) * u128::from(self.live_pages.min(image_pages));
        u64::try_from(live / u128::from(self.pages.max(1))).unwrap_or(self.stored_bytes)
    }
}

/// What the plan depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpaceState {
    /// Of one page, uncompressed: what a step copies is counted in pages.
    pub page_bytes: u64,
    /// Segments that neither are in the tail nor were cleaned.
    pub segments: Vec<SegmentSpace>,
    /// Bytes of the tail's segments, which count as alive.
    pub tail_bytes: u64,
    /// Bytes that may be copied.
    pub credit_bytes: u64,
    /// The number that the next segment gets: ages are counted from it.
    pub next_segment: SegmentId,
    /// Bytes of all of the image's own segments, whatever is to become of them.
    pub stored_bytes: u64,
    /// What is alive of them takes no more than this: an image has no more pages than fit it.
    /// Between two map compactions this is the better bound, once the image is written all over.
    pub live_bytes_most: u64,
}

impl SpaceState {
    /// Bytes of the image's own segments, and those of them that are alive.
    fn own_bytes(&self) -> (u64, u64) {
        let own = self.segments.iter().filter(|segment| !segment.foreign);
        own.fold((self.tail_bytes, self.tail_bytes), |(data, live), one| {
            (data + one.size_bytes, live + one.live_bytes())
        })
    }
}

/// Segments to clean together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CleaningPlan {
    /// Which, ascending.
    pub victims: Vec<SegmentId>,
    /// What copying their live pages takes, estimated.
    pub copy_bytes: u64,
}

/// How soon cleaning has to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Urgency {
    /// There is nothing to clean.
    #[default]
    None,
    /// Whenever the publisher has nothing better to do.
    WhenIdle,
    /// In turns with checkpoints.
    InTurns,
}

/// How soon, given that there is something to clean. What was cleaned and waits for a map
/// compaction counts as stored: it takes space as long as it is there.
#[must_use]
pub fn urgency(state: &SpaceState, settings: &CompactionSettings) -> Urgency {
    let (stored, live) = (state.stored_bytes, state.live_bytes_most);
    if exceeds(stored, live, settings.urgent_above_percent) {
        Urgency::InTurns
    } else {
        Urgency::WhenIdle
    }
}

/// What to clean next, if anything.
#[must_use]
pub fn choose(state: &SpaceState, settings: &CompactionSettings) -> Option<CleaningPlan> {
    let mut chosen = for_space(state, settings);
    if chosen.is_empty() {
        chosen = for_number(state, settings);
    }
    if chosen.is_empty() {
        return None;
    }
    chosen.sort_by_key(|segment| segment.id);
    Some(CleaningPlan {
        victims: chosen.iter().map(|segment| segment.id).collect(),
        copy_bytes: chosen.iter().map(SegmentSpace::live_bytes).sum(),
    })
}

fn exceeds(data_bytes: u64, live_bytes: u64, percent: u64) -> bool {
    u128::from(data_bytes) * 100 > u128::from(live_bytes) * u128::from(percent)
}

fn for_space(state: &SpaceState, settings: &CompactionSettings) -> Vec<SegmentSpace> {
    let nearly_gone = |segment: &&SegmentSpace| {
        segment.foreign && segment.live_bytes() * FOREIGN_DIVISOR <= segment.size_bytes
    };
    let readable = || state.segments.iter().filter(|segment| segment.readable);
    let foreign = readable().filter(nearly_gone).take(VICTIMS_MAX).copied();
    let mut chosen: Vec<SegmentSpace> = foreign.collect();
    let (mut data, live) = state.own_bytes();
    if !exceeds(data, live, settings.clean_above_percent) {
        return chosen;
    }
    let worth = |segment: &&SegmentSpace| {
        let live = segment.live_bytes();
        !segment.foreign
            && segment.live_pages < segment.pages
            && live * 4 <= segment.size_bytes * LIVE_QUARTERS_MAX
    };
    let mut candidates: Vec<&SegmentSpace> = readable().filter(worth).collect();
    let next = state.next_segment;
    candidates.sort_by_key(|segment| (std::cmp::Reverse(benefit(segment, next)), segment.id));
    let mut copied = 0;
    for segment in candidates {
        let enough = !exceeds(data, live, settings.clean_down_to_percent);
        if enough || chosen.len() >= VICTIMS_MAX {
            break;
        }
        let cost = segment.live_bytes();
        let free = cost * FREE_DIVISOR <= segment.size_bytes;
        if free || copied + cost <= state.credit_bytes {
            data -= segment.dead_bytes();
            copied += cost;
            chosen.push(*segment);
        }
    }
    chosen
}

/// What cleaning frees, times how long the rest has been stable, for what is read and written.
fn benefit(segment: &SegmentSpace, next: SegmentId) -> u128 {
    const SCALE: u128 = 1 << 20;
    let age = u128::from(next.0.saturating_sub(segment.id.0));
    let cost = u128::from(segment.size_bytes + segment.live_bytes()).max(1);
    u128::from(segment.dead_bytes()) * age * SCALE / cost
}

/// The smallest tier of small segments that is full. A step writes a segment of its own and ends by
/// the pages that it copied, however well they compress, so only what has no more than half a
/// step's pages counts as small: two of them fit one, and merging comes to an end.
fn for_number(state: &SpaceState, settings: &CompactionSettings) -> Vec<SegmentSpace> {
    let pages_max = match crate::mutant::is("merging never comes to an end") {
        true => u64::MAX,
        false => settings.step_bytes / 2 / state.page_bytes.max(1),
    };
    let small = |segment: &&SegmentSpace| {
        segment.readable
            && !segment.foreign
            && segment.size_bytes < settings.small_segment_bytes
            && u64::from(segment.live_pages) <= pages_max
    };
    let mut tiers: BTreeMap<u32, Vec<SegmentSpace>> = BTreeMap::new();
    for segment in state.segments.iter().filter(small) {
        let tier = tier_of(segment.live_bytes());
        tiers.entry(tier).or_default().push(*segment);
    }
    let full = tiers
        .into_values()
        .find(|tier| tier.len() >= settings.small_segments_max.max(2));
    let mut chosen = full.unwrap_or_default();
    chosen.truncate(VICTIMS_MAX);
    chosen
}

fn tier_of(live_bytes: u64) -> u32 {
    (live_bytes / FIRST_TIER_BYTES)
        .checked_ilog(TIER_FACTOR)
        .map_or(0, |tier| tier + 1)
}

#[cfg(test)]
mod tests;
