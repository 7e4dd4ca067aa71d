//! When to seal a generation, checkpoint it, clean segments, grow the image, or close it.
//!
//! [`next_action`] decides purely from a picture of the task's state; the task carries it out and
//! asks again. The publisher does one job at a time: whoever holds it may publish.
//!
//! Invariants: generations are checkpointed in the order in which they were sealed; the image is
//! published clean only when nothing is buffered and no view is open.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use super::completion::Completion;
use super::state::ImageTask;
use crate::engine::error::EngineError;
use crate::engine::publisher::{Job, JobDone, JobOutcome};
use crate::engine::read::MapGuard;
use crate::engine::reply::{Reply, answer};
use crate::ids::Version;
use crate::mutant::is;
use crate::protocol::TenureFinding;

mod next_action;

use next_action::{Action, Picture, next_action, pace};

/// Pause after a job that the object store refused (credentials, a missing bucket): somebody has to
/// change something, and data waits safely meanwhile.
const REFUSED_JOB_PAUSE: Duration = Duration::from_secs(10);

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
                    let closed = !is(late);
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

    fn picture(&self) -> Picture {
        let now = self.now();
        let schedule = &self.schedule;
        let aged = schedule
            .dirty_since
            .is_some_and(|since| now.since(since) >= schedule.interval);
        let asked = (!schedule.checkpoints.is_empty() || self.acknowledgements.wants_publication())
            && !is("who waits for the store waits for the interval");
        Picture {
            failed: self.failure.is_some(),
            closing: self.closing.is_some(),
            active_bytes: self.active.bytes,
            checkpoint_bytes: self.config().checkpoint_bytes,
            sealed: self.sealed.len(),
            publisher_idle: self.publisher.is_some()
                && schedule.retry_at.is_none_or(|retry_at| now >= retry_at),
            // A full buffer waits for no timer.
            due: aged
                || asked
                || self.is_full(0)
                || self.room.is_awaited()
                || self.shared.buffer_share.gives_way(),
            no_room: self.room.forbids_seal(now),
            grow: !schedule.grow.is_empty(),
            rollback_wanted: self.rollback.is_wanted(),
            rolling_back: self.rollback.is_active(),
            cleaning: schedule.cleaning.urgency,
            cleaned_last: schedule.cleaning.last,
            release: schedule.cleaning.release && !self.reads_earlier_map(),
            views_closed: self.views_closed(),
            buffer_in_use: schedule.dropping > 0 || self.acknowledgements.is_syncing(),
        }
    }

    /// Whether nobody reads: the guard is held by this task and by the newest view, which nobody
    /// else holds, and every earlier map's guard is gone.
    fn views_closed(&self) -> bool {
        if is("image handed back while somebody reads") {
            return true;
        }
        let newest_is_ours = Arc::strong_count(&*self.views.borrow()) == 1;
        newest_is_ours && Arc::strong_count(&self.guard) == 2 && !self.reads_earlier_map()
    }

    fn reads_earlier_map(&self) -> bool {
        let publisher = self.publisher.as_ref();
        publisher.is_some_and(|it| it.reads_earlier_map(self.guard.0))
    }

    fn start_job(&mut self, job: Job) {
        let publisher = self
            .publisher
            .take()
            .expect("a job starts when the publisher is here");
        self.schedule.cleaning.last = matches!(job, Job::Clean(_));
        let report = self.report.clone();
        let work = async move {
            let done = publisher.run(job).await;
            // An image that is gone does not wait for it.
            let _ = report.send(Completion::Job(Box::new(done))).await;
        };
        self.shared
            .environment
            .spawner
            .spawn("publish", Box::pin(work));
    }

    pub(super) fn request_checkpoint(&mut self, reply: Reply<Version>) {
        let early = is("checkpoint answered before its commits");
        if self.published.1 >= self.lsn || early {
            answer(reply, Ok(self.published.0));
        } else {
            self.schedule.checkpoints.push((self.lsn, reply));
        }
    }

    /// Takes note of what background work reports.
    pub(super) async fn complete(&mut self, completion: Completion) {
        match completion {
            Completion::Synced(lsn, Ok(())) => self.synced(lsn),
            Completion::Synced(lsn, Err(_)) if is("failed sync answered as success") => {
                self.synced(lsn);
            }
            Completion::Dropped(Ok(())) => {
                self.schedule.dropping -= 1;
                self.room.made();
                self.gauge();
            }
            Completion::Synced(_, Err(error)) | Completion::Dropped(Err(error)) => {
                self.fail(error.into());
            }
            Completion::Tenure(finding) if self.tenure_of_rollback(&finding).is_some() => {
                let outcome = self.tenure_of_rollback(&finding);
                self.tenure_checked(outcome.expect("it was asked just now"), None);
            }
            Completion::Tenure(finding) => {
                let fenced_by = match &finding {
                    TenureFinding::Active
                    | TenureFinding::ActiveWith(_)
                    | TenureFinding::Unreachable(_) => None,
                    TenureFinding::Superseded(newest) => {
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
        outlook.urgency = publisher.urgency();
        outlook.release = publisher.wants_release();
        outlook.space = publisher.space();
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
                self.acknowledgements.tenure.superseded();
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
    fn read_through(&mut self, map: crate::engine::read::Map) {
        self.map = map;
        self.guard = Arc::new(MapGuard(self.guard.0 + 1));
        let publisher = self.publisher.as_mut().expect("it came back just now");
        publisher.reads_through(&self.guard);
    }

    fn checkpointed(&mut self, version: Version, map: crate::engine::read::Map) {
        let drained = self
            .sealed
            .pop_front()
            .expect("the oldest sealed generation was drained");
        self.published = (version, drained.last_lsn);
        if is("commits during an upload wait for others") {
            self.schedule.dirty_since = None;
        }
        self.transactions.checkpointed();
        self.read_through(map);
        self.publish_view();
        self.published_up_to(drained.last_lsn);
        self.schedule.answer_checkpoints(version, drained.last_lsn);
        self.drop_generation(drained.generation);
    }
}

#[cfg(test)]
mod tests;
