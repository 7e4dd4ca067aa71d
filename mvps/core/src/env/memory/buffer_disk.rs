//! What one simulated buffer store holds: durable content, and the operations a power cut may lose.
//!
//! Invariant: the live generations are the durable content with every logged operation applied.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::env::{
    BufferBatch, CHECKSUM_UNIT_BYTES, Entropy, EntropyExt, PageRun, RecordEntry, RecordHeader,
    RecordRef,
};
use crate::ids::{Generation, Lsn};

/// Generation of a new store.
const FIRST_GENERATION: Generation = Generation(1);

/// One generation's records and the last LSN committed to it.
#[derive(Debug, Clone, Default)]
pub(super) struct Records {
    pub(super) runs: BTreeMap<RecordRef, PageRun>,
    last_lsn: Lsn,
}

impl Records {
    fn apply(&mut self, batch: BufferBatch) {
        self.last_lsn = batch.last_lsn;
        for record in batch.records {
            let previous = self.runs.insert(record.at, record.run);
            assert!(previous.is_none(), "{:?} was committed twice", record.at);
        }
    }

    fn entries(&self) -> Vec<RecordEntry> {
        let header = |run: &PageRun| match run {
            PageRun::Data(content) => RecordHeader::Data {
                bytes: u32::try_from(content.len()).expect("a record is at most 128 KiB"),
            },
            PageRun::Hole { pages } => RecordHeader::Hole { pages: *pages },
        };
        let entry = |(at, run): (&RecordRef, &PageRun)| RecordEntry {
            at: *at,
            header: header(run),
        };
        self.runs.iter().map(entry).collect()
    }

    fn bytes(&self) -> u64 {
        let size = |run: &PageRun| match run {
            PageRun::Data(content) => content.len() as u64,
            PageRun::Hole { .. } => 0,
        };
        self.runs.values().map(size).sum()
    }
}

/// Generations as files would hold them. The last one is active; there is always one.
#[derive(Debug, Clone)]
pub(super) struct Contents {
    metadata: Option<Bytes>,
    generations: BTreeMap<Generation, Records>,
}

impl Default for Contents {
    fn default() -> Self {
        Self {
            metadata: None,
            generations: BTreeMap::from([(FIRST_GENERATION, Records::default())]),
        }
    }
}

impl Contents {
    fn apply(&mut self, operation: Operation) {
        match operation {
            Operation::Commit(generation, batch) => {
                // The generation may be dropped already: its records go the same way.
                if let Some(records) = self.generations.get_mut(&generation) {
                    records.apply(batch);
                }
            }
            Operation::Seal(next) => {
                self.generations.insert(next, Records::default());
            }
            Operation::Drop(generation) => {
                self.generations.remove(&generation);
            }
        }
    }
}

/// What a power cut can lose.
#[derive(Debug, Clone)]
pub(super) enum Operation {
    /// A batch, and where it went.
    Commit(Generation, BufferBatch),
    /// A seal that made this generation active.
    Seal(Generation),
    /// This generation was dropped.
    Drop(Generation),
}

type Live = BTreeMap<Generation, Arc<Mutex<Records>>>;

/// One buffer store's disk.
#[derive(Debug, Default)]
pub(super) struct Disk {
    durable: Contents,
    log: Vec<Operation>,
    /// How many operations were ever taken out of `log`.
    synced: u64,
    live: Live,
    rotten: BTreeMap<(Generation, RecordRef), usize>,
    pub(super) damaged: bool,
}

/// A generation as recovery presents it.
pub(super) struct Found {
    pub(super) generation: Generation,
    pub(super) records: Arc<Mutex<Records>>,
    pub(super) entries: Vec<RecordEntry>,
}

impl Disk {
    pub(super) fn new(durable: Contents) -> Self {
        Self {
            durable,
            ..Self::default()
        }
    }

    /// What is stored, unsynced operations included.
    pub(super) fn contents(&self) -> Contents {
        let mut contents = self.durable.clone();
        self.log.iter().cloned().for_each(|o| contents.apply(o));
        contents
    }

    pub(super) fn unsynced(&self) -> usize {
        self.log.len()
    }

    pub(super) fn metadata(&self) -> Option<Bytes> {
        self.durable.metadata.clone()
    }

    /// Replaces the metadata, durably, without syncing anything else.
    pub(super) fn put_metadata(&mut self, metadata: Bytes) {
        self.durable.metadata = Some(metadata);
    }

    /// Builds the live generations anew and lists them, oldest first.
    pub(super) fn recover(&mut self) -> Vec<Found> {
        let generations = self.contents().generations;
        let found: Vec<Found> = generations
            .into_iter()
            .map(|(generation, records)| Found {
                generation,
                entries: records.entries(),
                records: Arc::new(Mutex::new(records)),
            })
            .collect();
        let share = |f: &Found| (f.generation, Arc::clone(&f.records));
        self.live = found.iter().map(share).collect();
        found
    }

    /// The highest LSN in any generation.
    pub(super) fn last_lsn(&self) -> Lsn {
        let last = |r: &Arc<Mutex<Records>>| r.lock().expect("applying does not panic").last_lsn;
        self.live.values().map(last).max().unwrap_or_default()
    }

    pub(super) fn active(&self) -> (Generation, &Arc<Mutex<Records>>) {
        let (generation, records) = self.live.last_key_value().expect("one is always active");
        (*generation, records)
    }

    pub(super) fn commit(&mut self, batch: BufferBatch) {
        assert!(
            batch.last_lsn > self.last_lsn(),
            "batches come in the order of their LSNs"
        );
        let (generation, records) = self.active();
        let mut records = records.lock().expect("applying does not panic");
        records.apply(batch.clone());
        drop(records);
        self.log.push(Operation::Commit(generation, batch));
    }

    /// Makes the next generation active and returns the sealed one.
    pub(super) fn seal(&mut self) -> (Generation, Arc<Mutex<Records>>) {
        let (sealed, records) = self.active();
        let records = Arc::clone(records);
        self.live.insert(sealed.next(), Arc::default());
        self.log.push(Operation::Seal(sealed.next()));
        (sealed, records)
    }

    pub(super) fn is_sealed(&self, generation: Generation) -> bool {
        self.live.contains_key(&generation) && generation < self.active().0
    }

    pub(super) fn drop_generation(&mut self, generation: Generation) {
        self.live.remove(&generation);
        self.log.push(Operation::Drop(generation));
    }

    /// Where the log ends now, for [`Disk::sync_to`].
    pub(super) fn end(&self) -> u64 {
        self.synced + self.log.len() as u64
    }

    /// Makes everything before `end` durable.
    pub(super) fn sync_to(&mut self, end: u64) {
        let count = usize::try_from(end.saturating_sub(self.synced)).expect("within the log");
        self.synced += count as u64;
        for operation in self.log.drain(..count) {
            self.durable.apply(operation);
        }
    }

    /// How many unsynced operations there are, and whether a drop of a generation is among them.
    pub(super) fn at_risk(&self) -> (usize, bool) {
        let drops = |operation: &Operation| matches!(operation, Operation::Drop(_));
        (self.log.len(), self.log.iter().any(drops))
    }

    /// Loses a random suffix of the unsynced operations. Each unsynced drop of a generation whose
    /// seal survived is a toss-up by itself: files vanish in no particular order.
    pub(super) fn power_cut(&mut self, entropy: &dyn Entropy) {
        let kept = entropy.below(self.log.len() as u64 + 1);
        let kept = usize::try_from(kept).expect("at most the length of a vector");
        self.cut(kept, || entropy.below(2) == 1);
    }

    /// Keeps the first `kept` unsynced operations, and of the drops those that `drop_stays` says.
    pub(super) fn cut(&mut self, kept: usize, mut drop_stays: impl FnMut() -> bool) {
        let mut lost = std::mem::take(&mut self.log);
        let mut drops = Vec::new();
        for (at, operation) in lost.drain(..).enumerate() {
            match operation {
                Operation::Drop(generation) => drops.push(generation),
                operation if at < kept => self.durable.apply(operation),
                _ => {}
            }
        }
        for generation in drops {
            let active = self.durable.generations.keys().next_back().copied();
            if active.is_some_and(|a| generation < a) && drop_stays() {
                self.durable.apply(Operation::Drop(generation));
            }
        }
        let generations = &self.durable.generations;
        let kept = |generation: &Generation, at: &RecordRef| {
            let records = generations.get(generation);
            records.is_some_and(|r| r.runs.contains_key(at))
        };
        self.rotten
            .retain(|(generation, at), _| kept(generation, at));
    }

    /// Damages a random 4 KiB of a random data record.
    pub(super) fn rot(&mut self, entropy: &dyn Entropy) -> Option<(Generation, RecordRef)> {
        let contents = self.contents();
        let candidates: Vec<(Generation, RecordRef, usize)> = contents
            .generations
            .iter()
            .flat_map(|(generation, records)| {
                records.runs.iter().filter_map(|(at, run)| match run {
                    PageRun::Data(content) => Some((*generation, *at, content.len())),
                    PageRun::Hole { .. } => None,
                })
            })
            .collect();
        let chosen = usize::try_from(entropy.below(candidates.len() as u64)).ok()?;
        let (generation, at, bytes) = *candidates.get(chosen)?;
        let units = (bytes / CHECKSUM_UNIT_BYTES) as u64;
        let unit = usize::try_from(entropy.below(units)).ok()?;
        self.rotten
            .insert((generation, at), unit * CHECKSUM_UNIT_BYTES);
        Some((generation, at))
    }

    /// Offset of the damaged 4 KiB of a record.
    pub(super) fn rotten_at(&self, generation: Generation, at: RecordRef) -> Option<usize> {
        self.rotten.get(&(generation, at)).copied()
    }

    pub(super) fn bytes(&self) -> u64 {
        let bytes = |r: &Arc<Mutex<Records>>| r.lock().expect("applying does not panic").bytes();
        self.live.values().map(bytes).sum()
    }
}
