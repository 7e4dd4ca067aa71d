//! Whatever fails, dies or runs beside it: nothing needed goes, and the next pass finishes.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join;
use proptest::prelude::*;

use super::world::*;
use crate::collector::CollectionPolicy;
use crate::env::memory::Verdict;
use crate::env::{EntropyExt, OperationKind};
use crate::format::manifest::{Manifest, Pinned};
use crate::format::object_name::{ObjectName, manifest_key};
use crate::ids::Version;
use crate::store::Patience;

/// A base with history, a snapshot, garbage and pins for three clones: one that lives, one that is
/// deleted, one that never appeared.
fn populate(world: &World) {
    let names: Vec<ObjectName> = (0..30)
        .map(|sequence| object("base", 1, sequence))
        .collect();
    world.upload(&names);
    for version in 1..=8_usize {
        let mut next = manifest("base", version as u64, 1, &names[version..version + 4]);
        next.snapshots = vec![snapshot("s", version.min(3) as u64)];
        for (number, target) in (0..).zip(["alive", "deleted", "never"]) {
            let pinned = vec![names[20 + number].clone(), names[23].clone()];
            next.pins
                .push(clone_pin(target, 1, Pinned::Objects(pinned)));
        }
        world.publish(&next);
    }
    world.publish(&manifest(
        "alive",
        1,
        1,
        &[names[20].clone(), names[23].clone()],
    ));
    world.publish(&Manifest {
        state: crate::format::manifest::ImageState::Tombstone,
        ..manifest("deleted", 3, 3, &[])
    });
}

/// The objects that are left when everything is done.
fn left(world: &World) -> Vec<String> {
    let keys = world.objects.keys().into_iter();
    keys.filter(|key| key.contains("/objects/")).collect()
}

fn run(future: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(future);
}

async fn expected() -> Vec<String> {
    let world = World::new();
    populate(&world);
    let report = world.collect(at_once()).await;
    assert!(report.all_went_well(), "{report:?}");
    world.check_nothing_needed_is_missing();
    let expected = left(&world);
    // The newest version's four, the snapshot's four, the living clone's two.
    assert_eq!(expected.len(), 10, "{expected:?}");
    expected
}

/// Killed before or after any of its requests, whether the request was carried out or not.
#[tokio::test(start_paused = true)]
async fn killed_anywhere() {
    let expected = expected().await;
    let world = World::new();
    populate(&world);
    world.collect(at_once()).await;
    let requests = world.objects.operations().len();
    for at in 0..requests {
        for applied in [false, true] {
            let world = World::new();
            populate(&world);
            let mut number = 0;
            world.objects.set_script(move |_| {
                number += 1;
                match number - 1 == at {
                    false => Verdict::Serve,
                    true if applied => Verdict::HangAfter,
                    true => Verdict::Hang,
                }
            });
            let collector = world.collector(at_once(), Patience::Forever);
            let limit = Duration::from_secs(60);
            let _ = tokio::time::timeout(limit, collector.collect(None)).await;
            world.objects.clear_script();
            world.check_nothing_needed_is_missing();
            let report = world.collect(at_once()).await;
            assert!(report.all_went_well(), "{at} {applied}: {report:?}");
            world.check_nothing_needed_is_missing();
            assert_eq!(left(&world), expected, "killed at {at}, {applied}");
        }
    }
}

/// Two collectors whose requests are delayed at random, over a store that fails at random, while a
/// server goes on publishing.
async fn two_at_once(seed: u64) {
    let world = World::new();
    populate(&world);
    let script_entropy = crate::env::memory::SeededEntropy::new(seed);
    let objects = Arc::clone(&world.objects);
    let mut published = 8;
    world.objects.set_script(move |operation| {
        let draw = script_entropy.below(100);
        if draw < 5 && published < 14 {
            // The server: what its newest manifest protects, and something of its own.
            let keys = objects.keys();
            let newest = keys.iter().find(|key| key.starts_with("images/base/man"));
            let (of, version) =
                crate::format::object_name::parse_manifest_key(newest.unwrap()).unwrap();
            let bytes = objects.peek(newest.unwrap()).unwrap();
            let mut next = Manifest::decode(&of, version, &bytes).unwrap();
            published += 1;
            let fresh = object("base", 1, 1_000_000 + published);
            objects.poke(&fresh.key(), bytes::Bytes::new());
            next.version = version.next();
            next.lsn = next.lsn.next();
            next.watermark.0 = 1_000_001 + published;
            next.segments[0].name = fresh;
            objects.poke(&manifest_key(&of, next.version), next.encode());
        }
        match draw {
            5..25 => Verdict::Delay(
                tokio::time::sleep(Duration::from_millis(script_entropy.below(3_600_000))).boxed(),
            ),
            25..35 => Verdict::unavailable(),
            35..45 if operation.kind != OperationKind::Get => Verdict::reply_lost(),
            _ => Verdict::Serve,
        }
    });
    let one = world.collector(at_once(), Patience::Forever);
    let two = world.collector(at_once(), Patience::Forever);
    let rounds = |collector| async move {
        let collector: crate::collector::Collector = collector;
        for _ in 0..3 {
            let _ = collector.collect(None).await;
        }
    };
    join(rounds(one), rounds(two)).await;
    world.objects.clear_script();
    world.check_nothing_needed_is_missing();
    let report = world.collect(at_once()).await;
    assert!(report.all_went_well(), "{seed}: {report:?}");
    world.check_nothing_needed_is_missing();
    assert_eq!(left(&world).len(), 10, "{seed}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn two_collectors_and_a_server(seed in any::<u64>()) {
        run(two_at_once(seed));
    }
}

/// A pause of any length between deciding and deleting changes nothing: the server has meanwhile
/// published with everything that was garbage still being garbage.
#[tokio::test(start_paused = true)]
async fn a_collector_that_slept() {
    let world = World::new();
    populate(&world);
    let objects = Arc::clone(&world.objects);
    let mut slept = false;
    world.objects.set_script(move |operation| {
        if operation.kind != OperationKind::Delete || slept {
            return Verdict::Serve;
        }
        slept = true;
        for version in 10..40_u64 {
            let fresh = object("base", 1, 1_000_000 + version);
            objects.poke(&fresh.key(), bytes::Bytes::new());
            let mut next = manifest("base", version, version, &[fresh]);
            next.watermark.0 = 1_000_001 + version;
            next.snapshots = vec![snapshot("s", 3)];
            objects.poke(&manifest_key(&next.image, Version(version)), next.encode());
        }
        Verdict::Delay(tokio::time::sleep(DAY).boxed())
    });
    let policy = CollectionPolicy {
        deletes_max: None,
        ..at_once()
    };
    world.collect(policy).await;
    world.check_nothing_needed_is_missing();
}
