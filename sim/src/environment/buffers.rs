//! A machine's buffer stores: the memory stores of `mvps_core::env`, with time, and shown to the
//! model at the instant something happens.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use madsim::runtime::NodeHandle;
use madsim::time::sleep;
use mvps_core::engine::EngineConfig;
use mvps_core::env::{
    BufferBatch, BufferError, BufferHandle, BufferStore, BufferStores, BufferUsage, Clock,
    DiskSpace, Moment, PageRun, RecordHeader, Recovered, WallTime,
};
use mvps_core::format::buffer_metadata::BufferMetadata;
use mvps_core::ids::{Generation, ImageId, Lsn};

use super::disk::Disk;
use super::tripwire::Tripwire;
use crate::journal::{self, Journal};
use crate::model::Model;
use crate::random::RandomStream;

const COMMIT: &str = "crash: at a buffer commit";
const SYNC: &str = "crash: at a buffer sync";
const SEAL: &str = "crash: at a buffer seal";
const DROP: &str = "crash: at a buffer drop";
const METADATA: &str = "crash: at buffer metadata";

/// A call that takes that long meets a slow disk.
const SLOW_DISK: Duration = Duration::from_secs(1);

/// The disk of a machine as one of its servers sees it.
pub struct SimBufferStores {
    /// The server: machine and incarnation.
    pub server: String,
    /// The disk.
    pub disk: Disk,
    /// Where the process's tasks run; `None` if nothing of it waits for the disk.
    pub node: Option<NodeHandle>,
    /// Where it records what happens.
    pub journal: Journal,
    /// Is told, if somebody wants to know.
    pub model: Option<Arc<Model>>,
    /// Decides how long a commit or a sync takes.
    pub random: Arc<RandomStream>,
    /// How long a commit and a sync may take.
    pub longest: Duration,
    /// Where the process may stop dead.
    pub tripwire: Tripwire,
    /// What was done to the disk since a process opened it.
    pub latent: Arc<Mutex<Vec<&'static str>>>,
    /// What the server is to keep to, if somebody wants to know.
    pub limits: Option<BufferLimits>,
}

/// What a server's use of its disk is held to.
#[derive(Debug, Clone, Copy)]
pub struct BufferLimits {
    /// With so much on the disk nothing is committed.
    buffer_bytes: u64,
    /// Commits and bytes of a batch that takes no more.
    group: (usize, usize),
}

impl BufferLimits {
    /// The limits of a server with this configuration.
    #[must_use]
    pub fn of(config: &EngineConfig) -> Self {
        let limits = &config.limits;
        Self {
            buffer_bytes: config.buffer_limit_bytes,
            group: (limits.group_commits_max, limits.group_bytes_max),
        }
    }

    /// Whether a batch of several commits is as large as one may be.
    fn is_full(&self, batch: &BufferBatch) -> bool {
        let lsns: BTreeSet<Lsn> = batch.records.iter().map(|it| it.at.lsn).collect();
        let bytes = batch.records.iter().map(|record| match &record.run {
            PageRun::Data(data) => data.len(),
            PageRun::Hole { .. } => 0,
        });
        let (commits_max, bytes_max) = self.group;
        lsns.len() > 1 && (lsns.len() >= commits_max || bytes.sum::<usize>() >= bytes_max)
    }
}

/// Lets a memory store wait in simulated time; zero is no wait at all.
struct DelayClock;

impl Clock for DelayClock {
    fn now(&self) -> Moment {
        Moment(journal::now())
    }

    fn wall(&self) -> WallTime {
        WallTime::default()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        if duration.is_zero() {
            return Box::pin(std::future::ready(()));
        }
        Box::pin(sleep(duration))
    }
}

/// How much content was found.
fn bytes_of(recovered: &Recovered) -> u64 {
    let generations = recovered.generations.iter();
    let records = generations.flat_map(|generation| &generation.records);
    let bytes = records.map(|record| match record.header {
        RecordHeader::Data { bytes } => u64::from(bytes),
        RecordHeader::Hole { .. } => 0,
    });
    bytes.sum()
}

#[async_trait]
impl BufferStores for SimBufferStores {
    fn space(&self) -> Option<DiskSpace> {
        self.disk.space()
    }

    async fn open(&self, image: &ImageId) -> Result<Recovered, BufferError> {
        sleep(self.random.duration(Duration::from_millis(1), self.longest)).await;
        let found = std::mem::take(&mut *self.latent.lock().expect("nothing panics under it"));
        for fault in found {
            self.journal.fault(&self.server, fault);
        }
        let recovered = self
            .disk
            .open(image, self.node.as_ref(), &self.random, self.longest)
            .await;
        let recovered = match recovered {
            Ok(recovered) => recovered,
            Err(error) => {
                self.journal
                    .note(&self.server, format_args!("buffer open: {error}"));
                return Err(error);
            }
        };
        let mut last = BTreeMap::new();
        for generation in &recovered.generations {
            let records = generation.records.iter().map(|record| record.at.lsn);
            last.insert(generation.generation, records.max().unwrap_or_default());
        }
        self.journal.note(
            &self.server,
            format_args!(
                "buffer opened: LSN {}, generations {last:?}",
                recovered.last_lsn
            ),
        );
        if let Some(model) = &self.model {
            let metadata = recovered.metadata.as_ref();
            let noted = metadata.and_then(|it| BufferMetadata::decode(image, it).ok());
            let noted = noted.map_or(Lsn(0), |it| it.last_lsn);
            let holds_records = last.values().any(|lsn| *lsn > Lsn(0));
            let held_bytes = holds_records.then(|| bytes_of(&recovered));
            let knows = recovered.last_lsn.max(noted);
            model.recovered(&self.server, recovered.last_lsn, knows, held_bytes);
        }
        let store = SimBufferStore {
            server: self.server.clone(),
            store: recovered.store,
            disk: self.disk.clone(),
            journal: self.journal.clone(),
            model: self.model.clone(),
            random: Arc::clone(&self.random),
            longest: self.longest,
            tripwire: self.tripwire.clone(),
            limits: self.limits,
            state: Mutex::new(State {
                last_lsn: recovered.last_lsn,
                last,
            }),
        };
        Ok(Recovered {
            store: Arc::new(store),
            ..recovered
        })
    }

    fn location(&self, image: &ImageId) -> String {
        format!("{}:{image}", self.server)
    }
}

struct State {
    last_lsn: Lsn,
    /// The last LSN of each generation; the last one is active.
    last: BTreeMap<Generation, Lsn>,
}

struct SimBufferStore {
    server: String,
    store: Arc<dyn BufferStore>,
    disk: Disk,
    journal: Journal,
    model: Option<Arc<Model>>,
    random: Arc<RandomStream>,
    longest: Duration,
    tripwire: Tripwire,
    limits: Option<BufferLimits>,
    state: Mutex<State>,
}

impl SimBufferStore {
    fn note<T>(&self, what: &str, outcome: &Result<T, BufferError>) {
        match outcome {
            Ok(_) => self
                .journal
                .note(&self.server, format_args!("buffer {what}")),
            Err(error) => self
                .journal
                .note(&self.server, format_args!("buffer {what}: {error}")),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics under this lock")
    }

    /// Lets the next sync take a while.
    fn draw_sync_delay(&self) {
        let delay = self.random.duration(Duration::from_millis(1), self.longest);
        if delay >= SLOW_DISK {
            self.journal.fault(&self.server, "buffer: slow disk");
        }
        self.disk.set_sync_delay(Arc::new(DelayClock), delay);
    }

    async fn pass(&self, call: &'static str) {
        self.tripwire.pass(&self.server, call).await;
    }

    /// Nothing is committed to a disk that has as much on it as it may have (D9).
    fn check_room(&self, batch: &BufferBatch) {
        let Some(limits) = &self.limits else { return };
        let used = self.store.usage().disk_bytes;
        self.journal.checked(10);
        if used >= limits.buffer_bytes {
            self.journal.fail(
                "10 (space)",
                format_args!(
                    "{} commits LSN {} with {used} bytes on its disk, and its limit is {}",
                    self.server, batch.last_lsn, limits.buffer_bytes
                ),
            );
        }
        if limits.is_full(batch) {
            self.journal
                .mark("a group of commits was as large as it may be");
        }
    }

    async fn pause(&self) {
        if self.random.chance(500) {
            sleep(self.random.duration(Duration::from_millis(1), self.longest)).await;
        }
    }
}

#[async_trait]
impl BufferStore for SimBufferStore {
    async fn commit(&self, batch: BufferBatch) -> Result<(), BufferError> {
        self.check_room(&batch);
        self.pass(COMMIT).await;
        self.pause().await;
        let (lsn, records) = (batch.last_lsn, batch.records.len());
        // It does not wait, so the model learns of it at the instant it happens.
        let outcome = self.store.commit(batch.clone()).await;
        self.note(&format!("commit to LSN {lsn}, {records} records"), &outcome);
        if outcome.is_ok() {
            let mut state = self.state();
            state.last_lsn = lsn;
            if let Some(mut active) = state.last.last_entry() {
                active.insert(lsn);
            }
            drop(state);
            if let Some(model) = &self.model {
                model.committed(&self.server, &batch);
            }
        }
        self.pause().await;
        self.pass(COMMIT).await;
        outcome
    }

    async fn sync(&self) -> Result<(), BufferError> {
        self.pass(SYNC).await;
        let lsn = self.state().last_lsn;
        self.draw_sync_delay();
        let outcome = self.store.sync().await;
        self.note(&format!("sync to LSN {lsn}"), &outcome);
        if let (Ok(()), Some(model)) = (&outcome, &self.model) {
            model.synced(&self.server, lsn);
        }
        self.pass(SYNC).await;
        outcome
    }

    async fn seal(&self) -> Result<(Generation, Arc<dyn BufferHandle>), BufferError> {
        self.pass(SEAL).await;
        let outcome = self.store.seal().await;
        self.note("seal", &outcome);
        if outcome.is_ok() {
            let (active, _) = self.store.active().await?;
            self.state().last.insert(active, Lsn(0));
        }
        self.pass(SEAL).await;
        outcome
    }

    async fn active(&self) -> Result<(Generation, Arc<dyn BufferHandle>), BufferError> {
        self.store.active().await
    }

    async fn drop_generation(&self, generation: Generation) -> Result<(), BufferError> {
        self.pass(DROP).await;
        let last = self.state().last.get(&generation).copied();
        if let Some(model) = &self.model {
            model.dropping(&self.server, generation, last.unwrap_or_default());
        }
        let outcome = self.store.drop_generation(generation).await;
        self.note(&format!("drop generation {generation}"), &outcome);
        self.pass(DROP).await;
        outcome
    }

    async fn put_metadata(&self, metadata: Bytes) -> Result<(), BufferError> {
        self.pass(METADATA).await;
        self.draw_sync_delay();
        let outcome = self.store.put_metadata(metadata).await;
        self.note("metadata", &outcome);
        self.pass(METADATA).await;
        outcome
    }

    fn usage(&self) -> BufferUsage {
        let usage = self.store.usage();
        let is_full = |it: &BufferLimits| usage.disk_bytes >= it.buffer_bytes;
        if self.limits.as_ref().is_some_and(is_full)
            && let Some(model) = &self.model
            && model.waits_for_commit(&self.server)
        {
            self.journal.mark("writes waited at the buffer's limit");
        }
        usage
    }
}
