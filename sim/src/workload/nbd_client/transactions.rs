//! Transactions over NBD.

use futures_util::future::join_all;
use mvps_core::client::{Client, ClientError, Transaction};
use mvps_core::nbd::Errno;

use super::NbdClient;
use crate::model::content::Effect;
use crate::model::operation::OperationId;

/// Most steps of a transaction.
const STEPS_MAX: u64 = 8;

/// Fewer changes than this are on their way at once.
const PIPELINED_MAX: u64 = 6;

impl NbdClient {
    /// Begins, does something, and commits or rolls back. A conflict is no error.
    pub(super) async fn transact(&mut self, client: &mut Client) -> Result<(), ClientError> {
        let id = self.generator.site.model.next_operation();
        let outcome = self.attempt(id, client).await;
        let journal = &self.generator.site.journal;
        match outcome {
            Err(ClientError::Conflict | ClientError::Failed(Errno::Permission)) => {
                journal.mark("a transaction over NBD was refused");
                Ok(())
            }
            Err(ClientError::Failed(Errno::OutOfMemory)) => Ok(()),
            other => other,
        }
    }

    async fn attempt(&mut self, id: OperationId, client: &mut Client) -> Result<(), ClientError> {
        let server = self.generator.server.clone();
        let model = std::sync::Arc::clone(&self.generator.site.model);
        model.transaction(id, &server);
        let window = model.read_sent(&server);
        let transaction = match client.begin().await {
            Ok(transaction) => transaction,
            Err(error) => {
                model.over(id);
                return Err(error);
            }
        };
        model.snapshot(id, window, false);
        self.generator.note(format_args!("{} begun", id.0));
        let random = &self.generator.random;
        let locks_at = if random.chance(300) {
            random.below(STEPS_MAX)
        } else {
            STEPS_MAX
        };
        let mut incomplete = false;
        for step in 0..random.within(1..STEPS_MAX + 1) {
            let outcome = if step == locks_at {
                self.lock(id, &transaction).await
            } else if self.generator.aside.chance(200) {
                self.changes_at_once(id, &transaction).await
            } else {
                self.step_within(id, &transaction).await
            };
            if matches!(outcome, Err(ClientError::Failed(Errno::OutOfMemory))) {
                // It goes on, and must not be committed without the change that failed.
                model.over(id);
                incomplete = true;
            } else if let Err(error) = outcome {
                // Nothing of it can take effect: it was never sent to be committed.
                model.over(id);
                drop(transaction);
                return Err(error);
            }
            self.generator.linger().await;
        }
        if self.generator.random.chance(200) {
            self.generator.note(format_args!("{} rolled back", id.0));
            model.over(id);
            return transaction.roll_back().await;
        }
        let durable = self
            .generator
            .random
            .chance(self.generator.site.plan.durable);
        self.generator
            .note(format_args!("{} commit {durable}", id.0));
        model.commits(id);
        let outcome = transaction.commit(durable).await;
        if incomplete {
            return self.refused_as_incomplete(id, outcome);
        }
        self.answered(id, durable.then_some(self.durability), outcome)
    }

    /// A change of the transaction failed, so its commit fails.
    fn refused_as_incomplete(
        &self,
        id: OperationId,
        outcome: Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        let journal = &self.generator.site.journal;
        match outcome {
            Ok(()) => journal.fail(
                "3 (atomicity)",
                format_args!("transaction {id:?} was committed without a change that failed"),
            ),
            Err(
                ClientError::Conflict | ClientError::Failed(Errno::Permission | Errno::Invalid),
            ) => {
                journal.mark("a commit without a change that failed was refused");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn lock(
        &self,
        id: OperationId,
        transaction: &Transaction<'_>,
    ) -> Result<(), ClientError> {
        let site = &self.generator.site;
        let window = site.model.read_sent(&self.generator.server);
        transaction.lock().await?;
        self.generator.note(format_args!("{} locked", id.0));
        site.model.snapshot(id, window, true);
        site.journal.mark("a lock was granted");
        Ok(())
    }

    /// Several changes on their way at once: they take effect in the order in which they were sent.
    async fn changes_at_once(
        &self,
        id: OperationId,
        transaction: &Transaction<'_>,
    ) -> Result<(), ClientError> {
        let generator = &self.generator;
        let count = generator.aside.within(2..PIPELINED_MAX);
        let effects: Vec<Effect> = (0..count).map(|_| generator.unaligned(id)).collect();
        let sent = effects.iter().map(|effect| async move {
            match effect {
                Effect::Write(offset, data) => transaction.write(*offset, data.clone()).await,
                Effect::Zero(..) | Effect::Trim(..) => unreachable!("all are writes"),
            }
        });
        let outcomes = join_all(sent).await;
        generator.note(format_args!("{} {count} changes at once", id.0));
        let mut failed = Ok(());
        for (effect, outcome) in effects.into_iter().zip(outcomes) {
            match outcome {
                Ok(()) => generator.site.model.transaction_does(id, effect),
                Err(error) => failed = Err(error),
            }
        }
        let journal = &generator.site.journal;
        journal.mark("changes of a transaction were on their way at once");
        failed
    }

    async fn step_within(
        &self,
        id: OperationId,
        transaction: &Transaction<'_>,
    ) -> Result<(), ClientError> {
        let generator = &self.generator;
        let effect = match generator.random.weighted(&[3, 3, 3, 1, 1]) {
            0 => {
                let (offset, length) = generator.range();
                let length = u32::try_from(length).expect("a small request");
                let bytes = transaction.read(offset, length).await?;
                generator.note(format_args!("{} read {offset}+{length}", id.0));
                generator.site.model.transaction_read(id, offset, &bytes);
                return Ok(());
            }
            1 => generator.write(id),
            2 => generator.unaligned(id),
            3 => generator.trim(),
            _ => generator.zero(),
        };
        match &effect {
            Effect::Write(offset, data) => transaction.write(*offset, data.clone()).await?,
            Effect::Zero(offset, length) => {
                transaction.write_zeroes(*offset, *length).await?;
            }
            Effect::Trim(offset, length) => transaction.trim(*offset, *length).await?,
        }
        generator.note(format_args!(
            "{} {} within",
            id.0,
            super::super::client::brief(&effect)
        ));
        generator.site.model.transaction_does(id, effect);
        Ok(())
    }
}
