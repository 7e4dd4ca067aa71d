//! A store whose images are made by hand, a collector on it, and what must hold afterwards.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::collector::expiry::ExpiryPolicy;
use crate::collector::{CollectionPolicy, CollectionReport, Collector, Silent};
use crate::env::memory::testing::TestClock;
use crate::env::memory::{MemoryObjectStore, SeededEntropy};
use crate::env::{Clock, WallTime};
use crate::format::manifest::{
    ImageState, Manifest, Pin, PinHolder, Pinned, SegmentEntry, SegmentId, Snapshot,
    example_manifest,
};
use crate::format::object_name::{
    ObjectKind, ObjectName, images_prefix, manifest_key, parse_manifest_key,
};
use crate::ids::{
    EpochNumber, ImageId, Incarnation, Lsn, ObjectSequence, Tenure, TenureId, Version,
};
use crate::store::{Patience, RetryingStore};

pub const DAY: Duration = Duration::from_hours(24);

pub fn image(name: &str) -> ImageId {
    ImageId::parse(name).unwrap()
}

/// Object `sequence` of `epoch` of the first life of `image`.
pub fn object(of: &str, epoch: u64, sequence: u64) -> ObjectName {
    ObjectName {
        image: image(of),
        incarnation: Incarnation(1),
        epoch: EpochNumber(epoch),
        sequence: ObjectSequence(sequence),
        suffix: 7,
        kind: ObjectKind::Segment,
    }
}

/// Version `version` of `of`: clean, of its first life, epoch 1, LSN as its version, with a
/// watermark above everything.
pub fn manifest(of: &str, version: u64, oldest: u64, names: &[ObjectName]) -> Manifest {
    let example = example_manifest();
    let entry = |(id, name): (u32, &ObjectName)| SegmentEntry {
        id: SegmentId(id),
        name: name.clone(),
        ..example.segments[0].clone()
    };
    Manifest {
        image: image(of),
        version: Version(version),
        incarnation: Incarnation(1),
        tenure: Tenure {
            epoch: EpochNumber(1),
            id: TenureId(1),
        },
        state: ImageState::Clean,
        others: Vec::new(),
        published_at: WallTime {
            unix_ms: TestClock::start().wall().unix_ms,
        },
        lsn: Lsn(version),
        watermark: ObjectSequence(1_000_000),
        oldest_retained: Version(oldest),
        next_segment: SegmentId(1_000_000),
        segments: (0..).zip(names).map(entry).collect(),
        maps: Vec::new(),
        root: None,
        tail: Vec::new(),
        retired: Vec::new(),
        snapshots: Vec::new(),
        pins: Vec::new(),
        takeovers: Vec::new(),
        data_keys: Vec::new(),
        ..example.clone()
    }
}

pub fn clone_pin(target: &str, incarnation: u128, pinned: Pinned) -> Pin {
    Pin {
        holder: PinHolder::Clone {
            target: image(target),
            incarnation: Incarnation(incarnation),
        },
        pinned,
    }
}

pub fn snapshot(name: &str, version: u64) -> Snapshot {
    Snapshot {
        name: name.to_owned(),
        version: Version(version),
        created_at: WallTime::default(),
    }
}

/// Forget everything but the newest version, at once.
pub fn at_once() -> CollectionPolicy {
    CollectionPolicy {
        expiry: ExpiryPolicy {
            inactive: Duration::ZERO,
            states_min: 1,
        },
        dry_run: false,
        deletes_max: None,
        abandon_after: Duration::from_secs(15),
    }
}

/// Forget nothing.
pub fn keep_history() -> CollectionPolicy {
    CollectionPolicy {
        expiry: ExpiryPolicy {
            inactive: DAY * 365,
            states_min: 1,
        },
        ..at_once()
    }
}

pub struct World {
    pub objects: Arc<MemoryObjectStore>,
    pub clock: Arc<TestClock>,
    pub entropy: Arc<SeededEntropy>,
}

impl World {
    pub fn new() -> Self {
        Self {
            objects: Arc::new(MemoryObjectStore::new()),
            clock: Arc::new(TestClock::start()),
            entropy: Arc::new(SeededEntropy::new(1)),
        }
    }

    pub fn publish(&self, manifest: &Manifest) {
        let key = manifest_key(&manifest.image, manifest.version);
        self.objects.poke(&key, manifest.encode());
    }

    pub fn upload(&self, names: &[ObjectName]) {
        for name in names {
            self.objects
                .poke(&name.key(), Bytes::from_static(b"segment"));
        }
    }

    pub fn store(&self, patience: Patience) -> RetryingStore {
        let objects = self.objects.clone();
        RetryingStore::new(objects, self.clock.clone(), self.entropy.clone())
            .with_patience(patience)
    }

    pub fn collector(&self, policy: CollectionPolicy, patience: Patience) -> Collector {
        Collector::new(
            self.store(patience),
            self.clock.clone(),
            self.entropy.clone(),
            policy,
            Arc::new(Silent),
        )
    }

    pub async fn collect(&self, policy: CollectionPolicy) -> CollectionReport {
        let collector = self.collector(policy, Patience::Forever);
        collector.collect(None).await.unwrap()
    }

    pub fn has(&self, name: &ObjectName) -> bool {
        self.objects.peek(&name.key()).is_some()
    }

    /// The newest manifest of `of`.
    pub fn newest(&self, of: &str) -> Manifest {
        let versions = self.versions(of);
        self.version(of, *versions.last().unwrap())
    }

    pub fn version(&self, of: &str, version: u64) -> Manifest {
        let key = manifest_key(&image(of), Version(version));
        let bytes = self.objects.peek(&key).expect("it is there");
        Manifest::decode(&image(of), Version(version), &bytes).unwrap()
    }

    /// The versions of `of` that have a manifest, ascending.
    pub fn versions(&self, of: &str) -> Vec<u64> {
        let keys = self.objects.keys();
        let parsed = keys.iter().filter_map(|key| parse_manifest_key(key).ok());
        let own = parsed.filter(|(found, _)| *found == image(of));
        let mut versions: Vec<u64> = own.map(|(_, version)| version.0).collect();
        versions.sort_unstable();
        versions
    }

    /// Every object that anything retained of any image references or pins is there. This reads the
    /// rules from the protocol, not from the code under test.
    pub fn check_nothing_needed_is_missing(&self) {
        let keys: BTreeSet<String> = self.objects.keys().into_iter().collect();
        let images: BTreeSet<ImageId> = keys
            .iter()
            .filter_map(|key| parse_manifest_key(key).ok())
            .map(|(image, _)| image)
            .collect();
        for of in images {
            let newest = self.newest(of.as_str());
            let named = |version: u64| {
                newest.snapshots.iter().any(|it| it.version.0 == version)
                    || newest
                        .pins
                        .iter()
                        .any(|it| it.pinned == Pinned::Version(Version(version)))
            };
            let mut needed: Vec<&ObjectName> = newest.retired.iter().map(|it| &it.name).collect();
            for pin in &newest.pins {
                if let Pinned::Objects(names) = &pin.pinned {
                    needed.extend(names);
                }
            }
            let retained: Vec<Manifest> = (1..=newest.version.0)
                .filter(|version| *version >= newest.oldest_retained.0 || named(*version))
                .map(|version| self.version(of.as_str(), version))
                .collect();
            needed.extend(
                retained
                    .iter()
                    .flat_map(|it| &it.segments)
                    .map(|it| &it.name),
            );
            for name in needed {
                assert!(keys.contains(&name.key()), "{of} needs {name}");
            }
        }
        assert!(keys.iter().all(|key| key.starts_with(images_prefix())));
    }
}
