use proptest::prelude::*;

use super::*;
use crate::format::damage::{check_envelope, hex, segment_name};

fn span(first: u64, pages: u64) -> PageSpan {
    PageSpan {
        first: PageNumber(first),
        pages,
    }
}

fn example() -> SegmentIndex {
    SegmentIndex {
        frames: vec![
            FrameEntry {
                offset: 24,
                stored_bytes: 1000,
                runs: vec![span(5, 3), span(9, 13)],
            },
            FrameEntry {
                offset: 1024,
                stored_bytes: 65_562,
                runs: vec![span(1_000_000, 16)],
            },
            FrameEntry {
                offset: 70_000,
                stored_bytes: 30,
                runs: vec![span(1 << 40, 1)],
            },
        ],
        holes: vec![
            span(0, 5),
            span(8, 1),
            span(30, 1 << 14),
            span((1 << 40) + 1, 1 << 50),
        ],
    }
}

#[test]
fn golden_index() {
    let (_, seed) = segment_name();
    let golden = example().encode(seed);
    insta::assert_snapshot!(hex(&golden));
    check_envelope(seed, &golden, SegmentIndex::decode, |index| {
        index.encode(seed)
    });
    assert_eq!(SegmentIndex::decode(seed, &golden).unwrap(), example());
    assert_eq!(example().pages(), 33);
}

#[test]
fn golden_ends() {
    let (_, seed) = segment_name();
    let header = SegmentHeader {
        page_size: PageSize::from_bits(12).unwrap(),
    };
    let golden = header.encode(seed);
    insta::assert_snapshot!("header", hex(&golden));
    assert_eq!(golden.len(), SEGMENT_HEADER_BYTES);
    assert_eq!(SegmentHeader::decode(seed, &golden).unwrap(), header);
    check_envelope(seed, &golden, SegmentHeader::decode, |header| {
        header.encode(seed)
    });

    let footer = SegmentFooter {
        index: ByteSpan {
            offset: 70_030,
            bytes: 77,
        },
    };
    let golden = footer.encode(seed);
    insta::assert_snapshot!("footer", hex(&golden));
    assert_eq!(golden.len(), SEGMENT_FOOTER_BYTES);
    assert_eq!(SegmentFooter::decode(seed, &golden).unwrap(), footer);
    check_envelope(seed, &golden, SegmentFooter::decode, |footer| {
        footer.encode(seed)
    });
}

/// Gaps and lengths of runs.
type Runs<'a> = &'a [(u64, u64)];

/// Encodes what [`SegmentIndex::encode`] would refuse: frames by gap, length and runs.
fn unchecked(frames: &[(u64, u64, Runs<'_>)], holes: Runs<'_>) -> Bytes {
    let mut writer = Writer::new(RecordKind::SegmentIndex);
    let spans = |writer: &mut Writer, spans: Runs<'_>| {
        writer.count(spans.len());
        for (gap, pages) in spans {
            writer.varint(*gap);
            writer.varint(*pages);
        }
    };
    writer.count(frames.len());
    for (gap, stored_bytes, runs) in frames {
        writer.varint(*gap);
        writer.varint(*stored_bytes);
        spans(&mut writer, runs);
    }
    spans(&mut writer, holes);
    writer.finish(segment_name().1)
}

#[test]
fn impossible_indexes_are_refused() {
    let check = |frames: &[(u64, u64, Runs<'_>)], holes: Runs<'_>, ok: bool| {
        let found = SegmentIndex::decode(segment_name().1, &unchecked(frames, holes));
        assert_eq!(found.is_ok(), ok, "{frames:?} {holes:?}: {found:?}");
    };
    check(&[], &[], true);
    check(&[(0, 100, &[(0, 1)])], &[(1, 1)], true);
    check(&[(0, 100, &[(0, 1)])], &[(0, 1)], false);
    check(&[(0, 100, &[(10, 4)])], &[(0, 10), (4, 1)], true);
    check(&[(0, 100, &[(10, 4)])], &[(0, 11)], false);
    check(&[(0, 100, &[(10, 4)])], &[(13, 9)], false);
    check(&[(0, 100, &[(10, 4)])], &[(0, 100)], false);
    check(&[(0, 100, &[])], &[], false);
    check(&[(0, 0, &[(0, 1)])], &[], false);
    check(&[(0, 100, &[(0, 0)])], &[], false);
    check(&[(0, 100, &[(0, 17)])], &[], false);
    check(&[(0, 100, &[(0, 8), (0, 8)])], &[], true);
    check(&[(0, 100, &[(0, 8), (0, 9)])], &[], false);
    check(&[(0, 100, &[(0, u64::MAX), (0, 1)])], &[], false);
    check(&[(0, 100, &[(u64::MAX, 1)])], &[], false);
    check(&[(0, 100, &[(u64::MAX - 1, 1)])], &[], true);
    check(&[], &[(0, u64::MAX)], true);
    check(&[], &[(1, u64::MAX)], false);
    check(&[], &[(0, 0)], false);
    check(&[(0, FRAME_STORED_MAX_BYTES as u64, &[(0, 1)])], &[], true);
    check(
        &[(0, FRAME_STORED_MAX_BYTES as u64 + 1, &[(0, 1)])],
        &[],
        false,
    );
    let room = SEGMENT_MAX_BYTES - SEGMENT_HEADER_BYTES as u64;
    check(&[(room - 100, 100, &[(0, 1)])], &[], true);
    check(&[(room - 99, 100, &[(0, 1)])], &[], false);
    check(&[(u64::MAX, 100, &[(0, 1)])], &[], false);
}

/// Frames of `count` pages each at these gaps between pages.
fn index_of(gaps: impl Iterator<Item = u64>, stored_bytes: u32) -> SegmentIndex {
    let mut frames: Vec<FrameEntry> = Vec::new();
    let mut next = 0;
    let pages: Vec<u64> = gaps
        .map(|gap| {
            next += gap + 1;
            next - 1
        })
        .collect();
    for (number, frame) in pages.chunks(FRAME_MAX_PAGES).enumerate() {
        let mut runs: Vec<PageSpan> = Vec::new();
        for page in frame {
            match runs.last_mut() {
                Some(run) if run.end().0 == *page => run.pages += 1,
                _ => runs.push(span(*page, 1)),
            }
        }
        let offset = SEGMENT_HEADER_BYTES as u32 + number as u32 * stored_bytes;
        frames.push(FrameEntry {
            offset,
            stored_bytes,
            runs,
        });
    }
    SegmentIndex {
        frames,
        holes: Vec::new(),
    }
}

#[test]
fn index_bytes_per_page() {
    let check = |what: &str, gaps: &mut dyn Iterator<Item = u64>, limit: f64| {
        let index = index_of(gaps, 65_600);
        let bytes = index.encode(segment_name().1).len() as f64 / index.pages() as f64;
        println!("segment index, {what}: {bytes:.2} bytes per page");
        assert!(bytes < limit, "{what}: {bytes}");
    };
    // 256 MiB of 4 KiB pages: one run; and at random in 1 TiB, a mean gap of 4096 pages.
    check("sequential", &mut std::iter::repeat_n(0, 65_536), 0.5);
    let random = (0..65_536_u64).map(|page| xxhash_rust::xxh3::xxh3_64(&page.to_le_bytes()) % 8192);
    check("random in 1 TiB", &mut { random }, 3.5);
}

prop_compose! {
    fn any_index()(
        gaps in proptest::collection::vec(0_u64..5, 0..200),
        holes in proptest::collection::vec((1_u64..1000, 1_u64..1000), 0..20),
        stored_bytes in 27_u32..65_000,
    ) -> SegmentIndex {
        let mut index = index_of(gaps.into_iter(), stored_bytes);
        let last = index.frames.last().and_then(|frame| frame.runs.last());
        let mut next = last.map_or(0, |run| run.end().0);
        for (gap, pages) in holes {
            index.holes.push(span(next + gap, pages));
            next += gap + pages;
        }
        index
    }
}

proptest! {
    #[test]
    fn indexes_come_back(index in any_index()) {
        let (_, seed) = segment_name();
        prop_assert_eq!(SegmentIndex::decode(seed, &index.encode(seed)).unwrap(), index);
    }

    #[test]
    fn any_body_is_refused_or_has_one_encoding(body: Vec<u8>) {
        let (_, seed) = segment_name();
        let bytes = crate::format::damage::reseal(seed, &example().encode(seed), &body);
        if let Ok(index) = SegmentIndex::decode(seed, &bytes) {
            prop_assert_eq!(index.encode(seed), bytes);
        }
    }
}
