//! An image in a memory store, written and read through segments, map and frames, beside a model
//! of single pages: for the tests of this module and of its neighbours.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::{LeafReads, Map, MapRun};
use crate::encryption::{ImageKeys, RootKey, RootKeys, WrappedDataKey};
use crate::engine::limits::Limits;
use crate::engine::publisher::{
    CompactedMap, MapCompactionPlan, MapCompactionRequest, SegmentSettings, SegmentWriter,
    WrittenSegment, compact,
};
use crate::engine::read::frame_reader::{FrameReader, FrameReads};
use crate::env::memory::testing::{TestClock, TestSpawner};
use crate::env::memory::{MemoryObjectStore, SeededEntropy};
use crate::env::{OperationKind, Spawner, WallTime};
use crate::format::manifest::{ImageState, Manifest, MapObjectId, SegmentId};
use crate::format::object_name::{ObjectKind, ObjectName};
use crate::format::segment::PageSpan;
use crate::ids::{
    EpochNumber, ImageId, Incarnation, Lsn, ObjectSequence, PageNumber, PageSize,
    PublicationCounter, Tenure, TenureId, Version,
};
use crate::object_reads::ObjectReads;
use crate::store::{RetryingStore, UploadWriter};

/// What one test segment does to pages, in ascending order.
#[derive(Debug, Clone)]
pub enum Write {
    /// Pages from `first` on get content that depends on page and `tag`; tag 0 is zeroes.
    Pages {
        /// The first page.
        first: u64,
        /// How many.
        count: u64,
        /// What they get.
        tag: u8,
    },
    /// Pages from `first` on become a hole.
    Hole {
        /// The first page.
        first: u64,
        /// How many.
        count: u64,
    },
}

/// An image in a memory store and the model that its reads are compared with.
pub struct TestWorld {
    /// The store, for its script and its log.
    pub objects: Arc<MemoryObjectStore>,
    /// The same with retries.
    pub store: RetryingStore,
    /// For uploads and read-ahead.
    pub spawner: Arc<dyn Spawner>,
    /// As it would be published.
    pub manifest: Manifest,
    /// The map as it is after all writes.
    pub map: Map,
    /// Reads through caches that live as long as the world.
    pub reader: FrameReader,
    /// Frames are stored like this.
    pub settings: SegmentSettings,
    /// Most map objects that a version uses.
    pub map_objects_max: usize,
    /// What every page should be: the tag it was last written with.
    pub model: BTreeMap<u64, u8>,
    next_sequence: Arc<AtomicU64>,
}

/// The first manifest of an image of a tebibyte.
pub fn empty_manifest(page_size: PageSize) -> Manifest {
    Manifest {
        image: ImageId::parse("disk0").unwrap(),
        version: Version(1),
        incarnation: Incarnation(1),
        tenure: Tenure {
            epoch: EpochNumber(1),
            id: TenureId(1),
        },
        state: ImageState::Active,
        owner: String::new(),
        publication: PublicationCounter(1),
        others: Vec::new(),
        published_at: WallTime { unix_ms: 0 },
        page_size,
        size_bytes: 1 << 40,
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

/// The content of `page` under `tag`: half of it compresses.
pub fn content(page: u64, tag: u8, page_size: PageSize) -> Vec<u8> {
    if tag == 0 {
        return vec![0; page_size.bytes()];
    }
    let mut state = page.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(tag);
    let mut data = vec![tag; page_size.bytes()];
    for byte in &mut data[..page_size.bytes() / 2] {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        *byte = (state >> 56) as u8;
    }
    data
}

/// Data keys of the image of an object.
pub fn keys_of(name: &ObjectName) -> ImageKeys {
    let roots = RootKeys::new(vec![RootKey::new([7; 32].into())]);
    let (image, life) = (&name.image, name.incarnation);
    let key = WrappedDataKey::for_new_image(&roots, image, life, &SeededEntropy::new(1)).unwrap();
    ImageKeys::unwrap(&roots, image, &[key]).unwrap()
}

impl TestWorld {
    /// An empty image. Needs a running runtime.
    pub fn new() -> Self {
        let page_size = PageSize::from_bits(12).unwrap();
        let limits = Limits::default();
        let objects = Arc::new(MemoryObjectStore::new());
        let entropy = Arc::new(SeededEntropy::new(1));
        let store = RetryingStore::new(objects.clone(), Arc::new(TestClock::start()), entropy);
        let spawner: Arc<dyn Spawner> = Arc::new(TestSpawner);
        let reads = ObjectReads::new(store.clone());
        let frames = FrameReads::new(reads.clone(), Arc::clone(&spawner), 64 << 20);
        let leaves = Arc::new(LeafReads::new(reads, 1 << 20));
        Self {
            objects,
            store,
            spawner,
            manifest: empty_manifest(page_size),
            map: Map::empty(leaves),
            reader: FrameReader::new(Arc::new(frames), page_size, Arc::default()),
            settings: SegmentSettings::new(page_size, &limits),
            map_objects_max: limits.map_objects_max,
            model: BTreeMap::new(),
            next_sequence: Arc::default(),
        }
    }

    /// Makes names of new objects.
    pub fn names(&self, kind: ObjectKind) -> impl FnMut() -> ObjectName + Send + use<> {
        let next_sequence = Arc::clone(&self.next_sequence);
        move || {
            let sequence = next_sequence.fetch_add(1, Ordering::Relaxed);
            ObjectName {
                image: ImageId::parse("disk0").unwrap(),
                incarnation: Incarnation(1),
                epoch: EpochNumber(1),
                sequence: ObjectSequence(sequence),
                suffix: sequence.wrapping_mul(0x9E37_79B9_7F4A_7C15),
                kind,
            }
        }
    }

    /// Writes segments, without adding them to the image.
    pub async fn write_segments(&self, writes: &[Write]) -> Vec<WrittenSegment> {
        let (store, spawner) = (self.store.clone(), Arc::clone(&self.spawner));
        let names = Box::new(self.names(ObjectKind::Segment));
        let mut writer = SegmentWriter::new(store, spawner, self.settings.clone(), names);
        for write in writes {
            match *write {
                Write::Pages { first, count, tag } => {
                    let pages = first..first + count;
                    let data = pages.flat_map(|page| content(page, tag, self.settings.page_size));
                    let data = Bytes::from(data.collect::<Vec<u8>>());
                    writer.pages(PageNumber(first), data).await.unwrap();
                }
                Write::Hole { first, count } => {
                    let first = PageNumber(first);
                    let span = PageSpan {
                        first,
                        pages: count,
                    };
                    writer.hole(span).await.unwrap();
                }
            }
        }
        writer.finish().await.unwrap()
    }

    /// A checkpoint: writes segments and adds them to manifest, map and model.
    pub async fn checkpoint(&mut self, writes: &[Write]) {
        for segment in self.write_segments(writes).await {
            let id = self.manifest.next_segment;
            self.manifest.next_segment = SegmentId(id.0 + 1);
            self.manifest.segments.push(segment.entry(id));
            self.manifest.tail.push(id);
            self.map = self
                .map
                .with_segment(id, segment.name.clone(), &segment.index);
        }
        for write in writes {
            let (first, count, tag) = match *write {
                Write::Pages { first, count, tag } => (first, count, tag),
                Write::Hole { first, count } => (first, count, 0),
            };
            if tag == 0 {
                self.model
                    .retain(|page, _| !(first..first + count).contains(page));
            } else {
                self.model
                    .extend((first..first + count).map(|page| (page, tag)));
            }
        }
    }

    /// Compacts the map and changes the manifest accordingly.
    pub async fn compact(&mut self) -> CompactedMap {
        let plan = MapCompactionPlan::new(&self.map, &self.manifest, self.map_objects_max);
        let name = self.names(ObjectKind::Map)();
        let (store, spawner) = (self.store.clone(), Arc::clone(&self.spawner));
        let compacted = compact(MapCompactionRequest {
            map: &self.map,
            manifest: &self.manifest,
            plan: &plan,
            upload: UploadWriter::new(store, spawner, name.key()),
            name,
        })
        .await
        .unwrap();
        compacted.apply_to(&mut self.manifest);
        self.map = compacted.map.clone();
        compacted
    }

    /// The map as another process would open it, with caches of its own.
    pub async fn opened(&self) -> Map {
        let reads = ObjectReads::new(self.store.clone());
        let leaves = Arc::new(LeafReads::new(reads, 1 << 20));
        Map::open(&self.manifest, leaves).await.unwrap()
    }

    /// A reader with an empty cache.
    pub fn cold_reader(&self) -> FrameReader {
        let reads = ObjectReads::new(self.store.clone());
        let frames = FrameReads::new(reads, Arc::clone(&self.spawner), 64 << 20);
        FrameReader::new(
            Arc::new(frames),
            self.settings.page_size,
            Arc::clone(&self.settings.keys),
        )
    }

    /// Reads `first..end` through `map` and compares every page with the model.
    pub async fn assert_content(&self, map: &Map, reader: &FrameReader, first: u64, end: u64) {
        let runs = map
            .lookup(PageNumber(first)..PageNumber(end))
            .await
            .unwrap();
        let contents = reader.read(map, &runs).await.unwrap();
        self.assert_runs(&runs, &contents, first, end);
    }

    /// Compares what was read with the model.
    pub fn assert_runs(&self, runs: &[MapRun], data: &[Option<Bytes>], first: u64, end: u64) {
        let page_bytes = self.settings.page_size.bytes();
        let mut next = first;
        assert_eq!(runs.len(), data.len());
        for (run, data) in runs.iter().zip(data) {
            assert_eq!(run.first.0, next);
            for ahead in 0..run.pages {
                let page = next + ahead;
                let tag = self.model.get(&page).copied().unwrap_or(0);
                match data {
                    None => assert_eq!(tag, 0, "page {page} reads as zeroes"),
                    Some(data) => {
                        let start = ahead as usize * page_bytes;
                        let got = &data[start..start + page_bytes];
                        let expected = content(page, tag, self.settings.page_size);
                        assert!(got == expected, "page {page} is not of tag {tag}");
                    }
                }
            }
            next += run.pages;
        }
        assert_eq!(next, end);
    }

    /// Ranged GETs so far.
    pub fn range_gets(&self) -> usize {
        self.objects.count(OperationKind::GetRange)
    }
}
