//! Does to a store what a test says, remembers what was promised, and judges what is found.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::content_log::LogBufferStores;
use crate::env::memory::{MemoryFiles, SeededEntropy};
use crate::env::{
    BufferBatch, BufferError, BufferRecord, BufferStore, BufferStores, CHECKSUM_UNIT_BYTES,
    Entropy, EntropyExt, PageRun, RecordHeader, RecordRef, Recovered,
};
use crate::ids::{Generation, ImageId, Lsn, PageNumber};

/// One call.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// So many records, of up to so many units.
    Commit(u64, u64),
    Sync,
    Seal,
    /// The oldest sealed generation.
    Drop,
    Metadata(u8),
}

/// Something of everything, several times.
pub const SCRIPT: &[Step] = &[
    Step::Metadata(1),
    Step::Commit(1, 1),
    Step::Commit(3, 2),
    Step::Sync,
    Step::Commit(2, 4),
    Step::Seal,
    Step::Commit(1, 1),
    Step::Metadata(2),
    Step::Commit(0, 0),
    Step::Sync,
    Step::Commit(1, 3),
    Step::Drop,
    Step::Commit(2, 1),
    Step::Seal,
    Step::Commit(1, 1),
    Step::Seal,
    Step::Commit(1, 2),
    Step::Commit(1, 1),
    Step::Drop,
    Step::Metadata(3),
    Step::Commit(2, 2),
    Step::Sync,
    Step::Commit(1, 1),
];

pub fn image() -> ImageId {
    ImageId::parse("disk0").expect("a valid name")
}

/// The stores of a process on `files`; the next generation is prepared at once.
pub fn stores(files: &MemoryFiles, seed: u64) -> LogBufferStores {
    let entropy = Arc::new(SeededEntropy::new(seed));
    LogBufferStores::new(Arc::new(files.clone()), entropy).preparing_at(9000)
}

struct Batch {
    lsn: Lsn,
    records: Vec<BufferRecord>,
    generation: Generation,
    /// A drop of its generation was asked for.
    dropped: bool,
}

/// What happened to a store.
pub struct Player {
    pub files: MemoryFiles,
    entropy: SeededEntropy,
    open: Option<Recovered>,
    batches: Vec<Batch>,
    /// So many batches were acknowledged, and so many synced.
    acknowledged: usize,
    synced: usize,
    sealed: Vec<Generation>,
    metadata: Vec<Option<Bytes>>,
    next_lsn: u64,
}

impl Player {
    pub fn new(files: MemoryFiles, seed: u64) -> Self {
        Self {
            files,
            entropy: SeededEntropy::new(seed),
            open: None,
            batches: Vec::new(),
            acknowledged: 0,
            synced: 0,
            sealed: Vec::new(),
            metadata: vec![None],
            next_lsn: 1,
        }
    }

    pub fn store(&self) -> Arc<dyn BufferStore> {
        Arc::clone(&self.open.as_ref().expect("it is open").store)
    }

    pub fn close(&mut self) {
        self.open = None;
    }

    fn draw(&mut self, records: u64, units: u64) -> BufferBatch {
        let lsn = Lsn(self.next_lsn);
        self.next_lsn += 1;
        let records = (0..records).map(|number| {
            let run = match self.entropy.below(4) {
                0 => PageRun::Hole {
                    pages: 1 + self.entropy.below(9),
                },
                _ => {
                    let units = 1 + usize::try_from(self.entropy.below(units)).expect("few");
                    let mut data = vec![0; units * CHECKSUM_UNIT_BYTES];
                    self.entropy.fill(&mut data);
                    PageRun::Data(data.into())
                }
            };
            let first = PageNumber(number * 100 + self.entropy.below(50));
            BufferRecord {
                at: RecordRef { first, lsn },
                run,
            }
        });
        BufferBatch {
            last_lsn: lsn,
            records: records.collect(),
        }
    }

    pub async fn step(&mut self, step: Step) -> Result<(), BufferError> {
        let store = self.store();
        match step {
            Step::Commit(records, units) => {
                let batch = self.draw(records, units);
                let (generation, _) = store.active().await?;
                self.batches.push(Batch {
                    lsn: batch.last_lsn,
                    records: batch.records.clone(),
                    generation,
                    dropped: false,
                });
                let committed = store.commit(batch).await;
                if let Err(BufferError::Full { .. }) = committed {
                    self.batches.pop();
                }
                committed?;
                self.acknowledged = self.batches.len();
            }
            Step::Sync => {
                store.sync().await?;
                self.synced = self.acknowledged;
            }
            Step::Seal => {
                let (sealed, _) = store.seal().await?;
                self.sealed.push(sealed);
            }
            Step::Drop => {
                let Some(oldest) = self.sealed.first().copied() else {
                    return Ok(());
                };
                for batch in &mut self.batches {
                    batch.dropped |= batch.generation == oldest;
                }
                // Nothing is dropped that was not synced first.
                store.sync().await?;
                self.synced = self.acknowledged;
                store.drop_generation(oldest).await?;
                self.sealed.remove(0);
            }
            Step::Metadata(byte) => {
                let metadata = Bytes::from(vec![byte; 100 * usize::from(byte)]);
                self.metadata.push(Some(metadata.clone()));
                store.put_metadata(metadata).await?;
                let last = self.metadata.len() - 1;
                self.metadata.drain(..last);
            }
        }
        Ok(())
    }

    /// Opens the store, and judges what is in it. `lost_power`: only what was synced is promised.
    pub async fn open(&mut self, lost_power: bool) -> Result<(), BufferError> {
        self.open = None;
        let recovered = stores(&self.files, self.next_lsn).open(&image()).await?;
        self.judge(&recovered, lost_power);
        // What an opening found is synced.
        self.acknowledged = self.batches.len();
        self.synced = self.batches.len();
        let sealed = recovered.generations.iter().map(|it| it.generation);
        self.sealed = sealed.collect();
        self.sealed.pop();
        self.open = Some(recovered);
        Ok(())
    }

    /// Opens a store that may be damaged: what can be read of it is what was written. Returns the
    /// metadata.
    pub async fn open_damaged(&mut self) -> Result<Option<Bytes>, BufferError> {
        let recovered = stores(&self.files, self.next_lsn).open(&image()).await?;
        let records = self.batches.iter().flat_map(|batch| &batch.records);
        let written: BTreeMap<RecordRef, &PageRun> =
            records.map(|record| (record.at, &record.run)).collect();
        let last = self.batches[..self.synced].last().map(|it| it.lsn);
        assert!(
            last <= Some(recovered.last_lsn),
            "a synced batch was cut off"
        );
        for generation in &recovered.generations {
            for entry in &generation.records {
                let expected = *written.get(&entry.at).expect("a record that was written");
                let RecordHeader::Data { bytes } = entry.header else {
                    continue;
                };
                if let Ok(read) = generation.handle.read(entry.at, 0..bytes as usize) {
                    assert_eq!(&PageRun::Data(read), expected, "{:?}", entry.at);
                }
            }
        }
        Ok(recovered.metadata)
    }

    fn judge(&mut self, recovered: &Recovered, lost_power: bool) {
        let generations = &recovered.generations;
        let found: BTreeSet<RecordRef> = generations
            .iter()
            .flat_map(|generation| generation.records.iter().map(|it| it.at))
            .collect();
        let floor = match lost_power {
            true => self.synced,
            false => self.acknowledged,
        };
        let is_there = |batch: &Batch| {
            let mut names = batch.records.iter();
            !batch.records.is_empty() && names.all(|it| found.contains(&it.at))
        };
        let kept = self
            .batches
            .iter()
            .rposition(is_there)
            .map_or(0, |last| last + 1);
        let by_lsn = self
            .batches
            .iter()
            .take_while(|it| it.lsn <= recovered.last_lsn);
        let kept = kept.max(by_lsn.count());
        let promised = self.batches[..floor].iter();
        let promised = promised.rev().find(|it| !it.dropped).map(|it| it.lsn);
        assert!(
            promised <= Some(recovered.last_lsn),
            "{promised:?} was promised, and {} is the last: the floor is {floor}",
            recovered.last_lsn
        );
        for batch in &self.batches[..kept] {
            let there = batch
                .records
                .iter()
                .filter(|it| found.contains(&it.at))
                .count();
            let may_be_gone = batch.dropped && there == 0;
            assert!(
                may_be_gone || there == batch.records.len(),
                "{there} of {} records of {}",
                batch.records.len(),
                batch.lsn
            );
        }
        self.batches.truncate(kept);
        let known: BTreeSet<RecordRef> = self
            .batches
            .iter()
            .flat_map(|batch| batch.records.iter().map(|it| it.at))
            .collect();
        assert!(found.is_subset(&known), "more than was written");
        self.check_content(recovered);
        let metadata = self
            .metadata
            .iter()
            .position(|it| *it == recovered.metadata);
        let metadata = metadata.expect("some metadata that was put");
        self.metadata = vec![self.metadata[metadata].clone()];
        // Who comes back once may be gone the next time.
        self.batches.retain(|it| !it.dropped || is_in(&found, it));
        for batch in &mut self.batches {
            batch.dropped = false;
        }
    }

    fn check_content(&self, recovered: &Recovered) {
        for generation in &recovered.generations {
            for entry in &generation.records {
                let RecordHeader::Data { bytes } = entry.header else {
                    continue;
                };
                let read = generation.handle.read(entry.at, 0..bytes as usize);
                let read = read.unwrap_or_else(|error| panic!("{:?}: {error}", entry.at));
                let written = self.batches.iter().flat_map(|batch| &batch.records);
                let mut written = written.filter(|it| it.at == entry.at);
                let expected = written.next().map(|it| &it.run);
                assert_eq!(expected, Some(&PageRun::Data(read)), "{:?}", entry.at);
            }
        }
    }
}

fn is_in(found: &BTreeSet<RecordRef>, batch: &Batch) -> bool {
    batch.records.iter().all(|it| found.contains(&it.at))
}
