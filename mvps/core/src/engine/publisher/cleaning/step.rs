//! One step of cleaning: a bounded number of bytes is copied and published.
//!
//! Invariants: memory is bounded by one batch of frames, the cleaning's own small cache of frames
//! and the segment writer; a step that is asked to hurry ends after the batch that it is in, and
//! what it copied counts. Between batches it pauses as long as the batch took, so that cleaning
//! takes at most half of what the machine and the store give, unless a checkpoint waits for its
//! end: of this image, or of another one that needs the memory.
//!
//! Must never: keep an upload for a later job, or hold a frame in the cache that clients use.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::pace::{Hurry, Pace};
use super::round::Round;
use crate::engine::publisher::checkpoint::{CheckpointError, Written, conclude, segment_writer};
use crate::engine::publisher::job::JobOutcome;
use crate::engine::publisher::segment_writer::WrittenSegment;
use crate::engine::publisher::state::Publisher;
use crate::engine::read::MapRun;
use crate::engine::upload_budget::UploadReservation;
use crate::env::StoreError;
use crate::format::manifest::{Manifest, SegmentId};
use crate::ids::PageNumber;
use crate::protocol::WriterPart;

/// Longest pause between two batches.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// How often who waits for memory looks whether the publisher is wanted.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Pages that follow each other are handed to the writer in pieces of at most this size.
const PIECE_BYTES: usize = 1 << 20;

impl Publisher {
    /// Does one step, and publishes what it copied.
    pub(in crate::engine) async fn clean(&mut self, hurry: &Hurry) -> JobOutcome {
        if let Err(outcome) = self.begin_round().await {
            return outcome;
        }
        let Some(mut round) = self.cleaning.round.take() else {
            return JobOutcome::Cleaned { map: None };
        };
        let step_bytes = self.cleaning.settings.step_bytes.min(round.left_bytes());
        let Some(memory) = self.memory_unless_wanted(step_bytes, hurry).await else {
            self.cleaning.round = Some(round);
            return JobOutcome::Cleaned { map: None };
        };
        let copied = self.copy(&mut round, hurry).await;
        drop(memory);
        let victims = round.victims.clone();
        if round.is_done() {
            self.cleaning.cleaned.extend(victims.iter().copied());
        } else {
            self.cleaning.round = Some(round);
        }
        let concluded = match copied {
            Ok(segments) => conclude(self, segments).await,
            Err(error) => Err(error),
        };
        let Written {
            map,
            part,
            compacted,
            ..
        } = match concluded {
            Ok(Some(written)) => written,
            Ok(None) => {
                self.cleaning.look_at(&self.newest);
                return JobOutcome::Cleaned { map: None };
            }
            Err(error) => return self.give_up(&victims, error),
        };
        let own = |base: &Manifest| WriterPart {
            size_bytes: base.size_bytes,
            lsn: base.lsn,
            ..part.clone()
        };
        if let Err(failed) = self.publish(own).await {
            return failed.into();
        }
        if let Err(error) = self.note_publication(self.newest.lsn).await {
            return JobOutcome::BufferFailed(error);
        }
        tracing::info!(
            image = %self.newest.image, version = %self.newest.version, compacted,
            copied_bytes = self.cleaning.copied_bytes, "published a step of cleaning"
        );
        self.map = map.clone();
        self.published_map(compacted);
        JobOutcome::Cleaned { map: Some(map) }
    }

    /// Publishes nothing new, so that what was retired leaves the list.
    pub(in crate::engine) async fn release(&mut self) -> JobOutcome {
        self.cleaning.dropped = false;
        if let Err(failed) = self.publish(WriterPart::unchanged).await {
            return failed.into();
        }
        match self.note_publication(self.newest.lsn).await {
            Ok(()) => JobOutcome::Cleaned { map: None },
            Err(error) => JobOutcome::BufferFailed(error),
        }
    }

    /// A publication with another map counted.
    pub(in crate::engine) fn published_map(&mut self, compacted: bool) {
        if compacted {
            self.cleaning.compacted(&self.newest);
        }
        self.cleaning.look_at(&self.newest);
    }

    async fn begin_round(&mut self) -> Result<(), JobOutcome> {
        if self.cleaning.round.is_some() {
            return Ok(());
        }
        let Some(plan) = self.cleaning.planned.take() else {
            return Ok(());
        };
        match Round::begin(&self.host, &plan, &self.newest, &self.map).await {
            Ok(round) => {
                tracing::info!(
                    image = %self.newest.image, segments = round.victims.len(),
                    copy_bytes = plan.copy_bytes, "cleaning segments"
                );
                self.cleaning.round = Some(round);
                Ok(())
            }
            Err((victim, error)) => {
                let victims = BTreeSet::from([victim]);
                Err(self.give_up(&victims, error.into()))
            }
        }
    }

    /// Ends a round that failed. An image whose old segments are damaged is served as before: who
    /// reads the damaged page is told.
    fn give_up(&mut self, victims: &BTreeSet<SegmentId>, error: CheckpointError) -> JobOutcome {
        self.cleaning.round = None;
        let reason = match error {
            CheckpointError::Store(error @ StoreError::NotFound { .. }) => Ok(error.to_string()),
            CheckpointError::Store(error) => Err(error.to_string()),
            CheckpointError::Engine(error) => Ok(error.to_string()),
        };
        let outcome = match reason {
            Ok(reason) => {
                tracing::error!(
                    image = %self.newest.image, reason,
                    "segments cannot be cleaned; they stay as they are"
                );
                self.cleaning.unreadable.extend(victims);
                JobOutcome::Cleaned { map: None }
            }
            Err(reason) => JobOutcome::Refused { reason },
        };
        self.cleaning.look_at(&self.newest);
        outcome
    }

    /// Memory to copy so much with; none if the publisher is wanted for something else before there is
    /// some.
    async fn memory_unless_wanted(&self, bytes: u64, hurry: &Hurry) -> Option<UploadReservation> {
        let mut memory = pin!(self.memory_for(bytes));
        loop {
            tokio::select! {
                biased;
                memory = &mut memory => return Some(memory),
                () = self.host.environment.clock.sleep(LOOK_EVERY) => {}
            }
            if hurry.is(Pace::Ending) {
                return None;
            }
        }
    }

    /// Copies live pages into a new segment, until the step's limit, the round's end or somebody
    /// else's wish. No segment if there were none.
    async fn copy(
        &mut self,
        round: &mut Round,
        hurry: &Hurry,
    ) -> Result<Vec<WrittenSegment>, CheckpointError> {
        let clock = Arc::clone(&self.host.environment.clock);
        let mut writer = segment_writer(self);
        let mut copied_bytes = 0;
        let step_bytes = self.cleaning.settings.step_bytes;
        while !round.is_done() && copied_bytes < step_bytes {
            let began = clock.now();
            let left_pages = (step_bytes - copied_bytes) >> self.newest.page_size.bits();
            let batch = round.next_batch(&self.map, left_pages.max(1)).await?;
            let map = round.map(&self.map);
            let contents = self.reader.read(map, &batch).await?;
            for (first, piece) in pieces(&batch, contents) {
                copied_bytes += piece.len() as u64;
                writer.pages(first, piece).await?;
            }
            // Other images' uploads wait for the memory that this one holds.
            if hurry.is(Pace::Ending) || self.host.upload_budget.is_awaited() {
                break;
            }
            if hurry.is(Pace::Leisurely) && !round.is_done() {
                let pause = clock.now().since(began).min(PAUSE_MAX);
                clock.sleep(pause.max(Duration::from_millis(1))).await;
            }
        }
        round.note_copied(copied_bytes);
        self.cleaning.spend(copied_bytes);
        Ok(writer.finish().await?)
    }
}

/// The content of `runs`, pages that follow each other together. Copied, because a piece of a frame
/// would keep all of it in memory.
fn pieces(runs: &[MapRun], contents: Vec<Option<Bytes>>) -> Vec<(PageNumber, Bytes)> {
    let mut pieces: Vec<(PageNumber, BytesMut)> = Vec::new();
    let mut next = None;
    for (run, content) in runs.iter().zip(contents) {
        let content = content.expect("a run with a location has content");
        let follows = next == Some(run.first);
        next = Some(PageNumber(run.first.0 + run.pages));
        match pieces.last_mut() {
            Some((_, piece)) if follows && piece.len() + content.len() <= PIECE_BYTES => {
                piece.extend_from_slice(&content);
            }
            _ => pieces.push((run.first, BytesMut::from(&content[..]))),
        }
    }
    let frozen = pieces.into_iter();
    frozen
        .map(|(first, piece)| (first, piece.freeze()))
        .collect()
}
