//! The simulated stores are stores: with no fault drawn they pass the suites that real ones pass,
//! and answer lists of calls as the stores in memory do, on which they stand.
#![expect(clippy::print_stdout, reason = "this is the command line")]

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use madsim::runtime::{Handle, Runtime};
use mvps_core::env::conformance::{
    Answers, BufferBench, buffer_answers, check_buffer_stores, check_object_store,
    check_power_cuts, object_answers,
};
use mvps_core::env::memory::{
    Crash, MemoryBench, MemoryBufferStores, MemoryObjectStore, SeededEntropy,
};
use mvps_core::env::{BufferStores, ObjectStore};

use crate::environment::buffers::SimBufferStores;
use crate::environment::disk::Disk;
use crate::environment::objects::{Caller, LandingOracle, SimObjectStore, StoreService};
use crate::environment::request::Request;
use crate::environment::store_frontend::Reply;
use crate::environment::tripwire::Tripwire;
use crate::exhaustive::executor::{Executor, ProcessId};
use crate::exhaustive::process::{Shared, process};
use crate::exhaustive::workload::Shape;
use crate::journal::{Journal, Timeline};
use crate::plan::{StoreFaults, StoreProfile};
use crate::random::RandomStream;

/// Lists of calls for each store.
const SEEDS: u64 = 40;

/// Calls in a list.
const STEPS: usize = 60;

/// What takes longer than this hangs.
const LIMIT: Duration = Duration::from_hours(24);

/// Nothing is promised to anybody here.
struct NoOracle;

impl LandingOracle for NoOracle {
    fn landed(&self, _: &str, _: &Request, _: &MemoryObjectStore) {}

    fn missing(&self, _: &str, _: &str) {}

    fn trouble(&self, _: &str, _: Duration) {}

    fn sent(&self, _: &Caller, _: &Request) {}

    fn carried_out(&self, _: &Caller, _: &Request) {}

    fn answered(&self, _: &Caller, _: &Request, _: &Reply) {}

    fn damaged(&self) {}
}

/// Everything; panics at the first difference.
#[must_use]
pub fn main() -> ExitCode {
    let mut runtime = Runtime::with_seed_and_config(1, madsim::Config::default());
    runtime.set_time_limit(LIMIT);
    runtime.block_on(async {
        objects().await;
        buffers().await;
    });
    small_worlds();
    println!("the simulated stores answer as the others do: {SEEDS} lists of {STEPS} calls each");
    ExitCode::SUCCESS
}

fn store() -> (Arc<StoreService>, SimObjectStore) {
    let journal = Journal::new(Timeline::Off);
    let node = Handle::current().create_node().name("store").build();
    let profile = (StoreFaults::default(), StoreProfile::default());
    let random = RandomStream::new(1, "fidelity");
    let service = StoreService::new(node, journal.clone(), random, profile, Arc::new(NoOracle));
    // Seeds upload small objects in parts; a real store would not let them.
    service.contents().refuse_small_parts();
    let client = service.client("client", &Tripwire::new(&journal));
    (service, client)
}

async fn compare(store: &dyn ObjectStore, seed: u64) {
    let expected = object_answers(&MemoryObjectStore::new(), "p/", seed, STEPS).await;
    let answers = object_answers(store, "p/", seed, STEPS).await;
    let difference = expected.difference(&answers);
    assert_eq!(difference, None, "in memory, and simulated; seed {seed}");
}

async fn objects() {
    check_object_store(&store().1, "suite/").await;
    for seed in 0..SEEDS {
        compare(&store().1, seed).await;
    }
}

/// A simulated machine's buffer stores, without a model of what is in them.
struct SimBench {
    disk: MemoryBufferStores,
    processes: AtomicU64,
}

impl SimBench {
    fn new() -> Self {
        Self {
            disk: MemoryBufferStores::new(),
            processes: AtomicU64::new(0),
        }
    }
}

#[async_trait]
impl BufferBench for SimBench {
    fn stores(&self) -> Arc<dyn BufferStores> {
        let number = self.processes.fetch_add(1, Ordering::SeqCst);
        let journal = Journal::new(Timeline::Off);
        Arc::new(SimBufferStores {
            server: format!("alpha/{number}"),
            disk: Disk::Records(self.disk.clone()),
            node: None,
            tripwire: Tripwire::new(&journal),
            journal,
            model: None,
            random: Arc::new(RandomStream::new(number, "disk")),
            longest: Duration::from_millis(20),
            latent: Arc::default(),
            limits: None,
        })
    }

    async fn kill(&mut self) {
        self.disk.crash(Crash::ProcessKill, &SeededEntropy::new(0));
    }

    async fn cut_power(&mut self, chance: &SeededEntropy) {
        self.disk.crash(Crash::PowerCut, chance);
    }
}

async fn buffers() {
    let bench = SimBench::new();
    check_buffer_stores(&|| bench.stores()).await;
    for seed in 0..SEEDS {
        let expected = buffer_answers(&mut MemoryBench::default(), seed, STEPS).await;
        let answers = buffer_answers(&mut SimBench::new(), seed, STEPS).await;
        let difference = expected.difference(&answers);
        assert_eq!(difference, None, "in memory, and simulated; seed {seed}");
        check_power_cuts(&mut SimBench::new(), seed, 5).await;
    }
}

/// The stores of a small world's process, as it sees them.
struct WorldBench {
    shared: Shared,
    disk: MemoryBufferStores,
}

impl WorldBench {
    fn new(executor: &Executor) -> Self {
        let shared = Shared {
            shape: Shape::Small,
            handle: executor.handle(),
            objects: Arc::new(MemoryObjectStore::new()),
            log: None,
        };
        Self {
            shared,
            disk: MemoryBufferStores::new(),
        }
    }

    fn environment(&self) -> mvps_core::env::Environment {
        let name = (ProcessId(1), "first");
        process(&self.shared, name, &self.disk, None, None).environment
    }
}

#[async_trait]
impl BufferBench for WorldBench {
    fn stores(&self) -> Arc<dyn BufferStores> {
        self.environment().buffers
    }

    async fn kill(&mut self) {
        self.disk.crash(Crash::ProcessKill, &SeededEntropy::new(0));
    }

    async fn cut_power(&mut self, chance: &SeededEntropy) {
        self.disk.crash(Crash::PowerCut, chance);
    }
}

fn small_worlds() {
    for seed in 0..SEEDS {
        let mut executor = Executor::default();
        let mut bench = WorldBench::new(&executor);
        let objects = bench.environment().objects;
        let task = async move {
            let objects = object_answers(&*objects, "p/", seed, STEPS).await;
            let buffers = buffer_answers(&mut bench, seed, STEPS).await;
            bench.disk = MemoryBufferStores::new();
            check_power_cuts(&mut bench, seed, 5).await;
            [objects, buffers]
        };
        let answers = finish(&mut executor, task);
        let memory = MemoryObjectStore::new();
        let objects = object_answers(&memory, "p/", seed, STEPS).now_or_never();
        let buffers = buffer_answers(&mut MemoryBench::default(), seed, STEPS).now_or_never();
        let expected = [objects, buffers].map(|it| it.expect("memory does not wait"));
        for (expected, answers) in expected.iter().zip(&answers) {
            let difference = expected.difference(answers);
            assert_eq!(difference, None, "in memory, in a small world; seed {seed}");
        }
    }
}

/// Runs a task of a small world to its end.
fn finish(
    executor: &mut Executor,
    task: impl Future<Output = [Answers; 2]> + Send + 'static,
) -> [Answers; 2] {
    let place = Arc::new(Mutex::new(None));
    let answer = Arc::clone(&place);
    let task = async move {
        let answers = task.await;
        *answer.lock().expect("no holder panics") = Some(answers);
    };
    executor.handle().spawn(ProcessId(1), Box::pin(task));
    let ended = || place.lock().expect("no holder panics").is_some();
    executor.run(LIMIT, ended);
    let answers = place.lock().expect("no holder panics").take();
    answers.expect("it comes to an end")
}
