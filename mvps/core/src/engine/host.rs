//! What all images of a process share: its environment, the store behind its retries, the caches.

use std::sync::Arc;

use super::buffer::patient::PatientBuffers;
use super::buffer_budget::{BufferBudget, DiskLimits};
use super::memory_shares::MemoryShares;
use super::read::{DiskPieces, FrameReads, LEAF_CACHE_BYTES, LeafReads};
use super::transaction_budget::TransactionBudget;
use super::upload_budget::UploadBudget;
use crate::encryption::RootKeys;
use crate::env::{Environment, FrameCache};
use crate::object_reads::ObjectReads;
use crate::store::RetryingStore;

/// What all images of a process share. Cheap to clone.
#[derive(Clone)]
pub struct Host {
    /// The world.
    pub environment: Environment,
    /// Object storage; waits for ever.
    pub store: RetryingStore,
    /// Leaves of maps.
    pub leaves: Arc<LeafReads>,
    /// Frames of segments.
    pub frames: Arc<FrameReads>,
    /// What each part of the process may take of its memory.
    pub memory: MemoryShares,
    /// The room for what is buffered.
    pub buffer_budget: BufferBudget,
    /// The memory for segments on their way into object storage.
    pub upload_budget: UploadBudget,
    /// For what open transactions have written.
    pub transaction_budget: TransactionBudget,
    /// What data keys of images are wrapped with.
    pub root_keys: Arc<RootKeys>,
}

impl Host {
    /// A host that keeps at most `cache_bytes` of frames and leaves in memory, and none on the disk.
    #[must_use]
    pub fn new(environment: Environment, cache_bytes: u64) -> Self {
        Self::with_disk_cache(environment, cache_bytes, None)
    }

    /// The same, with a cache on the local disk.
    #[must_use]
    pub fn with_disk_cache(
        mut environment: Environment,
        cache_bytes: u64,
        disk: Option<Arc<dyn FrameCache>>,
    ) -> Self {
        let clock = Arc::clone(&environment.clock);
        environment.buffers = Arc::new(PatientBuffers::new(environment.buffers, clock));
        let store = RetryingStore::new(
            Arc::clone(&environment.objects),
            Arc::clone(&environment.clock),
            Arc::clone(&environment.entropy),
        );
        let reads = ObjectReads::new(store.clone());
        let leaf_bytes = LEAF_CACHE_BYTES.min(cache_bytes / 2);
        let pieces = DiskPieces::from(disk);
        let leaves = LeafReads::new(reads.clone(), leaf_bytes).with_disk(pieces.clone());
        let spawner = Arc::clone(&environment.spawner);
        let frames = FrameReads::new(reads, spawner, cache_bytes - leaf_bytes).with_disk(pieces);
        let memory = MemoryShares::default();
        let limits = DiskLimits::default();
        let buffer_budget = buffer_budget(&environment, limits, memory.index_bytes);
        Self {
            environment,
            store,
            buffer_budget,
            upload_budget: UploadBudget::new(memory.upload_bytes),
            transaction_budget: TransactionBudget::of_process(memory.transaction_bytes),
            memory,
            leaves: Arc::new(leaves),
            frames: Arc::new(frames),
            root_keys: Arc::default(),
        }
    }

    /// Frames and leaves on the local disk, if they are cached there.
    #[must_use]
    pub fn disk_cache(&self) -> Option<&Arc<dyn FrameCache>> {
        self.frames.disk().cache()
    }

    /// The same host with these limits of the local disk; it begins with none.
    #[must_use]
    pub fn with_disk_limits(mut self, limits: DiskLimits) -> Self {
        let index_bytes = self.memory.index_bytes;
        self.buffer_budget = buffer_budget(&self.environment, limits, index_bytes);
        self
    }

    /// The same host with these shares of the memory, but for its caches; it begins with those of
    /// 1 GiB.
    #[must_use]
    pub fn with_memory(mut self, shares: MemoryShares) -> Self {
        self.memory = shares;
        self.upload_budget = UploadBudget::new(shares.upload_bytes);
        self.transaction_budget = TransactionBudget::of_process(shares.transaction_bytes);
        let limits = self.buffer_budget.limits();
        self.with_disk_limits(limits)
    }

    /// The same host with these root keys; it begins with none.
    #[must_use]
    pub fn with_root_keys(mut self, root_keys: RootKeys) -> Self {
        self.root_keys = Arc::new(root_keys);
        self
    }
}

fn buffer_budget(
    environment: &Environment,
    limits: DiskLimits,
    index_limit_bytes: u64,
) -> BufferBudget {
    let (buffers, clock) = (&environment.buffers, &environment.clock);
    BufferBudget::new(
        Arc::clone(buffers),
        Arc::clone(clock),
        limits,
        index_limit_bytes,
    )
}
