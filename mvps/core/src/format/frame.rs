//! A frame: up to 64 KiB of whole pages, stored, compressed and verified together.
//!
//! ```text
//!  0  checksum       u64  over everything that follows, seeded with the segment's key
//!  8  version        u8   1 in the clear, 2 sealed
//!  9  encoding       u8   0 raw, 1 zstd
//! 10  runs           u8   1 ..= 16
//! 11  pages          u8   1 ..= 16
//! 12  payload bytes  u32
//! 16  runs × { first page u64, pages u16 }   ascending, not adjacent
//!     payload               sealed: AES-256-GCM under the segment's key, then its tag
//! ```
//!
//! What a sealed frame is sealed with: the first page as the nonce, everything from the version to
//! the last run as additional data. Compression comes first.
//!
//! Invariants: pages ascend; the content's length is `pages` times the page size; a frame decodes
//! only under the key of its own segment, to the page numbers it was written with; in a segment
//! that has a key only sealed frames count, in another one only clear ones. Must never allocate more
//! than [`FRAME_MAX_BYTES`] for content, whatever the payload says.

use std::cell::RefCell;

use bytes::Bytes;

use super::codec::{FormatError, ObjectSeed, Reader, RecordKind};
use crate::encryption::{SegmentKey, TAG_BYTES};
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
    HEADER_BYTES + FRAME_MAX_PAGES * RUN_BYTES + FRAME_MAX_BYTES + TAG_BYTES;

/// Compression must save at least one part in this many, or the frame is stored raw: below that
/// decompressing costs more than it saves.
const MINIMUM_SAVING_DIVISOR: usize = 16;

/// Versions of a frame.
const CLEAR: u8 = 1;
const SEALED: u8 = 2;

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

    /// Appends a frame of `pages` to `out`, sealed if there is a `key`, and returns its length in
    /// bytes.
    ///
    /// # Panics
    /// Unless there are 1 to [`frame_pages`] pages, ascending, of `page_size` bytes each.
    pub fn encode(
        &mut self,
        seed: ObjectSeed,
        page_size: PageSize,
        key: Option<&SegmentKey>,
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
        let (encoding, payload) = if self.compress() {
            (ENCODING_ZSTD, &self.compressed)
        } else {
            (ENCODING_RAW, &self.content)
        };
        let (version, added) = match key {
            Some(_) => (SEALED, TAG_BYTES),
            None => (CLEAR, 0),
        };
        let runs = runs_of(pages);
        let start = out.len();
        out.extend_from_slice(&[0; CHECKSUM_BYTES]);
        out.extend_from_slice(&[version, encoding, runs.len() as u8, pages.len() as u8]);
        out.extend_from_slice(&((payload.len() + added) as u32).to_le_bytes());
        for (first, count) in runs {
            out.extend_from_slice(&first.0.to_le_bytes());
            out.extend_from_slice(&count.to_le_bytes());
        }
        let payload_start = out.len();
        out.extend_from_slice(payload);
        if let Some(key) = key {
            let (header, content) =
                out[start + CHECKSUM_BYTES..].split_at_mut(payload_start - start - CHECKSUM_BYTES);
            let tag = key.seal(pages[0].0, header, content);
            out.extend_from_slice(&tag);
        }
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

/// Decodes a frame that fills `bytes` exactly. `key` is that of its segment, if the segment has one.
///
/// # Errors
/// [`FormatError::Corrupt`], [`FormatError::NewerFormat`].
pub fn decode_frame(
    seed: ObjectSeed,
    page_size: PageSize,
    key: Option<&SegmentKey>,
    bytes: &Bytes,
) -> Result<Frame, FormatError> {
    let stored = StoredFrame::decode(seed, page_size, bytes)?;
    let payload = match (key, stored.is_sealed) {
        (None, false) => stored.payload.clone(),
        (Some(key), true) => stored.opened(key, bytes)?,
        (None, true) => {
            return Err(corrupt("it is sealed, and the image has no key for it"));
        }
        (Some(_), false) => {
            return Err(corrupt("it is in the clear, in a segment that is sealed"));
        }
    };
    let data_bytes = stored.pages.len() * page_size.bytes();
    let data = match stored.encoding {
        ENCODING_RAW => payload,
        _ => decompress(&payload, data_bytes)?,
    };
    if data.len() != data_bytes {
        return Err(corrupt("the content has another length"));
    }
    Ok(Frame {
        pages: stored.pages,
        data,
    })
}

thread_local! {
    /// Making one costs as much as decompressing a page.
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// The content of `payload`, which is of `data_bytes` at most.
fn decompress(payload: &[u8], data_bytes: usize) -> Result<Bytes, FormatError> {
    DECOMPRESSOR
        .with_borrow_mut(|kept| {
            let decompressor = match kept {
                Some(decompressor) => decompressor,
                None => kept.insert(zstd::bulk::Decompressor::new()?),
            };
            decompressor.decompress(payload, data_bytes)
        })
        .map(Bytes::from)
        .map_err(|error| corrupt(format!("zstd: {error}")))
}

/// Verifies a frame as far as that can be done without its segment's key: everything but what a
/// sealed payload says. Returns its pages.
///
/// # Errors
/// [`FormatError::Corrupt`], [`FormatError::NewerFormat`].
pub fn verify_sealed_frame(
    seed: ObjectSeed,
    page_size: PageSize,
    bytes: &Bytes,
) -> Result<Vec<PageNumber>, FormatError> {
    let stored = StoredFrame::decode(seed, page_size, bytes)?;
    match stored.is_sealed {
        true => Ok(stored.pages),
        false => Err(corrupt("it is in the clear, in a segment that is sealed")),
    }
}

fn corrupt(reason: impl Into<String>) -> FormatError {
    RecordKind::Frame.corrupt(reason)
}

/// A frame whose checksum and header are right.
struct StoredFrame {
    is_sealed: bool,
    encoding: u8,
    pages: Vec<PageNumber>,
    payload: Bytes,
}

impl StoredFrame {
    fn decode(seed: ObjectSeed, page_size: PageSize, bytes: &Bytes) -> Result<Self, FormatError> {
        let mut reader = Reader::new(RecordKind::Frame, bytes);
        let checksum = reader.u64()?;
        reader.require(
            seed.checksum(&bytes[CHECKSUM_BYTES..]) == checksum
                || crate::mutant::is("corrupted frame served"),
            "the checksum does not match",
        )?;
        let version = reader.u8()?;
        let (found, known) = (u16::from(version), RecordKind::Frame.version());
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
        Ok(Self {
            is_sealed: version == SEALED,
            encoding,
            pages,
            payload: bytes.slice(bytes.len() - payload_bytes..),
        })
    }

    /// The payload in the clear; `whole` is the frame.
    fn opened(&self, key: &SegmentKey, whole: &[u8]) -> Result<Bytes, FormatError> {
        let header = &whole[CHECKSUM_BYTES..whole.len() - self.payload.len()];
        let first = self.pages[0];
        let mut payload = self.payload.to_vec();
        let opened = key
            .open(first, header, &mut payload)
            .map(|clear| clear.len());
        let Some(bytes) = opened else {
            let reason = "it does not open under the segment's key: it was altered or moved";
            return Err(corrupt(reason));
        };
        payload.truncate(bytes);
        Ok(Bytes::from(payload))
    }
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
