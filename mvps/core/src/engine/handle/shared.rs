//! What all handles of an image share with its task.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::bases::Bases;
use crate::engine::buffer_budget::BufferShare;
use crate::engine::config::EngineConfig;
use crate::engine::host::Host;
use crate::engine::transaction_budget::TransactionBudget;
use crate::env::Environment;
use crate::ids::{ImageId, PageSize};

/// What an image's task tells its callers without being asked.
#[derive(Default)]
pub(in crate::engine) struct Gauges {
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
    /// The image's share of the room for what is buffered.
    pub(in crate::engine) buffer_share: BufferShare,
    pub(in crate::engine) transaction_budget: TransactionBudget,
    pub(in crate::engine) bases: Bases,
}
