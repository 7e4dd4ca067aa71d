use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::env::WallTime;
use crate::format::manifest::{
    MapObjectEntry, MapObjectId, Pin, PinHolder, RetiredObject, SegmentEntry, SegmentId, Snapshot,
    example_manifest,
};
use crate::ids::{Tenure, TenureId};

fn image(name: &str) -> ImageId {
    ImageId::parse(name).unwrap()
}

fn object(epoch: u64, sequence: u64) -> ObjectName {
    ObjectName {
        image: image("disk0"),
        incarnation: Incarnation(1),
        epoch: EpochNumber(epoch),
        sequence: ObjectSequence(sequence),
        suffix: 0,
        kind: ObjectKind::Segment,
    }
}

/// Version `version` of `disk0` in epoch 5 with watermark 10, which references `names`.
fn manifest(version: u64, oldest: u64, names: &[ObjectName]) -> Manifest {
    let example = example_manifest();
    let entry = |(id, name): (u32, &ObjectName)| SegmentEntry {
        id: SegmentId(id),
        name: name.clone(),
        ..example.segments[0].clone()
    };
    Manifest {
        version: Version(version),
        incarnation: Incarnation(1),
        tenure: Tenure {
            epoch: EpochNumber(5),
            id: TenureId(5),
        },
        watermark: ObjectSequence(10),
        oldest_retained: Version(oldest),
        segments: (0..).zip(names).map(entry).collect(),
        maps: Vec::new(),
        root: None,
        tail: Vec::new(),
        retired: Vec::new(),
        snapshots: Vec::new(),
        pins: Vec::new(),
        ..example.clone()
    }
}

fn pin(pinned: Pinned) -> Pin {
    Pin {
        holder: PinHolder::Reader("r".to_owned()),
        pinned,
    }
}

#[test]
fn what_is_settled() {
    let horizon = Horizon::of(&manifest(9, 1, &[]));
    let other_life = |name: ObjectName| ObjectName {
        incarnation: Incarnation(2),
        ..name
    };
    for (name, expected) in [
        (object(4, 99), true),
        (object(5, 0), true),
        (object(5, 9), true),
        (object(5, 10), false),
        (object(5, 99), false),
        (object(6, 0), false),
        (object(u64::MAX, 0), false),
        // A tombstone hands the epochs of an earlier life on; the watermark is this life's alone.
        (other_life(object(4, 99)), true),
        (other_life(object(5, 0)), false),
        (other_life(object(6, 0)), false),
    ] {
        assert_eq!(horizon.settles(&name), expected, "{name}");
    }
}

#[test]
fn each_reason_to_keep_an_object() {
    let names: Vec<ObjectName> = (0..6).map(|sequence| object(3, sequence)).collect();
    let mut newest = manifest(9, 8, &names[..1]);
    newest.retired = vec![RetiredObject {
        name: names[1].clone(),
    }];
    newest.pins = vec![
        pin(Pinned::Objects(vec![names[2].clone()])),
        pin(Pinned::Version(Version(2))),
    ];
    newest.snapshots = vec![Snapshot {
        name: "s".to_owned(),
        version: Version(3),
        created_at: WallTime::default(),
    }];
    let mut reachable = Reachable::of(&newest);
    let unread: Vec<u64> = reachable.unread().map(|version| version.0).collect();
    assert_eq!(unread, [2, 3, 8]);
    for (version, name) in [(8, &names[3]), (2, &names[4]), (3, &names[5])] {
        assert!(!reachable.is_complete());
        let mut retained = manifest(version, 1, std::slice::from_ref(name));
        // Of other versions only what reading them needs counts.
        retained.retired = vec![RetiredObject { name: object(3, 7) }];
        retained.pins = vec![pin(Pinned::Objects(vec![object(3, 8)]))];
        reachable.take_in(&retained);
    }
    for name in &names {
        assert_eq!(reachable.object_fate(name), ObjectFate::Needed, "{name}");
    }
    assert_eq!(reachable.object_fate(&object(3, 7)), ObjectFate::Garbage);
    assert_eq!(reachable.object_fate(&object(3, 8)), ObjectFate::Garbage);
    assert_eq!(reachable.object_fate(&object(5, 10)), ObjectFate::Unsettled);
    let foreign = ObjectName {
        image: image("base"),
        ..object(1, 1)
    };
    assert_eq!(reachable.object_fate(&foreign), ObjectFate::OtherImage);
    for (version, expected) in [
        (1, ManifestFate::Forgotten),
        (2, ManifestFate::Retained),
        (3, ManifestFate::Retained),
        (7, ManifestFate::Forgotten),
        (8, ManifestFate::Retained),
        (9, ManifestFate::Retained),
        (10, ManifestFate::Retained),
    ] {
        let fate = reachable.manifest_fate(Version(version));
        assert_eq!(fate, expected, "version {version}");
    }
}

#[test]
#[should_panic(expected = "every retained version was taken in")]
fn no_answer_before_everything_is_read() {
    let _ = Reachable::of(&manifest(9, 8, &[])).object_fate(&object(1, 1));
}

#[test]
fn clones_know_whose_objects_they_use() {
    let of = |name: &str, sequence| ObjectName {
        image: image(name),
        ..object(1, sequence)
    };
    let mut newest = manifest(9, 8, &[of("parent", 1), object(5, 1), of("parent", 2)]);
    newest.maps = vec![MapObjectEntry {
        id: MapObjectId(0),
        name: of("grandparent", 3),
        size_bytes: 9,
    }];
    let images: Vec<&str> = referenced_images(&newest)
        .into_iter()
        .map(ImageId::as_str)
        .collect();
    assert_eq!(images, ["disk0", "grandparent", "parent"]);
    let pinned = objects_of(&newest, &image("parent"));
    assert_eq!(pinned, [of("parent", 1), of("parent", 2)]);

    let mut reachable = Reachable::of(&newest);
    assert!(reachable.shares_with(&image("parent")));
    assert!(!reachable.shares_with(&image("cousin")));
    reachable.take_in(&manifest(8, 8, &[of("cousin", 1)]));
    assert!(reachable.shares_with(&image("cousin")));
    assert!(reachable.needs(&object(5, 1)));
    assert!(!reachable.needs(&of("parent", 1)), "it is the parent's");

    let mut tombstone = manifest(9, 9, &[]);
    tombstone.pins = vec![pin(Pinned::Objects(vec![of("parent", 1)]))];
    assert!(Reachable::of(&tombstone).shares_with(&image("parent")));
}

/// The rules of the protocol, read aloud: no sets, no order of events.
fn naive_fate(versions: &[Manifest], name: &ObjectName) -> ObjectFate {
    let newest = versions.last().unwrap();
    if name.image != newest.image {
        return ObjectFate::OtherImage;
    }
    let references = |manifest: &Manifest| {
        manifest.segments.iter().any(|it| it.name == *name)
            || manifest.maps.iter().any(|it| it.name == *name)
    };
    let pinned = newest
        .pins
        .iter()
        .any(|pin| matches!(&pin.pinned, Pinned::Objects(names) if names.contains(name)));
    let mut needed = pinned || newest.retired.iter().any(|it| it.name == *name);
    for manifest in versions {
        let retained = naive_manifest_fate(versions, manifest.version) == ManifestFate::Retained;
        needed |= retained && references(manifest);
    }
    let settled = name.epoch < newest.tenure.epoch
        || name.epoch == newest.tenure.epoch
            && name.incarnation == newest.incarnation
            && name.sequence < newest.watermark;
    match (needed, settled) {
        (true, _) => ObjectFate::Needed,
        (false, true) => ObjectFate::Garbage,
        (false, false) => ObjectFate::Unsettled,
    }
}

fn naive_manifest_fate(versions: &[Manifest], version: Version) -> ManifestFate {
    let newest = versions.last().unwrap();
    let named = newest.snapshots.iter().any(|it| it.version == version)
        || newest
            .pins
            .iter()
            .any(|pin| pin.pinned == Pinned::Version(version));
    if version >= newest.oldest_retained || named {
        ManifestFate::Retained
    } else {
        ManifestFate::Forgotten
    }
}

prop_compose! {
    fn any_object()(
        image_name in prop::sample::select(vec!["disk0", "disk0", "disk0", "base"]),
        incarnation in 1..3_u128,
        epoch in 3..7_u64,
        sequence in 8..12_u64,
        kind in prop::sample::select(vec![ObjectKind::Segment, ObjectKind::Map]),
    ) -> ObjectName {
        let incarnation = Incarnation(incarnation);
        ObjectName { image: image(image_name), incarnation, kind, ..object(epoch, sequence) }
    }
}

const VERSIONS: u64 = 6;

prop_compose! {
    fn any_version(version: u64)(
        segments in vec(any_object(), 0..4),
        maps in vec(any_object(), 0..2),
        retired in vec(any_object(), 0..2),
        snapshots in vec(1..=version, 0..2),
        pins in vec((1..=version, any_object(), any::<bool>()), 0..3),
        oldest in 1..=version,
    ) -> Manifest {
        let mut manifest = manifest(version, oldest, &segments);
        let map = |name| MapObjectEntry { id: MapObjectId(0), name, size_bytes: 1 };
        manifest.maps = maps.into_iter().map(map).collect();
        manifest.retired = retired.into_iter().map(|name| RetiredObject { name }).collect();
        let snapshot = |version| Snapshot {
            name: format!("s{version}"),
            version: Version(version),
            created_at: WallTime::default(),
        };
        manifest.snapshots = snapshots.into_iter().map(snapshot).collect();
        let pin = |(version, name, whole)| pin(if whole {
            Pinned::Version(Version(version))
        } else {
            Pinned::Objects(vec![name])
        });
        manifest.pins = pins.into_iter().map(pin).collect();
        manifest
    }
}

fn any_history() -> impl Strategy<Value = Vec<Manifest>> {
    (1..=VERSIONS).map(any_version).collect::<Vec<_>>()
}

proptest! {
    #[test]
    fn agrees_with_the_protocol_read_aloud(
        versions in any_history(),
        names in vec(any_object(), 1..20),
    ) {
        let newest = versions.last().unwrap();
        let mut reachable = Reachable::of(newest);
        let unread: Vec<Version> = reachable.unread().collect();
        for version in unread {
            reachable.take_in(&versions[usize::try_from(version.0).unwrap() - 1]);
        }
        for name in &names {
            prop_assert_eq!(reachable.object_fate(name), naive_fate(&versions, name), "{}", name);
        }
        for version in (1..VERSIONS + 3).map(Version) {
            prop_assert_eq!(
                reachable.manifest_fate(version),
                naive_manifest_fate(&versions, version)
            );
        }
    }
}
