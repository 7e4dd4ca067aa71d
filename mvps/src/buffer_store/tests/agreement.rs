//! Lists of calls drawn from a seed: real files hold what the stores in memory hold, on which the
//! simulation stands; and power cuts leave to both a prefix that begins with everything synced.

use std::io::{Seek, SeekFrom, Write};

use async_trait::async_trait;
use mvps_core::env::EntropyExt;
use mvps_core::env::conformance::{BufferBench, buffer_answers, check_power_cuts};
use mvps_core::env::memory::{MemoryBench, SeededEntropy};
use proptest::prelude::*;

use super::super::files::journals;
use super::super::journal::{JournalReader, Step};
use super::*;

/// The longest list.
const STEPS_MAX: usize = 50;

/// A directory; a dead process leaves it behind, and a copy of it as of that instant is used
/// from then on.
struct FjallBench {
    root: TempDir,
    left_behind: Vec<TempDir>,
    /// The active journal's file and length when something was synced last.
    synced: (PathBuf, u64),
    generations_max: u64,
}

impl FjallBench {
    fn new(generations_max: u64) -> Self {
        Self {
            root: fast_directory(),
            left_behind: Vec::new(),
            synced: (PathBuf::new(), 0),
            generations_max,
        }
    }

    /// The active journal of the active database: its file below the root, where that is, and how
    /// much of it was written.
    fn journal(&self) -> Option<(PathBuf, PathBuf, u64)> {
        let layout = Layout {
            image: self.root.path().join("scripted"),
        };
        let complete = |number: &DatabaseNumber| layout.is_complete(*number).unwrap();
        let active = layout.databases().ok()?.into_iter().rfind(complete)?;
        let (_, path) = journals(&layout.database(active)).ok()?.pop()?;
        let name = path.strip_prefix(self.root.path()).unwrap().to_owned();
        let written = journal_bytes(&path).len() as u64;
        Some((name, path, written))
    }
}

#[async_trait]
impl BufferBench for FjallBench {
    fn stores(&self) -> Arc<dyn BufferStores> {
        Arc::new(FjallBufferStores::new(self.root.path()).of(self.generations_max))
    }

    async fn kill(&mut self) {
        // What is made in the background is there, or the copy would be of several instants.
        settle().await;
        let copy = fast_directory();
        copy_directory(self.root.path(), copy.path());
        self.left_behind
            .push(std::mem::replace(&mut self.root, copy));
    }

    async fn cut_power(&mut self, chance: &SeededEntropy) {
        self.kill().await;
        let Some((name, path, written)) = self.journal() else {
            return;
        };
        let safe = if name == self.synced.0 {
            self.synced.1
        } else {
            // A journal begins with a batch that is synced.
            let bytes = journal_bytes(&path);
            match JournalReader::new(bytes.as_slice(), 0).step().unwrap() {
                Step::Batch(first) => first.end,
                other => panic!("{}: {other:?}", path.display()),
            }
        };
        let kept = safe + chance.below(written.saturating_sub(safe) + 1);
        let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.seek(SeekFrom::Start(kept)).unwrap();
        let lost = usize::try_from(written - kept).unwrap();
        file.write_all(&vec![0; lost]).unwrap();
    }

    fn synced(&mut self) {
        if let Some((name, _, written)) = self.journal() {
            self.synced = (name, written);
        }
    }
}

fn run(future: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(future);
}

async fn compare(seed: u64, steps: usize, max: u64) {
    let expected = buffer_answers(&mut MemoryBench::default(), seed, steps).await;
    let answers = buffer_answers(&mut FjallBench::new(max), seed, steps).await;
    let difference = expected.difference(&answers);
    assert_eq!(difference, None, "in memory, and here; seed {seed}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn files_hold_what_memory_holds(
        seed in any::<u64>(),
        steps in 1..STEPS_MAX,
        max in prop_oneof![1..4_u64, Just(GENERATIONS_MAX)],
    ) {
        run(compare(seed, steps, max));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_leaves_a_prefix_with_everything_synced() {
    for seed in 0..8 {
        let max = [1, 2, GENERATIONS_MAX][seed as usize % 3];
        check_power_cuts(&mut FjallBench::new(max), seed, 4).await;
    }
}
