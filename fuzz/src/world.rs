//! One node's world without threads: tasks run when [`World::run`] polls them, time passes when
//! nobody can do anything else.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use mvps_core::engine::Host;
use mvps_core::env::memory::{ManualClock, MemoryBufferStores, MemoryObjectStore, SeededEntropy};
use mvps_core::env::{Environment, Spawner, WallTime};

/// How much virtual time one run may take before it counts as hung. No input asks for more than a
/// few minutes.
const TIME_MAX: Duration = Duration::from_secs(24 * 3600);

/// When the world begins: 2026-01-01T00:00:00Z, in milliseconds.
const BEGINS_UNIX_MS: u64 = 1_767_225_600_000;

/// Room for frames and leaves. Small, so that reads reach the object store.
const CACHE_BYTES: u64 = 64 * 1024;

/// Starts tasks by putting them where the world finds them.
#[derive(Clone, Default)]
pub struct Tasks(Arc<Mutex<Vec<BoxFuture<'static, ()>>>>);

impl Spawner for Tasks {
    fn spawn(&self, _name: &'static str, task: BoxFuture<'static, ()>) {
        self.0.lock().expect("one thread").push(task);
    }

    fn compute(&self, job: Box<dyn FnOnce() + Send>) {
        job();
    }
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Memory stores, a clock that stands still and tasks that run when they are asked to.
pub struct World {
    pub clock: ManualClock,
    pub tasks: Tasks,
    pub objects: Arc<MemoryObjectStore>,
    pub buffers: Arc<MemoryBufferStores>,
    pub entropy: Arc<SeededEntropy>,
    running: FuturesUnordered<BoxFuture<'static, ()>>,
}

impl World {
    /// An empty one.
    pub fn new() -> Self {
        let clock = ManualClock::new();
        clock.set_wall(WallTime {
            unix_ms: BEGINS_UNIX_MS,
        });
        Self {
            clock,
            tasks: Tasks::default(),
            objects: Arc::new(MemoryObjectStore::new()),
            buffers: Arc::new(MemoryBufferStores::new()),
            entropy: Arc::new(SeededEntropy::new(7)),
            running: FuturesUnordered::new(),
        }
    }

    /// A process in it.
    pub fn host(&self) -> Host {
        let environment = Environment {
            clock: Arc::new(self.clock.clone()),
            entropy: self.entropy.clone(),
            spawner: Arc::new(self.tasks.clone()),
            objects: self.objects.clone(),
            buffers: self.buffers.clone(),
        };
        Host::new(environment, CACHE_BYTES)
    }

    /// Ends every task, as the end of a process does.
    pub fn end_tasks(&mut self) {
        self.running = FuturesUnordered::new();
        self.tasks.0.lock().expect("one thread").clear();
    }

    /// Runs `main`, and beside it whatever was spawned, until `main` is done.
    ///
    /// # Panics
    /// If it waits for ever.
    pub fn run<T>(&mut self, main: impl Future<Output = T>) -> T {
        let mut main = pin!(main);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        let deadline = self.now().saturating_add(TIME_MAX);
        loop {
            woken.0.store(false, Ordering::Relaxed);
            if let Poll::Ready(result) = main.as_mut().poll(&mut context) {
                return result;
            }
            loop {
                let spawned = std::mem::take(&mut *self.tasks.0.lock().expect("one thread"));
                self.running.extend(spawned);
                match self.running.poll_next_unpin(&mut context) {
                    Poll::Ready(Some(())) => {}
                    Poll::Ready(None) | Poll::Pending => break,
                }
            }
            let spawned = !self.tasks.0.lock().expect("one thread").is_empty();
            if !woken.0.load(Ordering::Relaxed) && !spawned {
                assert!(
                    self.clock.advance_to_next_sleeper(),
                    "everybody waits for ever"
                );
                assert!(self.now() < deadline, "it takes for ever");
            }
        }
    }

    fn now(&self) -> Duration {
        mvps_core::env::Clock::now(&self.clock).0
    }
}

/// Lets every other task run until it waits.
pub async fn settle() {
    for _ in 0..8 {
        let mut yielded = false;
        std::future::poll_fn(|context| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }
}
