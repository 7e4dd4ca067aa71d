//! Verifies one segment, map object, root or leaf.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::report::{Finding, FindingKind};
use crate::encryption::{ImageKeys, SegmentKey};
use crate::format::codec::{FormatError, ObjectSeed, RecordKind};
use crate::format::frame::{decode_frame, verify_sealed_frame};
use crate::format::manifest::{ByteSpan, Manifest, MapObjectEntry, SegmentEntry, SegmentId};
use crate::format::map_object::{Leaf, MAP_FOOTER_BYTES, MAP_HEADER_BYTES, MapFooter, MapHeader};
use crate::format::object_name::ObjectName;
use crate::format::segment::{
    FrameEntry, SEGMENT_FOOTER_BYTES, SEGMENT_HEADER_BYTES, SegmentFooter, SegmentHeader,
    SegmentIndex,
};
use crate::ids::{ImageId, Incarnation, PageNumber, PageSize};
use crate::object_reads::{ObjectReads, Piece, ReadError};

/// Frames are read in pieces of about this size.
const DATA_PIECE_BYTES: u64 = 1 << 20;

/// Reads the piece at `offset` of `object`.
pub(super) async fn read<T>(
    reads: &ObjectReads,
    object: &ObjectName,
    span: ByteSpan,
    decode: impl Fn(ObjectSeed, Bytes) -> Result<T, FormatError>,
) -> Result<T, Finding> {
    let piece = Piece {
        object,
        span,
        page: None,
    };
    let read: Result<T, ReadError> = reads.read(piece, decode).await;
    read.map_err(|error| Finding::of_read(&object.key(), &error))
}

fn head(bytes: usize) -> ByteSpan {
    ByteSpan {
        offset: 0,
        bytes: bytes as u32,
    }
}

/// The last `bytes` of an object of `size_bytes`.
fn tail(object: &ObjectName, size_bytes: u64, bytes: usize) -> Result<ByteSpan, Finding> {
    match size_bytes.checked_sub(bytes as u64) {
        Some(offset) => Ok(ByteSpan {
            offset,
            bytes: bytes as u32,
        }),
        None => Err(Finding::new(
            FindingKind::WrongSize,
            object,
            format!("{size_bytes} bytes are too few for one"),
        )),
    }
}

fn require(holds: bool, kind: FindingKind, key: &ObjectName, reason: &str) -> Result<(), Finding> {
    match holds {
        true => Ok(()),
        false => Err(Finding::new(kind, key, reason)),
    }
}

/// How the frames of segments are verified.
#[derive(Debug, Clone)]
pub(super) enum FrameChecks {
    /// Not at all.
    None,
    /// Opened, decompressed, and compared with the index.
    Open(ImageKeys),
    /// The data keys cannot be had: where a frame is sealed, its content is not looked at. These
    /// are the ones that there are, by image and incarnation.
    Sealed(Vec<(ImageId, Incarnation)>),
}

/// How the frames of one segment are verified.
enum SegmentFrames {
    Open(Option<Box<SegmentKey>>),
    Sealed,
}

impl FrameChecks {
    fn of_segment(&self, name: &ObjectName) -> Option<SegmentFrames> {
        match self {
            Self::None => None,
            Self::Open(keys) => Some(SegmentFrames::Open(name.segment_key(keys).map(Box::new))),
            Self::Sealed(owners) => {
                let mut owners = owners.iter();
                let sealed = owners.any(|owner| *owner == (name.image.clone(), name.incarnation));
                Some(match sealed {
                    true => SegmentFrames::Sealed,
                    false => SegmentFrames::Open(None),
                })
            }
        }
    }
}

impl SegmentFrames {
    fn pages(
        &self,
        seed: ObjectSeed,
        page_size: PageSize,
        stored: &Bytes,
    ) -> Result<Vec<PageNumber>, FormatError> {
        match self {
            Self::Open(key) => {
                decode_frame(seed, page_size, key.as_deref(), stored).map(|frame| frame.pages)
            }
            Self::Sealed => verify_sealed_frame(seed, page_size, stored),
        }
    }
}

/// Verifies a segment as `manifest` lists it, its frames too if `checks` say so. Returns the bytes
/// of frames that were verified.
pub(super) async fn verify_segment(
    reads: &ObjectReads,
    manifest: &Manifest,
    entry: &SegmentEntry,
    checks: &FrameChecks,
) -> Result<u64, Finding> {
    let name = &entry.name;
    let header = read(reads, name, head(SEGMENT_HEADER_BYTES), |seed, bytes| {
        SegmentHeader::decode(seed, &bytes)
    });
    let page_size = header.await?.page_size;
    let same_pages = page_size == manifest.page_size;
    require(same_pages, FindingKind::Damaged, name, "another page size")?;
    let at_end = tail(name, entry.size_bytes, SEGMENT_FOOTER_BYTES)?;
    let footer = read(reads, name, at_end, |seed, bytes| {
        SegmentFooter::decode(seed, &bytes)
    });
    let as_listed = footer.await?.index == entry.index;
    let reason = "its footer names another index than the manifest";
    require(as_listed, FindingKind::Damaged, name, reason)?;
    let index = read(reads, name, entry.index, |seed, bytes| {
        SegmentIndex::decode(seed, &bytes)
    });
    let index = index.await?;
    let counted = index.pages() == u64::from(entry.pages);
    let reason = format!(
        "it holds {} pages, the manifest says {}",
        index.pages(),
        entry.pages
    );
    require(counted, FindingKind::WrongCount, name, &reason)?;
    let end = index
        .frames
        .last()
        .map_or(0, |it| u64::from(it.offset) + u64::from(it.stored_bytes));
    let before_index = end <= entry.index.offset;
    let reason = "a frame reaches into the index";
    require(before_index, FindingKind::Damaged, name, reason)?;
    match checks.of_segment(name) {
        Some(frames) => verify_frames(reads, name, page_size, &index, &frames).await,
        None => Ok(0),
    }
}

async fn verify_frames(
    reads: &ObjectReads,
    name: &ObjectName,
    page_size: PageSize,
    index: &SegmentIndex,
    checks: &SegmentFrames,
) -> Result<u64, Finding> {
    let mut verified = 0;
    let mut rest = &index.frames[..];
    while let Some(first) = rest.first() {
        let start = u64::from(first.offset);
        let end_of = |it: &FrameEntry| u64::from(it.offset) + u64::from(it.stored_bytes);
        let count = rest
            .iter()
            .take_while(|it| end_of(it) <= start + DATA_PIECE_BYTES)
            .count()
            .max(1);
        let (frames, later) = rest.split_at(count);
        let bytes = end_of(&frames[count - 1]) - start;
        let span = ByteSpan {
            offset: start,
            bytes: u32::try_from(bytes).expect("about a piece"),
        };
        let decode = |seed, bytes: Bytes| {
            for frame in frames {
                let from = (u64::from(frame.offset) - start) as usize;
                let stored = bytes.slice(from..from + frame.stored_bytes as usize);
                let pages = checks.pages(seed, page_size, &stored)?;
                let listed = frame
                    .runs
                    .iter()
                    .flat_map(|run| (run.first.0..run.end().0).map(PageNumber));
                if !listed.eq(pages.iter().copied()) {
                    let reason = "it holds other pages than the index says".to_owned();
                    return Err(RecordKind::Frame.corrupt(reason));
                }
            }
            Ok(())
        };
        read(reads, name, span, decode).await?;
        verified += bytes;
        rest = later;
    }
    Ok(verified)
}

/// Verifies the header and footer of a map object. Its leaves and root are verified by whoever
/// refers to them.
pub(super) async fn verify_map_object(
    reads: &ObjectReads,
    manifest: &Manifest,
    entry: &MapObjectEntry,
) -> Result<(), Finding> {
    let name = &entry.name;
    let header = read(reads, name, head(MAP_HEADER_BYTES), |seed, bytes| {
        MapHeader::decode(seed, &bytes)
    });
    let same_pages = header.await?.page_size == manifest.page_size;
    require(same_pages, FindingKind::Damaged, name, "another page size")?;
    let at_end = tail(name, entry.size_bytes, MAP_FOOTER_BYTES)?;
    let footer = read(reads, name, at_end, |seed, bytes| {
        MapFooter::decode(seed, &bytes)
    });
    footer.await.map(|_| ())
}

/// Pages of each segment that a leaf points to.
pub(super) type PageCounts = BTreeMap<SegmentId, u64>;

/// Counts what a leaf points to, and checks that it points to frames of segments that the manifest
/// lists.
pub(super) fn count_leaf(
    segments: &BTreeMap<SegmentId, &SegmentEntry>,
    object: &ObjectName,
    leaf: &Leaf,
    counts: &mut PageCounts,
) -> Result<(), Finding> {
    for extent in &leaf.extents {
        let frame = &extent.frame;
        let number = frame.segment.0;
        let Some(segment) = segments.get(&frame.segment) else {
            let reason = format!("a leaf points to segment {number}, which is not listed");
            return Err(Finding::new(FindingKind::Dangling, object, reason));
        };
        let end = u64::from(frame.offset) + u64::from(frame.stored_bytes);
        let reason = format!("a leaf points beyond the frames of segment {number}");
        let inside = end <= segment.index.offset;
        require(inside, FindingKind::Damaged, object, &reason)?;
        *counts.entry(frame.segment).or_default() += u64::from(extent.pages);
    }
    Ok(())
}
