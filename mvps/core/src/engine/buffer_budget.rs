//! The room that the buffer stores of a process share: on the local disk, and in memory for their
//! indexes.
//!
//! Four limits hold writes up: that of each image, that of all images together, what must stay free
//! on the disk, whoever takes the rest, and the memory. Near any of them writes slow down, at it they
//! wait, and everything that is buffered is checkpointed, whatever its age.
//!
//! Must never: refuse anything, or wait. Whoever is told that there is no room does that.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::buffer::IndexMemory;
use super::buffer::backpressure::SLOW_FROM;
use crate::env::{BufferStores, Clock, Moment};

/// With less than this an image does not give way: a checkpoint makes little room then, and costs as
/// many requests.
const GIVES_WAY_BYTES: u64 = 16 << 20;

/// The same for the memory of its indexes: 16 MiB in writes of 64 KiB, and less in smaller ones.
const GIVES_WAY_INDEX_BYTES: u64 = 64 << 10;

/// One part in this many of the limit of all is for images that take little.
const SMALL_DIVISOR: u64 = 4;

/// How old what is known about the disk may be: at a gigabyte a second it is a tenth of the least
/// that stays free by default.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What the buffer stores of a process may take, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskLimits {
    /// All of them together.
    pub total_bytes: u64,
    /// So much stays free on the disk.
    pub floor_bytes: u64,
}

impl Default for DiskLimits {
    /// No limit.
    fn default() -> Self {
        Self {
            total_bytes: u64::MAX,
            floor_bytes: 0,
        }
    }
}

/// Which limit holds writes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BufferLimit {
    /// That of the image.
    Image,
    /// That of all images of the process.
    Total,
    /// What must stay free on the disk.
    FreeSpace,
    /// The memory for the indexes of what is buffered.
    Memory,
    /// The disk itself: it is full in spite of the limits, or there is no descriptor left.
    Disk,
}

impl BufferLimit {
    /// What it is, for operators.
    #[must_use]
    pub fn description(self) -> &'static str {
        match self {
            Self::Image => "the limit of this image's buffer (--buffer-limit-bytes)",
            Self::Total => "the limit of all buffers (--buffer-total-bytes)",
            Self::FreeSpace => "the space that stays free on the disk (--disk-floor-bytes)",
            Self::Memory => "the memory for what is buffered (--memory-limit)",
            Self::Disk => "a full disk",
        }
    }
}

/// The room of all images of a process. Clones are the same.
#[derive(Clone)]
pub struct BufferBudget(Arc<Room>);

struct Room {
    stores: Arc<dyn BufferStores>,
    clock: Arc<dyn Clock>,
    limits: DiskLimits,
    index_limit_bytes: u64,
    /// What the indexes of all open images take.
    index_bytes: Arc<AtomicU64>,
    begin: Moment,
    /// What the buffer stores of all open images take.
    taken: AtomicU64,
    /// How many images are open.
    shares: AtomicU64,
    /// What was free when somebody last looked, beside what the buffer stores took; all ones if
    /// nobody knows.
    free_or_taken: AtomicU64,
    /// When that was, in milliseconds since the beginning; 0 before the first time.
    looked_at_ms: AtomicU64,
}

impl BufferBudget {
    /// The room that `limits` leave on the disk of `stores`, with `index_limit_bytes` of memory.
    #[must_use]
    pub fn new(
        stores: Arc<dyn BufferStores>,
        clock: Arc<dyn Clock>,
        limits: DiskLimits,
        index_limit_bytes: u64,
    ) -> Self {
        Self(Arc::new(Room {
            begin: clock.now(),
            stores,
            clock,
            limits,
            index_limit_bytes,
            index_bytes: Arc::default(),
            taken: AtomicU64::new(0),
            shares: AtomicU64::new(0),
            free_or_taken: AtomicU64::new(u64::MAX),
            looked_at_ms: AtomicU64::new(0),
        }))
    }

    /// The limits of the disk.
    #[must_use]
    pub fn limits(&self) -> DiskLimits {
        self.0.limits
    }

    /// Where the indexes of another image count what they take.
    #[must_use]
    pub fn index_memory(&self) -> Arc<IndexMemory> {
        Arc::new(IndexMemory::new(Arc::clone(&self.0.index_bytes)))
    }

    /// The share of an image that may take `limit_bytes` of the disk itself, and whose indexes count
    /// in `index_memory`.
    #[must_use]
    pub fn share(&self, limit_bytes: u64, index_memory: Arc<IndexMemory>) -> BufferShare {
        self.0.shares.fetch_add(1, Ordering::Relaxed);
        BufferShare {
            budget: self.clone(),
            limit_bytes,
            taken: AtomicU64::new(0),
            index_memory,
        }
    }

    /// What is free on the disk: as of a moment ago, but for what the buffer stores took since.
    fn free_bytes(&self) -> u64 {
        let disk = &self.0;
        if disk.limits.floor_bytes == 0 {
            return u64::MAX;
        }
        let since = disk.clock.now().since(disk.begin) + LOOK_EVERY;
        let now_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let looked_at_ms = disk.looked_at_ms.load(Ordering::Relaxed);
        let every_ms = u64::try_from(LOOK_EVERY.as_millis()).unwrap_or(u64::MAX);
        if now_ms >= looked_at_ms + every_ms || looked_at_ms == 0 {
            disk.looked_at_ms.store(now_ms, Ordering::Relaxed);
            let taken = disk.taken.load(Ordering::Relaxed);
            let space = disk.stores.space();
            let sum = space.map_or(u64::MAX, |space| space.free_bytes.saturating_add(taken));
            disk.free_or_taken.store(sum, Ordering::Relaxed);
        }
        let taken = disk.taken.load(Ordering::Relaxed);
        disk.free_or_taken
            .load(Ordering::Relaxed)
            .saturating_sub(taken)
    }
}

/// What one image takes of the room.
pub struct BufferShare {
    budget: BufferBudget,
    limit_bytes: u64,
    taken: AtomicU64,
    index_memory: Arc<IndexMemory>,
}

impl BufferShare {
    /// Where the image's indexes count.
    #[must_use]
    pub fn index_memory(&self) -> &Arc<IndexMemory> {
        &self.index_memory
    }

    /// The image takes `bytes` now. Called by nobody but its task.
    pub fn set(&self, bytes: u64) {
        let before = self.taken.swap(bytes, Ordering::Relaxed);
        let total = &self.budget.0.taken;
        if bytes >= before {
            total.fetch_add(bytes - before, Ordering::Relaxed);
        } else {
            total.fetch_sub(before - bytes, Ordering::Relaxed);
        }
    }

    /// Whether an image that takes `own` is not held up by the limit of all: what others hold and
    /// cannot let go of must not stop it. All who take so little take a quarter of the limit.
    fn is_small(&self, own: u64, limit_bytes: u64) -> bool {
        own < limit_bytes / SMALL_DIVISOR / self.shares()
    }

    /// How many images are open.
    fn shares(&self) -> u64 {
        self.budget.0.shares.load(Ordering::Relaxed).max(1)
    }

    /// Whether the image is among those that take most while all have to slow down: it is
    /// checkpointed before its time.
    #[must_use]
    pub fn gives_way(&self) -> bool {
        let leads = |own: u64, all: u64, least: u64| own >= (all / self.shares()).max(least);
        let own = self.taken.load(Ordering::Relaxed);
        let all = self.budget.0.taken.load(Ordering::Relaxed);
        let (indexes, all_indexes) = (self.index_memory.bytes(), self.index_memory.process_bytes());
        (leads(own, all, GIVES_WAY_BYTES) && self.disk_fill() >= SLOW_FROM)
            || (leads(indexes, all_indexes, GIVES_WAY_INDEX_BYTES)
                && self.memory_fill() >= SLOW_FROM)
    }

    /// How full the memory for indexes is.
    fn memory_fill(&self) -> f64 {
        let limit_bytes = self.budget.0.index_limit_bytes;
        match self.is_small(self.index_memory.bytes(), limit_bytes) {
            true => 0.0,
            false => ratio(self.index_memory.process_bytes(), limit_bytes),
        }
    }

    /// How full the fuller of the disk's limits is that images share.
    fn disk_fill(&self) -> f64 {
        let limits = &self.budget.0.limits;
        let taken = self.budget.0.taken.load(Ordering::Relaxed);
        let own = self.taken.load(Ordering::Relaxed);
        let total = match self.is_small(own, limits.total_bytes) {
            true => 0.0,
            false => ratio(taken, limits.total_bytes),
        };
        // Full at the floor, empty at twice the floor.
        let above = self.budget.free_bytes().saturating_sub(limits.floor_bytes);
        let space = match limits.floor_bytes {
            0 => 0.0,
            floor => 1.0 - ratio(above, floor).min(1.0),
        };
        total.max(space)
    }

    /// How full the fullest of the limits is: 1 at the limit.
    #[must_use]
    pub fn fill(&self) -> f64 {
        let image = ratio(self.taken.load(Ordering::Relaxed), self.limit_bytes);
        image.max(self.disk_fill()).max(self.memory_fill())
    }

    /// The limit that stands in the way of another `more` bytes, if one does.
    #[must_use]
    pub fn full_by(&self, more: u64) -> Option<BufferLimit> {
        let limits = &self.budget.0.limits;
        let reaches = |used: &AtomicU64, limit: u64| {
            used.load(Ordering::Relaxed).saturating_add(more) >= limit
        };
        let is_low = limits.floor_bytes > 0
            && self.budget.free_bytes() <= limits.floor_bytes.saturating_add(more)
            && !crate::mutant::is("the space that stays free is not looked at");
        let own = self.taken.load(Ordering::Relaxed).saturating_add(more);
        let is_small = self.is_small(own, limits.total_bytes);
        if reaches(&self.taken, self.limit_bytes) {
            Some(BufferLimit::Image)
        } else if reaches(&self.budget.0.taken, limits.total_bytes) && !is_small {
            Some(BufferLimit::Total)
        } else if is_low {
            Some(BufferLimit::FreeSpace)
        } else {
            let is_full = self.memory_fill() >= 1.0
                && !crate::mutant::is("the memory for indexes is not looked at");
            is_full.then_some(BufferLimit::Memory)
        }
    }
}

impl Drop for BufferShare {
    fn drop(&mut self) {
        self.set(0);
        self.budget.0.shares.fetch_sub(1, Ordering::Relaxed);
    }
}

fn ratio(used: u64, limit: u64) -> f64 {
    match limit {
        0 => 1.0,
        limit => used as f64 / limit as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::memory::MemoryBufferStores;
    use crate::env::memory::testing::TestClock;

    const MIB: u64 = 1 << 20;

    fn budget(limits: DiskLimits) -> BufferBudget {
        let stores = Arc::new(MemoryBufferStores::new());
        BufferBudget::new(stores, Arc::new(TestClock::start()), limits, u64::MAX)
    }

    fn share(budget: &BufferBudget) -> BufferShare {
        budget.share(u64::MAX, budget.index_memory())
    }

    #[tokio::test]
    async fn who_takes_most_gives_way_and_who_takes_little_goes_on() {
        let budget = budget(DiskLimits {
            total_bytes: 1024 * MIB,
            floor_bytes: 0,
        });
        let shares: Vec<_> = (0..4).map(|_| share(&budget)).collect();
        shares[0].set(400 * MIB);
        shares[1].set(100 * MIB);
        assert!(!shares[0].gives_way(), "there is room");
        shares[1].set(200 * MIB);
        shares[2].set(8 * MIB);
        let gives_way: Vec<bool> = shares.iter().map(BufferShare::gives_way).collect();
        assert_eq!(gives_way, [true, true, false, false]);
        shares[1].set(620 * MIB);
        let full: Vec<_> = shares.iter().map(|share| share.full_by(0)).collect();
        let total = Some(BufferLimit::Total);
        assert_eq!(full, [total, total, None, None]);
        assert!(shares[0].fill() >= 1.0 && shares[2].fill() < 0.1);
        shares[2].set(64 * MIB);
        assert_eq!(shares[2].full_by(0), total, "a quarter of an equal share");
        drop(shares);
        assert_eq!(share(&budget).full_by(1023 * MIB), None);
    }

    #[tokio::test]
    async fn nothing_is_limited_that_nobody_limits() {
        let share = share(&budget(DiskLimits::default()));
        share.set(1 << 60);
        assert_eq!(share.full_by(1 << 60), None);
        assert!(share.fill() < 0.5 && !share.gives_way());
    }
}
