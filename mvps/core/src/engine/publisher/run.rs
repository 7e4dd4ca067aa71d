//! The publisher's jobs: a checkpoint, growth, closing; cleaning and rollback have files of their
//! own.

use super::checkpoint::{CheckpointError, Written, write_checkpoint};
use super::job::{Job, JobDone, JobOutcome};
use super::publication::fenced_by;
use super::rollback::abandoned;
use super::state::Publisher;
use crate::engine::buffer::GenerationIndex;
use crate::engine::error::EngineError;
use crate::format::manifest::{ImageState, Manifest};
use crate::protocol::{TenureFinding, WriterPart, check_tenure};

impl Publisher {
    /// Does `job`. Without the image's task nothing is published any more.
    pub(in crate::engine) async fn run(mut self: Box<Self>, job: Job) -> JobDone {
        let outcome = match job {
            Job::Checkpoint(generation) => {
                let outcome = self.checkpoint(generation).await;
                self.explained(outcome).await
            }
            Job::Clean(hurry) => {
                let outcome = self.clean(&hurry).await;
                self.explained(outcome).await
            }
            Job::Release => self.release().await,
            Job::Grow(size_bytes) => self.grow(size_bytes).await,
            Job::RollBack(order) => self.roll_back(*order).await,
            Job::Close => self.close().await,
        };
        JobDone {
            publisher: self,
            outcome,
        }
    }

    /// Work that the store refuses may be that of a fenced server, whose objects the active writer
    /// has let go of.
    async fn explained(&self, outcome: JobOutcome) -> JobOutcome {
        let JobOutcome::Refused { .. } = &outcome else {
            return outcome;
        };
        let (image, version) = (&self.newest.image, self.newest.version);
        match check_tenure(&self.manifests, image, self.tenure, version).await {
            TenureFinding::Superseded(newest) => fenced_by(&newest).into(),
            _ => outcome,
        }
    }

    async fn checkpoint(&mut self, generation: GenerationIndex) -> JobOutcome {
        let lsn = generation.last_lsn;
        if crate::mutant::is("generation dropped before publish") {
            let _ = self.buffer.drop_generation(generation.generation).await;
        }
        // What was uploaded is never picked up, and an upload that lands later is garbage.
        let mut abandon = self.abandon.clone();
        let write = async {
            tokio::select! {
                biased;
                () = abandoned(&mut abandon) => None,
                written = write_checkpoint(self, &generation) => Some(written),
            }
        };
        // The sealed generation needs no more than its sync; that goes on beside the upload.
        let (written, synced) =
            futures_util::future::join(write, self.sync_before_publication()).await;
        let Some(written) = written else {
            return JobOutcome::Abandoned;
        };
        let written = match written {
            Ok(written) => written,
            Err(CheckpointError::Engine(error)) => return JobOutcome::BufferFailed(error),
            Err(CheckpointError::Store(error)) => {
                return JobOutcome::Refused {
                    reason: error.to_string(),
                };
            }
        };
        if let Err(error) = synced {
            return JobOutcome::BufferFailed(error);
        }
        let Written {
            map,
            part,
            compacted,
            segment_bytes,
        } = written;
        let own = |base: &Manifest| WriterPart {
            size_bytes: base.size_bytes,
            lsn,
            ..part.clone()
        };
        if let Err(failed) = self.publish(own).await {
            return failed.into();
        }
        if let Err(error) = self.note_publication(lsn).await {
            return JobOutcome::BufferFailed(error);
        }
        tracing::info!(
            image = %self.newest.image, version = %self.newest.version, %lsn,
            "published a checkpoint"
        );
        self.map = map.clone();
        self.cleaning.earn(segment_bytes);
        self.published_map(compacted);
        JobOutcome::Checkpointed { map }
    }

    /// Nothing may be published that a power cut could take back (protocol §3.5).
    async fn sync_before_publication(&self) -> Result<(), EngineError> {
        if crate::mutant::is("publish before sync") {
            return Ok(());
        }
        Ok(self.buffer.sync().await?)
    }

    async fn grow(&mut self, size_bytes: u64) -> JobOutcome {
        let own = |base: &Manifest| WriterPart {
            size_bytes: size_bytes.max(base.size_bytes),
            ..WriterPart::unchanged(base)
        };
        match self.publish(own).await {
            Ok(()) => JobOutcome::Grown {
                size_bytes: self.newest.size_bytes,
            },
            Err(failed) => failed.into(),
        }
    }

    async fn close(&mut self) -> JobOutcome {
        let own = |base: &Manifest| WriterPart {
            state: ImageState::Clean,
            ..WriterPart::unchanged(base)
        };
        if let Err(failed) = self.publish(own).await {
            return failed.into();
        }
        match self.note_publication(self.newest.lsn).await {
            Ok(()) => JobOutcome::Closed,
            Err(error) => JobOutcome::BufferFailed(error),
        }
    }
}
