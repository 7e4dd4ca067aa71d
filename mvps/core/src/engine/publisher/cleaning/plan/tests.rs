//! The planner as tables.

use super::*;

const PAGE_BYTES: u64 = 4096;

/// Segments of 100 pages: (number, megabytes, live pages).
fn state(segments: &[(u32, u64, u32)]) -> SpaceState {
    let segment = |&(id, megabytes, live_pages): &(u32, u64, u32)| SegmentSpace {
        id: SegmentId(id),
        size_bytes: megabytes << 20,
        pages: 100,
        live_pages,
        foreign: false,
        readable: true,
    };
    let segments: Vec<SegmentSpace> = segments.iter().map(segment).collect();
    SpaceState {
        page_bytes: PAGE_BYTES,
        tail_bytes: 0,
        credit_bytes: 1 << 40,
        next_segment: SegmentId(100),
        stored_bytes: segments.iter().map(|one| one.size_bytes).sum(),
        live_bytes_most: segments.iter().map(SegmentSpace::live_bytes).sum(),
        segments,
    }
}

const NOTHING: [u32; 0] = [];

fn victims(state: &SpaceState) -> Vec<u32> {
    let plan = choose(state, &CompactionSettings::default());
    plan.map_or_else(Vec::new, |plan| {
        plan.victims.iter().map(|id| id.0).collect()
    })
}

#[test]
fn a_tidy_image_is_left_alone() {
    let check = |state: &SpaceState| assert_eq!(victims(state), NOTHING, "{state:?}");
    check(&state(&[]));
    check(&state(&[(1, 256, 100), (2, 256, 100)]));
    // 512 stored for 363 alive: 1.41.
    check(&state(&[(1, 256, 42), (2, 256, 100)]));
    // What is wholly alive is never copied, whatever the ratio.
    let mut tail = state(&[(1, 256, 100)]);
    tail.tail_bytes = 1 << 30;
    check(&tail);
}

#[test]
fn the_emptiest_go_first_until_the_target_is_met() {
    let check = |segments: &[(u32, u64, u32)], expected: &[u32]| {
        assert_eq!(victims(&state(segments)), expected, "{segments:?}");
    };
    check(&[(1, 256, 20), (2, 256, 100)], &[1]);
    check(&[(1, 256, 50), (2, 256, 10), (3, 256, 90)], &[1, 2]);
    check(&[(1, 256, 74), (2, 256, 0), (3, 256, 90)], &[2]);
    // More than three quarters alive is not worth it.
    check(&[(1, 256, 76), (2, 256, 10), (3, 256, 76)], &[2]);
    // Old ones first where they are alike.
    check(&[(60, 256, 50), (90, 256, 50), (95, 256, 100)], &[60]);
}

#[test]
fn copying_is_paid_for() {
    let mut poor = state(&[(1, 256, 50), (2, 256, 50), (3, 256, 30)]);
    poor.credit_bytes = 0;
    // Only what frees twice what it copies.
    assert_eq!(victims(&poor), [3]);
    poor.credit_bytes = 220 << 20;
    assert_eq!(victims(&poor), [1, 3]);
}

#[test]
fn tail_bytes_count_as_alive() {
    let mut with_tail = state(&[(1, 256, 20)]);
    with_tail.tail_bytes = 2 << 30;
    assert_eq!(victims(&with_tail), NOTHING);
}

#[test]
fn segments_of_others_are_let_go_of_when_hardly_anything_is_alive() {
    let mut clone = state(&[(1, 1024, 7), (2, 1024, 6), (3, 256, 100)]);
    clone.segments[0].foreign = true;
    clone.segments[1].foreign = true;
    assert_eq!(victims(&clone), [2]);
}

#[test]
fn what_cannot_be_read_is_not_chosen() {
    let mut damaged = state(&[(1, 256, 10), (2, 256, 11)]);
    damaged.segments[0].readable = false;
    assert_eq!(victims(&damaged), [2]);
}

#[test]
fn sixteen_small_segments_of_one_tier_are_merged() {
    let tiny = |count: u32, bytes: u64| {
        let mut state = state(&[]);
        state.segments = (0..count)
            .map(|id| SegmentSpace {
                id: SegmentId(id),
                size_bytes: bytes,
                pages: 1,
                live_pages: 1,
                foreign: false,
                readable: true,
            })
            .collect();
        state
    };
    assert_eq!(victims(&tiny(15, 5_000)), NOTHING);
    assert_eq!(victims(&tiny(16, 5_000)).len(), 16);
    assert_eq!(victims(&tiny(200, 5_000)).len(), VICTIMS_MAX);
    assert_eq!(victims(&tiny(200, 32 << 20)), NOTHING);
    let mut two_tiers = tiny(20, 5_000);
    for segment in &mut two_tiers.segments[..10] {
        segment.size_bytes = 1 << 20;
    }
    assert_eq!(victims(&two_tiers), NOTHING);
    // What steps of one page would write is no smaller than what they read.
    let steps_of = |pages: u64| CompactionSettings {
        step_bytes: pages * PAGE_BYTES,
        ..CompactionSettings::default()
    };
    assert_eq!(choose(&tiny(200, 3_000), &steps_of(1)), None);
    assert!(choose(&tiny(200, 3_000), &steps_of(2)).is_some());
}

#[test]
fn a_byte_is_merged_a_logarithmic_number_of_times() {
    // A million segments of one page, merged whenever the planner says so.
    let settings = CompactionSettings::default();
    let mut segments: BTreeMap<u32, u64> = BTreeMap::new();
    let (mut next, mut written, mut copied) = (0_u32, 0_u64, 0_u64);
    for _ in 0..20_000 {
        segments.insert(next, 4_300);
        written += 4_300;
        next += 1;
        let mut state = state(&[]);
        state.segments = segments
            .iter()
            .map(|(id, bytes)| SegmentSpace {
                id: SegmentId(*id),
                size_bytes: *bytes,
                pages: 1,
                live_pages: 1,
                foreign: false,
                readable: true,
            })
            .collect();
        if let Some(plan) = choose(&state, &settings) {
            copied += plan.copy_bytes;
            let removed = plan.victims.iter().map(|id| segments.remove(&id.0));
            let merged = removed.map(Option::unwrap_or_default).sum();
            segments.insert(next, merged);
            next += 1;
        }
        assert!(segments.len() <= 80, "{} segments", segments.len());
    }
    assert!(copied < 4 * written, "{copied} copied of {written}");
}

#[test]
fn merging_what_compresses_well_comes_to_an_end() {
    // Segments of a few pages, a tenth of their size stored; a step writes one of its own.
    let settings = CompactionSettings::for_checkpoints_of(16 << 20);
    let step_pages = u32::try_from(settings.step_bytes / PAGE_BYTES).unwrap();
    let mut pages_of: BTreeMap<u32, u32> = (0..1000).map(|id| (id, 7 + id * 2)).collect();
    let all: u32 = pages_of.values().sum();
    let mut merges = 0;
    loop {
        let mut state = state(&[]);
        let segments = pages_of.iter().map(|(id, pages)| SegmentSpace {
            id: SegmentId(*id),
            size_bytes: u64::from(*pages) * PAGE_BYTES / 10,
            pages: *pages,
            live_pages: *pages,
            foreign: false,
            readable: true,
        });
        state.segments = segments.collect();
        let Some(plan) = choose(&state, &settings) else {
            break;
        };
        merges += 1;
        assert!(
            merges < 200,
            "{} segments are merged for ever",
            pages_of.len()
        );
        let removed = plan.victims.iter().map(|id| pages_of.remove(&id.0));
        let mut left: u32 = removed.map(Option::unwrap_or_default).sum();
        let mut next = pages_of.keys().next_back().map_or(0, |id| id + 1);
        while left > 0 {
            pages_of.insert(next, left.min(step_pages));
            left -= left.min(step_pages);
            next += 1;
        }
    }
    assert!(merges > 10);
    assert_eq!(pages_of.values().sum::<u32>(), all);
}

#[test]
fn urgency_grows_with_the_waste() {
    let check = |segments: &[(u32, u64, u32)], expected| {
        let settings = CompactionSettings::default();
        assert_eq!(
            urgency(&state(segments), &settings),
            expected,
            "{segments:?}"
        );
    };
    check(&[(1, 256, 72)], Urgency::WhenIdle);
    check(&[(1, 256, 40)], Urgency::InTurns);
}

#[test]
fn an_image_has_no_more_live_pages_than_fit_it() {
    let check = |segments: &[(u64, u32, u32)], image_pages, expected| {
        let mut own = OwnPages::default();
        for (size_bytes, pages, live_pages) in segments {
            own.add(*size_bytes, *pages, *live_pages);
        }
        assert_eq!(own.live_bytes_most(image_pages), expected, "{segments:?}");
    };
    check(&[], 100, 0);
    check(&[(1000, 100, 40)], 100, 400);
    // Written all over, and again: the counts are those of the last map compaction.
    check(&[(1000, 100, 100), (1000, 100, 100)], 100, 1000);
    check(&[(1000, 100, 100), (500, 50, 10)], 120, 1100);
}

#[test]
fn what_waits_for_a_map_compaction_is_urgent_too() {
    // By the counts everything that was not cleaned is alive.
    let mut cleaned = state(&[(1, 256, 100)]);
    cleaned.stored_bytes = 512 << 20;
    let settings = CompactionSettings::default();
    assert_eq!(urgency(&cleaned, &settings), Urgency::InTurns);
}
