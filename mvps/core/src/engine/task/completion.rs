//! What background work reports to the image's task.

use crate::engine::publisher::JobDone;
use crate::env::BufferError;
use crate::ids::Lsn;
use crate::protocol::TenureFinding;

/// What background work reports.
pub enum Completion {
    /// A sync of everything up to this LSN ended.
    Synced(Lsn, Result<(), BufferError>),
    /// The publisher finished its job.
    Job(Box<JobDone>),
    /// A look at the newest manifest ended: still ours (or nobody could say), or fenced.
    Tenure(TenureFinding),
    /// A drained generation was dropped.
    Dropped(Result<(), BufferError>),
}
