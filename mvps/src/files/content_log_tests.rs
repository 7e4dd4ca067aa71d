//! The content log on the files of the operating system: the suites that every buffer store passes,
//! and the same answers as the store in memory gives.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use mvps_core::content_log::LogBufferStores;
use mvps_core::env::BufferStores;
use mvps_core::env::conformance::{BufferBench, buffer_answers, check_buffer_stores};
use mvps_core::env::memory::{MemoryBench, SeededEntropy};

use super::SystemFiles;
use crate::runtime::OsEntropy;

/// Small enough that short lists of calls prepare generations.
const PREPARE_BYTES: u64 = 16 << 10;

struct FolderBench(PathBuf);

#[async_trait]
impl BufferBench for FolderBench {
    fn stores(&self) -> Arc<dyn BufferStores> {
        let files = Arc::new(SystemFiles::new(&self.0));
        Arc::new(LogBufferStores::new(files, Arc::new(OsEntropy)).preparing_at(PREPARE_BYTES))
    }

    /// A process in a test cannot be killed alone: it is closed, which writes no more than a kill
    /// does. `cargo ci kill` kills it.
    async fn kill(&mut self) {}

    /// `cargo ci powercut` does.
    async fn cut_power(&mut self, _: &SeededEntropy) {}
}

#[tokio::test]
async fn the_content_log_is_a_buffer_store() {
    let folder = tempfile::tempdir().expect("a folder");
    let bench = FolderBench(folder.path().to_owned());
    check_buffer_stores(&|| bench.stores()).await;
}

#[tokio::test]
async fn the_content_log_answers_as_memory_does() {
    for seed in 0..12 {
        let folder = tempfile::tempdir().expect("a folder");
        let mut bench = FolderBench(folder.path().to_owned());
        let expected = buffer_answers(&mut MemoryBench::default(), seed, 40).await;
        let answers = buffer_answers(&mut bench, seed, 40).await;
        let difference = expected.difference(&answers);
        assert_eq!(difference, None, "in memory, and on files; seed {seed}");
    }
}
