//! The keyspace `meta`: which generations there are, and the engine's metadata.
//!
//! Its values are decoded and verified here and nowhere else.

use std::collections::BTreeMap;

use bytes::Bytes;
use fjall::Keyspace;
use mvps_core::env::BufferError;
use mvps_core::ids::{Generation, Lsn};

use super::errors::read_error;
use super::record::{self, Seed};

/// In every batch to `meta`, so that each has a mark.
pub const KEY_MARK: &[u8] = b"mark";
/// The engine's metadata.
pub const KEY_METADATA: &[u8] = b"image-metadata";
const KEY_GENERATION: &[u8] = b"generation";

/// The key of a generation's bounds.
pub fn generation_key(generation: Generation) -> Vec<u8> {
    [KEY_GENERATION, &generation.0.to_be_bytes()].concat()
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
}

impl MetaContents {
    /// Reads all of it.
    pub fn read(meta: &Keyspace, seed: Seed) -> Result<Self, BufferError> {
        let mut contents = Self {
            ordinal: 0,
            metadata: None,
            generations: BTreeMap::new(),
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
        if key == KEY_METADATA {
            self.metadata = Some(value.slice_ref(payload));
        } else if key != KEY_MARK {
            let number = key.strip_prefix(KEY_GENERATION).ok_or_else(damaged)?;
            let number = u64::from_be_bytes(number.try_into().map_err(|_| damaged())?);
            let bounds = Bounds::decode(payload).ok_or_else(damaged)?;
            self.generations.insert(Generation(number), bounds);
        }
        Ok(())
    }
}
