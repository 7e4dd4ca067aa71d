//! When to seal a generation, checkpoint it, spill it, clean segments, grow the image, or close it.
//!
//! [`next_action`] decides purely from a picture of the task's state; the task carries it out and
//! asks again. The publisher does one job at a time: whoever holds it may publish.
//!
//! Invariants: generations are checkpointed in the order in which they were sealed; the image is
//! published clean only when nothing is buffered and no view is open.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use super::cleaning::plan::Urgency;
use super::cleaning::{Hurry, SpaceStatus};
use super::config::{EngineConfig, SEALED_IN_MEMORY_MAX};
use super::error::EngineError;
use super::event::{Completion, Reply};
use super::job::{Job, JobDone, JobOutcome};
use super::protocol::{ManifestStore, TenureFinding};
use super::task::{ImageTask, answer};
use super::view::MapGuard;
use crate::env::{BufferError, Entropy, EntropyExt, Moment};
use crate::ids::{Generation, Lsn, Version};

mod next_action;

use next_action::{Action, Picture, next_action, pace};

/// Pause after a job that the object store refused (credentials, a missing bucket): somebody has to
/// change something, and data waits safely meanwhile.
const REFUSED_JOB_PAUSE: Duration = Duration::from_secs(10);

/// What the task remembers about its plans.
pub(super) struct Schedule {
    /// Since when the active generation holds commits.
    pub(super) dirty_since: Option<Moment>,
    /// The checkpoint interval with this round's jitter.
    interval: Duration,
    /// Who waits for a checkpoint that has everything up to an LSN.
    checkpoints: Vec<(Lsn, Reply<Version>)>,
    /// Sizes to grow to.
    pub(super) grow: VecDeque<(u64, Reply<()>)>,
    /// Not before this moment after a refused job.
    pub(super) retry_at: Option<Moment>,
    /// Sealed generations that were spilled.
    spilled: Vec<Generation>,
    /// The one that is being spilled.
    spilling: Option<Generation>,
    /// It was published meanwhile: it is dropped once it is spilled.
    drop_after_spill: bool,
    /// Drained generations that are being dropped.
    dropping: usize,
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
            spilled: Vec::new(),
            spilling: None,
            drop_after_spill: false,
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
fn jittered(interval: Duration, entropy: &dyn Entropy) -> Duration {
    let fifth = interval / 5;
    let micros = u64::try_from(fifth.as_micros()).unwrap_or(u64::MAX);
    interval - fifth / 2 + Duration::from_micros(entropy.below(micros.max(1)))
}

/// What the task knows about cleaning.
#[derive(Default)]
pub(super) struct CleaningOutlook {
    urgency: Urgency,
    /// A publication would let go of what cleaning retired.
    release: bool,
    /// The last job was a step of cleaning.
    last: bool,
    /// Ends the step under way.
    hurry: Hurry,
    pub(super) space: SpaceStatus,
}

impl ImageTask {
    /// Does whatever can be done now.
    pub(super) async fn advance(&mut self) {
        loop {
            self.resume_stalled().await;
            let picture = self.picture();
            self.schedule.cleaning.hurry.set(pace(&picture));
            let Some(action) = next_action(&picture) else {
                return;
            };
            match action {
                Action::Seal => self.seal().await,
                Action::Spill(generation) => self.spill(generation),
                Action::Checkpoint => self.start_job(Job::Checkpoint(self.sealed[0].clone())),
                Action::Clean => {
                    let hurry = self.schedule.cleaning.hurry.clone();
                    self.start_job(Job::Clean(hurry));
                }
                Action::Release => self.start_job(Job::Release),
                Action::Grow => {
                    let size_bytes = self.schedule.grow.iter().map(|(size, _)| *size).max();
                    self.start_job(Job::Grow(size_bytes.expect("somebody wants to grow")));
                }
                Action::Rollback => {
                    let order = Box::new(self.order_rollback());
                    self.start_job(Job::RollBack(order));
                }
                Action::Close => {
                    // From here on reads are refused. One that began just before is seen now at the
                    // latest (see `Image::view_for`), and waited for.
                    let late = "write accepted after an attempted clean close";
                    let closed = !crate::mutant::is(late);
                    self.shared.gauges.closed.store(closed, Ordering::SeqCst);
                    fence(Ordering::SeqCst);
                    if self.views_closed() {
                        self.start_job(Job::Close);
                    }
                }
                Action::GiveUp => {
                    self.closed = self.failure.clone().map(Err);
                    return;
                }
            }
            if self.closed.is_some() {
                return;
            }
        }
    }

    /// Whether the active generation is full and the one before it still fills the memory.
    pub(super) fn is_memory_full(&self) -> bool {
        self.active.bytes >= self.config().checkpoint_bytes && {
            let picture = self.picture();
            picture.in_memory >= SEALED_IN_MEMORY_MAX
        }
    }

    fn picture(&self) -> Picture {
        let now = self.now();
        let schedule = &self.schedule;
        let aged = schedule
            .dirty_since
            .is_some_and(|since| now.since(since) >= schedule.interval);
        let asked = !schedule.checkpoints.is_empty() || self.acknowledgements.wants_publication();
        let spilling = schedule.spilling;
        let in_memory = || {
            let sealed = self.sealed.iter().map(|sealed| sealed.generation);
            sealed.filter(|generation| !schedule.spilled.contains(generation))
        };
        Picture {
            failed: self.failure.is_some(),
            closing: self.closing.is_some(),
            active_bytes: self.active.bytes,
            checkpoint_bytes: self.config().checkpoint_bytes,
            sealed: self.sealed.len(),
            in_memory: in_memory().count(),
            unspilled: in_memory().next().filter(|_| spilling.is_none()),
            publisher_idle: self.publisher.is_some()
                && schedule.retry_at.is_none_or(|retry_at| now >= retry_at),
            // A full buffer waits for no timer.
            due: aged || asked || self.is_full(0),
            grow: !schedule.grow.is_empty(),
            rollback_wanted: self.rollback.is_wanted(),
            rolling_back: self.rollback.is_active(),
            cleaning: schedule.cleaning.urgency,
            cleaned_last: schedule.cleaning.last,
            release: schedule.cleaning.release && !self.reads_earlier_map(),
            views_closed: self.views_closed(),
            buffer_in_use: schedule.spilling.is_some()
                || schedule.dropping > 0
                || self.acknowledgements.is_syncing(),
        }
    }

    /// Whether nobody reads: the guard is held by this task and by the newest view, which nobody
    /// else holds, and every earlier map's guard is gone.
    fn views_closed(&self) -> bool {
        let newest_is_ours = Arc::strong_count(&*self.views.borrow()) == 1;
        newest_is_ours && Arc::strong_count(&self.guard) == 2 && !self.reads_earlier_map()
    }

    fn reads_earlier_map(&self) -> bool {
        let publisher = self.publisher.as_ref();
        publisher.is_some_and(|it| it.reads_earlier_map(self.guard.0))
    }

    async fn seal(&mut self) {
        let sealed = self.buffer.seal().await;
        let active = match sealed {
            Ok(_) => self.buffer.active().await,
            Err(error) => Err(error),
        };
        match active {
            Ok((generation, handle)) => {
                let next = super::buffer_index::GenerationIndex::new(generation, handle);
                let mut sealed = std::mem::replace(&mut self.active, next);
                if crate::mutant::is("seal loses in-flight writes")
                    && let Some((pages, _)) = sealed.records.iter().last()
                {
                    sealed.records.remove(pages);
                }
                self.sealed.push_back(sealed);
                self.schedule.dirty_since = None;
                let entropy = &*self.shared.environment.entropy;
                self.schedule.interval = jittered(self.shared.config.checkpoint_interval, entropy);
                self.publish_view();
            }
            Err(error) => self.fail(error.into()),
        }
    }

    fn spill(&mut self, generation: Generation) {
        self.schedule.spilling = Some(generation);
        let (buffer, report) = (Arc::clone(&self.buffer), self.report.clone());
        let spill = async move {
            let outcome = buffer.spill(generation).await;
            drop(buffer);
            // An image that is gone does not wait for it.
            let _ = report.send(Completion::Spilled(outcome)).await;
        };
        self.shared
            .environment
            .spawner
            .spawn("spill generation", Box::pin(spill));
    }

    fn start_job(&mut self, job: Job) {
        let publisher = self
            .publisher
            .take()
            .expect("a job starts when the publisher is here");
        self.schedule.cleaning.last = matches!(job, Job::Clean(_));
        let report = self.report.clone();
        let work = async move {
            let done = publisher.run(job, &report).await;
            // An image that is gone does not wait for it.
            let _ = report.send(Completion::Job(Box::new(done))).await;
        };
        self.shared
            .environment
            .spawner
            .spawn("publish", Box::pin(work));
    }

    pub(super) fn request_checkpoint(&mut self, reply: Reply<Version>) {
        if self.published.1 >= self.lsn {
            answer(reply, Ok(self.published.0));
        } else {
            self.schedule.checkpoints.push((self.lsn, reply));
        }
    }

    /// Takes note of what background work reports.
    pub(super) async fn complete(&mut self, completion: Completion) {
        match completion {
            Completion::Synced(lsn, Ok(())) => self.synced(lsn),
            Completion::Spilled(Ok(())) => self.spilled(),
            Completion::Dropped(generation, Ok(())) => {
                self.schedule.dropping -= 1;
                self.schedule
                    .spilled
                    .retain(|spilled| *spilled != generation);
                self.gauge();
            }
            Completion::Synced(_, Err(error))
            | Completion::Spilled(Err(error))
            | Completion::Dropped(_, Err(error)) => self.fail(error.into()),
            Completion::Tenure(finding) if self.tenure_of_rollback(&finding).is_some() => {
                let outcome = self.tenure_of_rollback(&finding);
                self.tenure_checked(outcome.expect("it was asked just now"), None);
            }
            Completion::Tenure(finding) => {
                let fenced_by = match &finding {
                    TenureFinding::InOffice
                    | TenureFinding::InOfficeWith(_)
                    | TenureFinding::Unreachable(_) => None,
                    TenureFinding::Deposed(newest) => {
                        Some(format!("tenure {} has the image", newest.tenure))
                    }
                    TenureFinding::Vanished => Some("the image's manifests are gone".to_owned()),
                    TenureFinding::Unreadable(error) => Some(error.to_string()),
                };
                self.tenure_checked(finding.outcome(), fenced_by);
            }
            Completion::Job(done) => self.job_done(*done).await,
        }
    }

    async fn job_done(&mut self, done: JobDone) {
        let JobDone { publisher, outcome } = done;
        self.schedule.retry_at = None;
        let version = publisher.version();
        if let Some(confirmed_at) = publisher.confirmed_at() {
            self.acknowledgements.tenure.confirmed(confirmed_at);
        }
        let outlook = &mut self.schedule.cleaning;
        outlook.urgency = publisher.cleaning.urgency();
        outlook.release = publisher.cleaning.wants_release(&publisher.newest);
        outlook.space = publisher.cleaning.status(&publisher.newest);
        self.publisher = Some(publisher);
        match outcome {
            JobOutcome::Checkpointed { map } => self.checkpointed(version, map),
            JobOutcome::Cleaned { map } => {
                self.published.0 = version;
                if let Some(map) = map {
                    self.read_through(map);
                    self.publish_view();
                }
            }
            JobOutcome::Grown { size_bytes } => {
                self.published.0 = version;
                self.size_bytes = size_bytes;
                self.publish_view();
                let waiting = std::mem::take(&mut self.schedule.grow);
                for (wanted, reply) in waiting {
                    if wanted <= size_bytes {
                        answer(reply, Ok(()));
                    } else {
                        self.schedule.grow.push_back((wanted, reply));
                    }
                }
            }
            JobOutcome::RolledBack { outcome, map } => self.rollback_done(outcome, map).await,
            // What wanted it abandoned comes next.
            JobOutcome::Abandoned => {}
            JobOutcome::Closed => self.closed = Some(Ok(())),
            JobOutcome::Fenced { reason } => {
                self.acknowledgements.tenure.deposed();
                self.fail(EngineError::Fenced { reason });
            }
            JobOutcome::Refused { reason } => {
                tracing::error!(
                    image = %self.shared.id, %reason,
                    "the object store refuses the checkpoint; data stays in the buffer store"
                );
                self.schedule.retry_at = Some(self.now().after(REFUSED_JOB_PAUSE));
            }
            JobOutcome::BufferFailed(error) => self.fail(error),
        }
    }

    /// Views are made with `map` from now on.
    fn read_through(&mut self, map: super::map::Map) {
        self.map = map;
        self.guard = Arc::new(MapGuard(self.guard.0 + 1));
        let publisher = self.publisher.as_mut().expect("it came back just now");
        publisher.reads_through(&self.guard);
    }

    fn checkpointed(&mut self, version: Version, map: super::map::Map) {
        let drained = self
            .sealed
            .pop_front()
            .expect("the oldest sealed generation was drained");
        self.published = (version, drained.last_lsn);
        self.transactions.checkpointed();
        self.read_through(map);
        self.publish_view();
        self.published_up_to(drained.last_lsn);
        self.schedule.answer_checkpoints(version, drained.last_lsn);
        self.drop_drained(drained.generation);
    }

    /// Drops a generation that nothing needs any more, now or once it is spilled.
    pub(super) fn drop_drained(&mut self, generation: Generation) {
        if self.schedule.spilling == Some(generation) {
            self.schedule.drop_after_spill = true;
        } else {
            self.drop_generation(generation);
        }
    }

    fn spilled(&mut self) {
        let generation = self.schedule.spilling.take();
        if std::mem::take(&mut self.schedule.drop_after_spill) {
            self.drop_generation(generation.expect("what is to be dropped was being spilled"));
        } else {
            self.schedule.spilled.extend(generation);
        }
        self.gauge();
    }

    fn drop_generation(&mut self, generation: Generation) {
        self.schedule.dropping += 1;
        let (buffer, report) = (Arc::clone(&self.buffer), self.report.clone());
        let dropping = async move {
            let outcome: Result<(), BufferError> = buffer.drop_generation(generation).await;
            drop(buffer);
            // An image that is gone does not wait for it.
            let _ = report.send(Completion::Dropped(generation, outcome)).await;
        };
        self.shared
            .environment
            .spawner
            .spawn("drop generation", Box::pin(dropping));
    }
}

#[cfg(test)]
mod tests;
