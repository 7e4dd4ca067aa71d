//! Map objects: which frame each page is in, as of one map compaction.
//!
//! ```text
//! header (24 bytes) │ leaf │ leaf │ … │ root, if this map compaction's root is here │ footer (36 bytes)
//! ```
//!
//! The map is an array of *leaves* of [`LEAF_PAGES`] pages each; a map compaction writes only
//! leaves that changed, and a new root: the directory of all leaves, each in the map object that
//! holds its newest form. A leaf or the root is one ranged GET, verified by itself. Invariants:
//! extents and leaves ascend and are disjoint; a page or leaf that is absent is a hole; an extent
//! lies within one frame. Must never hold a leaf's position twice: a leaf carries its own number,
//! and decodes only under it.

use bytes::Bytes;

use super::codec::{ENVELOPE_BYTES, FormatError, ObjectSeed, Reader, RecordKind, Writer};
use super::frame::{FRAME_MAX_PAGES, FRAME_STORED_MAX_BYTES};
use super::location::FrameLocation;
use super::manifest::{ByteSpan, MapObjectId, SegmentId};
use super::segment::SEGMENT_HEADER_BYTES;
use crate::ids::{PageNumber, PageSize};

/// Pages of one leaf: 16 MiB of image at 4 KiB pages. A full leaf of scattered pages is 64 KiB
/// long, about one frame: a cold read costs two GETs of like size.
///
/// A constant of the format: a leaf's number stands for its first page, and no record says how many
/// pages a leaf has. What wants several leaves takes a large image, which costs nothing where it is
/// empty.
pub const LEAF_PAGES: u64 = 4096;

/// Length of a map object's header; the first leaf follows it.
pub const MAP_HEADER_BYTES: usize = ENVELOPE_BYTES + 4;

/// Length of a map object's footer, the last bytes of the object.
pub const MAP_FOOTER_BYTES: usize = ENVELOPE_BYTES + 16;

/// Encoded length of one extent.
pub const EXTENT_BYTES: usize = 16;

/// Most bytes of an encoded leaf: one extent per page.
pub const LEAF_MAX_BYTES: usize = ENVELOPE_BYTES + 8 + LEAF_PAGES as usize * EXTENT_BYTES;

/// A leaf's number: its first page divided by [`LEAF_PAGES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeafNumber(pub u64);

impl LeafNumber {
    /// The leaf that `page` is in, and its offset there.
    #[must_use]
    pub fn of(page: PageNumber) -> (Self, u16) {
        (Self(page.0 / LEAF_PAGES), (page.0 % LEAF_PAGES) as u16)
    }

    /// The leaf's page at `offset`, or `None` if its number does not fit 64 bits.
    #[must_use]
    pub fn page(self, offset: u16) -> Option<PageNumber> {
        let first = self.0.checked_mul(LEAF_PAGES)?;
        first.checked_add(u64::from(offset)).map(PageNumber)
    }
}

/// A run of pages that lie one after the other in one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeafExtent {
    /// The first page, counted from the leaf's first.
    pub first: u16,
    /// How many pages, 1 to [`FRAME_MAX_PAGES`].
    pub pages: u8,
    /// Which of the frame's pages the first one is.
    pub slot: u8,
    /// The frame.
    pub frame: FrameLocation,
}

/// A leaf of the map.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Leaf {
    /// Ascending and disjoint; pages between them are holes.
    pub extents: Vec<LeafExtent>,
}

impl Leaf {
    /// Encodes the leaf.
    ///
    /// # Panics
    /// If the extents break an invariant of this module.
    #[must_use]
    pub fn encode(&self, seed: ObjectSeed, number: LeafNumber) -> Bytes {
        let mut writer = Writer::new(RecordKind::MapLeaf);
        writer.u64(number.0);
        let mut end = 0;
        for extent in &self.extents {
            assert!(
                extent_ok(extent, end),
                "extents ascend and lie within leaf and frame"
            );
            end = u64::from(extent.first) + u64::from(extent.pages);
            writer.u16(extent.first);
            writer.u8(extent.pages);
            writer.u8(extent.slot);
            writer.u32(extent.frame.segment.0);
            writer.u32(extent.frame.offset);
            writer.u32(extent.frame.stored_bytes);
        }
        writer.finish(seed)
    }

    /// Decodes leaf `number`, which fills `bytes` exactly.
    ///
    /// # Errors
    /// [`FormatError`], also if it is another leaf.
    pub fn decode(seed: ObjectSeed, number: LeafNumber, bytes: &[u8]) -> Result<Self, FormatError> {
        let (found, leaf) = Self::decode_any(seed, bytes)?;
        if found == number {
            Ok(leaf)
        } else {
            let reason = format!("leaf {} where leaf {} was expected", found.0, number.0);
            Err(RecordKind::MapLeaf.corrupt(reason))
        }
    }

    /// Decodes whichever leaf fills `bytes` exactly; for checking a map object alone.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn decode_any(seed: ObjectSeed, bytes: &[u8]) -> Result<(LeafNumber, Self), FormatError> {
        let mut reader = Reader::open(RecordKind::MapLeaf, seed, bytes)?;
        let number = LeafNumber(reader.u64()?);
        reader.require(
            number.page(LEAF_PAGES as u16).is_some(),
            "no image has such a leaf",
        )?;
        let mut extents = Vec::with_capacity(reader.remaining_bytes() / EXTENT_BYTES);
        let mut end = 0;
        while reader.remaining_bytes() > 0 {
            let extent = LeafExtent {
                first: reader.u16()?,
                pages: reader.u8()?,
                slot: reader.u8()?,
                frame: FrameLocation {
                    segment: SegmentId(reader.u32()?),
                    offset: reader.u32()?,
                    stored_bytes: reader.u32()?,
                },
            };
            reader.require(extent_ok(&extent, end), "an extent out of order or range")?;
            end = u64::from(extent.first) + u64::from(extent.pages);
            extents.push(extent);
        }
        reader.finish()?;
        Ok((number, Self { extents }))
    }
}

fn extent_ok(extent: &LeafExtent, previous_end: u64) -> bool {
    let first = u64::from(extent.first);
    let frame = &extent.frame;
    extent.pages > 0
        && first >= previous_end
        && first + u64::from(extent.pages) <= LEAF_PAGES
        && usize::from(extent.slot) + usize::from(extent.pages) <= FRAME_MAX_PAGES
        && frame.offset as usize >= SEGMENT_HEADER_BYTES
        && (1..=FRAME_STORED_MAX_BYTES).contains(&(frame.stored_bytes as usize))
        && frame.offset.checked_add(frame.stored_bytes).is_some()
}

/// Where one leaf is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootLeaf {
    /// Which leaf.
    pub leaf: LeafNumber,
    /// The map object that holds it.
    pub map: MapObjectId,
    /// Where in that.
    pub span: ByteSpan,
}

/// The directory of all leaves that hold a page.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Root {
    /// Ascending by number.
    pub leaves: Vec<RootLeaf>,
}

impl Root {
    /// Encodes the root.
    ///
    /// # Panics
    /// Unless the leaves ascend.
    #[must_use]
    pub fn encode(&self, seed: ObjectSeed) -> Bytes {
        let mut writer = Writer::new(RecordKind::MapRoot);
        writer.count(self.leaves.len());
        let mut lowest = 0;
        for leaf in &self.leaves {
            let gap = leaf.leaf.0.checked_sub(lowest).expect("leaves ascend");
            writer.varint(gap);
            writer.varint(u64::from(leaf.map.0));
            writer.varint(leaf.span.offset);
            writer.varint(u64::from(leaf.span.bytes));
            lowest = leaf.leaf.0 + 1;
        }
        writer.finish(seed)
    }

    /// Decodes a root that fills `bytes` exactly.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn decode(seed: ObjectSeed, bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::open(RecordKind::MapRoot, seed, bytes)?;
        let count = reader.count(4)?;
        let mut leaves = Vec::with_capacity(count);
        let mut lowest = 0_u64;
        for _ in 0..count {
            let leaf = lowest.checked_add(reader.varint()?).map(LeafNumber);
            let leaf = leaf.filter(|leaf| leaf.page(LEAF_PAGES as u16).is_some());
            let leaf = leaf.ok_or_else(|| reader.corrupt("no image has such a leaf"))?;
            let map = MapObjectId(reader.varint_as()?);
            let span = ByteSpan {
                offset: reader.varint()?,
                bytes: reader.varint_as()?,
            };
            let length_ok = span.bytes as usize <= LEAF_MAX_BYTES;
            reader.require(length_ok, "a leaf longer than any")?;
            let end_ok = span.offset.checked_add(u64::from(span.bytes)).is_some();
            reader.require(end_ok, "a leaf beyond 64 bits")?;
            leaves.push(RootLeaf { leaf, map, span });
            lowest = leaf.0 + 1;
        }
        reader.finish()?;
        Ok(Self { leaves })
    }
}

/// The beginning of a map object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapHeader {
    /// Size of the image's pages.
    pub page_size: PageSize,
}

impl MapHeader {
    /// [`MAP_HEADER_BYTES`] bytes.
    #[must_use]
    pub fn encode(&self, seed: ObjectSeed) -> Bytes {
        let mut writer = Writer::new(RecordKind::MapHeader);
        writer.u32(u32::from(self.page_size.bits()));
        writer.finish(seed)
    }

    /// Decodes the first [`MAP_HEADER_BYTES`] of a map object.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn decode(seed: ObjectSeed, bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::open(RecordKind::MapHeader, seed, bytes)?;
        let page_size = u8::try_from(reader.u32()?)
            .ok()
            .and_then(PageSize::from_bits);
        let page_size = page_size.ok_or_else(|| reader.corrupt("not a page size"))?;
        reader.finish()?;
        Ok(Self { page_size })
    }
}

/// The end of a map object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapFooter {
    /// How many leaves it holds.
    pub leaves: u32,
    /// Where the root is, if it holds one.
    pub root: Option<ByteSpan>,
}

impl MapFooter {
    /// [`MAP_FOOTER_BYTES`] bytes.
    ///
    /// # Panics
    /// If the root's span is empty.
    #[must_use]
    pub fn encode(&self, seed: ObjectSeed) -> Bytes {
        assert!(
            self.root.is_none_or(|root| root.bytes > 0),
            "a root is not empty"
        );
        let root = self.root.unwrap_or(ByteSpan {
            offset: 0,
            bytes: 0,
        });
        let mut writer = Writer::new(RecordKind::MapFooter);
        writer.u32(self.leaves);
        writer.u64(root.offset);
        writer.u32(root.bytes);
        writer.finish(seed)
    }

    /// Decodes the last [`MAP_FOOTER_BYTES`] of a map object.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn decode(seed: ObjectSeed, bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::open(RecordKind::MapFooter, seed, bytes)?;
        let leaves = reader.u32()?;
        let root = ByteSpan {
            offset: reader.u64()?,
            bytes: reader.u32()?,
        };
        reader.require(root.bytes > 0 || root.offset == 0, "an empty root")?;
        reader.finish()?;
        Ok(Self {
            leaves,
            root: (root.bytes > 0).then_some(root),
        })
    }
}

#[cfg(test)]
mod tests;
