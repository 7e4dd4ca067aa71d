//! What requests to an image have in common: how far they must come, whose they are, and how they are
//! answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::oneshot;

use super::error::EngineError;
use crate::ids::{Lsn, Version};

/// How far a durable request must have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// In the buffer store, synced: survives a power cut as long as the buffer store does.
    #[default]
    Local,
    /// In a published checkpoint: survives the loss of the machine.
    ObjectStore,
}

/// When a mutation is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledge {
    /// Once it is committed to the buffer store: survives a process kill.
    Buffered,
    /// Once it is durable.
    Durable(Durability),
}

/// Marks the requests of one connection, so that all of them can be cancelled at once.
#[derive(Debug, Clone, Default)]
pub struct Origin(Arc<AtomicBool>);

impl Origin {
    /// Nothing of this origin that is not committed yet may take effect any more.
    pub fn revoke(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether it was revoked.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Number of a transaction within one open image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TransactionId(pub u64);

/// A rollback that was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RolledBack {
    /// The version that has the old content now.
    pub version: Version,
    /// The version before it: rolling back to that undoes this.
    pub undo_version: Version,
    /// The LSN of the rollback.
    pub lsn: Lsn,
}

/// Why a commit did not happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommitRefusal {
    /// The old page of a patch is missing or stale: read it again through the current view.
    StaleOldPage,
    /// It failed.
    Failed(EngineError),
}

/// A reply to a request.
pub type Reply<T, E = EngineError> = oneshot::Sender<Result<T, E>>;

/// Replies, to somebody who may not wait any more.
pub(super) fn answer<T, E>(reply: Reply<T, E>, outcome: Result<T, E>) {
    let _ = reply.send(outcome);
}

/// The outcome of a request whose task may be gone, and which has no stale old page.
pub(super) fn unrefused(
    answer: Result<Result<(), CommitRefusal>, oneshot::error::RecvError>,
) -> Result<(), EngineError> {
    match answer {
        Ok(Ok(())) => Ok(()),
        Ok(Err(CommitRefusal::Failed(error))) => Err(error),
        Ok(Err(CommitRefusal::StaleOldPage)) => unreachable!("only patches have old pages"),
        Err(_) => Err(EngineError::Closed),
    }
}
