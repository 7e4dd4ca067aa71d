//! The keyspace `meta` of a database: which generations it has, the engine's metadata, and which
//! earlier databases are needed.
//!
//! In a store of several databases the active one's word counts for the last two. Its values are
//! decoded and verified here and nowhere else.

use std::collections::BTreeMap;

use bytes::Bytes;
use fjall::Keyspace;
use mvps_core::env::BufferError;
use mvps_core::ids::{Generation, Lsn};

use super::errors::read_error;
use super::files::DatabaseNumber;
use super::record::{self, Seed};

/// In every batch to `meta`, so that each has a mark.
pub const KEY_MARK: &[u8] = b"mark";
/// The engine's metadata.
pub const KEY_METADATA: &[u8] = b"image-metadata";
const KEY_GENERATION: &[u8] = b"generation";
const KEY_EARLIER: &[u8] = b"earlier";
/// In a database that takes no more commits. Versions that know of one database only refuse what
/// they do not know, instead of going on in the middle of the store.
pub const KEY_RETIRED: &[u8] = b"retired";

/// The key of a generation's bounds.
pub fn generation_key(generation: Generation) -> Vec<u8> {
    [KEY_GENERATION, &generation.0.to_be_bytes()].concat()
}

/// The key of what is known of an earlier database.
pub fn earlier_key(number: DatabaseNumber) -> Vec<u8> {
    [KEY_EARLIER, &number.0.to_be_bytes()].concat()
}

/// What the active database knows of an earlier one, as of when that took its last batch of data.
/// It is there for as long as the earlier one has a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retired {
    /// Its last generation, which may have been dropped since.
    pub last: Generation,
    /// The last LSN of that.
    pub end: Lsn,
    /// Its batches up to this ordinal are synced: all that commits ever wrote to it.
    pub ordinal: u64,
}

impl Retired {
    /// As a payload.
    pub fn encode(self) -> Vec<u8> {
        let numbers = [self.last.0, self.end.0, self.ordinal];
        numbers.into_iter().flat_map(u64::to_le_bytes).collect()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (numbers, rest) = bytes.as_chunks::<8>();
        let [last, end, ordinal] = *numbers else {
            return None;
        };
        rest.is_empty().then_some(Self {
            last: Generation(u64::from_le_bytes(last)),
            end: Lsn(u64::from_le_bytes(end)),
            ordinal: u64::from_le_bytes(ordinal),
        })
    }
}

/// Where a generation begins and ends, as `meta` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The last LSN before it.
    pub start: Lsn,
    /// Its last LSN, or that before it if it is empty; `None` while it is active.
    pub end: Option<Lsn>,
}

impl Bounds {
    /// As a payload.
    pub fn encode(self) -> Vec<u8> {
        let numbers = [Some(self.start), self.end];
        let numbers = numbers.into_iter().flatten();
        numbers.flat_map(|lsn| lsn.0.to_le_bytes()).collect()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (start, end) = bytes.split_first_chunk()?;
        let end = match end {
            [] => None,
            end => Some(Lsn(u64::from_le_bytes(end.try_into().ok()?))),
        };
        Some(Self {
            start: Lsn(u64::from_le_bytes(*start)),
            end,
        })
    }
}

/// What the keyspace `meta` says.
pub struct MetaContents {
    /// The highest ordinal in it.
    pub ordinal: u64,
    /// The engine's metadata, if any was put.
    pub metadata: Option<Bytes>,
    /// The generations.
    pub generations: BTreeMap<Generation, Bounds>,
    /// The earlier databases that are needed.
    pub earlier: BTreeMap<DatabaseNumber, Retired>,
}

impl MetaContents {
    /// Reads all of it.
    pub fn read(meta: &Keyspace, seed: Seed) -> Result<Self, BufferError> {
        let mut contents = Self {
            ordinal: 0,
            metadata: None,
            generations: BTreeMap::new(),
            earlier: BTreeMap::new(),
        };
        for guard in meta.iter() {
            let (key, value) = guard.into_inner().map_err(read_error)?;
            contents.note(&key, &Bytes::from(value), seed)?;
        }
        Ok(contents)
    }

    fn note(&mut self, key: &[u8], value: &Bytes, seed: Seed) -> Result<(), BufferError> {
        let damaged = || BufferError::Corrupt {
            reason: format!(
                "metadata entry {} is damaged or another image's",
                String::from_utf8_lossy(key)
            ),
        };
        let (mark, payload) = record::decode_meta(seed, key, value).ok_or_else(damaged)?;
        self.ordinal = self.ordinal.max(mark.ordinal);
        let number = |bytes: &[u8]| Some(u64::from_be_bytes(bytes.try_into().ok()?));
        if key == KEY_METADATA {
            self.metadata = Some(value.slice_ref(payload));
        } else if let Some(rest) = key.strip_prefix(KEY_GENERATION) {
            let generation = Generation(number(rest).ok_or_else(damaged)?);
            let bounds = Bounds::decode(payload).ok_or_else(damaged)?;
            self.generations.insert(generation, bounds);
        } else if let Some(rest) = key.strip_prefix(KEY_EARLIER) {
            let database = DatabaseNumber(number(rest).ok_or_else(damaged)?);
            let retired = Retired::decode(payload).ok_or_else(damaged)?;
            self.earlier.insert(database, retired);
        } else if key != KEY_MARK && key != KEY_RETIRED {
            return Err(damaged());
        }
        Ok(())
    }
}
