//! One of a buffer store's fjall databases, for one caller at a time and blocking.
//!
//! This is what an active database and a retired one have in common; [`ActiveDatabase`] is what
//! takes commits.
//!
//! Every batch, of data or of metadata, carries the next ordinal of its database; an ordinal is
//! used only if the batch was written. Seals, drops and metadata live in the keyspace `meta` and go
//! through the same journal as data, so that a power cut leaves a prefix of everything.
//!
//! [`ActiveDatabase`]: super::active::ActiveDatabase
//!
//! Nothing here rotates a memtable except [`OpenDatabase::rotate_journal`] and
//! [`OpenDatabase::start_spill`]: keyspaces are created with limits that fjall never reaches by
//! itself. So no commit ever meets fjall's own back-pressure, whose waits would never end if its
//! workers were dead.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode};
use mvps_core::env::{BufferBatch, BufferError};
use mvps_core::ids::{Generation, Lsn};

use super::errors::{Failure, open_error, write_error};
use super::files::{self, DatabaseDirectory, DatabaseNumber};
use super::generation::{Scan, StoredGeneration};
use super::meta::{Bounds, KEY_MARK, KEY_METADATA, MetaContents, Retired, generation_key};
use super::record::{self, BatchStamp, Mark, Seed};
use super::spill::{SPILL_LIMIT, Spill, wait_for_flush};

const META: &str = "meta";

/// No memtable and no journal comes near this, so that fjall never acts by itself.
const NEVER_BYTES: u64 = 1 << 50;

/// One to flush and one to compact, so that no rotation waits for a compaction.
const WORKERS: usize = 2;

/// Spilled generations are read once, by the checkpoint; a small cache per image is enough.
const BLOCK_CACHE_BYTES: u64 = 4 << 20;

/// A rotation writes a few kilobytes; if it takes this long, fjall's workers or the disk are dead.
const ROTATION_LIMIT: Duration = Duration::from_secs(60);

/// Bytes that the journal spends on an item beside key and value, rounded up.
const JOURNAL_ITEM_BYTES: u64 = 64;

/// A key of `meta` and what to write there; nothing to remove it.
pub type MetaEntry = (Vec<u8>, Option<Vec<u8>>);

/// How far a database has come; read without any lock.
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

/// What opening found in a database.
pub struct Found {
    /// The metadata last put.
    pub metadata: Option<Bytes>,
    /// The earlier databases that are needed, if this is the active one.
    pub earlier: BTreeMap<DatabaseNumber, Retired>,
    /// The generations, oldest first, with what is in them. Never empty.
    pub generations: Vec<FoundGeneration>,
}

impl Found {
    /// The highest LSN in any generation.
    pub fn last_lsn(&self) -> Lsn {
        let filled = self
            .generations
            .iter()
            .filter(|it| !it.scan.batches.is_empty());
        filled.map(|it| it.end).max().unwrap_or(Lsn(0))
    }
}

/// One generation that opening found.
pub struct FoundGeneration {
    /// Reads it.
    pub stored: Arc<StoredGeneration>,
    /// The last LSN before it.
    pub start: Lsn,
    /// The last LSN in it, or `start` if it is empty.
    pub end: Lsn,
    /// What is in it.
    pub scan: Scan,
}

/// A database.
pub struct OpenDatabase {
    fjall: Database,
    meta: Keyspace,
    seed: Seed,
    progress: Arc<Progress>,
    generations: BTreeMap<Generation, Arc<StoredGeneration>>,
    ordinal: u64,
    /// Last: fjall's own lock goes first.
    directory: Arc<DatabaseDirectory>,
}

fn keyspace_name(generation: Generation) -> String {
    format!("generation-{generation}")
}

/// Opens fjall's database. The directory is locked, so whoever still has fjall's own lock is about
/// to let go.
fn open_fjall(directory: &Path) -> Result<Database, fjall::Error> {
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

fn make_keyspace(fjall: &Database, directory: &Path, name: &str) -> Result<Keyspace, fjall::Error> {
    let options = || KeyspaceCreateOptions::default().max_memtable_size(NEVER_BYTES);
    let keyspace = fjall.keyspace(name, options)?;
    // fjall syncs the keyspace, but not its entry in this directory.
    files::sync_directory(&directory.join("keyspaces"))?;
    Ok(keyspace)
}

/// Checks which generations have an end, and gives the last one of a retired database the end that
/// the active database knows: the word of it may have been lost.
fn settle_ends(
    generations: &mut BTreeMap<Generation, Bounds>,
    retired: Option<&Retired>,
) -> Result<(), &'static str> {
    let Some(mut last) = generations.last_entry() else {
        return Err("every generation is missing");
    };
    match retired {
        None if last.get().end.is_some() => {
            return Err("it takes no more commits, and the database that does is missing");
        }
        None => {}
        Some(retired) if *last.key() > retired.last => {
            return Err("it has a generation that is the next database's");
        }
        Some(retired) if *last.key() == retired.last => {
            let end = last.get_mut().end.get_or_insert(retired.end);
            if *end != retired.end {
                return Err("it does not end where the next database begins");
            }
        }
        Some(_) => {}
    }
    let open = generations.values().filter(|bounds| bounds.end.is_none());
    match open.count() {
        0 => Ok(()),
        1 if retired.is_none() => Ok(()),
        _ => Err("a generation before the last has no end"),
    }
}

impl OpenDatabase {
    /// Makes a database with nothing in it, not even a batch.
    pub fn make(directory: Arc<DatabaseDirectory>, seed: Seed) -> Result<Self, fjall::Error> {
        let fjall = open_fjall(directory.path())?;
        let meta = make_keyspace(&fjall, directory.path(), META)?;
        Ok(Self {
            fjall,
            meta,
            seed,
            progress: Arc::default(),
            generations: BTreeMap::new(),
            ordinal: 0,
            directory,
        })
    }

    /// Opens a database whose journals were checked, and checks what it holds. `synced` is the
    /// highest ordinal known to be synced, `retired` what the active database knows of this one, if
    /// this is not the active one.
    pub fn open(
        directory: Arc<DatabaseDirectory>,
        seed: Seed,
        synced: u64,
        retired: Option<&Retired>,
    ) -> Result<(Self, Found), BufferError> {
        let fjall = open_fjall(directory.path()).map_err(open_error)?;
        let damaged = |what: &str| BufferError::Corrupt {
            reason: format!("{}: {what}", directory.path().display()),
        };
        if !fjall.keyspace_exists(META) {
            return Err(damaged("the keyspace of metadata is missing"));
        }
        let meta = make_keyspace(&fjall, directory.path(), META).map_err(open_error)?;
        let mut contents = MetaContents::read(&meta, seed)?;
        settle_ends(&mut contents.generations, retired).map_err(damaged)?;
        let mut database = Self {
            fjall,
            meta,
            seed,
            progress: Arc::default(),
            generations: BTreeMap::new(),
            ordinal: contents.ordinal,
            directory: Arc::clone(&directory),
        };
        let mut generations = Vec::new();
        for (number, bounds) in &contents.generations {
            generations.push(database.open_generation(*number, *bounds)?);
        }
        let ordinal = database.ordinal;
        if ordinal < synced {
            return Err(damaged(&format!(
                "what follows batch {ordinal} is missing, although batch {synced} was synced"
            )));
        }
        database.settle()?;
        let found = Found {
            metadata: contents.metadata,
            earlier: contents.earlier,
            generations,
        };
        Ok((database, found))
    }

    fn open_generation(
        &mut self,
        number: Generation,
        bounds: Bounds,
    ) -> Result<FoundGeneration, BufferError> {
        let name = keyspace_name(number);
        if !self.fjall.keyspace_exists(&name) {
            return Err(BufferError::Corrupt {
                reason: format!("{}: {name} is missing", self.directory.path().display()),
            });
        }
        let keyspace = self.make_keyspace(number).map_err(open_error)?;
        let stored = self.insert(number, keyspace);
        let scan = stored.scan()?;
        let end = stored.check_chain(&scan, bounds.start, bounds.end)?;
        if let Some((last, _)) = scan.batches.last_key_value() {
            self.ordinal = self.ordinal.max(*last);
        }
        Ok(FoundGeneration {
            stored,
            start: bounds.start,
            end,
            scan,
        })
    }

    /// The directory.
    pub fn directory(&self) -> &Arc<DatabaseDirectory> {
        &self.directory
    }

    /// Its number among the store's databases.
    pub fn number(&self) -> DatabaseNumber {
        self.directory.number()
    }

    /// Ordinal of the last batch.
    pub fn ordinal(&self) -> u64 {
        self.ordinal
    }

    /// The generations that it has.
    pub fn generations(&self) -> &BTreeMap<Generation, Arc<StoredGeneration>> {
        &self.generations
    }

    /// Makes the keyspace of a generation, or finds it.
    pub fn make_keyspace(&self, generation: Generation) -> Result<Keyspace, fjall::Error> {
        let name = keyspace_name(generation);
        make_keyspace(&self.fjall, self.directory.path(), &name)
    }

    /// Knows a generation from now on, which `meta` has to say already.
    pub fn insert(&mut self, generation: Generation, keyspace: Keyspace) -> Arc<StoredGeneration> {
        let directory = Arc::clone(&self.directory);
        let stored = StoredGeneration::new(generation, keyspace, self.seed, directory);
        let stored = Arc::new(stored);
        self.generations.insert(generation, Arc::clone(&stored));
        stored
    }

    /// Ends what fjall and an earlier process left undone: memtables that recovery wants flushed,
    /// and keyspaces of generations that were dropped or never used.
    fn settle(&mut self) -> Result<(), BufferError> {
        let last = self.generations.last_key_value();
        let next = last.map(|(last, _)| keyspace_name(last.next()));
        for name in self.fjall.list_keyspace_names() {
            let name: &str = &name;
            let known = name == META
                || next.as_deref() == Some(name)
                || self.generations.keys().any(|g| keyspace_name(*g) == name);
            if !known {
                let keyspace = make_keyspace(&self.fjall, self.directory.path(), name);
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

    /// Writes a batch to `keyspace`, whose last batch ended at `previous_lsn`.
    pub fn write_records(
        &mut self,
        keyspace: &Keyspace,
        batch: &BufferBatch,
        previous_lsn: Lsn,
    ) -> Result<(), Failure> {
        let stamp = BatchStamp {
            mark: self.next_mark(),
            last_lsn: batch.last_lsn,
            previous_lsn,
            records: u32::try_from(batch.records.len()).expect("a batch has below 2^32 records"),
        };
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
        self.written(bytes);
        Ok(())
    }

    /// Writes or, without a payload, removes entries of `meta`, in one batch.
    pub fn write_meta(&mut self, entries: Vec<MetaEntry>) -> Result<(), Failure> {
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

    /// The metadata last put to this database.
    pub fn metadata(&self) -> Result<Option<Bytes>, Failure> {
        let value = self.meta.get(KEY_METADATA).map_err(write_error)?;
        let damaged = || Failure::Poisoned("the metadata is damaged".to_owned());
        let payload = |value: Bytes| {
            let (_, payload) = record::decode_meta(self.seed, KEY_METADATA, &value)?;
            Some(value.slice_ref(payload))
        };
        let value = value.map(Bytes::from);
        value
            .map(|value| payload(value).ok_or_else(damaged))
            .transpose()
    }

    /// The first half of dropping: says in `meta` that the generation is no more. It has to be
    /// synced before the second half.
    pub fn forget(&mut self, stored: &StoredGeneration) -> Result<(), Failure> {
        self.write_meta(vec![(generation_key(stored.generation), None)])?;
        self.generations.remove(&stored.generation);
        Ok(())
    }

    /// The second half of dropping: the keyspace goes.
    pub fn delete(&self, stored: &StoredGeneration) -> Result<(), Failure> {
        let deleted = self.fjall.delete_keyspace(stored.keyspace().clone());
        stored.mark_deleted();
        deleted.map_err(write_error)
    }

    /// Closes the database and removes it: what nobody reads at once, the rest with the last
    /// handle. The store must say on the disk that it needs this database no more. What fails here
    /// is done by the next opening.
    pub fn remove(self) {
        for stored in self.generations.values() {
            stored.mark_deleted();
        }
        let directory = Arc::clone(&self.directory);
        directory.remove_when_unused();
        drop(self);
        for (_, journal) in files::journals(directory.path()).unwrap_or_default() {
            // A handle may be held for long, and its generation's tables are elsewhere.
            let _ = fs::remove_file(journal);
        }
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
        let directory = Arc::clone(&self.directory);
        Ok(Spill::new(self.fjall.clone(), keyspace, directory))
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
