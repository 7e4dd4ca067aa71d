//! Lists of calls drawn from a seed: real files hold what the stores in memory hold, on which the
//! simulation stands; and power cuts leave to both a prefix that begins with everything synced.

use std::io::{Seek, SeekFrom, Write};

use async_trait::async_trait;
use mvps_core::env::EntropyExt;
use mvps_core::env::conformance::{BufferBench, buffer_answers, check_power_cuts};
use mvps_core::env::memory::{MemoryBench, SeededEntropy};
use proptest::prelude::*;

use super::super::files::journals;
use super::*;

/// The longest list.
const STEPS_MAX: usize = 50;

/// A directory; a dead process leaves it behind, and a copy of it as of that instant is used
/// from then on.
struct FjallBench {
    root: TempDir,
    left_behind: Vec<TempDir>,
    /// The active journal's number and length when something was synced last.
    synced: (u64, u64),
}

impl FjallBench {
    fn new() -> Self {
        Self {
            root: fast_directory(),
            left_behind: Vec::new(),
            synced: (0, 0),
        }
    }

    /// The active journal: its number, where it is, and how much of it was written.
    fn journal(&self) -> Option<(u64, PathBuf, u64)> {
        let database = self.root.path().join("scripted").join("fjall");
        let (number, path) = journals(&database).ok()?.pop()?;
        let bytes = fs::read(&path).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0);
        Some((number, path, used.map_or(0, |at| at as u64 + 1)))
    }
}

#[async_trait]
impl BufferBench for FjallBench {
    fn stores(&self) -> Arc<dyn BufferStores> {
        Arc::new(FjallBufferStores::new(self.root.path()))
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
        let Some((number, path, written)) = self.journal() else {
            return;
        };
        let safe = if number == self.synced.0 {
            self.synced.1
        } else {
            0
        };
        let kept = safe + chance.below(written.saturating_sub(safe) + 1);
        let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.seek(SeekFrom::Start(kept)).unwrap();
        let lost = usize::try_from(written - kept).unwrap();
        file.write_all(&vec![0; lost]).unwrap();
    }

    fn synced(&mut self) {
        if let Some((number, _, written)) = self.journal() {
            self.synced = (number, written);
        }
    }
}

fn run(future: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(future);
}

async fn compare(seed: u64, steps: usize) {
    let expected = buffer_answers(&mut MemoryBench::default(), seed, steps).await;
    let answers = buffer_answers(&mut FjallBench::new(), seed, steps).await;
    let difference = expected.difference(&answers);
    assert_eq!(difference, None, "in memory, and here; seed {seed}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn files_hold_what_memory_holds(seed in any::<u64>(), steps in 1..STEPS_MAX) {
        run(compare(seed, steps));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_leaves_a_prefix_with_everything_synced() {
    for seed in 0..8 {
        check_power_cuts(&mut FjallBench::new(), seed, 4).await;
    }
}
