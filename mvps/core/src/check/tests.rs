use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::collector::expiry::ExpiryPolicy;
use crate::collector::{CollectionPolicy, Collector, Silent};
use crate::encryption::{RootKey, RootKeys};
use crate::engine::{Acknowledge, EngineConfig, Host, open};
use crate::env::memory::testing::test_environment;
use crate::env::memory::{MemoryBufferStores, MemoryObjectStore};
use crate::env::{Environment, OperationKind};
use crate::format::manifest::Manifest;
use crate::format::object_name::{manifest_key, parse_manifest_key};
use crate::format::segment::SegmentIndex;
use crate::ids::{ImageId, PageSize, Version};
use crate::protocol::{Intent, OpeningRequest};
use crate::store::RetryingStore;

const PAGE: u64 = 4096;

fn image() -> ImageId {
    ImageId::parse("disk0").unwrap()
}

struct World {
    objects: Arc<MemoryObjectStore>,
    environment: Environment,
}

impl World {
    /// A closed image with enough checkpoints for a compacted map and segments after it.
    async fn written() -> Self {
        Self::written_with(RootKeys::none()).await
    }

    async fn written_with(root_keys: RootKeys) -> Self {
        let (environment, objects) = test_environment(1, Arc::new(MemoryBufferStores::new()));
        let host = Host::new(environment.clone(), 16 << 20).with_root_keys(root_keys);
        let request = OpeningRequest {
            image: image(),
            page_size: PageSize::from_bits(12).unwrap(),
            image_size_bytes: Some(64 << 20),
            intent: Intent::CreateOrGrow,
        };
        let config = EngineConfig {
            checkpoint_interval: Duration::from_hours(1),
            compression: None,
            ..EngineConfig::default()
        };
        let disk = open(&host, &request, config).await.unwrap().attach();
        for round in 0..40_u64 {
            for page in [round % 7, 5000 + round, 9000 + round % 3] {
                let body = Bytes::from(vec![round as u8 + 1; PAGE as usize]);
                let written = disk.write(page * PAGE, body, Acknowledge::Buffered);
                written.await.unwrap();
            }
            disk.trim(PAGE * (round % 11), PAGE, Acknowledge::Buffered)
                .await
                .unwrap();
            disk.image().checkpoint().await.unwrap();
        }
        disk.image().close().await.unwrap();
        Self {
            objects,
            environment,
        }
    }

    fn store(&self) -> RetryingStore {
        RetryingStore::new(
            self.environment.objects.clone(),
            self.environment.clock.clone(),
            self.environment.entropy.clone(),
        )
    }

    async fn check(&self, read_data: bool) -> ImageCheck {
        let checker = Checker::new(self.store(), read_data, Arc::new(|_| {}));
        checker.check(None).await.unwrap().images.remove(0)
    }

    /// Reads content, with these root keys.
    async fn check_with(&self, root_keys: RootKeys) -> ImageCheck {
        let checker = Checker::new(self.store(), true, Arc::new(|_| {}));
        let report = checker.with_root_keys(root_keys).check(None).await;
        report.unwrap().images.remove(0)
    }

    async fn collect(&self) {
        let policy = CollectionPolicy {
            expiry: ExpiryPolicy {
                inactive: Duration::ZERO,
                states_min: 1,
            },
            dry_run: false,
            deletes_max: None,
            abandon_after: Duration::ZERO,
        };
        let (clock, entropy) = (&self.environment.clock, &self.environment.entropy);
        let collector = Collector::new(
            self.store(),
            clock.clone(),
            entropy.clone(),
            policy,
            Arc::new(Silent),
        );
        assert!(collector.collect(None).await.unwrap().all_went_well());
    }

    fn newest(&self) -> Manifest {
        let keys = self.objects.keys();
        let key = keys.iter().find(|key| key.contains("/manifests/")).unwrap();
        let (image, version) = parse_manifest_key(key).unwrap();
        Manifest::decode(&image, version, &self.objects.peek(key).unwrap()).unwrap()
    }

    fn publish(&self, manifest: &Manifest) {
        let key = manifest_key(&manifest.image, manifest.version);
        self.objects.poke(&key, manifest.encode());
    }
}

fn kinds(check: &ImageCheck) -> Vec<FindingKind> {
    let mut kinds: Vec<FindingKind> = check.findings.iter().map(|it| it.kind).collect();
    kinds.sort();
    kinds.dedup();
    kinds
}

#[tokio::test(start_paused = true)]
async fn what_the_engine_and_the_collector_leave_is_clean() {
    let world = World::written().await;
    assert!(world.newest().root.is_some(), "the map was compacted");
    let writes = |world: &World| -> usize {
        use OperationKind::{AbortUpload, Create, Delete, Put};
        let kinds = [Put, Create, Delete, AbortUpload].into_iter();
        kinds.map(|kind| world.objects.count(kind)).sum()
    };
    let writes_before = writes(&world);
    for read_data in [false, true] {
        let check = world.check(read_data).await;
        assert_eq!(check.findings, [], "{check:?}");
        assert_eq!(check.versions, world.newest().version.0);
        assert_eq!(check.objects, check.objects_verified);
        assert_eq!(check.data_bytes_verified > 40 * 3 * PAGE / 2, read_data);
        assert_eq!(check.leaks, Some(Leaks::default()));
    }
    let before = world.check(false).await;
    assert_eq!(writes(&world), writes_before, "a check changes nothing");
    world.collect().await;
    let after = world.check(true).await;
    assert_eq!(after.findings, [], "{after:?}");
    assert_eq!((after.versions, after.leaks), (1, Some(Leaks::default())));
    assert!(after.objects < before.objects, "{before:?} {after:?}");
}

#[tokio::test(start_paused = true)]
async fn leaks_are_told_from_faults() {
    let world = World::written().await;
    let newest = world.newest();
    let mut name = newest.segments[0].name.clone();
    let body = world.objects.peek(&name.key()).unwrap();
    name.suffix += 1;
    world.objects.poke(&name.key(), body.clone());
    name.epoch = name.epoch.next();
    world.objects.poke(&name.key(), body.clone());
    let bytes = body.len() as u64;
    let check = world.check(true).await;
    assert_eq!(check.findings, []);
    let expected = Leaks {
        garbage: 1,
        garbage_bytes: bytes,
        unsettled: 1,
        unsettled_bytes: bytes,
    };
    assert_eq!(check.leaks, Some(expected));
    world.objects.poke("images/disk0/objects/x", Bytes::new());
    let check = world.check(false).await;
    assert_eq!(kinds(&check), [FindingKind::UnknownKey]);
}

/// Every object that is referenced is missed.
#[tokio::test(start_paused = true)]
async fn every_lost_object_is_found() {
    let world = World::written().await;
    let objects = world.objects.keys().into_iter();
    let objects: Vec<String> = objects.filter(|key| key.contains("/objects/")).collect();
    for key in objects {
        let body = world.objects.peek(&key).unwrap();
        world.objects.remove(&key);
        let check = world.check(false).await;
        assert_eq!(kinds(&check), [FindingKind::Dangling], "{key}");
        assert!(check.findings.iter().any(|it| it.key == key), "{key}");
        world.objects.poke(&key, body);
    }
    assert_eq!(world.check(false).await.findings, []);
}

/// Every byte of every referenced object is covered by a checksum that is looked at: no flipped
/// bit, no cut and no appended byte is missed.
#[tokio::test(start_paused = true)]
async fn every_damage_is_found() {
    let world = World::written().await;
    world.collect().await;
    let objects = world.objects.keys().into_iter();
    let objects: Vec<String> = objects.filter(|key| key.contains("/objects/")).collect();
    let mut dead_leaf_bytes = 0;
    for key in objects {
        let body = world.objects.peek(&key).unwrap();
        for at in (0..body.len()).step_by(613).chain([0, body.len() - 1]) {
            let mut damaged = body.to_vec();
            damaged[at] ^= 1 << (at % 8);
            world.objects.poke(&key, damaged.into());
            let check = world.check(true).await;
            if key.ends_with(".map") && check.findings.is_empty() {
                // A leaf that a later map compaction replaced is referenced by nothing any more.
                dead_leaf_bytes += 1;
                continue;
            }
            assert_eq!(kinds(&check), [FindingKind::Damaged], "{key} at {at}");
        }
        world.objects.poke(&key, body.slice(..body.len() - 1));
        assert!(!world.check(false).await.findings.is_empty(), "{key} cut");
        let longer = [&body[..], b"x"].concat();
        world.objects.poke(&key, longer.into());
        let check = world.check(false).await;
        assert_eq!(kinds(&check), [FindingKind::WrongSize], "{key} longer");
        world.objects.poke(&key, body);
    }
    assert!(dead_leaf_bytes < 20, "{dead_leaf_bytes}");
}

#[tokio::test(start_paused = true)]
async fn a_manifest_that_lies_is_found_out() {
    type Lie = fn(&mut Manifest);
    let lies: [(&str, Lie, FindingKind); 5] = [
        (
            "more pages",
            |it| it.segments.iter_mut().for_each(|it| it.pages += 1),
            FindingKind::WrongCount,
        ),
        (
            "fewer live pages",
            |it| {
                let compacted = it.segments.iter_mut().find(|s| !it.tail.contains(&s.id));
                compacted.unwrap().live_pages -= 1;
            },
            FindingKind::WrongCount,
        ),
        (
            "another size",
            |it| it.segments[0].size_bytes += 1,
            FindingKind::Damaged,
        ),
        (
            "a segment less",
            |it| {
                let compacted = it.segments.iter().position(|s| !it.tail.contains(&s.id));
                it.segments.remove(compacted.unwrap());
            },
            FindingKind::Dangling,
        ),
        (
            "a smaller image",
            |it| it.size_bytes = PAGE * 4096,
            FindingKind::Damaged,
        ),
    ];
    for (what, lie, expected) in lies {
        let world = World::written().await;
        world.collect().await;
        let mut newest = world.newest();
        lie(&mut newest);
        world.publish(&newest);
        let found = kinds(&world.check(false).await);
        assert!(found.contains(&expected), "{what}: {found:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn manifests_are_missed_too() {
    let world = World::written().await;
    let key = manifest_key(&image(), Version(7));
    let body = world.objects.peek(&key).unwrap();
    world.objects.poke(&key, body.slice(..100));
    let check = world.check(false).await;
    assert_eq!(kinds(&check), [FindingKind::UnreadableManifest]);
    assert_eq!(check.leaks, None, "nobody knows what it references");
    world.objects.remove(&key);
    let check = world.check(false).await;
    assert_eq!(kinds(&check), [FindingKind::LostManifest]);
    let report = Checker::new(world.store(), false, Arc::new(|_| {}))
        .check(Some(&ImageId::parse("other").unwrap()))
        .await
        .unwrap();
    assert!(!report.is_clean(), "there is no such image");
}

fn root_keys(byte: u8) -> RootKeys {
    RootKeys::new(vec![RootKey::new([byte; 32].into())])
}

#[tokio::test(start_paused = true)]
async fn an_encrypted_image_is_checked_as_far_as_the_keys_go() {
    let world = World::written_with(root_keys(1)).await;
    // The collector needs no key.
    world.collect().await;
    let structure = world.check(false).await;
    assert_eq!(
        (&structure.findings[..], &structure.unopened),
        (&[][..], &None)
    );
    let opened = world.check_with(root_keys(1)).await;
    assert_eq!((&opened.findings[..], &opened.unopened), (&[][..], &None));
    assert!(opened.encrypted && opened.data_bytes_verified > 0);
    for strange in [RootKeys::none(), root_keys(2)] {
        let closed = world.check_with(strange).await;
        assert_eq!(closed.findings, []);
        let reason = closed.unopened.expect("it says so");
        assert!(reason.contains("MVPS_TE_ROOT_KEY"), "{reason}");
        assert_eq!(closed.data_bytes_verified, opened.data_bytes_verified);
    }
}

#[tokio::test(start_paused = true)]
async fn altered_content_under_a_right_checksum_is_found_with_the_key() {
    let world = World::written_with(root_keys(1)).await;
    let newest = world.newest();
    let name = newest.segments.last().unwrap().name.clone();
    let body = world.objects.peek(&name.key()).unwrap();
    let entry = newest.segments.last().unwrap();
    let at = entry.index.offset as usize;
    let index = SegmentIndex::decode(name.seed(), &body[at..at + entry.index.bytes as usize]);
    let frame = &index.unwrap().frames[0];
    let range = frame.offset as usize..(frame.offset + frame.stored_bytes) as usize;
    let mut altered = body.to_vec();
    altered[range.end - 100] ^= 1;
    let checksum = name.seed().checksum(&altered[range.start + 8..range.end]);
    altered[range.start..range.start + 8].copy_from_slice(&checksum.to_le_bytes());
    world.objects.poke(&name.key(), altered.into());
    let found = world.check_with(root_keys(1)).await;
    assert_eq!(kinds(&found), [FindingKind::Damaged], "{found:?}");
    assert!(found.findings[0].reason.contains("altered"), "{found:?}");
    assert_eq!(world.check_with(RootKeys::none()).await.findings, []);
}
