//! Generates the image with the format module alone: segments, leaves, maps and a clean manifest,
//! put to the object store as they are. Nothing of the engine is used.

use anyhow::Result;
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use mvps_core::env::WallTime;
use mvps_core::format::codec::ObjectSeed;
use mvps_core::format::frame::{FrameEncoder, frame_pages};
use mvps_core::format::manifest::{
    ByteSpan, ImageState, Manifest, MapObjectEntry, MapObjectId, RootEntry, SegmentEntry, SegmentId,
};
use mvps_core::format::map_object::{
    LEAF_PAGES, Leaf, LeafExtent, LeafNumber, MapFooter, MapHeader, Root, RootLeaf,
};
use mvps_core::format::object_name::{ObjectKind, ObjectName, manifest_key};
use mvps_core::format::segment::{
    FrameEntry, PageSpan, SegmentFooter, SegmentHeader, SegmentIndex,
};
use mvps_core::ids::{
    EpochNumber, ImageId, Incarnation, Lsn, ObjectSequence, PageNumber, PageSize,
    PublicationCounter, Tenure, TenureId, Version,
};

use super::image::{IMAGE, Options, PREFIX};
use crate::rig::object_server::BUCKET;

/// Leaves whose pages share a segment: a few tens of megabytes of frames.
const LEAVES_PER_SEGMENT: u64 = 512;

/// Leaves in one map object.
const LEAVES_PER_MAP: u64 = 8192;

/// A segment that is not complete yet.
struct Segment {
    id: SegmentId,
    seed: ObjectSeed,
    body: Vec<u8>,
    index: SegmentIndex,
}

/// Writes the image to the object store.
pub struct Generator {
    client: Client,
    size_bytes: u64,
    every: u64,
    page_size: PageSize,
    encoder: FrameEncoder,
    next: u64,
    /// Pages written so far.
    pub written_pages: u64,
}

impl Generator {
    /// A generator of the image that `options` describe.
    pub fn new(client: Client, options: &Options) -> Self {
        Self {
            client,
            size_bytes: options.size_gib << 30,
            every: options.every,
            page_size: PageSize::from_bits(12).expect("12 bits are a page size"),
            encoder: FrameEncoder::new(Some(1)),
            next: 0,
            written_pages: 0,
        }
    }

    fn name(&mut self, kind: ObjectKind) -> ObjectName {
        let sequence = self.next;
        self.next += 1;
        ObjectName {
            image: ImageId::parse(IMAGE).expect("a name"),
            incarnation: Incarnation(1),
            epoch: EpochNumber(1),
            sequence: ObjectSequence(sequence),
            suffix: sequence.wrapping_mul(0x9E37_79B9_7F4A_7C15),
            kind,
        }
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<()> {
        let put = self.client.put_object().bucket(BUCKET);
        let put = put.key(format!("{PREFIX}{key}"));
        put.body(ByteStream::from(body)).send().await?;
        Ok(())
    }

    /// Generates the image; returns its manifest.
    ///
    /// # Errors
    /// If the store refuses an object.
    pub async fn generate(&mut self) -> Result<Manifest> {
        let mut manifest = empty_manifest(self.size_bytes, self.page_size);
        let mut root = Root::default();
        let leaves = (self.size_bytes >> 12).div_ceil(LEAF_PAGES);
        for first in (0..leaves).step_by(LEAVES_PER_MAP as usize) {
            let numbers = first..leaves.min(first + LEAVES_PER_MAP);
            self.make_map(numbers, leaves, &mut manifest, &mut root)
                .await?;
        }
        manifest.watermark = ObjectSequence(self.next);
        manifest.next_segment = SegmentId(u32::try_from(manifest.segments.len())?);
        manifest.next_map = MapObjectId(u32::try_from(manifest.maps.len())?);
        manifest.validate()?;
        let key = manifest_key(&manifest.image, manifest.version);
        self.put(&key, manifest.encode()).await?;
        Ok(manifest)
    }

    /// One map object with these leaves, and the segments that they point to. The last one has the
    /// root.
    async fn make_map(
        &mut self,
        numbers: std::ops::Range<u64>,
        all: u64,
        manifest: &mut Manifest,
        root: &mut Root,
    ) -> Result<()> {
        let id = MapObjectId(u32::try_from(manifest.maps.len())?);
        let name = self.name(ObjectKind::Map);
        let seed = name.seed();
        let header = MapHeader {
            page_size: self.page_size,
        };
        let mut body = header.encode(seed).to_vec();
        let mut append = |record: &[u8]| -> Result<ByteSpan> {
            let offset = body.len() as u64;
            body.extend_from_slice(record);
            let bytes = u32::try_from(record.len())?;
            Ok(ByteSpan { offset, bytes })
        };
        let last = numbers.end == all;
        let count = u32::try_from(numbers.end - numbers.start)?;
        for first in numbers.clone().step_by(LEAVES_PER_SEGMENT as usize) {
            let end = numbers.end.min(first + LEAVES_PER_SEGMENT);
            for (number, leaf) in self.make_segment(first..end, manifest).await? {
                let span = append(&leaf.encode(seed, number))?;
                root.leaves.push(RootLeaf {
                    leaf: number,
                    map: id,
                    span,
                });
            }
        }
        let root_span = match last {
            true => Some(append(&root.encode(seed))?),
            false => None,
        };
        let footer = MapFooter {
            leaves: count,
            root: root_span,
        };
        append(&footer.encode(seed))?;
        manifest.root = root_span.map(|span| RootEntry { map: id, span });
        let size_bytes = body.len() as u64;
        self.put(&name.key(), body.into()).await?;
        manifest.maps.push(MapObjectEntry {
            id,
            name,
            size_bytes,
        });
        Ok(())
    }

    /// One segment with the pages of these leaves.
    async fn make_segment(
        &mut self,
        leaves: std::ops::Range<u64>,
        manifest: &mut Manifest,
    ) -> Result<Vec<(LeafNumber, Leaf)>> {
        let id = SegmentId(u32::try_from(manifest.segments.len())?);
        let name = self.name(ObjectKind::Segment);
        let seed = name.seed();
        let header = SegmentHeader {
            page_size: self.page_size,
        };
        let mut segment = Segment {
            id,
            seed,
            body: header.encode(seed).to_vec(),
            index: SegmentIndex::default(),
        };
        let mut made = Vec::new();
        for number in leaves {
            let mut leaf = Leaf::default();
            let offsets: Vec<u64> = (0..LEAF_PAGES).step_by(self.every as usize).collect();
            for chunk in offsets.chunks(frame_pages(self.page_size)) {
                self.make_frame(&mut segment, number, chunk, &mut leaf)?;
            }
            self.written_pages += offsets.len() as u64;
            made.push((LeafNumber(number), leaf));
        }
        let Segment {
            mut body, index, ..
        } = segment;
        let record = index.encode(seed);
        let span = ByteSpan {
            offset: body.len() as u64,
            bytes: u32::try_from(record.len())?,
        };
        body.extend_from_slice(&record);
        body.extend_from_slice(&SegmentFooter { index: span }.encode(seed));
        let pages = u32::try_from(index.pages())?;
        manifest.segments.push(SegmentEntry {
            id,
            name: name.clone(),
            size_bytes: body.len() as u64,
            index: span,
            pages,
            live_pages: pages,
        });
        self.put(&name.key(), body.into()).await?;
        Ok(made)
    }

    /// One frame with these pages of a leaf, counted from its first.
    fn make_frame(
        &mut self,
        segment: &mut Segment,
        leaf_number: u64,
        offsets: &[u64],
        leaf: &mut Leaf,
    ) -> Result<()> {
        let page_of = |offset: &u64| leaf_number * LEAF_PAGES + offset;
        let content = offsets.iter().map(|offset| {
            let mut data = vec![0; 4096];
            data[..8].copy_from_slice(&(page_of(offset) + 1).to_le_bytes());
            data
        });
        let content: Vec<Vec<u8>> = content.collect();
        let numbers = offsets.iter().map(|offset| PageNumber(page_of(offset)));
        let pages: Vec<(PageNumber, &[u8])> =
            numbers.zip(content.iter().map(Vec::as_slice)).collect();
        let (seed, body) = (segment.seed, &mut segment.body);
        let offset = u32::try_from(body.len())?;
        let stored_bytes = self
            .encoder
            .encode(seed, self.page_size, None, &pages, body);
        let single = |(page, _): &(PageNumber, &[u8])| PageSpan {
            first: *page,
            pages: 1,
        };
        let entry = FrameEntry {
            offset,
            stored_bytes,
            runs: pages.iter().map(single).collect(),
        };
        for (slot, offset) in (0..).zip(offsets) {
            leaf.extents.push(LeafExtent {
                first: u16::try_from(*offset)?,
                pages: 1,
                slot,
                frame: entry.location(segment.id),
            });
        }
        segment.index.frames.push(entry);
        Ok(())
    }
}

/// A clean manifest of an image with nothing in it.
fn empty_manifest(size_bytes: u64, page_size: PageSize) -> Manifest {
    Manifest {
        image: ImageId::parse(IMAGE).expect("a name"),
        version: Version(1),
        incarnation: Incarnation(1),
        tenure: Tenure {
            epoch: EpochNumber(1),
            id: TenureId(1),
        },
        state: ImageState::Clean,
        owner: String::new(),
        publication: PublicationCounter(1),
        others: Vec::new(),
        published_at: WallTime { unix_ms: 0 },
        page_size,
        size_bytes,
        lsn: Lsn(1),
        watermark: ObjectSequence(0),
        oldest_retained: Version(1),
        next_segment: SegmentId(0),
        next_map: MapObjectId(0),
        segments: Vec::new(),
        maps: Vec::new(),
        root: None,
        tail: Vec::new(),
        retired: Vec::new(),
        snapshots: Vec::new(),
        pins: Vec::new(),
        takeovers: Vec::new(),
        data_keys: Vec::new(),
    }
}
