//! The memory that indexes of buffered generations take: of an image, and of all images of its
//! process.
//!
//! Invariant: a generation is counted once, until nobody knows of it any more: neither the image's
//! task nor a view of its earlier states, which an open transaction may keep for minutes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a record takes: its entry in the engine's index, and in that of the buffer store.
const RECORD_BYTES: u64 = 160;

/// Content for which one byte of a checksum is kept: 8 for each 4 KiB.
const CONTENT_PER_BYTE: u64 = 512;

/// What the indexes of an image take, in bytes.
#[derive(Debug)]
pub struct IndexMemory {
    image: AtomicU64,
    process: Arc<AtomicU64>,
}

impl IndexMemory {
    /// Of an image whose process counts in `process`.
    #[must_use]
    pub fn new(process: Arc<AtomicU64>) -> Self {
        Self {
            image: AtomicU64::new(0),
            process,
        }
    }

    /// What the image takes, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.image.load(Ordering::Relaxed)
    }

    /// What all images of the process take, in bytes.
    #[must_use]
    pub fn process_bytes(&self) -> u64 {
        self.process.load(Ordering::Relaxed)
    }
}

/// What the index of one generation takes, until dropped.
#[derive(Debug)]
pub(super) struct IndexReservation {
    memory: Arc<IndexMemory>,
    bytes: AtomicU64,
}

impl IndexReservation {
    pub(super) fn new(memory: Arc<IndexMemory>) -> Self {
        Self {
            memory,
            bytes: AtomicU64::new(0),
        }
    }

    /// Another record with so much content.
    pub(super) fn add_record(&self, content_bytes: u64) {
        let more = RECORD_BYTES + content_bytes / CONTENT_PER_BYTE;
        for account in [&self.bytes, &self.memory.image, &self.memory.process] {
            account.fetch_add(more, Ordering::Relaxed);
        }
    }
}

impl Drop for IndexReservation {
    fn drop(&mut self) {
        if crate::mutant::is("the memory of dropped generations is not given back") {
            return;
        }
        let bytes = self.bytes.load(Ordering::Relaxed);
        for account in [&self.memory.image, &self.memory.process] {
            account.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}
