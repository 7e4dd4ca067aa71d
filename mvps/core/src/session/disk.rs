//! What a connection needs of an open image: the seam between sessions and the engine, so that a
//! session can be tested against a disk that misbehaves on purpose.

use std::ops::Range;

use bytes::Bytes;

use crate::content::Content;
use crate::engine::{Acknowledge, Durability, EngineError, Extent, Since};
use crate::ids::Version;

/// What can be read: an image, or a transaction with its own writes over it.
pub trait ReadAt: Send + Sync + 'static {
    /// An earlier state, to compare with.
    type Base: Send + Sync + 'static;

    /// Content of a range, in pieces whose lengths add up to `length`.
    fn read(&self, offset: u64, length: u32) -> impl Outcome<Content>;
    /// What of a range, which is not empty, has content, or may have other content than `base`; at
    /// least one extent and at most so many, from the beginning of the range on.
    fn extents(
        &self,
        range: Range<u64>,
        base: Option<&Self::Base>,
        extents_max: usize,
    ) -> impl Outcome<Vec<Extent>>;
}

/// What can be changed. Every change is atomic.
pub trait WriteAt: Send + Sync + 'static {
    /// When a change counts as done. A transaction has no choice: its commit decides.
    type When: Send + 'static;

    /// Writes.
    fn write(&self, offset: u64, data: Bytes, when: Self::When) -> impl Outcome;
    /// Zeroes a range exactly.
    fn write_zeroes(&self, offset: u64, length: u64, when: Self::When) -> impl Outcome;
    /// Frees the whole pages in a range.
    fn trim(&self, offset: u64, length: u64, when: Self::When) -> impl Outcome;
}

/// One connection's access to an image. Calls take effect in the order of their first poll where
/// that matters: a [`DiskTransaction`]'s do. Cancelled calls may or may not take effect.
pub trait Disk: ReadAt + WriteAt<When = Acknowledge> + Clone {
    /// An open transaction; dropping it rolls it back.
    type Transaction: DiskTransaction<Base = Self::Base>;

    /// The version that an earlier state is.
    fn find_base(&self, since: &Since) -> impl Outcome<Version>;
    /// An earlier state that was found, to be used at once: others may wait for it.
    fn base(&self, version: Version) -> impl Outcome<Self::Base>;
    /// Brings content near that may soon be read.
    fn prefetch(&self, offset: u64, length: u64) -> impl Outcome;
    /// Makes everything that was acknowledged before durable.
    fn flush(&self, durability: Durability) -> impl Outcome;
    /// Ends this access and that of every clone: once it returns, nothing that was not acknowledged
    /// takes effect any more.
    fn revoke(&self) -> impl Future<Output = ()> + Send;
    /// Begins a transaction.
    fn begin(&self) -> impl Outcome<Self::Transaction>;
}

/// An open transaction of a [`Disk`]. What it changes takes effect when it commits.
pub trait DiskTransaction: ReadAt + WriteAt<When = ()> {
    /// Takes the image's write lock.
    fn lock(&self) -> impl Outcome;
    /// Commits.
    fn commit(self, when: Acknowledge) -> impl Outcome;
}

/// A future of what a call yields, or why it failed.
pub trait Outcome<T = ()>: Future<Output = Result<T, EngineError>> + Send {}
impl<T, F: Future<Output = Result<T, EngineError>> + Send> Outcome<T> for F {}
