//! Who waits for which acknowledgement.

use crate::engine::error::EngineError;
use crate::engine::reply::{CommitRefusal, Reply, answer};
use crate::env::Moment;
use crate::ids::Lsn;
use crate::protocol::TenureCheck;

pub(super) type Waiting = Reply<(), CommitRefusal>;

/// Who waits for what.
pub(super) struct Acknowledgements {
    /// Commits up to this one survive a power cut.
    pub(super) synced: Lsn,
    pub(super) syncing: bool,
    pub(super) for_sync: Vec<(Lsn, Waiting)>,
    pub(super) for_publication: Vec<(Lsn, Waiting)>,
    /// Ready but for the tenure.
    pub(super) for_tenure: Vec<Waiting>,
    /// Ready but for a rollback, which takes them back or does not happen.
    pub(super) held: Vec<Waiting>,
    /// Want to know whether the tenure was over at that moment.
    pub(super) fencing_checks: Vec<(Moment, Waiting)>,
    pub(super) tenure: TenureCheck,
}

impl Acknowledgements {
    /// Nobody waits. Recovered commits count as not synced: a process kill leaves them unsynced.
    pub(super) fn new(tenure: TenureCheck) -> Self {
        Self {
            synced: Lsn(0),
            syncing: false,
            for_sync: Vec::new(),
            for_publication: Vec::new(),
            for_tenure: Vec::new(),
            held: Vec::new(),
            fencing_checks: Vec::new(),
            tenure,
        }
    }

    /// Whether somebody waits for a checkpoint.
    pub(super) fn wants_publication(&self) -> bool {
        !self.for_publication.is_empty()
    }

    /// Whether a sync of the buffer store is under way.
    pub(super) fn is_syncing(&self) -> bool {
        self.syncing
    }

    /// Tells everybody who waits that it failed.
    pub(super) fn fail(&mut self, error: &EngineError) {
        let durable = self
            .for_sync
            .drain(..)
            .chain(self.for_publication.drain(..));
        for reply in durable
            .map(|(_, reply)| reply)
            .chain(self.for_tenure.drain(..))
            .chain(self.held.drain(..))
            .chain(self.fencing_checks.drain(..).map(|(_, reply)| reply))
        {
            answer(reply, Err(CommitRefusal::Failed(error.clone())));
        }
    }
}

/// Takes out of `waiting` who waits for no more than `lsn`.
pub(super) fn ready(waiting: &mut Vec<(Lsn, Waiting)>, lsn: Lsn) -> Vec<Waiting> {
    let (ready, rest): (Vec<_>, Vec<_>) = std::mem::take(waiting)
        .into_iter()
        .partition(|(needed, _)| *needed <= lsn);
    *waiting = rest;
    ready.into_iter().map(|(_, reply)| reply).collect()
}
