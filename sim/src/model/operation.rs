//! One request, or one transaction, as the model follows it from its sending to its answer.

use std::time::Duration;

use bytes::Bytes;
use mvps_core::engine::{Acknowledge, Durability};
use mvps_core::ids::{Lsn, PageSize};

use super::content::Effect;
use super::history::BranchId;

/// One request, or one transaction.
#[derive(Debug, Default)]
pub(super) struct Operation {
    pub(super) server: String,
    pub(super) effects: Vec<Effect>,
    /// Where it was committed.
    pub(super) lsn: Option<Lsn>,
    /// In which history.
    pub(super) branch: Option<BranchId>,
    /// Its server was asked to roll back meanwhile.
    pub(super) during_rollback: bool,
    /// It was sent to be committed.
    pub(super) submitted: bool,
    /// The server's last commit when it was sent: it is committed after that.
    pub(super) sent_after: Lsn,
    /// Once it is answered: it was committed no later than this.
    pub(super) answered_at: Option<Lsn>,
    /// Nothing of it may take effect any more.
    pub(super) over: bool,
    /// It is a transaction.
    pub(super) transaction: bool,
    /// Positions that explain everything it read.
    pub(super) snapshots: Vec<(BranchId, Lsn)>,
    /// What it read, and how many of its effects came before.
    pub(super) reads: Vec<(u64, Bytes, usize)>,
    /// It was told that it holds the lock.
    pub(super) locked: bool,
    /// Somebody else's commit while it held the lock.
    pub(super) lock_broken: Option<Lsn>,
    /// Since when it waits for the object store alone, if it does, and for how many bytes of its server
    /// that had not landed then.
    pub(super) wants_store_since: Option<(Duration, u64)>,
    /// The last acknowledged commit when a flush was sent.
    pub(super) floor: Lsn,
}

/// A request as its client knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OperationId(pub u64);

/// The durability that `when` asks for.
#[must_use]
pub fn durability_of(when: Acknowledge) -> Option<Durability> {
    match when {
        Acknowledge::Buffered => None,
        Acknowledge::Durable(durability) => Some(durability),
    }
}

/// Page size in bytes.
pub(super) fn size_of(page_size: PageSize) -> u64 {
    page_size.bytes() as u64
}
