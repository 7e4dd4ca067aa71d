//! Which record of the buffer store holds the newest content of each buffered page.
//!
//! One index per generation: dropping a generation then forgets its index in one step, and a page
//! that a newer generation holds too is found there first. Indexes are persistent maps, so a view
//! keeps one by cloning it.
//!
//! Must never: read page content, or know of object storage.

use std::ops::Range;
use std::sync::Arc;

use super::index_memory::{IndexMemory, IndexReservation};
use super::range_map::{Advance, RangeMap};
use crate::env::{
    BufferError, BufferHandle, BufferRecord, PageRun, RecordEntry, RecordHeader, RecordRef,
};
use crate::ids::{Generation, Lsn, PageNumber, PageSize};

/// Where the content of a run of buffered pages is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Buffered {
    /// In a data record, from its page `skip` on.
    Data {
        /// The record.
        at: RecordRef,
        /// Pages of the record before this run.
        skip: u64,
    },
    /// The pages read as zeroes.
    Hole {
        /// The commit that made them so.
        lsn: Lsn,
    },
}

impl Advance for Buffered {
    fn advance(&self, pages: u64) -> Self {
        match *self {
            Self::Data { at, skip } => Self::Data {
                at,
                skip: skip + pages,
            },
            Self::Hole { lsn } => Self::Hole { lsn },
        }
    }
}

/// The index of one generation, with what is needed to read it.
#[derive(Clone)]
pub struct GenerationIndex {
    /// The generation.
    pub generation: Generation,
    /// Reads its records, also after it was dropped.
    pub handle: Arc<dyn BufferHandle>,
    /// The newest record of each of its pages.
    pub records: RangeMap<Buffered>,
    /// The last commit in it; 0 while it is empty.
    pub last_lsn: Lsn,
    /// Bytes of the records committed to it, overwritten ones included, with their overhead.
    pub bytes: u64,
    memory: Arc<IndexReservation>,
}

/// What a record costs besides its content: key, header, checksums, memory of the index.
pub const RECORD_OVERHEAD_BYTES: u64 = 128;

impl GenerationIndex {
    /// The index of an empty generation, which counts in `memory`.
    #[must_use]
    pub fn new(
        generation: Generation,
        handle: Arc<dyn BufferHandle>,
        memory: &Arc<IndexMemory>,
    ) -> Self {
        Self {
            generation,
            handle,
            records: RangeMap::new(),
            last_lsn: Lsn(0),
            bytes: 0,
            memory: Arc::new(IndexReservation::new(Arc::clone(memory))),
        }
    }

    /// The index of a recovered generation.
    ///
    /// # Errors
    /// [`BufferError::Corrupt`] if a record's length is not a number of whole pages.
    pub fn recover(
        generation: Generation,
        handle: Arc<dyn BufferHandle>,
        mut entries: Vec<RecordEntry>,
        page_size: PageSize,
        memory: &Arc<IndexMemory>,
    ) -> Result<Self, BufferError> {
        let mut index = Self::new(generation, handle, memory);
        entries.sort_by_key(|entry| entry.at.lsn);
        for entry in entries {
            let (pages, content_bytes) = match entry.header {
                RecordHeader::Hole { pages } => (pages, 0),
                RecordHeader::Data { bytes } => {
                    let page_bytes = page_size.bytes() as u64;
                    if bytes == 0 || u64::from(bytes) % page_bytes != 0 {
                        return Err(BufferError::Corrupt {
                            reason: format!(
                                "the record of page {} at LSN {} has {bytes} bytes, which is not \
                                 a number of pages of {page_bytes} bytes",
                                entry.at.first, entry.at.lsn
                            ),
                        });
                    }
                    (u64::from(bytes) / page_bytes, u64::from(bytes))
                }
            };
            let hole = matches!(entry.header, RecordHeader::Hole { .. });
            index.insert(entry.at, pages, hole, content_bytes);
        }
        Ok(index)
    }

    /// Notes a record that was committed.
    pub fn apply(&mut self, record: &BufferRecord, page_size: PageSize) {
        match &record.run {
            PageRun::Data(data) => {
                let pages = (data.len() >> page_size.bits()) as u64;
                self.insert(record.at, pages, false, data.len() as u64);
            }
            PageRun::Hole { pages } => self.insert(record.at, *pages, true, 0),
        }
    }

    fn insert(&mut self, at: RecordRef, pages: u64, hole: bool, content_bytes: u64) {
        let value = if hole {
            Buffered::Hole { lsn: at.lsn }
        } else {
            Buffered::Data { at, skip: 0 }
        };
        let end = PageNumber(at.first.0.saturating_add(pages));
        self.records.insert(at.first..end, value);
        self.last_lsn = self.last_lsn.max(at.lsn);
        self.bytes += content_bytes + RECORD_OVERHEAD_BYTES;
        self.memory.add_record(content_bytes);
    }

    /// What it takes of the memory, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.memory.bytes()
    }

    /// Whether nothing was committed to it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Reads bytes `within` of the run of pages that begins at page `skip` of record `at`.
    ///
    /// # Errors
    /// Those of [`BufferHandle::read`].
    pub fn read(
        &self,
        at: RecordRef,
        skip: u64,
        within: Range<usize>,
        page_size: PageSize,
    ) -> Result<bytes::Bytes, BufferError> {
        use crate::env::CHECKSUM_UNIT_BYTES as UNIT;
        let base = usize::try_from(skip << page_size.bits()).map_err(|_| BufferError::Corrupt {
            reason: format!("page {skip} of the record of page {} is absurd", at.first),
        })?;
        let aligned = within.start / UNIT * UNIT..within.end.next_multiple_of(UNIT);
        let read = base + aligned.start..base + aligned.end;
        let units = self.handle.read(at, read.clone());
        let zeroes = crate::mutant::is("failed read served as zeroes") && units.is_err();
        let units = match zeroes {
            true => bytes::Bytes::from(vec![0; read.len()]),
            false => units?,
        };
        Ok(units.slice(within.start - aligned.start..within.end - aligned.start))
    }
}
