//! The memory for segments on their way into object storage, of all images of a process.
//!
//! What is written is held until the store has it: parts under way, batches that are being encoded.
//! A job that writes reserves what it will hold at most, and waits its turn where that is taken.
//! Small jobs have a lane of their own, so that an image with little to upload does not wait for
//! those with much.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The budget is counted in units of this many bytes.
const UNIT_BYTES: u64 = 1 << 20;

/// One part in this many is the lane of small jobs.
const SMALL_LANE_DIVISOR: u64 = 4;

/// The memory for uploads of all images of a process. Clones are the same.
#[derive(Debug, Clone)]
pub struct UploadBudget {
    large: Lane,
    small: Lane,
}

#[derive(Debug, Clone)]
struct Lane {
    free: Arc<Semaphore>,
    units: u32,
    /// How many wait.
    waiting: Arc<AtomicUsize>,
}

/// Counts who waits, also one who stops waiting.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a job has of the budget, until dropped.
#[derive(Debug)]
pub struct UploadReservation {
    permit: Option<OwnedSemaphorePermit>,
}

impl Drop for UploadReservation {
    fn drop(&mut self) {
        let permit = self.permit.take();
        if crate::mutant::is("the memory of an upload is not given back") {
            permit.into_iter().for_each(OwnedSemaphorePermit::forget);
        }
    }
}

impl UploadBudget {
    /// A budget of `bytes`.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let small = bytes / SMALL_LANE_DIVISOR;
        Self {
            large: Lane::new(bytes - small),
            small: Lane::new(small),
        }
    }

    /// Waits until `bytes` are free, or everything is, if that is less, and takes them. Who came
    /// first is first.
    pub async fn reserve(&self, bytes: u64) -> UploadReservation {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        // Two of them fit the lane, so that one never stops all.
        let lane = match units <= self.small.units / 2 {
            true => &self.small,
            false => &self.large,
        };
        lane.reserve(units).await
    }

    /// Whether a large job waits: who can end early does.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.large.waiting.load(Ordering::Relaxed) > 0
    }
}

impl Lane {
    fn new(bytes: u64) -> Self {
        let units = u32::try_from(bytes / UNIT_BYTES).unwrap_or(u32::MAX).max(1);
        Self {
            free: Arc::new(Semaphore::new(units as usize)),
            units,
            waiting: Arc::default(),
        }
    }

    async fn reserve(&self, units: u32) -> UploadReservation {
        let units = units.clamp(1, self.units);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        let permit = Arc::clone(&self.free).acquire_many_owned(units).await;
        UploadReservation {
            permit: Some(permit.expect("the semaphore is never closed")),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[tokio::test]
    async fn large_jobs_wait_for_each_other_and_small_ones_do_not_wait_for_them() {
        let budget = UploadBudget::new(64 * MIB);
        let first = budget.reserve(1 << 40).await;
        let mut second = Box::pin(budget.reserve(30 * MIB));
        assert!(!budget.is_awaited());
        assert!((&mut second).now_or_never().is_none());
        assert!(budget.is_awaited());
        let small = budget.reserve(8 * MIB).await;
        let other = budget.reserve(8 * MIB).await;
        assert!(budget.reserve(MIB).now_or_never().is_none());
        drop(small);
        assert!(budget.reserve(0).now_or_never().is_some());
        drop((first, other));
        second.await;
        assert!(!budget.is_awaited());
    }
}
