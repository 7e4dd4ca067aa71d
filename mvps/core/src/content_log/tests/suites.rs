//! The suites that every buffer store passes.

use std::sync::Arc;

use async_trait::async_trait;

use super::player::stores;
use crate::env::BufferStores;
use crate::env::conformance::{BufferBench, buffer_answers, check_buffer_stores, check_power_cuts};
use crate::env::memory::{Crash, MemoryBench, MemoryFiles, SeededEntropy};

#[derive(Default)]
struct LogBench(MemoryFiles);

#[async_trait]
impl BufferBench for LogBench {
    fn stores(&self) -> Arc<dyn BufferStores> {
        Arc::new(stores(&self.0, self.0.calls()))
    }

    async fn kill(&mut self) {
        self.0.crash(Crash::ProcessKill, &SeededEntropy::new(0));
    }

    async fn cut_power(&mut self, chance: &SeededEntropy) {
        self.0.crash(Crash::PowerCut, chance);
    }
}

#[tokio::test]
async fn it_is_a_buffer_store() {
    let bench = LogBench::default();
    check_buffer_stores(&|| bench.stores()).await;
}

#[tokio::test]
async fn it_answers_as_memory_does() {
    for seed in 0..100 {
        let expected = buffer_answers(&mut MemoryBench::default(), seed, 60).await;
        let answers = buffer_answers(&mut LogBench::default(), seed, 60).await;
        let difference = expected.difference(&answers);
        assert_eq!(difference, None, "in memory, and in the log; seed {seed}");
    }
}

#[tokio::test]
async fn a_power_cut_leaves_a_prefix() {
    for seed in 0..150 {
        check_power_cuts(&mut LogBench::default(), seed, 8).await;
    }
}
