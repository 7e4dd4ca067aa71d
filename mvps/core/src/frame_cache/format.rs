//! How pieces lie in a slab.
//!
//! ```text
//! a slab begins with                            an entry, little-endian, follows the one before
//!   0  u64  magic                                 0  u32  magic
//!   8  u64  checksum of 0..8 and 16..40           4  u32  bytes of the piece
//!  16  u64  identity of the index                 8  u64  checksum of 0..8 and 16..40
//!  24  u64  number of the slab                   16  u64  suffix of the object's name
//!  32  u64  seed                                 24  u64  sequence number in it
//!                                                32  u64  where in the object the piece begins
//!                                                40  ...  the piece, as it is in the object
//! ```
//!
//! An entry's checksum is seeded with its slab's seed, which is random and secret, and with its
//! place: intact bytes of another place or slab are no entry here, and nobody can write a piece that
//! looks like one. The piece itself has its own checksum.
//!
//! Pure, and never panics on stored bytes.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::ids::{ObjectSequence, PieceKey};

/// What a slab begins with, and an entry.
pub const HEADER_BYTES: usize = 40;

const SLAB_MAGIC: u64 = u64::from_le_bytes(*b"mvpsslb1");
const ENTRY_MAGIC: u32 = u32::from_le_bytes(*b"mvce");

/// What a slab says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlabHeader {
    /// The identity of the index that knows what is in it.
    pub index: u64,
    /// Its number: later slabs have higher ones.
    pub number: u64,
    /// What its entries are seeded with.
    pub seed: u64,
}

impl SlabHeader {
    /// The slab's first bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        seal(0, SLAB_MAGIC, [self.index, self.number, self.seed])
    }

    /// Reads it; `None` if it is none, or damaged.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (magic, [index, number, seed]) = open(0, bytes)?;
        (magic == SLAB_MAGIC).then_some(Self {
            index,
            number,
            seed,
        })
    }
}

/// What is before a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryHeader {
    /// Whose piece it is.
    pub key: PieceKey,
    /// The piece's length.
    pub bytes: u32,
}

impl EntryHeader {
    /// The header of an entry at `offset` of the slab with this seed.
    #[must_use]
    pub fn encode(&self, seed: u64, offset: u32) -> [u8; HEADER_BYTES] {
        let kind = u64::from(ENTRY_MAGIC) | u64::from(self.bytes) << 32;
        let PieceKey {
            suffix,
            sequence,
            offset: at,
        } = self.key;
        seal(seed_at(seed, offset), kind, [suffix, sequence.0, at])
    }

    /// Reads the header at `offset` of the slab with this seed; `None` if none is there.
    #[must_use]
    pub fn decode(seed: u64, offset: u32, bytes: &[u8]) -> Option<Self> {
        let (kind, [suffix, sequence, at]) = open(seed_at(seed, offset), bytes)?;
        let key = PieceKey {
            suffix,
            sequence: ObjectSequence(sequence),
            offset: at,
        };
        (kind as u32 == ENTRY_MAGIC).then_some(Self {
            key,
            bytes: (kind >> 32) as u32,
        })
    }
}

fn seed_at(seed: u64, offset: u32) -> u64 {
    seed ^ u64::from(offset).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn seal(seed: u64, kind: u64, fields: [u64; 3]) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    let words = [kind, 0, fields[0], fields[1], fields[2]];
    for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    let sum = checksum(seed, &bytes);
    bytes[8..16].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn open(seed: u64, bytes: &[u8]) -> Option<(u64, [u64; 3])> {
    let bytes: &[u8; HEADER_BYTES] = bytes.get(..HEADER_BYTES)?.try_into().ok()?;
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(word)
    };
    (word(8) == checksum(seed, bytes)).then(|| (word(0), [word(16), word(24), word(32)]))
}

/// Of everything but the checksum itself.
fn checksum(seed: u64, bytes: &[u8; HEADER_BYTES]) -> u64 {
    let kind = xxh3_64_with_seed(&bytes[..8], seed);
    xxh3_64_with_seed(&bytes[16..], kind)
}
