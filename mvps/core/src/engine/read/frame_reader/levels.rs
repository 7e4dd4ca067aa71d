//! How many frames were found on which level.

use std::sync::atomic::{AtomicU64, Ordering};

/// Where frames were found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FrameReadsByLevel {
    /// In memory.
    pub memory: u64,
    /// On the local disk.
    pub disk: u64,
    /// In object storage.
    pub store: u64,
}

#[derive(Default)]
pub(super) struct LevelCounts {
    pub(super) memory: AtomicU64,
    pub(super) disk: AtomicU64,
    pub(super) store: AtomicU64,
}

impl LevelCounts {
    pub(super) fn read(&self) -> FrameReadsByLevel {
        FrameReadsByLevel {
            memory: self.memory.load(Ordering::Relaxed),
            disk: self.disk.load(Ordering::Relaxed),
            store: self.store.load(Ordering::Relaxed),
        }
    }
}
