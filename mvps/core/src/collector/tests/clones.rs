//! Pins: released when their clones need nothing any more, and never before.

use super::world::*;
use crate::collector::{CollectionPolicy, CollectionReport};
use crate::env::OperationKind;
use crate::env::memory::Verdict;
use crate::format::manifest::{ImageState, Manifest, Pinned};
use crate::format::object_name::{ObjectName, manifest_key};
use crate::ids::{Incarnation, Version};

/// `base` has rewritten everything that `copy` was cloned from, and has forgotten it.
fn base_with_pin(world: &World, incarnation: u128) -> ObjectName {
    let shared = object("base", 1, 1);
    let own = object("base", 1, 2);
    let pin = clone_pin("copy", incarnation, Pinned::Objects(vec![shared.clone()]));
    let base = Manifest {
        pins: vec![pin],
        ..manifest("base", 5, 5, std::slice::from_ref(&own))
    };
    world.publish(&base);
    world.upload(&[shared.clone(), own]);
    shared
}

fn released(report: &CollectionReport) -> bool {
    report
        .images
        .iter()
        .any(|it| it.pins_released.contains("copy"))
}

/// Each life of the name `copy`, and whether the pin for life 1 goes.
#[tokio::test(start_paused = true)]
async fn each_case() {
    type Make = fn(ObjectName) -> Vec<Manifest>;
    let cases: [(&str, Make, bool); 9] = [
        ("shares", |it| vec![manifest("copy", 1, 1, &[it])], false),
        (
            "an older version shares",
            |it| {
                let own = object("copy", 1, 9);
                vec![
                    manifest("copy", 1, 1, &[it]),
                    manifest("copy", 2, 1, &[own]),
                ]
            },
            false,
        ),
        (
            "a snapshot shares",
            |it| {
                let own = object("copy", 1, 9);
                let newest = Manifest {
                    snapshots: vec![snapshot("s", 1)],
                    ..manifest("copy", 2, 2, &[own])
                };
                vec![manifest("copy", 1, 1, &[it]), newest]
            },
            false,
        ),
        (
            "shares nothing any more",
            |it| {
                let own = object("copy", 1, 9);
                vec![
                    manifest("copy", 1, 1, &[it]),
                    manifest("copy", 2, 2, &[own]),
                ]
            },
            true,
        ),
        (
            "deleted",
            |_| {
                let state = ImageState::Tombstone;
                vec![Manifest {
                    state,
                    ..manifest("copy", 2, 2, &[])
                }]
            },
            true,
        ),
        (
            "deleted, and pinned for a clone of its own",
            |it| {
                let state = ImageState::Tombstone;
                vec![Manifest {
                    state,
                    pins: vec![clone_pin("third", 1, Pinned::Objects(vec![it]))],
                    ..manifest("copy", 2, 2, &[])
                }]
            },
            false,
        ),
        (
            "another life",
            |_| {
                vec![Manifest {
                    incarnation: Incarnation(2),
                    ..manifest("copy", 2, 2, &[])
                }]
            },
            true,
        ),
        (
            "another life, that carries a pin on",
            |it| {
                vec![Manifest {
                    incarnation: Incarnation(2),
                    pins: vec![clone_pin("third", 1, Pinned::Objects(vec![it]))],
                    ..manifest("copy", 2, 2, &[])
                }]
            },
            false,
        ),
        (
            "another life, deleted",
            |_| {
                vec![Manifest {
                    incarnation: Incarnation(2),
                    state: ImageState::Tombstone,
                    ..manifest("copy", 2, 2, &[])
                }]
            },
            true,
        ),
    ];
    for (what, make, goes) in cases {
        let world = World::new();
        let shared = base_with_pin(&world, 1);
        world.upload(&[object("copy", 1, 9)]);
        make(shared.clone()).iter().for_each(|it| world.publish(it));
        // What is pinned for `third` lives, and shares with both.
        let of_both = [shared.clone(), object("copy", 1, 9)];
        world.publish(&manifest("third", 1, 1, &of_both));
        let report = world.collect(keep_history()).await;
        assert!(report.all_went_well(), "{what}: {report:?}");
        assert_eq!(released(&report), goes, "{what}");
        assert_eq!(world.newest("base").pins.is_empty(), goes, "{what}");
        assert_eq!(world.has(&shared), !goes, "{what}");
        assert!(world.has(&object("base", 1, 2)), "{what}");
    }
}

/// A clone that never appeared loses its name, so that it cannot appear any more.
#[tokio::test(start_paused = true)]
async fn a_clone_that_never_appeared() {
    for deleted_before in [false, true] {
        let world = World::new();
        let shared = base_with_pin(&world, 1);
        let carried = clone_pin("third", 3, Pinned::Objects(vec![object("copy", 1, 1)]));
        if deleted_before {
            world.publish(&Manifest {
                state: ImageState::Tombstone,
                incarnation: Incarnation(2),
                pins: vec![carried.clone()],
                ..manifest("copy", 4, 4, &[])
            });
            world.publish(&Manifest {
                incarnation: Incarnation(3),
                ..manifest("third", 1, 1, &[object("copy", 1, 1)])
            });
            world.upload(&[object("copy", 1, 1)]);
        }
        let report = world.collect(keep_history()).await;
        assert!(report.all_went_well(), "{report:?}");
        assert!(released(&report));
        assert!(report.images[0].clones_abandoned.contains("copy"));
        assert!(!world.has(&shared));
        let tombstone = world.newest("copy");
        assert_eq!(tombstone.state, ImageState::Abandoned);
        if deleted_before {
            assert_eq!(tombstone.version, Version(5));
            assert_eq!(tombstone.pins, [carried]);
            assert!(world.has(&object("copy", 1, 1)));
        }
        world.check_nothing_needed_is_missing();
        let count = world.objects.count(OperationKind::Create);
        world.collect(keep_history()).await;
        assert_eq!(world.objects.count(OperationKind::Create), count, "rests");
    }
}

/// The clone appears while the collector waits, or just before it takes the name.
#[tokio::test(start_paused = true)]
async fn a_clone_that_appears_late_keeps_its_pin() {
    for creates_before in [0, 1] {
        let world = World::new();
        let shared = base_with_pin(&world, 1);
        let copy = manifest("copy", 1, 1, std::slice::from_ref(&shared));
        let (key, body) = (manifest_key(&copy.image, copy.version), copy.encode());
        let objects = world.objects.clone();
        let mut lists_of_copy = 0;
        world.objects.set_script(move |operation| {
            let about_copy = operation.key.starts_with("images/copy/");
            lists_of_copy += usize::from(about_copy && operation.kind == OperationKind::List);
            let creates = about_copy && operation.kind == OperationKind::Create;
            // After the first look, or at the last moment.
            if lists_of_copy == 3 && creates_before == 0 || creates {
                objects.poke(&key, body.clone());
            }
            Verdict::Serve
        });
        let report = world.collect(keep_history()).await;
        assert!(report.all_went_well(), "{report:?}");
        assert!(!released(&report), "{report:?}");
        assert!(world.has(&shared));
        assert_eq!(world.newest("base").pins.len(), 1);
        assert_eq!(world.newest("copy").state, ImageState::Clean);
    }
}

/// A pin whose clone cannot be read stays, and so does what it keeps; others are released.
#[tokio::test(start_paused = true)]
async fn an_unreadable_clone_keeps_its_pin() {
    let world = World::new();
    let shared = base_with_pin(&world, 1);
    let key = manifest_key(&image("copy"), Version(1));
    world
        .objects
        .poke(&key, bytes::Bytes::from_static(b"not a manifest"));
    world.upload(&[object("base", 1, 77)]);
    let report = world.collect(at_once()).await;
    assert!(!report.all_went_well());
    assert!(!released(&report));
    assert!(world.has(&shared));
    assert!(!world.has(&object("base", 1, 77)), "the rest of it goes on");
}

/// A chain of clones whose middle and end are deleted is taken apart in one pass.
#[tokio::test(start_paused = true)]
async fn a_chain_is_taken_apart() {
    let world = World::new();
    let shared = base_with_pin(&world, 1);
    let mut base = world.newest("base");
    let third = clone_pin("third", 1, Pinned::Objects(vec![shared.clone()]));
    base.pins.push(third.clone());
    world.publish(&base);
    let tombstone = |name, pins| Manifest {
        state: ImageState::Tombstone,
        pins,
        ..manifest(name, 2, 2, &[])
    };
    world.publish(&tombstone("copy", vec![third]));
    world.publish(&tombstone("third", Vec::new()));
    let report = world.collect(keep_history()).await;
    assert!(report.all_went_well(), "{report:?}");
    assert!(world.newest("base").pins.is_empty());
    assert!(world.newest("copy").pins.is_empty());
    assert!(!world.has(&shared));
}

/// Readers' pins are theirs: the collector does not know whether they live.
#[tokio::test(start_paused = true)]
async fn readers_keep_their_pins() {
    let world = World::new();
    let shared = object("base", 1, 1);
    let reader = crate::format::manifest::Pin {
        holder: crate::format::manifest::PinHolder::Reader("r".to_owned()),
        pinned: Pinned::Version(Version(2)),
    };
    world.publish(&Manifest {
        pins: vec![reader],
        ..manifest("base", 5, 5, &[])
    });
    world.publish(&manifest("base", 2, 2, std::slice::from_ref(&shared)));
    world.upload(std::slice::from_ref(&shared));
    world.collect(at_once()).await;
    assert!(world.has(&shared));
    assert_eq!(world.versions("base"), [2, 5]);
}

/// A dry run takes no names and releases nothing.
#[tokio::test(start_paused = true)]
async fn a_dry_run_takes_no_name() {
    let world = World::new();
    base_with_pin(&world, 1);
    let before = world.objects.keys();
    let policy = CollectionPolicy {
        dry_run: true,
        ..at_once()
    };
    assert!(world.collect(policy).await.all_went_well());
    assert_eq!(world.objects.keys(), before);
}
