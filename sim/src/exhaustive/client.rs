//! The client of a small world: one operation after the other, in order.

use std::sync::Arc;

use mvps_core::engine::{
    Acknowledge, Attachment, Durability, EngineError, Host, OpenError, Transaction, open,
};

use super::process::{Gate, Shared, config, opening_request};
use super::progress::Progress;
use super::workload::{Letter, name, page_size};
use crate::model::content::Effect;

/// Opens the image, does what `word` says, and reports to `progress`.
pub async fn run(
    host: Host,
    progress: Arc<Progress>,
    gate: Arc<Gate>,
    shared: Shared,
    word: Vec<Letter>,
) {
    let client = Client {
        host,
        progress: Arc::clone(&progress),
        gate,
        shared,
    };
    let end = client.work(&word).await;
    progress.known().end = Some(end);
}

struct Client {
    host: Host,
    progress: Arc<Progress>,
    gate: Arc<Gate>,
    shared: Shared,
}

impl Client {
    async fn work(&self, word: &[Letter]) -> Result<(), String> {
        let told = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
        let opened = self.open().await;
        let mut attachment = opened.map_err(|error| told("opening", &error))?;
        for letter in word {
            let number = self.progress.begins(*letter, self.gate.count());
            let what = name(&[*letter]);
            self.shared.note("client", &format!("{what} begins"));
            let outcome = if *letter == Letter::Close {
                let image = attachment.image().clone();
                drop(attachment);
                let closed = image.close().await;
                closed.map_err(|error| told(&what, &error))?;
                self.progress.closed();
                let opened = self.open().await;
                attachment = opened.map_err(|error| told("opening again", &error))?;
                Ok(())
            } else {
                self.perform(*letter, number, &attachment).await
            };
            match outcome {
                Ok(()) => {
                    self.shared.note("client", &format!("{what} ok"));
                    self.progress.ends(*letter);
                }
                Err(error) => {
                    self.shared.note("client", &format!("{what}: {error}"));
                    self.progress.known().attachment = Some(attachment);
                    return Err(told(&what, &error));
                }
            }
        }
        self.progress.known().attachment = Some(attachment);
        Ok(())
    }

    async fn open(&self) -> Result<Attachment, OpenError> {
        let shape = self.shared.shape;
        let image = open(&self.host, &opening_request(shape), config(shape)).await?;
        Ok(image.attach())
    }

    /// The effects of `letter`, where the image has the pages that operations use.
    fn effects(&self, letter: Letter, number: u64) -> impl Iterator<Item = Effect> + use<> {
        let first = self.shared.shape.offset();
        let effects = letter.effects(number).into_iter();
        effects.map(move |effect| match effect {
            Effect::Write(offset, data) => Effect::Write(first + offset, data),
            Effect::Zero(offset, length) => Effect::Zero(first + offset, length),
            Effect::Trim(offset, length) => Effect::Trim(first + offset, length),
        })
    }

    async fn perform(
        &self,
        letter: Letter,
        number: u64,
        attachment: &Attachment,
    ) -> Result<(), EngineError> {
        let shape = self.shared.shape;
        match letter {
            Letter::Flush => attachment.flush(Durability::Local).await,
            Letter::Checkpoint => attachment.image().checkpoint().await.map(drop),
            Letter::Background => {
                let image = attachment.image().clone();
                let task = async move {
                    // Whoever waits for a checkpoint hears of what is wrong with it.
                    let _ = image.checkpoint().await;
                };
                let spawner = &self.host.environment.spawner;
                spawner.spawn("checkpoint", Box::pin(task));
                Ok(())
            }
            Letter::Transaction => {
                let transaction = attachment.begin().await?;
                let page = u32::try_from(page_size().bytes()).expect("a page");
                transaction.read(shape.offset(), page).await?;
                for effect in self.effects(letter, number) {
                    within(&transaction, effect).await?;
                }
                transaction.commit(Acknowledge::Buffered).await
            }
            _ => {
                for effect in self.effects(letter, number) {
                    plain(attachment, effect).await?;
                }
                Ok(())
            }
        }
    }
}

async fn plain(attachment: &Attachment, effect: Effect) -> Result<(), EngineError> {
    let when = Acknowledge::Buffered;
    match effect {
        Effect::Write(offset, data) => attachment.write(offset, data, when).await,
        Effect::Zero(offset, length) => attachment.write_zeroes(offset, length, when).await,
        Effect::Trim(offset, length) => attachment.trim(offset, length, when).await,
    }
}

async fn within(transaction: &Transaction, effect: Effect) -> Result<(), EngineError> {
    match effect {
        Effect::Write(offset, data) => transaction.write(offset, data).await,
        Effect::Zero(offset, length) => transaction.write_zeroes(offset, length).await,
        Effect::Trim(offset, length) => transaction.trim(offset, length).await,
    }
}
