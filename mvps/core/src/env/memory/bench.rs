//! The memory stores' node as the scripted lists of calls see it: the reference for all others.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Crash, MemoryBufferStores, SeededEntropy};
use crate::env::BufferStores;
use crate::env::conformance::BufferBench;

/// Memory buffer stores as the conformance suite drives them.
#[derive(Default)]
pub struct MemoryBench(MemoryBufferStores);

#[async_trait]
impl BufferBench for MemoryBench {
    fn stores(&self) -> Arc<dyn BufferStores> {
        Arc::new(self.0.clone())
    }

    async fn kill(&mut self) {
        self.0.crash(Crash::ProcessKill, &SeededEntropy::new(0));
    }

    async fn cut_power(&mut self, chance: &SeededEntropy) {
        self.0.crash(Crash::PowerCut, chance);
    }
}
