//! The superblock: what a buffer store is made of, and the engine's metadata.
//!
//! A file of two slots, each written whole and synced, in turns: the slot that holds the newest
//! state is never written over, but for the same bytes again.
//!
//! ```text
//! a slot, little-endian
//!   0  u64   magic
//!   8  u64   checksum of the rest, seeded with the image
//!  16  u64   sequence number
//!  24  u128  id of the store
//!  40  u64   every block up to this ordinal was synced
//!  48  u64   the highest generation ever made
//!  56  u32   bytes of metadata, all ones if there is none
//!  60  u32   generations
//!  64  ...   the generations, ascending; metadata
//! behind both, the mark: u64 checksum seeded with the store and the image, u64 ordinal
//! a generation: u64 number, u64 ordinal of its first block, u64 of its last one; all ones for what
//! was not known
//! ```
//!
//! Pure, and never panics on stored bytes.

use std::io;

use bytes::Bytes;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::block::StoreId;
use crate::ids::{Generation, ImageId};

/// Room of a slot.
pub const SLOT_BYTES: u64 = 128 << 10;

const MAGIC: u64 = u64::from_le_bytes(*b"mvpssup1");
const FIXED_BYTES: usize = 64;
const LISTED_BYTES: usize = 24;
const NO_METADATA: u32 = u32::MAX;
const UNKNOWN: u64 = u64::MAX;
/// No ordinal comes near this.
const ORDINAL_MAX: u64 = 1 << 62;

/// Where the mark is.
pub const MARK_OFFSET: u64 = 2 * SLOT_BYTES;

/// Bytes of the mark.
pub const MARK_BYTES: usize = 16;

/// The mark that every block up to `synced` was synced. It is written after a sync, and not synced
/// itself: what it says is true, if perhaps old. It tells damage of the last synced block from a
/// torn tail.
#[must_use]
pub fn encode_mark(image: &ImageId, store: StoreId, synced: u64) -> [u8; MARK_BYTES] {
    let mut bytes = [0; MARK_BYTES];
    bytes[8..].copy_from_slice(&synced.to_le_bytes());
    let sum = mark_checksum(image, store, &bytes[8..]);
    bytes[..8].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// What the mark says; `None` if it is damaged, or was never written.
#[must_use]
pub fn decode_mark(image: &ImageId, store: StoreId, bytes: &[u8]) -> Option<u64> {
    let (sum, synced) = bytes.get(..MARK_BYTES)?.split_at(8);
    let is_whole = sum == mark_checksum(image, store, synced).to_le_bytes();
    is_whole.then(|| Some(u64::from_le_bytes(synced.try_into().ok()?)))?
}

fn mark_checksum(image: &ImageId, store: StoreId, synced: &[u8]) -> u64 {
    checksum(image, &store.0.to_le_bytes()) ^ checksum(image, synced).rotate_left(31)
}

/// A generation that has a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// Its number.
    pub number: Generation,
    /// The ordinal of its first block; `None` if it was not active yet.
    pub first: Option<u64>,
    /// The ordinal of the last block before it was sealed, which may be of an earlier generation;
    /// `None` if it was not sealed yet.
    pub last: Option<u64>,
}

/// What a slot holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// Counts the writes of slots; the slot is the number modulo 2.
    pub sequence: u64,
    /// Whose it is.
    pub store: StoreId,
    /// Every block up to this ordinal was synced when it was written.
    pub synced: u64,
    /// No generation above this was ever made.
    pub newest: Generation,
    /// The generations that have a file, ascending.
    pub generations: Vec<Listed>,
    /// What the engine keeps here.
    pub metadata: Option<Bytes>,
}

impl Superblock {
    /// Where its slot begins.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.sequence % 2 * SLOT_BYTES
    }

    /// The bytes of its slot.
    ///
    /// # Errors
    /// If they do not fit the slot: about 5,000 generations wait.
    pub fn encode(&self, image: &ImageId) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(FIXED_BYTES);
        bytes.extend(MAGIC.to_le_bytes());
        bytes.extend(0_u64.to_le_bytes());
        bytes.extend(self.sequence.to_le_bytes());
        bytes.extend(self.store.0.to_le_bytes());
        bytes.extend(self.synced.to_le_bytes());
        bytes.extend(self.newest.0.to_le_bytes());
        let length = |it: usize| u32::try_from(it).expect("a slot is short");
        let metadata = self.metadata.as_ref();
        bytes.extend(
            metadata
                .map_or(NO_METADATA, |it| length(it.len()))
                .to_le_bytes(),
        );
        bytes.extend(length(self.generations.len()).to_le_bytes());
        for listed in &self.generations {
            bytes.extend(listed.number.0.to_le_bytes());
            bytes.extend(listed.first.unwrap_or(UNKNOWN).to_le_bytes());
            bytes.extend(listed.last.unwrap_or(UNKNOWN).to_le_bytes());
        }
        bytes.extend(metadata.into_iter().flatten());
        if bytes.len() as u64 > SLOT_BYTES {
            return Err(io::Error::other("too many generations wait"));
        }
        let sum = checksum(image, &bytes[16..]);
        bytes[8..16].copy_from_slice(&sum.to_le_bytes());
        Ok(bytes)
    }

    /// Reads the slot that begins with `bytes`; `None` if it is damaged, or another image's.
    #[must_use]
    pub fn decode(image: &ImageId, bytes: &[u8]) -> Option<Self> {
        let u64_at = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let u32_at = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        if u64_at(0)? != MAGIC {
            return None;
        }
        let (metadata_bytes, count) = (u32_at(56)?, u32_at(60)?);
        let metadata_at = FIXED_BYTES + count as usize * LISTED_BYTES;
        let end = match metadata_bytes {
            NO_METADATA => metadata_at,
            bytes => metadata_at.checked_add(bytes as usize)?,
        };
        if u64_at(8)? != checksum(image, bytes.get(16..end)?) {
            return None;
        }
        let metadata = (metadata_bytes != NO_METADATA)
            .then(|| Bytes::copy_from_slice(&bytes[metadata_at..end]));
        let known = |at: usize| match u64_at(at)? {
            UNKNOWN => Some(None),
            ordinal => (ordinal < ORDINAL_MAX).then_some(Some(ordinal)),
        };
        let listed = |at: usize| {
            Some(Listed {
                number: Generation(u64_at(at)?),
                first: known(at + 8)?.map(|first| first.max(1)),
                last: known(at + 16)?,
            })
        };
        let places = (FIXED_BYTES..metadata_at).step_by(LISTED_BYTES);
        let generations: Option<Vec<Listed>> = places.map(listed).collect();
        Some(Self {
            sequence: u64_at(16)?,
            store: StoreId(u128::from_le_bytes(bytes.get(24..40)?.try_into().ok()?)),
            synced: u64_at(40)?,
            newest: Generation(u64_at(48)?),
            generations: generations?,
            metadata,
        })
    }
}

fn checksum(image: &ImageId, bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, xxh3_64(image.as_str().as_bytes()))
}
