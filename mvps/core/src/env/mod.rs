//! The world as the engine sees it: clock, entropy, tasks, network, object storage, buffer.
//!
//! Everything in `mvps-core` reaches the outside through these traits and nothing else, so that
//! the same code runs in production and inside the simulation. An implementation may be slow, may
//! fail and may be killed; what it promises even then is stated on each trait and checked by the
//! suites in [`conformance`], which every implementation passes.
//!
//! Architecture invariant: nothing in this crate names an operating system, a runtime or a clock.

mod buffer_store;
mod clock;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod entropy;
mod files;
mod frame_cache;
#[cfg(any(test, feature = "conformance"))]
pub mod memory;
mod network;
mod object_body;
mod object_store;
mod spawner;

use std::sync::Arc;

pub use buffer_store::{
    BufferBatch, BufferError, BufferHandle, BufferRecord, BufferStore, BufferStores, BufferUsage,
    CHECKSUM_UNIT_BYTES, PageRun, RECORD_MAX_BYTES, RecordEntry, RecordHeader, RecordRef,
    Recovered, RecoveredGeneration,
};
pub use clock::{Clock, Moment, WallTime};
pub use entropy::{Entropy, EntropyExt};
pub use files::{DiskSpace, File, Files, FolderLock, OpenMode, is_want_of_room};
pub use frame_cache::{FrameCache, FrameCacheUsage};
pub use network::{Address, Connection, Listener, Network, PeerName};
pub use object_body::{GetRange, ObjectBody};
pub use object_store::{
    ObjectEntry, ObjectStore, OperationKind, PartTag, StoreError, UploadEntry, UploadId,
};
pub use spawner::{Spawner, SpawnerExt, let_others_run};

/// One node's world, handed to everything that acts on that node.
#[derive(Clone)]
pub struct Environment {
    /// Monotonic and wall time, and sleeping.
    pub clock: Arc<dyn Clock>,
    /// Randomness and ids.
    pub entropy: Arc<dyn Entropy>,
    /// Tasks, and computations that would block them.
    pub spawner: Arc<dyn Spawner>,
    /// Where images live. Everything above the retry wrapper sees it through
    /// [`crate::store::RetryingStore`].
    pub objects: Arc<dyn ObjectStore>,
    /// Where acknowledged writes wait for their checkpoint.
    pub buffers: Arc<dyn BufferStores>,
}
