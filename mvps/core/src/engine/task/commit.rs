//! What a commit does: from a request's changes to records in the buffer store and a new view.
//!
//! Commits of one group share a buffer batch; each has its own LSN. A commit sees the earlier
//! commits of its group, also for the old content that a patch needs and for conflicts.
//!
//! Invariants: commits take effect in the order of their LSNs; a request waits (for the lock, for
//! room) or is composed as a whole; a revoked connection's request is never composed.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::stalled::Stalled;
use super::state::ImageTask;
use crate::content::zeroes;
use crate::engine::buffer::{Change, patched};
use crate::engine::error::EngineError;
use crate::engine::read::{OldPage, buffered_page};
use crate::engine::reply::{Acknowledge, CommitRefusal, answer};
use crate::engine::request::{CommitRequest, LockRequest};
use crate::env::{
    BufferBatch, BufferError, BufferRecord, PageRun, RECORD_MAX_BYTES, RecordRef, let_others_run,
};
use crate::ids::{Lsn, PageNumber, PageSize};

const REVOKED: EngineError = EngineError::Aborted {
    reason: "the connection was replaced",
};

/// Commits on their way into one buffer batch.
#[derive(Default)]
pub(super) struct Group {
    records: Vec<BufferRecord>,
    /// The commits, in order of LSNs.
    waiting: Vec<(Lsn, CommitRequest)>,
    /// The last LSN given out in this group.
    last_lsn: Option<Lsn>,
    /// Bytes of the records' content.
    pub(super) bytes: usize,
}

impl ImageTask {
    /// Composes a request into the group, or lets it wait, or refuses it.
    pub(super) fn submit(&mut self, request: Stalled, group: &mut Group) {
        if let Some(request) = self.admit(request, group) {
            self.stall(request);
        }
    }

    /// Composes a request into the group or refuses it; returns it if it has to wait.
    fn admit(&mut self, request: Stalled, group: &mut Group) -> Option<Stalled> {
        if let Some(error) = self.refusal() {
            request.refuse(error);
        } else if request.is_revoked() {
            request.refuse(REVOKED);
        } else if self.must_wait(&request, !self.stalled.is_empty(), group) {
            return Some(request);
        } else {
            self.grant(request, group);
        }
        None
    }

    /// Lets a request wait. Those that nobody waits for any more are forgotten when what was added
    /// since the last time takes much memory: their connections have given their room back, and come
    /// again.
    fn stall(&mut self, request: Stalled) {
        self.stalled_bytes += request.bytes();
        self.stalled.push_back(request);
        if self.stalled_bytes >= self.config().limits.stalled_sweep_bytes {
            self.stalled_bytes = 0;
            self.stalled.retain(|request| !request.is_abandoned());
        }
    }

    /// Whether `request` has to wait, given whether others wait before it and what the group takes
    /// already. The holder of the lock overtakes whoever waits for the lock; nobody overtakes for
    /// room.
    fn must_wait(&self, request: &Stalled, others_wait: bool, group: &Group) -> bool {
        let stopped = self.rollback.is_active() || self.room.is_awaited();
        match request {
            Stalled::Lock(request) => {
                // Who waits for a lock that it holds itself waits until it is broken.
                let holds_lock = self.transactions.holds_lock(request.transaction);
                stopped
                    || (!holds_lock && (others_wait || self.transactions.is_locked_against(None)))
            }
            Stalled::Commit(request) => {
                let by = request.transaction.as_ref().map(|(id, _)| *id);
                if by.is_some_and(|id| !self.transactions.is_open(id)) {
                    // It was aborted: told so at once, whoever holds the lock.
                    return false;
                }
                let holds_lock = by.is_some_and(|id| self.transactions.holds_lock(id));
                stopped
                    || (others_wait && !holds_lock)
                    || self.transactions.is_locked_against(by)
                    || (self.is_full(group.bytes)
                        && !crate::mutant::is("a full buffer takes writes"))
            }
        }
    }

    fn grant(&mut self, request: Stalled, group: &mut Group) {
        match request {
            Stalled::Commit(request) => self.compose(request, group),
            Stalled::Lock(request) => self.lock(request, group),
        }
    }

    /// Gives those who wait their turn, as far as it goes.
    pub(super) async fn resume_stalled(&mut self) {
        if self.stalled.is_empty() {
            self.room.nobody_waits();
        }
        let now = self.now();
        if self.room.forbids_commits(now) || self.stalled.is_empty() {
            return;
        }
        let mut group = Group::default();
        let mut waiting = std::mem::take(&mut self.stalled);
        while let Some(request) = waiting.pop_front() {
            // A lock continues on the newest view: what was composed so far must be in it. What was
            // committed may have taken the room.
            if matches!(request, Stalled::Lock(_)) || group.bytes >= RECORD_MAX_BYTES {
                self.commit(&mut group).await;
            }
            let waits = self.admit(request, &mut group);
            self.stalled.extend(waits);
        }
        self.commit(&mut group).await;
        let next = self.stalled.front().map(Stalled::bytes);
        if let Some(by) = next.and_then(|bytes| self.full_by(bytes)) {
            self.note_held_up(by, "writes wait");
        }
    }

    pub(super) fn refuse_revoked(&mut self) {
        let (revoked, kept) = std::mem::take(&mut self.stalled)
            .into_iter()
            .partition::<Vec<_>, _>(|request| request.is_revoked());
        self.stalled = kept.into();
        for request in revoked {
            request.refuse(REVOKED);
        }
    }

    fn lock(&mut self, request: LockRequest, group: &Group) {
        assert!(
            group.records.is_empty(),
            "a lock continues on a view of every commit before it"
        );
        let LockRequest {
            transaction,
            reads,
            reply,
            ..
        } = request;
        if reply.is_closed() {
            // Nobody would ever use the lock, or release it before its time-out.
            return;
        }
        match self.transactions.check(transaction, &reads) {
            Err(error) => answer(reply, Err(error)),
            // Nobody committed since it was granted: the view is the newest.
            Ok(()) if self.transactions.holds_lock(transaction) => {
                answer(reply, Ok(Arc::clone(&self.views.borrow())));
            }
            Ok(()) => {
                let view = Arc::clone(&self.views.borrow());
                let now = self.now();
                self.transactions.grant(transaction, Arc::clone(&view), now);
                answer(reply, Ok(view));
            }
        }
    }

    fn compose(&mut self, mut request: CommitRequest, group: &mut Group) {
        if let Some((id, reads)) = request.transaction.take() {
            let checked = self.transactions.check(id, &reads);
            // Committed or in conflict, the transaction is over.
            self.transactions.end(id);
            if let Err(error) = checked {
                answer(request.reply, Err(CommitRefusal::Failed(error)));
                return;
            }
        }
        let before = group.last_lsn.unwrap_or(self.lsn);
        if request.changes.is_empty() {
            group.waiting.push((before, request));
            return;
        }
        let lsn = before.next();
        let composed = group.records.len();
        match self.records(&request, lsn, group) {
            Err(refusal) => {
                group.records.truncate(composed);
                answer(request.reply, Err(refusal));
            }
            Ok(()) => {
                let page_size = self.shared.page_size;
                for record in &group.records[composed..] {
                    let hole = matches!(record.run, PageRun::Hole { .. });
                    if !(hole && crate::mutant::is("conflict check skipped for trimmed pages")) {
                        self.transactions
                            .committed(pages_of(record, page_size), lsn);
                    }
                    if let PageRun::Data(data) = &record.run {
                        group.bytes += data.len();
                    }
                }
                group.last_lsn = Some(lsn);
                group.waiting.push((lsn, request));
            }
        }
    }

    /// Appends the records of one commit to the group.
    fn records(
        &self,
        request: &CommitRequest,
        lsn: Lsn,
        group: &mut Group,
    ) -> Result<(), CommitRefusal> {
        let page_size = self.shared.page_size;
        for change in &request.changes {
            match change {
                Change::Hole { pages } => group.records.push(BufferRecord {
                    at: RecordRef {
                        first: pages.start,
                        lsn,
                    },
                    run: PageRun::Hole {
                        pages: pages.end.0 - pages.start.0,
                    },
                }),
                Change::Pages { first, data } => {
                    for (index, from) in (0..data.len()).step_by(RECORD_MAX_BYTES).enumerate() {
                        let pages = (index * (RECORD_MAX_BYTES >> page_size.bits())) as u64;
                        let end = data.len().min(from + RECORD_MAX_BYTES);
                        group.records.push(BufferRecord {
                            at: RecordRef {
                                first: PageNumber(first.0 + pages),
                                lsn,
                            },
                            run: PageRun::Data(data.slice(from..end)),
                        });
                    }
                }
                Change::Patch { page, offset, data } => {
                    let old = self.current_page(*page, &request.old_pages, &group.records)?;
                    let data = patched(&old, *offset, data);
                    group.records.push(BufferRecord {
                        at: RecordRef { first: *page, lsn },
                        run: PageRun::Data(data),
                    });
                }
            }
        }
        Ok(())
    }

    /// What `page` holds after these records of a group.
    fn current_page(
        &self,
        page: PageNumber,
        old_pages: &[OldPage],
        records: &[BufferRecord],
    ) -> Result<Bytes, CommitRefusal> {
        let page_size = self.shared.page_size;
        let newest = records.iter().rev();
        for record in newest {
            let pages = pages_of(record, page_size);
            if !pages.contains(&page) {
                continue;
            }
            return Ok(match &record.run {
                PageRun::Hole { .. } => zeroes(page_size.bytes()),
                PageRun::Data(data) => {
                    let from = usize::try_from((page.0 - pages.start.0) << page_size.bits())
                        .expect("within the record");
                    data.slice(from..from + page_size.bytes())
                }
            });
        }
        let generations = std::iter::once(&self.active).chain(self.sealed.iter().rev());
        if let Some(content) =
            buffered_page(generations, page, page_size).map_err(CommitRefusal::Failed)?
        {
            return Ok(content);
        }
        // Nothing of it is buffered, so it has not changed since the current map was made.
        let current =
            |old: &OldPage| old.map == self.guard.0 || crate::mutant::is("stale old page accepted");
        let mut old_pages = old_pages.iter();
        let old = old_pages.find(|old| old.page == page && current(old));
        old.map(|old| old.content.clone())
            .ok_or(CommitRefusal::StaleOldPage)
    }

    /// Commits the group to the buffer store, publishes the view that has it, and settles with
    /// those who wait. The group is empty afterwards.
    pub(super) async fn commit(&mut self, group: &mut Group) {
        let Group {
            records,
            waiting,
            last_lsn,
            bytes,
        } = std::mem::take(group);
        if let Some(last_lsn) = last_lsn {
            let page_size = self.shared.page_size;
            let batch = BufferBatch {
                last_lsn,
                records: records.clone(),
            };
            let early = crate::mutant::is("view published before the buffer commit");
            if early {
                for record in &records {
                    self.active.apply(record, page_size);
                }
                self.publish_view();
            }
            let failed = self.buffer.commit(batch).await.err();
            let failed = failed.filter(|_| !crate::mutant::is("failed commit answered as success"));
            if let Some(error) = failed {
                let requests = waiting.into_iter().map(|(_, request)| request);
                if let BufferError::Full { reason } = &error {
                    self.wait_for_room(requests.collect(), reason);
                    return;
                }
                let error = EngineError::from(error);
                self.fail(error.clone());
                for request in requests {
                    answer(request.reply, Err(CommitRefusal::Failed(error.clone())));
                }
                return;
            }
            self.found_room();
            if !early {
                for record in &records {
                    self.active.apply(record, page_size);
                }
            }
            self.lsn = last_lsn;
            self.schedule
                .dirty_since
                .get_or_insert(self.shared.environment.clock.now());
            self.publish_view();
        }
        for (lsn, request) in waiting {
            match request.acknowledge {
                Acknowledge::Buffered => self.release(request.reply),
                Acknowledge::Durable(durability) => self.settle(request.reply, durability, lsn),
            }
        }
        if bytes >= self.config().limits.large_group_bytes {
            let_others_run().await;
        }
    }
}

fn pages_of(record: &BufferRecord, page_size: PageSize) -> Range<PageNumber> {
    let pages = match &record.run {
        PageRun::Hole { pages } => *pages,
        PageRun::Data(data) => (data.len() >> page_size.bits()) as u64,
    };
    record.at.first..PageNumber(record.at.first.0 + pages)
}
