use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::FutureExt;
use tokio::sync::Notify;

use super::*;
use crate::engine::read::map::test_world::{TestWorld, Write};
use crate::env::memory::Verdict;
use crate::env::{OperationKind, StoreError};

fn range(first: u64, end: u64) -> std::ops::Range<PageNumber> {
    PageNumber(first)..PageNumber(end)
}

/// An image of `count` pages from 0 on, each of tag 1, in one segment of raw frames.
async fn written(count: u64) -> TestWorld {
    let mut world = TestWorld::new();
    world.settings.compression_level = None;
    world
        .checkpoint(&[Write::Pages {
            first: 0,
            count,
            tag: 1,
        }])
        .await;
    world
}

fn runs(world: &TestWorld, first: u64, end: u64) -> Vec<MapRun> {
    let mut runs = Vec::new();
    world.map.try_lookup(range(first, end), &mut runs).unwrap();
    runs
}

#[tokio::test]
async fn what_was_read_is_answered_from_memory() {
    let world = written(64).await;
    let run = runs(&world, 20, 21)[0];
    assert_eq!(world.reader.try_read(&world.map, &run), Ok(None));
    world
        .assert_content(&world.map, &world.reader, 20, 21)
        .await;
    let gets = world.range_gets();
    let content = world.reader.try_read(&world.map, &run).unwrap();
    world.assert_runs(&[run], &[content], 20, 21);
    world
        .assert_content(&world.map, &world.reader, 16, 32)
        .await;
    assert_eq!(world.range_gets(), gets);
}

#[tokio::test]
async fn adjacent_frames_are_one_request_up_to_a_limit() {
    let world = written(16 * 40).await;
    world
        .assert_content(&world.map, &world.reader, 0, 16 * 40)
        .await;
    // 40 frames of a little more than 64 KiB: 15 fit a request of 1 MiB.
    assert_eq!(world.range_gets(), 3);
    let world = written(16 * 40).await;
    world
        .assert_content(&world.map, &world.reader, 16 * 5, 16 * 6)
        .await;
    world
        .assert_content(&world.map, &world.reader, 0, 16 * 10)
        .await;
    assert_eq!(
        world.range_gets(),
        3,
        "the frame that was there splits the rest in two"
    );
}

#[tokio::test]
async fn readers_of_one_frame_share_a_request() {
    let world = written(64).await;
    let one = world.assert_content(&world.map, &world.reader, 0, 3);
    let two = world.assert_content(&world.map, &world.reader, 2, 20);
    let three = world.assert_content(&world.map, &world.reader, 16, 17);
    tokio::join!(one, two, three);
    assert_eq!(world.range_gets(), 2, "one for each frame");
}

#[tokio::test]
async fn a_reader_that_goes_away_does_not_fail_the_other() {
    let world = written(64).await;
    let gate = Arc::new(Notify::new());
    let delay = Arc::clone(&gate);
    world.objects.set_script(move |_| {
        let delay = Arc::clone(&delay);
        Verdict::Delay(async move { delay.notified().await }.boxed())
    });
    let runs = runs(&world, 0, 1);
    let mut first = Box::pin(world.reader.read(&world.map, &runs));
    assert!((&mut first).now_or_never().is_none());
    let mut second = Box::pin(world.reader.read(&world.map, &runs));
    assert!((&mut second).now_or_never().is_none());
    drop(first);
    gate.notify_one();
    assert!(second.await.unwrap()[0].is_some());
    assert_eq!(world.range_gets(), 1);
    let all = self::runs(&world, 16, 64);
    let mut third = Box::pin(world.reader.read(&world.map, &all));
    assert!((&mut third).now_or_never().is_none());
    drop(third);
    world.objects.clear_script();
    world.assert_content(&world.map, &world.reader, 0, 64).await;
}

/// Flips a bit in the stored frame of the first page of `run`.
fn damage(world: &TestWorld, run: &MapRun) -> (String, u64) {
    let location = run.location.unwrap();
    let key = world
        .map
        .segment_name(location.frame.segment)
        .unwrap()
        .key();
    let mut body = world.objects.peek(&key).unwrap().to_vec();
    body[location.frame.offset as usize + 100] ^= 1;
    world.objects.poke(&key, Bytes::from(body));
    (key, u64::from(location.frame.offset))
}

#[tokio::test]
async fn a_damaged_frame_is_an_error_that_names_it_and_takes_no_other_with_it() {
    let world = written(64).await;
    let damaged = runs(&world, 16, 32)[0];
    let (key, offset) = damage(&world, &damaged);
    let all = runs(&world, 0, 64);
    let failed = world.reader.read(&world.map, &all).await;
    match failed {
        Err(ReadError::Corrupt {
            object,
            offset: at,
            page,
            ..
        }) => {
            assert_eq!((object, at, page), (key, offset, Some(PageNumber(16))));
        }
        other => panic!("{other:?}"),
    }
    for (first, end) in [(0, 16), (32, 64)] {
        world
            .assert_content(&world.map, &world.reader, first, end)
            .await;
    }
    assert!(world.reader.read(&world.map, &[damaged]).await.is_err());
}

#[tokio::test]
async fn a_bit_that_flips_on_the_way_is_read_again() {
    for frames in [1, 3] {
        let world = written(64).await;
        let first = runs(&world, 0, 16)[0];
        let key = world
            .map
            .segment_name(first.location.unwrap().frame.segment)
            .unwrap()
            .key();
        let intact = world.objects.peek(&key).unwrap();
        damage(&world, &first);
        let (objects, calls) = (Arc::downgrade(&world.objects), AtomicU32::new(0));
        world.objects.set_script(move |_| {
            if calls.fetch_add(1, Ordering::Relaxed) == 1 {
                objects.upgrade().unwrap().poke(&key, intact.clone());
            }
            Verdict::Serve
        });
        world
            .assert_content(&world.map, &world.reader, 0, frames * 16)
            .await;
        assert_eq!(world.range_gets(), 2);
    }
}

#[tokio::test]
async fn a_frame_with_other_pages_is_damage() {
    let world = written(64).await;
    world.assert_content(&world.map, &world.reader, 0, 64).await;
    let run = runs(&world, 3, 4)[0];
    let check = |first: u64, pages: u64, slot: u8| {
        let mut location = run.location.unwrap();
        location.slot = slot;
        let run = MapRun {
            first: PageNumber(first),
            pages,
            location: Some(location),
        };
        let read = world.reader.try_read(&world.map, &run);
        assert!(
            matches!(read, Err(ReadError::Corrupt { .. })),
            "{run:?}: {read:?}"
        );
    };
    check(4, 1, 3);
    check(3, 1, 4);
    check(15, 2, 15);
    check(15, 1, 200);
}

#[tokio::test]
async fn a_location_in_an_unknown_segment_is_damage() {
    let world = written(64).await;
    let mut run = runs(&world, 3, 4)[0];
    run.location.as_mut().unwrap().frame.segment = crate::format::manifest::SegmentId(77);
    let read = world.reader.read(&world.map, &[run]).await;
    assert!(matches!(read, Err(ReadError::Corrupt { .. })), "{read:?}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_is_asked_again_by_the_next_reader() {
    let world = written(64).await;
    world.objects.set_script(|_| {
        let reason = "scripted".to_owned();
        Verdict::Fail(StoreError::Denied { reason })
    });
    let all = runs(&world, 0, 64);
    let failed = world.reader.read(&world.map, &all).await;
    assert!(matches!(
        failed,
        Err(ReadError::Store(StoreError::Denied { .. }))
    ));
    world.objects.clear_script();
    world.assert_content(&world.map, &world.reader, 0, 64).await;
}

#[tokio::test]
async fn a_sequential_reader_finds_the_next_pages_in_memory() {
    let mut world = written(4096).await;
    world.compact().await;
    let map = world.opened().await;
    let mut waited = 0;
    for first in (0..4096).step_by(32) {
        let before = world.range_gets();
        world
            .assert_content(&map, &world.reader, first, first + 32)
            .await;
        waited += usize::from(world.range_gets() > before);
        world.reader.note_read(&map, range(first, first + 32));
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
    }
    assert!(waited <= 5, "{waited} of 128 reads had to wait");
    // 256 frames, 15 to a request, once each, and the windows that grow.
    let gets = world.objects.count(OperationKind::GetRange);
    assert!(gets <= 40, "{gets} requests");
}

/// A cache that keeps one frame of each request and drops the others does not keep the requests.
#[tokio::test]
async fn frames_that_outlive_their_neighbours_do_not_keep_them_in_memory() {
    const SPAN_PAGES: u64 = 15 * 16;
    const CACHE_BYTES: u64 = 8 << 20;
    let world = written(SPAN_PAGES * 32).await;
    let reads = ObjectReads::new(world.store.clone());
    let frames = FrameReads::new(reads, Arc::clone(&world.spawner), CACHE_BYTES);
    let page_size = PageSize::from_bits(12).unwrap();
    let reader = FrameReader::new(Arc::new(frames), page_size, Arc::default());
    let read = |first, end| world.assert_content(&world.map, &reader, first, end);
    let mut most_unused = 0;
    for span in 0..32 {
        let first = span * SPAN_PAGES;
        read(first, first + SPAN_PAGES).await;
        // The first frame of each request is asked for again and again, the others are not.
        for earlier in 0..=span {
            read(earlier * SPAN_PAGES, earlier * SPAN_PAGES + 16).await;
        }
        most_unused = most_unused.max(reader.frames.retention.unused_bytes());
    }
    assert!(most_unused > 0, "frames were slices");
    let limit = CACHE_BYTES / RETAINED_UNUSED_DIVISOR;
    assert!(most_unused <= limit, "{most_unused} bytes for nothing");
}

/// Clients may ask for more to be near than the store can bring: a read does not queue behind that.
#[tokio::test]
async fn a_read_does_not_wait_for_what_is_prefetched() {
    let world = written(16 * 64).await;
    let wanted = runs(&world, 0, 1)[0];
    world.objects.set_script(|_| Verdict::Hang);
    let windows: Vec<_> = (1..64)
        .map(|frame| runs(&world, frame * 16, frame * 16 + 16))
        .collect();
    let prefetches = windows
        .iter()
        .map(|window| world.reader.prefetch(&world.map, window));
    let mut prefetches = Box::pin(join_all(prefetches));
    for _ in 0..8 {
        assert!((&mut prefetches).now_or_never().is_none());
        // What a task may do before it yields is limited.
        tokio::task::yield_now().await;
    }
    world.objects.clear_script();
    let wanted = [wanted];
    let read = world.reader.read(&world.map, &wanted);
    let read = tokio::time::timeout(std::time::Duration::from_secs(5), read).await;
    assert!(read.expect("it does not wait").unwrap()[0].is_some());
    assert!(world.range_gets() <= 1 + IMAGE_PREFETCHES_MAX);
}

/// Whatever one image asks for, others find a request free.
#[tokio::test]
async fn a_read_does_not_wait_for_all_reads_of_another_image() {
    let world = written(16 * 2 * (SPANS_IN_FLIGHT_MAX as u64 + 8)).await;
    let page_size = PageSize::from_bits(12).unwrap();
    let other = FrameReader::new(
        Arc::clone(&world.reader.frames),
        page_size,
        Arc::clone(&world.settings.keys),
    );
    world.objects.set_script(|_| Verdict::Hang);
    // Every other frame, so that each is a request.
    let frames = (1..=SPANS_IN_FLIGHT_MAX as u64 + 4).map(|frame| frame * 32);
    let runs_of: Vec<_> = frames
        .map(|first| runs(&world, first, first + 16))
        .collect();
    let greedy = runs_of
        .iter()
        .map(|runs| world.reader.read(&world.map, runs));
    let mut greedy = Box::pin(join_all(greedy));
    for _ in 0..8 {
        assert!((&mut greedy).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    assert_eq!(world.range_gets(), IMAGE_SPANS_MAX);
    world.objects.clear_script();
    world.assert_content(&world.map, &other, 0, 16).await;
}

#[tokio::test]
async fn many_readers_and_windows_at_once_agree_with_the_model() {
    let mut world = written(2048).await;
    world.settings.compression_level = Some(1);
    world
        .checkpoint(&[
            Write::Pages {
                first: 100,
                count: 3,
                tag: 2,
            },
            Write::Hole {
                first: 500,
                count: 64,
            },
            Write::Pages {
                first: 1000,
                count: 300,
                tag: 3,
            },
        ])
        .await;
    let reads = (0..64_u64).map(|number| {
        let first = number * 31;
        world.reader.note_read(&world.map, range(first, first + 64));
        world.assert_content(&world.map, &world.reader, first, first + 64)
    });
    join_all(reads).await;
    world
        .assert_content(&world.map, &world.reader, 0, 2100)
        .await;
}
