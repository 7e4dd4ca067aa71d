//! One small world: a server that runs a workload, and the process, disk and store under it.
//!
//! [`World::work`] runs the workload until the process stops at its call, or is at rest. Everything
//! else happens in `judge`: another server goes on, and the oracles are asked.

use std::cell::RefCell;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use mvps_core::engine::Host;
use mvps_core::env::memory::{MemoryBufferStores, MemoryObjectStore};
use tokio::sync::oneshot;

use super::client;
use super::executor::{Executor, Pause, ProcessId};
use super::point::{Call, Point, Risk};
use super::process::{Process, Shared, config, process};
use super::progress::Progress;
use super::workload::{Letter, Shape};

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

/// A world while it runs.
pub(super) struct World {
    pub(super) executor: Executor,
    pub(super) shared: Shared,
    /// The server that stops.
    pub(super) first: Process,
    pub(super) progress: Arc<Progress>,
    /// Its machine's buffer stores.
    pub(super) disk: MemoryBufferStores,
}

impl World {
    pub(super) fn new(shape: Shape, point: Option<Point>, told: bool) -> Self {
        let executor = Executor::default();
        let shared = Shared {
            shape,
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

    pub(super) fn events(&self) -> Vec<String> {
        let log = self.shared.log.as_ref();
        log.map(|log| log.lock().unwrap_or_else(PoisonError::into_inner).clone())
            .unwrap_or_default()
    }

    pub(super) fn violated(&self, what: String) -> Violation {
        Violation {
            what,
            events: self.events(),
        }
    }

    /// Runs the workload until the process stops, or is at rest.
    pub(super) fn work(&mut self, word: &[Letter], stops: bool) -> Result<(), String> {
        let config = config(self.shared.shape);
        let host = Host::new(self.first.environment.clone(), config.cache_bytes);
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
