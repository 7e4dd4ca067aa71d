//! A list of calls drawn from a seed, and what a buffer store holds after them: two that are both
//! right answer the same, also after their processes were killed.
//!
//! Generations are named by their order. A generation that was dropped and not synced since may
//! come back whole; it is dropped once more, and nothing is said of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::answers::Answers;
use crate::env::memory::SeededEntropy;
use crate::env::{
    BufferBatch, BufferError, BufferRecord, BufferStores, Entropy, EntropyExt, PageRun,
    RecordHeader, RecordRef, Recovered, RecoveredGeneration,
};
use crate::ids::{Generation, ImageId, Lsn, PageNumber};

/// A node whose processes end.
#[async_trait]
pub trait BufferBench: Send {
    /// The node's buffer stores, as a new process finds them.
    fn stores(&self) -> Arc<dyn BufferStores>;

    /// The process is killed: what it had open is dead from now on.
    async fn kill(&mut self);

    /// The machine loses power: of what was not synced, the store keeps what it happens to. `chance`
    /// draws what is lost.
    async fn cut_power(&mut self, chance: &SeededEntropy);

    /// A sync or an opening was completed: [`Self::cut_power`] takes nothing of what was written so
    /// far.
    fn synced(&mut self) {}
}

/// One call. Numbers are taken modulo what there is.
#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<BufferRecord>, Lsn),
    Sync,
    Seal,
    Drop(u64),
    Metadata(Bytes),
    /// Closed and opened again.
    Reopen,
    Kill,
}

impl Step {
    /// What it asks for, without the bytes.
    fn name(&self) -> String {
        match self {
            Self::Commit(records, lsn) => format!("commit {} records to {lsn}", records.len()),
            Self::Metadata(bytes) => format!("metadata of {} bytes", bytes.len()),
            other => format!("{other:?}"),
        }
    }
}

fn image() -> ImageId {
    ImageId::parse("scripted").expect("a valid name")
}

/// A batch of one to three commits after `last`.
fn batch(entropy: &SeededEntropy, last: &mut Lsn) -> Step {
    let mut records = Vec::new();
    for _ in 0..=entropy.below(3) {
        *last = last.next();
        for first in 0..entropy.below(4) {
            let at = RecordRef {
                first: PageNumber(first * 40 + entropy.below(40)),
                lsn: *last,
            };
            let run = if entropy.below(4) == 0 {
                PageRun::Hole {
                    pages: 1 + entropy.below(1 << 40),
                }
            } else {
                let units = [1, 2, 16, 32][usize::try_from(entropy.below(4)).expect("small")];
                let mut content = vec![0; units * 4096];
                // Half of them compress to nothing.
                let random = if entropy.below(2) == 0 {
                    8
                } else {
                    content.len()
                };
                entropy.fill(&mut content[..random]);
                PageRun::Data(Bytes::from(content))
            };
            records.push(BufferRecord { at, run });
        }
    }
    Step::Commit(records, *last)
}

fn draw(entropy: &SeededEntropy, last: &mut Lsn) -> Step {
    match entropy.below(16) {
        0..=7 => batch(entropy, last),
        8..=9 => Step::Sync,
        10..=11 => Step::Seal,
        12 => Step::Drop(entropy.u64()),
        13 => {
            let length = usize::try_from(entropy.below(5000)).expect("small");
            let mut metadata = vec![0; length];
            entropy.fill(&mut metadata);
            Step::Metadata(Bytes::from(metadata))
        }
        14 => Step::Reopen,
        _ => Step::Kill,
    }
}

fn outcome(result: Result<(), BufferError>) -> String {
    match result {
        Ok(()) => "done".to_owned(),
        Err(error) => format!("{error:?}"),
    }
}

/// Everything in a generation.
fn shown(generation: &RecoveredGeneration) -> String {
    let record = |record: &crate::env::RecordEntry| {
        let at = format!("{}@{}", record.at.first.0, record.at.lsn);
        match record.header {
            RecordHeader::Hole { pages } => format!("{at} hole {pages}"),
            RecordHeader::Data { bytes } => {
                let read = generation.handle.read(record.at, 0..bytes as usize);
                match read {
                    Ok(read) => format!("{at} {bytes} {:x}", xxh3_64(&read)),
                    Err(error) => format!("{at} {error:?}"),
                }
            }
        }
    };
    let records: Vec<String> = generation.records.iter().map(record).collect();
    format!("[{}]", records.join(" "))
}

struct Player<'a> {
    bench: &'a mut dyn BufferBench,
    open: Option<Recovered>,
    /// Sealed and not dropped.
    sealed: Vec<Generation>,
    /// Dropped, and not synced since.
    may_come_back: BTreeSet<Generation>,
    /// A generation was dropped: the highest LSN may be gone with it.
    has_dropped: bool,
}

impl Player<'_> {
    fn store(&self) -> Arc<dyn crate::env::BufferStore> {
        let open = self.open.as_ref().expect("it is open between steps");
        Arc::clone(&open.store)
    }

    async fn play(&mut self, step: &Step) -> String {
        match step {
            Step::Commit(records, last_lsn) => {
                let batch = BufferBatch {
                    last_lsn: *last_lsn,
                    records: records.clone(),
                };
                outcome(self.store().commit(batch).await)
            }
            Step::Sync => {
                let synced = self.store().sync().await;
                if synced.is_ok() {
                    self.may_come_back.clear();
                    self.bench.synced();
                }
                outcome(synced)
            }
            Step::Seal => match self.store().seal().await {
                Ok((generation, _)) => {
                    self.sealed.push(generation);
                    "sealed".to_owned()
                }
                Err(error) => format!("{error:?}"),
            },
            Step::Drop(which) => match self.nth_sealed(*which) {
                None => "nothing is sealed".to_owned(),
                Some(generation) => {
                    self.sealed.retain(|it| *it != generation);
                    self.may_come_back.insert(generation);
                    self.has_dropped = true;
                    outcome(self.store().drop_generation(generation).await)
                }
            },
            Step::Metadata(bytes) => outcome(self.store().put_metadata(bytes.clone()).await),
            Step::Reopen => {
                self.open = None;
                self.reopen().await
            }
            Step::Kill => {
                self.bench.kill().await;
                self.open = None;
                self.reopen().await
            }
        }
    }

    fn nth_sealed(&self, which: u64) -> Option<Generation> {
        let count = self.sealed.len().max(1) as u64;
        let index = usize::try_from(which % count).expect("an index");
        self.sealed.get(index).copied()
    }

    /// Opens, and says what is there.
    async fn reopen(&mut self) -> String {
        let opened = self.bench.stores().open(&image()).await;
        let mut recovered = match opened {
            Ok(recovered) => recovered,
            Err(error) => return format!("{error:?}"),
        };
        let back = |it: &RecoveredGeneration| self.may_come_back.contains(&it.generation);
        let found = std::mem::take(&mut recovered.generations);
        let (back, found): (Vec<_>, Vec<_>) = found.into_iter().partition(back);
        for generation in &back {
            // Nobody asks whether it is there, so nobody asks how dropping it goes.
            let _ = recovered.store.drop_generation(generation.generation).await;
        }
        let generations: Vec<String> = found.iter().map(shown).collect();
        let lsn = match self.has_dropped {
            true => String::new(),
            false => format!("LSN {} ", recovered.last_lsn),
        };
        let metadata = recovered.metadata.as_ref().map(|it| xxh3_64(it));
        let numbers = found.iter().map(|it| it.generation);
        self.sealed = numbers.collect();
        self.sealed.pop();
        self.open = Some(recovered);
        format!("{lsn}metadata {metadata:x?} {}", generations.join(" "))
    }
}

/// Does the first `length` calls of `seed`, and opens the store once more.
pub async fn buffer_answers(bench: &mut dyn BufferBench, seed: u64, length: usize) -> Answers {
    let entropy = SeededEntropy::new(seed);
    let mut player = Player {
        bench,
        open: None,
        sealed: Vec::new(),
        may_come_back: BTreeSet::new(),
        has_dropped: false,
    };
    let mut answers = Answers::default();
    answers.add("open", player.reopen().await);
    let mut last = Lsn(0);
    let steps = (0..length).map(|_| draw(&entropy, &mut last));
    for step in steps.chain([Step::Kill, Step::Reopen]) {
        let answer = player.play(&step).await;
        answers.add(&step.name(), answer);
    }
    answers
}

/// Commits, syncs and seals as `seed` draws, cuts the power, and finds a prefix of the batches that
/// begins with everything synced; several times, each going on from what was found.
///
/// # Panics
/// If that is not what is found.
pub async fn check_power_cuts(bench: &mut dyn BufferBench, seed: u64, cuts: usize) {
    let entropy = SeededEntropy::new(seed);
    let mut batches: Vec<(Lsn, BTreeSet<RecordRef>)> = Vec::new();
    for cut in 0..cuts {
        let recovered = bench.stores().open(&image()).await;
        let recovered = recovered.unwrap_or_else(|error| panic!("{seed}, cut {cut}: {error}"));
        let found: BTreeSet<RecordRef> = recovered
            .generations
            .iter()
            .flat_map(|generation| generation.records.iter().map(|record| record.at))
            .collect();
        let kept = batches
            .iter()
            .take_while(|(lsn, _)| *lsn <= recovered.last_lsn)
            .count();
        batches.truncate(kept);
        let expected: BTreeSet<RecordRef> = batches
            .iter()
            .flat_map(|(_, names)| names)
            .copied()
            .collect();
        assert_eq!(found, expected, "{seed}, cut {cut}: no prefix");
        let mut last = recovered.last_lsn;
        // Opening syncs what it found.
        let mut synced = recovered.last_lsn;
        bench.synced();
        for _ in 0..entropy.below(30) {
            match entropy.below(8) {
                0 => {
                    recovered.store.sync().await.expect("a sync");
                    bench.synced();
                    synced = last;
                }
                1 => drop(recovered.store.seal().await.expect("a seal")),
                _ => {
                    let Step::Commit(records, last_lsn) = batch(&entropy, &mut last) else {
                        continue;
                    };
                    let names = records.iter().map(|record| record.at).collect();
                    batches.push((last_lsn, names));
                    let batch = BufferBatch { last_lsn, records };
                    recovered.store.commit(batch).await.expect("a commit");
                }
            }
        }
        bench.cut_power(&entropy).await;
        drop(recovered);
        let again = bench.stores().open(&image()).await;
        let again = again.unwrap_or_else(|error| panic!("{seed}, cut {cut}: {error}"));
        let lsn = again.last_lsn;
        assert!(
            lsn >= synced,
            "{seed}, cut {cut}: synced to {synced}, found {lsn}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::memory::MemoryBench;

    #[tokio::test]
    async fn every_kind_of_step_is_met_and_two_runs_agree() {
        let mut all = String::new();
        for seed in 0..30 {
            let answers = buffer_answers(&mut MemoryBench::default(), seed, 40).await;
            let again = buffer_answers(&mut MemoryBench::default(), seed, 40).await;
            assert_eq!(answers.difference(&again), None);
            all.push_str(&answers.to_string());
        }
        for step in [
            "commit", "Sync", "Seal", "Drop", "metadata", "Reopen", "Kill",
        ] {
            assert!(all.contains(step), "{step} was never drawn");
        }
        assert!(all.contains("hole"), "no hole was found again");
    }

    #[tokio::test]
    async fn a_power_cut_leaves_a_prefix() {
        for seed in 0..50 {
            check_power_cuts(&mut MemoryBench::default(), seed, 6).await;
        }
    }
}
