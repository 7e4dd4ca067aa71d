//! The write buffer of one image: where acknowledged commits wait for their checkpoint.
//!
//! A buffer store is an append-only set of *records*, grouped in generations. A record holds a run
//! of consecutive pages (or a hole: a run of pages that read as zeroes) as of one LSN; it never
//! changes until its whole generation is dropped. Snapshot reads follow from that: whoever holds a
//! [`BufferHandle`] and knows which records are the newest has a repeatable view. The engine keeps
//! that knowledge in memory (`engine::buffer`) and rebuilds it from [`Recovered`].

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::files::DiskSpace;
use crate::ids::{Generation, ImageId, Lsn, PageNumber};

/// Content is checksummed in units of this many bytes, the smallest page size; reads are aligned
/// to it.
pub const CHECKSUM_UNIT_BYTES: usize = 4096;

/// Largest content of one record. Longer runs are split by the engine; larger values would make
/// reads of a part of a record dearer without making commits cheaper.
pub const RECORD_MAX_BYTES: usize = 128 * 1024;

/// What went wrong, by what the caller does next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BufferError {
    /// Another process holds this buffer store. Refuse to open.
    #[error("the buffer store {path} is in use by another process")]
    Locked {
        /// Where it is.
        path: String,
    },
    /// The disk is full, or the process has no descriptor left. Nothing of the call happened; the
    /// same call may be made again.
    #[error("no room for the buffer store: {reason}")]
    Full {
        /// What the system said.
        reason: String,
    },
    /// A write or sync failed earlier, so nothing more can be promised. Reads go on.
    #[error("the buffer store failed and takes no more writes: {reason}")]
    Poisoned {
        /// The first failure.
        reason: String,
    },
    /// Stored bytes do not match their checksum, or data that was synced is missing.
    #[error("the buffer store is damaged: {reason}")]
    Corrupt {
        /// What was found, and where.
        reason: String,
    },
    /// It is of a format that this version does not know. Refuse to open.
    #[error("the buffer store cannot be used: {reason}")]
    Unsupported {
        /// What it is, and what to do.
        reason: String,
    },
    /// Reading or opening failed.
    #[error("the buffer store cannot be read: {reason}")]
    Io {
        /// What the system said.
        reason: String,
    },
}

/// What a record says about its pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageRun {
    /// Content of one or more whole pages: at least one [`CHECKSUM_UNIT_BYTES`], at most
    /// [`RECORD_MAX_BYTES`].
    Data(Bytes),
    /// `pages` pages that read as zeroes.
    Hole {
        /// How many, at least 1.
        pages: u64,
    },
}

/// Names a record within its generation. Never used twice in a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordRef {
    /// The first page of the run.
    pub first: PageNumber,
    /// The commit that wrote it.
    pub lsn: Lsn,
}

/// One record to be committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BufferRecord {
    /// Its name.
    pub at: RecordRef,
    /// Its content.
    pub run: PageRun,
}

/// What is committed at once: the records of one or more consecutive commits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BufferBatch {
    /// LSN of the last commit in the batch; every record's LSN is at most this and above the
    /// previous batch's.
    pub last_lsn: Lsn,
    /// The records, with distinct names.
    pub records: Vec<BufferRecord>,
}

/// What recovery says of one record's run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordHeader {
    /// A data record of this many bytes.
    Data {
        /// Length of the content.
        bytes: u32,
    },
    /// A hole.
    Hole {
        /// How many pages.
        pages: u64,
    },
}

/// One recovered record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordEntry {
    /// Its name.
    pub at: RecordRef,
    /// Its shape.
    pub header: RecordHeader,
}

/// Reads the data records of one generation. Holding it keeps them readable, also after the
/// generation was dropped.
pub trait BufferHandle: Send + Sync + 'static {
    /// Bytes `range` of the data record `at`, verified. `range` is aligned to
    /// [`CHECKSUM_UNIT_BYTES`] and lies within the record. Usually answered from memory; may block
    /// on the local disk.
    ///
    /// # Errors
    /// [`BufferError::Corrupt`] if the checksum does not match or there is no such record,
    /// [`BufferError::Io`].
    fn read(&self, at: RecordRef, range: Range<usize>) -> Result<Bytes, BufferError>;
}

/// One generation as found at opening.
pub struct RecoveredGeneration {
    /// Its number.
    pub generation: Generation,
    /// Reads it.
    pub handle: Arc<dyn BufferHandle>,
    /// Everything in it, ascending by name.
    pub records: Vec<RecordEntry>,
}

/// A buffer store after recovery.
pub struct Recovered {
    /// The store, locked by this process until it is dropped.
    pub store: Arc<dyn BufferStore>,
    /// The metadata last written by [`BufferStore::put_metadata`]; `None` in a new store.
    pub metadata: Option<Bytes>,
    /// The highest LSN of any batch recovered, 0 in a new store. (Dropped generations may have had
    /// higher ones: the engine keeps those in its metadata.)
    pub last_lsn: Lsn,
    /// Generations, oldest first; the last one is active and takes the next commits. Never empty.
    pub generations: Vec<RecoveredGeneration>,
}

/// How much room a buffer store takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BufferUsage {
    /// Bytes on the local disk, journals included.
    pub disk_bytes: u64,
}

/// An open buffer store.
///
/// Contract: batches are atomic and are applied in order. After a crash of the process the store
/// holds every batch whose `commit` had returned; after a power cut it holds a prefix of its batches
/// that includes everything committed before the last completed `sync` began. If it cannot hold to
/// that, opening fails with [`BufferError::Corrupt`]. After any error of a mutating call but
/// [`BufferError::Full`] every later one fails with [`BufferError::Poisoned`], and reads go on.
#[async_trait]
pub trait BufferStore: Send + Sync + 'static {
    /// Applies a batch to the active generation. Calls are made one at a time.
    async fn commit(&self, batch: BufferBatch) -> Result<(), BufferError>;

    /// Makes every batch whose `commit` returned before this call survive a power cut.
    async fn sync(&self) -> Result<(), BufferError>;

    /// Seals the active generation, which it returns, and makes the next one active. Not called
    /// while a `commit` is in flight. Commits after it returned go to the new generation.
    async fn seal(&self) -> Result<(Generation, Arc<dyn BufferHandle>), BufferError>;

    /// The generation that takes the next commits.
    async fn active(&self) -> Result<(Generation, Arc<dyn BufferHandle>), BufferError>;

    /// Deletes a sealed generation. Handles to it stay readable. Survives a power cut no later
    /// than the next `sync`; until then the generation may come back whole.
    async fn drop_generation(&self, generation: Generation) -> Result<(), BufferError>;

    /// Replaces the metadata, atomically, and syncs it. It is small (below 64 KiB).
    async fn put_metadata(&self, metadata: Bytes) -> Result<(), BufferError>;

    /// Room taken now.
    fn usage(&self) -> BufferUsage;
}

/// All buffer stores of a node.
#[async_trait]
pub trait BufferStores: Send + Sync + 'static {
    /// Locks and recovers the buffer store of `image`, making an empty one where there is none.
    async fn open(&self, image: &ImageId) -> Result<Recovered, BufferError>;

    /// The room on the disk that all of them are on, if that is known.
    fn space(&self) -> Option<DiskSpace>;

    /// Where the buffer store of `image` is, for messages to the operator.
    fn location(&self, image: &ImageId) -> String;
}
