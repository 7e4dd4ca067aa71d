//! Measurements that print: what state costs, and how fast segments are written.

use std::time::Instant;

use bytes::Bytes;

use super::test_world::{TestWorld, Write, keys_of};
use super::*;
use crate::engine::publisher::SegmentWriter;
use crate::format::object_name::ObjectKind;
use crate::store::UploadWriter;

/// Pages without a pattern, ascending, each once; other pages for another `salt`.
fn scattered(salt: u64, count: u64, space: u64) -> Vec<u64> {
    let mut state = salt;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) % space
    };
    let mut pages: Vec<u64> = (0..count).map(|_| next()).collect();
    pages.sort_unstable();
    pages.dedup();
    pages
}

/// Writes `checkpoints`, compacts, and prints what a page costs. Returns bytes of resident leaves
/// per page.
async fn state_bytes(label: &str, checkpoints: &[Vec<Write>]) -> f64 {
    let mut world = TestWorld::new();
    for writes in checkpoints {
        world.checkpoint(writes).await;
    }
    let pages = world.model.len() as f64;
    let entries = world.map.overlay_entries() as f64;
    let index_bytes: u32 = world
        .manifest
        .segments
        .iter()
        .map(|entry| entry.index.bytes)
        .sum();
    let compacted = world.compact().await;
    let root_bytes = world.map.root().leaves.len() * size_of::<RootLeaf>();
    let leaf_bytes = world.map.leaf_reads().used_bytes() as f64 / pages;
    println!(
        "{label}: {pages} pages; per page: {:.2} overlay entries, {leaf_bytes:.2} bytes of \
         resident leaves, {:.3} of root; stored: {:.2} of segment index, {:.2} of map object",
        entries / pages,
        root_bytes as f64 / pages,
        f64::from(index_bytes) / pages,
        compacted.object.size_bytes as f64 / pages,
    );
    leaf_bytes
}

#[tokio::test]
async fn state_per_page_is_small() {
    let sequential = vec![Write::Pages {
        first: 0,
        count: 4 * LEAF_PAGES,
        tag: 1,
    }];
    let leaf_bytes = state_bytes("in order", &[sequential]).await;
    assert!(leaf_bytes < 1.5, "{leaf_bytes}");
    let one = |first| Write::Pages {
        first,
        count: 1,
        tag: 1,
    };
    let pages_of = |pages: Vec<u64>| pages.into_iter().map(one).collect::<Vec<Write>>();
    // Each checkpoint writes an eighth of the pages, here and there.
    let dense: Vec<Vec<Write>> = (1..24)
        .map(|salt| pages_of(scattered(salt, 1_024, 2 * LEAF_PAGES)))
        .collect();
    let leaf_bytes = state_bytes("page by page, dense", &dense).await;
    assert!(leaf_bytes < 17.0, "{leaf_bytes}");
    let sparse = pages_of(scattered(1, 8_000, 64 * LEAF_PAGES));
    let leaf_bytes = state_bytes("page by page, sparse", &[sparse]).await;
    assert!(leaf_bytes < 18.0, "{leaf_bytes}");
}

/// One core, no network: what the processor allows. `cargo test --release -p mvps-core --
/// --ignored --nocapture speed_of_writing`.
#[tokio::test]
#[ignore = "a measurement: meaningful in release only"]
async fn speed_of_writing_segments() {
    const PIECE_BYTES: usize = 128 << 10;
    const TOTAL_BYTES: usize = 512 << 20;
    let mut state = 1_u64;
    let mut random = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    };
    let incompressible: Bytes = (0..4 * PIECE_BYTES).map(|_| random()).collect();
    let text = b"the quick brown fox jumps over the lazy dog "
        .iter()
        .copied()
        .cycle();
    let compressible: Bytes = text
        .zip(incompressible.iter())
        .map(|(a, b)| if b % 8 == 0 { *b } else { a })
        .collect();
    let piece = |content: &Bytes, number: usize| {
        let at = number % 4 * PIECE_BYTES;
        content.slice(at..at + PIECE_BYTES)
    };
    let rate = |start: Instant| (TOTAL_BYTES >> 20) as f64 / start.elapsed().as_secs_f64();
    for (label, content) in [("random", &incompressible), ("text", &compressible)] {
        let world = TestWorld::new();
        let key = world.names(ObjectKind::Segment)().key();
        let (store, spawner) = (world.store.clone(), Arc::clone(&world.spawner));
        let start = Instant::now();
        let mut plain = UploadWriter::new(store, spawner, key);
        for number in 0..TOTAL_BYTES / PIECE_BYTES {
            plain.write(piece(content, number)).await.unwrap();
        }
        plain.finish().await.unwrap();
        println!("{label}: plain upload {:.0} MiB/s", rate(start));
        for (level, sealed) in [None, Some(1), Some(3)]
            .into_iter()
            .flat_map(|level| [(level, false), (level, true)])
        {
            let mut world = TestWorld::new();
            world.settings.compression_level = level;
            if sealed {
                world.settings.keys = Arc::new(keys_of(&world.names(ObjectKind::Segment)()));
            }
            let names = Box::new(world.names(ObjectKind::Segment));
            let (store, spawner) = (world.store.clone(), Arc::clone(&world.spawner));
            let start = Instant::now();
            let mut writer = SegmentWriter::new(store, spawner, world.settings, names);
            for number in 0..TOTAL_BYTES / PIECE_BYTES {
                let first = PageNumber((number * PIECE_BYTES / 4096) as u64);
                writer.pages(first, piece(content, number)).await.unwrap();
            }
            let written = writer.finish().await.unwrap();
            let stored_bytes: u64 = written.iter().map(|segment| segment.size_bytes).sum();
            let (rate, stored_mib) = (rate(start), stored_bytes >> 20);
            println!(
                "{label}: level {level:?}, sealed {sealed}: {rate:.0} MiB/s, {stored_mib} MiB stored"
            );
        }
    }
}

/// `cargo test --release -p mvps-core -- --ignored --nocapture speed_of_reading`.
#[tokio::test]
#[ignore = "a measurement: meaningful in release only"]
async fn speed_of_reading_from_the_caches() {
    const PAGES: u64 = 8 * LEAF_PAGES;
    let mut world = TestWorld::new();
    world
        .checkpoint(&[Write::Pages {
            first: 0,
            count: PAGES,
            tag: 1,
        }])
        .await;
    for overlay in [true, false] {
        if !overlay {
            world.compact().await;
        }
        world
            .assert_content(&world.map, &world.reader, 0, 8_000)
            .await;
        let (mut runs, mut hits, mut state) = (Vec::with_capacity(8), 0, 1_u64);
        let count = 2_000_000_u32;
        let start = Instant::now();
        for _ in 0..count {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let page = (state >> 33) % 8_000;
            runs.clear();
            world
                .map
                .try_lookup(PageNumber(page)..PageNumber(page + 1), &mut runs)
                .unwrap();
            hits += u32::from(
                world
                    .reader
                    .try_read(&world.map, &runs[0])
                    .unwrap()
                    .is_some(),
            );
        }
        let each = start.elapsed() / count;
        println!("overlay {overlay}: {each:?} per look-up and cached read, {hits} hits");
    }
}
