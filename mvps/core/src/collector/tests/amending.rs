//! Versions are forgotten by publication, before anything is deleted.

use std::sync::{Arc, Mutex};

use super::world::*;
use crate::collector::CollectionPolicy;
use crate::collector::expiry::ExpiryPolicy;
use crate::env::memory::Verdict;
use crate::env::{Clock, OperationKind};
use crate::format::manifest::{ImageState, Manifest};
use crate::format::object_name::manifest_key;
use crate::ids::Version;

/// Six versions, one object each that only it references, one object that all do; version 2 is a
/// snapshot. Published a day apart, the last one now.
fn six_versions(world: &World, state: ImageState) {
    let now = world.clock.wall().unix_ms;
    let day_ms = u64::try_from(DAY.as_millis()).unwrap();
    let shared = object("disk0", 1, 0);
    for version in 1..=6 {
        let own = object("disk0", 1, version);
        let mut next = manifest("disk0", version, 1, &[shared.clone(), own.clone()]);
        next.published_at.unix_ms = now - (6 - version) * day_ms;
        next.snapshots = vec![snapshot("s", version.min(2))];
        next.state = state;
        world.publish(&next);
        world.upload(&[shared.clone(), own]);
    }
}

#[tokio::test(start_paused = true)]
async fn everything_but_the_newest_and_the_named() {
    for state in [ImageState::Clean, ImageState::Active] {
        let world = World::new();
        six_versions(&world, state);
        let report = world.collect(at_once()).await;
        assert!(report.all_went_well(), "{report:?}");
        assert_eq!(world.versions("disk0"), [2, 7]);
        let newest = world.newest("disk0");
        assert_eq!(newest.oldest_retained, Version(7));
        assert_eq!(newest.state, state);
        assert_eq!(newest.segments, world.version("disk0", 7).segments);
        let left: Vec<bool> = (0..=6)
            .map(|sequence| world.has(&object("disk0", 1, sequence)))
            .collect();
        assert_eq!(left, [true, false, true, false, false, false, true]);
        let one = &report.images[0];
        assert_eq!(one.versions_forgotten, 6);
        assert_eq!((one.objects_deleted, one.manifests_deleted), (4, 5));
        world.check_nothing_needed_is_missing();
        let again = world.collect(at_once()).await;
        assert_eq!(again.deleted(), 0);
        assert_eq!(world.newest("disk0").version, Version(7), "it rests");
    }
}

#[tokio::test(start_paused = true)]
async fn as_the_policy_says() {
    for (days, states_min, oldest) in [(3, 1, 3), (1, 4, 3), (100, 1, 1), (0, 2, 5), (5, 1, 1)] {
        let world = World::new();
        six_versions(&world, ImageState::Active);
        let policy = CollectionPolicy {
            expiry: ExpiryPolicy {
                inactive: DAY * days,
                states_min,
            },
            ..at_once()
        };
        let report = world.collect(policy).await;
        assert!(report.all_went_well(), "{report:?}");
        let newest = world.newest("disk0");
        assert_eq!(newest.oldest_retained, Version(oldest), "{days} days");
        world.check_nothing_needed_is_missing();
    }
}

/// Nothing is deleted that the manifest that was published by then retains.
#[tokio::test(start_paused = true)]
async fn deletions_follow_the_publication() {
    let world = World::new();
    six_versions(&world, ImageState::Active);
    let order = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&order);
    world.objects.set_script(move |operation| {
        seen.lock().unwrap().push(operation.kind);
        Verdict::Serve
    });
    world.collect(at_once()).await;
    let order = order.lock().unwrap();
    let at = |kind| order.iter().position(|it| *it == kind).unwrap();
    let created = at(OperationKind::Create);
    let rechecked = order[created..]
        .iter()
        .position(|it| *it == OperationKind::List)
        .map(|after| created + after)
        .unwrap();
    assert!(rechecked < at(OperationKind::Delete), "{order:?}");
}

/// A collector whose expiry cannot be published deletes nothing that is retained.
#[tokio::test(start_paused = true)]
async fn without_publication_nothing_is_forgotten() {
    let world = World::new();
    six_versions(&world, ImageState::Active);
    let before = world.objects.keys();
    world.objects.set_script(|operation| match operation.kind {
        OperationKind::Create => Verdict::Fail(crate::env::StoreError::Denied {
            reason: "read only".to_owned(),
        }),
        _ => Verdict::Serve,
    });
    let report = world.collect(at_once()).await;
    assert!(!report.all_went_well());
    assert_eq!(world.objects.keys(), before);
}

/// A server publishes while the collector does: the collector goes on from there.
#[tokio::test(start_paused = true)]
async fn a_publication_in_the_way_is_built_upon() {
    let world = World::new();
    six_versions(&world, ImageState::Active);
    let objects = Arc::clone(&world.objects);
    let fresh = object("disk0", 1, 50);
    let theirs = Manifest {
        publication: world.newest("disk0").publication.next(),
        version: Version(7),
        ..manifest("disk0", 7, 1, &[object("disk0", 1, 0), fresh.clone()])
    };
    let theirs = Manifest {
        state: ImageState::Active,
        ..theirs
    };
    world.upload(std::slice::from_ref(&fresh));
    let (key, body) = (manifest_key(&theirs.image, theirs.version), theirs.encode());
    let mut done = false;
    world.objects.set_script(move |operation| {
        if operation.kind == OperationKind::Create && !done {
            done = true;
            objects.poke(&key, body.clone());
        }
        Verdict::Serve
    });
    let report = world.collect(at_once()).await;
    assert!(report.all_went_well(), "{report:?}");
    let newest = world.newest("disk0");
    assert_eq!(
        (newest.version, newest.oldest_retained),
        (Version(8), Version(7))
    );
    assert_eq!(newest.publication, theirs.publication);
    assert!(world.has(&fresh));
    assert!(world.has(&object("disk0", 1, 0)));
    world.check_nothing_needed_is_missing();
}

/// A dry run says what a real one does, and does nothing.
#[tokio::test(start_paused = true)]
async fn a_dry_run_tells_the_truth() {
    let world = World::new();
    six_versions(&world, ImageState::Clean);
    let before = world.objects.keys();
    let policy = CollectionPolicy {
        dry_run: true,
        ..at_once()
    };
    let mut foretold = world.collect(policy).await;
    assert_eq!(world.objects.keys(), before);
    for kind in [
        OperationKind::Create,
        OperationKind::Put,
        OperationKind::Delete,
        OperationKind::AbortUpload,
    ] {
        assert_eq!(world.objects.count(kind), 0, "{kind:?}");
    }
    assert!(foretold.dry_run && foretold.deleted() > 0);
    let done = world.collect(at_once()).await;
    foretold.dry_run = false;
    assert_eq!(foretold, done);
}

/// Another collector forgets and deletes while this one reads: this one reads again.
#[tokio::test(start_paused = true)]
async fn a_retained_version_that_vanishes_is_no_damage() {
    let world = World::new();
    six_versions(&world, ImageState::Active);
    let objects = Arc::clone(&world.objects);
    let theirs = Manifest {
        oldest_retained: Version(7),
        snapshots: world.newest("disk0").snapshots,
        state: ImageState::Active,
        ..manifest(
            "disk0",
            7,
            7,
            &[object("disk0", 1, 0), object("disk0", 1, 6)],
        )
    };
    let (key, body) = (manifest_key(&theirs.image, theirs.version), theirs.encode());
    let gone = [1, 3, 4, 5, 6].map(|version| manifest_key(&image("disk0"), Version(version)));
    let mut gets = 0;
    world.objects.set_script(move |operation| {
        gets += usize::from(operation.kind == OperationKind::Get);
        if gets == 2 {
            objects.poke(&key, body.clone());
            gone.iter().for_each(|key| objects.remove(key));
        }
        Verdict::Serve
    });
    let report = world.collect(keep_history()).await;
    world.objects.clear_script();
    world.check_nothing_needed_is_missing();
    assert!(report.all_went_well(), "{report:?}");
    assert!(!world.has(&object("disk0", 1, 5)));
}
