//! Pieces of objects on the local disk, below the memory cache: frames and leaves of maps, as they
//! are in the bucket.
//!
//! An object is never written twice and its name is random, so what is cached is never stale. It
//! may be lost at any time, and it may come back damaged: a disk forgets. Whoever gets a piece
//! verifies it by its own checksum, which is seeded with its object's name, and calls
//! [`FrameCache::remove`] if it is wrong.

use async_trait::async_trait;
use bytes::Bytes;

use crate::ids::PieceKey;

/// What a cache holds, and how it did since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FrameCacheUsage {
    /// Pieces, those that a crash damaged and nobody asked for since included.
    pub entries: u64,
    /// What they take on the disk, headers and room not given back yet included.
    pub bytes: u64,
    /// Most that they may take.
    pub limit_bytes: u64,
    /// Pieces that were asked for and found.
    pub hits: u64,
    /// Pieces that were asked for and not found.
    pub misses: u64,
    /// Pieces that were wrong, or could not be read.
    pub damaged: u64,
    /// Pieces that had to go for others.
    pub evicted: u64,
    /// Pieces that were put and not taken: the disk was slower, or full.
    pub dropped: u64,
}

/// Pieces of objects on the local disk.
#[async_trait]
pub trait FrameCache: Send + Sync + 'static {
    /// The piece as it was put, unless the disk damaged it. Fails by saying that it is not there.
    async fn get(&self, key: PieceKey) -> Option<Bytes>;

    /// Keeps a piece, or does not. Never waits.
    fn put(&self, key: PieceKey, piece: Bytes);

    /// The piece that was returned under this key is wrong: it is not returned again. Never waits.
    fn remove(&self, key: PieceKey);

    /// The cache may take so many bytes from now on. What is too much is given back at once,
    /// whatever was used last. Never waits.
    fn limit_to(&self, bytes: u64);

    /// Returns when everything that was asked before has been done.
    async fn settled(&self);

    /// What it holds.
    fn usage(&self) -> FrameCacheUsage;
}
