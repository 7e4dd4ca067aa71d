//! The room that the buffer stores of a process share on the local disk.
//!
//! Three limits hold writes up: that of each image, that of all images together, and what must stay
//! free on the disk, whoever takes the rest. Near any of them writes slow down, at it they wait, and
//! everything that is buffered is checkpointed, whatever its age.
//!
//! Must never: refuse anything, or wait. Whoever is told that there is no room does that.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::buffer::backpressure::SLOW_FROM;
use crate::env::{BufferStores, Clock, Moment};

/// With less than this an image does not give way: a checkpoint makes little room then, and costs as
/// many requests.
const GIVES_WAY_BYTES: u64 = 16 << 20;

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
            Self::Disk => "a full disk",
        }
    }
}

/// The room of all images of a process. Clones are the same.
#[derive(Clone)]
pub struct DiskBudget(Arc<Disk>);

struct Disk {
    stores: Arc<dyn BufferStores>,
    clock: Arc<dyn Clock>,
    limits: DiskLimits,
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

impl DiskBudget {
    /// The room that `limits` leave on the disk of `stores`.
    #[must_use]
    pub fn new(stores: Arc<dyn BufferStores>, clock: Arc<dyn Clock>, limits: DiskLimits) -> Self {
        Self(Arc::new(Disk {
            begin: clock.now(),
            stores,
            clock,
            limits,
            taken: AtomicU64::new(0),
            shares: AtomicU64::new(0),
            free_or_taken: AtomicU64::new(u64::MAX),
            looked_at_ms: AtomicU64::new(0),
        }))
    }

    /// The share of an image that may take `limit_bytes` itself.
    #[must_use]
    pub fn share(&self, limit_bytes: u64) -> DiskShare {
        self.0.shares.fetch_add(1, Ordering::Relaxed);
        DiskShare {
            budget: self.clone(),
            limit_bytes,
            taken: AtomicU64::new(0),
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
pub struct DiskShare {
    budget: DiskBudget,
    limit_bytes: u64,
    taken: AtomicU64,
}

impl DiskShare {
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

    /// Whether the image takes so little that the limit of all does not hold it up: what others hold
    /// and cannot let go of must not stop it. All who take so little take a quarter of the limit.
    fn is_small(&self, more: u64) -> bool {
        let disk = &self.budget.0;
        let shares = disk.shares.load(Ordering::Relaxed).max(1);
        let least = disk.limits.total_bytes / SMALL_DIVISOR / shares;
        self.taken.load(Ordering::Relaxed).saturating_add(more) < least
    }

    /// Whether the image is among those that take most while all have to slow down: it is
    /// checkpointed before its time.
    #[must_use]
    pub fn gives_way(&self) -> bool {
        let disk = &self.budget.0;
        let shares = disk.shares.load(Ordering::Relaxed).max(1);
        let mean = disk.taken.load(Ordering::Relaxed) / shares;
        let own = self.taken.load(Ordering::Relaxed);
        own >= mean.max(GIVES_WAY_BYTES) && self.shared_fill() >= SLOW_FROM
    }

    /// How full the fuller of the limits is that images share.
    fn shared_fill(&self) -> f64 {
        let limits = &self.budget.0.limits;
        let taken = self.budget.0.taken.load(Ordering::Relaxed);
        let total = match self.is_small(0) {
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
        image.max(self.shared_fill())
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
        if reaches(&self.taken, self.limit_bytes) {
            Some(BufferLimit::Image)
        } else if reaches(&self.budget.0.taken, limits.total_bytes) && !self.is_small(more) {
            Some(BufferLimit::Total)
        } else {
            is_low.then_some(BufferLimit::FreeSpace)
        }
    }
}

impl Drop for DiskShare {
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

    fn budget(limits: DiskLimits) -> DiskBudget {
        let stores = Arc::new(MemoryBufferStores::new());
        DiskBudget::new(stores, Arc::new(TestClock::start()), limits)
    }

    #[tokio::test]
    async fn who_takes_most_gives_way_and_who_takes_little_goes_on() {
        let budget = budget(DiskLimits {
            total_bytes: 1024 * MIB,
            floor_bytes: 0,
        });
        let shares: Vec<_> = (0..4).map(|_| budget.share(u64::MAX)).collect();
        shares[0].set(400 * MIB);
        shares[1].set(100 * MIB);
        assert!(!shares[0].gives_way(), "there is room");
        shares[1].set(200 * MIB);
        shares[2].set(8 * MIB);
        let gives_way: Vec<bool> = shares.iter().map(DiskShare::gives_way).collect();
        assert_eq!(gives_way, [true, true, false, false]);
        shares[1].set(620 * MIB);
        let full: Vec<_> = shares.iter().map(|share| share.full_by(0)).collect();
        let total = Some(BufferLimit::Total);
        assert_eq!(full, [total, total, None, None]);
        assert!(shares[0].fill() >= 1.0 && shares[2].fill() < 0.1);
        shares[2].set(64 * MIB);
        assert_eq!(shares[2].full_by(0), total, "a quarter of an equal share");
        drop(shares);
        assert_eq!(budget.share(u64::MAX).full_by(1023 * MIB), None);
    }

    #[tokio::test]
    async fn nothing_is_limited_that_nobody_limits() {
        let share = budget(DiskLimits::default()).share(u64::MAX);
        share.set(1 << 60);
        assert_eq!(share.full_by(1 << 60), None);
        assert!(share.fill() < 0.5 && !share.gives_way());
    }
}
