use super::*;
use crate::engine::read::test_world::{TestWorld, Write};
use crate::env::{OperationKind, StoreError};
use crate::format::manifest::ByteSpan;
use crate::format::map_object::{Leaf, MapFooter, MapHeader, RootLeaf};
use crate::format::object_name::ObjectKind;
use crate::store::UploadWriter;

fn pages(first: u64, count: u64, tag: u8) -> Write {
    Write::Pages { first, count, tag }
}

#[test]
fn a_map_compaction_is_due_when_it_is_cheap_or_overdue() {
    let check = |tail_segments, tail_bytes, overlay_entries, leaf_bytes, expected| {
        let state = MapCompactionState {
            tail_segments,
            tail_bytes,
            overlay_entries,
            leaf_bytes,
            stored_bytes: tail_bytes,
            dead: DeadBytes::default(),
        };
        let incentive = MapCompactionIncentive::default();
        assert_eq!(is_due(&state, &incentive), expected, "{state:?}");
    };
    let overlay_max = Limits::default().overlay_entries_max;
    check(0, 0, 0, 0, false);
    check(15, 1 << 30, 1_000, 1_000, false);
    check(16, 1 << 30, 1_000, 1 << 28, true);
    check(16, 1 << 30, 1_000, (1 << 28) + 1, false);
    check(255, 1 << 20, 1_000, 1 << 28, false);
    check(256, 1 << 20, 1_000, 1 << 28, true);
    check(1, 1 << 20, overlay_max, 1 << 28, false);
    check(1, 1 << 20, overlay_max + 1, 1 << 28, true);
}

#[test]
fn a_map_compaction_is_due_for_space_when_it_costs_little_of_what_it_settles() {
    let check = |tail_segments, tail_bytes, reclaimable_bytes, leaf_bytes, expected| {
        let state = MapCompactionState {
            tail_segments,
            tail_bytes,
            overlay_entries: 1_000,
            leaf_bytes,
            stored_bytes: tail_bytes,
            dead: DeadBytes::default(),
        };
        let incentive = MapCompactionIncentive {
            reclaimable_bytes,
            space_bytes_min: 1_000,
            ..MapCompactionIncentive::default()
        };
        let due = is_due(&state, &incentive);
        assert_eq!(due, expected, "{state:?} {incentive:?}");
    };
    check(1, 2_400, Some(0), 100, true);
    check(1, 2_400, Some(0), 101, false);
    check(1, 2_400, None, 1, false);
    check(1, 1_200, Some(1_200), 100, true);
    check(1, 500, Some(499), 1, false);
    check(1, 500, Some(500), 1, true);
    check(0, 0, Some(5_000), 1, false);
}

#[test]
fn a_map_compaction_is_due_when_most_of_the_image_is_known_to_be_dead() {
    const MIB: u64 = 1 << 20;
    let check = |(tail, older), stored_bytes, leaf_bytes, reclaimable_bytes, expected| {
        let state = MapCompactionState {
            tail_segments: 1,
            tail_bytes: MIB,
            overlay_entries: 1_000,
            leaf_bytes,
            stored_bytes,
            dead: DeadBytes { tail, older },
        };
        let incentive = MapCompactionIncentive {
            reclaimable_bytes,
            space_bytes_min: 256 * MIB,
            ..MapCompactionIncentive::default()
        };
        let due = is_due(&state, &incentive);
        assert_eq!(due, expected, "{state:?} {incentive:?}");
    };
    let some = Some(0);
    check((0, 100 * MIB), 100 * MIB, MIB, some, true);
    check((100 * MIB, 0), 100 * MIB, MIB, some, true);
    check((50 * MIB, 50 * MIB), 200 * MIB, MIB, some, true);
    check((50 * MIB, 50 * MIB), 202 * MIB, MIB, some, false);
    check((0, 100 * MIB), 100 * MIB, 5 * MIB, some, false);
    check((0, 4 * MIB), 4 * MIB, 1, some, true);
    check((0, 4 * MIB - 1), 4 * MIB, 1, some, false);
    // A small part of a large image, but much.
    check((0, 255 * MIB), 1 << 40, MIB, some, true);
    check((0, 254 * MIB), 1 << 40, MIB, some, false);
    check((0, 100 * MIB), 100 * MIB, MIB, None, false);
}

#[tokio::test]
async fn what_is_dead_is_seen_without_reading_a_leaf() {
    let mut world = TestWorld::new();
    let state = |world: &TestWorld| {
        let plan = MapCompactionPlan::new(&world.map, &world.manifest, world.map_objects_max);
        plan.state(&world.map, &world.manifest).dead
    };
    let sizes = |world: &TestWorld| -> Vec<u64> {
        let segments = world.manifest.segments.iter();
        segments.map(|entry| entry.size_bytes).collect()
    };
    // A segment of the tail that is overwritten in part, and then as a whole.
    world.checkpoint(&[pages(0, 100, 1)]).await;
    world.checkpoint(&[pages(0, 99, 2)]).await;
    assert_eq!(state(&world), DeadBytes::default());
    world.checkpoint(&[pages(99, 1, 3)]).await;
    let (tail, older) = (sizes(&world)[0], 0);
    assert_eq!(state(&world), DeadBytes { tail, older });
    world.compact().await;
    assert_eq!(state(&world), DeadBytes::default());
    // Leaves that a hole covers: none, and then all; holes that meet are one.
    let older: u64 = sizes(&world).iter().sum();
    let hole = |first, count| Write::Hole { first, count };
    world.checkpoint(&[hole(1, 10 * LEAF_PAGES)]).await;
    assert_eq!(state(&world).older, 0);
    world.checkpoint(&[hole(0, 1)]).await;
    assert_eq!(state(&world).older, older);
}

#[test]
fn dead_and_surplus_map_objects_are_written_again() {
    let check = |uses: &[(u64, u64)], objects_max, expected: &[u32]| {
        let uses: Vec<MapObjectUse> = (0..)
            .zip(uses)
            .map(|(id, (size_bytes, live_bytes))| MapObjectUse {
                id: MapObjectId(id),
                size_bytes: *size_bytes,
                live_bytes: *live_bytes,
            })
            .collect();
        let chosen = choose_rewrites(&uses, objects_max);
        let chosen: Vec<u32> = chosen.into_iter().map(|id| id.0).collect();
        assert_eq!(chosen, expected, "{uses:?}");
    };
    check(&[], 4, &[]);
    check(&[(100, 100), (100, 25), (100, 24), (100, 0)], 4, &[2]);
    check(&[(100, 90), (100, 80), (100, 70)], 4, &[]);
    check(&[(100, 90), (100, 80), (100, 70), (100, 60)], 4, &[3]);
    check(
        &[(100, 90), (100, 30), (100, 70), (100, 60), (100, 10)],
        4,
        &[1, 4],
    );
    check(&[(100, 50), (100, 50)], 2, &[0]);
}

#[tokio::test]
async fn a_map_compaction_writes_only_what_changed() {
    let mut world = TestWorld::new();
    let everywhere: Vec<Write> = (0..40)
        .map(|leaf| pages(leaf * LEAF_PAGES, 100, 1))
        .collect();
    world.checkpoint(&everywhere).await;
    let first = world.compact().await;
    world
        .checkpoint(&[pages(5 * LEAF_PAGES, 1, 2), pages(90 * LEAF_PAGES, 1, 2)])
        .await;
    let second = world.compact().await;
    assert!(second.object.size_bytes * 8 < first.object.size_bytes);
    let in_second = |leaf: &&RootLeaf| leaf.map == second.object.id;
    let moved: Vec<u64> = second
        .map
        .root()
        .leaves
        .iter()
        .filter(in_second)
        .map(|leaf| leaf.leaf.0)
        .collect();
    assert_eq!(moved, [5, 90]);
    assert_eq!(world.manifest.maps.len(), 2);
    assert!(world.manifest.retired.is_empty());
}

#[tokio::test]
async fn what_nothing_points_to_any_more_is_retired() {
    let mut world = TestWorld::new();
    world.checkpoint(&[pages(0, 100, 1)]).await;
    world.checkpoint(&[pages(0, 100, 2)]).await;
    world.compact().await;
    let live: Vec<_> = world
        .manifest
        .segments
        .iter()
        .map(|entry| (entry.id.0, entry.live_pages))
        .collect();
    assert_eq!(live, [(1, 100)]);
    assert_eq!(world.manifest.retired.len(), 1, "the first segment");
    world
        .checkpoint(&[Write::Hole {
            first: 0,
            count: 1 << 30,
        }])
        .await;
    world.compact().await;
    assert!(world.manifest.segments.is_empty());
    assert_eq!(
        world.manifest.maps.len(),
        1,
        "the one that holds an empty root"
    );
    assert_eq!(
        world.manifest.retired.len(),
        4,
        "three segments and a map object"
    );
    assert!(world.map.root().leaves.is_empty());
    world
        .assert_content(&world.opened().await, &world.cold_reader(), 0, 1_000)
        .await;
}

#[tokio::test]
async fn the_number_of_map_objects_is_bounded() {
    let mut world = TestWorld::new();
    let mut written_bytes = 0;
    for number in 0..60_u64 {
        let tag = (number % 250) as u8 + 1;
        let somewhere = |salt: u64| (number * 7 + salt) * 13 % 64 * LEAF_PAGES;
        let mut at = [somewhere(0), somewhere(1), somewhere(2)];
        at.sort_unstable();
        world
            .checkpoint(&at.map(|first| pages(first, 60, tag)))
            .await;
        written_bytes += world.compact().await.object.size_bytes;
        assert!(world.manifest.maps.len() <= world.map_objects_max);
    }
    let live_bytes: u64 = world
        .manifest
        .maps
        .iter()
        .map(|entry| entry.size_bytes)
        .sum();
    println!("{written_bytes} bytes of map objects written, {live_bytes} in use");
    world
        .assert_content(
            &world.opened().await,
            &world.cold_reader(),
            0,
            64 * LEAF_PAGES,
        )
        .await;
}

#[tokio::test]
async fn segments_written_while_a_map_compaction_ran_are_applied_to_its_map() {
    let mut world = TestWorld::new();
    world.checkpoint(&[pages(0, 100, 1)]).await;
    let before = (world.map.clone(), world.manifest.clone());
    world.checkpoint(&[pages(50, 100, 2)]).await;
    let late = world.write_segments(&[pages(50, 100, 2)]).await.remove(0);
    let after = (world.map.clone(), world.manifest.clone());
    (world.map, world.manifest) = before;
    let compacted = world.compact().await;
    (world.map, world.manifest) = after;
    compacted.apply_to(&mut world.manifest);
    assert_eq!(world.manifest.tail, [SegmentId(1)]);
    assert_eq!(world.manifest.segments.len(), 2);
    let name = world.manifest.segments[1].name.clone();
    let map = compacted.map.with_segment(SegmentId(1), name, &late.index);
    assert_eq!(late.index.frames.len(), 7);
    world
        .assert_content(&map, &world.cold_reader(), 0, 300)
        .await;
    world
        .assert_content(&world.opened().await, &world.cold_reader(), 0, 300)
        .await;
}

#[tokio::test]
async fn a_map_object_can_be_read_alone() {
    let mut world = TestWorld::new();
    world
        .checkpoint(&[pages(10, 20, 1), pages(LEAF_PAGES - 5, 10, 1)])
        .await;
    let compacted = world.compact().await;
    let name = &compacted.object.name;
    let body = world.objects.peek(&name.key()).unwrap();
    assert_eq!(body.len() as u64, compacted.object.size_bytes);
    let seed = name.seed();
    let at = |span: ByteSpan| span.offset as usize..span.offset as usize + span.bytes as usize;
    MapHeader::decode(seed, &body[..crate::format::map_object::MAP_HEADER_BYTES]).unwrap();
    let footer_at = body.len() - crate::format::map_object::MAP_FOOTER_BYTES;
    let footer = MapFooter::decode(seed, &body[footer_at..]).unwrap();
    assert_eq!((footer.leaves, footer.root), (2, Some(compacted.root.span)));
    let root = Root::decode(seed, &body[at(compacted.root.span)]).unwrap();
    for entry in &root.leaves {
        let leaf = Leaf::decode(seed, entry.leaf, &body[at(entry.span)]).unwrap();
        assert!(!leaf.extents.is_empty());
    }
}

#[tokio::test]
async fn wrong_live_counts_are_noticed() {
    let mut world = TestWorld::new();
    world.checkpoint(&[pages(0, 100, 1)]).await;
    world.compact().await;
    world.checkpoint(&[pages(0, 50, 2)]).await;
    world.manifest.segments[0].live_pages = 49;
    let plan = MapCompactionPlan::new(&world.map, &world.manifest, world.map_objects_max);
    let name = world.names(ObjectKind::Map)();
    let upload = UploadWriter::new(world.store.clone(), world.spawner.clone(), name.key());
    let (map, manifest) = (&world.map, &world.manifest);
    let request = MapCompactionRequest {
        map,
        manifest,
        plan: &plan,
        name,
        upload,
    };
    let failed = compact(request).await.err();
    assert!(
        matches!(failed, Some(MapCompactionError::Read(_))),
        "{failed:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_map_compaction_that_cannot_write_changes_nothing() {
    let mut world = TestWorld::new();
    world.checkpoint(&[pages(0, 100, 1)]).await;
    world.objects.set_script(|operation| match operation.kind {
        OperationKind::Put => crate::env::memory::Verdict::Fail(StoreError::Denied {
            reason: "scripted".to_owned(),
        }),
        _ => crate::env::memory::Verdict::Serve,
    });
    let plan = MapCompactionPlan::new(&world.map, &world.manifest, world.map_objects_max);
    let name = world.names(ObjectKind::Map)();
    let upload = UploadWriter::new(world.store.clone(), world.spawner.clone(), name.key());
    let request = MapCompactionRequest {
        map: &world.map,
        manifest: &world.manifest,
        plan: &plan,
        name,
        upload,
    };
    assert!(matches!(
        compact(request).await,
        Err(MapCompactionError::Write(_))
    ));
    world
        .assert_content(&world.map, &world.reader, 0, 300)
        .await;
}
