//! What all records share: little-endian reading and writing, the envelope, the errors.
//!
//! Every record but a frame is an *envelope*: magic, format version, body length, body, checksum.
//! The envelope itself never changes, so that its checksum can be verified before the version is
//! believed: a flipped bit is always [`FormatError::Corrupt`], and only a record that was really
//! written by a newer mvps is [`FormatError::NewerFormat`].
//!
//! Invariants: a checksum covers the whole record but itself and is seeded with the key of the
//! object that holds the record, so that a valid record in the wrong object is corrupt. A value has
//! one encoding only. Nothing here panics on input or allocates more than a multiple of its length.

use std::fmt;

use bytes::Bytes;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::ids::{EpochNumber, Tenure, TenureId};

/// Why bytes are not a record, by what the caller does next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The record is whole and was written by a newer mvps. Refuse, and ask for an upgrade.
    #[error("{record} of format {found}; this mvps knows formats up to {known}: upgrade it")]
    NewerFormat {
        /// Which record.
        record: RecordKind,
        /// Its format version.
        found: u16,
        /// The newest version that this code reads.
        known: u16,
    },
    /// The bytes are damaged, in the wrong place, or were never a record of this kind.
    #[error("corrupt {record}: {reason}")]
    Corrupt {
        /// Which record was expected.
        record: RecordKind,
        /// What is wrong.
        reason: String,
    },
}

/// The kinds of persisted records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// One published version of an image.
    Manifest,
    /// Some pages stored together. Not an envelope: see [`super::frame`].
    Frame,
    /// The beginning of a segment.
    SegmentHeader,
    /// What is where in a segment.
    SegmentIndex,
    /// The end of a segment.
    SegmentFooter,
    /// The beginning of a map object.
    MapHeader,
    /// A leaf of the map.
    MapLeaf,
    /// The directory of all leaves.
    MapRoot,
    /// The end of a map object.
    MapFooter,
    /// What a buffer store knows of itself.
    BufferMetadata,
    /// The name of an object (text, not an envelope).
    ObjectName,
}

impl RecordKind {
    /// The first four bytes of an envelope of this kind (a frame and a name are none).
    #[must_use]
    pub const fn magic(self) -> [u8; 4] {
        match self {
            Self::Manifest => *b"MVma",
            Self::Frame => *b"MVfr",
            Self::SegmentHeader => *b"MVsh",
            Self::SegmentIndex => *b"MVsi",
            Self::SegmentFooter => *b"MVsf",
            Self::MapHeader => *b"MVmh",
            Self::MapLeaf => *b"MVml",
            Self::MapRoot => *b"MVmr",
            Self::MapFooter => *b"MVmf",
            Self::BufferMetadata => *b"MVbm",
            Self::ObjectName => *b"MVon",
        }
    }

    /// The newest format version that this code knows. A record that needs nothing of it is written
    /// in the version before, so that an mvps of before still reads it.
    #[must_use]
    pub const fn version(self) -> u16 {
        match self {
            // 2: encryption.
            Self::Manifest | Self::Frame => 2,
            _ => 1,
        }
    }

    /// A [`FormatError::Corrupt`] of this kind.
    #[must_use]
    pub fn corrupt(self, reason: impl Into<String>) -> FormatError {
        FormatError::Corrupt {
            record: self,
            reason: reason.into(),
        }
    }
}

impl fmt::Display for RecordKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Manifest => "manifest",
            Self::Frame => "frame",
            Self::SegmentHeader => "segment header",
            Self::SegmentIndex => "segment index",
            Self::SegmentFooter => "segment footer",
            Self::MapHeader => "map header",
            Self::MapLeaf => "map leaf",
            Self::MapRoot => "map root",
            Self::MapFooter => "map footer",
            Self::BufferMetadata => "buffer metadata",
            Self::ObjectName => "object name",
        })
    }
}

/// An object's key, condensed: the seed of every checksum in that object. Compute it once per
/// object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ObjectSeed(u64);

impl ObjectSeed {
    /// The seed of the object with this key (relative to the store's prefix).
    #[must_use]
    pub fn of_key(key: &str) -> Self {
        Self(xxh3_64(key.as_bytes()))
    }

    /// The checksum of `bytes` as a part of that object.
    #[must_use]
    pub fn checksum(self, bytes: &[u8]) -> u64 {
        xxh3_64_with_seed(bytes, self.0)
    }
}

/// Bytes before an envelope's body: magic, version, reserved, body length.
pub const ENVELOPE_HEADER_BYTES: usize = 12;

/// Bytes after an envelope's body: the checksum.
pub const ENVELOPE_TRAILER_BYTES: usize = 8;

/// Bytes that an envelope adds to its body.
pub const ENVELOPE_BYTES: usize = ENVELOPE_HEADER_BYTES + ENVELOPE_TRAILER_BYTES;

/// The length of the envelope that `bytes` begin with, as it says itself, not verified further
/// than its magic; `None` if fewer than [`ENVELOPE_HEADER_BYTES`] are given or the magic is
/// another. For walking an object record by record.
#[must_use]
pub fn envelope_bytes(record: RecordKind, bytes: &[u8]) -> Option<u64> {
    let header: &[u8; ENVELOPE_HEADER_BYTES] = bytes.first_chunk()?;
    let [m0, m1, m2, m3, _, _, _, _, l0, l1, l2, l3] = *header;
    let body_bytes = u64::from(u32::from_le_bytes([l0, l1, l2, l3]));
    ([m0, m1, m2, m3] == record.magic()).then_some(body_bytes + ENVELOPE_BYTES as u64)
}

/// Writes the body of one envelope.
#[derive(Debug)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Begins an envelope of the newest version.
    #[must_use]
    pub fn new(record: RecordKind) -> Self {
        Self::of_version(record, record.version())
    }

    /// Begins an envelope of this version.
    #[must_use]
    pub fn of_version(record: RecordKind, version: u16) -> Self {
        debug_assert!((1..=record.version()).contains(&version), "a known version");
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&record.magic());
        bytes.extend_from_slice(&version.to_le_bytes());
        bytes.extend_from_slice(&[0; 6]); // reserved, body length
        Self { bytes }
    }

    /// Appends a byte.
    pub fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    /// Appends two bytes.
    pub fn u16(&mut self, value: u16) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Appends four bytes.
    pub fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Appends eight bytes.
    pub fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Appends sixteen bytes.
    pub fn u128(&mut self, value: u128) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Appends bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends a number of variable length: seven bits per byte, least significant first, the top
    /// bit set on all bytes but the last (LEB128).
    pub fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push((value as u8 & 0x7f) | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    /// Appends how many items follow.
    pub fn count(&mut self, items: usize) {
        self.varint(items as u64);
    }

    /// Appends a text: its length in bytes as a varint, then the bytes.
    pub fn text(&mut self, text: &str) {
        self.count(text.len());
        self.bytes.extend_from_slice(text.as_bytes());
    }

    /// Appends a tenure: 24 bytes.
    pub fn tenure(&mut self, tenure: &Tenure) {
        self.u64(tenure.epoch.0);
        self.u128(tenure.id.0);
    }

    /// Ends the envelope. Panics if the body is 4 GiB or longer: every record's limits keep it far
    /// below.
    #[must_use]
    pub fn finish(mut self, seed: ObjectSeed) -> Bytes {
        let body_bytes = u32::try_from(self.bytes.len() - ENVELOPE_HEADER_BYTES)
            .expect("a record's body is shorter than 4 GiB");
        self.bytes[8..ENVELOPE_HEADER_BYTES].copy_from_slice(&body_bytes.to_le_bytes());
        let checksum = seed.checksum(&self.bytes);
        self.bytes.extend_from_slice(&checksum.to_le_bytes());
        Bytes::from(self.bytes)
    }
}

/// Reads a record's bytes from front to back; every error is of the record's kind.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    record: RecordKind,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads bare bytes as (a part of) a record of this kind.
    #[must_use]
    pub fn new(record: RecordKind, bytes: &'a [u8]) -> Self {
        Self {
            record,
            rest: bytes,
        }
    }

    /// Opens an envelope that fills `bytes` exactly and verifies it; what is left to read is the
    /// body.
    ///
    /// # Errors
    /// [`FormatError::Corrupt`], [`FormatError::NewerFormat`].
    pub fn open(
        record: RecordKind,
        seed: ObjectSeed,
        bytes: &'a [u8],
    ) -> Result<Self, FormatError> {
        Self::open_any(record, seed, bytes).map(|(_, reader)| reader)
    }

    /// As [`Self::open`], for a record of which several versions are known; its version is returned
    /// too.
    ///
    /// # Errors
    /// [`FormatError::Corrupt`], [`FormatError::NewerFormat`].
    pub fn open_any(
        record: RecordKind,
        seed: ObjectSeed,
        bytes: &'a [u8],
    ) -> Result<(u16, Self), FormatError> {
        let declared = envelope_bytes(record, bytes)
            .ok_or_else(|| record.corrupt("it does not begin with the magic bytes"))?;
        if declared != bytes.len() as u64 {
            let found = bytes.len();
            return Err(record.corrupt(format!("{found} bytes where it says {declared}")));
        }
        let (covered, checksum) = bytes
            .split_last_chunk::<ENVELOPE_TRAILER_BYTES>()
            .ok_or_else(|| record.corrupt("too short for a checksum"))?;
        if seed.checksum(covered) != u64::from_le_bytes(*checksum) {
            return Err(record.corrupt("the checksum does not match"));
        }
        let mut reader = Self::new(record, covered);
        reader.take(record.magic().len())?;
        let found = reader.u16()?;
        if found > record.version() {
            return Err(FormatError::NewerFormat {
                record,
                found,
                known: record.version(),
            });
        }
        let reserved = reader.u16()?;
        if found == 0 || reserved != 0 {
            return Err(reader.corrupt("the header is not one that any version writes"));
        }
        reader.u32()?; // the body length, checked above
        Ok((found, reader))
    }

    /// A [`FormatError::Corrupt`] of the record's kind.
    #[must_use]
    pub fn corrupt(&self, reason: impl Into<String>) -> FormatError {
        self.record.corrupt(reason)
    }

    /// Fails with `reason` unless `holds`.
    ///
    /// # Errors
    /// [`FormatError::Corrupt`].
    pub fn require(&self, holds: bool, reason: &str) -> Result<(), FormatError> {
        if holds {
            Ok(())
        } else {
            Err(self.corrupt(reason))
        }
    }

    /// Bytes left.
    #[must_use]
    pub fn remaining_bytes(&self) -> usize {
        self.rest.len()
    }

    /// The next `bytes` bytes.
    ///
    /// # Errors
    /// [`FormatError::Corrupt`] if fewer are left.
    pub fn take(&mut self, bytes: usize) -> Result<&'a [u8], FormatError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(bytes)
            .ok_or_else(|| self.corrupt("it ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let (taken, rest) = self
            .rest
            .split_first_chunk()
            .ok_or_else(|| self.corrupt("it ends too early"))?;
        self.rest = rest;
        Ok(*taken)
    }

    /// The next byte.
    ///
    /// # Errors
    /// [`FormatError::Corrupt`] at the end.
    pub fn u8(&mut self) -> Result<u8, FormatError> {
        self.array().map(u8::from_le_bytes)
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// [`FormatError::Corrupt`] at the end.
    pub fn bytes<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        self.array()
    }

    /// The next two bytes.
    ///
    /// # Errors
    /// [`FormatError::Corrupt`] at the end.
    pub fn u16(&mut self) -> Result<u16, FormatError> {
        self.array().map(u16::from_le_bytes)
    }

    /// The next four bytes.
    ///
    /// # Errors
    /// [`FormatError::Corrupt`] at the end.
    pub fn u32(&mut self) -> Result<u32, FormatError> {
        self.array().map(u32::from_le_bytes)
    }

    /// The next eight bytes.
    ///
    /// # Errors
    /// [`FormatError::Corrupt`] at the end.
    pub fn u64(&mut self) -> Result<u64, FormatError> {
        self.array().map(u64::from_le_bytes)
    }

    /// The next sixteen bytes.
    ///
    /// # Errors
    /// [`FormatError::Corrupt`] at the end.
    pub fn u128(&mut self) -> Result<u128, FormatError> {
        self.array().map(u128::from_le_bytes)
    }

    /// The next number of variable length, in its shortest form.
    ///
    /// # Errors
    /// [`FormatError::Corrupt`] at the end, over 64 bits, or if a shorter form exists.
    pub fn varint(&mut self) -> Result<u64, FormatError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            self.require(shift < 63 || bits <= 1, "a number over 64 bits")?;
            value |= bits << shift;
            if byte & 0x80 == 0 {
                self.require(
                    byte != 0 || shift == 0,
                    "a number in a longer form than needed",
                )?;
                return Ok(value);
            }
        }
        Err(self.corrupt("a number over 64 bits"))
    }

    /// The next number of variable length, as a smaller type.
    ///
    /// # Errors
    /// As [`Reader::varint`], and if it does not fit.
    pub fn varint_as<T: TryFrom<u64>>(&mut self) -> Result<T, FormatError> {
        let value = self.varint()?;
        T::try_from(value).map_err(|_| self.corrupt(format!("{value} is out of range")))
    }

    /// How many items follow, each of at least `item_bytes` bytes: never more than the rest can
    /// hold, so that the caller may allocate for them.
    ///
    /// # Errors
    /// [`FormatError::Corrupt`].
    pub fn count(&mut self, item_bytes: usize) -> Result<usize, FormatError> {
        let items: usize = self.varint_as()?;
        let fits = items
            .checked_mul(item_bytes.max(1))
            .is_some_and(|all| all <= self.rest.len());
        self.require(fits, "more items than bytes")?;
        Ok(items)
    }

    /// The next text.
    ///
    /// # Errors
    /// [`FormatError::Corrupt`] if it is not UTF-8 or not all there.
    pub fn text(&mut self) -> Result<&'a str, FormatError> {
        let bytes = self.count(1)?;
        let text = self.take(bytes)?;
        std::str::from_utf8(text).map_err(|_| self.corrupt("a text is not UTF-8"))
    }

    /// The next tenure.
    ///
    /// # Errors
    /// [`FormatError::Corrupt`] at the end.
    pub fn tenure(&mut self) -> Result<Tenure, FormatError> {
        Ok(Tenure {
            epoch: EpochNumber(self.u64()?),
            id: TenureId(self.u128()?),
        })
    }

    /// Checks that nothing is left.
    ///
    /// # Errors
    /// [`FormatError::Corrupt`].
    pub fn finish(self) -> Result<(), FormatError> {
        self.require(self.rest.is_empty(), "bytes follow its end")
    }
}

#[cfg(test)]
mod tests;
