//! What the image's task remembers about its plans: who waits for a checkpoint or for growth, which
//! generations are being dropped, how cleaning stands.

use std::collections::VecDeque;
use std::time::Duration;

use crate::engine::config::EngineConfig;
use crate::engine::error::EngineError;
use crate::engine::publisher::{Hurry, SpaceStatus, Urgency};
use crate::engine::reply::{Reply, answer};
use crate::env::{Entropy, EntropyExt, Moment};
use crate::ids::{Lsn, Version};
use crate::protocol::ManifestStore;

/// What the task remembers about its plans.
pub(super) struct Schedule {
    /// Since when the active generation holds commits.
    pub(super) dirty_since: Option<Moment>,
    /// The checkpoint interval with this round's jitter.
    pub(super) interval: Duration,
    /// Who waits for a checkpoint that has everything up to an LSN.
    pub(super) checkpoints: Vec<(Lsn, Reply<Version>)>,
    /// Sizes to grow to.
    pub(super) grow: VecDeque<(u64, Reply<()>)>,
    /// Not before this moment after a refused job.
    pub(super) retry_at: Option<Moment>,
    /// Drained generations that are being dropped.
    pub(super) dropping: usize,
    /// What the publisher said about cleaning when it was last here.
    pub(super) cleaning: CleaningOutlook,
    /// The manifests, through a store that soon gives up: for tenure checks.
    pub(super) impatient_manifests: ManifestStore,
}

impl Schedule {
    pub(super) fn new(
        config: &EngineConfig,
        entropy: &dyn Entropy,
        impatient_manifests: ManifestStore,
    ) -> Self {
        Self {
            dirty_since: None,
            interval: jittered(config.checkpoint_interval, entropy),
            checkpoints: Vec::new(),
            grow: VecDeque::new(),
            retry_at: None,
            dropping: 0,
            cleaning: CleaningOutlook::default(),
            impatient_manifests,
        }
    }

    pub(super) fn refuse_checkpoints(&mut self, error: &EngineError) {
        for (_, reply) in self.checkpoints.drain(..) {
            answer(reply, Err(error.clone()));
        }
    }

    /// Tells who waits for a checkpoint of everything up to `lsn` or less that it is in `version`.
    pub(super) fn answer_checkpoints(&mut self, version: Version, lsn: Lsn) {
        for (wanted, reply) in std::mem::take(&mut self.checkpoints) {
            if wanted <= lsn {
                answer(reply, Ok(version));
            } else {
                self.checkpoints.push((wanted, reply));
            }
        }
    }

    pub(super) fn fail(&mut self, error: &EngineError) {
        self.refuse_checkpoints(error);
        for (_, reply) in self.grow.drain(..) {
            answer(reply, Err(error.clone()));
        }
    }
}

/// `interval` ± a tenth, so that servers started together do not checkpoint together.
pub(super) fn jittered(interval: Duration, entropy: &dyn Entropy) -> Duration {
    let fifth = interval / 5;
    let micros = u64::try_from(fifth.as_micros()).unwrap_or(u64::MAX);
    interval - fifth / 2 + Duration::from_micros(entropy.below(micros.max(1)))
}

/// What the task knows about cleaning.
#[derive(Default)]
pub(super) struct CleaningOutlook {
    pub(super) urgency: Urgency,
    /// A publication would let go of what cleaning retired.
    pub(super) release: bool,
    /// The last job was a step of cleaning.
    pub(super) last: bool,
    /// Ends the step under way.
    pub(super) hurry: Hurry,
    pub(super) space: SpaceStatus,
}
