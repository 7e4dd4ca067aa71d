use std::collections::BTreeMap;

use proptest::prelude::*;

use super::test_world::{TestWorld, Write};
use super::*;
use crate::env::OperationKind;

fn pages(first: u64, count: u64, tag: u8) -> Write {
    Write::Pages { first, count, tag }
}

fn hole(first: u64, count: u64) -> Write {
    Write::Hole { first, count }
}

fn range(first: u64, end: u64) -> Range<PageNumber> {
    PageNumber(first)..PageNumber(end)
}

#[tokio::test]
async fn an_empty_map_reads_as_zeroes_without_a_request() {
    let world = TestWorld::new();
    let mut runs = Vec::new();
    world.map.try_lookup(range(5, 1 << 40), &mut runs).unwrap();
    assert_eq!(runs.len(), 1);
    assert_eq!((runs[0].first.0, runs[0].location), (5, None));
    assert_eq!(runs[0].pages, (1 << 40) - 5);
    assert!(world.objects.operations().is_empty());
}

#[tokio::test]
async fn a_lookup_fetches_each_leaf_once_and_hidden_leaves_never() {
    let mut world = TestWorld::new();
    world
        .checkpoint(&[pages(0, 20, 1), pages(LEAF_PAGES, 20, 2)])
        .await;
    world.compact().await;
    world.checkpoint(&[pages(0, 10, 3)]).await;
    let map = world.opened().await;
    let before = world.range_gets();
    let mut runs = Vec::new();
    map.try_lookup(range(0, 10), &mut runs)
        .expect("the overlay hides the leaf");
    runs.clear();
    assert!(map.try_lookup(range(0, 11), &mut runs).is_err());
    assert!(runs.is_empty());
    let (one, two) = tokio::join!(
        map.lookup(range(0, 2 * LEAF_PAGES)),
        map.lookup(range(5, LEAF_PAGES + 5))
    );
    assert_eq!(world.range_gets() - before, 2);
    one.unwrap();
    two.unwrap();
    map.try_lookup(range(0, 2 * LEAF_PAGES), &mut runs)
        .expect("now it is resident");
    let total: u64 = runs.iter().map(|run| run.pages).sum();
    assert_eq!(total, 2 * LEAF_PAGES);
}

#[tokio::test]
async fn opening_costs_one_request_and_one_for_each_segment_of_the_tail() {
    let mut world = TestWorld::new();
    for number in 0..40 {
        world.checkpoint(&[pages(number * 10_000, 30, 1)]).await;
    }
    world.compact().await;
    for number in 0..5 {
        world.checkpoint(&[pages(number * 10_000, 3, 2)]).await;
    }
    let before = world.objects.operations().len();
    let map = world.opened().await;
    assert_eq!(world.objects.operations().len() - before, 6);
    world
        .assert_content(&map, &world.cold_reader(), 0, 400_000)
        .await;
}

#[tokio::test]
async fn a_view_keeps_what_it_saw() {
    let mut world = TestWorld::new();
    world.checkpoint(&[pages(0, 100, 1)]).await;
    let (early, model) = (world.map.clone(), world.model.clone());
    world.checkpoint(&[pages(0, 50, 2), hole(60, 30)]).await;
    world.compact().await;
    world
        .assert_content(&world.map, &world.reader, 0, 200)
        .await;
    world.model = model;
    world.assert_content(&early, &world.reader, 0, 200).await;
}

#[tokio::test]
async fn an_index_that_does_not_fit_the_image_is_refused() {
    let mut world = TestWorld::new();
    world.checkpoint(&[pages(1_000, 1, 1)]).await;
    let leaves = || {
        Arc::new(LeafReads::new(
            world.map.leaf_reads().object_reads().clone(),
            0,
        ))
    };
    let mut manifest = world.manifest.clone();
    manifest.size_bytes = 1_000 * 4096;
    let opened = Map::open(&manifest, leaves()).await;
    assert!(matches!(opened, Err(ReadError::Corrupt { .. })));
    manifest.size_bytes += 4096;
    assert!(Map::open(&manifest, leaves()).await.is_ok());
    manifest.segments.clear();
    let opened = Map::open(&manifest, leaves()).await;
    assert!(matches!(opened, Err(ReadError::Corrupt { .. })));
}

/// Turns arbitrary spans into writes in ascending order.
fn ascending(mut spans: Vec<(u64, u64, u8)>) -> Vec<Write> {
    spans.sort();
    let mut next = 0;
    let mut writes = Vec::new();
    for (first, count, kind) in spans {
        let first = first.max(next);
        next = first + count;
        writes.push(match kind {
            0 => hole(first, count),
            // Some pages of zeroes as well: they become holes.
            tag => pages(first, count, tag - 1),
        });
    }
    writes
}

const SPACE: u64 = 3 * LEAF_PAGES;

/// Twelve spans, each longer than the space, may follow each other.
const CHECKED: u64 = 14 * SPACE;

fn segment() -> impl Strategy<Value = Vec<Write>> {
    let near_a_border = (1..3_u64, -40..40_i64)
        .prop_map(|(leaf, ahead)| (leaf * LEAF_PAGES).saturating_add_signed(ahead));
    let first = prop_oneof![0..SPACE, 0..200_u64, near_a_border];
    let span = (first, 1..40_u64, 0..6_u8);
    let long_hole = (0..SPACE, 1..SPACE, Just(0_u8));
    let spans = prop::collection::vec(prop_oneof![20 => span, 1 => long_hole], 1..12);
    spans.prop_map(ascending)
}

#[derive(Debug, Clone)]
enum Step {
    Checkpoint(Vec<Write>),
    CompactMap,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => segment().prop_map(Step::Checkpoint),
        2 => Just(Step::CompactMap),
        1 => Just(Step::Reopen),
    ]
}

/// Live pages by segment, counted page by page.
async fn count_live(world: &TestWorld) -> BTreeMap<SegmentId, u32> {
    let mut live = BTreeMap::new();
    for run in world.map.lookup(range(0, CHECKED)).await.unwrap() {
        if let Some(location) = run.location {
            *live.entry(location.frame.segment).or_default() += run.pages as u32;
        }
    }
    live
}

/// Limits so small that a checkpoint is often several segments, and a version often has as many map
/// objects as it may.
#[derive(Debug, Clone)]
struct Small {
    content_limit_pages: u64,
    batch_pages: usize,
    map_objects_max: usize,
}

fn small() -> impl Strategy<Value = Small> {
    let limits = (1..400_u64, 1..100_usize, 1..5_usize);
    limits.prop_map(
        |(content_limit_pages, batch_pages, map_objects_max)| Small {
            content_limit_pages,
            batch_pages,
            map_objects_max,
        },
    )
}

async fn run_steps(small: Small, steps: Vec<Step>) {
    let mut world = TestWorld::new();
    let page_bytes = world.settings.page_size.bytes();
    world.settings.content_limit_bytes = small.content_limit_pages * page_bytes as u64;
    world.settings.batch_bytes = small.batch_pages * page_bytes;
    world.map_objects_max = small.map_objects_max;
    for step in steps {
        match step {
            Step::Checkpoint(writes) => world.checkpoint(&writes).await,
            Step::CompactMap => {
                world.compact().await;
                let live = count_live(&world).await;
                let recorded = world.manifest.segments.iter();
                let recorded = recorded.map(|entry| (entry.id, entry.live_pages)).collect();
                assert_eq!(live, recorded);
                assert!(world.manifest.tail.is_empty());
                assert_eq!(world.map.overlay_entries(), 0);
                assert!(world.manifest.maps.len() <= small.map_objects_max);
            }
            Step::Reopen => world.map = world.opened().await,
        }
        assert_named_once(&world);
    }
    world
        .assert_content(&world.map, &world.reader, 0, CHECKED)
        .await;
    let opened = world.opened().await;
    world
        .assert_content(&opened, &world.cold_reader(), 0, CHECKED)
        .await;
}

/// Every object that was written is in the manifest, in use or retired, never both.
fn assert_named_once(world: &TestWorld) {
    let manifest = &world.manifest;
    let segments = manifest.segments.iter().map(|entry| &entry.name);
    let maps = manifest.maps.iter().map(|entry| &entry.name);
    let retired = manifest.retired.iter().map(|object| &object.name);
    let mut keys: Vec<String> = segments
        .chain(maps)
        .chain(retired)
        .map(ObjectName::key)
        .collect();
    keys.sort();
    let mut stored = world.objects.keys();
    stored.sort();
    assert_eq!(keys, stored);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn segments_and_map_compactions_agree_with_single_pages(
        small in small(),
        steps in prop::collection::vec(step(), 1..12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.unwrap().block_on(run_steps(small, steps));
    }
}

#[tokio::test]
async fn leaves_that_the_cache_lets_go_of_are_fetched_again() {
    let mut world = TestWorld::new();
    let writes: Vec<Write> = (0..8).map(|leaf| pages(leaf * LEAF_PAGES, 2, 1)).collect();
    world.checkpoint(&writes).await;
    world.compact().await;
    let reads = world.map.leaf_reads().object_reads().clone();
    let map = Map::open(&world.manifest, Arc::new(LeafReads::new(reads, 0)))
        .await
        .unwrap();
    let before = world.objects.count(OperationKind::GetRange);
    for _ in 0..2 {
        let runs = map.lookup(range(0, 8 * LEAF_PAGES)).await.unwrap();
        assert_eq!(runs.len(), 16);
    }
    assert_eq!(world.objects.count(OperationKind::GetRange) - before, 16);
}
