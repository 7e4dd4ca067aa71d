//! Encrypted images: what is in the bucket, who can read it, and what becomes of it through clones,
//! rollback, takeover and new root keys.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::world::*;
use crate::admin::{Admin, clone_image, create_snapshot, rekey};
use crate::encryption::{ImageKeys, KeyError, RootKey, RootKeys};
use crate::engine::{EngineConfig, EngineError, OpenError, PublishedVersion};
use crate::format::frame::decode_frame;
use crate::format::manifest::Manifest;
use crate::format::object_name::{ObjectKind, ObjectName};
use crate::format::segment::{SEGMENT_FOOTER_BYTES, SegmentFooter, SegmentIndex};
use crate::ids::{ImageId, Version};
use crate::protocol::{ManifestStore, OpeningError};
use crate::token::Shown;

fn roots(bytes: &[u8]) -> RootKeys {
    let keys = bytes.iter().map(|byte| RootKey::new([*byte; 32].into()));
    RootKeys::new(keys.collect())
}

/// A machine of an operator with these root keys.
fn machine(world: &World, seed: u64, keys: &[u8]) -> Machine {
    let mut machine = world.machine(seed);
    machine.host = machine.host.with_root_keys(roots(keys));
    machine
}

struct Operator<'a> {
    machine: &'a Machine,
    manifests: ManifestStore,
}

impl<'a> Operator<'a> {
    fn at(machine: &'a Machine) -> Self {
        let manifests = ManifestStore::new(machine.host.store.clone());
        Self { machine, manifests }
    }

    fn admin(&self) -> Admin<'_> {
        Admin {
            manifests: &self.manifests,
            clock: &*self.machine.host.environment.clock,
            entropy: &*self.machine.entropy,
            root_keys: &self.machine.host.root_keys,
        }
    }

    async fn newest(&self, image: &ImageId) -> Manifest {
        let newest = self.manifests.newest(image).await.expect("readable");
        newest.expect("it exists")
    }

    /// What `shown` of `image` holds in page 0.
    async fn shown(&self, image: &ImageId, shown: &Shown) -> u8 {
        let newest = self.newest(image).await;
        let manifest = self.admin().load_shown(&newest, shown).await;
        let manifest = manifest.expect("it is kept");
        let version = PublishedVersion::open(&self.machine.host, &manifest).await;
        let read = version.expect("it opens").read(0, PAGE as u32).await;
        read.expect("it can be read").into_bytes()[0]
    }
}

fn other(name: &str) -> ImageId {
    ImageId::parse(name).expect("a valid name")
}

fn key_error(error: &OpenError) -> &KeyError {
    match error {
        OpenError::Opening(OpeningError::Key(error)) => error,
        other => panic!("{other:?}"),
    }
}

async fn refused(machine: &Machine) -> KeyError {
    let error = machine
        .try_open(config())
        .await
        .err()
        .expect("it is refused");
    key_error(&error).clone()
}

/// The segments in the bucket, with the first page of every frame.
fn frames(world: &World, newest: &Manifest, keys: &ImageKeys) -> Vec<(ObjectName, u64)> {
    let mut found = Vec::new();
    for key in world.objects.keys() {
        let Ok(name) = ObjectName::parse(&key) else {
            continue;
        };
        if name.kind != ObjectKind::Segment {
            continue;
        }
        let body = world.objects.peek(&key).expect("it was listed");
        let (seed, secret) = (name.seed(), name.segment_key(keys));
        let footer = SegmentFooter::decode(seed, &body[body.len() - SEGMENT_FOOTER_BYTES..]);
        let span = footer.expect("a footer").index;
        let at = span.offset as usize;
        let index = SegmentIndex::decode(seed, &body[at..at + span.bytes as usize]);
        for frame in index.expect("an index").frames {
            let at = frame.offset as usize;
            let stored = body.slice(at..at + frame.stored_bytes as usize);
            let decoded = decode_frame(seed, newest.page_size, secret.as_ref(), &stored);
            found.push((name.clone(), decoded.expect("it opens").pages[0].0));
        }
    }
    found
}

const MARKER: &[u8; 16] = b"a secret of mine";

#[tokio::test(start_paused = true)]
async fn the_bucket_never_holds_content_and_others_cannot_open_it() {
    for compression in [None, Some(1)] {
        let world = World::new();
        let owner = machine(&world, 1, &[1]);
        let config = EngineConfig {
            compression,
            ..config()
        };
        let disk = owner.try_open(config).await.expect("it opens").attach();
        let content = Bytes::from(MARKER.repeat(3 * PAGE / MARKER.len()));
        let written = disk.write(5 * PAGE as u64, content.clone(), FLUSHED);
        written.await.expect("a write");
        disk.image().close().await.expect("it closes");
        assert!(!world.objects.keys().is_empty());
        for key in world.objects.keys() {
            let body = world.objects.peek(&key).expect("it was listed");
            let found = body
                .windows(8)
                .any(|seen| MARKER.repeat(2).windows(8).any(|it| it == seen));
            assert!(!found, "{key} has some of it");
        }

        let objects_before = world.objects.keys();
        let none = refused(&machine(&world, 2, &[])).await;
        assert!(matches!(none, KeyError::NoRootKey { .. }), "{none}");
        let wrong = refused(&machine(&world, 3, &[2])).await;
        assert!(matches!(wrong, KeyError::OtherRootKey { .. }), "{wrong}");
        assert_eq!(world.objects.keys(), objects_before, "nobody was fenced");
        let disk = machine(&world, 4, &[2, 1]).open().await;
        let read = disk.read(5 * PAGE as u64, content.len() as u32).await;
        assert_eq!(read.expect("a read").into_bytes(), content);
    }
}

#[tokio::test(start_paused = true)]
async fn no_frame_is_sealed_as_another_was() {
    let world = World::new();
    // Servers that come and go, with and without takeovers, and a rollback in between.
    let mut first = None;
    for seed in 1..6 {
        let machine = machine(&world, seed, &[1]);
        let disk = machine.open().await;
        for page in 0..40 {
            write(&disk, page * 3, seed as u8).await;
        }
        let version = disk.image().checkpoint().await.expect("a checkpoint");
        disk.image()
            .roll_back(*first.get_or_insert(version))
            .await
            .expect("a rollback");
        for page in 0..40 {
            write(&disk, page * 3, seed as u8 + 100).await;
        }
        disk.image().checkpoint().await.expect("a checkpoint");
        if seed % 2 == 0 {
            let operator = Operator::at(&machine);
            let (clock, entropy) = (operator.admin().clock, operator.admin().entropy);
            crate::admin::takeover(&operator.manifests, clock, entropy, &image())
                .await
                .expect("a takeover");
        } else {
            disk.image().close().await.expect("it closes");
        }
    }
    let reader = machine(&world, 9, &[1]);
    let newest = Operator::at(&reader).newest(&image()).await;
    let keys = ImageKeys::unwrap(&roots(&[1]), &image(), &newest.data_keys).expect("its keys");
    let frames = frames(&world, &newest, &keys);
    assert!(frames.len() > 20, "{}", frames.len());
    let distinct: BTreeSet<_> = frames.iter().collect();
    assert_eq!(
        distinct.len(),
        frames.len(),
        "segment and first page: key and nonce"
    );
}

#[tokio::test(start_paused = true)]
async fn another_root_key_leaves_data_and_servers_alone() {
    let world = World::new();
    let old = machine(&world, 1, &[1]);
    let disk = old.open().await;
    write(&disk, 0, 7).await;
    let first = disk.image().checkpoint().await.expect("a checkpoint");
    let operator = Operator::at(&old);
    create_snapshot(&operator.admin(), &image(), "monday", None)
        .await
        .expect("a snapshot");
    write(&disk, 0, 8).await;
    disk.image().checkpoint().await.expect("a checkpoint");
    let segments = |world: &World| -> Vec<String> {
        let keys = world.objects.keys().into_iter();
        keys.filter(|key| key.ends_with(".segment")).collect()
    };
    let before = segments(&world);

    let nothing = rekey(&operator.admin(), &image())
        .await
        .expect("it has that key");
    assert_eq!((nothing.data_keys, nothing.replaced.len()), (0, 0));
    let both = machine(&world, 2, &[2, 1]);
    let done = rekey(&Operator::at(&both).admin(), &image())
        .await
        .expect("rekeyed");
    assert_eq!((done.data_keys, done.replaced.len()), (1, 1));
    assert!(done.active_writer.is_some());
    assert_eq!(segments(&world), before);

    // The server goes on with the data key that it has, and carries the new wrapping along.
    write(&disk, 1, 9).await;
    disk.image().checkpoint().await.expect("a checkpoint");
    assert_eq!(read_all(&disk, 0..2).await, [8, 9]);
    disk.image().close().await.expect("it closes");

    let refusal = refused(&machine(&world, 3, &[1])).await;
    assert!(
        matches!(refusal, KeyError::OtherRootKey { .. }),
        "{refusal}"
    );
    let new = machine(&world, 4, &[2]);
    // Versions of before have the old wrapping; they are read with the keys of the newest.
    let operator = Operator::at(&new);
    for shown in [Shown::Version(first), Shown::Snapshot("monday".to_owned())] {
        assert_eq!(operator.shown(&image(), &shown).await, 7);
    }
    let copy = other("copy");
    let of = Shown::Snapshot("monday".to_owned());
    clone_image(&operator.admin(), &image(), &of, &copy)
        .await
        .expect("a clone");
    assert_eq!(read(&new.open_named(&copy).await, 0).await, 7);
    let disk = new.open().await;
    assert_eq!(read_all(&disk, 0..2).await, [8, 9]);
    disk.image().roll_back(first).await.expect("a rollback");
    assert_eq!(read_all(&disk, 0..2).await, [7, 0]);
}

#[tokio::test(start_paused = true)]
async fn clones_have_keys_of_their_own_and_those_of_what_they_share() {
    let world = World::new();
    let owner = machine(&world, 1, &[1]);
    let disk = owner.open().await;
    for page in 0..8 {
        write(&disk, page, 1).await;
    }
    disk.image().close().await.expect("it closes");
    let operator = Operator::at(&owner);
    let other_machine = world.machine(8);
    let other_operator = Operator::at(&other_machine);
    let before = world.objects.keys();
    let without = clone_image(
        &other_operator.admin(),
        &image(),
        &Shown::Newest,
        &other("x"),
    )
    .await;
    let refusal = without.expect_err("no key").to_string();
    assert!(refusal.contains("MVPS_TE_ROOT_KEY"), "{refusal}");
    assert_eq!(world.objects.keys(), before, "not even a pin is left");

    let (child, grandchild) = (other("child"), other("grandchild"));
    clone_image(&operator.admin(), &image(), &Shown::Newest, &child)
        .await
        .expect("a clone");
    let disk = owner.open_named(&child).await;
    write(&disk, 0, 2).await;
    disk.image().close().await.expect("it closes");
    clone_image(&operator.admin(), &child, &Shown::Newest, &grandchild)
        .await
        .expect("a clone");
    let disk = owner.open_named(&grandchild).await;
    write(&disk, 1, 3).await;
    disk.image().close().await.expect("it closes");

    for (name, keys) in [(image(), 1), (child.clone(), 2), (grandchild.clone(), 3)] {
        let newest = operator.newest(&name).await;
        assert_eq!(newest.data_keys.len(), keys, "{name}");
        assert!(newest.own_data_key().is_some(), "{name}");
    }
    let elsewhere = machine(&world, 2, &[1]);
    let disk = elsewhere.open_named(&grandchild).await;
    assert_eq!(read_all(&disk, 0..4).await, [2, 3, 1, 1]);
}

/// Whoever takes the old root key away has rekeyed the images that the listing names; a clone that
/// had kept its source's old wrapping would be lost.
#[tokio::test(start_paused = true)]
async fn a_clone_wraps_what_it_shares_with_the_first_root_key() {
    let world = World::new();
    let old = machine(&world, 1, &[1]);
    let disk = old.open().await;
    write(&disk, 0, 7).await;
    disk.image().close().await.expect("it closes");
    let both = machine(&world, 2, &[2, 1]);
    let (operator, child) = (Operator::at(&both), other("child"));
    clone_image(&operator.admin(), &image(), &Shown::Newest, &child)
        .await
        .expect("a clone");
    let disk = machine(&world, 3, &[2]).open_named(&child).await;
    assert_eq!(read(&disk, 0).await, 7);
}

#[tokio::test(start_paused = true)]
async fn a_clear_image_stays_as_it_is_and_its_clone_is_encrypted() {
    let world = World::new();
    let clear = world.machine(1);
    let disk = clear.open().await;
    write(&disk, 0, 1).await;
    disk.image().close().await.expect("it closes");
    let keyed = machine(&world, 2, &[1]);
    let operator = Operator::at(&keyed);
    let disk = keyed.open().await;
    write(&disk, 1, 1).await;
    disk.image().close().await.expect("it closes");
    assert_eq!(operator.newest(&image()).await.data_keys, []);
    let nothing = rekey(&operator.admin(), &image()).await;
    assert!(nothing.is_err());

    let copy = other("copy");
    clone_image(&operator.admin(), &image(), &Shown::Newest, &copy)
        .await
        .expect("a clone");
    let disk = keyed.open_named(&copy).await;
    write(&disk, 2, 2).await;
    disk.image().close().await.expect("it closes");
    assert_eq!(operator.newest(&copy).await.data_keys.len(), 1);
    assert_eq!(
        read_all(&keyed.open_named(&copy).await, 0..3).await,
        [1, 1, 2]
    );

    let mut strict = world.machine(3);
    strict.host = strict
        .host
        .with_root_keys(roots(&[1]).requiring_encryption());
    let refusal = refused(&strict).await;
    assert!(
        matches!(refusal, KeyError::NotEncrypted { .. }),
        "{refusal}"
    );
}

/// Whoever can write to the bucket can take the keys out of a manifest. That is not read as data.
#[tokio::test(start_paused = true)]
async fn a_manifest_without_its_keys_makes_errors_not_data() {
    let world = World::new();
    let owner = machine(&world, 1, &[1]);
    let disk = owner.open().await;
    write(&disk, 0, 1).await;
    disk.image().close().await.expect("it closes");
    let mut forged = Operator::at(&owner).newest(&image()).await;
    forged.version = Version(forged.version.0 + 1);
    forged.data_keys.clear();
    let key = crate::format::object_name::manifest_key(&image(), forged.version);
    world.objects.poke(&key, forged.encode());
    let disk = machine(&world, 2, &[1]).open().await;
    let read = disk.read(0, PAGE as u32).await;
    assert!(matches!(read, Err(EngineError::Corrupt { .. })), "{read:?}");
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_used_again_gets_another_key() {
    let world = World::new();
    let owner = machine(&world, 1, &[1]);
    let operator = Operator::at(&owner);
    let mut seen = Vec::new();
    for _ in 0..2 {
        let owner = machine(&world, 5 + seen.len() as u64, &[1]);
        let disk = owner.open().await;
        write(&disk, 0, 1).await;
        disk.image().close().await.expect("it closes");
        seen.push(operator.newest(&image()).await.data_keys);
        crate::admin::delete(&operator.admin(), &image(), false)
            .await
            .expect("deleted");
        assert_eq!(
            operator.newest(&image()).await.data_keys,
            [],
            "a tombstone has none"
        );
    }
    assert_ne!(seen[0][0].incarnation, seen[1][0].incarnation);
    assert_ne!(seen[0][0].sealed, seen[1][0].sealed);
}
