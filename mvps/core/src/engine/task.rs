//! The task that owns an open image's mutable state.
//!
//! Requests arrive as a closed enum of events and are worked off in order; commits that wait
//! together go into one buffer batch (group commit). Background work (syncs, jobs of the publisher,
//! tenure checks) runs in tasks of its own and reports back as completions, so nothing here waits
//! for object storage. How it continues: `commit` (what a commit does), `acknowledge` (when the
//! client is told), `schedule` (when to seal, checkpoint, grow, close), `job` (what the publisher
//! does).
//!
//! Invariants: one owner of every field; a view is published only after its commits are in the
//! buffer store; nothing is acknowledged after a failure.
//!
//! Must never: wait for object storage, or read a page of it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::future::{self, BoxFuture};
use tokio::select;
use tokio::sync::{mpsc, watch};

use super::acknowledge::Acknowledgements;
use super::buffer_index::GenerationIndex;
use super::commit::{Group, Stalled};
use super::config::{EngineConfig, GROUP_BYTES_MAX, GROUP_COMMITS_MAX, TICK};
use super::error::EngineError;
use super::event::{CommitRefusal, Completion, Event, Reply};
use super::image::Shared;
use super::job::Publisher;
use super::map::Map;
use super::rollback::RollbackDesk;
use super::schedule::Schedule;
use super::status::ImageStatus;
use super::transactions::Transactions;
use super::view::{MapGuard, View};
use crate::env::{BufferStore, Moment};
use crate::ids::{Lsn, Tenure, Version};

/// Background reports that may wait; there are at most a handful of background tasks.
pub(super) const COMPLETIONS_MAX: usize = 16;

/// See the module's text.
pub(super) struct ImageTask {
    pub(super) shared: Arc<Shared>,
    pub(super) tenure: Tenure,
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) completions: mpsc::Receiver<Completion>,
    /// For background tasks.
    pub(super) report: mpsc::Sender<Completion>,
    pub(super) views: watch::Sender<Arc<View>>,
    pub(super) buffer: Arc<dyn BufferStore>,
    /// Takes the next commits.
    pub(super) active: GenerationIndex,
    /// Wait for their checkpoints, oldest first.
    pub(super) sealed: VecDeque<GenerationIndex>,
    /// The last commit.
    pub(super) lsn: Lsn,
    /// The newest published version and the last commit in it.
    pub(super) published: (Version, Lsn),
    pub(super) size_bytes: u64,
    pub(super) map: Map,
    pub(super) guard: Arc<MapGuard>,
    pub(super) transactions: Transactions,
    /// Commits and locks that wait for the lock or for room, in order.
    pub(super) stalled: VecDeque<Stalled>,
    /// Bytes that were added to these since the abandoned ones were forgotten.
    pub(super) stalled_bytes: usize,
    pub(super) acknowledgements: Acknowledgements,
    pub(super) schedule: Schedule,
    pub(super) rollback: RollbackDesk,
    /// Here while no job is under way.
    pub(super) publisher: Option<Box<Publisher>>,
    /// Why nothing is written any more.
    pub(super) failure: Option<EngineError>,
    /// Replies to those who asked to close.
    pub(super) closing: Option<Vec<Reply<()>>>,
    /// How closing ended; the task ends then.
    pub(super) closed: Option<Result<(), EngineError>>,
}

impl ImageTask {
    /// Works until the image is closed or nobody holds it any more.
    pub(super) async fn run(mut self) {
        let mut events = Vec::with_capacity(GROUP_COMMITS_MAX);
        let mut ticker: Option<BoxFuture<'static, ()>> = None;
        self.advance().await;
        while self.closed.is_none() {
            if ticker.is_none() && self.has_deadlines() {
                let tick = TICK.min(self.config().checkpoint_interval / 4);
                ticker = Some(self.shared.environment.clock.sleep(tick));
            }
            let tick = async {
                match ticker.as_mut() {
                    Some(sleep) => sleep.await,
                    None => future::pending().await,
                }
            };
            select! {
                biased;
                Some(completion) = self.completions.recv() => self.complete(completion).await,
                // Before the events, so that deadlines hold however many of those there are.
                () = tick => {
                    ticker = None;
                    self.tick();
                }
                received = self.events.recv_many(&mut events, GROUP_COMMITS_MAX) => {
                    if received == 0 {
                        return;
                    }
                    self.handle(&mut events).await;
                }
            }
            self.advance().await;
        }
        self.finish();
    }

    /// Releases the buffer store, then tells those who asked to close.
    fn finish(mut self) {
        let replies = self.closing.take().unwrap_or_default();
        let outcome = self.closed.take().expect("the loop ends with an outcome");
        self.shared.gauges.closed.store(true, Ordering::SeqCst);
        // Views hold generations, and those hold the store: the last view has none.
        self.sealed.clear();
        let view = View {
            generations: Vec::new(),
            ..self.view_now()
        };
        self.views.send_replace(Arc::new(view));
        drop(self);
        for reply in replies {
            // Who does not wait any more does not need to know.
            let _ = reply.send(outcome.clone());
        }
    }

    pub(super) fn config(&self) -> &EngineConfig {
        &self.shared.config
    }

    pub(super) fn now(&self) -> Moment {
        self.shared.environment.clock.now()
    }

    async fn handle(&mut self, events: &mut Vec<Event>) {
        let mut group = Group::default();
        for event in events.drain(..) {
            if let Event::Commit(request) = event {
                self.submit(Stalled::Commit(request), &mut group);
                if group.bytes >= GROUP_BYTES_MAX {
                    self.commit(&mut group).await;
                }
            } else {
                // Everything else sees the commits that were sent before it.
                self.commit(&mut group).await;
                self.act(event, &mut group);
            }
        }
        self.commit(&mut group).await;
    }

    fn act(&mut self, event: Event, group: &mut Group) {
        match event {
            Event::Commit(_) => unreachable!("commits are grouped by the caller"),
            Event::Flush(durability, reply) => match self.refusal() {
                Some(error) => answer(reply, Err(CommitRefusal::Failed(error))),
                None if self.rollback.is_active() => self.rollback.hold(durability, reply),
                None => self.settle(reply, durability, self.lsn),
            },
            Event::Begin(origin, reply) => {
                let begun = match self.refusal() {
                    Some(error) => Err(error),
                    None => {
                        let view = Arc::clone(&self.views.borrow());
                        let now = self.now();
                        self.transactions
                            .begin(origin, view, now, &self.shared.config)
                    }
                };
                answer(reply, begun);
            }
            Event::Lock(request) => self.submit(Stalled::Lock(request), group),
            Event::End(transaction) => self.transactions.end(transaction),
            Event::Barrier(reply) => {
                self.transactions.end_revoked();
                self.refuse_revoked();
                // Who does not wait any more does not need to know.
                let _ = reply.send(());
            }
            Event::Checkpoint(reply) => match self.refusal() {
                Some(error) => answer(reply, Err(error)),
                None => self.request_checkpoint(reply),
            },
            Event::Grow(size_bytes, reply) => match self.refusal() {
                Some(error) => answer(reply, Err(error)),
                None if size_bytes <= self.size_bytes => answer(reply, Ok(())),
                None => self.schedule.grow.push_back((size_bytes, reply)),
            },
            Event::Rollback(request) => self.begin_rollback(request),
            Event::Close(reply) => self.begin_closing(reply),
            Event::Doubt(reply) => self.doubt_tenure(reply),
            Event::Status(reply) => {
                // Who does not wait any more does not need to know.
                let _ = reply.send(self.status());
            }
        }
    }

    /// Why nothing new is accepted, if so.
    pub(super) fn refusal(&self) -> Option<EngineError> {
        let late = crate::mutant::is("write accepted after an attempted clean close")
            && self.publisher.is_none();
        let closing = self.closing.as_ref().filter(|_| !late);
        let closing = closing.map(|_| EngineError::Closed);
        self.failure.clone().or(closing)
    }

    fn begin_closing(&mut self, reply: Reply<()>) {
        self.transactions.abort_all("the image is closing");
        self.refuse_stalled(&EngineError::Closed);
        self.closing.get_or_insert_default().push(reply);
    }

    /// Takes no more writes, and tells everybody who waits.
    pub(super) fn fail(&mut self, error: EngineError) {
        if self.failure.is_some() {
            return;
        }
        tracing::error!(image = %self.shared.id, %error, "the image takes no more writes");
        self.failure = Some(error.clone());
        self.transactions.abort_all("the image failed");
        self.refuse_stalled(&error);
        self.acknowledgements.fail(&error);
        self.schedule.fail(&error);
        self.rollback.fail(&error);
    }

    fn tick(&mut self) {
        let now = self.now();
        self.transactions.expire(now, &self.shared.config);
        if self.is_full(0) && self.transactions.pins_map_before(self.guard.0) {
            self.transactions
                .abort_oldest("it kept data on the full buffer store");
        }
    }

    fn has_deadlines(&self) -> bool {
        let dirty = !self.active.is_empty() || !self.sealed.is_empty();
        let waiting = !self.stalled.is_empty() || self.closing.is_some();
        dirty || waiting || !self.transactions.is_empty() || self.schedule.retry_at.is_some()
    }

    /// The view of everything that is committed.
    fn view_now(&self) -> View {
        let mut generations = Vec::with_capacity(1 + self.sealed.len());
        generations.push(self.active.clone());
        generations.extend(self.sealed.iter().rev().cloned());
        let frames = Arc::clone(&self.views.borrow().frames);
        View {
            lsn: self.lsn,
            size_bytes: self.size_bytes,
            page_size: self.shared.page_size,
            generations,
            map: self.map.clone(),
            guard: Arc::clone(&self.guard),
            frames,
        }
    }

    pub(super) fn publish_view(&mut self) {
        let view = Arc::new(self.view_now());
        self.views.send_replace(view);
        self.gauge();
    }

    /// Bytes that count towards the buffer's limit: what is on the disk, or is about to be.
    pub(super) fn buffered_bytes(&self) -> u64 {
        let records = self.active.bytes + self.sealed.iter().map(|one| one.bytes).sum::<u64>();
        records.max(self.buffer.usage().disk_bytes)
    }

    /// Whether there is no room once `more` bytes were committed.
    pub(super) fn is_full(&self, more: usize) -> bool {
        self.buffered_bytes() + more as u64 >= self.config().buffer_limit_bytes
    }

    pub(super) fn gauge(&self) {
        self.shared
            .gauges
            .buffered_bytes
            .store(self.buffered_bytes(), Ordering::Relaxed);
    }

    fn status(&self) -> ImageStatus {
        ImageStatus {
            lsn: self.lsn,
            synced_lsn: self.acknowledgements.synced,
            version: self.published.0,
            published_lsn: self.published.1,
            size_bytes: self.size_bytes,
            buffer_disk_bytes: self.buffer.usage().disk_bytes,
            buffered_bytes: self.active.bytes
                + self.sealed.iter().map(|one| one.bytes).sum::<u64>(),
            sealed_generations: self.sealed.len(),
            transactions: self.transactions.len(),
            stalled: self.stalled.len(),
            publishing: self.publisher.is_none(),
            space: self.schedule.cleaning.space,
            tenure: self.tenure,
            failure: self.failure.clone(),
        }
    }
}

/// Replies, to somebody who may not wait any more.
pub(super) fn answer<T, E>(reply: Reply<T, E>, outcome: Result<T, E>) {
    let _ = reply.send(outcome);
}
