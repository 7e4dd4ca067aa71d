//! Rollback of an open image by its server (protocol §5.5).
//!
//! Before anything is stopped the caller finds the version and opens its map, so that a version
//! that is gone or damaged disturbs nobody. Then the image's task ends all transactions, refuses
//! what is not committed, and holds answers and what comes next, while the publisher begins a new
//! tenure with the old version's map at an LSN above everything in the buffer. Once that counts,
//! everything buffered is dropped, who still waited for durability is told that it was taken back,
//! and the image goes on where that version was; connections stay.
//!
//! Invariants: no commit and no flush between the LSN that the rollback takes and its end; the
//! buffer store knows the new tenure as pending before it is published, and as confirmed before
//! anything is dropped, so a crash at any point leaves the image before or after, never between.
//!
//! Must never: acknowledge a commit that the rollback takes back after it was published; say that
//! one was taken back before that, because a crash would leave it there.

use std::sync::Arc;

use super::rollback_state::RollbackStage;
use super::state::ImageTask;
use crate::engine::error::EngineError;
use crate::engine::publisher::RollbackOrder;
use crate::engine::read::{Map, MapGuard};
use crate::engine::reply::{CommitRefusal, RolledBack, answer};
use crate::engine::request::RollbackRequest;
use crate::protocol::{CheckOutcome, TenureFinding};

/// What is said to those whose work a rollback takes back.
const ROLLED_BACK: EngineError = EngineError::Aborted {
    reason: "the image was rolled back",
};

impl ImageTask {
    /// Stops everything for a rollback.
    pub(super) fn begin_rollback(&mut self, request: Box<RollbackRequest>) {
        if let Some(error) = self.refusal() {
            answer(request.reply, Err(error));
        } else if self.rollback.is_active() {
            let reason = "another rollback is under way";
            answer(request.reply, Err(EngineError::Invalid { reason }));
        } else {
            self.transactions.abort_all("the image was rolled back");
            self.refuse_stalled(&ROLLED_BACK);
            if crate::mutant::is("rollback takes back before it is published") {
                self.acknowledgements.fail(&ROLLED_BACK);
            }
            self.schedule.refuse_checkpoints(&ROLLED_BACK);
            self.rollback.stage = RollbackStage::Wanted(request);
            self.rollback.abandon.send_replace(true);
        }
    }

    /// What the publisher does next; it is idle and a rollback is wanted.
    pub(super) fn order_rollback(&mut self) -> RollbackOrder {
        let RollbackStage::Wanted(request) = std::mem::take(&mut self.rollback.stage) else {
            unreachable!("a rollback is wanted");
        };
        let RollbackRequest { to, map, reply } = *request;
        self.rollback.stage = RollbackStage::UnderWay(reply);
        self.rollback.abandon.send_replace(false);
        let lsn = self.lsn.next();
        RollbackOrder { to, map, lsn }
    }

    /// The publisher came back from a rollback.
    pub(super) async fn rollback_done(
        &mut self,
        outcome: Result<RolledBack, EngineError>,
        map: Map,
    ) {
        let stage = std::mem::take(&mut self.rollback.stage);
        let outcome = match outcome {
            Ok(done) => self.apply_rollback(done, map).await.map(|()| done),
            Err(error) => {
                self.release_held();
                Err(error)
            }
        };
        if let RollbackStage::UnderWay(reply) = stage {
            answer(reply, outcome);
        }
        for (durability, reply) in std::mem::take(&mut self.rollback.held_flushes) {
            match &self.failure {
                Some(error) => answer(reply, Err(CommitRefusal::Failed(error.clone()))),
                None => self.settle(reply, durability, self.lsn),
            }
        }
    }

    /// Drops what is buffered and goes on with the old version's map. If it cannot, what is
    /// buffered belongs to a history that is over: nothing more may be committed on top of it.
    async fn apply_rollback(&mut self, done: RolledBack, map: Map) -> Result<(), EngineError> {
        self.acknowledgements.fail(&ROLLED_BACK);
        // First, so that the next generation finds room.
        for dropped in std::mem::take(&mut self.sealed) {
            self.drop_generation(dropped.generation);
        }
        let next = match self.next_generation().await {
            Ok(next) => next,
            Err(error) => {
                let error = EngineError::from(error);
                self.fail(error.clone());
                return Err(error);
            }
        };
        let active = std::mem::replace(&mut self.active, next);
        let publisher = self.publisher.as_mut().expect("it came back just now");
        self.tenure = publisher.tenure();
        self.size_bytes = publisher.size_bytes();
        self.guard = Arc::new(MapGuard(self.guard.0 + 1));
        publisher.reads_through(&self.guard);
        self.map = map;
        self.lsn = done.lsn;
        self.published = (done.version, done.lsn);
        self.schedule.dirty_since = None;
        self.acknowledgements.synced = self.acknowledgements.synced.max(done.lsn);
        // Those that began meanwhile saw what was taken back.
        self.transactions.abort_all("the image was rolled back");
        self.publish_view();
        self.schedule.answer_checkpoints(done.version, done.lsn);
        self.drop_generation(active.generation);
        tracing::warn!(
            image = %self.shared.id, version = %done.version, lsn = %done.lsn,
            "rolled back; the version before is {}", done.undo_version
        );
        Ok(())
    }

    /// What a look at the newest manifest means while this server itself may have put another
    /// tenure there. `None` if it means what it says.
    pub(super) fn tenure_of_rollback(&self, finding: &TenureFinding) -> Option<CheckOutcome> {
        match finding {
            // The look was sent for the tenure before the rollback, which this one ended itself.
            TenureFinding::Superseded(newest) if newest.tenure == self.tenure => {
                Some(CheckOutcome::Active)
            }
            // Its publication will tell whether that is its own new tenure.
            TenureFinding::Superseded(_) if self.rollback.is_active() => {
                Some(CheckOutcome::Unreachable)
            }
            _ => None,
        }
    }
}
