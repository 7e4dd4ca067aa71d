use std::collections::BTreeMap;

use super::*;
use crate::engine::read::frame_reader::{FrameReader, FrameReads};
use crate::engine::read::map::test_world::{TestWorld, Write};
use crate::engine::read::view::MapGuard;
use crate::ids::{Lsn, PageSize};
use crate::object_reads::ObjectReads;

const IMAGE_PAGES: u64 = 1 << 28;

fn pages(first: u64, count: u64, tag: u8) -> Write {
    Write::Pages { first, count, tag }
}

/// A view of nothing but a map, of a terabyte.
fn view_of(world: &TestWorld, map: &Map) -> View {
    let page_size = PageSize::from_bits(12).unwrap();
    let reads = ObjectReads::new(world.store.clone());
    let frames = Arc::new(FrameReads::new(reads, Arc::clone(&world.spawner), 8 << 20));
    View {
        lsn: Lsn(1),
        size_bytes: IMAGE_PAGES << 12,
        page_size,
        generations: Vec::new(),
        map: map.clone(),
        guard: Arc::new(MapGuard(1)),
        frames: Arc::new(FrameReader::new(frames, page_size, Arc::default())),
    }
}

/// First pages of the extents, with what is true of them; the whole image, as often as it takes.
async fn all(view: &View, base: Option<&Base>, extents_max: usize) -> BTreeMap<u64, bool> {
    let mut found: BTreeMap<u64, bool> = BTreeMap::new();
    let mut offset = 0;
    while offset < view.size_bytes {
        let extents = view
            .extents(offset..view.size_bytes, base, extents_max)
            .await;
        for extent in extents.unwrap() {
            if found.last_key_value().map(|(_, is_set)| *is_set) != Some(extent.is_set) {
                found.insert(offset >> 12, extent.is_set);
            }
            offset += extent.length_bytes;
        }
    }
    found
}

#[tokio::test]
async fn leaves_are_fetched_for_what_they_say_and_shared_ones_are_not() {
    let mut world = TestWorld::new();
    let leaves = 40;
    let writes: Vec<Write> = (0..leaves)
        .map(|leaf| pages(leaf * LEAF_PAGES + 10, 20, 1))
        .collect();
    world.checkpoint(&writes).await;
    world.compact().await;
    let base = Base {
        map: world.opened().await,
        _permit: None,
    };
    world.checkpoint(&[pages(5 * LEAF_PAGES, 30, 2)]).await;
    world
        .checkpoint(&[Write::Hole {
            first: 7 * LEAF_PAGES,
            count: LEAF_PAGES,
        }])
        .await;
    world.compact().await;
    world.checkpoint(&[pages(9 * LEAF_PAGES + 12, 2, 3)]).await;
    let map = world.opened().await;
    let view = view_of(&world, &map);
    let before = world.range_gets();
    let changed = all(&view, Some(&base), 1000).await;
    let at = |leaf: u64, page: u64| leaf * LEAF_PAGES + page;
    let expected = [
        (0, false),
        (at(5, 0), true),
        (at(5, 30), false),
        (at(7, 10), true),
        (at(7, 30), false),
        (at(9, 12), true),
        (at(9, 14), false),
    ];
    assert_eq!(changed, BTreeMap::from(expected));
    let fetched = world.range_gets() - before;
    // Both maps' leaves 5, 7 and 9 but the one that the view has no more.
    assert!(fetched <= 5, "{fetched} leaves were fetched");
    for extents_max in [1, 2, 1000] {
        let mut expected = BTreeMap::from([(0, false)]);
        for leaf in (0..leaves).filter(|leaf| *leaf != 7) {
            expected.insert(at(leaf, if leaf == 5 { 0 } else { 10 }), true);
            expected.insert(at(leaf, 30), false);
        }
        assert_eq!(all(&view, None, extents_max).await, expected);
    }
}

#[tokio::test]
async fn an_answer_is_bounded() {
    let mut world = TestWorld::new();
    let scattered: Vec<Write> = (0..3000).map(|index| pages(index * 2, 1, 1)).collect();
    world.checkpoint(&scattered).await;
    let view = view_of(&world, &world.opened().await);
    let extents = view.extents(0..view.size_bytes, None, 1000).await.unwrap();
    assert_eq!(extents.len(), 1000);
    assert!(extents.iter().all(|extent| extent.length_bytes == 4096));
    assert_eq!(all(&view, None, 777).await.len(), 6000);
}
