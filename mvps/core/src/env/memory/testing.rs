//! A node's world for this crate's unit tests, on tokio.
//!
//! Under `#[tokio::test(start_paused = true)]` time passes at once whenever every task waits.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};

use super::{MemoryObjectStore, SeededEntropy};
use crate::env::{BufferStores, Clock, Environment, Moment, Spawner, WallTime};

/// 2026-01-01T00:00:00Z, where the wall clock of every test begins.
const TEST_EPOCH_UNIX_MS: u64 = 1_767_225_600_000;

/// Tokio's clock, which a test may pause.
pub struct TestClock {
    origin: tokio::time::Instant,
}

impl TestClock {
    /// A clock whose origin is now. Needs a running runtime.
    #[must_use]
    pub fn start() -> Self {
        Self {
            origin: tokio::time::Instant::now(),
        }
    }
}

impl Clock for TestClock {
    fn now(&self) -> Moment {
        Moment(self.origin.elapsed())
    }

    fn wall(&self) -> WallTime {
        let elapsed_ms = u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX);
        WallTime {
            unix_ms: TEST_EPOCH_UNIX_MS.saturating_add(elapsed_ms),
        }
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        tokio::time::sleep(duration).boxed()
    }
}

/// Tokio's tasks. Computations run in place, so that a test is deterministic.
pub struct TestSpawner;

impl Spawner for TestSpawner {
    fn spawn(&self, _name: &'static str, task: BoxFuture<'static, ()>) {
        tokio::spawn(task);
    }

    fn compute(&self, job: Box<dyn FnOnce() + Send>) {
        job();
    }
}

/// A node with an empty in-memory object store; the store is returned for its script.
#[must_use]
pub fn test_environment(
    seed: u64,
    buffers: Arc<dyn BufferStores>,
) -> (Environment, Arc<MemoryObjectStore>) {
    let objects = Arc::new(MemoryObjectStore::new());
    let environment = Environment {
        clock: Arc::new(TestClock::start()),
        entropy: Arc::new(SeededEntropy::new(seed)),
        spawner: Arc::new(TestSpawner),
        objects: objects.clone(),
        buffers,
    };
    (environment, objects)
}
