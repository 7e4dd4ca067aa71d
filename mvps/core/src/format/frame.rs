//! A frame: up to 64 KiB of whole pages, stored, compressed and verified together.
//!
//! ```text
//!  0  checksum       u64  over everything that follows, seeded with the segment's key
//!  8  version        u8
//!  9  encoding       u8   0 raw, 1 zstd
//! 10  runs           u8   1 ..= 16
//! 11  pages          u8   1 ..= 16
//! 12  payload bytes  u32
//! 16  runs × { first page u64, pages u16 }   ascending, not adjacent
//!     payload
//! ```
//!
//! Invariants: pages ascend; the content's length is `pages` times the page size; a frame decodes
//! only under the key of its own segment, to the page numbers it was written with. Must never
//! allocate more than [`FRAME_MAX_BYTES`] for content, whatever the payload says.

use bytes::Bytes;

use super::codec::{FormatError, ObjectSeed, Reader, RecordKind};
use crate::ids::{PageNumber, PageSize};

/// Most content of one frame: one page at the largest page size. Larger frames compress better
/// but make a random read of one page dearer.
pub const FRAME_MAX_BYTES: usize = 64 * 1024;

/// Most pages of one frame, at the smallest page size.
pub const FRAME_MAX_PAGES: usize = 16;

const HEADER_BYTES: usize = 16;
const RUN_BYTES: usize = 10;
const CHECKSUM_BYTES: usize = 8;

/// Most bytes that a frame takes in its segment.
pub const FRAME_STORED_MAX_BYTES: usize =
    HEADER_BYTES + FRAME_MAX_PAGES * RUN_BYTES + FRAME_MAX_BYTES;

/// Compression must save at least one part in this many, or the frame is stored raw: below that
/// decompressing costs more than it saves.
const MINIMUM_SAVING_DIVISOR: usize = 16;

const ENCODING_RAW: u8 = 0;
const ENCODING_ZSTD: u8 = 1;

/// How many pages of this size one frame holds.
#[must_use]
pub fn frame_pages(page_size: PageSize) -> usize {
    FRAME_MAX_BYTES / page_size.bytes()
}

/// A decoded frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its pages, ascending.
    pub pages: Vec<PageNumber>,
    /// Their content, one after the other; a slice of the input if the frame was stored raw.
    pub data: Bytes,
}

impl Frame {
    /// The content of `page`, found in its `slot`; `None` if another page is there.
    #[must_use]
    pub fn page(&self, page: PageNumber, slot: usize, page_size: PageSize) -> Option<Bytes> {
        let start = slot * page_size.bytes();
        (self.pages.get(slot) == Some(&page))
            .then(|| self.data.slice(start..start + page_size.bytes()))
    }
}

/// Encodes frames; keeps the compressor and its buffers between them.
pub struct FrameEncoder {
    compressor: Option<zstd::bulk::Compressor<'static>>,
    content: Vec<u8>,
    compressed: Vec<u8>,
}

impl FrameEncoder {
    /// An encoder that compresses at zstd's `level`, or not at all.
    ///
    /// # Panics
    /// If zstd cannot allocate.
    #[must_use]
    pub fn new(level: Option<i32>) -> Self {
        let compressor = level.map(|level| {
            zstd::bulk::Compressor::new(level).expect("zstd clamps any level and has memory")
        });
        Self {
            compressor,
            content: Vec::new(),
            compressed: Vec::new(),
        }
    }

    /// Appends a frame of `pages` to `out` and returns its length in bytes.
    ///
    /// # Panics
    /// Unless there are 1 to [`frame_pages`] pages, ascending, of `page_size` bytes each.
    pub fn encode(
        &mut self,
        seed: ObjectSeed,
        page_size: PageSize,
        pages: &[(PageNumber, &[u8])],
        out: &mut Vec<u8>,
    ) -> u32 {
        assert!(
            (1..=frame_pages(page_size)).contains(&pages.len()),
            "a frame's worth of pages"
        );
        assert!(pages.is_sorted_by(|a, b| a.0 < b.0), "pages ascend");
        self.content.clear();
        for (_, data) in pages {
            assert_eq!(data.len(), page_size.bytes(), "whole pages");
            self.content.extend_from_slice(data);
        }
        let compressed = self.compress();
        let payload = if compressed {
            &self.compressed
        } else {
            &self.content
        };
        let runs = runs_of(pages);
        let start = out.len();
        out.extend_from_slice(&[0; CHECKSUM_BYTES]);
        out.push(RecordKind::Frame.version() as u8);
        out.push(if compressed {
            ENCODING_ZSTD
        } else {
            ENCODING_RAW
        });
        out.push(runs.len() as u8);
        out.push(pages.len() as u8);
        out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        for (first, count) in runs {
            out.extend_from_slice(&first.0.to_le_bytes());
            out.extend_from_slice(&count.to_le_bytes());
        }
        out.extend_from_slice(payload);
        let checksum = seed.checksum(&out[start + CHECKSUM_BYTES..]);
        out[start..start + CHECKSUM_BYTES].copy_from_slice(&checksum.to_le_bytes());
        (out.len() - start) as u32
    }

    /// Compresses `content` into `compressed`; false if that does not save enough.
    fn compress(&mut self) -> bool {
        let Some(compressor) = &mut self.compressor else {
            return false;
        };
        let limit_bytes = self.content.len() - self.content.len() / MINIMUM_SAVING_DIVISOR;
        self.compressed.resize(limit_bytes, 0);
        // The only error is that the result does not fit the limit.
        match compressor.compress_to_buffer(&self.content, self.compressed.as_mut_slice()) {
            Ok(bytes) => {
                self.compressed.truncate(bytes);
                true
            }
            Err(_) => false,
        }
    }
}

fn runs_of(pages: &[(PageNumber, &[u8])]) -> Vec<(PageNumber, u16)> {
    let mut runs: Vec<(PageNumber, u16)> = Vec::new();
    for (page, _) in pages {
        match runs.last_mut() {
            Some((first, count)) if first.0 + u64::from(*count) == page.0 => *count += 1,
            _ => runs.push((*page, 1)),
        }
    }
    runs
}

/// Decodes a frame that fills `bytes` exactly.
///
/// # Errors
/// [`FormatError::Corrupt`], [`FormatError::NewerFormat`].
pub fn decode_frame(
    seed: ObjectSeed,
    page_size: PageSize,
    bytes: &Bytes,
) -> Result<Frame, FormatError> {
    let mut reader = Reader::new(RecordKind::Frame, bytes);
    let checksum = reader.u64()?;
    reader.require(
        seed.checksum(&bytes[CHECKSUM_BYTES..]) == checksum
            || crate::mutant::is("corrupted frame served"),
        "the checksum does not match",
    )?;
    let (found, known) = (u16::from(reader.u8()?), RecordKind::Frame.version());
    if found > known {
        return Err(FormatError::NewerFormat {
            record: RecordKind::Frame,
            found,
            known,
        });
    }
    let encoding = reader.u8()?;
    reader.require(
        found > 0 && encoding <= ENCODING_ZSTD,
        "an unknown encoding",
    )?;
    let (runs, count) = (reader.u8()?, usize::from(reader.u8()?));
    reader.require(
        (1..=frame_pages(page_size)).contains(&count),
        "too few or too many pages",
    )?;
    let payload_bytes = reader.u32()? as usize;
    let pages = decode_runs(&mut reader, runs, count)?;
    reader.require(
        reader.remaining_bytes() == payload_bytes,
        "the payload has another length",
    )?;
    let payload = bytes.slice(bytes.len() - payload_bytes..);
    let data_bytes = count * page_size.bytes();
    let data = match encoding {
        ENCODING_RAW => payload,
        _ => zstd::bulk::decompress(&payload, data_bytes)
            .map(Bytes::from)
            .map_err(|error| reader.corrupt(format!("zstd: {error}")))?,
    };
    reader.require(data.len() == data_bytes, "the content has another length")?;
    Ok(Frame { pages, data })
}

fn decode_runs(
    reader: &mut Reader<'_>,
    runs: u8,
    count: usize,
) -> Result<Vec<PageNumber>, FormatError> {
    let mut pages = Vec::with_capacity(count);
    let mut lowest = 0_u64;
    for _ in 0..runs {
        let (first, run_pages) = (reader.u64()?, reader.u16()?);
        let end = first.checked_add(u64::from(run_pages));
        reader.require(run_pages > 0 && first >= lowest, "runs do not ascend")?;
        let end = end.ok_or_else(|| reader.corrupt("a page number over 64 bits"))?;
        reader.require(
            usize::from(run_pages) <= count - pages.len(),
            "more pages than counted",
        )?;
        pages.extend((first..end).map(PageNumber));
        lowest = end.saturating_add(1);
    }
    reader.require(pages.len() == count, "fewer pages than counted")?;
    Ok(pages)
}

#[cfg(test)]
mod tests;
