//! One round of cleaning: the pages that its victims hold, in page order, and how far it has come.
//!
//! Invariant: the pages are candidates, no more. Whether one is still alive in a victim is asked of
//! the newest map, page by page, when it is about to be copied.

use std::collections::BTreeSet;

use super::plan::CleaningPlan;
use crate::engine::host::Host;
use crate::engine::read::{Map, MapRun};
use crate::env::SpawnerExt;
use crate::format::location::FrameLocation;
use crate::format::manifest::{Manifest, SegmentEntry, SegmentId};
use crate::format::segment::{PageSpan, SegmentIndex};
use crate::ids::PageNumber;
use crate::object_reads::{Piece, ReadError};

/// Runs of candidate pages that a round keeps in memory: 16 bytes each. Victims beyond that wait
/// for the next round.
const RUNS_MAX: usize = 1 << 21;

/// Frames that one batch reads: 16 MiB of content, however few pages of each are alive.
const BATCH_FRAMES_MAX: usize = 256;

/// Look-ups of one batch: a few milliseconds of work, also if nothing is alive any more.
const BATCH_LOOKUPS_MAX: usize = 4096;

/// Pages of one look-up: so many that a run of live pages is rarely cut.
const LOOKUP_PAGES_MAX: u64 = 1024;

/// The live pages of some victims, and how far the round has come through them.
pub(in crate::engine) struct Round {
    pub(super) victims: BTreeSet<SegmentId>,
    /// Ascending and disjoint.
    pages: Vec<PageSpan>,
    /// Which of them is next, and pages below this one were looked at.
    next: usize,
    next_page: PageNumber,
    /// What is to be copied in all, estimated, and what was.
    copy_bytes: u64,
    copied_bytes: u64,
    /// The map when the round began.
    #[cfg_attr(
        not(all(feature = "variants", debug_assertions)),
        expect(dead_code, reason = "variants")
    )]
    begun_on: Map,
}

impl Round {
    /// Reads the indexes of the planned victims.
    pub(super) async fn begin(
        host: &Host,
        plan: &CleaningPlan,
        newest: &Manifest,
        map: &Map,
    ) -> Result<Self, (SegmentId, ReadError)> {
        let mut victims = BTreeSet::new();
        let mut spans: Vec<PageSpan> = Vec::new();
        for id in &plan.victims {
            let found = newest.segments.binary_search_by_key(id, |entry| entry.id);
            let Ok(entry) = found.map(|at| &newest.segments[at]) else {
                continue;
            };
            let index = read_index(host, entry)
                .await
                .map_err(|error| (*id, error))?;
            let runs = index.frames.into_iter().flat_map(|frame| frame.runs);
            spans.extend(runs);
            victims.insert(*id);
            if spans.len() > RUNS_MAX {
                break;
            }
        }
        let pages = host
            .environment
            .spawner
            .run(move || {
                let mut pages = united(spans);
                pages.shrink_to_fit();
                pages
            })
            .await;
        Ok(Self {
            victims,
            pages,
            next: 0,
            next_page: PageNumber(0),
            copy_bytes: plan.copy_bytes,
            copied_bytes: 0,
            begun_on: map.clone(),
        })
    }

    /// Whether every candidate was looked at.
    pub(super) fn is_done(&self) -> bool {
        self.next >= self.pages.len()
    }

    pub(super) fn note_copied(&mut self, bytes: u64) {
        self.copied_bytes += bytes;
    }

    pub(super) fn left_bytes(&self) -> u64 {
        self.copy_bytes.saturating_sub(self.copied_bytes)
    }

    /// Forgets victims that a map compaction dropped.
    pub(super) fn forget_dropped(&mut self, newest: &Manifest) {
        self.victims.retain(|id| {
            let found = newest.segments.binary_search_by_key(id, |entry| entry.id);
            found.is_ok()
        });
    }

    /// The map in which pages are looked up.
    pub(super) fn map<'a>(&'a self, newest: &'a Map) -> &'a Map {
        #[cfg(all(feature = "variants", debug_assertions))]
        if crate::mutant::is("cleaning resurrects overwritten pages") {
            return &self.begun_on;
        }
        newest
    }

    /// The next pages that are alive in a victim, in page order, and where they are: `pages_max` of
    /// them and the rest of the last one's run, at most. There may be none although the round is
    /// not done.
    pub(super) async fn next_batch(
        &mut self,
        newest: &Map,
        pages_max: u64,
    ) -> Result<Vec<MapRun>, ReadError> {
        let mut batch = Vec::new();
        let mut batch_pages = 0;
        let mut frames: BTreeSet<(SegmentId, u32)> = BTreeSet::new();
        let mut found = Vec::new();
        for _ in 0..BATCH_LOOKUPS_MAX {
            let Some(span) = self.pages.get(self.next).copied() else {
                break;
            };
            let first = self.next_page.max(span.first);
            let end = PageNumber(first.0.saturating_add(LOOKUP_PAGES_MAX)).min(span.end());
            let map = self.map(newest);
            found.clear();
            if map.try_lookup(first..end, &mut found).is_err() {
                found = map.lookup(first..end).await?;
            }
            for run in &found {
                let Some(location) = run.location else {
                    continue;
                };
                if !self.victims.contains(&location.frame.segment) {
                    continue;
                }
                frames.insert(key_of(&location.frame));
                if frames.len() > BATCH_FRAMES_MAX || batch_pages >= pages_max {
                    self.next_page = run.first;
                    return Ok(batch);
                }
                batch.push(*run);
                batch_pages += run.pages;
            }
            self.next_page = end;
            if end >= span.end() {
                self.next += 1;
            }
        }
        Ok(batch)
    }
}

fn key_of(frame: &FrameLocation) -> (SegmentId, u32) {
    (frame.segment, frame.offset)
}

async fn read_index(host: &Host, entry: &SegmentEntry) -> Result<SegmentIndex, ReadError> {
    let piece = Piece {
        object: &entry.name,
        span: entry.index,
        page: None,
    };
    let decode = |seed, bytes: bytes::Bytes| SegmentIndex::decode(seed, &bytes);
    host.leaves.object_reads().read(piece, decode).await
}

/// The same pages in ascending order, each once.
fn united(mut spans: Vec<PageSpan>) -> Vec<PageSpan> {
    spans.sort_unstable_by_key(|span| span.first);
    spans.dedup_by(|next, last| {
        let touches = next.first <= last.end();
        if touches {
            let end = last.end().max(next.end());
            last.pages = end.0 - last.first.0;
        }
        touches
    });
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_united() {
        let check = |spans: &[(u64, u64)], expected: &[(u64, u64)]| {
            let span = |&(first, pages): &(u64, u64)| PageSpan {
                first: PageNumber(first),
                pages,
            };
            let united = united(spans.iter().map(span).collect());
            let expected: Vec<PageSpan> = expected.iter().map(span).collect();
            assert_eq!(united, expected, "{spans:?}");
        };
        check(&[], &[]);
        check(&[(5, 1), (1, 2)], &[(1, 2), (5, 1)]);
        check(&[(3, 2), (1, 2), (5, 1)], &[(1, 5)]);
        check(&[(1, 10), (2, 3), (4, 20)], &[(1, 23)]);
        check(&[(1, 1), (1, 1), (1, 1)], &[(1, 1)]);
    }
}
