//! What an image's task is asked to do, and what its background work reports back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::oneshot;

use super::changes::Change;
use super::error::EngineError;
use super::job::JobDone;
use super::protocol::TenureFinding;
use super::range_map::RangeMap;
use super::rollback::RollbackRequest;
use super::status::ImageStatus;
use super::transactions::{Pinned, TransactionId};
use super::view::{BasePage, View};
use crate::env::BufferError;
use crate::ids::{Generation, Lsn, Version};

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

/// Why a commit did not happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommitRefusal {
    /// The base of a patch is missing or stale: read it again through the current view.
    StaleBase,
    /// It failed.
    Failed(EngineError),
}

/// A reply to a request.
pub type Reply<T, E = EngineError> = oneshot::Sender<Result<T, E>>;

/// A commit: of one request, or of a transaction.
#[derive(Debug)]
pub struct CommitRequest {
    /// Whose.
    pub origin: Origin,
    /// The transaction it ends, with the pages that it read.
    pub transaction: Option<(TransactionId, RangeMap<()>)>,
    /// What changes, in order.
    pub changes: Vec<Change>,
    /// Old content for patches of pages that were only in object storage.
    pub bases: Vec<BasePage>,
    /// When to reply.
    pub acknowledge: Acknowledge,
    /// Where to reply.
    pub reply: Reply<(), CommitRefusal>,
}

/// A request to lock the image for one transaction.
pub struct LockRequest {
    /// Whose.
    pub origin: Origin,
    /// For which transaction.
    pub transaction: TransactionId,
    /// What it read so far.
    pub reads: RangeMap<()>,
    /// Replies with the view that the transaction continues on.
    pub reply: Reply<Arc<View>>,
}

/// Everything an image's task can be asked.
pub enum Event {
    /// Commit.
    Commit(CommitRequest),
    /// Reply once everything acknowledged so far is durable.
    Flush(Durability, Reply<(), CommitRefusal>),
    /// Begin a transaction.
    Begin(Origin, Reply<(TransactionId, Arc<Pinned>)>),
    /// Lock the image for a transaction.
    Lock(LockRequest),
    /// Forget a transaction (rolled back, or its connection is gone).
    End(TransactionId),
    /// Reply once everything sent before is committed or refused.
    Barrier(oneshot::Sender<()>),
    /// Publish everything acknowledged so far.
    Checkpoint(Reply<Version>),
    /// Grow the image.
    Grow(u64, Reply<()>),
    /// Go back to an earlier version.
    Rollback(Box<RollbackRequest>),
    /// Checkpoint, publish a clean manifest, release the buffer store.
    Close(Reply<()>),
    /// Something that the image names cannot be read: reply whether the tenure is over. Who has the
    /// image now may have let it be deleted.
    Doubt(Reply<(), CommitRefusal>),
    /// Report.
    Status(oneshot::Sender<ImageStatus>),
}

/// What background work reports.
pub enum Completion {
    /// A sync of everything up to this LSN ended.
    Synced(Lsn, Result<(), BufferError>),
    /// The publisher finished its job.
    Job(Box<JobDone>),
    /// A look at the newest manifest ended: still ours (or nobody could say), or fenced.
    Tenure(TenureFinding),
    /// A generation was spilled to the local disk.
    Spilled(Result<(), BufferError>),
    /// A drained generation was dropped.
    Dropped(Generation, Result<(), BufferError>),
}
