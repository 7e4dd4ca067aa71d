//! Tasks on tokio's workers, and computations on its blocking threads.
//!
//! Invariant: at most `cores` computations run at once, in the order they were asked for; more of
//! them would only take the processor from the tasks that serve requests. How many may *wait* is
//! bounded by those who ask, each of which has its own named limit.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use mvps_core::env::Spawner;
use tokio::runtime::Handle;

type Job = Box<dyn FnOnce() + Send>;

/// Spawns on one tokio runtime.
#[derive(Clone)]
pub struct TokioSpawner {
    runtime: Handle,
    pool: Arc<ComputePool>,
}

struct ComputePool {
    cores: usize,
    state: Mutex<ComputeState>,
}

#[derive(Default)]
struct ComputeState {
    /// Blocking threads that are running jobs now; at most `cores`.
    running: usize,
    /// Jobs that found all of them busy. Empty whenever `running < cores`.
    waiting: VecDeque<Job>,
}

impl TokioSpawner {
    /// A spawner on the runtime of the caller, with a compute pool of `cores` threads.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn current(cores: NonZeroUsize) -> Self {
        let pool = ComputePool {
            cores: cores.get(),
            state: Mutex::default(),
        };
        Self {
            runtime: Handle::current(),
            pool: Arc::new(pool),
        }
    }
}

impl Spawner for TokioSpawner {
    fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>) {
        self.runtime.spawn(async move {
            // The panic hook has written what and where; this names the task that is gone.
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                tracing::error!(task = name, "a task panicked; this is a bug in mvps");
            }
        });
    }

    fn compute(&self, job: Job) {
        let mut state = self.pool.lock();
        if state.running == self.pool.cores {
            state.waiting.push_back(job);
            return;
        }
        state.running += 1;
        drop(state);
        let pool = Arc::clone(&self.pool);
        self.runtime.spawn_blocking(move || pool.run_from(job));
    }
}

impl ComputePool {
    fn lock(&self) -> MutexGuard<'_, ComputeState> {
        // Nothing under this lock can leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `job`, then whatever waits, then gives the thread back.
    fn run_from(&self, first: Job) {
        let mut next = Some(first);
        while let Some(job) = next {
            if catch_unwind(AssertUnwindSafe(job)).is_err() {
                tracing::error!("a computation panicked; this is a bug in mvps");
            }
            let mut state = self.lock();
            next = state.waiting.pop_front();
            if next.is_none() {
                state.running -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use mvps_core::env::SpawnerExt as _;

    use super::*;

    const CORES: NonZeroUsize = NonZeroUsize::new(2).expect("two is not zero");

    #[tokio::test]
    async fn no_more_computations_at_once_than_cores() {
        let spawner = TokioSpawner::current(CORES);
        let now = Arc::new(AtomicUsize::new(0));
        let peak = Arc::new(AtomicUsize::new(0));
        let jobs = (0..20).map(|_| {
            let (now, peak) = (Arc::clone(&now), Arc::clone(&peak));
            spawner.run(move || {
                peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(2));
                now.fetch_sub(1, Ordering::SeqCst);
            })
        });
        futures_util::future::join_all(jobs).await;
        assert_eq!(peak.load(Ordering::SeqCst), CORES.get());
    }

    #[tokio::test]
    async fn a_panic_costs_the_pool_no_thread() {
        let spawner = TokioSpawner::current(NonZeroUsize::MIN);
        for _ in 0..3 {
            spawner.compute(Box::new(|| panic!("expected in this test")));
        }
        assert_eq!(spawner.run(|| 7).await, 7);
    }
}
