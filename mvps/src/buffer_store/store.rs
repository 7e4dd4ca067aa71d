//! The store as the engine sees it: who may do what at the same time, and what happens after a
//! failure.
//!
//! - Batches are written under the *gate*, inline on the calling thread: one takes microseconds.
//! - A sync takes the *sync lock* and not the gate: commits go on meanwhile.
//! - A rotation of the journal takes both, the sync lock first.
//! - What takes milliseconds (syncs, keyspaces made and deleted, spills) runs on blocking threads.
//!
//! After the first failure of any mutating call the store takes no more writes. A failed sync is
//! also noted on the disk, for the next opening.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use mvps_core::env::{BufferBatch, BufferError, BufferHandle, BufferStore, BufferUsage};
use mvps_core::ids::Generation;
use tokio::sync::Mutex;

use super::database::{OpenDatabase, Progress};
use super::errors::Failure;
use super::files::{self, DirectoryLock, Layout};
use super::generation::StoredGeneration;
use super::sync::JournalSync;

/// What calls share.
struct Shared {
    layout: Layout,
    gate: Arc<Mutex<OpenDatabase>>,
    sync: Arc<Mutex<JournalSync>>,
    progress: Arc<Progress>,
    /// Why the store takes no more writes.
    poisoned: OnceLock<String>,
}

/// A buffer store on fjall.
pub struct FjallBufferStore {
    shared: Option<Arc<Shared>>,
    lock: Weak<DirectoryLock>,
}

impl FjallBufferStore {
    /// Puts the locks around an open database.
    pub fn new(layout: Layout, database: OpenDatabase, sync: JournalSync) -> Self {
        let lock = Arc::downgrade(database.lock());
        let shared = Arc::new(Shared {
            layout,
            progress: database.progress(),
            gate: Arc::new(Mutex::new(database)),
            sync: Arc::new(Mutex::new(sync)),
            poisoned: OnceLock::new(),
        });
        Arc::clone(&shared).prepare_next();
        Self {
            shared: Some(shared),
            lock,
        }
    }

    fn shared(&self) -> &Arc<Shared> {
        let shared = self.shared.as_ref();
        shared.expect("it is taken only when the store is dropped")
    }
}

impl Drop for FjallBufferStore {
    fn drop(&mut self) {
        // Closing joins fjall's threads and frees the memtables.
        if let Some(lock) = self.lock.upgrade() {
            lock.leave();
        }
        let shared = self.shared.take();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            drop(runtime.spawn_blocking(move || drop(shared)));
        }
    }
}

impl Shared {
    fn check(&self) -> Result<(), BufferError> {
        match self.poisoned.get() {
            None => Ok(()),
            Some(reason) => Err(BufferError::Poisoned {
                reason: reason.clone(),
            }),
        }
    }

    fn poison(&self, failure: Failure) -> BufferError {
        let (Failure::Full(reason) | Failure::Poisoned(reason)) = &failure;
        // Only the first reason counts.
        let _ = self.poisoned.set(reason.clone());
        failure.into_buffer_error()
    }

    /// Runs `job` under the gate, on this thread.
    async fn inline<T>(
        &self,
        job: impl FnOnce(&mut OpenDatabase) -> Result<T, Failure> + Send,
    ) -> Result<T, BufferError> {
        let mut database = self.gate.lock().await;
        self.check()?;
        job(&mut database).map_err(|failure| self.poison(failure))
    }

    /// Runs `job` under the gate, on a blocking thread. It goes on if the caller is cancelled.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        job: impl FnOnce(&mut OpenDatabase) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, BufferError> {
        let mut database = Arc::clone(&self.gate).lock_owned().await;
        self.check()?;
        let shared = Arc::clone(self);
        let job = move || job(&mut database).map_err(|failure| shared.poison(failure));
        joined(tokio::task::spawn_blocking(job).await)
    }

    /// Syncs everything committed before this call.
    async fn sync(self: &Arc<Self>) -> Result<(), BufferError> {
        self.check()?;
        let mut sync = Arc::clone(&self.sync).lock_owned().await;
        self.check()?;
        let shared = Arc::clone(self);
        let job = move || sync.sync().map_err(|error| shared.sync_failed(&error));
        joined(tokio::task::spawn_blocking(job).await)
    }

    fn sync_failed(&self, error: &std::io::Error) -> BufferError {
        let reason = format!("a sync failed: {error}");
        tracing::error!(
            store = %self.layout.image.display(),
            %reason,
            "the buffer store takes no more writes"
        );
        if let Err(error) = files::write_durably(&self.layout.sync_failed(), reason.as_bytes()) {
            tracing::error!(%error, "and this could not be noted for the next start");
        }
        self.poison(Failure::Poisoned(reason))
    }

    /// Makes the next generation's keyspace in advance, so that sealing need not.
    fn prepare_next(self: Arc<Self>) {
        let task = async move {
            // A failure poisons the store, which the next call reports.
            let _ = self.blocking(OpenDatabase::prepare_next).await;
        };
        tokio::spawn(task);
    }

    /// Rotates the journal and measures the disk. Commits wait.
    async fn rotate(self: &Arc<Self>) -> Result<(), BufferError> {
        self.sync().await?;
        let mut sync = Arc::clone(&self.sync).lock_owned().await;
        let shared = Arc::clone(self);
        self.blocking(move |database| {
            // What was committed since: little, because the sync before was just now.
            sync.sync()?;
            database.rotate_journal()?;
            sync.sync()?;
            sync.count_active(&shared.progress.active_journal_bytes);
            database.measure(sync.active_file_bytes());
            Ok(())
        })
        .await
    }

    async fn drop_generation(self: &Arc<Self>, generation: Generation) -> Result<(), BufferError> {
        let stored: Arc<StoredGeneration> =
            self.inline(|database| database.forget(generation)).await?;
        // Otherwise a power cut could keep the keyspace's end and lose the word of it.
        self.sync().await?;
        self.blocking(move |database| database.delete(&stored))
            .await?;
        self.rotate().await
    }
}

fn joined<T>(
    outcome: Result<Result<T, BufferError>, tokio::task::JoinError>,
) -> Result<T, BufferError> {
    outcome.unwrap_or_else(|error| {
        Err(BufferError::Poisoned {
            reason: format!("a blocking task ended early: {error}"),
        })
    })
}

#[async_trait]
impl BufferStore for FjallBufferStore {
    async fn commit(&self, batch: BufferBatch) -> Result<(), BufferError> {
        self.shared()
            .inline(|database| database.commit(&batch))
            .await
    }

    async fn sync(&self) -> Result<(), BufferError> {
        self.shared().sync().await
    }

    async fn seal(&self) -> Result<(Generation, Arc<dyn BufferHandle>), BufferError> {
        let sealed = self.shared().blocking(OpenDatabase::seal).await?;
        Arc::clone(self.shared()).prepare_next();
        Ok((sealed.generation, sealed))
    }

    async fn active(&self) -> Result<(Generation, Arc<dyn BufferHandle>), BufferError> {
        let active = |database: &mut OpenDatabase| Ok(database.active());
        let active = self.shared().inline(active).await?;
        Ok((active.generation, active))
    }

    async fn spill(&self, generation: Generation) -> Result<(), BufferError> {
        let shared = self.shared();
        // First, so that the flush finds a short journal and leaves it alone.
        shared.rotate().await?;
        let spill = shared
            .inline(|database| database.start_spill(&database.sealed(generation)))
            .await?;
        let waiter = Arc::clone(shared);
        let wait = move || spill.wait().map_err(|failure| waiter.poison(failure));
        joined(tokio::task::spawn_blocking(wait).await)?;
        // Once more: now the generation's journals can go.
        shared.rotate().await
    }

    async fn drop_generation(&self, generation: Generation) -> Result<(), BufferError> {
        self.shared().drop_generation(generation).await
    }

    async fn put_metadata(&self, metadata: Bytes) -> Result<(), BufferError> {
        let put = |database: &mut OpenDatabase| database.put_metadata(&metadata);
        self.shared().inline(put).await?;
        self.shared().sync().await
    }

    fn usage(&self) -> BufferUsage {
        let progress = &self.shared().progress;
        let active = progress.active_journal_bytes.load(Ordering::Relaxed);
        let other = progress.other_bytes.load(Ordering::Relaxed);
        BufferUsage {
            disk_bytes: active + other,
        }
    }
}
