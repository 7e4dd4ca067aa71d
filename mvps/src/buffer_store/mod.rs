//! Buffer stores on fjall: one keyspace per generation, and a new database every so many of them.
//!
//! fjall is fast and keeps its batches atomic and in order, but what it does with damaged journals,
//! failed syncs and directory entries is not what the contract of [`BufferStore`] asks for. This
//! adapter makes up for it; `docs/decisions/fjall-buffer.md` has the facts and the figures.
//!
//! Reading order: [`record`] and [`meta`] (what is stored), [`database`], [`spill`] and [`active`]
//! (how it is written), [`generation`] (how it is read), [`databases`] and [`switch`] (how one
//! database follows another), [`sync`], [`store`] (what may run at the same time); for openings
//! [`files`], [`opening`], [`opened`], [`journal`], [`recovery`], [`rewrite`].
//!
//! It must never acknowledge what a process kill could lose, and never open a store in which a
//! synced batch is missing.
//!
//! [`BufferStore`]: mvps_core::env::BufferStore

mod active;
mod database;
mod databases;
mod errors;
mod files;
mod generation;
mod journal;
mod meta;
mod opened;
mod opening;
mod record;
mod recovery;
mod rewrite;
mod spill;
mod store;
mod switch;
mod sync;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use async_trait::async_trait;
use mvps_core::env::{BufferError, BufferStores, Recovered, RecoveredGeneration};
use mvps_core::ids::ImageId;

use databases::GENERATIONS_MAX;
use files::{DirectoryLock, Layout};
use record::Seed;
use store::FjallBufferStore;

/// The buffer stores below one directory.
#[derive(Debug, Clone)]
pub struct FjallBufferStores {
    root: PathBuf,
    /// How many generations a database takes.
    generations_max: u64,
    /// Of each store that was opened here, the last one.
    locks: Arc<Mutex<BTreeMap<ImageId, Weak<DirectoryLock>>>>,
}

impl FjallBufferStores {
    /// Buffer stores as subdirectories of `root`, named like their images.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            generations_max: GENERATIONS_MAX,
            locks: Arc::default(),
        }
    }

    fn locks(&self) -> MutexGuard<'_, BTreeMap<ImageId, Weak<DirectoryLock>>> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn layout(&self, image: &ImageId) -> Layout {
        Layout {
            image: self.root.join(image.as_str()),
        }
    }
}

#[async_trait]
impl BufferStores for FjallBufferStores {
    async fn open(&self, image: &ImageId) -> Result<Recovered, BufferError> {
        let layout = self.layout(image);
        let seed = Seed::of(image);
        let opened = {
            let layout = layout.clone();
            let earlier = self.locks().get(image).cloned().unwrap_or_default();
            let max = self.generations_max;
            let open = move || opening::open_or_create(&layout, seed, &earlier, max);
            tokio::task::spawn_blocking(open).await
        };
        let opened = opened.map_err(|error| BufferError::Corrupt {
            // fjall asserts on some kinds of damage.
            reason: format!("{}: opening failed: {error}", layout.image.display()),
        })?;
        let opened::Opened {
            databases,
            journals,
            found,
        } = opened?;
        let lock = Arc::downgrade(databases.lock());
        let mut locks = self.locks();
        locks.retain(|_, lock| lock.strong_count() > 0);
        locks.insert(image.clone(), lock);
        drop(locks);
        let last_lsn = found.last_lsn();
        let generations = found.generations.into_iter();
        Ok(Recovered {
            store: Arc::new(FjallBufferStore::new(layout, seed, databases, journals)),
            metadata: found.metadata,
            last_lsn,
            generations: generations
                .map(|generation| RecoveredGeneration {
                    generation: generation.stored.generation,
                    handle: generation.stored,
                    records: generation.scan.records,
                })
                .collect(),
        })
    }

    fn location(&self, image: &ImageId) -> String {
        self.layout(image).image.display().to_string()
    }
}
