use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::engine::read::test_world::{TestWorld, Write, content};
use crate::env::OperationKind;
use crate::env::memory::Verdict;
use crate::format::segment::{SEGMENT_FOOTER_BYTES, SEGMENT_HEADER_BYTES};

fn pages(first: u64, count: u64, tag: u8) -> Write {
    Write::Pages { first, count, tag }
}

fn hole(first: u64, count: u64) -> Write {
    Write::Hole { first, count }
}

fn spans(spans: &[PageSpan]) -> Vec<(u64, u64)> {
    spans
        .iter()
        .map(|span| (span.first.0, span.pages))
        .collect()
}

#[tokio::test]
async fn nothing_taken_is_nothing_written() {
    let world = TestWorld::new();
    assert!(world.write_segments(&[]).await.is_empty());
    assert!(world.objects.operations().is_empty());
}

#[tokio::test]
async fn pages_are_packed_in_order_and_zeroes_become_holes() {
    let world = TestWorld::new();
    let writes = [
        pages(3, 10, 1),
        hole(20, 5),
        pages(25, 3, 0),
        pages(100, 20, 2),
        hole(120, 7),
    ];
    let segments = world.write_segments(&writes).await;
    let [segment] = &segments[..] else {
        panic!("one segment");
    };
    let runs: Vec<_> = segment
        .index
        .frames
        .iter()
        .map(|frame| spans(&frame.runs))
        .collect();
    assert_eq!(runs, [vec![(3, 10), (100, 6)], vec![(106, 14)]]);
    assert_eq!(spans(&segment.index.holes), [(20, 8), (120, 7)]);
    assert_eq!(segment.entry(SegmentId(4)).pages, 30);
}

#[tokio::test]
async fn holes_alone_make_a_segment() {
    let mut world = TestWorld::new();
    world.checkpoint(&[hole(0, 1 << 27)]).await;
    assert_eq!(world.manifest.segments[0].pages, 0);
    world
        .assert_content(&world.opened().await, &world.cold_reader(), 0, 100)
        .await;
}

#[tokio::test]
async fn a_segment_can_be_read_alone() {
    let world = TestWorld::new();
    let segment = world.write_segments(&[pages(3, 40, 1)]).await.remove(0);
    let body = world.objects.peek(&segment.name.key()).unwrap();
    assert_eq!(body.len() as u64, segment.size_bytes);
    let seed = segment.name.seed();
    let header = SegmentHeader::decode(seed, &body[..SEGMENT_HEADER_BYTES]).unwrap();
    assert_eq!(header.page_size, world.settings.page_size);
    let footer = SegmentFooter::decode(seed, &body[body.len() - SEGMENT_FOOTER_BYTES..]).unwrap();
    assert_eq!(footer.index, segment.span);
    let start = segment.span.offset as usize;
    let record = &body[start..start + segment.span.bytes as usize];
    assert_eq!(SegmentIndex::decode(seed, record).unwrap(), segment.index);
}

#[tokio::test]
async fn segments_are_cut_at_the_limit() {
    let mut world = TestWorld::new();
    world.settings.content_limit_bytes = 4 << 20;
    world
        .checkpoint(&[pages(0, 3_000, 1), hole(3_000, 9), pages(4_000, 10, 2)])
        .await;
    let counts: Vec<u32> = world
        .manifest
        .segments
        .iter()
        .map(|entry| entry.pages)
        .collect();
    assert_eq!(counts, [1024, 1024, 962]);
    world
        .assert_content(&world.map, &world.reader, 0, 5_000)
        .await;
}

#[derive(Debug, Clone)]
struct Shape {
    content_limit_pages: u64,
    batch_pages: usize,
    writes: Vec<Write>,
}

fn shape() -> impl Strategy<Value = Shape> {
    // A gap, a number of pages, and what they get: nothing, zeroes or content.
    let run = (0..20_u64, 1..60_u64, 0..4_u8);
    let runs = prop::collection::vec(run, 0..12);
    (1..80_u64, 1..40_usize, runs).prop_map(|(content_limit_pages, batch_pages, runs)| {
        let mut next = 0;
        let mut writes = Vec::new();
        for (gap, count, kind) in runs {
            let first = next + gap;
            next = first + count;
            writes.push(match kind {
                0 => hole(first, count),
                tag => pages(first, count, tag - 1),
            });
        }
        Shape {
            content_limit_pages,
            batch_pages,
            writes,
        }
    })
}

/// Whether each page is to be in a frame; a page of zeroes is a hole.
fn expected(writes: &[Write]) -> BTreeMap<u64, bool> {
    let mut expected = BTreeMap::new();
    for write in writes {
        let (first, count, stored) = match *write {
            Write::Pages { first, count, tag } => (first, count, tag != 0),
            Write::Hole { first, count } => (first, count, false),
        };
        expected.extend((first..first + count).map(|page| (page, stored)));
    }
    expected
}

async fn check_shape(shape: Shape) {
    let mut world = TestWorld::new();
    let page_bytes = world.settings.page_size.bytes();
    world.settings.content_limit_bytes = shape.content_limit_pages * page_bytes as u64;
    world.settings.batch_bytes = shape.batch_pages * page_bytes;
    let segments = world.write_segments(&shape.writes).await;
    let mut found = BTreeMap::new();
    let mut frames_end = 0;
    for segment in &segments {
        let body = world.objects.peek(&segment.name.key()).unwrap();
        assert_eq!(body.len() as u64, segment.size_bytes);
        let start = segment.span.offset as usize;
        let record = &body[start..start + segment.span.bytes as usize];
        let index = SegmentIndex::decode(segment.name.seed(), record).unwrap();
        assert_eq!(index, segment.index);
        // Content is counted before pages of zeroes are left out.
        let most = shape.content_limit_pages.max(shape.batch_pages as u64);
        assert!(
            index.pages() <= most,
            "{} pages in a segment",
            index.pages()
        );
        for frame in &index.frames {
            for run in &frame.runs {
                assert!(run.first.0 >= frames_end, "frames ascend over all segments");
                frames_end = run.end().0;
            }
        }
        let frames = index.frames.iter().flat_map(|frame| &frame.runs);
        let stored = frames.map(|run| (*run, true));
        for (run, stored) in stored.chain(index.holes.iter().map(|run| (*run, false))) {
            for page in run.first.0..run.end().0 {
                let before = found.insert(page, stored);
                assert_eq!(before, None, "page {page} is there twice");
            }
        }
    }
    assert_eq!(found, expected(&shape.writes));
    let names: BTreeSet<String> = segments.iter().map(|it| it.name.key()).collect();
    assert_eq!(
        names.len(),
        segments.len(),
        "each segment has a name of its own"
    );
    world.checkpoint(&shape.writes).await;
    world
        .assert_content(&world.map, &world.cold_reader(), 0, 1_100)
        .await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn every_page_is_in_one_segment_wherever_they_are_cut(shape in shape()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.unwrap().block_on(check_shape(shape));
    }
}

#[tokio::test]
async fn raw_frames_are_read_like_compressed_ones() {
    let mut world = TestWorld::new();
    world.settings.compression_level = None;
    world.checkpoint(&[pages(0, 100, 1)]).await;
    let raw_bytes = world.manifest.segments[0].size_bytes;
    world.settings.compression_level = Some(1);
    world.checkpoint(&[pages(200, 100, 1)]).await;
    let bytes = world.manifest.segments[1].size_bytes;
    assert!(
        raw_bytes > 100 * 4096 && bytes < raw_bytes * 2 / 3,
        "{raw_bytes} and {bytes}"
    );
    world
        .assert_content(&world.map, &world.reader, 0, 400)
        .await;
}

#[tokio::test]
async fn many_batches_keep_their_order_and_memory_is_bounded() {
    let mut world = TestWorld::new();
    // A run longer than a batch, not aligned to one.
    world
        .checkpoint(&[pages(7, 5, 9), pages(1_000, 2_500, 3), pages(9_999, 1, 4)])
        .await;
    assert_eq!(world.manifest.segments.len(), 1);
    assert!(
        world.objects.count(OperationKind::UploadPart) == 0,
        "one put of less than a part"
    );
    world
        .assert_content(&world.map, &world.cold_reader(), 0, 10_100)
        .await;
}

#[tokio::test]
#[should_panic(expected = "pages and holes ascend")]
async fn the_order_of_pages_is_checked() {
    let world = TestWorld::new();
    world.write_segments(&[pages(10, 5, 1), hole(14, 1)]).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_fails_the_writer() {
    let world = TestWorld::new();
    world.objects.set_script(|_| {
        let reason = "scripted".to_owned();
        Verdict::Fail(StoreError::Denied { reason })
    });
    let names = Box::new(world.names(crate::format::object_name::ObjectKind::Segment));
    let (store, spawner) = (world.store.clone(), world.spawner.clone());
    let mut writer = SegmentWriter::new(store, spawner, world.settings.clone(), names);
    let data = content(1, 1, world.settings.page_size);
    writer
        .pages(PageNumber(1), Bytes::from(data))
        .await
        .unwrap();
    assert!(matches!(
        writer.finish().await,
        Err(StoreError::Denied { .. })
    ));
}
