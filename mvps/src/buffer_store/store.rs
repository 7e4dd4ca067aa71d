//! The store as the engine sees it: who may do what at the same time, and what happens after a
//! failure.
//!
//! - Batches are written under the *gate*, inline on the calling thread: one takes microseconds.
//! - A sync takes the *sync lock* and not the gate: commits go on meanwhile.
//! - A rotation of a journal and the switch to another database take both, the sync lock first.
//! - The next database is made under a lock of its own, which a seal takes before any other: nobody
//!   makes it twice, and commits go on meanwhile.
//! - What takes milliseconds (syncs, keyspaces made and deleted, spills) runs on blocking threads.
//!
//! After the first failure of any mutating call the store takes no more writes. A failed sync is
//! also noted on the disk, for the next opening.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, OnceLock, PoisonError, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use mvps_core::env::{BufferBatch, BufferError, BufferHandle, BufferStore, BufferUsage};
use mvps_core::ids::Generation;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::active::EmptyDatabase;
use super::database::Progress;
use super::databases::{Databases, Forgotten};
use super::errors::Failure;
use super::files::{self, DatabaseNumber, DirectoryLock, Layout};
use super::generation::StoredGeneration;
use super::record::Seed;
use super::switch::switch;
use super::sync::Journals;

/// How far each database has come.
type AllProgress = BTreeMap<DatabaseNumber, Arc<Progress>>;

/// What calls share. Locks are taken in the order of the fields.
struct Shared {
    layout: Layout,
    seed: Seed,
    /// The next database, if the active one takes no more generations and it was made already.
    next: Arc<Mutex<Option<EmptyDatabase>>>,
    sync: Arc<Mutex<Journals>>,
    /// The gate.
    gate: Arc<Mutex<Databases>>,
    progress: std::sync::Mutex<AllProgress>,
    /// Why the store takes no more writes.
    poisoned: OnceLock<String>,
}

/// A buffer store on fjall.
pub struct FjallBufferStore {
    shared: Option<Arc<Shared>>,
    lock: Weak<DirectoryLock>,
}

impl FjallBufferStore {
    /// Puts the locks around open databases.
    pub fn new(layout: Layout, seed: Seed, databases: Databases, journals: Journals) -> Self {
        let lock = Arc::downgrade(databases.lock());
        let shared = Arc::new(Shared {
            layout,
            seed,
            next: Arc::default(),
            sync: Arc::new(Mutex::new(journals)),
            progress: std::sync::Mutex::new(progress_of(&databases)),
            gate: Arc::new(Mutex::new(databases)),
            poisoned: OnceLock::new(),
        });
        Arc::clone(&shared).prepare_in_background();
        Self {
            shared: Some(shared),
            lock,
        }
    }

    /// A job on the databases that panics.
    #[cfg(test)]
    pub async fn panic_within(&self) -> Result<(), BufferError> {
        self.shared()
            .blocking(|_| panic!("expected in this test"))
            .await
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

fn progress_of(databases: &Databases) -> AllProgress {
    let databases = databases.all();
    databases.map(|it| (it.number(), it.progress())).collect()
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
        job: impl FnOnce(&mut Databases) -> Result<T, Failure> + Send,
    ) -> Result<T, BufferError> {
        let mut database = self.gate.lock().await;
        self.check()?;
        job(&mut database).map_err(|failure| self.poison(failure))
    }

    /// Runs `job` under the gate, on a blocking thread. It goes on if the caller is cancelled.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        job: impl FnOnce(&mut Databases) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, BufferError> {
        let mut database = Arc::clone(&self.gate).lock_owned().await;
        self.check()?;
        let shared = Arc::clone(self);
        // Under the gate, so that nobody goes on behind a failure.
        let job = move || {
            let _watch = Unwinding(&shared);
            job(&mut database).map_err(|failure| shared.poison(failure))
        };
        joined(tokio::task::spawn_blocking(job).await)
    }

    /// Runs `job` on a blocking thread, without the gate. It goes on if the caller is cancelled.
    async fn aside<T: Send + 'static>(
        self: &Arc<Self>,
        job: impl FnOnce() -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, BufferError> {
        let shared = Arc::clone(self);
        let job = move || {
            let _watch = Unwinding(&shared);
            job().map_err(|failure| shared.poison(failure))
        };
        joined(tokio::task::spawn_blocking(job).await)
    }

    /// Syncs everything committed before this call.
    async fn sync(self: &Arc<Self>) -> Result<(), BufferError> {
        self.check()?;
        let mut sync = Arc::clone(&self.sync).lock_owned().await;
        self.check()?;
        let shared = Arc::clone(self);
        let job = move || sync.sync().map_err(|error| shared.sync_failed(&error));
        self.aside(job).await
    }

    /// Notes, for the next opening too, that the disk did not take what it had been given. Called
    /// with the sync lock: the system tells of a failure once, and another sync would succeed.
    fn sync_failed(&self, error: &std::io::Error) -> Failure {
        let reason = format!("a sync failed: {error}");
        tracing::error!(
            store = %self.layout.image.display(),
            %reason,
            "the buffer store takes no more writes"
        );
        if let Err(error) = files::write_durably(&self.layout.sync_failed(), reason.as_bytes()) {
            tracing::error!(%error, "and this could not be noted for the next start");
        }
        let _ = self.poisoned.set(reason.clone());
        Failure::Poisoned(reason)
    }

    fn progress(&self) -> MutexGuard<'_, AllProgress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes what the next seal needs: the next generation's keyspace or, if the active database
    /// takes no more generations, the next database, which is returned under its lock.
    async fn prepare(
        self: &Arc<Self>,
    ) -> Result<OwnedMutexGuard<Option<EmptyDatabase>>, BufferError> {
        let mut next = Arc::clone(&self.next).lock_owned().await;
        let plan = self.blocking(Databases::prepare_next).await?;
        let Some(plan) = plan.filter(|_| next.is_none()) else {
            return Ok(next);
        };
        let shared = Arc::clone(self);
        let make = move || {
            *next = Some(plan.make(&shared.layout, shared.seed)?);
            Ok(next)
        };
        self.aside(make).await
    }

    /// Does that in advance, so that sealing need not.
    fn prepare_in_background(self: Arc<Self>) {
        let task = async move {
            // A failure poisons the store, which the next call reports.
            let _ = self.prepare().await;
        };
        tokio::spawn(task);
    }

    async fn seal(self: &Arc<Self>) -> Result<Arc<StoredGeneration>, BufferError> {
        let next = self.prepare().await?;
        let sealed = if next.is_some() {
            self.switch(next).await?
        } else {
            self.blocking(Databases::seal).await?
        };
        Arc::clone(self).prepare_in_background();
        Ok(sealed)
    }

    /// Seals by going over to the next database.
    async fn switch(
        self: &Arc<Self>,
        mut next: OwnedMutexGuard<Option<EmptyDatabase>>,
    ) -> Result<Arc<StoredGeneration>, BufferError> {
        self.sync().await?;
        let mut journals = Arc::clone(&self.sync).lock_owned().await;
        let shared = Arc::clone(self);
        self.blocking(move |databases| {
            let sync_failed = |error| shared.sync_failed(&error);
            // What was committed since: little, because the sync before was just now.
            journals.sync().map_err(sync_failed)?;
            let next = next.take().expect("it was just made");
            let sealed = switch(databases, &mut journals, next, sync_failed)?;
            *shared.progress() = progress_of(databases);
            Ok(sealed)
        })
        .await
    }

    /// Rotates the journal of a database and measures the disk. Commits wait.
    async fn rotate(self: &Arc<Self>, number: DatabaseNumber) -> Result<(), BufferError> {
        self.sync().await?;
        let mut journals = Arc::clone(&self.sync).lock_owned().await;
        let shared = Arc::clone(self);
        self.blocking(move |databases| {
            let parts = (databases.get_mut(number), journals.of(number));
            let (Some(database), Some(journal)) = parts else {
                // It went meanwhile, with its journal.
                return Ok(());
            };
            let sync_failed = |error| shared.sync_failed(&error);
            // What was committed since: little, because the sync before was just now.
            journal.sync().map_err(sync_failed)?;
            database.rotate_journal()?;
            journal.sync().map_err(sync_failed)?;
            journal.count_active();
            database.measure(journal.active_file_bytes());
            Ok(())
        })
        .await
    }

    async fn drop_generation(self: &Arc<Self>, generation: Generation) -> Result<(), BufferError> {
        let forget = |databases: &mut Databases| databases.forget(generation);
        let forgotten = self.inline(forget).await?;
        // Otherwise a power cut could keep the keyspace's end, or the database's, and lose the word
        // of it.
        self.sync().await?;
        match forgotten {
            Forgotten::Generation(number, stored) => {
                self.blocking(move |databases| databases.delete(number, &stored))
                    .await?;
                self.rotate(number).await
            }
            Forgotten::Database(database) => {
                self.sync.lock().await.remove(database.number());
                self.progress().remove(&database.number());
                // Closing joins fjall's threads and frees memtables.
                let remove = move || {
                    database.remove();
                    Ok(())
                };
                self.aside(remove).await
            }
        }
    }
}

/// Poisons the store if the job that has it panics: fjall asserts on some kinds of damage, and what was
/// half done then nobody knows.
struct Unwinding<'a>(&'a Shared);

impl Drop for Unwinding<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.0.poisoned.set("a job on it panicked".to_owned());
        }
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
            .inline(|databases| databases.commit(&batch))
            .await
    }

    async fn sync(&self) -> Result<(), BufferError> {
        self.shared().sync().await
    }

    async fn seal(&self) -> Result<(Generation, Arc<dyn BufferHandle>), BufferError> {
        let sealed = self.shared().seal().await?;
        Ok((sealed.generation, sealed))
    }

    async fn active(&self) -> Result<(Generation, Arc<dyn BufferHandle>), BufferError> {
        let active = |databases: &mut Databases| Ok(Arc::clone(databases.active().active()));
        let active = self.shared().inline(active).await?;
        Ok((active.generation, active))
    }

    async fn spill(&self, generation: Generation) -> Result<(), BufferError> {
        let shared = self.shared();
        let find = |databases: &mut Databases| Ok(databases.sealed(generation).0);
        let number = shared.inline(find).await?;
        // First, so that the flush finds a short journal and leaves it alone.
        shared.rotate(number).await?;
        let start = |databases: &mut Databases| databases.start_spill(generation);
        let spill = shared.inline(start).await?;
        shared.aside(move || spill.wait()).await?;
        // Once more: now the generation's journals can go.
        shared.rotate(number).await
    }

    async fn drop_generation(&self, generation: Generation) -> Result<(), BufferError> {
        self.shared().drop_generation(generation).await
    }

    async fn put_metadata(&self, metadata: Bytes) -> Result<(), BufferError> {
        let put = |databases: &mut Databases| databases.put_metadata(&metadata);
        self.shared().inline(put).await?;
        self.shared().sync().await
    }

    fn usage(&self) -> BufferUsage {
        let bytes = |progress: &Arc<Progress>| {
            let active = progress.active_journal_bytes.load(Ordering::Relaxed);
            active + progress.other_bytes.load(Ordering::Relaxed)
        };
        let progress = self.shared().progress();
        BufferUsage {
            disk_bytes: progress.values().map(bytes).sum(),
        }
    }
}
