//! A buffer store's fjall database, for one caller at a time and blocking.
//!
//! Every batch, of data or of metadata, carries the next ordinal; an ordinal is used only if the
//! batch was written. Seals, drops and metadata live in the keyspace `meta` and go through the same
//! journal as data, so that a power cut leaves a prefix of everything.
//!
//! Nothing here rotates a memtable except [`OpenDatabase::rotate_journal`] and
//! [`OpenDatabase::start_spill`]: keyspaces are created with limits that fjall never reaches by
//! itself. So no commit ever meets fjall's own back-pressure, whose waits would never end if its
//! workers were dead.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode};
use mvps_core::env::{BufferBatch, BufferError};
use mvps_core::ids::{Generation, Lsn};

use super::errors::{Failure, open_error, write_error};
use super::files::{self, DirectoryLock};
use super::generation::{Scan, StoredGeneration};
use super::meta::{Bounds, KEY_MARK, KEY_METADATA, MetaContents, generation_key};
use super::record::{self, BatchStamp, Mark, Seed};

const META: &str = "meta";
/// The first generation of a new store.
pub const FIRST_GENERATION: Generation = Generation(1);

/// No memtable and no journal comes near this, so that fjall never acts by itself.
const NEVER_BYTES: u64 = 1 << 50;

/// One to flush and one to compact, so that no rotation waits for a compaction.
const WORKERS: usize = 2;

/// Spilled generations are read once, by the checkpoint; a small cache per image is enough.
const BLOCK_CACHE_BYTES: u64 = 4 << 20;

/// A rotation writes a few kilobytes; if it takes this long, fjall's workers or the disk are dead.
const ROTATION_LIMIT: Duration = Duration::from_secs(60);

/// A spill writes a generation.
const SPILL_LIMIT: Duration = Duration::from_secs(900);

/// Bytes that the journal spends on an item beside key and value, rounded up.
const JOURNAL_ITEM_BYTES: u64 = 64;

/// How far the store has come; read without any lock.
#[derive(Debug, Default)]
pub struct Progress {
    /// Ordinal of the last batch written.
    pub committed: AtomicU64,
    /// Everything up to this ordinal survives a power cut.
    pub synced: AtomicU64,
    /// Written to the active journal, about.
    pub active_journal_bytes: AtomicU64,
    /// Sealed journals and keyspaces, as of the last change of either.
    pub other_bytes: AtomicU64,
}

/// What opening found.
pub struct Found {
    /// The metadata last put.
    pub metadata: Option<Bytes>,
    /// The highest LSN in any generation.
    pub last_lsn: Lsn,
    /// The generations, oldest first, with what is in them.
    pub generations: Vec<FoundGeneration>,
}

/// One generation that opening found.
pub struct FoundGeneration {
    /// Reads it.
    pub stored: Arc<StoredGeneration>,
    /// The last LSN before it.
    pub start: Lsn,
    /// What is in it.
    pub scan: Scan,
}

/// The database.
pub struct OpenDatabase {
    fjall: Database,
    meta: Keyspace,
    directory: PathBuf,
    seed: Seed,
    progress: Arc<Progress>,
    generations: BTreeMap<Generation, Arc<StoredGeneration>>,
    active: Arc<StoredGeneration>,
    active_start: Lsn,
    /// The keyspace of the generation after the active one, if it was made in advance.
    next: Option<Keyspace>,
    ordinal: u64,
    previous_lsn: Lsn,
    /// Last: fjall's own lock goes first.
    lock: Arc<DirectoryLock>,
}

fn keyspace_name(generation: Generation) -> String {
    format!("generation-{generation}")
}

/// Opens fjall's database. The directory is locked, so whoever still has fjall's own lock is about to
/// let go.
fn open_fjall(directory: &PathBuf) -> Result<Database, fjall::Error> {
    let open = || {
        Database::builder(directory)
            .worker_threads(WORKERS)
            .cache_size(BLOCK_CACHE_BYTES)
            // A cache of open files would keep those of dropped generations, and their space;
            // without one, each table of fjall's own keyspace stays open, which never end.
            .max_cached_files(Some(0))
            .max_journaling_size(NEVER_BYTES)
            .open()
    };
    files::await_lock(
        open,
        |error| matches!(error, fjall::Error::Locked),
        || false,
    )
}

fn make_keyspace(
    fjall: &Database,
    directory: &std::path::Path,
    name: &str,
) -> Result<Keyspace, fjall::Error> {
    let options = || KeyspaceCreateOptions::default().max_memtable_size(NEVER_BYTES);
    let keyspace = fjall.keyspace(name, options)?;
    // fjall syncs the keyspace, but not its entry in this directory.
    files::sync_directory(&directory.join("keyspaces"))?;
    Ok(keyspace)
}

impl OpenDatabase {
    /// What keeps the directory locked.
    pub fn lock(&self) -> &Arc<DirectoryLock> {
        &self.lock
    }

    /// Makes a database whose only generation is `first` and begins behind `start`.
    pub fn create(
        directory: PathBuf,
        seed: Seed,
        lock: Arc<DirectoryLock>,
        first: Generation,
        start: Lsn,
    ) -> Result<Self, BufferError> {
        let fjall = open_fjall(&directory).map_err(open_error)?;
        let meta = make_keyspace(&fjall, &directory, META).map_err(open_error)?;
        let name = keyspace_name(first);
        let keyspace = make_keyspace(&fjall, &directory, &name).map_err(open_error)?;
        let active = StoredGeneration::new(first, keyspace, seed, Arc::clone(&lock));
        let active = Arc::new(active);
        let mut database = Self {
            fjall,
            meta,
            directory,
            seed,
            lock,
            progress: Arc::default(),
            generations: BTreeMap::from([(first, Arc::clone(&active))]),
            active,
            active_start: start,
            next: None,
            ordinal: 0,
            previous_lsn: start,
        };
        let bounds = Bounds { start, end: None };
        let entry = (generation_key(first), Some(bounds.encode()));
        database
            .write_meta(vec![entry])
            .map_err(Failure::into_open)?;
        Ok(database)
    }

    /// Opens a database whose journals were checked, and checks what it holds. `synced` is the
    /// highest ordinal known to be synced.
    pub fn open(
        directory: PathBuf,
        seed: Seed,
        lock: Arc<DirectoryLock>,
        synced: u64,
    ) -> Result<(Self, Found), BufferError> {
        let fjall = open_fjall(&directory).map_err(open_error)?;
        let missing = |what: &str| BufferError::Corrupt {
            reason: format!("{}: {what} is missing", directory.display()),
        };
        if !fjall.keyspace_exists(META) {
            return Err(missing("the keyspace of metadata"));
        }
        let meta = make_keyspace(&fjall, &directory, META).map_err(open_error)?;
        let contents = MetaContents::read(&meta, seed)?;
        let mut ordinal = contents.ordinal;
        let mut found = Found {
            metadata: contents.metadata,
            last_lsn: Lsn(0),
            generations: Vec::new(),
        };
        let mut previous_lsn = Lsn(0);
        let mut active_start = Lsn(0);
        for (number, bounds) in &contents.generations {
            let name = keyspace_name(*number);
            if !fjall.keyspace_exists(&name) {
                return Err(missing(&name));
            }
            let keyspace = make_keyspace(&fjall, &directory, &name).map_err(open_error)?;
            let stored = StoredGeneration::new(*number, keyspace, seed, Arc::clone(&lock));
            let scan = stored.scan()?;
            previous_lsn = stored.check_chain(&scan, bounds.start, bounds.end)?;
            active_start = bounds.start;
            if let Some((last, (stamp, _))) = scan.batches.last_key_value() {
                ordinal = ordinal.max(*last);
                found.last_lsn = stamp.last_lsn;
            }
            found.generations.push(FoundGeneration {
                stored: Arc::new(stored),
                start: bounds.start,
                scan,
            });
        }
        let Some(active) = found.generations.last() else {
            return Err(missing("every generation"));
        };
        if ordinal < synced {
            return Err(missing(&format!(
                "what follows batch {ordinal}, although batch {synced} was synced,"
            )));
        }
        let share = |g: &FoundGeneration| (g.stored.generation, Arc::clone(&g.stored));
        let mut database = Self {
            meta,
            directory,
            seed,
            lock,
            progress: Arc::default(),
            generations: found.generations.iter().map(share).collect(),
            active: Arc::clone(&active.stored),
            active_start,
            next: None,
            ordinal,
            previous_lsn,
            fjall,
        };
        database.settle()?;
        Ok((database, found))
    }

    /// Ends what fjall and an earlier process left undone: memtables that recovery wants flushed,
    /// and keyspaces of generations that were dropped or never used.
    fn settle(&mut self) -> Result<(), BufferError> {
        let next = keyspace_name(self.active.generation.next());
        for name in self.fjall.list_keyspace_names() {
            let name: &str = &name;
            let known = name == META
                || name == next
                || self.generations.keys().any(|g| keyspace_name(*g) == name);
            if !known {
                let keyspace = make_keyspace(&self.fjall, &self.directory, name);
                let deleted = keyspace.and_then(|k| self.fjall.delete_keyspace(k));
                deleted.map_err(open_error)?;
            }
        }
        let keyspaces = self.generations.values().map(|g| g.keyspace());
        for keyspace in keyspaces.chain([&self.meta]) {
            self.wait_for_flush(keyspace, SPILL_LIMIT)
                .map_err(Failure::into_open)?;
        }
        self.write_meta(vec![]).map_err(Failure::into_open)
    }

    /// How far the store has come.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    fn next_mark(&self) -> Mark {
        Mark {
            ordinal: self.ordinal + 1,
            synced: self.progress.synced.load(Ordering::Acquire),
        }
    }

    fn written(&mut self, bytes: u64) {
        self.ordinal += 1;
        let written = &self.progress.active_journal_bytes;
        written.fetch_add(bytes, Ordering::Relaxed);
        self.progress
            .committed
            .store(self.ordinal, Ordering::Release);
    }

    /// Writes a batch to the active generation.
    pub fn commit(&mut self, batch: &BufferBatch) -> Result<(), Failure> {
        assert!(
            batch.last_lsn > self.previous_lsn,
            "batches come in the order of their LSNs: {} after {}",
            batch.last_lsn,
            self.previous_lsn
        );
        let stamp = BatchStamp {
            mark: self.next_mark(),
            last_lsn: batch.last_lsn,
            previous_lsn: self.previous_lsn,
            records: u32::try_from(batch.records.len()).expect("a batch has below 2^32 records"),
        };
        let keyspace = self.active.keyspace();
        let capacity = batch.records.len() * 2 + 1;
        let write = OwnedWriteBatch::with_capacity(self.fjall.clone(), capacity);
        let mut write = write.durability(Some(PersistMode::Buffer));
        let mut bytes = JOURNAL_ITEM_BYTES;
        for record in &batch.records {
            let at = record.at;
            let encoded = record::encode_record(self.seed, &stamp, at, &record.run);
            bytes += encoded.value.len() as u64 + JOURNAL_ITEM_BYTES;
            write.insert(keyspace, record::record_key(at), encoded.value);
            if let Some(content) = encoded.content {
                bytes += content.len() as u64 + JOURNAL_ITEM_BYTES;
                write.insert(keyspace, record::content_key(at), content);
            }
        }
        if batch.records.is_empty() {
            let key = record::empty_batch_key(batch.last_lsn);
            write.insert(keyspace, key, record::encode_empty_batch(self.seed, &stamp));
        }
        write.commit().map_err(write_error)?;
        self.previous_lsn = batch.last_lsn;
        self.written(bytes);
        Ok(())
    }

    /// Writes or, without a payload, removes entries of `meta`, in one batch.
    fn write_meta(&mut self, entries: Vec<(Vec<u8>, Option<Vec<u8>>)>) -> Result<(), Failure> {
        let mark = self.next_mark();
        let mut write = self.fjall.batch();
        let mut bytes = JOURNAL_ITEM_BYTES;
        let value = record::encode_meta(self.seed, KEY_MARK, mark, &[]);
        write.insert(&self.meta, KEY_MARK, value);
        for (key, payload) in entries {
            match payload {
                Some(payload) => {
                    let value = record::encode_meta(self.seed, &key, mark, &payload);
                    bytes += value.len() as u64 + JOURNAL_ITEM_BYTES;
                    write.insert(&self.meta, key, value);
                }
                None => write.remove(&self.meta, key),
            }
        }
        write.commit().map_err(write_error)?;
        self.written(bytes);
        Ok(())
    }

    /// Replaces the metadata.
    pub fn put_metadata(&mut self, metadata: &[u8]) -> Result<(), Failure> {
        self.write_meta(vec![(KEY_METADATA.to_vec(), Some(metadata.to_vec()))])
    }

    /// Makes the keyspace of the next generation, if it is not there yet.
    pub fn prepare_next(&mut self) -> Result<(), Failure> {
        if self.next.is_none() {
            let name = keyspace_name(self.active.generation.next());
            let made = make_keyspace(&self.fjall, &self.directory, &name);
            self.next = Some(made.map_err(write_error)?);
        }
        Ok(())
    }

    /// Seals the active generation and returns it.
    pub fn seal(&mut self) -> Result<Arc<StoredGeneration>, Failure> {
        self.prepare_next()?;
        let next = self.active.generation.next();
        let keyspace = self.next.take().expect("the next keyspace was just made");
        self.begin_generation(next, keyspace, self.previous_lsn)
    }

    /// The generation that takes the next commits.
    pub fn active(&self) -> Arc<StoredGeneration> {
        Arc::clone(&self.active)
    }

    /// Seals the active generation, as [`OpenDatabase::seal`] does, and begins another than the
    /// next one, behind another LSN.
    pub fn seal_and_skip(&mut self, to: Generation, start: Lsn) -> Result<(), Failure> {
        let name = keyspace_name(to);
        let keyspace = make_keyspace(&self.fjall, &self.directory, &name);
        self.begin_generation(to, keyspace.map_err(write_error)?, start)?;
        Ok(())
    }

    fn begin_generation(
        &mut self,
        next: Generation,
        keyspace: Keyspace,
        start: Lsn,
    ) -> Result<Arc<StoredGeneration>, Failure> {
        let sealed = Bounds {
            start: self.active_start,
            end: Some(self.previous_lsn),
        };
        let opened = Bounds { start, end: None };
        self.write_meta(vec![
            (
                generation_key(self.active.generation),
                Some(sealed.encode()),
            ),
            (generation_key(next), Some(opened.encode())),
        ])?;
        let lock = Arc::clone(&self.lock);
        let stored = Arc::new(StoredGeneration::new(next, keyspace, self.seed, lock));
        self.generations.insert(next, Arc::clone(&stored));
        self.active_start = start;
        self.previous_lsn = start;
        Ok(std::mem::replace(&mut self.active, stored))
    }

    /// A sealed generation.
    ///
    /// # Panics
    /// If it is not there or not sealed: only the engine names generations.
    pub fn sealed(&self, generation: Generation) -> Arc<StoredGeneration> {
        assert!(
            generation < self.active.generation,
            "generation {generation} is not sealed"
        );
        let found = self.generations.get(&generation);
        Arc::clone(found.expect("a generation is dropped once"))
    }

    /// The first half of dropping: says in `meta` that the generation is no more. It has to be
    /// synced before the second half.
    pub fn forget(&mut self, generation: Generation) -> Result<Arc<StoredGeneration>, Failure> {
        let stored = self.sealed(generation);
        self.write_meta(vec![(generation_key(generation), None)])?;
        self.generations.remove(&generation);
        Ok(stored)
    }

    /// The second half of dropping: the keyspace goes.
    pub fn delete(&mut self, stored: &StoredGeneration) -> Result<(), Failure> {
        let deleted = self.fjall.delete_keyspace(stored.keyspace().clone());
        stored.mark_deleted();
        deleted.map_err(write_error)
    }

    /// Lets fjall seal a long journal and remove those that nobody needs. Everything written has to
    /// be synced before.
    pub fn rotate_journal(&mut self) -> Result<(), Failure> {
        self.write_meta(vec![])?;
        self.meta.rotate_memtable().map_err(write_error)?;
        self.wait_for_flush(&self.meta, ROTATION_LIMIT)?;
        // A journal begins with a batch that is synced before any other is written, so that
        // recovery can tell a torn beginning from a damaged one.
        self.write_meta(vec![])
    }

    /// Hands a sealed generation to fjall's workers, to be written to tables.
    pub fn start_spill(&self, stored: &StoredGeneration) -> Result<Spill, Failure> {
        let keyspace = stored.keyspace().clone();
        keyspace.rotate_memtable().map_err(write_error)?;
        Ok(Spill {
            fjall: self.fjall.clone(),
            keyspace,
        })
    }

    fn wait_for_flush(&self, keyspace: &Keyspace, limit: Duration) -> Result<(), Failure> {
        wait_for_flush(&self.fjall, keyspace, limit)
    }

    /// Measures what lies on the disk. `active_journal_bytes` is the length of the active journal's
    /// file, which counts as what was written to it instead.
    pub fn measure(&self, active_journal_bytes: u64) {
        if let Ok(all) = self.fjall.disk_space() {
            let other = all.saturating_sub(active_journal_bytes);
            self.progress.other_bytes.store(other, Ordering::Relaxed);
        }
    }
}

/// A spill under way.
pub struct Spill {
    fjall: Database,
    keyspace: Keyspace,
}

impl Spill {
    /// Waits until the generation is on the disk.
    pub fn wait(&self) -> Result<(), Failure> {
        wait_for_flush(&self.fjall, &self.keyspace, SPILL_LIMIT)
    }
}

fn wait_for_flush(fjall: &Database, keyspace: &Keyspace, limit: Duration) -> Result<(), Failure> {
    let begun = Instant::now();
    while keyspace.sealed_memtable_count() > 0 {
        // A worker that failed poisons the database; one that panicked does not.
        fjall.persist(PersistMode::Buffer).map_err(write_error)?;
        if begun.elapsed() > limit {
            return Err(Failure::Poisoned(format!(
                "no flush within {} s: fjall's workers are gone or the disk hangs",
                limit.as_secs()
            )));
        }
        thread::sleep(Duration::from_micros(200));
    }
    fjall.persist(PersistMode::Buffer).map_err(write_error)
}
