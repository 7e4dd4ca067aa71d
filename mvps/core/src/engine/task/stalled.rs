//! Commits and locks that wait: for the write lock, for room in the buffer, or for the end of a
//! rollback.

use crate::engine::buffer::Change;
use crate::engine::error::EngineError;
use crate::engine::reply::{CommitRefusal, Origin, answer};
use crate::engine::request::{CommitRequest, LockRequest};

/// A request that may have to wait for its turn.
pub(super) enum Stalled {
    Commit(CommitRequest),
    Lock(LockRequest),
}

impl Stalled {
    pub(super) fn origin(&self) -> &Origin {
        match self {
            Self::Commit(request) => &request.origin,
            Self::Lock(request) => &request.origin,
        }
    }

    pub(super) fn is_revoked(&self) -> bool {
        self.origin().is_revoked() && !crate::mutant::is("revoked request committed")
    }

    /// Whether nobody waits for the answer.
    pub(super) fn is_abandoned(&self) -> bool {
        match self {
            Self::Commit(request) => request.reply.is_closed(),
            Self::Lock(request) => request.reply.is_closed(),
        }
    }

    /// What it keeps in memory.
    pub(super) fn bytes(&self) -> usize {
        let of = |change: &Change| match change {
            Change::Pages { data, .. } | Change::Patch { data, .. } => data.len(),
            Change::Hole { .. } => 0,
        };
        match self {
            Self::Commit(request) => request.changes.iter().map(of).sum(),
            Self::Lock(_) => 0,
        }
    }

    pub(super) fn refuse(self, error: EngineError) {
        match self {
            Self::Commit(request) => answer(request.reply, Err(CommitRefusal::Failed(error))),
            Self::Lock(request) => answer(request.reply, Err(error)),
        }
    }
}
