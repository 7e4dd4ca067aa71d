//! What an image's task is asked.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::buffer::{Change, RangeMap};
use super::read::{Map, OldPage, View};
use super::reply::{
    Acknowledge, CommitRefusal, Durability, Origin, Reply, RolledBack, TransactionId,
};
use super::status::ImageStatus;
use super::transaction::Pinned;
use crate::format::manifest::Manifest;
use crate::ids::Version;

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
    pub old_pages: Vec<OldPage>,
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

/// What the image's task is asked.
pub struct RollbackRequest {
    /// The version to go back to.
    pub(super) to: Box<Manifest>,
    /// Its map.
    pub(super) map: Map,
    /// Where to reply.
    pub(super) reply: Reply<RolledBack>,
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
    CheckFencing(Reply<(), CommitRefusal>),
    /// Report.
    Status(oneshot::Sender<ImageStatus>),
}
