use proptest::prelude::*;

use super::*;
use crate::format::damage::{
    any_image, any_tenure, check_crafted, check_damage, check_newer, hex, image,
};
use crate::format::manifest::example_manifest;
use crate::ids::{EpochNumber, TenureId};

fn tenure(epoch: u64, id: u128) -> Tenure {
    Tenure {
        epoch: EpochNumber(epoch),
        id: TenureId(id),
    }
}

fn example() -> BufferMetadata {
    BufferMetadata {
        buffer_store: BufferStoreId(0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100),
        image: image("disk0"),
        incarnation: Some(Incarnation(0x1111)),
        confirmed: Some(tenure(3, 0x3333)),
        pending: vec![tenure(4, 0x4444), tenure(5, 0x5555)],
        last_lsn: Lsn(1000),
        published: Some(OwnPublication {
            version: Version(42),
            lsn: Lsn(990),
            map: MapDigest(0x9999),
        }),
    }
}

#[test]
fn golden() {
    let disk0 = image("disk0");
    let decode = |bytes: &[u8]| BufferMetadata::decode(&disk0, bytes);
    let empty = BufferMetadata {
        incarnation: None,
        confirmed: None,
        pending: Vec::new(),
        published: None,
        ..example()
    };
    for (name, metadata) in [("full", example()), ("empty", empty)] {
        let golden = metadata.encode();
        insta::assert_snapshot!(name, hex(&golden));
        assert_eq!(decode(&golden).unwrap(), metadata);
        check_damage(&golden, decode);
        check_newer(seed(&disk0), &golden, decode);
        check_crafted(seed(&disk0), &golden, decode, BufferMetadata::encode);
        assert!(BufferMetadata::decode(&image("disk1"), &golden).is_err());
    }
}

#[test]
fn the_record_stays_below_the_stores_limit() {
    let pending = vec![tenure(u64::MAX, u128::MAX); PENDING_TENURES_MAX];
    assert!(
        BufferMetadata {
            pending,
            ..example()
        }
        .encode()
        .len()
            < 64 * 1024
    );
}

#[test]
fn more_pending_tenures_than_allowed_are_refused() {
    for (pending, ok) in [
        (PENDING_TENURES_MAX, true),
        (PENDING_TENURES_MAX + 1, false),
    ] {
        let mut writer = Writer::new(RecordKind::BufferMetadata);
        writer.u128(1);
        writer.text("disk0");
        writer.u8(0);
        writer.count(pending);
        (0..pending).for_each(|_| writer.tenure(&tenure(1, 1)));
        writer.u64(0);
        let bytes = writer.finish(seed(&image("disk0")));
        assert_eq!(
            BufferMetadata::decode(&image("disk0"), &bytes).is_ok(),
            ok,
            "{pending}"
        );
    }
}

#[test]
fn the_digest_is_of_the_map_and_nothing_else() {
    let manifest = example_manifest();
    let digest = MapDigest::of(&manifest);
    let check = |same: bool, change: &dyn Fn(&mut Manifest)| {
        let mut changed = manifest.clone();
        change(&mut changed);
        assert_eq!(MapDigest::of(&changed) == digest, same, "{changed:?}");
    };
    check(true, &|manifest| manifest.version = manifest.version.next());
    check(true, &|manifest| manifest.tenure = tenure(9, 9));
    check(true, &|manifest| manifest.snapshots.clear());
    check(true, &|manifest| manifest.retired.clear());
    check(false, &|manifest| manifest.root = None);
    check(false, &|manifest| {
        manifest.root.as_mut().unwrap().span.offset += 1
    });
    check(false, &|manifest| manifest.tail.reverse());
    check(false, &|manifest| manifest.tail.clear());
    check(false, &|manifest| {
        manifest
            .segments
            .iter_mut()
            .for_each(|s| s.name.suffix += 1)
    });
    check(false, &|manifest| {
        manifest
            .maps
            .iter_mut()
            .for_each(|map| map.name.suffix += 1)
    });
}

proptest! {
    #[test]
    fn metadata_comes_back(
        image in any_image(),
        ids: (u128, Option<u128>, u64),
        confirmed in proptest::option::of(any_tenure()),
        pending in proptest::collection::vec(any_tenure(), 0..20),
        published: Option<(u64, u64, u128)>,
    ) {
        let metadata = BufferMetadata {
            buffer_store: BufferStoreId(ids.0),
            image: image.clone(),
            incarnation: ids.1.map(Incarnation),
            confirmed,
            pending,
            last_lsn: Lsn(ids.2),
            published: published.map(|(version, lsn, map)| OwnPublication {
                version: Version(version),
                lsn: Lsn(lsn),
                map: MapDigest(map),
            }),
        };
        prop_assert_eq!(BufferMetadata::decode(&image, &metadata.encode()).unwrap(), metadata);
    }
}
