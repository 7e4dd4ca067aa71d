//! What a cache is opened with, and why it is not opened.

use std::io;

/// Slabs of this size: making room costs the read of one, and what a crash or a full disk takes is
/// one. A cache of 10 GiB has 160.
const SLAB_BYTES: u64 = 64 << 20;

/// Where the slabs are, and how large they may be.
#[derive(Debug, Clone)]
pub struct SlabCacheSettings {
    /// The folder of the slabs.
    pub folder: String,
    /// Most that all slabs take; with less than one and a half of them nothing is kept.
    pub limit_bytes: u64,
    /// Most that one slab takes; below 4 GiB.
    pub slab_bytes: u64,
}

impl SlabCacheSettings {
    /// Slabs of 64 MiB in a folder called `slabs`.
    #[must_use]
    pub fn new(limit_bytes: u64) -> Self {
        Self {
            folder: "slabs".to_owned(),
            limit_bytes,
            slab_bytes: SLAB_BYTES,
        }
    }
}

/// Why there is no disk cache.
#[derive(Debug, thiserror::Error)]
pub enum CacheOpenError {
    /// Another process has it.
    #[error("{folder} is in use by another server")]
    InUse {
        /// Where it is.
        folder: String,
    },
    /// The disk fails.
    #[error(transparent)]
    Io(#[from] io::Error),
}
