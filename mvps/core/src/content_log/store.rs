//! An open buffer store: appends, syncs, and generations that come and go.
//!
//! - Blocks are appended under the *writer's* lock: one at a time, in order.
//! - A sync takes what the writer had written when it began, and runs beside later appends.
//! - The next generation's file is made ahead, while the active one fills, so that a seal waits for
//!   nothing.
//! - Whatever waits for the disk runs aside ([`Files::aside`]).
//!
//! Where there is no room nothing happened, and the call may be made again. After any other failure
//! of a mutating call the store takes no more writes; reads go on.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, oneshot};

use super::block::{ALIGNMENT, HEADER_BYTES, Stamp, encode};
use super::generation::LogGeneration;
use super::opening::{Opened, Place, log_name};
use super::superblock::Listed;
use super::superblock_file::SuperblockFile;
use crate::env::{
    BufferBatch, BufferError, BufferHandle, BufferStore, BufferUsage, Files, FolderLock, PageRun,
    is_want_of_room,
};
use crate::ids::{Generation, ImageId};
use crate::mutant::is;

/// A batch with so much content is written aside: copying it takes longer than a task may.
const LARGE_BYTES: usize = 1 << 20;

/// The active generation has so many bytes when the next one's file is made: early, since a seal that has
/// to make it holds commits up for three syncs.
pub const PREPARE_BYTES: u64 = 64 << 10;

const PADDING: [u8; ALIGNMENT as usize] = [0; ALIGNMENT as usize];

/// What appends change.
struct Writer {
    active: Arc<LogGeneration>,
    /// Where the next block goes.
    offset: u64,
    /// The next generation's file is made when the active one has so many bytes.
    prepare_at: u64,
    /// The last block's.
    ordinal: u64,
    /// Every block up to this ordinal is synced.
    synced: u64,
    /// Generations with blocks that are not, oldest first.
    unsynced: Vec<Arc<LogGeneration>>,
    /// The sealed generations, and how many bytes of its file each has.
    sealed: BTreeMap<Generation, u64>,
}

/// A generation whose file is made, and that takes no blocks yet.
type Next = Option<Arc<LogGeneration>>;

struct Shared {
    files: Arc<dyn Files>,
    image: ImageId,
    prepare_bytes: u64,
    superblock: SuperblockFile,
    /// Held while the next generation's file is made.
    next: Arc<AsyncMutex<Next>>,
    /// Held while a sync runs.
    syncing: Arc<AsyncMutex<()>>,
    /// Held while a block is appended, or a generation sealed.
    appending: Arc<AsyncMutex<()>>,
    writer: Mutex<Writer>,
    /// Why it takes no more writes.
    failed: OnceLock<String>,
    _lock: Box<dyn FolderLock>,
}

/// A buffer store on the content log.
pub struct LogBufferStore(Arc<Shared>);

impl LogBufferStore {
    /// The store that was opened. The next generation's file is made when the active one has
    /// `prepare_bytes`.
    #[must_use]
    pub fn new(files: Arc<dyn Files>, image: ImageId, opened: Opened, prepare_bytes: u64) -> Self {
        let mut generations = opened.generations;
        let (active, offset) = generations.pop().expect("there is always one");
        let sealed = generations
            .into_iter()
            .map(|(generation, bytes)| (generation.number, bytes));
        let writer = Writer {
            active,
            offset,
            prepare_at: prepare_bytes,
            ordinal: opened.ordinal,
            synced: opened.ordinal,
            unsynced: Vec::new(),
            sealed: sealed.collect(),
        };
        let superblock =
            SuperblockFile::new(image.clone(), opened.superblock_file, opened.superblock);
        Self(Arc::new(Shared {
            files,
            image,
            prepare_bytes,
            superblock,
            next: Arc::default(),
            syncing: Arc::default(),
            appending: Arc::default(),
            writer: Mutex::new(writer),
            failed: OnceLock::new(),
            _lock: opened.lock,
        }))
    }
}

impl Shared {
    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self) -> Result<(), BufferError> {
        let failed = self.failed.get().cloned();
        failed.map_or(Ok(()), |reason| Err(BufferError::Poisoned { reason }))
    }

    /// The store takes no more writes.
    fn fail(&self, error: &io::Error) -> BufferError {
        let reason = self.failed.get_or_init(|| error.to_string()).clone();
        BufferError::Poisoned { reason }
    }

    /// A call failed and changed nothing: the store takes no more writes, unless it was for want of
    /// room.
    fn fail_unless_full(&self, error: &io::Error) -> BufferError {
        match is_want_of_room(error) && self.failed.get().is_none() {
            true => BufferError::Full {
                reason: error.to_string(),
            },
            false => self.fail(error),
        }
    }

    /// Runs `job`, which waits for the disk. It changes nothing if there is no room; any other
    /// failure is the store's.
    async fn aside<T: Send + 'static>(
        self: &Arc<Self>,
        job: impl FnOnce(&Arc<Self>) -> io::Result<T> + Send + 'static,
    ) -> Result<T, BufferError> {
        self.check()?;
        let (sender, receiver) = oneshot::channel();
        let shared = Arc::clone(self);
        self.files.aside(Box::new(move || {
            let done = job(&shared).map_err(|error| shared.fail_unless_full(&error));
            // Whoever does not wait any more is not told.
            let _ = sender.send(done);
        }));
        let ended = || BufferError::Poisoned {
            reason: "the process ends".to_owned(),
        };
        receiver.await.unwrap_or_else(|_| Err(ended()))
    }

    fn append(&self, batch: &BufferBatch) -> Result<(), BufferError> {
        let mut writer = self.writer();
        self.check()?;
        let stamp = Stamp {
            ordinal: writer.ordinal + 1,
            synced: writer.synced,
            superblock: self.superblock.synced(),
            last_lsn: batch.last_lsn,
        };
        let active = Arc::clone(&writer.active);
        let (block, header) = encode(active.seed, writer.offset, stamp, batch);
        let mut parts = Vec::with_capacity(batch.records.len() + 2);
        parts.push(IoSlice::new(&header));
        parts.extend(batch.records.iter().filter_map(|record| match &record.run {
            PageRun::Data(data) => Some(IoSlice::new(data)),
            PageRun::Hole { .. } => None,
        }));
        let written = header.len() + block.content_bytes();
        let end = block.end();
        let padding = end - writer.offset - written as u64;
        let padding = usize::try_from(padding).expect("less than the alignment");
        parts.push(IoSlice::new(&PADDING[..padding]));
        if let Err(error) = active.file.write_at(writer.offset, &parts) {
            // What there is of it must not stay: it may be whole.
            let cut = match is("half a batch stays after a full disk") {
                true => {
                    writer.offset = end;
                    Ok(())
                }
                false => active.file.set_length(writer.offset),
            };
            // Where even that needs room, the next batch is written over it.
            return Err(match cut {
                Err(cut) if !is_want_of_room(&cut) => self.fail(&error),
                _ => self.fail_unless_full(&error),
            });
        }
        active.add(&block);
        writer.ordinal += 1;
        writer.offset = end;
        if !writer.unsynced.iter().any(|it| it.number == active.number) {
            writer.unsynced.push(Arc::clone(&active));
        }
        Ok(())
    }

    /// Begins to make the next generation's file, if it is time.
    fn prepare(self: &Arc<Self>) {
        {
            let writer = self.writer();
            if writer.offset < writer.prepare_at {
                return;
            }
        }
        let Ok(next) = Arc::clone(&self.next).try_lock_owned() else {
            return;
        };
        if next.is_none() {
            let shared = Arc::clone(self);
            self.files.aside(Box::new(move || {
                if shared.make_next(next).is_err() {
                    // Later; a seal tries again, too, and says what is wrong.
                    let mut writer = shared.writer();
                    writer.prepare_at = writer.offset + shared.prepare_bytes;
                }
            }));
        }
    }

    fn make_next(&self, mut next: OwnedMutexGuard<Next>) -> io::Result<OwnedMutexGuard<Next>> {
        let (store, number) = {
            let mut state = self.superblock.state();
            state.newest = Generation(state.newest.0 + 1);
            (state.store, state.newest)
        };
        let place = Place {
            files: &*self.files,
            image: &self.image,
        };
        let made = place.make_generation(store, number)?;
        self.superblock.state().generations.push(Listed {
            number,
            first: None,
            last: None,
        });
        if let Err(error) = self.write_superblock() {
            // The file stays until the next opening, which finds nothing that lists it.
            let mut state = self.superblock.state();
            state.generations.retain(|it| it.number != number);
            return Err(error);
        }
        *next = Some(made);
        Ok(next)
    }

    /// Writes the superblock; if that fails, nothing is written any more, unless there was no room.
    fn write_superblock(&self) -> io::Result<()> {
        self.superblock.write().inspect_err(|error| {
            self.fail_unless_full(error);
        })
    }

    /// Syncs everything that was written when it began.
    fn sync_files(&self) -> io::Result<()> {
        let (ordinal, files) = {
            let mut writer = self.writer();
            (writer.ordinal, std::mem::take(&mut writer.unsynced))
        };
        let only_last = is("only the active log is synced");
        let skipped = if only_last {
            files.len().saturating_sub(1)
        } else {
            0
        };
        let mut files = files.iter().skip(skipped);
        let synced = files.try_for_each(|it| it.file.sync());
        // Whatever it says, what was not synced is lost.
        synced.inspect_err(|error| {
            self.fail(error);
        })?;
        let mut writer = self.writer();
        writer.synced = writer.synced.max(ordinal);
        drop(writer);
        self.superblock.mark(ordinal);
        Ok(())
    }

    /// The active generation takes no more blocks; `next` takes them.
    fn advance(&self, next: Arc<LogGeneration>) -> Arc<LogGeneration> {
        let mut writer = self.writer();
        let sealed = std::mem::replace(&mut writer.active, next);
        let bytes = std::mem::replace(&mut writer.offset, HEADER_BYTES as u64);
        writer.prepare_at = self.prepare_bytes;
        writer.sealed.insert(sealed.number, bytes);
        let ordinal = writer.ordinal;
        let active = writer.active.number;
        let mut state = self.superblock.state();
        state.synced = writer.synced;
        for listed in &mut state.generations {
            if listed.number == sealed.number {
                listed.last = Some(ordinal);
            }
            if listed.number == active {
                listed.first = Some(ordinal + 1);
            }
        }
        sealed
    }

    fn drop_file(&self, number: Generation) -> io::Result<()> {
        let place = Place {
            files: &*self.files,
            image: &self.image,
        };
        let path = place.path(&log_name(number));
        if is("a log is removed before it is unlisted") {
            self.files.remove(&path)?;
        }
        let forget = || {
            let mut writer = self.writer();
            writer.sealed.remove(&number);
            writer.unsynced.retain(|it| it.number != number);
        };
        if is("a dropped log is not synced while it is listed") {
            forget();
        }
        {
            let writer = self.writer();
            let mut state = self.superblock.state();
            state.synced = writer.synced;
            state.generations.retain(|it| it.number != number);
        }
        self.write_superblock()?;
        // While it may be listed a flush has to sync it, too.
        forget();
        if is("a log is removed before it is unlisted") {
            return Ok(());
        }
        self.files.remove(&path)
    }
}

#[async_trait]
impl BufferStore for LogBufferStore {
    async fn commit(&self, batch: BufferBatch) -> Result<(), BufferError> {
        let shared = &self.0;
        let content = batch.records.iter().map(|record| match &record.run {
            PageRun::Data(data) => data.len(),
            PageRun::Hole { .. } => 0,
        });
        let is_large = content.sum::<usize>() >= LARGE_BYTES;
        let appending = Arc::clone(&shared.appending).lock_owned().await;
        if is_large {
            // Its failure is the store's already. The job holds the lock to its end, whoever goes away
            // meanwhile: a later batch does not overtake it.
            let append = move |shared: &Arc<Shared>| {
                let done = shared.append(&batch);
                drop(appending);
                Ok(done)
            };
            shared.aside(append).await??;
        } else {
            shared.append(&batch)?;
            drop(appending);
        }
        shared.prepare();
        Ok(())
    }

    async fn sync(&self) -> Result<(), BufferError> {
        let shared = &self.0;
        shared.check()?;
        let wanted = shared.writer().ordinal;
        let syncing = Arc::clone(&shared.syncing).lock_owned().await;
        if shared.writer().synced >= wanted {
            return shared.check();
        }
        // The job holds the lock to its end, whoever goes away meanwhile.
        let sync = move |shared: &Arc<Shared>| {
            let done = shared.sync_files();
            drop(syncing);
            done
        };
        shared.aside(sync).await
    }

    async fn seal(&self) -> Result<(Generation, Arc<dyn BufferHandle>), BufferError> {
        let shared = &self.0;
        shared.check()?;
        let _appending = shared.appending.lock().await;
        let mut next = Arc::clone(&shared.next).lock_owned().await;
        let was_prepared = next.is_some();
        if !was_prepared {
            next = shared.aside(move |shared| shared.make_next(next)).await?;
        }
        let generation = next.take().expect("it was made");
        let sealed = shared.advance(generation);
        drop(next);
        // Nobody waits: without it the last process's active generation is active again.
        let shared = Arc::clone(shared);
        self.0.files.aside(Box::new(move || {
            // Whoever writes next is told.
            let _ = shared.write_superblock();
        }));
        Ok((sealed.number, sealed))
    }

    async fn active(&self) -> Result<(Generation, Arc<dyn BufferHandle>), BufferError> {
        let active = Arc::clone(&self.0.writer().active);
        Ok((active.number, active))
    }

    async fn drop_generation(&self, generation: Generation) -> Result<(), BufferError> {
        let drop = move |shared: &Arc<Shared>| shared.drop_file(generation);
        self.0.aside(drop).await
    }

    async fn put_metadata(&self, metadata: Bytes) -> Result<(), BufferError> {
        let shared = &self.0;
        shared.check()?;
        // At once, and not in the job: one that comes late writes what is newest then.
        shared.superblock.state().metadata = Some(metadata);
        shared.aside(|shared| shared.write_superblock()).await
    }

    fn usage(&self) -> BufferUsage {
        let writer = self.0.writer();
        let sealed: u64 = writer.sealed.values().sum();
        // What a file begins with is there before anything waits in it.
        let headers = (1 + writer.sealed.len() as u64) * HEADER_BYTES as u64;
        BufferUsage {
            disk_bytes: writer.offset + sealed - headers,
        }
    }
}
