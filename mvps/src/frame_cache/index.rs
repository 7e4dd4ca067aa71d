//! The index of the disk cache in a fjall database.
//!
//! ```text
//! keyspace "cache": suffix u64, sequence u64, offset u64, big-endian  ->  slab u64, offset u32, bytes u32
//!                   "index"                                           ->  version u8, identity u64
//!                   "entries"                                         ->  u64
//! ```
//!
//! Invariant: nothing of it is synced, but for what fjall syncs by itself when it writes a table.
//! Whatever is wrong with a database, it is deleted and a new one begins.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, Slice};
use mvps_core::env::{Entropy, EntropyExt as _};
use mvps_core::frame_cache::{CacheIndex, Place};
use mvps_core::ids::PieceKey;

const KEYSPACE: &str = "cache";
const INDEX_KEY: &str = "index";
const ENTRIES_KEY: &str = "entries";

/// In a database's folder: it has failed.
const DISCARDED_FILE: &str = "discarded";

/// Of what is stored.
const VERSION: u8 = 1;

/// Memory for blocks of the database. A look-up of a place reads one block of 4 KiB, which the system
/// has in its page cache: this saves decoding the busiest.
const BLOCK_CACHE_BYTES: u64 = 8 << 20;

/// Memory for what is not in a table yet: 100,000 places.
const MEMTABLE_BYTES: u64 = 8 << 20;

/// The least that fjall takes.
const JOURNAL_MAX_BYTES: u64 = 64 << 20;

/// Tables that are kept open. fjall keeps deleted ones open, too, and they take room.
const OPEN_TABLES_MAX: usize = 16;

/// Places of pieces in a database.
pub struct FjallIndex {
    database: Database,
    places: Keyspace,
    identity: u64,
    entries_found: u64,
    folder: PathBuf,
}

impl FjallIndex {
    /// Opens the index in this folder, which nobody else has, or makes it.
    ///
    /// # Errors
    /// If it can neither be opened nor made anew, or somebody else has it in spite of that.
    pub fn open(folder: &Path, entropy: &dyn Entropy) -> io::Result<Self> {
        if folder.exists() {
            let opened = match folder.join(DISCARDED_FILE).exists() {
                true => Ok(Ok(None)),
                false => catch_unwind(AssertUnwindSafe(|| Self::found(folder))),
            };
            let reason = match opened {
                Ok(Ok(Some(found))) => return Ok(found),
                Ok(Err(error @ fjall::Error::Locked)) => return Err(failed(error)),
                Ok(Ok(None)) => "it is unfinished, of another version, or has failed".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "opening it panics".to_owned(),
            };
            tracing::warn!(
                folder = %folder.display(),
                reason,
                "the index of the disk cache cannot be used; the cache begins cold"
            );
            fs::remove_dir_all(folder)?;
        }
        Self::made(folder, entropy).map_err(failed)
    }

    fn found(folder: &Path) -> fjall::Result<Option<Self>> {
        let (database, places) = database(folder)?;
        let about = places.get(INDEX_KEY)?;
        let identity = about.and_then(|about| match about.split_first() {
            Some((&VERSION, rest)) => u64_of(rest),
            _ => None,
        });
        let entries = places.get(ENTRIES_KEY)?;
        let entries_found = entries.and_then(|it| u64_of(&it)).unwrap_or_default();
        Ok(identity.map(|identity| Self {
            database,
            places,
            identity,
            entries_found,
            folder: folder.to_owned(),
        }))
    }

    fn made(folder: &Path, entropy: &dyn Entropy) -> fjall::Result<Self> {
        let (database, places) = database(folder)?;
        let identity = entropy.u64();
        let mut about = vec![VERSION];
        about.extend(identity.to_be_bytes());
        places.insert(INDEX_KEY, about)?;
        Ok(Self {
            database,
            places,
            identity,
            entries_found: 0,
            folder: folder.to_owned(),
        })
    }
}

fn database(folder: &Path) -> fjall::Result<(Database, Keyspace)> {
    let database = Database::builder(folder)
        .worker_threads(1)
        .cache_size(BLOCK_CACHE_BYTES)
        .max_journaling_size(JOURNAL_MAX_BYTES)
        .max_cached_files(Some(OPEN_TABLES_MAX))
        .open()?;
    let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
    let places = database.keyspace(KEYSPACE, options)?;
    Ok((database, places))
}

impl CacheIndex for FjallIndex {
    fn identity(&self) -> u64 {
        self.identity
    }

    fn entries(&self) -> u64 {
        self.entries_found
    }

    fn get(&self, key: &PieceKey) -> io::Result<Option<Place>> {
        let found = guarded(|| self.places.get(stored_key(key)))?;
        Ok(found.and_then(|place| place_of(&place)))
    }

    fn apply(&self, changes: &[(PieceKey, Option<Place>)], entries: u64) -> io::Result<()> {
        let mut batch = self.database.batch();
        for (key, place) in changes {
            match place {
                Some(place) => batch.insert(&self.places, stored_key(key), stored_place(place)),
                None => batch.remove(&self.places, stored_key(key)),
            }
        }
        let entries = Slice::from(entries.to_be_bytes());
        batch.insert(&self.places, ENTRIES_KEY, entries);
        guarded(|| batch.commit())
    }

    fn discard(&self) {
        if let Err(error) = fs::write(self.folder.join(DISCARDED_FILE), []) {
            tracing::warn!(%error, "the next start may find the index as it is");
        }
    }
}

/// Whatever stored bytes do to fjall is a failure of the database.
fn guarded<T>(call: impl FnOnce() -> fjall::Result<T>) -> io::Result<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(done) => done.map_err(failed),
        Err(_) => Err(io::Error::other("fjall panics")),
    }
}

fn failed(error: fjall::Error) -> io::Error {
    match error {
        fjall::Error::Io(error) => error,
        other => io::Error::other(other),
    }
}

fn stored_key(key: &PieceKey) -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&key.suffix.to_be_bytes());
    bytes[8..16].copy_from_slice(&key.sequence.0.to_be_bytes());
    bytes[16..].copy_from_slice(&key.offset.to_be_bytes());
    bytes
}

fn stored_place(place: &Place) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&place.slab.to_be_bytes());
    bytes[8..12].copy_from_slice(&place.offset.to_be_bytes());
    bytes[12..].copy_from_slice(&place.bytes.to_be_bytes());
    bytes
}

fn place_of(bytes: &[u8]) -> Option<Place> {
    let bytes: &[u8; 16] = bytes.try_into().ok()?;
    let (slab, rest) = bytes.split_first_chunk::<8>()?;
    let (offset, length) = rest.split_first_chunk::<4>()?;
    Some(Place {
        slab: u64::from_be_bytes(*slab),
        offset: u32::from_be_bytes(*offset),
        bytes: u32::from_be_bytes(length.try_into().ok()?),
    })
}

fn u64_of(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}
