//! The memory that indexes of buffered generations take: of an image, and of all images of its
//! process.
//!
//! Invariant: a generation is counted once, until nobody knows of it any more: neither the image's
//! task nor a view of its earlier states, which an open transaction may keep for minutes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a record takes: its entry in the engine's index, and in that of the buffer store.
const RECORD_BYTES: u64 = 160;

/// Content for which one byte of a checksum is kept: 8 for each 4 KiB.
const CONTENT_PER_BYTE: u64 = 512;

/// What the indexes of an image take, in bytes.
#[derive(Debug)]
pub struct IndexMemory {
    image: AtomicU64,
    process: Arc<AtomicU64>,
    /// Whether the image counts for the process no more.
    has_left: Mutex<bool>,
}

impl IndexMemory {
    /// Of an image whose process counts in `process`.
    #[must_use]
    pub fn new(process: Arc<AtomicU64>) -> Self {
        Self {
            image: AtomicU64::new(0),
            process,
            has_left: Mutex::new(false),
        }
    }

    /// The image counts for the process no more: it failed, so that what it holds stays until it is
    /// closed, and others must not wait for that. Nothing is added to it any more.
    pub fn leave(&self) {
        let mut has_left = self.has_left();
        if !std::mem::replace(&mut *has_left, true) {
            self.process.fetch_sub(self.bytes(), Ordering::Relaxed);
        }
    }

    fn has_left(&self) -> MutexGuard<'_, bool> {
        self.has_left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self, bytes: u64) {
        let has_left = self.has_left();
        self.image.fetch_sub(bytes, Ordering::Relaxed);
        if !*has_left {
            self.process.fetch_sub(bytes, Ordering::Relaxed);
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

    /// What it takes, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
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
        self.memory.give_back(self.bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_counted_once_and_given_back_also_by_who_left() {
        let process = Arc::new(AtomicU64::new(0));
        let image = || Arc::new(IndexMemory::new(Arc::clone(&process)));
        let (one, other) = (image(), image());
        let reservation = IndexReservation::new(Arc::clone(&one));
        let kept = IndexReservation::new(Arc::clone(&one));
        reservation.add_record(4096);
        kept.add_record(0);
        let others = IndexReservation::new(Arc::clone(&other));
        others.add_record(8192);
        assert_eq!([one.bytes(), other.bytes()], [168 + 160, 176]);
        assert_eq!(one.process_bytes(), 504);
        drop(reservation);
        assert_eq!([one.bytes(), one.process_bytes()], [160, 336]);
        one.leave();
        one.leave();
        assert_eq!([one.bytes(), one.process_bytes()], [160, 176]);
        drop(kept);
        assert_eq!([one.bytes(), one.process_bytes()], [0, 176]);
        drop(others);
        assert_eq!(process.load(Ordering::Relaxed), 0);
    }
}
