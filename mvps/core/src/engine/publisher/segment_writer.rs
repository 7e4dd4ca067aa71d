//! Writes a checkpoint's pages into segments.
//!
//! Job: take pages and holes in page order, leave out pages of zeroes, pack the others into
//! frames, encode the frames off the caller's task, a batch at a time, and stream them to object
//! storage; begin another segment where one is long enough.
//!
//! Invariants: frames reach a segment in page order. Memory is bounded: one batch being filled,
//! [`BATCHES_IN_FLIGHT_MAX`] being encoded, and the upload's parts. Must never publish: an object
//! that no manifest names does not exist, so a writer may be dropped at any point.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::encryption::{ImageKeys, SegmentKey};
use crate::engine::limits::Limits;
use crate::engine::read::DiskPieces;
use crate::env::{Spawner, StoreError};
use crate::format::codec::ObjectSeed;
use crate::format::frame::FrameEncoder;
use crate::format::manifest::{ByteSpan, SegmentEntry, SegmentId};
use crate::format::object_name::ObjectName;
use crate::format::segment::{PageSpan, SegmentFooter, SegmentHeader, SegmentIndex};
use crate::ids::{PageNumber, PageSize};
use crate::store::{PARTS_IN_FLIGHT_MAX, RetryingStore, UploadWriter};

mod batch;

use batch::{Batch, EncodedBatch};

/// zstd's level for frames, unless configured: fast enough to keep up with an upload.
pub const COMPRESSION_LEVEL: i32 = 1;

/// Batches that are being encoded or wait to be uploaded: enough to use a few cores.
const BATCHES_IN_FLIGHT_MAX: usize = 4;

/// What a writer of so much content holds in memory at most.
pub(super) fn memory_bytes(limits: &Limits, part_bytes: usize, content_bytes: u64) -> u64 {
    // Content, and what it is encoded to; and the batch that is being filled.
    let batches = (2 * BATCHES_IN_FLIGHT_MAX + 1) * limits.segment_batch_bytes;
    let parts = (PARTS_IN_FLIGHT_MAX + 1) * part_bytes;
    (3 * content_bytes).min((batches + parts) as u64)
}

/// What segments are like.
#[derive(Debug, Clone)]
pub struct SegmentSettings {
    /// Size of the image's pages.
    pub page_size: PageSize,
    /// zstd's level; `None` stores everything as it is.
    pub compression_level: Option<i32>,
    /// Content after which another segment begins: see [`Limits::segment_content_bytes`].
    pub content_limit_bytes: u64,
    /// Content that is encoded together: see [`Limits::segment_batch_bytes`].
    pub batch_bytes: usize,
    /// What segments are sealed with.
    pub keys: Arc<ImageKeys>,
}

impl SegmentSettings {
    /// The defaults for this page size within these limits.
    #[must_use]
    pub fn new(page_size: PageSize, limits: &Limits) -> Self {
        Self {
            page_size,
            compression_level: Some(COMPRESSION_LEVEL),
            content_limit_bytes: limits.segment_content_bytes,
            batch_bytes: limits.segment_batch_bytes,
            keys: Arc::default(),
        }
    }
}

/// A segment that is complete in object storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenSegment {
    /// Its object.
    pub name: ObjectName,
    /// The object's size.
    pub size_bytes: u64,
    /// Where its index is.
    pub span: ByteSpan,
    /// Its index: what [`crate::engine::read::with_segment`] applies.
    pub index: SegmentIndex,
}

impl WrittenSegment {
    /// The segment's entry in a manifest, before the first map compaction.
    #[must_use]
    pub fn entry(&self, id: SegmentId) -> SegmentEntry {
        let pages = u32::try_from(self.index.pages()).expect("a segment's pages fit 4 GiB");
        SegmentEntry {
            id,
            name: self.name.clone(),
            size_bytes: self.size_bytes,
            index: self.span,
            pages,
            live_pages: pages,
        }
    }
}

/// Makes the names of new segments: of the writer's epoch, each with a new sequence number.
pub type SegmentNames = Box<dyn FnMut() -> ObjectName + Send>;

/// Writes pages into segments and uploads them while they are being written.
pub struct SegmentWriter {
    store: RetryingStore,
    spawner: Arc<dyn Spawner>,
    settings: SegmentSettings,
    names: SegmentNames,
    disk: DiskPieces,
    /// Pages and holes below this one have been taken.
    next_page: PageNumber,
    filling: Batch,
    open: Option<OpenSegment>,
    encoders: Vec<FrameEncoder>,
    written: Vec<WrittenSegment>,
}

impl SegmentWriter {
    /// A writer that has written nothing. Every segment takes its name when its first page or hole
    /// arrives.
    #[must_use]
    pub fn new(
        store: RetryingStore,
        spawner: Arc<dyn Spawner>,
        settings: SegmentSettings,
        names: SegmentNames,
    ) -> Self {
        Self {
            store,
            spawner,
            settings,
            names,
            disk: DiskPieces::default(),
            next_page: PageNumber(0),
            filling: Batch::default(),
            open: None,
            encoders: Vec::new(),
            written: Vec::new(),
        }
    }

    /// The same, which hands every frame to a cache on the local disk, too.
    #[must_use]
    pub fn filling(self, disk: DiskPieces) -> Self {
        Self { disk, ..self }
    }

    /// Takes the content of consecutive pages, which lie above everything taken before.
    ///
    /// # Errors
    /// As the store. The writer is of no use afterwards.
    ///
    /// # Panics
    /// If `data` is not whole pages, or the order is wrong.
    pub async fn pages(&mut self, first: PageNumber, data: Bytes) -> Result<(), StoreError> {
        let page_bytes = self.settings.page_size.bytes();
        let batch_bytes = self.settings.batch_bytes;
        assert_eq!(data.len() % page_bytes, 0, "whole pages");
        let mut next = first;
        let mut rest = data;
        while !rest.is_empty() {
            let room = (batch_bytes.saturating_sub(self.filling.content_bytes())).max(page_bytes);
            let taken = rest.split_to(rest.len().min(room - room % page_bytes));
            let count = (taken.len() / page_bytes) as u64;
            self.advance(PageSpan {
                first: next,
                pages: count,
            });
            self.filling.push(next, taken);
            next = PageNumber(next.0 + count);
            if self.filling.content_bytes() >= batch_bytes {
                self.send_batch().await?;
            }
        }
        Ok(())
    }

    /// Takes a hole: pages that read as zeroes, which lie above everything taken before.
    ///
    /// # Errors
    /// As the store.
    ///
    /// # Panics
    /// If the order is wrong.
    pub async fn hole(&mut self, span: PageSpan) -> Result<(), StoreError> {
        if span.pages > 0 {
            self.advance(span);
            self.open_segment().await?.holes.push(span);
        }
        Ok(())
    }

    /// Completes the last segment; all of them, in page order. None if nothing was taken.
    ///
    /// # Errors
    /// As the store. Nothing of what was uploaded may be used then.
    pub async fn finish(mut self) -> Result<Vec<WrittenSegment>, StoreError> {
        self.send_batch().await?;
        self.close_segment().await?;
        Ok(self.written)
    }

    fn advance(&mut self, span: PageSpan) {
        assert!(span.first >= self.next_page, "pages and holes ascend");
        self.next_page = span.end();
    }

    /// Starts to encode what has been taken, and uploads what is encoded.
    async fn send_batch(&mut self) -> Result<(), StoreError> {
        if self.filling.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.filling);
        let full = self.open.as_ref().is_some_and(|segment| {
            segment.content_bytes + batch.content_bytes() as u64 > self.settings.content_limit_bytes
        });
        if full {
            self.close_segment().await?;
            if crate::mutant::is("what begins a second segment is lost") {
                return Ok(());
            }
        }
        self.open_segment().await?;
        let level = self.settings.compression_level;
        let encoder = self
            .encoders
            .pop()
            .unwrap_or_else(|| FrameEncoder::new(level));
        let page_size = self.settings.page_size;
        let segment = self.open.as_mut().expect("it was opened just now");
        segment.content_bytes += batch.content_bytes() as u64;
        let (seed, key) = (segment.seed, segment.key.clone());
        let (sender, receiver) = oneshot::channel();
        self.spawner.compute(Box::new(move || {
            // A writer that is gone no longer wants the frames.
            let _ = sender.send(batch.encode(encoder, seed, page_size, key.as_ref()));
        }));
        segment.in_flight.push_back(receiver);
        if segment.in_flight.len() >= BATCHES_IN_FLIGHT_MAX {
            self.encoders.extend(segment.upload_oldest().await?);
        }
        Ok(())
    }

    async fn open_segment(&mut self) -> Result<&mut OpenSegment, StoreError> {
        let segment = match self.open.take() {
            Some(segment) => segment,
            None => {
                let name = (self.names)();
                let (store, spawner) = (self.store.clone(), Arc::clone(&self.spawner));
                let upload = UploadWriter::new(store, spawner, name.key());
                OpenSegment::begin(name, upload, &self.settings, self.disk.clone()).await?
            }
        };
        Ok(self.open.insert(segment))
    }

    async fn close_segment(&mut self) -> Result<(), StoreError> {
        let Some(mut segment) = self.open.take() else {
            return Ok(());
        };
        while !segment.in_flight.is_empty() {
            self.encoders.extend(segment.upload_oldest().await?);
        }
        self.written.push(segment.finish().await?);
        Ok(())
    }
}

/// The segment being written.
struct OpenSegment {
    name: ObjectName,
    seed: ObjectSeed,
    /// Derived from this name, which no segment had before and none gets again.
    key: Option<SegmentKey>,
    upload: UploadWriter,
    disk: DiskPieces,
    /// Content taken, before compression.
    content_bytes: u64,
    /// Oldest first.
    in_flight: VecDeque<oneshot::Receiver<EncodedBatch>>,
    index: SegmentIndex,
    /// Holes that were given as such; those of the batches are found while encoding.
    holes: Vec<PageSpan>,
}

impl OpenSegment {
    async fn begin(
        name: ObjectName,
        mut upload: UploadWriter,
        settings: &SegmentSettings,
        disk: DiskPieces,
    ) -> Result<Self, StoreError> {
        let (seed, page_size) = (name.seed(), settings.page_size);
        upload
            .write(SegmentHeader { page_size }.encode(seed))
            .await?;
        Ok(Self {
            key: name.segment_key(&settings.keys),
            name,
            seed,
            upload,
            disk,
            content_bytes: 0,
            in_flight: VecDeque::new(),
            index: SegmentIndex::default(),
            holes: Vec::new(),
        })
    }

    /// Waits for the oldest batch and uploads it; returns its encoder, if there was a batch.
    async fn upload_oldest(&mut self) -> Result<Option<FrameEncoder>, StoreError> {
        let Some(oldest) = self.in_flight.front_mut() else {
            return Ok(None);
        };
        // A computation ends without a result only when the runtime is being shut down.
        let encoded = oldest.await.map_err(|_| StoreError::Unavailable {
            reason: "the process is ending".to_owned(),
        })?;
        self.in_flight.pop_front();
        let start = u32::try_from(self.upload.position());
        let start = start.expect("the content limit keeps offsets within 32 bits");
        for mut frame in encoded.frames {
            let from = frame.offset as usize;
            let stored = from..from + frame.stored_bytes as usize;
            frame.offset += start;
            // Now, as the bytes are in memory now. If the upload fails no manifest will ever name
            // the object: nobody asks for its frames, and they go with their slab.
            let key = self.name.piece_key(u64::from(frame.offset));
            self.disk.put(key, encoded.bytes.slice(stored));
            self.index.frames.push(frame);
        }
        self.holes.extend(encoded.zero_pages);
        self.upload.write(encoded.bytes).await?;
        Ok(Some(encoded.encoder))
    }

    async fn finish(mut self) -> Result<WrittenSegment, StoreError> {
        self.index.holes = batch::joined(self.holes);
        let record = self.index.encode(self.seed);
        let span = ByteSpan {
            offset: self.upload.position(),
            bytes: u32::try_from(record.len()).expect("an index is shorter than 4 GiB"),
        };
        self.upload.write(record).await?;
        self.upload
            .write(SegmentFooter { index: span }.encode(self.seed))
            .await?;
        let size_bytes = self.upload.finish().await?;
        Ok(WrittenSegment {
            name: self.name,
            size_bytes,
            span,
            index: self.index,
        })
    }
}

#[cfg(test)]
mod tests;
