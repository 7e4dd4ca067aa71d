//! A transaction, as its connection sees it: a pinned view, what it wrote over it, what it read.
//!
//! Nothing of it is known to the image's task but its number and its view until it commits. Calls
//! take effect in the order in which they are first polled.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Mutex, oneshot};

use super::bases::Base;
use super::changes::{self, Change, patched};
use super::error::EngineError;
use super::event::{Acknowledge, CommitRequest, Event, LockRequest};
use super::extents::Extent;
use super::image::{Attachment, unrefused};
use super::range_map::{Advance, RangeMap};
use super::transaction_room::TakenRoom;
use super::transactions::{Pinned, TransactionId};
use super::view::View;
use crate::content::{Content, ContentPiece};
use crate::ids::{PageNumber, PageSize};

/// Content that the transaction gave to a run of pages.
#[derive(Debug, Clone)]
enum Written {
    Data {
        /// From the first of the pages on.
        data: Bytes,
        page_size: PageSize,
        /// What `data` keeps in memory: all that the client wrote at once.
        kept_bytes: usize,
    },
    Hole,
}

impl Advance for Written {
    fn advance(&self, pages: u64) -> Self {
        match self {
            Self::Hole => Self::Hole,
            Self::Data {
                data,
                page_size,
                kept_bytes,
            } => {
                let skip = usize::try_from(pages << page_size.bits()).expect("within the data");
                Self::Data {
                    data: data.slice(skip..),
                    page_size: *page_size,
                    kept_bytes: *kept_bytes,
                }
            }
        }
    }
}

impl Written {
    fn data(data: Bytes, page_size: PageSize) -> Self {
        Self::Data {
            kept_bytes: data.len(),
            data,
            page_size,
        }
    }
}

/// What a transaction wrote. A read takes a clone along, which keeps it in memory for as long as the read
/// goes on, and so keeps its room, too.
#[derive(Clone, Default)]
struct Writes {
    runs: RangeMap<Written>,
    /// What it has of the room for the bytes that transactions write.
    room: Arc<TakenRoom>,
}

/// What a transaction read and wrote.
#[derive(Default)]
pub(super) struct Workspace {
    writes: Writes,
    reads: RangeMap<()>,
}

/// An open transaction. Dropping it rolls it back.
pub struct Transaction {
    attachment: Attachment,
    id: TransactionId,
    pinned: Arc<Pinned>,
    // Held while one call takes effect: calls of one transaction are ordered, also when a partial
    // write has to wait for the old content of its page.
    order: Mutex<()>,
    ended: bool,
}

impl Transaction {
    pub(super) fn new(attachment: Attachment, id: TransactionId, pinned: Arc<Pinned>) -> Self {
        Self {
            attachment,
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
        self.attachment
            .image
            .check_range(offset, u64::from(length))?;
        let (view, writes) = self.begin_read(offset, u64::from(length)).await?;
        let read = read_over(&view, &writes, offset, length as usize).await;
        self.attachment.image.explained(read).await
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
        self.attachment.image.check_range(offset, length)?;
        let (view, writes) = self.begin_read(offset, length).await?;
        let range = offset..offset + length;
        let extents = extents_over(&view, &writes, range, base, extents_max).await;
        self.attachment.image.explained(extents).await
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
                origin: self.attachment.origin.clone(),
                transaction: self.id,
                reads,
                reply,
            })
        };
        // The view that comes back is the one that the task pinned.
        self.attachment.image.ask(request).await.map(drop)
    }

    /// Commits: all of it takes effect at once, or nothing.
    ///
    /// # Errors
    /// [`EngineError::Conflict`] or [`EngineError::Aborted`]: the transaction is gone. Otherwise as
    /// a plain write.
    pub async fn commit(mut self, when: Acknowledge) -> Result<(), EngineError> {
        let workspace = self.pinned.workspace(std::mem::take)?;
        self.attachment
            .image
            .slow_down(workspace.writes.room.bytes())
            .await;
        let (reply, answer) = oneshot::channel();
        let request = CommitRequest {
            origin: self.attachment.origin.clone(),
            transaction: Some((self.id, workspace.reads)),
            changes: workspace
                .writes
                .runs
                .iter()
                .map(|(pages, written)| change(pages, written))
                .collect(),
            bases: Vec::new(),
            acknowledge: when,
            reply,
        };
        let sent = self
            .attachment
            .image
            .events
            .send(Event::Commit(request))
            .await;
        sent.map_err(|_| EngineError::Closed)?;
        self.ended = true;
        unrefused(answer.await)
    }

    fn page_size(&self) -> PageSize {
        self.attachment.image.page_size()
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
        let reads_max = self.attachment.image.shared.config.transaction_reads_max;
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
        self.attachment.image.check_range(offset, length)?;
        let _ordered = self.order.lock().await;
        let view = self.pinned.view()?;
        let page_size = self.page_size();
        let limit = self.attachment.image.shared.config.transaction_bytes_max;
        let bytes: u64 = changes.iter().map(|change| cost(change, page_size)).sum();
        let writes = self
            .pinned
            .workspace(|workspace| workspace.writes.clone())?;
        if writes.room.bytes() + bytes > limit {
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
                    let old = self.attachment.image.explained(old).await?;
                    Written::data(patched(&old.into_bytes(), within, &data), page_size)
                }
            };
            resolved.push((pages, written));
        }
        let room = &self.attachment.image.shared.transaction_room;
        self.pinned.workspace(|workspace| {
            if !workspace.writes.room.grow(room, bytes) {
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
            self.attachment.image.events.try_send(end)
        {
            let events = self.attachment.image.events.clone();
            let deliver = Box::pin(async move {
                // A closed image has no transactions.
                let _ = events.send(end).await;
            });
            self.attachment
                .image
                .shared
                .environment
                .spawner
                .spawn("end transaction", deliver);
        }
    }
}

/// What a change counts towards the transaction's limit of written bytes.
fn cost(change: &Change, page_size: PageSize) -> u64 {
    match change {
        Change::Pages { data, .. } => data.len() as u64,
        Change::Patch { .. } => page_size.bytes() as u64,
        Change::Hole { .. } => super::buffer_index::RECORD_OVERHEAD_BYTES,
    }
}

fn change(pages: Range<PageNumber>, written: &Written) -> Change {
    match written {
        Written::Hole => Change::Hole { pages },
        Written::Data {
            data,
            page_size,
            kept_bytes,
        } => {
            let length = usize::try_from((pages.end.0 - pages.start.0) << page_size.bits());
            let mut data = data.slice(..length.expect("within the data"));
            // The buffer keeps it for long, and counts what is written, not what that keeps alive.
            if data.len() < kept_bytes / 2 {
                data = Bytes::copy_from_slice(&data);
            }
            Change::Pages {
                first: pages.start,
                data,
            }
        }
    }
}

/// Reads `writes` over `view`.
async fn read_over(
    view: &View,
    Writes { runs, .. }: &Writes,
    offset: u64,
    length: usize,
) -> Result<Content, EngineError> {
    if runs.is_empty() || length == 0 {
        return view.read(offset, length).await;
    }
    let page_size = view.page_size;
    let end = offset + length as u64;
    let mut pieces = Vec::new();
    for run in runs.runs(page_size.page_of(offset)..page_size.page_of(end - 1).next()) {
        let start = page_size.offset_of(run.first);
        let from = offset.max(start);
        let to = end.min(page_size.offset_of(run.end()));
        let bytes = usize::try_from(to - from).expect("a request fits memory");
        match run.value {
            None => pieces.extend(view.read(from, bytes).await?.pieces),
            Some(Written::Data { data, .. }) => {
                let skip = usize::try_from(from - start).expect("within the data");
                pieces.push(ContentPiece::Data(data.slice(skip..skip + bytes)));
            }
            Some(Written::Hole) => pieces.push(ContentPiece::Hole(bytes)),
        }
    }
    Ok(Content { pieces })
}

/// The extents of `writes` over `view`.
async fn extents_over(
    view: &View,
    Writes { runs, .. }: &Writes,
    range: Range<u64>,
    base: Option<&Base>,
    extents_max: usize,
) -> Result<Vec<Extent>, EngineError> {
    let page_size = view.page_size;
    let pages = page_size.page_of(range.start)..page_size.page_of(range.end - 1).next();
    let mut extents: Vec<Extent> = Vec::new();
    for run in runs.runs(pages) {
        let from = range.start.max(page_size.offset_of(run.first));
        let to = range.end.min(page_size.offset_of(run.end()));
        // Its own holes are changes, too: what the base has there, nobody asks.
        let is_set = match &run.value {
            None => None,
            Some(Written::Data { .. }) => Some(true),
            Some(Written::Hole) => Some(base.is_some()),
        };
        let found = match is_set {
            None => view.extents(from..to, base, extents_max).await?,
            Some(is_set) => vec![Extent {
                length_bytes: to - from,
                is_set,
            }],
        };
        let seen: u64 = found.iter().map(|extent| extent.length_bytes).sum();
        for extent in found {
            let is_full = extents.len() == extents_max;
            match extents.last_mut() {
                Some(last) if last.is_set == extent.is_set => {
                    last.length_bytes += extent.length_bytes;
                }
                _ if is_full => return Ok(extents),
                _ => extents.push(extent),
            }
        }
        if seen < to - from {
            break;
        }
    }
    Ok(extents)
}
