//! Buffer stores in memory, with the crash semantics of real ones.
//!
//! One [`MemoryBufferStores`] is the disk of one node. It outlives the processes that open stores
//! on it: [`MemoryBufferStores::crash`] ends them, and every store and handle they held is dead
//! from then on. A power cut loses a random suffix of what was not synced; a process kill loses
//! nothing. Failures are scripted, one at a time, so that a test says exactly what goes wrong.
//!
//! It is as weak as the contract allows: [`BufferStore::put_metadata`] syncs the metadata and
//! nothing else, and a dropped generation may come back until the next sync.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::buffer_disk::{Contents, Disk, Records};
use crate::env::{
    BufferBatch, BufferError, BufferHandle, BufferStore, BufferStores, BufferUsage,
    CHECKSUM_UNIT_BYTES, Clock, DiskSpace, Entropy, PageRun, RECORD_MAX_BYTES, RecordRef,
    Recovered, RecoveredGeneration,
};
use crate::ids::{Generation, ImageId};

/// How the processes of a node end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// The machine loses power: a random suffix of the unsynced operations is lost.
    PowerCut,
    /// The process is killed; what it had written stays.
    ProcessKill,
}

/// One failure, consumed by the next call it applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BufferFault {
    /// The next `commit` or `put_metadata` finds the disk full.
    DiskFull,
    /// The next `commit` or `put_metadata` fails to write.
    WriteFails,
    /// The next `sync` fails; what it should have synced stays unsynced, also after a restart.
    SyncFails,
    /// The next `seal` fails.
    SealFails,
    /// The next read of a record fails.
    ReadFails,
    /// The next `open` fails.
    OpenFails,
}

/// Something that is wrong with a store, at the instant a call meets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strike {
    /// A scripted failure.
    Fault(BufferFault),
    /// A read finds a damaged record.
    Rot,
    /// An opening finds a store that is damaged as a whole.
    Damage,
}

/// Who is told of what strikes, and of whose store.
type Watcher = Arc<dyn Fn(&ImageId, Strike) + Send + Sync>;

/// The whole content of one buffer store, as a copy of its files would hold it.
#[derive(Clone)]
pub struct BufferCopy(Contents);

/// How long calls take.
struct Delays {
    clock: Arc<dyn Clock>,
    commit: Duration,
    sync: Duration,
}

#[derive(Default)]
struct Node {
    images: BTreeMap<ImageId, Image>,
    delays: Option<Delays>,
    watcher: Option<Watcher>,
}

impl Node {
    fn strikes(&self, image: &ImageId, strike: Strike) {
        if let Some(watcher) = &self.watcher {
            watcher(image, strike);
        }
    }
}

/// One image's store and whoever has it open.
#[derive(Default)]
struct Image {
    disk: Disk,
    /// Counts the crashes; stores and handles of earlier ones are dead.
    incarnation: u64,
    open: bool,
    poisoned: Option<String>,
    faults: VecDeque<BufferFault>,
}

impl Image {
    fn take_fault(&mut self, wanted: &[BufferFault]) -> Option<BufferFault> {
        let at = self.faults.iter().position(|f| wanted.contains(f))?;
        self.faults.remove(at)
    }

    fn end_process(&mut self) {
        self.incarnation += 1;
        self.open = false;
        self.poisoned = None;
    }
}

/// The buffer stores of one node.
#[derive(Clone, Default)]
pub struct MemoryBufferStores {
    node: Arc<Mutex<Node>>,
}

impl MemoryBufferStores {
    /// A node without buffer stores.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Node> {
        self.node
            .lock()
            .expect("no holder of this lock panics but on a contract violation")
    }

    /// From now on commits and syncs take this long, a drop as long as two syncs. Half of a commit's delay passes before it is applied and half after, so that
    /// a crash meanwhile finds both outcomes.
    pub fn set_delays(&self, clock: Arc<dyn Clock>, commit: Duration, sync: Duration) {
        self.lock().delays = Some(Delays {
            clock,
            commit,
            sync,
        });
    }

    /// Ends every process on this node: all stores and handles are dead, locks are free.
    pub fn crash(&self, crash: Crash, entropy: &dyn Entropy) {
        for image in self.lock().images.values_mut() {
            image.end_process();
            if crash == Crash::PowerCut {
                image.disk.power_cut(entropy);
            }
        }
    }

    /// A power cut that keeps exactly the first `kept` unsynced operations of `image`, and its
    /// unsynced drops of generations or not: for who enumerates what [`Crash::PowerCut`] draws.
    pub fn cut_power(&self, image: &ImageId, kept: usize, drops_stay: bool) {
        if let Some(image) = self.lock().images.get_mut(image) {
            image.end_process();
            image.disk.cut(kept, || drops_stay);
        }
    }

    /// How many operations of `image` a power cut could lose now, and whether a drop of a
    /// generation is among them.
    #[must_use]
    pub fn at_risk(&self, image: &ImageId) -> (usize, bool) {
        let node = self.lock();
        let image = node.images.get(image);
        image.map_or((0, false), |it| it.disk.at_risk())
    }

    /// Adds a failure to those `image` is going to meet.
    pub fn script(&self, image: &ImageId, fault: BufferFault) {
        let mut node = self.lock();
        let image = node.images.entry(image.clone()).or_default();
        image.faults.push_back(fault);
    }

    /// `tell` is called whenever something strikes. It must not call the stores.
    pub fn watch(&self, tell: impl Fn(&ImageId, Strike) + Send + Sync + 'static) {
        self.lock().watcher = Some(Arc::new(tell));
    }

    /// Forgets all scripted failures and delays of the node.
    pub fn heal(&self) {
        let mut node = self.lock();
        node.delays = None;
        for image in node.images.values_mut() {
            image.faults.clear();
        }
    }

    /// The buffer store of `image` is gone, and with it whoever had it open.
    pub fn lose(&self, image: &ImageId) {
        if let Some(image) = self.lock().images.get_mut(image) {
            image.end_process();
            image.disk = Disk::default();
        }
    }

    /// A copy of what is stored, unsynced data included; `None` where there is no store.
    #[must_use]
    pub fn copy(&self, image: &ImageId) -> Option<BufferCopy> {
        let node = self.lock();
        let image = node.images.get(image)?;
        Some(BufferCopy(image.disk.contents()))
    }

    /// Replaces the store of `image`, or makes one, ending whoever had it open: a roll-back to an
    /// old copy, or another image's or node's store.
    pub fn restore(&self, image: &ImageId, copy: &BufferCopy) {
        let mut node = self.lock();
        let image = node.images.entry(image.clone()).or_default();
        image.end_process();
        image.disk = Disk::new(copy.0.clone());
    }

    /// Exchanges the stores of two images, ending whoever had them open.
    pub fn swap(&self, left: &ImageId, right: &ImageId) {
        let mut node = self.lock();
        let mut take = |id: &ImageId| {
            let image = node.images.entry(id.clone()).or_default();
            image.end_process();
            std::mem::take(&mut image.disk)
        };
        let (left_disk, right_disk) = (take(left), take(right));
        node.images.entry(left.clone()).or_default().disk = right_disk;
        node.images.entry(right.clone()).or_default().disk = left_disk;
    }

    /// Damages one random 4 KiB of one random data record of `image`: reads that touch it find
    /// [`BufferError::Corrupt`]. Returns which record, `None` if there is none.
    pub fn rot(&self, image: &ImageId, entropy: &dyn Entropy) -> Option<(Generation, RecordRef)> {
        let mut node = self.lock();
        node.images.get_mut(image)?.disk.rot(entropy)
    }

    /// Damages the store of `image` so that every later opening finds [`BufferError::Corrupt`],
    /// until it is lost or restored.
    pub fn damage(&self, image: &ImageId) {
        let mut node = self.lock();
        node.images.entry(image.clone()).or_default().disk.damaged = true;
    }

    /// How many operations of `image` a power cut could lose now.
    #[must_use]
    pub fn unsynced(&self, image: &ImageId) -> usize {
        let node = self.lock();
        node.images.get(image).map_or(0, |i| i.disk.unsynced())
    }
}

#[async_trait]
impl BufferStores for MemoryBufferStores {
    async fn open(&self, image: &ImageId) -> Result<Recovered, BufferError> {
        let mut node = self.lock();
        let found = node.images.entry(image.clone()).or_default();
        if found.open {
            return Err(BufferError::Locked {
                path: self.location(image),
            });
        }
        if found.take_fault(&[BufferFault::OpenFails]).is_some() {
            node.strikes(image, Strike::Fault(BufferFault::OpenFails));
            return Err(BufferError::Io {
                reason: "scripted failure of opening".to_owned(),
            });
        }
        if found.disk.damaged {
            node.strikes(image, Strike::Damage);
            return Err(BufferError::Corrupt {
                reason: format!("{} is damaged", self.location(image)),
            });
        }
        // A store that was dropped without a crash is as good as killed.
        found.end_process();
        found.open = true;
        let access = Access {
            stores: self.clone(),
            image: image.clone(),
            incarnation: found.incarnation,
        };
        let generations = found.disk.recover();
        Ok(Recovered {
            metadata: found.disk.metadata(),
            last_lsn: found.disk.last_lsn(),
            generations: generations
                .into_iter()
                .map(|found| RecoveredGeneration {
                    generation: found.generation,
                    handle: access.handle(found.generation, found.records),
                    records: found.entries,
                })
                .collect(),
            store: Arc::new(MemoryBufferStore { access }),
        })
    }

    fn space(&self) -> Option<DiskSpace> {
        None
    }

    fn location(&self, image: &ImageId) -> String {
        format!("memory:{image}")
    }
}

/// One process's hold on one image's store.
#[derive(Clone)]
struct Access {
    stores: MemoryBufferStores,
    image: ImageId,
    incarnation: u64,
}

/// What a call is about to do, and what may go wrong with it.
#[derive(Clone, Copy)]
enum Intent {
    Read,
    Write,
    Sync,
    Seal,
    Change,
}

impl Access {
    fn handle(
        &self,
        generation: Generation,
        records: Arc<Mutex<Records>>,
    ) -> Arc<dyn BufferHandle> {
        Arc::new(MemoryBufferHandle {
            access: self.clone(),
            generation,
            records,
        })
    }

    /// Runs `act` on the image, if this hold is alive and no failure stands in the way.
    fn with<T>(&self, intent: Intent, act: impl FnOnce(&mut Image) -> T) -> Result<T, BufferError> {
        let mut node = self.stores.lock();
        let image = node.images.get_mut(&self.image);
        let image = image.expect("images are never removed from a node");
        if image.incarnation != self.incarnation {
            return Err(BufferError::Poisoned {
                reason: "the process that opened this store has ended".to_owned(),
            });
        }
        let met = image.meet_fault(intent);
        if let Err((Some(fault), _)) = &met {
            node.strikes(&self.image, Strike::Fault(*fault));
        }
        met.map_err(|(_, error)| error)?;
        let image = node.images.get_mut(&self.image);
        Ok(act(image.expect("it was there just now")))
    }

    /// Waits for a share of the configured delay.
    async fn delay(&self, of: fn(&Delays) -> Duration) {
        let wait = {
            let node = self.stores.lock();
            let delays = node.delays.as_ref();
            delays.map(|d| (Arc::clone(&d.clock), of(d)))
        };
        if let Some((clock, duration)) = wait {
            clock.sleep(duration).await;
        }
    }
}

impl Image {
    /// What stands in the way of a call, and the scripted failure that it is, if it is one.
    fn meet_fault(&mut self, intent: Intent) -> Result<(), (Option<BufferFault>, BufferError)> {
        let possible: &[BufferFault] = match intent {
            Intent::Read => {
                let reason = "scripted failure of a read".to_owned();
                return match self.take_fault(&[BufferFault::ReadFails]) {
                    fault @ Some(_) => Err((fault, BufferError::Io { reason })),
                    None => Ok(()),
                };
            }
            Intent::Write => &[BufferFault::DiskFull, BufferFault::WriteFails],
            Intent::Sync => &[BufferFault::SyncFails],
            Intent::Seal => &[BufferFault::SealFails],
            Intent::Change => &[],
        };
        if let Some(reason) = &self.poisoned {
            let reason = reason.clone();
            return Err((None, BufferError::Poisoned { reason }));
        }
        let Some(fault) = self.take_fault(possible) else {
            return Ok(());
        };
        let reason = format!("scripted failure: {fault:?}");
        let error = match fault {
            BufferFault::DiskFull => BufferError::Full { reason },
            _ => {
                self.poisoned = Some(reason.clone());
                BufferError::Poisoned { reason }
            }
        };
        Err((Some(fault), error))
    }
}

struct MemoryBufferStore {
    access: Access,
}

impl Drop for MemoryBufferStore {
    fn drop(&mut self) {
        // Only this hold's lock is released; after a crash it is somebody else's or free already.
        // A panic that poisoned the mutex is already on its way to the test.
        if let Ok(mut node) = self.access.stores.node.lock()
            && let Some(image) = node.images.get_mut(&self.access.image)
            && image.incarnation == self.access.incarnation
        {
            image.open = false;
        }
    }
}

#[async_trait]
impl BufferStore for MemoryBufferStore {
    async fn commit(&self, batch: BufferBatch) -> Result<(), BufferError> {
        check_batch(&batch);
        self.access.delay(|d| d.commit / 2).await;
        self.access
            .with(Intent::Write, |image| image.disk.commit(batch))?;
        self.access.delay(|d| d.commit / 2).await;
        self.access.with(Intent::Change, |_| ())
    }

    async fn sync(&self) -> Result<(), BufferError> {
        let end = self.access.with(Intent::Change, |image| image.disk.end())?;
        self.access.delay(|d| d.sync).await;
        self.access
            .with(Intent::Sync, |image| image.disk.sync_to(end))
    }

    async fn seal(&self) -> Result<(Generation, Arc<dyn BufferHandle>), BufferError> {
        let seal = |image: &mut Image| image.disk.seal();
        let (sealed, records) = self.access.with(Intent::Seal, seal)?;
        Ok((sealed, self.access.handle(sealed, records)))
    }

    async fn active(&self) -> Result<(Generation, Arc<dyn BufferHandle>), BufferError> {
        let active = |image: &mut Image| {
            let (generation, records) = image.disk.active();
            (generation, Arc::clone(records))
        };
        let (generation, records) = self.access.with(Intent::Change, active)?;
        Ok((generation, self.access.handle(generation, records)))
    }

    async fn drop_generation(&self, generation: Generation) -> Result<(), BufferError> {
        self.access.delay(|d| d.sync * 2).await;
        self.access.with(Intent::Change, |image| {
            let sealed = image.disk.is_sealed(generation);
            assert!(sealed, "generation {generation} is not sealed");
            image.disk.drop_generation(generation);
        })
    }

    async fn put_metadata(&self, metadata: Bytes) -> Result<(), BufferError> {
        self.access.delay(|d| d.sync).await;
        self.access
            .with(Intent::Write, |image| image.disk.put_metadata(metadata))
    }

    fn usage(&self) -> BufferUsage {
        let bytes = self.access.stores.lock();
        let image = bytes.images.get(&self.access.image);
        BufferUsage {
            disk_bytes: image.map_or(0, |i| i.disk.bytes()),
        }
    }
}

/// Asserts what every batch must hold to.
fn check_batch(batch: &BufferBatch) {
    for record in &batch.records {
        assert!(
            record.at.lsn <= batch.last_lsn,
            "{:?} is later than its batch",
            record.at
        );
        match &record.run {
            PageRun::Data(content) => assert!(
                !content.is_empty()
                    && content.len() <= RECORD_MAX_BYTES
                    && content.len().is_multiple_of(CHECKSUM_UNIT_BYTES),
                "a record of {} bytes",
                content.len()
            ),
            PageRun::Hole { pages } => assert!(*pages > 0, "an empty hole"),
        }
    }
}

struct MemoryBufferHandle {
    access: Access,
    generation: Generation,
    records: Arc<Mutex<Records>>,
}

impl BufferHandle for MemoryBufferHandle {
    fn read(&self, at: RecordRef, range: Range<usize>) -> Result<Bytes, BufferError> {
        let generation = self.generation;
        let rotten = |image: &mut Image| image.disk.rotten_at(generation, at);
        let rotten = self.access.with(Intent::Read, rotten)?;
        if rotten.is_some_and(|offset| range.contains(&offset)) {
            let node = self.access.stores.lock();
            node.strikes(&self.access.image, Strike::Rot);
            return Err(BufferError::Corrupt {
                reason: format!("checksum of {at:?} in generation {generation}"),
            });
        }
        let records = self.records.lock().expect("applying does not panic");
        match records.runs.get(&at) {
            Some(PageRun::Data(content)) => {
                assert!(range.end <= content.len(), "{range:?} of {at:?}");
                Ok(content.slice(range))
            }
            Some(PageRun::Hole { .. }) | None => Err(BufferError::Corrupt {
                reason: format!("no data record {at:?} in generation {generation}"),
            }),
        }
    }
}

#[cfg(test)]
mod tests;
