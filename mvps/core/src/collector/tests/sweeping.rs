//! What is deleted, and what is not.

use bytes::Bytes;

use super::world::*;
use crate::collector::CollectionPolicy;
use crate::env::memory::Verdict;
use crate::env::{ObjectStore, OperationKind, StoreError};
use crate::format::manifest::{ImageState, Manifest, RetiredObject};
use crate::format::object_name::{ObjectName, manifest_key};
use crate::ids::{EpochNumber, Incarnation, ObjectSequence, Tenure, TenureId, Version};

#[tokio::test(start_paused = true)]
async fn only_settled_objects_that_nothing_needs_go() {
    let world = World::new();
    let names: Vec<ObjectName> = (0..8)
        .map(|sequence| object("disk0", 4, sequence))
        .collect();
    let unsettled = [
        object("disk0", 5, 20),
        object("disk0", 5, 21),
        object("disk0", 6, 0),
        object("disk0", 9, 0),
        ObjectName {
            incarnation: Incarnation(2),
            ..object("disk0", 5, 3)
        },
    ];
    let garbage = [
        object("disk0", 1, 5),
        object("disk0", 4, 99),
        object("disk0", 5, 19),
        ObjectName {
            incarnation: Incarnation(2),
            ..object("disk0", 4, 3)
        },
    ];
    let tenure = Tenure {
        epoch: EpochNumber(5),
        id: TenureId(5),
    };
    let newest = Manifest {
        tenure,
        watermark: ObjectSequence(20),
        state: ImageState::Active,
        retired: vec![RetiredObject {
            name: names[0].clone(),
        }],
        snapshots: vec![snapshot("old", 2)],
        ..manifest("disk0", 9, 8, &names[1..3])
    };
    world.publish(&newest);
    world.publish(&manifest("disk0", 8, 1, &names[3..5]));
    world.publish(&manifest("disk0", 2, 1, &names[5..7]));
    world.publish(&manifest("disk0", 3, 1, &names[7..8]));
    world.upload(&names);
    world.upload(&unsettled);
    world.upload(&garbage);
    let strange = "images/disk0/objects/readme.txt";
    world.objects.poke(strange, Bytes::new());

    let report = world.collect(keep_history()).await;
    assert!(report.all_went_well(), "{report:?}");
    let one = &report.images[0];
    // Version 3 is forgotten, and its object with it.
    assert!(!world.has(&names[7]));
    for name in names[..7].iter().chain(&unsettled) {
        assert!(world.has(name), "{name}");
    }
    for name in &garbage {
        assert!(!world.has(name), "{name}");
    }
    assert!(world.objects.peek(strange).is_some());
    assert_eq!(world.versions("disk0"), [2, 8, 9]);
    assert_eq!(
        (one.objects, one.objects_needed, one.objects_unsettled),
        (18, 7, 5)
    );
    assert_eq!((one.objects_deleted, one.bytes_deleted), (5, 35));
    assert_eq!((one.manifests_deleted, one.unknown_keys), (1, 1));
    assert_eq!(world.objects.count(OperationKind::Create), 0, "no expiry");

    let again = world.collect(keep_history()).await;
    assert_eq!(again.deleted(), 0);
}

#[tokio::test(start_paused = true)]
async fn tombstones_stay_and_so_does_the_newest() {
    let world = World::new();
    let tombstone = |version, state| Manifest {
        state,
        ..manifest("disk0", version, version, &[])
    };
    world.publish(&manifest("disk0", 1, 1, &[object("disk0", 1, 1)]));
    world.publish(&tombstone(2, ImageState::Tombstone));
    world.publish(&tombstone(3, ImageState::Abandoned));
    world.publish(&manifest("disk0", 4, 4, &[]));
    world.publish(&manifest("disk0", 5, 5, &[]));
    world.publish(&tombstone(6, ImageState::Tombstone));
    world.upload(&[object("disk0", 1, 1)]);
    let report = world.collect(at_once()).await;
    assert!(report.all_went_well(), "{report:?}");
    assert_eq!(world.versions("disk0"), [2, 3, 6]);
    assert!(!world.has(&object("disk0", 1, 1)));
    // And there it rests.
    assert_eq!(world.collect(at_once()).await.deleted(), 0);
    assert_eq!(world.objects.count(OperationKind::Create), 0);
}

#[tokio::test(start_paused = true)]
async fn uploads_are_judged_by_their_keys() {
    let world = World::new();
    let mut newest = manifest("disk0", 1, 1, &[object("disk0", 1, 3)]);
    newest.watermark = ObjectSequence(10);
    world.publish(&newest);
    world.upload(&[object("disk0", 1, 3)]);
    let keys = [
        (object("disk0", 1, 9).key(), false),
        (object("disk0", 0, 99).key(), false),
        (object("disk0", 1, 3).key(), true),
        (object("disk0", 1, 10).key(), true),
        (object("disk0", 2, 0).key(), true),
        ("images/disk0/objects/x".to_owned(), true),
    ];
    for (key, _) in &keys {
        world.objects.start_upload(key).await.unwrap();
    }
    let report = world.collect(keep_history()).await;
    assert!(report.all_went_well(), "{report:?}");
    assert_eq!(report.images[0].uploads_aborted, 2);
    let left = world.objects.list_uploads("").await.unwrap();
    for (key, stays) in &keys {
        assert_eq!(left.iter().any(|it| it.key == *key), *stays, "{key}");
    }
}

/// What is unreadable stops its image and no other.
#[tokio::test(start_paused = true)]
async fn an_unreadable_manifest_stops_its_image() {
    for damage in ["newest", "retained", "named", "newer format", "lost"] {
        let world = World::new();
        for of in ["disk0", "disk1", "disk2"] {
            let newest = Manifest {
                snapshots: vec![snapshot("s", 1)],
                ..manifest(of, 4, 3, &[object(of, 1, 4)])
            };
            world.publish(&newest);
            world.publish(&manifest(of, 3, 3, &[object(of, 1, 3)]));
            world.publish(&manifest(of, 2, 2, &[]));
            world.publish(&manifest(of, 1, 1, &[object(of, 1, 1)]));
            world.upload(&[1, 2, 3, 4].map(|sequence| object(of, 1, sequence)));
        }
        let version = match damage {
            "newest" => 4,
            "named" => 1,
            _ => 3,
        };
        let key = manifest_key(&image("disk1"), Version(version));
        let mut bytes = world.objects.peek(&key).unwrap().to_vec();
        match damage {
            "lost" => world.objects.remove(&key),
            "newer format" => {
                bytes[4] = 1 + crate::format::codec::RecordKind::Manifest.version() as u8;
                let seed = crate::format::codec::ObjectSeed::of_key(&key);
                let body = bytes.len() - 8;
                let checksum = seed.checksum(&bytes[..body]);
                bytes[body..].copy_from_slice(&checksum.to_le_bytes());
                world.objects.poke(&key, bytes.into());
            }
            _ => {
                bytes[20] ^= 1;
                world.objects.poke(&key, bytes.into());
            }
        }
        let before = world.objects.keys();
        let report = world.collect(keep_history()).await;
        assert!(!report.all_went_well());
        let problems: Vec<usize> = report.images.iter().map(|it| it.problems.len()).collect();
        assert_eq!(problems, [0, 1, 0], "{damage}: {report:?}");
        if damage == "newer format" {
            let problem = &report.images[1].problems[0];
            assert!(problem.contains("upgrade"), "{problem}");
        }
        let after = world.objects.keys();
        let of_disk1 = |keys: &[String]| -> Vec<String> {
            let own = keys.iter().filter(|key| key.starts_with("images/disk1/"));
            own.cloned().collect()
        };
        assert_eq!(of_disk1(&before), of_disk1(&after), "{damage}");
        assert!(!world.has(&object("disk0", 1, 2)));
        assert!(!world.has(&object("disk2", 1, 2)));
    }
}

#[tokio::test(start_paused = true)]
async fn failures_are_counted_and_the_rest_goes() {
    let world = World::new();
    world.publish(&manifest("disk0", 1, 1, &[]));
    let names: Vec<ObjectName> = (0..2500)
        .map(|sequence| object("disk0", 1, sequence))
        .collect();
    world.upload(&names);
    let mut deletions = 0;
    world.objects.set_script(move |operation| {
        if operation.kind != OperationKind::Delete {
            return Verdict::Serve;
        }
        deletions += 1;
        match deletions {
            1 => Verdict::Fail(StoreError::Denied {
                reason: "not yours".to_owned(),
            }),
            2 => Verdict::unavailable(),
            3 => Verdict::reply_lost(),
            _ => Verdict::Serve,
        }
    });
    let report = world.collect(keep_history()).await;
    assert!(!report.all_went_well());
    let one = &report.images[0];
    assert_eq!(one.objects_deleted, 1500);
    assert_eq!(one.problems.len(), 1);
    assert!(one.problems[0].starts_with("1000 keys"), "{one:?}");
    let report = world.collect(keep_history()).await;
    assert!(report.all_went_well());
    assert_eq!(report.images[0].objects_deleted, 1000);
    assert_eq!(world.objects.keys().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn no_more_is_deleted_than_is_allowed() {
    let world = World::new();
    for of in ["disk0", "disk1"] {
        world.publish(&manifest(of, 1, 1, &[]));
        let names: Vec<ObjectName> = (0..1200).map(|sequence| object(of, 1, sequence)).collect();
        world.upload(&names);
    }
    let limited = CollectionPolicy {
        deletes_max: Some(1500),
        ..keep_history()
    };
    let report = world.collect(limited).await;
    assert!(report.all_went_well() && report.limit_reached);
    assert_eq!(report.deleted(), 1500);
    assert_eq!(world.objects.keys().len(), 2 + 900);
    let report = world.collect(limited).await;
    assert!(!report.limit_reached);
    assert_eq!((report.deleted(), world.objects.keys().len()), (900, 2));
}

#[tokio::test(start_paused = true)]
async fn a_name_without_a_manifest_is_left_alone() {
    let world = World::new();
    world.upload(&[object("disk0", 1, 1)]);
    let report = world.collect(at_once()).await;
    assert!(report.all_went_well());
    assert!(world.has(&object("disk0", 1, 1)));
}
