//! What the publisher knows about cleaning: the credit, the round under way, what comes next.

use std::collections::BTreeSet;

use super::plan::{SegmentSpace, SpaceState, Urgency};
use super::round::Round;
use super::{CompactionSettings, plan};
use crate::engine::limits::Limits;
use crate::engine::publisher::map_compaction::MapCompactionIncentive;
use crate::format::manifest::{Manifest, SegmentEntry, SegmentId};

/// Bytes that cleaning may copy for every three that checkpoints write: with it at most 1.67 bytes
/// are written for each byte, plus what pays for itself.
const CREDIT_PER_THREE: u64 = 2;

/// Most credit that a server saves up while nothing needs to be cleaned.
const CREDIT_MAX_BYTES: u64 = 4 << 30;

/// During a round, a map compaction for the sake of space waits until this many times as much was
/// moved.
pub(super) const MAP_COMPACTION_PATIENCE: u64 = 4;

/// What the publisher knows about cleaning.
pub(in crate::engine::publisher) struct Cleaning {
    pub(super) settings: CompactionSettings,
    /// Bytes that may be copied; grows with what checkpoints write.
    credit_bytes: u64,
    /// The round under way.
    pub(super) round: Option<Round>,
    /// What the next round would clean.
    pub(super) planned: Option<plan::CleaningPlan>,
    /// Segments that were cleaned, which the next map compaction finds dead.
    pub(super) cleaned: BTreeSet<SegmentId>,
    /// Segments that could not be read: they are left alone for as long as this process lives.
    pub(super) unreadable: BTreeSet<SegmentId>,
    pub(super) urgency: Urgency,
    /// Bytes of pages copied since the image was opened.
    pub(super) copied_bytes: u64,
    /// A map compaction dropped segments, and nothing was published since.
    pub(super) dropped: bool,
}

/// How much there is in object storage, and how cleaning goes, for operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpaceStatus {
    /// Bytes of the newest version's segments and map objects.
    pub stored_bytes: u64,
    /// Of these, bytes of live pages and of map objects, as of the last map compaction.
    pub live_bytes: u64,
    /// Segments of the newest version.
    pub segments: usize,
    /// Of these, segments since the last map compaction.
    pub tail_segments: usize,
    /// Objects that are no longer used, but may still be read by open views.
    pub retired_objects: usize,
    /// Whether there is something to clean.
    pub cleaning_due: bool,
    /// Segments that are being cleaned.
    pub cleaning_segments: usize,
    /// Live bytes of them that wait to be copied, estimated.
    pub cleaning_left_bytes: u64,
    /// Bytes of pages that cleaning copied since the image was opened.
    pub copied_bytes: u64,
}

impl Cleaning {
    pub(in crate::engine::publisher) fn new(
        settings: CompactionSettings,
        opened: &Manifest,
    ) -> Self {
        let mut cleaning = Self {
            settings,
            credit_bytes: 0,
            round: None,
            planned: None,
            cleaned: BTreeSet::new(),
            unreadable: BTreeSet::new(),
            urgency: Urgency::None,
            copied_bytes: 0,
            dropped: false,
        };
        // An image that is only opened and read is not cleaned.
        cleaning.look_at(opened);
        cleaning.planned = None;
        cleaning.urgency = Urgency::None;
        cleaning
    }

    /// The same settings for another history: nothing of the old one is under way.
    pub(in crate::engine::publisher) fn begin_again(&self, opened: &Manifest) -> Self {
        Self::new(self.settings, opened)
    }

    /// A checkpoint wrote segments of so many bytes.
    pub(in crate::engine::publisher) fn earn(&mut self, written_bytes: u64) {
        let earned = written_bytes / 3 * CREDIT_PER_THREE;
        self.credit_bytes = (self.credit_bytes + earned).min(CREDIT_MAX_BYTES);
    }

    /// So many bytes of pages were copied.
    pub(super) fn spend(&mut self, copied_bytes: u64) {
        self.copied_bytes += copied_bytes;
        self.credit_bytes = self.credit_bytes.saturating_sub(copied_bytes);
    }

    /// How urgently a step is wanted.
    pub(in crate::engine::publisher) fn urgency(&self) -> Urgency {
        self.urgency
    }

    /// What speaks for compacting the map that `manifest` publishes.
    pub(in crate::engine::publisher) fn map_compaction_incentive(
        &self,
        manifest: &Manifest,
        limits: &Limits,
    ) -> MapCompactionIncentive {
        let cleaned = |entry: &&SegmentEntry| self.cleaned.contains(&entry.id);
        let entries = manifest.segments.iter().filter(cleaned);
        let reclaimable_bytes = entries.map(|entry| entry.size_bytes).sum();
        // In the middle of a round a map compaction finds victims still alive. A round that is
        // often interrupted must not keep the map from being compacted for ever, though.
        let patience = match &self.round {
            None => 1,
            Some(_) => MAP_COMPACTION_PATIENCE,
        };
        MapCompactionIncentive {
            reclaimable_bytes: self.settings.cleaning.then_some(reclaimable_bytes),
            space_bytes_min: self
                .settings
                .compact_map_for_space_bytes
                .saturating_mul(patience),
            tail_segments_worth: self.settings.tail_segments_worth_compaction,
            tail_segments_max: self.settings.tail_segments_max,
            overlay_entries_max: limits.overlay_entries_max,
            dead_bytes_worth: limits.dead_bytes_worth_compaction,
        }
    }

    /// Plans anew for the version that was just published.
    pub(in crate::engine::publisher) fn look_at(&mut self, newest: &Manifest) {
        let used = |id: &SegmentId| {
            let found = newest.segments.binary_search_by_key(id, |entry| entry.id);
            found.is_ok()
        };
        self.cleaned.retain(used);
        self.unreadable.retain(used);
        if !self.settings.cleaning {
            return;
        }
        let nobody = BTreeSet::new();
        let victims = self.round.as_ref().map_or(&nobody, |round| &round.victims);
        let state = self.state(newest, victims);
        self.planned = match &self.round {
            Some(_) => None,
            None => plan::choose(&state, &self.settings),
        };
        self.urgency = match (&self.round, &self.planned) {
            (None, None) => Urgency::None,
            _ => plan::urgency(&state, &self.settings),
        };
    }

    /// Whether a publication would let go of what a map compaction dropped.
    pub(in crate::engine::publisher) fn wants_release(&self, newest: &Manifest) -> bool {
        self.settings.cleaning && self.dropped && !newest.retired.is_empty()
    }

    /// The map was compacted: the live counts of `newest` are exact.
    pub(in crate::engine::publisher) fn compacted(&mut self, newest: &Manifest) {
        self.cleaned.clear();
        self.dropped = !newest.retired.is_empty();
        if let Some(round) = &mut self.round {
            round.forget_dropped(newest);
        }
    }

    pub(super) fn state(&self, newest: &Manifest, victims: &BTreeSet<SegmentId>) -> SpaceState {
        let tail: BTreeSet<SegmentId> = newest.tail.iter().copied().collect();
        let mut state = SpaceState {
            page_bytes: newest.page_size.bytes() as u64,
            segments: Vec::with_capacity(newest.segments.len()),
            tail_bytes: 0,
            credit_bytes: self.credit_bytes,
            next_segment: newest.next_segment,
            stored_bytes: 0,
            live_bytes_most: 0,
        };
        let mut own = plan::OwnPages::default();
        for entry in &newest.segments {
            let foreign =
                entry.name.image != newest.image || entry.name.incarnation != newest.incarnation;
            let is_cleaned = self.cleaned.contains(&entry.id);
            if !foreign {
                let live_pages = if is_cleaned { 0 } else { entry.live_pages };
                own.add(entry.size_bytes, entry.pages, live_pages);
            }
            if is_cleaned || victims.contains(&entry.id) {
                // Its live pages are in the tail, or about to be.
            } else if tail.contains(&entry.id) {
                state.tail_bytes += entry.size_bytes;
            } else {
                state.segments.push(SegmentSpace {
                    id: entry.id,
                    size_bytes: entry.size_bytes,
                    pages: entry.pages,
                    live_pages: entry.live_pages,
                    foreign,
                    readable: !self.unreadable.contains(&entry.id),
                });
            }
        }
        state.stored_bytes = own.stored_bytes;
        state.live_bytes_most = own.live_bytes_most(newest.size_bytes >> newest.page_size.bits());
        state
    }

    /// What operators see.
    pub(in crate::engine::publisher) fn status(&self, newest: &Manifest) -> SpaceStatus {
        let map_bytes: u64 = newest.maps.iter().map(|entry| entry.size_bytes).sum();
        let segments = newest.segments.iter();
        let stored: u64 = segments.clone().map(|entry| entry.size_bytes).sum();
        let live: u64 = segments
            .map(|entry| plan::live_bytes(entry.size_bytes, entry.pages, entry.live_pages))
            .sum();
        let (cleaning_segments, cleaning_left_bytes) = match &self.round {
            Some(round) => (round.victims.len(), round.left_bytes()),
            None => (0, 0),
        };
        SpaceStatus {
            stored_bytes: stored + map_bytes,
            live_bytes: live + map_bytes,
            segments: newest.segments.len(),
            tail_segments: newest.tail.len(),
            retired_objects: newest.retired.len(),
            cleaning_due: self.urgency > Urgency::None,
            cleaning_segments,
            cleaning_left_bytes,
            copied_bytes: self.copied_bytes,
        }
    }
}
