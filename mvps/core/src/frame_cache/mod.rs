//! The disk cache: pieces of objects on the local disk, found again after a restart.
//!
//! Pieces are appended to *slabs*, files of 64 MiB, as they are in the bucket: compressed, and
//! sealed if their image is. An *index* knows the place of each. When there is no room the oldest
//! slab goes; what was read of it since it was written moves on to the newest one, up to half a
//! slab. So a read of a whole disk, which asks for everything once, passes through and drives
//! nothing out that is in use.
//!
//! Reading order: [`format`] and [`slab`] (what is stored), [`index`] (how it is found), [`queue`]
//! and [`writer`] (how it is written, and how room is made), [`cache`] (the access to it), [`opening`].
//!
//! Invariants: a place in the index is a hint; what counts is the header there, and after it the
//! piece's own checksum, which whoever asked verifies. Slabs take no more than the limit. All files
//! and the index are changed by one job at a time.
//!
//! Must never: sync, wait on a task's thread, return a piece under another name than it was put
//! under, fail a read or a write of an image, or touch a file that is not one of its slabs.

mod cache;
mod format;
mod index;
mod opening;
mod queue;
mod settings;
mod slab;
#[cfg(test)]
mod tests;
mod writer;

pub use cache::SlabCache;
#[cfg(any(test, feature = "conformance"))]
pub use index::MemoryIndex;
pub use index::{CacheIndex, Place};
pub use settings::{CacheOpenError, SlabCacheSettings};
