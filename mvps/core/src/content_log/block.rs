//! Blocks: how one batch lies in a log file.
//!
//! ```text
//! a file begins with                            a block, little-endian, aligned to 64 bytes
//!   0  u64  magic                                 0  u32  magic
//!   8  u64  checksum of 0..8 and 16..64           4  u32  records
//!  16  u128 id of the store                       8  u64  checksum of 0..8, 16..64 and the table
//!  32  u64  generation                           16  u64  ordinal
//!  40  ...  zeroes, to 64                        24  u64  ordinal that was synced before it
//!                                                32  u64  superblock that was synced before it
//!                                                40  u64  LSN of the last commit
//!                                                48  u64  units of content
//!                                                56  u64  checksum of 0..8 and 16..56 alone
//!                                                64  ...  table: the records, and a checksum of
//!                                                         each 4096 bytes of content
//!                                                     ...  content
//! a record: u64 first page, u64 LSN, u64 bytes of content, or of a hole its pages, and the top bit
//! ```
//!
//! Every checksum is seeded with the store, the generation and the place in the file: intact bytes
//! of another place, file or store are no block here. The store's id is random and secret, so that
//! nobody can write content that looks like a block.
//!
//! Pure, and never panics on stored bytes.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::env::{BufferBatch, RecordEntry};
use crate::env::{CHECKSUM_UNIT_BYTES, PageRun, RECORD_MAX_BYTES, RecordHeader, RecordRef};
use crate::ids::{Generation, ImageId, Lsn, PageNumber};

/// Blocks begin at multiples of this.
pub const ALIGNMENT: u64 = 64;

/// What a file begins with, and a block.
pub const HEADER_BYTES: usize = 64;

const RECORD_BYTES: usize = 24;
const SUM_BYTES: usize = 8;
/// Where in a block's header the checksum of the header alone is.
const HEADER_SUM: usize = 56;
const FILE_MAGIC: u64 = u64::from_le_bytes(*b"mvpslog1");
const BLOCK_MAGIC: u32 = u32::from_le_bytes(*b"mvlb");
const HOLE: u64 = 1 << 63;

/// Random, of one buffer store: who does not know it cannot forge a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreId(pub u128);

/// What the checksums of one file are seeded with.
#[derive(Debug, Clone, Copy)]
pub struct Seed(u64);

impl Seed {
    /// The seed of one generation of a store.
    #[must_use]
    pub fn new(image: &ImageId, store: StoreId, generation: Generation) -> Self {
        let name = xxh3_64(image.as_str().as_bytes());
        let store = xxh3_64_with_seed(&store.0.to_le_bytes(), name);
        Self(store ^ generation.0.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn at(self, offset: u64) -> u64 {
        self.0 ^ offset.wrapping_mul(0xc2b2_ae3d_27d4_eb4f).rotate_left(29)
    }

    /// The checksum of the unit of content at `offset` of the file.
    #[must_use]
    pub fn sum(self, offset: u64, unit: &[u8]) -> u64 {
        xxh3_64_with_seed(unit, self.at(offset) ^ 1)
    }
}

/// What a file says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileHeader {
    /// Whose it is.
    pub store: StoreId,
    /// Which generation.
    pub generation: Generation,
}

impl FileHeader {
    /// The file's first bytes.
    #[must_use]
    pub fn encode(&self, seed: Seed) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&FILE_MAGIC.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.store.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.generation.0.to_le_bytes());
        let sum = checksum(seed.at(0), &bytes, &[]);
        bytes[8..16].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Reads it; `None` if it is damaged, or another store's or generation's.
    #[must_use]
    pub fn decode(seed: Seed, bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER_BYTES] = bytes.get(..HEADER_BYTES)?.try_into().ok()?;
        let is_whole = u64_at(bytes, 0)? == FILE_MAGIC
            && u64_at(bytes, 8)? == checksum(seed.at(0), bytes, &[]);
        is_whole.then_some(Self {
            store: StoreId(u128::from_le_bytes(bytes[16..32].try_into().ok()?)),
            generation: Generation(u64_at(bytes, 32)?),
        })
    }
}

/// What a block says beside its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp {
    /// Its number; the store's first block is 1, and none is left out.
    pub ordinal: u64,
    /// Every block up to this one was synced when this was written.
    pub synced: u64,
    /// The superblock of this sequence number was synced when this was written.
    pub superblock: u64,
    /// LSN of the last commit in it.
    pub last_lsn: Lsn,
}

/// A block without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// What it says of itself.
    pub stamp: Stamp,
    /// Where it begins in the file.
    pub offset: u64,
    /// Its records, with where the content of each begins in the file.
    pub records: Vec<(RecordEntry, u64)>,
    /// The checksum of each unit of content.
    pub sums: Vec<u64>,
    table_bytes: usize,
}

impl Block {
    /// Where its content begins in the file.
    #[must_use]
    pub fn content_offset(&self) -> u64 {
        self.offset + (HEADER_BYTES + self.table_bytes) as u64
    }

    /// Bytes of content.
    #[must_use]
    pub fn content_bytes(&self) -> usize {
        self.sums.len() * CHECKSUM_UNIT_BYTES
    }

    /// Where it ends, and the next one begins.
    #[must_use]
    pub fn end(&self) -> u64 {
        let end = self.content_offset() + self.content_bytes() as u64;
        end.next_multiple_of(ALIGNMENT)
    }

    /// Whether `content` is what it names.
    #[must_use]
    pub fn is_whole(&self, seed: Seed, content: &[u8]) -> bool {
        let offsets = (self.content_offset()..).step_by(CHECKSUM_UNIT_BYTES);
        let units = content.chunks(CHECKSUM_UNIT_BYTES).zip(offsets);
        let mut found = units.map(|(unit, offset)| seed.sum(offset, unit));
        content.len() == self.content_bytes()
            && self.sums.iter().all(|sum| found.next() == Some(*sum))
    }
}

/// The block of `batch` at `offset`, and the bytes that it begins with: everything but content.
///
/// # Panics
/// If a run breaks the contract of [`PageRun`].
#[must_use]
pub fn encode(seed: Seed, offset: u64, stamp: Stamp, batch: &BufferBatch) -> (Block, Vec<u8>) {
    let units: usize = batch.records.iter().map(|record| units(&record.run)).sum();
    let table_bytes = batch.records.len() * RECORD_BYTES + units * SUM_BYTES;
    let mut block = Block {
        stamp,
        offset,
        records: Vec::with_capacity(batch.records.len()),
        sums: Vec::with_capacity(units),
        table_bytes,
    };
    let mut bytes = Vec::with_capacity(HEADER_BYTES + table_bytes);
    bytes.extend(BLOCK_MAGIC.to_le_bytes());
    let records = u32::try_from(batch.records.len()).expect("a batch is in memory");
    bytes.extend(records.to_le_bytes());
    for field in [
        0,
        stamp.ordinal,
        stamp.synced,
        stamp.superblock,
        stamp.last_lsn.0,
        units as u64,
        0,
    ] {
        bytes.extend(field.to_le_bytes());
    }
    let mut at = block.content_offset();
    for record in &batch.records {
        let (header, extent) = match &record.run {
            PageRun::Data(data) => {
                let bytes = u32::try_from(data.len()).expect("a record is short");
                (RecordHeader::Data { bytes }, u64::from(bytes))
            }
            PageRun::Hole { pages } => (RecordHeader::Hole { pages: *pages }, *pages | HOLE),
        };
        bytes.extend(record.at.first.0.to_le_bytes());
        bytes.extend(record.at.lsn.0.to_le_bytes());
        bytes.extend(extent.to_le_bytes());
        let entry = RecordEntry {
            at: record.at,
            header,
        };
        block.records.push((entry, at));
        if let PageRun::Data(data) = &record.run {
            for unit in data.chunks(CHECKSUM_UNIT_BYTES) {
                block.sums.push(seed.sum(at, unit));
                at += CHECKSUM_UNIT_BYTES as u64;
            }
        }
    }
    bytes.extend(block.sums.iter().flat_map(|sum| sum.to_le_bytes()));
    let sum = header_checksum(seed, offset, &bytes);
    bytes[HEADER_SUM..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
    let sum = checksum(
        seed.at(offset),
        &bytes[..HEADER_BYTES],
        &bytes[HEADER_BYTES..],
    );
    bytes[8..16].copy_from_slice(&sum.to_le_bytes());
    (block, bytes)
}

/// Units of content of a run.
fn units(run: &PageRun) -> usize {
    match run {
        PageRun::Data(data) => {
            let length = data.len();
            assert!(
                (CHECKSUM_UNIT_BYTES..=RECORD_MAX_BYTES).contains(&length)
                    && length.is_multiple_of(CHECKSUM_UNIT_BYTES),
                "a record has 1 to 32 whole units, not {length} bytes"
            );
            length / CHECKSUM_UNIT_BYTES
        }
        PageRun::Hole { pages } => {
            assert!((1..HOLE).contains(pages), "a hole has at least one page");
            0
        }
    }
}

/// How long the table is of the block at `offset` that begins with `header`; `None` if none does. It
/// is believed only if the header is whole by itself: what a client wrote never names a length.
#[must_use]
pub fn table_bytes(seed: Seed, offset: u64, header: &[u8]) -> Option<usize> {
    let header = header.get(..HEADER_BYTES)?;
    if header[..4] != BLOCK_MAGIC.to_le_bytes()
        || u64_at(header, HEADER_SUM)? != header_checksum(seed, offset, header)
    {
        return None;
    }
    let records = u32::from_le_bytes(header[4..8].try_into().ok()?) as usize;
    let units = usize::try_from(u64_at(header, 48)?).ok()?;
    let records = records.checked_mul(RECORD_BYTES)?;
    records.checked_add(units.checked_mul(SUM_BYTES)?)
}

/// Reads the block at `offset` that begins with `bytes`, header and table; `None` if there is none.
#[must_use]
pub fn decode(seed: Seed, offset: u64, bytes: &[u8]) -> Option<Block> {
    let table_bytes = table_bytes(seed, offset, bytes)?;
    let (header, table) = bytes.split_at_checked(HEADER_BYTES)?;
    let table = table.get(..table_bytes)?;
    if u64_at(header, 8)? != checksum(seed.at(offset), header, table) {
        return None;
    }
    let records = u32::from_le_bytes(header[4..8].try_into().ok()?) as usize;
    let (records, sums) = table.split_at_checked(records * RECORD_BYTES)?;
    let mut block = Block {
        stamp: Stamp {
            ordinal: u64_at(header, 16)?,
            synced: u64_at(header, 24)?,
            superblock: u64_at(header, 32)?,
            last_lsn: Lsn(u64_at(header, 40)?),
        },
        offset,
        records: Vec::with_capacity(records.len() / RECORD_BYTES),
        sums: sums
            .chunks(SUM_BYTES)
            .filter_map(|it| u64_at(it, 0))
            .collect(),
        table_bytes,
    };
    let mut at = block.content_offset();
    for record in records.chunks(RECORD_BYTES) {
        let extent = u64_at(record, 16)?;
        let header = match extent & HOLE {
            0 => RecordHeader::Data {
                bytes: u32::try_from(extent).ok()?,
            },
            _ => RecordHeader::Hole {
                pages: extent & !HOLE,
            },
        };
        let name = RecordRef {
            first: PageNumber(u64_at(record, 0)?),
            lsn: Lsn(u64_at(record, 8)?),
        };
        block.records.push((RecordEntry { at: name, header }, at));
        if let RecordHeader::Data { bytes } = header {
            at += u64::from(bytes);
        }
    }
    (at == block.content_offset() + block.content_bytes() as u64).then_some(block)
}

/// Of the header, but for the checksums in it.
fn header_checksum(seed: Seed, offset: u64, header: &[u8]) -> u64 {
    let kind = xxh3_64_with_seed(&header[..8], seed.at(offset) ^ 2);
    xxh3_64_with_seed(&header[16..HEADER_SUM], kind)
}

/// Of everything in `header` but the checksum itself, and of `table`.
fn checksum(seed: u64, header: &[u8], table: &[u8]) -> u64 {
    let kind = xxh3_64_with_seed(&header[..8], seed);
    let fields = xxh3_64_with_seed(&header[16..HEADER_BYTES], kind);
    xxh3_64_with_seed(table, fields)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
