use proptest::prelude::*;

use super::*;
use crate::format::damage::{check_envelope, hex, map_name, reseal};

fn extent(first: u16, pages: u8, slot: u8) -> LeafExtent {
    let frame = FrameLocation {
        segment: SegmentId(7),
        offset: 0x1234_5678,
        stored_bytes: 0xabcd,
    };
    LeafExtent {
        first,
        pages,
        slot,
        frame,
    }
}

fn example() -> Leaf {
    Leaf {
        extents: vec![extent(0, 16, 0), extent(16, 1, 15), extent(4090, 6, 2)],
    }
}

const NUMBER: LeafNumber = LeafNumber(0x0102_0304);

#[test]
fn golden_leaf() {
    let (_, seed) = map_name();
    let golden = example().encode(seed, NUMBER);
    insta::assert_snapshot!(hex(&golden));
    assert_eq!(Leaf::decode(seed, NUMBER, &golden).unwrap(), example());
    assert!(Leaf::decode(seed, LeafNumber(0), &golden).is_err());
    check_envelope(seed, &golden, Leaf::decode_any, |(number, leaf)| {
        leaf.encode(seed, *number)
    });
    check_envelope(
        seed,
        &golden,
        |seed, bytes| Leaf::decode(seed, NUMBER, bytes),
        |leaf| leaf.encode(seed, NUMBER),
    );
}

#[test]
fn golden_root() {
    let (_, seed) = map_name();
    let leaf = |leaf, map, offset, bytes| RootLeaf {
        leaf: LeafNumber(leaf),
        map: MapObjectId(map),
        span: ByteSpan { offset, bytes },
    };
    let root = Root {
        leaves: vec![
            leaf(0, 1, 24, 60),
            leaf(1, 300, 1 << 33, 65_000),
            leaf(1 << 40, 1, 84, 28),
        ],
    };
    let golden = root.encode(seed);
    insta::assert_snapshot!(hex(&golden));
    assert_eq!(Root::decode(seed, &golden).unwrap(), root);
    check_envelope(seed, &golden, Root::decode, |root| root.encode(seed));
}

#[test]
fn golden_ends() {
    let (_, seed) = map_name();
    let header = MapHeader {
        page_size: PageSize::from_bits(16).unwrap(),
    };
    let golden = header.encode(seed);
    insta::assert_snapshot!("header", hex(&golden));
    assert_eq!(golden.len(), MAP_HEADER_BYTES);
    assert_eq!(MapHeader::decode(seed, &golden).unwrap(), header);
    check_envelope(seed, &golden, MapHeader::decode, |header| {
        header.encode(seed)
    });

    for root in [
        None,
        Some(ByteSpan {
            offset: 24 + 76,
            bytes: 50,
        }),
    ] {
        let footer = MapFooter { leaves: 1, root };
        let golden = footer.encode(seed);
        if root.is_some() {
            insta::assert_snapshot!("footer", hex(&golden));
        }
        assert_eq!(golden.len(), MAP_FOOTER_BYTES);
        assert_eq!(MapFooter::decode(seed, &golden).unwrap(), footer);
        check_envelope(seed, &golden, MapFooter::decode, |footer| {
            footer.encode(seed)
        });
    }
}

#[test]
fn impossible_extents_are_refused() {
    let check = |extents: &[LeafExtent], ok: bool| {
        let mut writer = Writer::new(RecordKind::MapLeaf);
        writer.u64(NUMBER.0);
        for extent in extents {
            writer.u16(extent.first);
            writer.u8(extent.pages);
            writer.u8(extent.slot);
            writer.u32(extent.frame.segment.0);
            writer.u32(extent.frame.offset);
            writer.u32(extent.frame.stored_bytes);
        }
        let (_, seed) = map_name();
        let found = Leaf::decode(seed, NUMBER, &writer.finish(seed));
        assert_eq!(found.is_ok(), ok, "{extents:?}: {found:?}");
    };
    let at = |offset, stored_bytes| LeafExtent {
        frame: FrameLocation {
            segment: SegmentId(0),
            offset,
            stored_bytes,
        },
        ..extent(0, 1, 0)
    };
    check(&[], true);
    check(&[extent(4095, 1, 0)], true);
    check(&[extent(4096, 1, 0)], false);
    check(&[extent(4090, 7, 0)], false);
    check(&[extent(0, 0, 0)], false);
    check(&[extent(0, 16, 0)], true);
    check(&[extent(0, 17, 0)], false);
    check(&[extent(0, 16, 1)], false);
    check(&[extent(0, 1, 15)], true);
    check(&[extent(0, 1, 16)], false);
    check(&[extent(0, 255, 255)], false);
    check(&[extent(0, 2, 0), extent(2, 1, 0)], true);
    check(&[extent(0, 2, 0), extent(1, 1, 0)], false);
    check(&[extent(5, 1, 0), extent(0, 1, 0)], false);
    check(&[at(24, 100)], true);
    check(&[at(23, 100)], false);
    check(&[at(24, 0)], false);
    check(&[at(24, FRAME_STORED_MAX_BYTES as u32)], true);
    check(&[at(24, FRAME_STORED_MAX_BYTES as u32 + 1)], false);
    check(&[at(u32::MAX - 100, 100)], true);
    check(&[at(u32::MAX - 100, 101)], false);
}

#[test]
fn impossible_roots_are_refused() {
    let (_, seed) = map_name();
    let check = |leaves: &[[u64; 4]], ok: bool| {
        let mut writer = Writer::new(RecordKind::MapRoot);
        writer.count(leaves.len());
        leaves
            .iter()
            .flatten()
            .for_each(|number| writer.varint(*number));
        let found = Root::decode(seed, &writer.finish(seed));
        assert_eq!(found.is_ok(), ok, "{leaves:?}: {found:?}");
    };
    let longest = LEAF_MAX_BYTES as u64;
    check(&[], true);
    check(&[[0, 0, 24, longest], [0, 0, 24, 28]], true);
    check(&[[0, 0, 24, longest + 1]], false);
    check(&[[0, u64::from(u32::MAX), 24, 28]], true);
    check(&[[0, 1 << 32, 24, 28]], false);
    check(&[[0, 0, u64::MAX - 28, 28]], true);
    check(&[[0, 0, u64::MAX - 27, 28]], false);
    check(&[[(1 << 52) - 2, 0, 24, 28]], true);
    check(&[[(1 << 52) - 1, 0, 24, 28]], false);
    check(&[[0, 0, 24, 28], [u64::MAX, 0, 24, 28]], false);
}

#[test]
fn an_empty_root_is_nowhere() {
    let (_, seed) = map_name();
    let mut writer = Writer::new(RecordKind::MapFooter);
    writer.u32(0);
    writer.u64(24);
    writer.u32(0);
    assert!(MapFooter::decode(seed, &writer.finish(seed)).is_err());
}

#[test]
fn pages_are_in_leaves() {
    let check = |page: u64, leaf: u64, offset: u16| {
        assert_eq!(LeafNumber::of(PageNumber(page)), (LeafNumber(leaf), offset));
        assert_eq!(LeafNumber(leaf).page(offset), Some(PageNumber(page)));
    };
    check(0, 0, 0);
    check(4095, 0, 4095);
    check(4096, 1, 0);
    check(u64::MAX, u64::MAX >> 12, 4095);
    assert_eq!(LeafNumber(1 << 52).page(0), None);
}

#[test]
fn an_extent_takes_sixteen_bytes() {
    assert_eq!(size_of::<LeafExtent>(), EXTENT_BYTES);
}

/// Bytes of leaf and root per page, for leaves of these extents.
fn bytes_per_page(what: &str, extents_per_leaf: usize, pages: u8) -> f64 {
    let (_, seed) = map_name();
    let step = LEAF_PAGES as usize / extents_per_leaf;
    let extents = (0..extents_per_leaf)
        .map(|n| extent((n * step) as u16, pages, 0))
        .collect();
    let leaf = Leaf { extents }.encode(seed, NUMBER);
    assert!(leaf.len() <= LEAF_MAX_BYTES);
    let leaves: Vec<RootLeaf> = (0..65_536)
        .map(|number| RootLeaf {
            leaf: LeafNumber(number),
            map: MapObjectId(9),
            span: ByteSpan {
                offset: 24 + number * leaf.len() as u64,
                bytes: leaf.len() as u32,
            },
        })
        .collect();
    let root = Root { leaves }.encode(seed);
    let all = leaf.len() as f64 + root.len() as f64 / 65_536.0;
    let per_page = all / (extents_per_leaf as f64 * f64::from(pages));
    println!(
        "map, {what}: {per_page:.2} bytes per page; root of 65,536 leaves: {}",
        root.len()
    );
    per_page
}

#[test]
fn map_bytes_per_page() {
    assert!(bytes_per_page("sequential writes, full leaves", 256, 16) < 1.02);
    assert!(bytes_per_page("random writes, full leaves", 4096, 1) < 16.02);
    assert!(bytes_per_page("random writes, 16 pages per leaf", 16, 1) < 19.0);
}

prop_compose! {
    fn any_leaf()(
        extents in proptest::collection::vec(
            (0_u16..100, 1_u8..=16, any::<(u8, u32, u32, u32)>()), 0..60
        )
    ) -> Leaf {
        let mut next = 0;
        let mut leaf = Leaf::default();
        for (gap, pages, (slot, segment, offset, stored_bytes)) in extents {
            let first = next + gap;
            next = first + u16::from(pages);
            if u64::from(next) > LEAF_PAGES {
                break;
            }
            leaf.extents.push(LeafExtent {
                first,
                pages,
                slot: slot % (17 - pages),
                frame: FrameLocation {
                    segment: SegmentId(segment),
                    offset: offset.clamp(24, u32::MAX - 70_000),
                    stored_bytes: stored_bytes % FRAME_STORED_MAX_BYTES as u32 + 1,
                },
            });
        }
        leaf
    }
}

prop_compose! {
    fn any_root()(
        leaves in proptest::collection::vec(
            (0_u64..1 << 30, any::<u32>(), 0..u64::MAX / 2, 0..=LEAF_MAX_BYTES as u32), 0..60
        )
    ) -> Root {
        let mut next = 0;
        let leaves = leaves.into_iter().map(|(gap, map, offset, bytes)| {
            let leaf = LeafNumber(next + gap);
            next += gap + 1;
            RootLeaf { leaf, map: MapObjectId(map), span: ByteSpan { offset, bytes } }
        });
        Root { leaves: leaves.collect() }
    }
}

proptest! {
    #[test]
    fn leaves_come_back(leaf in any_leaf(), number in 0..1_u64 << 52) {
        let (_, seed) = map_name();
        let number = LeafNumber(number.min((1 << 52) - 2));
        let bytes = leaf.encode(seed, number);
        prop_assert_eq!(Leaf::decode(seed, number, &bytes).unwrap(), leaf);
    }

    #[test]
    fn roots_come_back(root in any_root()) {
        let (_, seed) = map_name();
        prop_assert_eq!(Root::decode(seed, &root.encode(seed)).unwrap(), root);
    }

    #[test]
    fn any_body_is_refused_or_has_one_encoding(body: Vec<u8>) {
        let (_, seed) = map_name();
        let bytes = reseal(seed, &Root::default().encode(seed), &body);
        if let Ok(root) = Root::decode(seed, &bytes) {
            prop_assert_eq!(root.encode(seed), bytes);
        }
        let bytes = reseal(seed, &example().encode(seed, NUMBER), &body);
        if let Ok((number, leaf)) = Leaf::decode_any(seed, &bytes) {
            prop_assert_eq!(leaf.encode(seed, number), bytes);
        }
    }
}
