//! One generation: its file, and where in it the content of each record is.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::{Bytes, BytesMut};

use super::block::{Block, Seed};
use crate::env::{
    BufferError, BufferHandle, CHECKSUM_UNIT_BYTES, File, RecordEntry, RecordHeader, RecordRef,
};
use crate::ids::Generation;

/// Where a record is.
#[derive(Debug, Clone, Copy)]
struct Place {
    header: RecordHeader,
    /// Where its content begins in the file.
    offset: u64,
    /// Which of the generation's checksums is the first of its content.
    first_sum: usize,
}

/// Every record of a generation. About 70 bytes for a record of one page.
#[derive(Debug, Default)]
struct Index {
    places: BTreeMap<RecordRef, Place>,
    sums: Vec<u64>,
}

/// A generation that has a file. It is read for as long as anybody has this, also after its file
/// was removed.
pub struct LogGeneration {
    /// Its number.
    pub number: Generation,
    /// What its checksums are seeded with.
    pub seed: Seed,
    /// Its file.
    pub file: Arc<dyn File>,
    index: RwLock<Index>,
}

impl LogGeneration {
    /// A generation without records.
    #[must_use]
    pub fn new(number: Generation, seed: Seed, file: Arc<dyn File>) -> Self {
        Self {
            number,
            seed,
            file,
            index: RwLock::default(),
        }
    }

    /// Takes the records of `block` in.
    pub fn add(&self, block: &Block) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let mut first_sum = index.sums.len();
        index.sums.extend(&block.sums);
        for (entry, offset) in &block.records {
            let place = Place {
                header: entry.header,
                offset: *offset,
                first_sum,
            };
            index.places.insert(entry.at, place);
            if let RecordHeader::Data { bytes } = entry.header {
                first_sum += bytes as usize / CHECKSUM_UNIT_BYTES;
            }
        }
    }

    /// Every record, ascending by name.
    #[must_use]
    pub fn entries(&self) -> Vec<RecordEntry> {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let places = index.places.iter();
        places
            .map(|(at, place)| RecordEntry {
                at: *at,
                header: place.header,
            })
            .collect()
    }

    /// Where the content of `range` of the record begins, and its checksums.
    fn place(&self, at: RecordRef, range: &Range<usize>) -> Option<(u64, Vec<u64>)> {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let place = index.places.get(&at)?;
        let RecordHeader::Data { bytes } = place.header else {
            return None;
        };
        let is_within = range.start < range.end
            && range.end <= bytes as usize
            && range.start.is_multiple_of(CHECKSUM_UNIT_BYTES)
            && range.end.is_multiple_of(CHECKSUM_UNIT_BYTES);
        let first = place.first_sum + range.start / CHECKSUM_UNIT_BYTES;
        let last = place.first_sum + range.end / CHECKSUM_UNIT_BYTES;
        let sums = index.sums.get(first..last)?.to_vec();
        is_within.then_some((place.offset + range.start as u64, sums))
    }
}

impl BufferHandle for LogGeneration {
    fn read(&self, at: RecordRef, range: Range<usize>) -> Result<Bytes, BufferError> {
        let corrupt = |what: &str| BufferError::Corrupt {
            reason: format!(
                "generation {}, page {}, {}: {what}",
                self.number, at.first, at.lsn
            ),
        };
        let Some((offset, sums)) = self.place(at, &range) else {
            return Err(corrupt("there is no such record"));
        };
        let mut content = BytesMut::zeroed(range.len());
        let read = self.file.read_at(offset, &mut content);
        let read = read.map_err(|error| BufferError::Io {
            reason: error.to_string(),
        })?;
        if read < content.len() {
            return Err(corrupt("the file is too short"));
        }
        let offsets = (offset..).step_by(CHECKSUM_UNIT_BYTES);
        let units = content.chunks(CHECKSUM_UNIT_BYTES).zip(offsets);
        let matches = |((unit, at), sum): ((&[u8], u64), &u64)| self.seed.sum(at, unit) == *sum;
        if !units.zip(&sums).all(matches) {
            return Err(corrupt("the checksum does not match"));
        }
        Ok(content.freeze())
    }
}
