//! The loop of an image's task: events and completions in, one at a time.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::future::{self, BoxFuture};
use tokio::select;

use super::commit::Group;
use super::stalled::Stalled;
use super::state::ImageTask;
use crate::engine::buffer_budget::BufferLimit;
use crate::engine::config::TICK;
use crate::engine::error::EngineError;
use crate::engine::read::View;
use crate::engine::reply::{CommitRefusal, Reply, answer};
use crate::engine::request::Event;
use crate::engine::status::ImageStatus;

impl ImageTask {
    /// Works until the image is closed or nobody holds it any more.
    pub(in crate::engine) async fn run(mut self) {
        let commits_max = self.config().limits.group_commits_max;
        let mut events = Vec::with_capacity(commits_max);
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
                received = self.events.recv_many(&mut events, commits_max) => {
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

    async fn handle(&mut self, events: &mut Vec<Event>) {
        let mut group = Group::default();
        for event in events.drain(..) {
            if let Event::Commit(request) = event {
                self.submit(Stalled::Commit(request), &mut group);
                if group.bytes >= self.config().limits.group_bytes_max {
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
                None => {
                    if crate::mutant::is("size told before it is published") {
                        self.size_bytes = size_bytes;
                        self.publish_view();
                    }
                    self.schedule.grow.push_back((size_bytes, reply));
                }
            },
            Event::Rollback(request) => self.begin_rollback(request),
            Event::Close(reply) => self.begin_closing(reply),
            Event::CheckFencing(reply) => self.check_fencing(reply),
            Event::Status(reply) => {
                // Who does not wait any more does not need to know.
                let _ = reply.send(self.status());
            }
        }
    }

    fn begin_closing(&mut self, reply: Reply<()>) {
        self.transactions.abort_all("the image is closing");
        self.refuse_stalled(&EngineError::Closed);
        self.closing.get_or_insert_default().push(reply);
    }

    fn tick(&mut self) {
        let now = self.now();
        self.transactions.expire(now, &self.shared.config);
        let by = self.full_by(0);
        let by = by.or(self.room.is_awaited().then_some(BufferLimit::Disk));
        let keeps = match by {
            None => return,
            Some(BufferLimit::Memory) if !self.past_fills_memory() => return,
            Some(BufferLimit::Memory) => "what it reads filled the memory",
            Some(_) => "it kept data on the full buffer store",
        };
        if self.transactions.pins_map_before(self.guard.0) {
            self.transactions.abort_oldest(keeps);
        }
    }

    fn has_deadlines(&self) -> bool {
        let dirty = !self.active.is_empty() || !self.sealed.is_empty();
        let waiting = !self.stalled.is_empty() || self.closing.is_some();
        dirty || waiting || !self.transactions.is_empty() || self.schedule.retry_at.is_some()
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
            held_up: self.room.held_up(self.now()),
            publishing: self.publisher.is_none(),
            space: self.schedule.cleaning.space,
            tenure: self.tenure,
            failure: self.failure.clone(),
        }
    }
}
