//! Reads through a disk cache that keeps its word, and through one that does not.

use std::sync::Arc;

use bytes::Bytes;

use crate::engine::publisher::SegmentWriter;
use crate::engine::read::map::test_world::{TestWorld, Write, content, keys_of};
use crate::engine::read::{DiskPieces, FrameReader, FrameReads, LeafReads, Map};
use crate::env::FrameCache;
use crate::env::memory::MemoryFrameCache;
use crate::format::object_name::ObjectKind;
use crate::ids::{PageNumber, PieceKey};
use crate::object_reads::ObjectReads;

/// Pages of the image: ten frames.
const PAGES: u64 = 160;

struct World {
    image: TestWorld,
    cache: Arc<MemoryFrameCache>,
    disk: DiskPieces,
}

impl World {
    async fn new() -> Self {
        let mut image = TestWorld::new();
        image
            .checkpoint(&[Write::Pages {
                first: 0,
                count: PAGES,
                tag: 1,
            }])
            .await;
        let cache = Arc::new(MemoryFrameCache::new(64 << 20));
        let disk = Some(Arc::clone(&cache) as Arc<dyn FrameCache>).into();
        Self { image, cache, disk }
    }

    /// A reader whose memory is empty, as after a restart.
    fn reader(&self) -> FrameReader {
        let image = &self.image;
        let reads = ObjectReads::new(image.store.clone());
        let frames = FrameReads::new(reads, Arc::clone(&image.spawner), 64 << 20);
        let frames = Arc::new(frames.with_disk(self.disk.clone()));
        FrameReader::new(frames, image.settings.page_size, Arc::default())
    }

    /// Reads pages through empty memory, compares them, and returns how many requests that took.
    async fn read(&self, first: u64, end: u64) -> usize {
        let before = self.image.range_gets();
        let (map, reader) = (&self.image.map, self.reader());
        self.image.assert_content(map, &reader, first, end).await;
        self.image.range_gets() - before
    }

    /// The frames in the cache, by their place.
    fn keys(&self) -> Vec<PieceKey> {
        self.cache.keys()
    }

    async fn piece(&self, key: PieceKey) -> Bytes {
        self.cache.get(key).await.expect("it is there")
    }
}

#[tokio::test]
async fn what_was_read_is_on_the_disk_and_read_from_there() {
    let world = World::new().await;
    assert_eq!(world.read(0, PAGES).await, 1);
    assert_eq!(world.keys().len(), 10);
    assert_eq!(world.read(0, PAGES).await, 0);
    assert_eq!(world.read(3, 4).await, 0);
    let usage = world.cache.usage();
    assert_eq!((usage.hits, usage.misses, usage.damaged), (11, 10, 0));
}

#[tokio::test]
async fn only_what_is_missing_is_fetched_in_adjacent_spans() {
    let world = World::new().await;
    // The fifth frame alone.
    assert_eq!(world.read(64, 65).await, 1);
    assert_eq!(world.read(0, PAGES).await, 2, "before it, and behind it");
    assert_eq!(world.read(0, PAGES).await, 0);
}

#[tokio::test]
async fn readers_of_one_frame_share_a_look_at_the_disk() {
    let world = World::new().await;
    world.read(0, 16).await;
    let before = world.cache.usage();
    let gets = world.image.range_gets();
    let (map, reader) = (&world.image.map, world.reader());
    let one = world.image.assert_content(map, &reader, 0, 3);
    let two = world.image.assert_content(map, &reader, 2, 16);
    tokio::join!(one, two);
    assert_eq!(world.cache.usage().hits, before.hits + 1);
    assert_eq!(world.image.range_gets(), gets);
}

/// Every frame in the cache is damaged, too short, nothing, another object's, or another one of
/// its own object: readers get what was written, and the next ones find it on the disk again.
#[tokio::test]
async fn what_is_wrong_is_never_served_and_goes() {
    let world = World::new().await;
    // Another object with frames at the same places, of the same lengths.
    let other = Write::Pages {
        first: 0,
        count: PAGES,
        tag: 2,
    };
    let others = world.image.write_segments(&[other]).await.remove(0);
    let body = world.image.objects.peek(&others.name.key()).unwrap();
    world.read(0, PAGES).await;
    let keys = world.keys();
    for way in 0..5 {
        for (number, key) in keys.iter().enumerate() {
            let there = world.piece(*key).await;
            let from = key.offset as usize;
            let wrong = match way {
                0 => {
                    let mut flipped = there.to_vec();
                    let at = (number * 977) % flipped.len();
                    flipped[at] ^= 1;
                    flipped.into()
                }
                1 => there.slice(..there.len() - 1),
                2 => Bytes::new(),
                3 => body.slice(from..(from + there.len()).min(body.len())),
                _ => world.piece(keys[(number + 1) % keys.len()]).await,
            };
            world.cache.replace(*key, wrong);
        }
        let damaged = world.cache.usage().damaged;
        assert!(world.read(0, PAGES).await > 0, "way {way}");
        assert_eq!(world.cache.usage().damaged, damaged + 10, "way {way}");
        assert_eq!(world.read(0, PAGES).await, 0, "way {way}: it was put again");
    }
}

/// The frame's checksum does not tell frames of one object apart; the page that is asked for does.
#[tokio::test]
async fn a_frame_of_the_same_length_and_object_is_told_apart() {
    let mut world = World::new().await;
    world.image.settings.compression_level = None;
    let write = Write::Pages {
        first: 1000,
        count: 64,
        tag: 3,
    };
    world.image.checkpoint(&[write]).await;
    world.read(1000, 1064).await;
    let keys = world.keys();
    let pieces = [world.piece(keys[0]).await, world.piece(keys[1]).await];
    assert_eq!(pieces[0].len(), pieces[1].len());
    world.cache.replace(keys[0], pieces[1].clone());
    world.cache.replace(keys[1], pieces[0].clone());
    assert_eq!(world.read(1000, 1064).await, 1);
    assert_eq!(world.cache.usage().damaged, 2);
}

#[tokio::test]
async fn leaves_are_cached_and_verified_too() {
    let mut world = World::new().await;
    world.image.compact().await;
    let reads = ObjectReads::new(world.image.store.clone());
    let open = || async {
        let leaves = LeafReads::new(reads.clone(), 0).with_disk(world.disk.clone());
        let leaves = Arc::new(leaves);
        let map = Map::open(&world.image.manifest, leaves).await.unwrap();
        let before = world.image.range_gets();
        let pages = PageNumber(0)..PageNumber(PAGES);
        let runs = map.lookup(pages).await.unwrap();
        assert_eq!(runs.iter().map(|run| run.pages).sum::<u64>(), PAGES);
        world.image.range_gets() - before
    };
    assert_eq!(open().await, 1);
    assert_eq!(open().await, 0);
    let key = world.keys()[0];
    let mut leaf = world.piece(key).await.to_vec();
    leaf[20] ^= 1;
    world.cache.replace(key, leaf.into());
    assert_eq!(open().await, 1);
    assert_eq!(open().await, 0);
    assert_eq!(world.cache.usage().damaged, 1);
}

#[tokio::test]
async fn what_is_written_is_on_the_disk_before_anybody_reads_it() {
    let mut world = World::new().await;
    let image = &mut world.image;
    let (store, spawner) = (image.store.clone(), Arc::clone(&image.spawner));
    let names = Box::new(image.names(ObjectKind::Segment));
    let writer = SegmentWriter::new(store, spawner, image.settings.clone(), names);
    let mut writer = writer.filling(world.disk.clone());
    let page_size = image.settings.page_size;
    let data = (0..100).flat_map(|page| content(page, 5, page_size));
    let data = Bytes::from(data.collect::<Vec<u8>>());
    writer.pages(PageNumber(0), data).await.unwrap();
    for segment in writer.finish().await.unwrap() {
        let id = image.manifest.next_segment;
        let name = segment.name.clone();
        image.map = image.map.with_segment(id, name, &segment.index);
    }
    image.model.extend((0..100).map(|page| (page, 5)));
    assert_eq!(world.keys().len(), 7);
    assert_eq!(world.read(0, 100).await, 0);
    assert_eq!(world.cache.usage().hits, 7);
}

#[tokio::test]
async fn what_is_sealed_is_sealed_on_the_disk() {
    let mut world = World::new().await;
    let keys = Arc::new(keys_of(&world.image.names(ObjectKind::Segment)()));
    world.image.settings.keys = Arc::clone(&keys);
    world.image.settings.compression_level = None;
    let write = Write::Pages {
        first: 500,
        count: 16,
        tag: 9,
    };
    world.image.checkpoint(&[write]).await;
    let reads = ObjectReads::new(world.image.store.clone());
    let spawner = Arc::clone(&world.image.spawner);
    let page_size = world.image.settings.page_size;
    for gets in [1, 0] {
        let frames = FrameReads::new(reads.clone(), Arc::clone(&spawner), 1 << 20);
        let frames = Arc::new(frames.with_disk(world.disk.clone()));
        let reader = FrameReader::new(frames, page_size, Arc::clone(&keys));
        let before = world.image.range_gets();
        let map = &world.image.map;
        world.image.assert_content(map, &reader, 500, 516).await;
        assert_eq!(world.image.range_gets() - before, gets);
    }
    let stored = world.piece(world.keys()[0]).await;
    let clear = [9; 64];
    let shows = stored.windows(clear.len()).any(|window| window == clear);
    assert!(!shows, "clear content on the disk");
}
