use proptest::prelude::*;

use super::*;
use crate::encryption::RootKeyId;
use crate::format::codec::{FormatError, ObjectSeed};
use crate::format::damage::{
    any_image, any_name, any_tenure, body_of, check_crafted, check_damage, check_newer, hex, image,
    map_name, reseal, segment_name,
};
use crate::format::object_name::{ObjectKind, manifest_key};
use crate::ids::{EpochNumber, TenureId};

fn segment(id: u32, sequence: u64) -> SegmentEntry {
    let name = ObjectName {
        sequence: ObjectSequence(sequence),
        ..segment_name().0
    };
    SegmentEntry {
        id: SegmentId(id),
        name,
        size_bytes: 8 << 20,
        index: ByteSpan {
            offset: 8_380_000,
            bytes: 8_000,
        },
        pages: 2048,
        live_pages: 2000,
    }
}

/// A manifest with something of everything.
pub(crate) fn example_manifest() -> Manifest {
    let tenure = Tenure {
        epoch: EpochNumber(3),
        id: TenureId(0x3333),
    };
    let foreign = ObjectName {
        image: image("base"),
        incarnation: Incarnation(0xbbbb),
        ..segment_name().0
    };
    let retired = |name| RetiredObject { name };
    Manifest {
        image: image("disk0"),
        version: Version(300),
        incarnation: segment_name().0.incarnation,
        tenure,
        state: ImageState::Active,
        owner: "host-1, process 4711".to_owned(),
        publication: PublicationCounter(12),
        others: vec![PublicationId(0xaaaa), PublicationId(0xbbbb)],
        published_at: WallTime {
            unix_ms: 1_800_000_000_000,
        },
        page_size: PageSize::from_bits(12).unwrap(),
        size_bytes: 1 << 30,
        lsn: Lsn(99_999),
        watermark: ObjectSequence(20),
        oldest_retained: Version(250),
        next_segment: SegmentId(11),
        next_map: MapObjectId(4),
        segments: vec![
            SegmentEntry {
                name: foreign.clone(),
                ..segment(0, 0)
            },
            segment(7, 17),
            segment(10, 18),
        ],
        maps: vec![MapObjectEntry {
            id: MapObjectId(3),
            name: map_name().0,
            size_bytes: 10_000,
        }],
        root: Some(RootEntry {
            map: MapObjectId(3),
            span: ByteSpan {
                offset: 9_000,
                bytes: 900,
            },
        }),
        tail: vec![SegmentId(10), SegmentId(7)],
        retired: vec![retired(segment(0, 5).name), retired(segment(0, 6).name)],
        snapshots: vec![
            Snapshot {
                name: "a".to_owned(),
                version: Version(1),
                created_at: WallTime::default(),
            },
            Snapshot {
                name: "b".to_owned(),
                version: Version(300),
                created_at: WallTime {
                    unix_ms: 1_700_000_000_000,
                },
            },
        ],
        pins: vec![
            Pin {
                holder: PinHolder::Reader("reader-1".to_owned()),
                pinned: Pinned::Version(Version(299)),
            },
            Pin {
                holder: PinHolder::Clone {
                    target: image("copy"),
                    incarnation: Incarnation(7),
                },
                pinned: Pinned::Objects(vec![map_name().0, foreign]),
            },
        ],
        takeovers: vec![Takeover {
            from: Tenure {
                epoch: EpochNumber(2),
                id: TenureId(0x2222),
            },
            at_lsn: Lsn(5_000),
            at: WallTime {
                unix_ms: 1_790_000_000_000,
            },
        }],
        data_keys: Vec::new(),
    }
}

/// The same, with a data key of its own and one of an image that it shares a segment with.
fn encrypted_manifest() -> Manifest {
    let mut manifest = example_manifest();
    for name in [&manifest.segments[1].name, &manifest.segments[0].name] {
        let key = WrappedDataKey {
            image: name.image.clone(),
            incarnation: name.incarnation,
            root: RootKeyId(0x0123_4567_89ab_cdef),
            nonce: [0x11; 12],
            sealed: [0x22; 48],
        };
        manifest.data_keys.insert(0, key);
    }
    manifest
}

fn decode(bytes: &[u8]) -> Result<Manifest, FormatError> {
    Manifest::decode(&image("disk0"), Version(300), bytes)
}

#[test]
fn golden() {
    let golden = example_manifest().encode();
    insta::assert_snapshot!(hex(&golden));
    assert_eq!(decode(&golden).unwrap(), example_manifest());
}

#[test]
fn golden_encrypted() {
    let golden = encrypted_manifest().encode();
    insta::assert_snapshot!(hex(&golden));
    assert_eq!(decode(&golden).unwrap(), encrypted_manifest());
    assert_eq!(
        encrypted_manifest().own_data_key(),
        golden_own_key().as_ref()
    );
    assert_eq!(example_manifest().own_data_key(), None);
}

fn golden_own_key() -> Option<WrappedDataKey> {
    encrypted_manifest().data_keys.pop()
}

/// Version 2 is for keys alone: an mvps of before reads every other manifest.
#[test]
fn a_manifest_has_the_oldest_version_that_can_say_it() {
    let seed = ObjectSeed::of_key(&manifest_key(&image("disk0"), Version(300)));
    let (clear, encrypted) = (example_manifest().encode(), encrypted_manifest().encode());
    assert_eq!((clear[4], encrypted[4]), (1, 2));
    let relabelled = |golden: &[u8], version: u8, body: &[u8]| {
        let mut bytes = golden.to_vec();
        bytes[4] = version;
        decode(&reseal(seed, &bytes, body))
    };
    let no_keys = [body_of(&clear), &[0]].concat();
    for refused in [
        relabelled(&clear, 2, body_of(&clear)),
        relabelled(&clear, 2, &no_keys),
        relabelled(&encrypted, 1, body_of(&encrypted)),
    ] {
        assert!(
            matches!(refused, Err(FormatError::Corrupt { .. })),
            "{refused:?}"
        );
    }
}

#[test]
fn damage_is_refused() {
    let golden = example_manifest().encode();
    let seed = ObjectSeed::of_key(&manifest_key(&image("disk0"), Version(300)));
    let encrypted = encrypted_manifest().encode();
    check_newer(seed, &encrypted, decode);
    for golden in [&golden, &encrypted] {
        check_damage(golden, decode);
        check_crafted(seed, golden, decode, Manifest::encode);
    }
    assert!(Manifest::decode(&image("disk1"), Version(300), &golden).is_err());
    assert!(Manifest::decode(&image("disk0"), Version(301), &golden).is_err());
}

#[test]
fn an_origin_that_no_name_uses_is_refused() {
    let empty = Manifest {
        segments: Vec::new(),
        maps: Vec::new(),
        root: None,
        tail: Vec::new(),
        retired: Vec::new(),
        snapshots: Vec::new(),
        pins: Vec::new(),
        takeovers: Vec::new(),
        ..example_manifest()
    };
    let golden = empty.encode();
    let seed = ObjectSeed::of_key(&manifest_key(&image("disk0"), Version(300)));
    let mut body = body_of(&golden).to_vec();
    assert_eq!(decode(&reseal(seed, &golden, &body)), Ok(empty));
    // The counts of origins, segments, maps, tail, retired, snapshots, pins and takeovers, and
    // the mark for no root.
    let origins = body.len() - 9;
    assert_eq!(body[origins..], [0; 9]);
    body[origins] = 1;
    let origin = [&[1, b'x'][..], &[0; 16]].concat();
    body.splice(origins + 1..origins + 1, origin);
    assert!(matches!(
        decode(&reseal(seed, &golden, &body)),
        Err(FormatError::Corrupt { .. })
    ));
}

#[test]
fn rules_hold() {
    let check = |rule: &str, change: &dyn Fn(&mut Manifest)| {
        let mut manifest = example_manifest();
        change(&mut manifest);
        assert_eq!(manifest.validate().map_err(|error| error.0), Err(rule));
    };
    assert_eq!(example_manifest().validate(), Ok(()));
    check("versions begin with 1", &|m| m.version = Version(0));
    check("the oldest retained version exists", &|m| {
        m.oldest_retained = Version(301)
    });
    check("the size is a multiple of the page size", &|m| {
        m.size_bytes += 512
    });
    check("the owner text is short", &|m| {
        m.owner = "x".repeat(OWNER_MAX_BYTES + 1)
    });
    check("others' publications are bounded", &|m| {
        m.others = vec![PublicationId(1); OTHERS_MAX + 1];
    });
    check("takeovers are bounded", &|m| {
        m.takeovers = vec![m.takeovers[0].clone(); TAKEOVERS_MAX + 1];
    });
    check("segments ascend", &|m| m.segments.reverse());
    check("segments ascend", &|m| m.segments[1] = segment(10, 19));
    check("segment numbers only rise", &|m| {
        m.next_segment = SegmentId(10)
    });
    check("a segment is named as one", &|m| {
        m.segments[1].name.kind = ObjectKind::Map
    });
    check("a segment's name is there once", &|m| {
        m.segments[1].name.sequence.0 = 18
    });
    check("a segment's index is inside it", &|m| {
        m.segments[2].size_bytes = 8_387_999
    });
    check("a segment's index is inside it", &|m| {
        m.segments[2].index.offset = u64::MAX;
        m.segments[2].size_bytes = u64::MAX;
    });
    check("live pages are among the pages", &|m| {
        m.segments[0].live_pages = 2049
    });
    check("a segment of the tail exists", &|m| {
        m.tail.push(SegmentId(8))
    });
    check("a segment is in the tail once", &|m| {
        m.tail.push(SegmentId(10))
    });
    check("map objects ascend", &|m| m.maps.push(m.maps[0].clone()));
    check("map object numbers only rise", &|m| {
        m.next_map = MapObjectId(3)
    });
    check("a map object is named as one", &|m| {
        m.maps[0].name.kind = ObjectKind::Segment
    });
    check("a map object's name is there once", &|m| {
        m.maps.push(MapObjectEntry {
            id: MapObjectId(9),
            ..m.maps[0].clone()
        });
        m.next_map = MapObjectId(10);
    });
    check("the root is inside a map object", &|m| m.maps.clear());
    check("the root is inside a map object", &|m| {
        m.maps[0].size_bytes = 9_899
    });
    check("retired objects ascend", &|m| m.retired.reverse());
    check("snapshots ascend", &|m| m.snapshots.reverse());
    check(
        "a snapshot's name has the characters of an image id",
        &|m| {
            m.snapshots[1].name = "b/c".to_owned();
        },
    );
    check("a snapshot names a version that was", &|m| {
        m.snapshots[0].version = Version(0)
    });
    check("a snapshot names a version that was", &|m| {
        m.snapshots[0].version = Version(301)
    });
    check("a reader id is short", &|m| {
        m.pins[0].holder = PinHolder::Reader("x".repeat(READER_ID_MAX_BYTES + 1));
    });
    check("data keys ascend", &|m| {
        m.data_keys = encrypted_manifest().data_keys;
        m.data_keys.reverse();
    });
    check("data keys ascend", &|m| {
        m.data_keys = vec![encrypted_manifest().data_keys[0].clone(); 2];
    });
    check("data keys are bounded", &|m| {
        m.data_keys = vec![encrypted_manifest().data_keys[0].clone(); DATA_KEYS_MAX + 1];
    });
    check("a pin names a version that was", &|m| {
        m.pins[0].pinned = Pinned::Version(Version(301));
    });
}

#[test]
fn a_manifest_of_4096_segments_is_small() {
    let mut manifest = example_manifest();
    manifest.root = None;
    manifest.tail.clear();
    manifest.next_segment = SegmentId(1_000_000);
    manifest.segments = (0..4096_u32)
        .map(|number| {
            let mut entry = segment(number * 200, u64::from(number) * 300 + 1_000_000);
            entry.name.epoch = EpochNumber(5_000 + u64::from(number));
            entry.name.suffix = xxhash_rust::xxh3::xxh3_64(&number.to_le_bytes());
            entry.size_bytes = 260_000_000 + u64::from(number);
            entry.index.offset = 250_000_000;
            entry.index.bytes = 300_000;
            entry.pages = 60_000;
            entry.live_pages = 50_000;
            entry
        })
        .collect();
    let bytes = manifest.encode();
    println!("manifest of 4,096 segments: {} bytes", bytes.len());
    assert!(bytes.len() < 200 * 1024);
    assert_eq!(decode(&bytes).unwrap(), manifest);
}

prop_compose! {
    fn any_segments()(
        entries in proptest::collection::vec(
            (any_name(ObjectKind::Segment), 0_u32..1000, any::<u32>(), any::<[u32; 4]>()), 0..12
        )
    ) -> Vec<SegmentEntry> {
        let mut next = 0;
        entries
            .into_iter()
            .map(|(name, gap, offset, [bytes, slack, pages, live])| {
                let id = SegmentId(next + gap);
                next += gap + 1;
                let index = ByteSpan { offset: u64::from(offset), bytes };
                SegmentEntry {
                    id,
                    name,
                    size_bytes: index.offset + u64::from(bytes) + u64::from(slack),
                    index,
                    pages: pages.max(live),
                    live_pages: pages.min(live),
                }
            })
            .collect()
    }
}

prop_compose! {
    fn any_maps()(
        entries in proptest::collection::vec((any_name(ObjectKind::Map), 0_u32..1000), 0..5)
    ) -> Vec<MapObjectEntry> {
        let mut next = 0;
        entries
            .into_iter()
            .map(|(name, gap)| {
                let id = MapObjectId(next + gap);
                next += gap + 1;
                MapObjectEntry { id, name, size_bytes: u64::from(u32::MAX) * 2 }
            })
            .collect()
    }
}

fn any_pin() -> impl Strategy<Value = Pin> {
    let names = proptest::collection::vec(
        prop_oneof![any_name(ObjectKind::Segment), any_name(ObjectKind::Map)],
        0..4,
    );
    let holder = prop_oneof![
        "\\PC{0,40}".prop_map(PinHolder::Reader),
        (any_image(), any::<u128>()).prop_map(|(target, incarnation)| PinHolder::Clone {
            target,
            incarnation: Incarnation(incarnation),
        }),
    ];
    let pinned = prop_oneof![
        Just(Pinned::Version(Version(1))),
        names.prop_map(Pinned::Objects),
    ];
    (holder, pinned).prop_map(|(holder, pinned)| Pin { holder, pinned })
}

prop_compose! {
    fn any_manifest()(
        image in any_image(),
        numbers in any::<[u64; 8]>(),
        tenures in (any_tenure(), proptest::collection::vec(any_tenure(), 0..4)),
        state in prop_oneof![
            Just(ImageState::Active), Just(ImageState::Clean),
            Just(ImageState::Tombstone), Just(ImageState::Abandoned),
        ],
        owner in "\\PC{0,40}",
        others in proptest::collection::vec(any::<u128>().prop_map(PublicationId), 0..5),
        incarnation: u128,
        bits in 12_u8..=16,
        segments in any_segments(),
        maps in any_maps(),
        span in (any::<u32>(), any::<u32>()),
        retired in proptest::collection::btree_set(
            prop_oneof![any_name(ObjectKind::Segment), any_name(ObjectKind::Map)], 0..5
        ),
        snapshots in proptest::collection::btree_map("[a-z][a-z0-9._-]{0,20}", any::<u64>(), 0..4),
        pins in proptest::collection::vec(any_pin(), 0..4),
        data_keys in proptest::collection::btree_map(
            (any_image(), any::<u128>()), any::<(u64, u8, u8)>(), 0..4
        ),
    ) -> Manifest {
        let page_size = PageSize::from_bits(bits).unwrap();
        let version = Version(numbers[0].max(1));
        let span = ByteSpan { offset: u64::from(span.0), bytes: span.1 };
        Manifest {
            image,
            version,
            incarnation: Incarnation(incarnation),
            tenure: tenures.0,
            state,
            owner,
            publication: PublicationCounter(numbers[1]),
            others,
            published_at: WallTime { unix_ms: numbers[2] },
            page_size,
            size_bytes: numbers[3] >> bits << bits,
            lsn: Lsn(numbers[4]),
            watermark: ObjectSequence(numbers[5]),
            oldest_retained: Version(numbers[6].min(version.0)),
            next_segment: SegmentId(segments.last().map_or(0, |last| last.id.0 + 1)),
            next_map: MapObjectId(maps.last().map_or(0, |last| last.id.0 + 1)),
            root: maps.first().map(|map| RootEntry { map: map.id, span }),
            tail: segments.iter().rev().map(|entry| entry.id).step_by(2).collect(),
            segments,
            maps,
            retired: retired.into_iter().map(|name| RetiredObject { name }).collect(),
            snapshots: snapshots
                .into_iter()
                .map(|(name, at)| Snapshot {
                    name,
                    version,
                    created_at: WallTime { unix_ms: at },
                })
                .collect(),
            pins,
            takeovers: tenures.1.into_iter().map(|from| Takeover {
                from,
                at_lsn: Lsn(numbers[7]),
                at: WallTime { unix_ms: numbers[2] },
            }).collect(),
            data_keys: data_keys.into_iter().map(|((image, life), (root, nonce, sealed))| {
                WrappedDataKey {
                    image,
                    incarnation: Incarnation(life),
                    root: RootKeyId(root),
                    nonce: [nonce; 12],
                    sealed: [sealed; 48],
                }
            }).collect(),
        }
    }
}

proptest! {
    #[test]
    fn manifests_come_back(manifest in any_manifest()) {
        let bytes = manifest.encode();
        prop_assert_eq!(manifest.encode(), bytes.clone());
        let found = Manifest::decode(&manifest.image, manifest.version, &bytes);
        prop_assert_eq!(found.unwrap(), manifest);
    }
}
