//! Keys and values of the fjall database: how records, batches and metadata are written down.
//!
//! A record lies under the key `first page ‖ LSN` (both big-endian, so that keys sort like
//! [`RecordRef`]); its value is a header, and behind it the content if that is short. Longer
//! content has a key of its own, one byte longer, so that it is handed to fjall without a copy. A
//! batch without records is a header under the key `LSN`.
//!
//! ```text
//! header, little-endian                         value in the keyspace `meta`
//!   0  u8   format (1)                            0  u64  ordinal of the batch
//!   1  u8   kind                                  8  u64  ordinal synced before it
//!   2  u16  0                                    16  u64  checksum of key and the rest
//!   4  u32  records in the batch                 24  ...  payload
//!   8  u64  ordinal of the batch
//!  16  u64  ordinal synced before it
//!  24  u64  last LSN of the batch
//!  32  u64  last LSN of the batch before it
//!  40  u64  extent: bytes of content, or pages of a hole
//!  48  u64  checksum of 0..48 and of the checksums below
//!  56  u64  checksum of each 4096 bytes of content
//!  ...      content, if inline
//! ```
//!
//! Every checksum is seeded with the image, the record's name and the place, so that intact bytes
//! in the wrong place are found out too. Ordinals count the batches of a database, data or
//! metadata: whoever finds a later one knows what must have been there before.
//!
//! This module is pure and never panics on stored bytes.

use bytes::{BufMut, Bytes, BytesMut};
use mvps_core::env::{CHECKSUM_UNIT_BYTES, PageRun, RECORD_MAX_BYTES, RecordHeader, RecordRef};
use mvps_core::ids::{ImageId, Lsn, PageNumber};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Content up to this length is copied behind its header; one key less costs more than the copy
/// above it.
pub const INLINE_MAX_BYTES: usize = 16 * 1024;

const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 56;
const CHECKSUMMED_BYTES: usize = 48;
const MARK_BYTES: usize = 24;
/// The byte that tells a content key from its record's key.
const CONTENT_SUFFIX: u8 = 1;

const KIND_INLINE: u8 = 1;
const KIND_SEPARATE: u8 = 2;
const KIND_HOLE: u8 = 3;
const KIND_EMPTY_BATCH: u8 = 4;

/// What checksums of one image are seeded with.
#[derive(Debug, Clone, Copy)]
pub struct Seed(u64);

impl Seed {
    /// The seed of `image`.
    pub fn of(image: &ImageId) -> Self {
        Self(xxh3_64(image.as_str().as_bytes()))
    }

    /// Mixes the place in: each multiplier is odd, so that no two neighbours meet.
    fn at(self, at: RecordRef, unit: u64) -> u64 {
        self.0
            ^ at.first.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ at.lsn.0.wrapping_mul(0xc2b2_ae3d_27d4_eb4f).rotate_left(29)
            ^ unit.wrapping_mul(0x1656_67b1_9e37_79f9).rotate_left(47)
    }

    fn of_key(self, key: &[u8]) -> u64 {
        self.0 ^ xxh3_64(key)
    }
}

/// Where a batch stands among the batches of its database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// Its number; the first batch is 1, and none is left out.
    pub ordinal: u64,
    /// The highest ordinal that was known to be synced when it was written.
    pub synced: u64,
}

/// What a batch says of itself in each of its headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchStamp {
    /// Its place among all batches.
    pub mark: Mark,
    /// LSN of its last commit.
    pub last_lsn: Lsn,
    /// LSN of the last commit of the data batch before it.
    pub previous_lsn: Lsn,
    /// How many records it has.
    pub records: u32,
}

/// A decoded header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Of the batch that wrote it.
    pub stamp: BatchStamp,
    /// What is written.
    pub run: StoredRun,
}

/// Where a record's content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredRun {
    /// Behind the header.
    Inline {
        /// How long.
        bytes: u32,
    },
    /// Under the content key.
    Separate {
        /// How long.
        bytes: u32,
    },
    /// Nowhere: pages that read as zeroes.
    Hole {
        /// How many.
        pages: u64,
    },
    /// There is no record; the header stands for a batch without any.
    EmptyBatch,
}

impl StoredRun {
    /// What recovery tells the engine; `None` for an empty batch.
    pub fn header(self) -> Option<RecordHeader> {
        match self {
            Self::Inline { bytes } | Self::Separate { bytes } => Some(RecordHeader::Data { bytes }),
            Self::Hole { pages } => Some(RecordHeader::Hole { pages }),
            Self::EmptyBatch => None,
        }
    }

    fn units(self) -> usize {
        match self {
            Self::Inline { bytes } | Self::Separate { bytes } => {
                bytes as usize / CHECKSUM_UNIT_BYTES
            }
            Self::Hole { .. } | Self::EmptyBatch => 0,
        }
    }
}

/// What a key in a generation's keyspace names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// A record's header.
    Record(RecordRef),
    /// A record's content.
    Content(RecordRef),
    /// A batch without records.
    EmptyBatch(Lsn),
}

impl Key {
    /// Parses a key; `None` if it is not one of ours.
    pub fn parse(key: &[u8]) -> Option<Self> {
        let number = |at: usize| u64_be(key.get(at..at + 8)?);
        let name = || {
            Some(RecordRef {
                first: PageNumber(number(0)?),
                lsn: Lsn(number(8)?),
            })
        };
        match key.len() {
            8 => Some(Self::EmptyBatch(Lsn(number(0)?))),
            16 => Some(Self::Record(name()?)),
            17 if key[16] == CONTENT_SUFFIX => Some(Self::Content(name()?)),
            _ => None,
        }
    }
}

fn u64_be(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

fn u64_le(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// The key of a record.
pub fn record_key(at: RecordRef) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&at.first.0.to_be_bytes());
    key[8..].copy_from_slice(&at.lsn.0.to_be_bytes());
    key
}

/// The key of a record's separate content.
pub fn content_key(at: RecordRef) -> [u8; 17] {
    let mut key = [CONTENT_SUFFIX; 17];
    key[..16].copy_from_slice(&record_key(at));
    key
}

/// The key of a batch without records.
pub fn empty_batch_key(lsn: Lsn) -> [u8; 8] {
    lsn.0.to_be_bytes()
}

/// The name that an empty batch's header is checksummed under.
fn empty_batch_name(lsn: Lsn) -> RecordRef {
    RecordRef {
        first: PageNumber(u64::MAX),
        lsn,
    }
}

/// A record as key-value pairs need it.
#[derive(Debug)]
pub struct Encoded {
    /// The value of the record's key.
    pub value: Bytes,
    /// The value of its content key, if it has one.
    pub content: Option<Bytes>,
}

/// Encodes a record of a batch.
///
/// # Panics
/// If the run breaks the contract of [`PageRun`].
pub fn encode_record(seed: Seed, stamp: &BatchStamp, at: RecordRef, run: &PageRun) -> Encoded {
    match run {
        PageRun::Hole { pages } => {
            assert!(*pages > 0, "a hole has at least one page");
            Encoded {
                value: encode_header(seed, stamp, at, KIND_HOLE, *pages, &[]),
                content: None,
            }
        }
        PageRun::Data(content) => {
            let length = content.len();
            assert!(
                (CHECKSUM_UNIT_BYTES..=RECORD_MAX_BYTES).contains(&length)
                    && length.is_multiple_of(CHECKSUM_UNIT_BYTES),
                "a record has 1 to 32 whole units, not {length} bytes"
            );
            let inline = length <= INLINE_MAX_BYTES;
            let kind = if inline { KIND_INLINE } else { KIND_SEPARATE };
            Encoded {
                value: encode_header(seed, stamp, at, kind, length as u64, content),
                content: (!inline).then(|| content.clone()),
            }
        }
    }
}

/// Encodes the header that stands for a batch without records.
pub fn encode_empty_batch(seed: Seed, stamp: &BatchStamp) -> Bytes {
    let name = empty_batch_name(stamp.last_lsn);
    encode_header(seed, stamp, name, KIND_EMPTY_BATCH, 0, &[])
}

fn encode_header(
    seed: Seed,
    stamp: &BatchStamp,
    at: RecordRef,
    kind: u8,
    extent: u64,
    content: &[u8],
) -> Bytes {
    let checksums = content.len() / CHECKSUM_UNIT_BYTES * 8;
    let inline = if kind == KIND_INLINE { content } else { &[] };
    let mut value = BytesMut::with_capacity(HEADER_BYTES + checksums + inline.len());
    value.put_u8(FORMAT);
    value.put_u8(kind);
    value.put_u16_le(0);
    value.put_u32_le(stamp.records);
    value.put_u64_le(stamp.mark.ordinal);
    value.put_u64_le(stamp.mark.synced);
    value.put_u64_le(stamp.last_lsn.0);
    value.put_u64_le(stamp.previous_lsn.0);
    value.put_u64_le(extent);
    value.put_u64_le(0);
    for (unit, bytes) in (0..).zip(content.chunks_exact(CHECKSUM_UNIT_BYTES)) {
        value.put_u64_le(xxh3_64_with_seed(bytes, seed.at(at, unit)));
    }
    let checksum = header_checksum(seed, at, &value);
    value[CHECKSUMMED_BYTES..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
    value.put_slice(inline);
    value.freeze()
}

/// Checksum of a header and of its checksums. `header` ends where they end.
fn header_checksum(seed: Seed, at: RecordRef, header: &[u8]) -> u64 {
    let place = seed.at(at, u64::MAX);
    let fields = xxh3_64_with_seed(&header[..CHECKSUMMED_BYTES], place);
    xxh3_64_with_seed(&header[HEADER_BYTES..], fields)
}

/// Decodes and verifies the header of record `at`; `None` if it is damaged or another's.
pub fn decode_header(seed: Seed, at: RecordRef, value: &[u8]) -> Option<Header> {
    let fields = value.get(..HEADER_BYTES)?;
    let extent = u64_le(fields, 40)?;
    let bytes = u32::try_from(extent);
    let run = match fields[1] {
        KIND_INLINE => StoredRun::Inline { bytes: bytes.ok()? },
        KIND_SEPARATE => StoredRun::Separate { bytes: bytes.ok()? },
        KIND_HOLE => StoredRun::Hole { pages: extent },
        KIND_EMPTY_BATCH => StoredRun::EmptyBatch,
        _ => return None,
    };
    if fields[0] != FORMAT || run.units() > RECORD_MAX_BYTES / CHECKSUM_UNIT_BYTES {
        return None;
    }
    let header = value.get(..HEADER_BYTES + run.units() * 8)?;
    if u64_le(fields, CHECKSUMMED_BYTES)? != header_checksum(seed, at, header) {
        return None;
    }
    if let StoredRun::Inline { bytes } = run
        && value.len() != header.len() + bytes as usize
    {
        return None;
    }
    let records = u32::from_le_bytes(fields[4..8].try_into().ok()?);
    let stamp = BatchStamp {
        mark: Mark {
            ordinal: u64_le(fields, 8)?,
            synced: u64_le(fields, 16)?,
        },
        last_lsn: Lsn(u64_le(fields, 24)?),
        previous_lsn: Lsn(u64_le(fields, 32)?),
        records,
    };
    Some(Header { stamp, run })
}

/// Decodes the header of an empty batch.
pub fn decode_empty_batch(seed: Seed, lsn: Lsn, value: &[u8]) -> Option<Header> {
    decode_header(seed, empty_batch_name(lsn), value)
}

/// Whether `content`, which begins at unit `first_unit` of record `at`, has the checksums that the
/// record's verified `value` names.
pub fn content_matches(
    seed: Seed,
    at: RecordRef,
    value: &[u8],
    first_unit: usize,
    content: &[u8],
) -> bool {
    (first_unit..)
        .zip(content.chunks(CHECKSUM_UNIT_BYTES))
        .all(|(unit, bytes)| {
            let expected = u64_le(value, HEADER_BYTES + unit * 8);
            expected == Some(xxh3_64_with_seed(bytes, seed.at(at, unit as u64)))
        })
}

/// Where the inline content of a header with this run begins.
pub fn inline_offset(run: StoredRun) -> usize {
    HEADER_BYTES + run.units() * 8
}

/// Encodes a value of the keyspace `meta`.
pub fn encode_meta(seed: Seed, key: &[u8], mark: Mark, payload: &[u8]) -> Bytes {
    let mut value = BytesMut::with_capacity(MARK_BYTES + payload.len());
    value.put_u64_le(mark.ordinal);
    value.put_u64_le(mark.synced);
    value.put_u64_le(meta_checksum(seed, key, mark, payload));
    value.put_slice(payload);
    value.freeze()
}

fn meta_checksum(seed: Seed, key: &[u8], mark: Mark, payload: &[u8]) -> u64 {
    let place = seed.of_key(key) ^ mark.ordinal.rotate_left(17) ^ mark.synced.rotate_left(43);
    xxh3_64_with_seed(payload, place)
}

/// Decodes a value of the keyspace `meta`; `None` if it is damaged or another's.
pub fn decode_meta<'a>(seed: Seed, key: &[u8], value: &'a [u8]) -> Option<(Mark, &'a [u8])> {
    let mark = Mark {
        ordinal: u64_le(value, 0)?,
        synced: u64_le(value, 8)?,
    };
    let payload = value.get(MARK_BYTES..)?;
    let intact = u64_le(value, 16)? == meta_checksum(seed, key, mark, payload);
    intact.then_some((mark, payload))
}
