//! When a client is told that its request is done.
//!
//! A request that asked for durability waits for a sync of the buffer store or for a published
//! checkpoint; syncs are shared by all who wait. Whatever is ready then passes the tenure's gate
//! (protocol §3.8): a server that has not been confirmed as the active writer for a while asks
//! first.
//!
//! Invariant: what is acknowledged as durable is; nothing is acknowledged once the tenure is known
//! to be over.

use super::completion::Completion;
use super::state::ImageTask;
use super::waiting::{Waiting, ready};
use crate::engine::error::EngineError;
use crate::engine::reply::{CommitRefusal, Durability, answer};
use crate::env::Moment;
use crate::ids::Lsn;
use crate::protocol::{CheckOutcome, Gate, check_tenure};

impl ImageTask {
    /// Acknowledges once every commit up to `lsn` is durable.
    pub(super) fn settle(&mut self, reply: Waiting, durability: Durability, lsn: Lsn) {
        match durability {
            Durability::Local
                if self.acknowledgements.synced >= lsn || crate::mutant::is("ack before sync") =>
            {
                self.release(reply);
            }
            Durability::Local => {
                self.acknowledgements.for_sync.push((lsn, reply));
                self.start_sync();
            }
            Durability::ObjectStore if self.published.1 >= lsn => self.release(reply),
            Durability::ObjectStore => self.acknowledgements.for_publication.push((lsn, reply)),
        }
    }

    fn start_sync(&mut self) {
        if self.acknowledgements.syncing {
            return;
        }
        self.acknowledgements.syncing = true;
        let (buffer, report, lsn) = (self.buffer.clone(), self.report.clone(), self.lsn);
        let sync = async move {
            let outcome = buffer.sync().await;
            drop(buffer);
            // An image that is gone does not wait for it.
            let _ = report.send(Completion::Synced(lsn, outcome)).await;
        };
        self.shared
            .environment
            .spawner
            .spawn("sync buffer", Box::pin(sync));
    }

    /// A sync of everything up to `lsn` ended well.
    pub(super) fn synced(&mut self, lsn: Lsn) {
        self.acknowledgements.syncing = false;
        self.acknowledgements.synced = self.acknowledgements.synced.max(lsn);
        for reply in ready(&mut self.acknowledgements.for_sync, lsn) {
            self.release(reply);
        }
        if !self.acknowledgements.for_sync.is_empty() {
            self.start_sync();
        }
    }

    /// Everything up to `lsn` is published.
    pub(super) fn published_up_to(&mut self, lsn: Lsn) {
        for reply in ready(&mut self.acknowledgements.for_publication, lsn) {
            self.release(reply);
        }
    }

    /// Acknowledges, if the tenure is confirmed.
    pub(super) fn release(&mut self, reply: Waiting) {
        if crate::mutant::is("write acknowledged when fenced") {
            answer(reply, Ok(()));
            return;
        }
        if let Some(error) = &self.failure {
            answer(reply, Err(CommitRefusal::Failed(error.clone())));
            return;
        }
        if self.rollback.is_active() {
            // Nobody knows yet whether it is taken back.
            self.acknowledgements.held.push(reply);
            return;
        }
        match self.acknowledgements.tenure.gate(self.now()) {
            Gate::Acknowledge => answer(reply, Ok(())),
            Gate::AcknowledgeAndCheck => {
                self.start_tenure_check();
                answer(reply, Ok(()));
            }
            Gate::CheckFirst => {
                self.start_tenure_check();
                self.acknowledgements.for_tenure.push(reply);
            }
            Gate::AwaitCheck => self.acknowledgements.for_tenure.push(reply),
            Gate::Fenced => {
                let reason = "another server has the image".to_owned();
                answer(
                    reply,
                    Err(CommitRefusal::Failed(EngineError::Fenced { reason })),
                );
            }
        }
    }

    /// A rollback did not happen: who waited for its end is acknowledged as ever.
    pub(super) fn release_held(&mut self) {
        for reply in std::mem::take(&mut self.acknowledgements.held) {
            self.release(reply);
        }
    }

    /// Somebody could not read what should be there, and wants to know why.
    pub(super) fn check_fencing(&mut self, reply: Waiting) {
        if let Some(error) = &self.failure {
            answer(reply, Err(CommitRefusal::Failed(error.clone())));
            return;
        }
        let now = self.now();
        self.acknowledgements.fencing_checks.push((now, reply));
        if !self.acknowledgements.tenure.is_checking() {
            self.start_tenure_check();
        }
    }

    /// The tenure is not over, as far as a check that began at `began` could tell.
    fn settle_fencing_checks(&mut self, began: Moment) {
        let fencing_checks = std::mem::take(&mut self.acknowledgements.fencing_checks);
        let (settled, left): (Vec<_>, Vec<_>) = fencing_checks
            .into_iter()
            .partition(|(asked, _)| *asked <= began);
        for (_, reply) in settled {
            answer(reply, Ok(()));
        }
        self.acknowledgements.fencing_checks = left;
        if !self.acknowledgements.fencing_checks.is_empty() {
            self.start_tenure_check();
        }
    }

    fn start_tenure_check(&mut self) {
        let now = self.now();
        self.acknowledgements.tenure.start(now);
        let (manifests, report) = (
            self.schedule.impatient_manifests.clone(),
            self.report.clone(),
        );
        let (image, tenure, known) = (self.shared.id.clone(), self.tenure, self.published.0);
        let check = async move {
            let finding = check_tenure(&manifests, &image, tenure, known).await;
            // An image that is gone does not wait for it.
            let _ = report.send(Completion::Tenure(finding)).await;
        };
        self.shared
            .environment
            .spawner
            .spawn("check tenure", Box::pin(check));
    }

    /// A look at the newest manifest ended.
    pub(super) fn tenure_checked(&mut self, outcome: CheckOutcome, fenced_by: Option<String>) {
        let now = self.now();
        let began = self.acknowledgements.tenure.finish(outcome, now);
        if let Some(reason) = fenced_by {
            self.fail(EngineError::Fenced { reason });
            return;
        }
        self.settle_fencing_checks(began.unwrap_or(now));
        for reply in std::mem::take(&mut self.acknowledgements.for_tenure) {
            self.release(reply);
        }
    }
}
