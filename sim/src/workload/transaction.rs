//! Transactions of a client.

use mvps_core::engine::{EngineError, Transaction, WINDOW_FULL};

use super::client::{Client, brief};
use crate::model::ViewBasis;
use crate::model::content::Effect;
use crate::model::operation::{OperationId, durability_of};

/// Most steps of a transaction.
const STEPS_MAX: u64 = 8;

impl Client {
    /// Begins, does something, and commits or rolls back. A conflict is no error.
    pub(super) async fn transact(&self) -> Result<(), EngineError> {
        let model = &self.site.model;
        let id = model.next_operation();
        model.transaction(id, &self.server);
        let window = model.read_sent(&self.server);
        let mut basis = model.view_basis(&self.server);
        let transaction = match self.attachment.begin().await {
            Ok(transaction) => transaction,
            Err(error) => return self.ended(id, error),
        };
        basis = basis.until(model.view_basis(&self.server));
        model.snapshot(id, window, false);
        self.note(format_args!("{} begun", id.0));
        let locks_at = if self.random.chance(300) {
            self.random.below(STEPS_MAX)
        } else {
            STEPS_MAX
        };
        for step in 0..self.random.within(1..STEPS_MAX + 1) {
            let outcome = if step == locks_at {
                // It goes on with a newer view.
                let before = model.view_basis(&self.server);
                let outcome = self.lock(id, &transaction).await;
                basis = before.until(model.view_basis(&self.server));
                outcome
            } else {
                self.step_within(id, &transaction, &basis).await
            };
            match outcome {
                Ok(()) | Err(EngineError::TransactionTooLarge { .. }) => {}
                Err(error) => {
                    let ended = self.ended(id, error);
                    drop(transaction);
                    return ended;
                }
            }
            self.linger().await;
        }
        if self.random.chance(200) {
            self.note(format_args!("{} rolled back", id.0));
            model.over(id);
            drop(transaction);
            return Ok(());
        }
        let when = self.when();
        self.note(format_args!("{} commit {when:?}", id.0));
        model.commits(id);
        match transaction.commit(when).await {
            Ok(()) => self.answered(id, durability_of(when), Ok(())),
            Err(error) => self.ended(id, error),
        }
    }

    async fn lock(&self, id: OperationId, transaction: &Transaction) -> Result<(), EngineError> {
        let window = self.site.model.read_sent(&self.server);
        self.note(format_args!("{} lock", id.0));
        transaction.lock().await?;
        self.note(format_args!("{} locked", id.0));
        self.site.model.snapshot(id, window, true);
        self.site.journal.mark("a lock was granted");
        Ok(())
    }

    async fn step_within(
        &self,
        id: OperationId,
        transaction: &Transaction,
        basis: &ViewBasis,
    ) -> Result<(), EngineError> {
        let effect = match self.random.weighted(&[3, 3, 3, 1, 1]) {
            0 => {
                let (offset, length) = self.range();
                let length = u32::try_from(length).expect("a small request");
                let under_way = self.site.model.reading(&self.server, basis);
                let read = transaction.read(offset, length).await;
                drop(under_way);
                let not_read = |error: &EngineError| self.site.model.not_read(&self.server, error);
                let bytes = read.inspect_err(not_read)?.into_bytes();
                self.note(format_args!("{} read {offset}+{length}", id.0));
                self.site.model.transaction_read(id, offset, &bytes);
                return Ok(());
            }
            1 => self.write(id),
            2 => self.unaligned(id),
            3 => self.trim(),
            _ => self.zero(),
        };
        match &effect {
            Effect::Write(offset, data) => transaction.write(*offset, data.clone()).await?,
            Effect::Zero(offset, length) => transaction.write_zeroes(*offset, *length).await?,
            Effect::Trim(offset, length) => transaction.trim(*offset, *length).await?,
        }
        self.note(format_args!("{} {} within", id.0, brief(&effect)));
        self.site.model.transaction_does(id, effect);
        Ok(())
    }

    fn ended(&self, id: OperationId, error: EngineError) -> Result<(), EngineError> {
        self.note(format_args!("{} {error}", id.0));
        self.site.model.refused(id, &error);
        match error {
            EngineError::Conflict => self.site.journal.mark("a transaction met a conflict"),
            EngineError::Aborted { reason } => {
                self.site.journal.mark("a transaction was aborted");
                if reason == WINDOW_FULL {
                    let mark = "a transaction was aborted for the conflict window";
                    self.site.journal.mark(mark);
                }
            }
            EngineError::TransactionTooLarge { .. } => {
                self.site.journal.mark("a transaction was too large");
            }
            error => return Err(error),
        }
        Ok(())
    }
}
