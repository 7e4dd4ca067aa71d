//! The content log: the write buffer of an image on the local disk.
//!
//! What is acknowledged is appended to a log, one block for each batch, one file for each
//! generation; nothing is written twice. Where each record is in the files is known in memory, and
//! found again from the blocks at the next opening. A superblock names the files that count, and
//! keeps the engine's metadata.
//!
//! Reading order: [`block`] and [`superblock`] (what is stored), [`generation`] (how it is read),
//! [`store`] and [`superblock_file`] (how it is written), [`scan`] and [`opening`] (what is left
//! after a crash).
//!
//! Invariants: a batch is whole or not there. Its ordinal is one more than that of the batch before
//! it. A name is durable before a block is written under it; the superblock lists a file before it
//! has blocks, and does not before the file is removed. Whatever was written before a sync began
//! that succeeded is found again after a power cut, or the opening is refused.
//!
//! Must never: know the engine, call what waits for the disk on a task's thread (but appends, which
//! go to the page cache), or take anything for durable because it can be read.

mod block;
mod generation;
mod opening;
mod scan;
mod store;
mod superblock;
mod superblock_file;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::oneshot;

use crate::env::{
    BufferError, BufferHandle, BufferStores, DiskSpace, Entropy, Files, Recovered,
    RecoveredGeneration,
};
use crate::ids::ImageId;
use opening::Place;
use store::LogBufferStore;

/// The buffer stores of a node, on its files.
#[derive(Clone)]
pub struct LogBufferStores {
    files: Arc<dyn Files>,
    entropy: Arc<dyn Entropy>,
    prepare_bytes: u64,
}

impl LogBufferStores {
    /// Buffer stores in folders named like their images. `entropy` names new ones.
    #[must_use]
    pub fn new(files: Arc<dyn Files>, entropy: Arc<dyn Entropy>) -> Self {
        Self {
            files,
            entropy,
            prepare_bytes: store::PREPARE_BYTES,
        }
    }

    /// The next generation's file is made when the active one has so many bytes. 64 KiB.
    #[must_use]
    pub fn preparing_at(self, prepare_bytes: u64) -> Self {
        Self {
            prepare_bytes,
            ..self
        }
    }
}

#[async_trait]
impl BufferStores for LogBufferStores {
    async fn open(&self, image: &ImageId) -> Result<Recovered, BufferError> {
        let (sender, receiver) = oneshot::channel();
        let (files, entropy) = (Arc::clone(&self.files), Arc::clone(&self.entropy));
        let of = image.clone();
        self.files.aside(Box::new(move || {
            let place = Place {
                files: &*files,
                image: &of,
            };
            // Whoever does not wait any more has no use for it.
            let opened = place.open(&*entropy).map(|opened| {
                let records = opened.generations.iter().map(|(it, _)| it.entries());
                let records: Vec<_> = records.collect();
                (opened, records)
            });
            let _ = sender.send(opened);
        }));
        let ended = || BufferError::Io {
            reason: "the process ends".to_owned(),
        };
        let (opened, records) = receiver.await.unwrap_or_else(|_| Err(ended()))?;
        let generations = opened.generations.iter().zip(records);
        let generations = generations.map(|((generation, _), records)| RecoveredGeneration {
            generation: generation.number,
            handle: Arc::clone(generation) as Arc<dyn BufferHandle>,
            records,
        });
        Ok(Recovered {
            metadata: opened.superblock.metadata.clone(),
            last_lsn: opened.last_lsn,
            generations: generations.collect(),
            store: Arc::new(LogBufferStore::new(
                Arc::clone(&self.files),
                image.clone(),
                opened,
                self.prepare_bytes,
            )),
        })
    }

    fn space(&self) -> Option<DiskSpace> {
        self.files.space().ok()
    }

    fn location(&self, image: &ImageId) -> String {
        self.files.location(image.as_str())
    }
}
