//! A process of a small world: its clock, tasks and stores, and the gate that every call passes.
//!
//! Invariant: a call changes the world at the instant it is let through and not before, so a
//! process that stops at the gate has done exactly what it had done until then. A sync covers what
//! was there when it began, and takes a while.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use mvps_core::engine::{EngineConfig, Intent, Limits, OpeningRequest};
use mvps_core::env::memory::{MemoryBufferStores, MemoryObjectStore, SeededEntropy};
use mvps_core::env::{
    BufferBatch, BufferError, BufferHandle, BufferStore, BufferStores, BufferUsage, Clock,
    DiskSpace, Environment, Moment, Recovered, Spawner, WallTime,
};
use mvps_core::ids::{Generation, ImageId};

use super::executor::{Handle, ProcessId};
use super::point::{Call, Fate, Risk};
use super::progress::Progress;
use super::workload::{Shape, page_size};
use crate::environment::request::Request;
use crate::environment::store_frontend::{Reply, RequestHandler, StoreFrontend};

/// Half of what a request to the object store takes: long enough that clients get on with
/// something while a checkpoint is under way.
const WAY: Duration = Duration::from_millis(5);

/// What a sync takes.
const SYNC: Duration = Duration::from_millis(1);

/// Wall clocks begin here: 2026-01-01.
const EPOCH_MS: u64 = 1_767_225_600_000;

/// The image that every small world is about.
#[must_use]
pub fn image_id() -> ImageId {
    ImageId::parse("disk0").expect("a valid name")
}

/// What an image of `shape` is opened with.
#[must_use]
pub fn config(shape: Shape) -> EngineConfig {
    let config = EngineConfig {
        // No world waits for a timer: checkpoints are operations of the workload.
        checkpoint_interval: Duration::from_hours(24 * 365),
        cache_bytes: 1 << 20,
        compression: None,
        owner: "small world".to_owned(),
        ..EngineConfig::default()
    };
    match shape {
        Shape::Small => config,
        Shape::Large => narrow(config),
    }
}

/// So narrow that a segment holds two pages, and that a second entry of the map's overlay is
/// compacted.
fn narrow(mut config: EngineConfig) -> EngineConfig {
    let page = page_size().bytes();
    config.limits = Limits {
        segment_content_bytes: 2 * page as u64,
        segment_batch_bytes: page,
        map_objects_max: 2,
        overlay_entries_max: 1,
        dead_bytes_worth_compaction: page as u64,
        ..Limits::default()
    };
    config.compaction.small_segments_max = 2;
    config.compaction.small_segment_bytes = page as u64;
    config
}

/// What every server asks for.
#[must_use]
pub fn opening_request(shape: Shape) -> OpeningRequest {
    OpeningRequest {
        image: image_id(),
        page_size: page_size(),
        image_size_bytes: Some(shape.image_size_bytes()),
        intent: Intent::CreateOrGrow,
    }
}

/// What all processes of a world share.
#[derive(Clone)]
pub struct Shared {
    /// The image.
    pub shape: Shape,
    /// Tasks and time.
    pub handle: Handle,
    /// The object store.
    pub objects: Arc<MemoryObjectStore>,
    /// What happened, for people; `None` if nobody wants to know.
    pub log: Option<Arc<Mutex<Vec<String>>>>,
}

impl Shared {
    /// Records that `what` happened.
    pub fn note(&self, who: &str, what: &str) {
        if let Some(log) = &self.log {
            let now = self.handle.now();
            let line = format!(
                "{:>4}.{:03} {who:<7} {what}",
                now.as_secs(),
                now.subsec_millis()
            );
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            log.push(line);
        }
    }
}

/// Counts the calls of one process, and stops it at one of them.
pub struct Gate {
    shared: Shared,
    who: &'static str,
    disk: MemoryBufferStores,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    calls: Vec<Call>,
    stop_at: Option<(usize, Fate)>,
    stopped: bool,
    late: Option<Request>,
}

/// What a call is told at the gate.
enum Verdict {
    Pass(usize),
    Stop(usize, Fate),
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every call so far.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// How many calls there were.
    #[must_use]
    pub fn count(&self) -> usize {
        self.state().calls.len()
    }

    /// The process stopped where it was told to.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.state().stopped
    }

    /// The request that is still on its way.
    #[must_use]
    pub fn take_late(&self) -> Option<Request> {
        self.state().late.take()
    }

    /// What a power cut could lose now.
    #[must_use]
    pub fn risk(&self) -> Risk {
        let (operations, drops) = self.disk.at_risk(&image_id());
        Risk { operations, drops }
    }

    fn enter(&self, what: impl FnOnce() -> String, object: bool, mutates: bool) -> Verdict {
        let risk = self.risk();
        let what = what();
        let mut state = self.state();
        let number = state.calls.len();
        self.shared.note(self.who, &format!("[{number}] {what}"));
        state.calls.push(Call {
            what,
            object,
            mutates,
            before: risk,
            after: risk,
        });
        match state.stop_at {
            Some((at, fate)) if at == number => Verdict::Stop(number, fate),
            _ => Verdict::Pass(number),
        }
    }

    fn done(&self, number: usize) {
        let risk = self.risk();
        self.state().calls[number].after = risk;
    }

    fn stop(&self, fate: Fate) {
        self.shared
            .note(self.who, &format!("STOPS here: {}", fate.name()));
        self.state().stopped = true;
    }

    /// Carries out a call of the buffer store, if the process lives.
    async fn local<T>(
        &self,
        what: impl FnOnce() -> String,
        mutates: bool,
        call: impl Future<Output = T>,
    ) -> T {
        let (number, fate) = match self.enter(what, false, mutates) {
            Verdict::Pass(number) => (number, None),
            Verdict::Stop(number, fate) => (number, Some(fate)),
        };
        match fate {
            None => {}
            Some(Fate::Landed) => {
                let _ = call.await;
                self.stop(Fate::Landed);
                return std::future::pending().await;
            }
            Some(fate) => {
                self.stop(fate);
                self.asleep(fate).await;
            }
        }
        let outcome = call.await;
        self.done(number);
        outcome
    }

    /// A process that sleeps goes on when it is polled again; a dead one never is.
    async fn asleep(&self, fate: Fate) {
        if !fate.sleeps() {
            return std::future::pending().await;
        }
        let mut slept = false;
        std::future::poll_fn(|context| {
            if std::mem::replace(&mut slept, true) {
                return std::task::Poll::Ready(());
            }
            context.waker().wake_by_ref();
            std::task::Poll::Pending
        })
        .await;
    }
}

/// One process of a world.
pub struct Process {
    /// Its number.
    pub id: ProcessId,
    /// Its name.
    pub name: &'static str,
    /// The environment that its code sees.
    pub environment: Environment,
    /// Its gate.
    pub gate: Arc<Gate>,
}

/// Starts a process with `disk`. It stops at a call if it is told to; `progress` hears of commits.
#[must_use]
pub fn process(
    shared: &Shared,
    (id, name): (ProcessId, &'static str),
    disk: &MemoryBufferStores,
    stop_at: Option<(usize, Fate)>,
    progress: Option<Arc<Progress>>,
) -> Process {
    let gate = Arc::new(Gate {
        shared: shared.clone(),
        who: name,
        disk: disk.clone(),
        state: Mutex::new(State {
            stop_at,
            ..State::default()
        }),
    });
    let clock = Arc::new(VirtualClock(shared.handle.clone()));
    disk.set_delays(Arc::clone(&clock) as _, Duration::ZERO, SYNC);
    let environment = Environment {
        clock,
        entropy: Arc::new(SeededEntropy::new(u64::from(id.0))),
        spawner: Arc::new(ExecutorSpawner(shared.handle.clone(), id)),
        objects: Arc::new(StoreFrontend(GatedObjects(Arc::clone(&gate)))),
        buffers: Arc::new(GatedBuffers {
            gate: Arc::clone(&gate),
            disk: disk.clone(),
            progress,
        }),
    };
    Process {
        id,
        name,
        environment,
        gate,
    }
}

struct VirtualClock(Handle);

impl Clock for VirtualClock {
    fn now(&self) -> Moment {
        Moment(self.0.now())
    }

    fn wall(&self) -> WallTime {
        let elapsed = u64::try_from(self.0.now().as_millis()).unwrap_or(u64::MAX / 2);
        WallTime {
            unix_ms: EPOCH_MS + elapsed,
        }
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        if duration.is_zero() {
            return Box::pin(std::future::ready(()));
        }
        Box::pin(self.0.sleep(duration))
    }
}

struct ExecutorSpawner(Handle, ProcessId);

impl Spawner for ExecutorSpawner {
    fn spawn(&self, _name: &'static str, task: BoxFuture<'static, ()>) {
        self.0.spawn(self.1, task);
    }

    fn compute(&self, job: Box<dyn FnOnce() + Send>) {
        job();
    }
}

struct GatedObjects(Arc<Gate>);

#[async_trait]
impl RequestHandler for GatedObjects {
    async fn handle(&self, request: Request) -> Reply {
        let shared = &self.0.shared;
        shared.handle.sleep(WAY).await;
        let what = || format!("{} {}", request.kind().name(), request.key());
        let (number, fate) = match self.0.enter(what, true, request.mutates()) {
            Verdict::Pass(number) => (number, None),
            Verdict::Stop(number, fate) => (number, Some(fate)),
        };
        if let Some(fate) = fate {
            match fate {
                Fate::Landed => {
                    let _ = request.clone().carry_out(&*shared.objects).await;
                }
                Fate::LateAfterOpening | Fate::LateAfterCheckpoint => {
                    self.0.state().late = Some(request.clone());
                }
                _ => {}
            }
            self.0.stop(fate);
            self.0.asleep(fate).await;
        }
        let reply = request.carry_out(&*shared.objects).await;
        self.0.done(number);
        shared.handle.sleep(WAY).await;
        reply
    }
}

struct GatedBuffers {
    gate: Arc<Gate>,
    disk: MemoryBufferStores,
    progress: Option<Arc<Progress>>,
}

#[async_trait]
impl BufferStores for GatedBuffers {
    async fn open(&self, image: &ImageId) -> Result<Recovered, BufferError> {
        let what = || "buffer open".to_owned();
        let recovered = self.gate.local(what, false, self.disk.open(image)).await?;
        let store = GatedBuffer {
            gate: Arc::clone(&self.gate),
            store: recovered.store,
            progress: self.progress.clone(),
        };
        Ok(Recovered {
            store: Arc::new(store),
            ..recovered
        })
    }

    fn location(&self, image: &ImageId) -> String {
        self.disk.location(image)
    }

    fn space(&self) -> Option<DiskSpace> {
        self.disk.space()
    }
}

struct GatedBuffer {
    gate: Arc<Gate>,
    store: Arc<dyn BufferStore>,
    progress: Option<Arc<Progress>>,
}

#[async_trait]
impl BufferStore for GatedBuffer {
    async fn commit(&self, batch: BufferBatch) -> Result<(), BufferError> {
        let what = || format!("buffer commit to LSN {}", batch.last_lsn);
        let lsns: Vec<_> = batch.records.iter().map(|record| record.at.lsn).collect();
        let commit = async {
            let outcome = self.store.commit(batch.clone()).await;
            if let (Ok(()), Some(progress)) = (&outcome, &self.progress) {
                progress.committed(&lsns);
            }
            outcome
        };
        self.gate.local(what, true, commit).await
    }

    async fn sync(&self) -> Result<(), BufferError> {
        let what = || "buffer sync".to_owned();
        self.gate.local(what, true, self.store.sync()).await
    }

    async fn seal(&self) -> Result<(Generation, Arc<dyn BufferHandle>), BufferError> {
        let what = || "buffer seal".to_owned();
        self.gate.local(what, true, self.store.seal()).await
    }

    async fn active(&self) -> Result<(Generation, Arc<dyn BufferHandle>), BufferError> {
        let what = || "buffer active".to_owned();
        self.gate.local(what, false, self.store.active()).await
    }

    async fn drop_generation(&self, generation: Generation) -> Result<(), BufferError> {
        let what = || format!("buffer drop {generation}");
        let drop = self.store.drop_generation(generation);
        self.gate.local(what, true, drop).await
    }

    async fn put_metadata(&self, metadata: Bytes) -> Result<(), BufferError> {
        let what = || "buffer metadata".to_owned();
        let put = self.store.put_metadata(metadata);
        self.gate.local(what, true, put).await
    }

    fn usage(&self) -> BufferUsage {
        self.store.usage()
    }
}
