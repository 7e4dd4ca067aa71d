//! In-memory implementations, for tests and as the reference of the conformance suites.
//!
//! Nothing here needs a runtime, except [`testing`], which is there for this crate's unit tests
//! only. Must never be reachable from a production build: the parent module is compiled for tests
//! and under the feature `conformance`.

mod bench;
mod buffer_disk;
mod buffer_store;
mod files;
mod frame_cache;
mod manual_clock;
mod object_store;
mod seeded_entropy;
#[cfg(test)]
pub mod testing;

pub use bench::MemoryBench;
pub use buffer_store::{BufferCopy, BufferFault, Crash, MemoryBufferStores, Strike};
pub use files::{DiskFault, FolderCopy, MemoryFiles};
pub use frame_cache::MemoryFrameCache;
pub use manual_clock::ManualClock;
pub use object_store::{MemoryObjectStore, Operation, Verdict};
pub use seeded_entropy::SeededEntropy;

pub use crate::env::OperationKind;
