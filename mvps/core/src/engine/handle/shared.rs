//! What all handles of an image share with its task.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use super::bases::Bases;
use crate::engine::config::EngineConfig;
use crate::engine::host::Host;
use crate::engine::transaction_budget::TransactionBudget;
use crate::env::Environment;
use crate::ids::{ImageId, PageSize};

/// What an image's task tells its callers without being asked.
#[derive(Default)]
pub(in crate::engine) struct Gauges {
    /// Bytes that the buffer takes, for backpressure.
    pub(in crate::engine) buffered_bytes: AtomicU64,
    /// From the attempt to publish it clean on: another server may be the active writer.
    pub(in crate::engine) closed: AtomicBool,
}

/// What all clones of an image share.
pub(in crate::engine) struct Shared {
    pub(in crate::engine) id: ImageId,
    pub(in crate::engine) page_size: PageSize,
    pub(in crate::engine) config: EngineConfig,
    pub(in crate::engine) environment: Environment,
    pub(in crate::engine) host: Host,
    pub(in crate::engine) gauges: Arc<Gauges>,
    pub(in crate::engine) transaction_budget: TransactionBudget,
    pub(in crate::engine) bases: Bases,
}
