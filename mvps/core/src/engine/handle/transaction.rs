//! A transaction, as its connection sees it: a pinned view, what it wrote over it, what it read.
//!
//! Nothing of it is known to the image's task but its number and its view until it commits. Calls
//! take effect in the order in which they are first polled.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Mutex, oneshot};

use super::image::Image;
use crate::content::Content;
use crate::engine::buffer::{Change, changes, patched};
use crate::engine::error::EngineError;
use crate::engine::read::{Base, Extent, View};
use crate::engine::reply::{Acknowledge, Origin, TransactionId, unrefused};
use crate::engine::request::{CommitRequest, Event, LockRequest};
use crate::engine::transaction::{Pinned, Writes, Written, change, cost, extents_over, read_over};
use crate::ids::PageSize;

/// An open transaction. Dropping it rolls it back.
pub struct Transaction {
    image: Image,
    origin: Origin,
    id: TransactionId,
    pinned: Arc<Pinned>,
    // Held while one call takes effect: calls of one transaction are ordered, also when a partial
    // write has to wait for the old content of its page.
    order: Mutex<()>,
    ended: bool,
}

impl Transaction {
    pub(super) fn new(
        image: Image,
        origin: Origin,
        id: TransactionId,
        pinned: Arc<Pinned>,
    ) -> Self {
        Self {
            image,
            origin,
            id,
            pinned,
            order: Mutex::default(),
            ended: false,
        }
    }

    /// Reads `length` bytes at `offset`: the transaction's own writes over its view.
    ///
    /// # Errors
    /// [`EngineError::Aborted`], [`EngineError::TransactionTooLarge`], or as a plain read.
    pub async fn read(&self, offset: u64, length: u32) -> Result<Content, EngineError> {
        self.image.check_range(offset, u64::from(length))?;
        let (view, writes) = self.begin_read(offset, u64::from(length)).await?;
        let read = read_over(&view, &writes, offset, length as usize).await;
        self.image.explained(read).await
    }

    /// What of the range has content, or with a `base`, may have other content than the base: the
    /// transaction's own writes over its view. To be told is to read.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn extents(
        &self,
        offset: u64,
        length: u64,
        base: Option<&Base>,
        extents_max: usize,
    ) -> Result<Vec<Extent>, EngineError> {
        self.image.check_range(offset, length)?;
        let (view, writes) = self.begin_read(offset, length).await?;
        let range = offset..offset + length;
        let extents = extents_over(&view, &writes, range, base, extents_max).await;
        self.image.explained(extents).await
    }

    /// Writes `data` at `offset` when the transaction commits.
    ///
    /// # Errors
    /// [`EngineError::Aborted`], [`EngineError::TransactionTooLarge`] (the transaction stays as it
    /// was), or as a plain read, of the page's old content.
    pub async fn write(&self, offset: u64, data: Bytes) -> Result<(), EngineError> {
        let changes = changes::of_write(self.page_size(), offset, &data);
        self.change(offset, data.len() as u64, changes).await
    }

    /// Makes `length` bytes at `offset` zeroes when the transaction commits.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), EngineError> {
        let range = offset..offset.saturating_add(length);
        self.change(
            offset,
            length,
            changes::of_write_zeroes(self.page_size(), range),
        )
        .await
    }

    /// Frees the whole pages within the range when the transaction commits.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn trim(&self, offset: u64, length: u64) -> Result<(), EngineError> {
        let range = offset..offset.saturating_add(length);
        self.change(offset, length, changes::of_trim(self.page_size(), range))
            .await
    }

    /// Takes the image's write lock, first come, first served. When it is granted the transaction
    /// continues on the newest view, on which everything it read is unchanged: its commit cannot
    /// conflict.
    ///
    /// # Errors
    /// [`EngineError::Conflict`]: only a rollback is useful now. [`EngineError::Aborted`].
    pub async fn lock(&self) -> Result<(), EngineError> {
        let _ordered = self.order.lock().await;
        let reads = self.pinned.workspace(|workspace| workspace.reads.clone())?;
        let request = |reply| {
            Event::Lock(LockRequest {
                origin: self.origin.clone(),
                transaction: self.id,
                reads,
                reply,
            })
        };
        // The view that comes back is the one that the task pinned.
        self.image.ask(request).await.map(drop)
    }

    /// Commits: all of it takes effect at once, or nothing.
    ///
    /// # Errors
    /// [`EngineError::Conflict`] or [`EngineError::Aborted`]: the transaction is gone. Otherwise as
    /// a plain write.
    pub async fn commit(mut self, when: Acknowledge) -> Result<(), EngineError> {
        let workspace = self.pinned.workspace(std::mem::take)?;
        self.image
            .slow_down(workspace.writes.reservation.bytes())
            .await;
        let (reply, answer) = oneshot::channel();
        let request = CommitRequest {
            origin: self.origin.clone(),
            transaction: Some((self.id, workspace.reads)),
            changes: workspace
                .writes
                .runs
                .iter()
                .map(|(pages, written)| change(pages, written))
                .collect(),
            old_pages: Vec::new(),
            acknowledge: when,
            reply,
        };
        let sent = self.image.events.send(Event::Commit(request)).await;
        sent.map_err(|_| EngineError::Closed)?;
        self.ended = true;
        unrefused(answer.await)
    }

    fn page_size(&self) -> PageSize {
        self.image.page_size()
    }

    /// What a read of the range, which is noted, goes through: the view, and the writes over it.
    async fn begin_read(
        &self,
        offset: u64,
        length: u64,
    ) -> Result<(Arc<View>, Writes), EngineError> {
        let _ordered = self.order.lock().await;
        let view = self.pinned.view()?;
        self.note_read(&view, offset, length)?;
        let writes = self
            .pinned
            .workspace(|workspace| workspace.writes.clone())?;
        Ok((view, writes))
    }

    fn note_read(&self, view: &View, offset: u64, length: u64) -> Result<(), EngineError> {
        if length == 0 {
            return Ok(());
        }
        let last = view.page_size.page_of(offset + length - 1);
        let pages = view.page_size.page_of(offset)..last.next();
        let reads_max = self.image.shared.config.transaction_reads_max;
        self.pinned.workspace(|workspace| {
            // Only what the view answers can conflict, not the transaction's own writes.
            let unwritten: Vec<_> = workspace
                .writes
                .runs
                .runs(pages)
                .filter(|run| run.value.is_none())
                .map(|run| run.first..run.end())
                .collect();
            for pages in unwritten {
                workspace.reads.insert(pages, ());
            }
            if workspace.reads.len() > reads_max {
                return Err(EngineError::TransactionTooLarge {
                    limit: "ranges read",
                });
            }
            Ok(())
        })?
    }

    async fn change(
        &self,
        offset: u64,
        length: u64,
        changes: Vec<Change>,
    ) -> Result<(), EngineError> {
        self.image.check_range(offset, length)?;
        let _ordered = self.order.lock().await;
        let view = self.pinned.view()?;
        let page_size = self.page_size();
        let limit = self.image.shared.config.transaction_bytes_max;
        let bytes: u64 = changes.iter().map(|change| cost(change, page_size)).sum();
        let writes = self
            .pinned
            .workspace(|workspace| workspace.writes.clone())?;
        if writes.reservation.bytes() + bytes > limit {
            return Err(EngineError::TransactionTooLarge {
                limit: "bytes written",
            });
        }
        // Old content first, changes last: a read that fails leaves the transaction as it was.
        let mut resolved = Vec::with_capacity(changes.len());
        for change in changes {
            let pages = change.pages(page_size);
            let written = match change {
                Change::Pages { data, .. } => Written::data(data, page_size),
                Change::Hole { .. } => Written::Hole,
                Change::Patch {
                    page,
                    offset: within,
                    data,
                } => {
                    let start = page_size.offset_of(page);
                    let size = page_size.bytes();
                    self.note_read(&view, start, size as u64)?;
                    let old = read_over(&view, &writes, start, size).await;
                    let old = self.image.explained(old).await?;
                    Written::data(patched(&old.into_bytes(), within, &data), page_size)
                }
            };
            resolved.push((pages, written));
        }
        let budget = &self.image.shared.transaction_budget;
        self.pinned.workspace(|workspace| {
            if !workspace.writes.reservation.grow(budget, bytes) {
                return Err(EngineError::TransactionTooLarge {
                    limit: "bytes written by all open transactions",
                });
            }
            for (pages, written) in resolved {
                workspace.writes.runs.insert(pages, written);
            }
            Ok(())
        })?
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        self.pinned.end("the transaction has ended");
        if self.ended {
            return;
        }
        // The usual case is an event queue with room. If it is full, ending the view's pin and the
        // lock must still reach the task, so a task of its own delivers it.
        let end = Event::End(self.id);
        if let Err(tokio::sync::mpsc::error::TrySendError::Full(end)) =
            self.image.events.try_send(end)
        {
            let events = self.image.events.clone();
            let deliver = Box::pin(async move {
                // A closed image has no transactions.
                let _ = events.send(end).await;
            });
            self.image
                .shared
                .environment
                .spawner
                .spawn("end transaction", deliver);
        }
    }
}
