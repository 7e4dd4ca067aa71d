//! Buffer stores on fjall: one database per image, one keyspace per generation.
//!
//! fjall is fast and keeps its batches atomic and in order, but what it does with damaged journals,
//! failed syncs and directory entries is not what the contract of [`BufferStore`] asks for. This
//! adapter makes up for it; `docs/decisions/fjall-buffer.md` has the facts and the figures.
//!
//! Reading order: [`record`] and [`meta`] (what is stored), [`database`] (how it is written),
//! [`generation`] (how it is read), [`sync`], [`store`] (what may run at the same time); for
//! openings [`files`], [`journal`], [`recovery`], [`rewrite`].
//!
//! It must never acknowledge what a process kill could lose, and never open a store in which a
//! synced batch is missing.
//!
//! [`BufferStore`]: mvps_core::env::BufferStore

mod database;
mod errors;
mod files;
mod generation;
mod journal;
mod meta;
mod record;
mod recovery;
mod rewrite;
mod store;
mod sync;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use async_trait::async_trait;
use mvps_core::env::{BufferError, BufferStores, Recovered, RecoveredGeneration};
use mvps_core::ids::{ImageId, Lsn};

use database::{FIRST_GENERATION, Found, OpenDatabase};
use files::{DirectoryLock, Layout, SyncedFile};
use record::Seed;
use store::FjallBufferStore;
use sync::JournalSync;

/// The buffer stores below one directory.
#[derive(Debug, Clone)]
pub struct FjallBufferStores {
    root: PathBuf,
    /// Of each store that was opened here, the last one.
    locks: Arc<Mutex<BTreeMap<ImageId, Weak<DirectoryLock>>>>,
}

impl FjallBufferStores {
    /// Buffer stores as subdirectories of `root`, named like their images.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
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
            tokio::task::spawn_blocking(move || open_or_create(&layout, seed, &earlier)).await
        };
        let opened = opened.map_err(|error| BufferError::Corrupt {
            // fjall asserts on some kinds of damage.
            reason: format!("{}: opening failed: {error}", layout.image.display()),
        })?;
        let (database, journals, found) = opened?;
        let lock = Arc::downgrade(database.lock());
        let mut locks = self.locks();
        locks.retain(|_, lock| lock.strong_count() > 0);
        locks.insert(image.clone(), lock);
        drop(locks);
        let generations = found.generations.into_iter();
        Ok(Recovered {
            store: Arc::new(FjallBufferStore::new(layout, database, journals)),
            metadata: found.metadata,
            last_lsn: found.last_lsn,
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

fn io_error(path: &Path) -> impl Fn(io::Error) -> BufferError + '_ {
    move |error| BufferError::Io {
        reason: format!("{}: {error}", path.display()),
    }
}

type Opened = (OpenDatabase, JournalSync, Found);

fn open_or_create(
    layout: &Layout,
    seed: Seed,
    earlier: &Weak<DirectoryLock>,
) -> Result<Opened, BufferError> {
    let failed = io_error(&layout.image);
    fs::create_dir_all(&layout.image).map_err(&failed)?;
    let lock = Arc::new(DirectoryLock::take(layout, earlier)?);
    rewrite::finish(layout)?;
    if !fs::exists(layout.store()).map_err(&failed)? {
        create(layout, seed, &lock)?;
    }
    if fs::exists(layout.sync_failed()).map_err(&failed)? {
        tracing::warn!(
            store = %layout.image.display(),
            "a sync failed before: writing the buffered data anew"
        );
        let (database, journals, found) = open(layout, seed, &lock)?;
        drop(journals);
        rewrite::rewrite(layout, seed, &lock, database, found)?;
    }
    open(layout, seed, &lock)
}

/// Makes a store where there is none, or where making one was interrupted.
fn create(layout: &Layout, seed: Seed, lock: &Arc<DirectoryLock>) -> Result<(), BufferError> {
    let directory = layout.database();
    let failed = io_error(&directory);
    if fs::exists(&directory).map_err(&failed)? {
        // The file `synced` is made after the file `store`.
        if SyncedFile::read(&directory).map_err(&failed)? > 0 {
            return Err(BufferError::Corrupt {
                reason: format!("{} is missing", layout.store().display()),
            });
        }
        fs::remove_dir_all(&directory).map_err(&failed)?;
    }
    let lock = Arc::clone(lock);
    let first = FIRST_GENERATION;
    let made = OpenDatabase::create(directory.clone(), seed, lock, first, Lsn(0))?;
    // Dropping it syncs the journal.
    drop(made);
    files::sync_directory(&directory).map_err(&failed)?;
    files::sync_directory(&layout.image).map_err(&failed)?;
    if let Some(root) = layout.image.parent() {
        files::sync_directory(root).map_err(&failed)?;
    }
    files::write_durably(&layout.store(), files::STORE_FORMAT).map_err(&failed)
}

fn open(layout: &Layout, seed: Seed, lock: &Arc<DirectoryLock>) -> Result<Opened, BufferError> {
    let directory = layout.database();
    let failed = io_error(&directory);
    if !fs::exists(directory.join("version")).map_err(&failed)? {
        return Err(BufferError::Corrupt {
            reason: format!("{} is missing", directory.display()),
        });
    }
    let synced = SyncedFile::read(&directory).map_err(&failed)?;
    if let Some(cut) = recovery::check_journals(&directory, seed, synced)? {
        tracing::warn!(
            journal = %cut.journal.display(),
            offset = cut.offset,
            bytes = cut.bytes,
            kept = %cut.kept.display(),
            "cut an unsynced, torn tail off the journal"
        );
    }
    let lock = Arc::clone(lock);
    let (database, found) = OpenDatabase::open(directory.clone(), seed, lock, synced)?;
    let progress = database.progress();
    let mut journals =
        JournalSync::open(directory.clone(), database.progress()).map_err(&failed)?;
    journals.sync().map_err(&failed)?;
    journals.count_active(&progress.active_journal_bytes);
    database.measure(journals.active_file_bytes());
    Ok((database, journals, found))
}
