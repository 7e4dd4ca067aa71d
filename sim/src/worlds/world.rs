//! One world: a workload, a process that stops somewhere, a server that goes on, and the oracles.
//!
//! A server runs the workload, and stops at a call. Its buffer store is what the world says. Then
//! another server opens the image: on the same buffer store without anybody's help, or on an
//! empty one, where it must be refused as long as somebody is in office, and let in after a
//! takeover. What it finds must be one state of the workload (oracles 2, 3), no older than what
//! was promised (1). It writes, checkpoints and closes while what was under way lands late or
//! the first server wakes up; what it serves never changes by that (6). A third server with an
//! empty buffer store finds exactly what the second one left.

use std::cell::RefCell;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use mvps_core::engine::{EngineConfig, Host, Intent, OpeningRequest};
use mvps_core::env::memory::{MemoryBufferStores, MemoryObjectStore};
use tokio::sync::oneshot;

use super::client;
use super::environment::{Process, Shared, image_id, process};
use super::executor::{Executor, Pause, ProcessId};
use super::judge::judge;
use super::point::{Call, Point, Risk};
use super::progress::Progress;
use super::workload::{Letter, PAGES, page_size};

/// The longest that anything may take in virtual time, time-outs and repetitions included.
pub(super) const LIMIT: Duration = Duration::from_hours(1);

/// After the last operation a server is left alone for so long; nothing in it waits for longer but
/// the checkpoint by time, which is switched off.
const REST: Duration = Duration::from_secs(2);

/// What an undisturbed run shows.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    /// Every call.
    pub calls: Vec<Call>,
    /// How many calls there were when each operation began.
    pub starts: Vec<usize>,
    /// What a power cut could lose at the end.
    pub rest: Risk,
}

/// What went wrong, and what happened before.
#[derive(Debug, Clone)]
pub struct Violation {
    /// The promise, and what contradicts it.
    pub what: String,
    /// The events, if they were asked for.
    pub events: Vec<String>,
}

/// Where images are opened with.
#[must_use]
pub fn config() -> EngineConfig {
    EngineConfig {
        // No world waits for a timer: checkpoints are operations of the workload.
        checkpoint_interval: Duration::from_hours(24 * 365),
        cache_bytes: 1 << 20,
        compression: None,
        owner: "small world".to_owned(),
        ..EngineConfig::default()
    }
}

/// What every server asks for.
#[must_use]
pub fn opening_request() -> OpeningRequest {
    OpeningRequest {
        image: image_id(),
        page_size: page_size(),
        image_size_bytes: Some(PAGES << page_size().bits()),
        intent: Intent::CreateOrGrow,
    }
}

/// See the module's text.
pub(super) struct World {
    pub(super) executor: Executor,
    pub(super) shared: Shared,
    /// The server that stops.
    pub(super) first: Process,
    pub(super) progress: Arc<Progress>,
    /// Its machine's buffer stores.
    pub(super) disk: MemoryBufferStores,
}

/// Runs `word` undisturbed.
///
/// # Errors
/// If an operation fails, which none may.
pub fn trace(word: &[Letter]) -> Result<Trace, Violation> {
    let mut world = World::new(None, false);
    let outcome = world.work(word, false);
    outcome.map_err(|what| world.violated(what))?;
    let known = world.progress.known();
    Ok(Trace {
        calls: world.first.gate.calls(),
        starts: known.starts.clone(),
        rest: world.first.gate.risk(),
    })
}

/// Runs the world of `word` and `point`, whose undisturbed run was `trace`; with a log of its
/// events if that is `told`.
///
/// # Errors The first promise that does not hold.
pub fn run(
    word: &[Letter],
    trace: &Trace,
    point: Point,
    told: bool,
) -> Result<Vec<String>, Violation> {
    let mut world = World::new(Some(point), told);
    let stops = point.call < trace.calls.len();
    let worked = world.work(word, stops);
    match worked.and_then(|()| judge(&mut world, point)) {
        Ok(()) => Ok(world.events()),
        Err(what) => Err(world.violated(what)),
    }
}

impl World {
    fn new(point: Option<Point>, told: bool) -> Self {
        let executor = Executor::default();
        let shared = Shared {
            handle: executor.handle(),
            objects: Arc::new(MemoryObjectStore::new()),
            log: told.then(Arc::default),
        };
        let disk = MemoryBufferStores::new();
        let progress = Arc::new(Progress::new());
        let stop_at = point.map(|it| (it.call, it.fate));
        let name = (ProcessId(1), "first");
        let first = process(&shared, name, &disk, stop_at, Some(Arc::clone(&progress)));
        Self {
            executor,
            shared,
            first,
            progress,
            disk,
        }
    }

    fn events(&self) -> Vec<String> {
        let log = self.shared.log.as_ref();
        log.map(|log| log.lock().unwrap_or_else(PoisonError::into_inner).clone())
            .unwrap_or_default()
    }

    fn violated(&self, what: String) -> Violation {
        Violation {
            what,
            events: self.events(),
        }
    }

    /// Runs the workload until the process stops, or is at rest.
    fn work(&mut self, word: &[Letter], stops: bool) -> Result<(), String> {
        let host = Host::new(self.first.environment.clone(), config().cache_bytes);
        let gate = Arc::clone(&self.first.gate);
        let task = client::run(
            host,
            Arc::clone(&self.progress),
            Arc::clone(&gate),
            self.shared.clone(),
            word.to_vec(),
        );
        self.shared.handle.spawn(self.first.id, Box::pin(task));
        let progress = Arc::clone(&self.progress);
        let ended = || progress.known().end.is_some();
        let paused = self.executor.run(LIMIT, || gate.stopped() || ended());
        if paused == Pause::Idle {
            return Err("oracle 11 (liveness): the workload does not end".to_owned());
        }
        if !gate.stopped() {
            let rest = self.shared.handle.now() + REST;
            self.executor.run(rest, || gate.stopped());
        }
        if stops && !gate.stopped() {
            return Err("the call was not reached: a run is not like the other".to_owned());
        }
        let known = self.progress.known();
        let failed = known.end.as_ref().and_then(|end| end.as_ref().err());
        match failed {
            Some(error) => Err(format!("oracle 11 (liveness): {error}")),
            None => Ok(()),
        }
    }

    /// Runs a future as a task of `process`, to its end.
    pub(super) fn finish<T: Send + 'static>(
        &mut self,
        process: &Process,
        what: &str,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, String> {
        self.finish_as((process.id, process.name), what, future)
    }

    /// Runs a future as a task of the process of that number and name, to its end.
    pub(super) fn finish_as<T: Send + 'static>(
        &mut self,
        (id, name): (ProcessId, &'static str),
        what: &str,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, String> {
        let (send, receive) = oneshot::channel();
        let receive = RefCell::new(receive);
        let task = async move {
            // The receiver waits for as long as the world lives.
            let _ = send.send(future.await);
        };
        self.shared.handle.spawn(id, Box::pin(task));
        let deadline = self.shared.handle.now() + LIMIT;
        let outcome = RefCell::new(None);
        self.executor.run(deadline, || {
            let arrived = outcome
                .borrow()
                .is_none()
                .then(|| receive.borrow_mut().try_recv());
            if let Some(Ok(arrived)) = arrived {
                outcome.replace(Some(arrived));
            }
            outcome.borrow().is_some()
        });
        let stalled = || format!("oracle 11 (liveness): {what} does not end in {name}");
        outcome.into_inner().ok_or_else(stalled)
    }
}
