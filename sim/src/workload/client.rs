//! One client: a connection that sends one request after the other.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use madsim::time::sleep;
use mvps_core::engine::{Acknowledge, Attachment, Durability, EngineError};
use tokio::sync::watch;

use super::request_generator::RequestGenerator;
use crate::environment::machine::Site;
use crate::journal::Choice;
use crate::model::content::Effect;
use crate::model::operation::{OperationId, durability_of};

/// A client that calls the engine.
pub struct Client {
    generator: RequestGenerator,
    pub(super) attachment: Attachment,
}

impl Deref for Client {
    type Target = RequestGenerator;

    fn deref(&self) -> &RequestGenerator {
        &self.generator
    }
}

impl Client {
    /// A client of `server`.
    #[must_use]
    pub fn new(
        site: &Arc<Site>,
        server: &str,
        number: u64,
        attachment: Attachment,
        strict: bool,
    ) -> Self {
        Self {
            generator: RequestGenerator::new(site, server, number, strict),
            attachment,
        }
    }

    /// Sends requests until `stop`, or until the image fails.
    pub async fn run(mut self, stop: watch::Receiver<bool>) {
        sleep(self.site.silence.left()).await;
        while !*stop.borrow() {
            if let Err(error) = self.step().await {
                self.note(format_args!("{error}"));
                assert!(
                    !self.strict,
                    "oracle 11 (liveness): {} meets {error}",
                    self.name
                );
                if is_final(&error) {
                    return;
                }
            }
            sleep(self.think()).await;
        }
    }

    async fn step(&mut self) -> Result<(), EngineError> {
        let operations = &self.site.plan.operations;
        let weights = [
            operations.write,
            operations.unaligned,
            operations.read,
            operations.trim,
            operations.zero,
            operations.flush,
            operations.transaction,
            operations.checkpoint,
            operations.revoke,
        ];
        if self.aside.chance(self.site.plan.looks) {
            return self.look_around().await;
        }
        let operation = self.random.weighted(&weights);
        if !self.site.journal.happens(Choice::Operation) {
            return Ok(());
        }
        match operation {
            0 => self.change(|client, id| client.write(id)).await,
            1 => self.change(|client, id| client.unaligned(id)).await,
            2 => self.read().await,
            3 => self.change(|client, _| client.trim()).await,
            4 => self.change(|client, _| client.zero()).await,
            5 => self.flush().await,
            6 => self.transact().await,
            7 => self.checkpoint().await,
            _ => self.revoked_write().await,
        }
    }

    async fn send(
        attachment: &Attachment,
        effect: &Effect,
        when: Acknowledge,
    ) -> Result<(), EngineError> {
        match effect {
            Effect::Write(offset, data) => attachment.write(*offset, data.clone(), when).await,
            Effect::Zero(offset, length) => attachment.write_zeroes(*offset, *length, when).await,
            Effect::Trim(offset, length) => attachment.trim(*offset, *length, when).await,
        }
    }

    pub(super) fn answered(
        &self,
        id: OperationId,
        when: Option<Durability>,
        outcome: Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        match &outcome {
            Ok(()) => {
                self.note(format_args!("{} ok", id.0));
                self.site.model.acknowledged(id, when);
            }
            Err(error) => self.site.model.refused(id, error),
        }
        outcome
    }

    async fn change(
        &self,
        effect: impl FnOnce(&Self, OperationId) -> Effect,
    ) -> Result<(), EngineError> {
        let id = self.site.model.next_operation();
        let (effect, when) = (effect(self, id), self.when());
        self.note(format_args!("{} {} {when:?}", id.0, brief(&effect)));
        let model = &self.site.model;
        model.submitted(id, &self.server, vec![effect.clone()]);
        let outcome = Self::send(&self.attachment, &effect, when).await;
        self.answered(id, durability_of(when), outcome)
    }

    async fn read(&self) -> Result<(), EngineError> {
        let (offset, length) = self.range();
        let model = &self.site.model;
        let window = model.read_sent(&self.server);
        model.size_told(&self.server, self.attachment.image().size_bytes());
        let under_way = model.reading(&self.server, &model.view_basis(&self.server));
        let length = u32::try_from(length).expect("a small request");
        let read = self.attachment.read(offset, length).await;
        drop(under_way);
        let not_read = |error: &EngineError| self.site.model.not_read(&self.server, error);
        let bytes = read.inspect_err(not_read)?.into_bytes();
        self.note(format_args!("read {offset}+{length}"));
        self.site
            .model
            .read_returned(&self.server, window, offset, &bytes);
        if self.site.plan.areas.is_sparse() {
            self.ask_extents(offset, u64::from(length)).await?;
        }
        Ok(())
    }

    /// Asks what of a range has content.
    async fn ask_extents(&self, offset: u64, length: u64) -> Result<(), EngineError> {
        let model = &self.site.model;
        let window = model.read_sent(&self.server);
        let most = usize::try_from(self.random.within(1..8)).expect("a few");
        let extents = self.attachment.extents(offset, length, None, most).await;
        let not_read = |error: &EngineError| model.not_read(&self.server, error);
        let extents = extents.inspect_err(not_read)?;
        self.note(format_args!("extents {offset}+{length}"));
        model.extents_returned(&self.server, window, offset, &extents);
        self.site.journal.mark("extents were asked for");
        Ok(())
    }

    /// Asks where there is content, or what changed, or fetches something early.
    async fn look_around(&self) -> Result<(), EngineError> {
        let (offset, length) = self.place_aside();
        let (site, model) = (&self.site, &self.site.model);
        if self.aside.chance(200) {
            site.journal.mark("a client fetched something early");
            return self.attachment.prefetch(offset, length).await;
        }
        let base = model.some_version(|count| self.aside.below(count));
        let Some(version) = base.filter(|_| self.aside.chance(500)) else {
            return self.ask_extents(offset, length).await;
        };
        let window = model.read_sent(&self.server);
        model.compares(&self.server, true);
        let Ok(base) = self.attachment.base(version).await else {
            // It may be forgotten by now, or not be read.
            model.compares(&self.server, false);
            return Ok(());
        };
        let extents_max = usize::try_from(self.aside.within(1..64)).expect("small");
        let extents = self
            .attachment
            .extents(offset, length, Some(&base), extents_max);
        let not_read = |error: &EngineError| model.not_read(&self.server, error);
        let extents = extents.await;
        model.compares(&self.server, false);
        let extents = extents.inspect_err(not_read)?;
        self.note(format_args!("extents {offset}+{length} since {version}"));
        model.changes_returned(&self.server, window, offset, &extents, version);
        site.journal.mark("a client asked what changed");
        Ok(())
    }

    async fn flush(&self) -> Result<(), EngineError> {
        let id = self.site.model.next_operation();
        let durability = self.durability();
        self.note(format_args!("{} flush {durability:?}", id.0));
        self.site.model.flush_sent(id, &self.server);
        if durability == Durability::ObjectStore {
            self.site.model.waits_for_store(id);
        }
        let outcome = self.attachment.flush(durability).await;
        self.answered(id, Some(durability), outcome)
    }

    async fn checkpoint(&self) -> Result<(), EngineError> {
        let id = self.site.model.next_operation();
        self.note(format_args!("{} checkpoint", id.0));
        self.site.model.flush_sent(id, &self.server);
        self.site.model.waits_for_store(id);
        let outcome = self.attachment.image().checkpoint().await.map(drop);
        match &outcome {
            Ok(()) => {
                self.note(format_args!("{} ok", id.0));
                self.site.model.checkpoint_answered(id);
            }
            Err(error) => self.site.model.refused(id, error),
        }
        outcome
    }

    /// Sends a write and ends the connection before, while or after it takes effect.
    async fn revoked_write(&mut self) -> Result<(), EngineError> {
        let id = self.site.model.next_operation();
        let effect = self.unaligned(id);
        self.note(format_args!("{} {} to be revoked", id.0, brief(&effect)));
        self.site
            .model
            .submitted(id, &self.server, vec![effect.clone()]);
        let patience = self
            .random
            .duration(Duration::from_micros(10), Duration::from_millis(50));
        let image = self.attachment.image().clone();
        let outcome = {
            let send = Self::send(&self.attachment, &effect, Acknowledge::Buffered);
            tokio::select! {
                biased;
                outcome = send => Some(outcome),
                () = sleep(patience) => None,
            }
        };
        if let Some(outcome) = outcome {
            return self.answered(id, None, outcome);
        }
        self.attachment.revoke().await;
        self.site.model.over(id);
        self.site.journal.mark("a request was revoked in flight");
        self.note(format_args!("{} revoked", id.0));
        self.attachment = image.attach();
        Ok(())
    }
}

/// Whether the server is of no more use.
fn is_final(error: &EngineError) -> bool {
    matches!(
        error,
        EngineError::Fenced { .. } | EngineError::Poisoned { .. } | EngineError::Closed
    )
}

pub(super) fn brief(effect: &Effect) -> String {
    match effect {
        Effect::Write(offset, data) => format!("write {offset}+{}", data.len()),
        Effect::Zero(offset, length) => format!("zero {offset}+{length}"),
        Effect::Trim(offset, length) => format!("trim {offset}+{length}"),
    }
}
