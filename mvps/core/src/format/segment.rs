//! A segment: immutable pages of one checkpoint (or of one cleaning), with its own index.
//!
//! ```text
//! header (24 bytes) │ frame │ frame │ … │ index │ footer (32 bytes)
//! ```
//!
//! The manifest knows where the index is; the footer says it too, so that a segment can be read
//! alone. Invariants: pages ascend through the segment, none twice; holes (what TRIM and
//! WRITE_ZEROES left) ascend and are disjoint from each other and from the pages; offsets fit 32
//! bits. The order in which a segment's entries are applied to a map does not matter, therefore.

use bytes::Bytes;

use super::codec::{ENVELOPE_BYTES, FormatError, ObjectSeed, Reader, RecordKind, Writer};
use super::frame::{FRAME_MAX_PAGES, FRAME_STORED_MAX_BYTES};
use super::location::FrameLocation;
use super::manifest::{ByteSpan, SegmentId};
use crate::ids::{PageNumber, PageSize};

/// Length of a segment's header; the first frame follows it.
pub const SEGMENT_HEADER_BYTES: usize = ENVELOPE_BYTES + 4;

/// Length of a segment's footer, the last bytes of the object.
pub const SEGMENT_FOOTER_BYTES: usize = ENVELOPE_BYTES + 12;

/// Most bytes of one segment's frames: offsets of frames are 32 bits wide in index and map.
pub const SEGMENT_MAX_BYTES: u64 = u32::MAX as u64;

/// A run of consecutive pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageSpan {
    /// The first page.
    pub first: PageNumber,
    /// How many, at least 1.
    pub pages: u64,
}

impl PageSpan {
    /// The page after the last.
    #[must_use]
    pub fn end(self) -> PageNumber {
        PageNumber(self.first.0 + self.pages)
    }
}

/// The beginning of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Size of its pages.
    pub page_size: PageSize,
}

impl SegmentHeader {
    /// [`SEGMENT_HEADER_BYTES`] bytes.
    #[must_use]
    pub fn encode(&self, seed: ObjectSeed) -> Bytes {
        let mut writer = Writer::new(RecordKind::SegmentHeader);
        writer.u32(u32::from(self.page_size.bits()));
        writer.finish(seed)
    }

    /// Decodes the first [`SEGMENT_HEADER_BYTES`] of a segment.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn decode(seed: ObjectSeed, bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::open(RecordKind::SegmentHeader, seed, bytes)?;
        let page_size = u8::try_from(reader.u32()?)
            .ok()
            .and_then(PageSize::from_bits);
        let page_size = page_size.ok_or_else(|| reader.corrupt("not a page size"))?;
        reader.finish()?;
        Ok(Self { page_size })
    }
}

/// Where one frame is and which pages it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameEntry {
    /// Offset of the frame in the segment.
    pub offset: u32,
    /// Length of the whole frame, header included.
    pub stored_bytes: u32,
    /// Its pages, in the order of their slots, ascending: 1 to [`FRAME_MAX_PAGES`] in all.
    pub runs: Vec<PageSpan>,
}

impl FrameEntry {
    /// The frame as the map names it.
    #[must_use]
    pub fn location(&self, segment: SegmentId) -> FrameLocation {
        FrameLocation {
            segment,
            offset: self.offset,
            stored_bytes: self.stored_bytes,
        }
    }

    /// How many pages it holds.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.runs.iter().map(|run| run.pages).sum()
    }
}

/// What is where in a segment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SegmentIndex {
    /// Its frames, ascending by offset and by page.
    pub frames: Vec<FrameEntry>,
    /// Pages that read as zeroes from here on, ascending.
    pub holes: Vec<PageSpan>,
}

impl SegmentIndex {
    /// Encodes the index.
    ///
    /// # Panics
    /// If the frames or holes break an invariant of this module.
    #[must_use]
    pub fn encode(&self, seed: ObjectSeed) -> Bytes {
        let mut writer = Writer::new(RecordKind::SegmentIndex);
        writer.count(self.frames.len());
        let mut frame_end = SEGMENT_HEADER_BYTES as u32;
        let mut page_end = PageNumber(0);
        for frame in &self.frames {
            assert!(
                frame_shape_ok(frame.stored_bytes, frame.pages()),
                "a frame as encoded"
            );
            writer.varint(u64::from(sub(frame.offset.into(), frame_end.into()) as u32));
            writer.varint(u64::from(frame.stored_bytes));
            frame_end = frame
                .offset
                .checked_add(frame.stored_bytes)
                .expect("32-bit offsets");
            writer.count(frame.runs.len());
            for run in &frame.runs {
                page_end = write_span(&mut writer, page_end, *run);
            }
        }
        assert!(
            disjoint(&self.frames, &self.holes),
            "holes are disjoint from pages"
        );
        writer.count(self.holes.len());
        page_end = PageNumber(0);
        for hole in &self.holes {
            page_end = write_span(&mut writer, page_end, *hole);
        }
        writer.finish(seed)
    }

    /// Decodes an index that fills `bytes` exactly.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn decode(seed: ObjectSeed, bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::open(RecordKind::SegmentIndex, seed, bytes)?;
        let frame_count = reader.count(5)?;
        let mut frames = Vec::with_capacity(frame_count);
        let mut frame_end = SEGMENT_HEADER_BYTES as u64;
        let mut page_end = PageNumber(0);
        for _ in 0..frame_count {
            let gap: u32 = reader.varint_as()?;
            let stored_bytes: u32 = reader.varint_as()?;
            let offset = frame_end + u64::from(gap);
            frame_end = offset + u64::from(stored_bytes);
            reader.require(frame_end <= SEGMENT_MAX_BYTES, "a frame beyond 4 GiB")?;
            let run_count = reader.count(2)?;
            reader.require(run_count <= FRAME_MAX_PAGES, "a frame of too many runs")?;
            let mut runs = Vec::with_capacity(run_count);
            for _ in 0..run_count {
                let run = read_span(&mut reader, page_end)?;
                page_end = run.end();
                runs.push(run);
            }
            let frame = FrameEntry {
                offset: offset as u32,
                stored_bytes,
                runs,
            };
            let pages = frame
                .runs
                .iter()
                .try_fold(0_u64, |sum, run| sum.checked_add(run.pages));
            let shape_ok = pages.is_some_and(|pages| frame_shape_ok(stored_bytes, pages));
            reader.require(shape_ok, "no frame has this shape")?;
            frames.push(frame);
        }
        let hole_count = reader.count(2)?;
        let mut holes = Vec::with_capacity(hole_count);
        page_end = PageNumber(0);
        for _ in 0..hole_count {
            let hole = read_span(&mut reader, page_end)?;
            page_end = hole.end();
            holes.push(hole);
        }
        reader.require(
            disjoint(&frames, &holes),
            "a page is both stored and a hole",
        )?;
        reader.finish()?;
        Ok(Self { frames, holes })
    }

    /// How many pages the segment holds.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.frames.iter().map(FrameEntry::pages).sum()
    }
}

fn frame_shape_ok(stored_bytes: u32, pages: u64) -> bool {
    (1..=FRAME_MAX_PAGES as u64).contains(&pages)
        && (1..=FRAME_STORED_MAX_BYTES).contains(&(stored_bytes as usize))
}

fn sub(value: u64, lower: u64) -> u64 {
    value.checked_sub(lower).expect("entries ascend")
}

fn write_span(writer: &mut Writer, previous_end: PageNumber, span: PageSpan) -> PageNumber {
    assert!(span.pages > 0, "a run is not empty");
    writer.varint(sub(span.first.0, previous_end.0));
    writer.varint(span.pages);
    span.end()
}

fn read_span(reader: &mut Reader<'_>, previous_end: PageNumber) -> Result<PageSpan, FormatError> {
    let (gap, pages) = (reader.varint()?, reader.varint()?);
    let first = previous_end.0.checked_add(gap);
    let fits = first.and_then(|first| first.checked_add(pages)).is_some();
    match first {
        Some(first) if fits && pages > 0 => Ok(PageSpan {
            first: PageNumber(first),
            pages,
        }),
        _ => Err(reader.corrupt("a run is empty or ends beyond 64 bits")),
    }
}

/// Whether no page of `frames` is in one of `holes`; both ascend.
fn disjoint(frames: &[FrameEntry], holes: &[PageSpan]) -> bool {
    let mut holes = holes.iter().peekable();
    frames.iter().flat_map(|frame| &frame.runs).all(|run| {
        while holes.next_if(|hole| hole.end() <= run.first).is_some() {}
        holes.peek().is_none_or(|hole| run.end() <= hole.first)
    })
}

/// The end of a segment: where its index is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentFooter {
    /// Where the index is.
    pub index: ByteSpan,
}

impl SegmentFooter {
    /// [`SEGMENT_FOOTER_BYTES`] bytes.
    #[must_use]
    pub fn encode(&self, seed: ObjectSeed) -> Bytes {
        let mut writer = Writer::new(RecordKind::SegmentFooter);
        writer.u64(self.index.offset);
        writer.u32(self.index.bytes);
        writer.finish(seed)
    }

    /// Decodes the last [`SEGMENT_FOOTER_BYTES`] of a segment.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn decode(seed: ObjectSeed, bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::open(RecordKind::SegmentFooter, seed, bytes)?;
        let index = ByteSpan {
            offset: reader.u64()?,
            bytes: reader.u32()?,
        };
        reader.finish()?;
        Ok(Self { index })
    }
}

#[cfg(test)]
mod tests;
