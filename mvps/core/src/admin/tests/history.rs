//! Snapshots, clones, rollback, growth, deletion and pins, cut off and interleaved by hand. That
//! what is read afterwards is right is tested with real content in `engine::tests::history`.

use std::collections::BTreeSet;

use futures_util::FutureExt;

use crate::admin::{
    Admin, AdminError, ReaderLife, clone_image, create_snapshot, delete, delete_snapshot,
    pin_version, pins, release_reader, resize, roll_back, snapshots, versions,
};
use crate::env::memory::{MemoryBufferStores, Verdict};
use crate::env::{EntropyExt, OperationKind, StoreError};
use crate::format::manifest::{ImageState, Manifest, PinHolder, Pinned};
use crate::ids::{ImageId, Lsn, Version};
use crate::protocol::tests::world::{GIB, Server, World, image, request, version};
use crate::protocol::{Outcome, PublishedBy};
use crate::reachability::{Reachable, is_tombstone, referenced_objects};
use crate::token::Shown;

fn named(name: &str) -> ImageId {
    ImageId::parse(name).unwrap()
}

fn admin(world: &World) -> Admin<'_> {
    Admin {
        manifests: &world.manifests,
        clock: &*world.clock,
        entropy: &*world.entropy,
        root_keys: &world.root_keys,
    }
}

async fn newest_of(world: &World, image: &ImageId) -> Option<Manifest> {
    world.manifests.newest(image).await.unwrap()
}

/// An image with two checkpoints (versions 2 and 3), clean since version 4.
async fn clean_image(world: &World) -> Server {
    let mut server = world.first_server().await;
    server.checkpoint(world).await;
    server.checkpoint(world).await;
    leave(world, &mut server).await;
    server
}

async fn leave(world: &World, server: &mut Server) {
    let clean = server.compose(|own| own.state = ImageState::Clean).unwrap();
    let outcome = server.publish(world, &clean).await.unwrap();
    assert_eq!(outcome, Outcome::Counted(clean));
}

/// Everything that the newest manifest of `image` and its retained versions reference of any image
/// is kept by that image. What the simulation's oracle asks too.
async fn assert_kept(world: &World, image: &ImageId) {
    let Some(newest) = newest_of(world, image).await else {
        return;
    };
    if is_tombstone(&newest) {
        return;
    }
    let mut versions: BTreeSet<Version> = crate::reachability::retained_versions(&newest);
    versions.insert(newest.version);
    for version in versions {
        let kept = world.manifests.load(image, version).await.unwrap();
        for name in referenced_objects(&kept) {
            let owner = newest_of(world, &name.image)
                .await
                .expect("it has a manifest");
            let mut reachable = Reachable::of(&owner);
            for version in crate::reachability::retained_versions(&owner) {
                let retained = world.manifests.load(&owner.image, version).await.unwrap();
                reachable.take_in(&retained);
            }
            assert!(reachable.needs(name), "{name} of {image} at {version}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_keeps_its_version_until_it_is_deleted() {
    let world = World::new();
    let admin = admin(&world);
    let mut server = world.first_server().await;
    server.checkpoint(&world).await;
    let made = create_snapshot(&admin, &image(), "monday", None)
        .await
        .unwrap();
    assert_eq!((made.version, made.lsn), (2, 1));
    assert!(made.active_writer.is_some());
    server.base = world.newest().await;
    server.checkpoint(&world).await;
    world.expire().await;
    let newest = world.newest().await;
    assert!(crate::protocol::is_retained(&newest, version(2)));
    assert!(!crate::protocol::is_retained(&newest, version(3)));

    let taken = create_snapshot(&admin, &image(), "monday", None).await;
    assert!(matches!(taken, Err(AdminError::SnapshotExists { .. })));
    let gone = create_snapshot(&admin, &image(), "early", Some(version(1))).await;
    assert!(matches!(gone, Err(AdminError::VersionGone { .. })));
    let odd = create_snapshot(&admin, &image(), "a/b", None).await;
    assert!(matches!(odd, Err(AdminError::InvalidSnapshotName { .. })));
    let listed = snapshots(&admin, &image()).await.unwrap();
    assert_eq!((listed.len(), listed[0].name.as_str()), (1, "monday"));

    delete_snapshot(&admin, &image(), "monday", false)
        .await
        .unwrap();
    let again = delete_snapshot(&admin, &image(), "monday", false).await;
    assert!(matches!(again, Err(AdminError::NoSuchSnapshot { .. })));
    let newest = world.newest().await;
    assert!(!crate::protocol::is_retained(&newest, version(2)));
}

/// The reply to every call is lost once, and the manifest is there all the same: made once.
#[tokio::test(start_paused = true)]
async fn lost_replies_make_nothing_twice() {
    let world = World::new();
    let mut server = world.first_server().await;
    server.checkpoint(&world).await;
    let mut number = 0;
    world.objects.set_script(move |_| {
        number += 1;
        if number % 2 == 1 {
            Verdict::reply_lost()
        } else {
            Verdict::Serve
        }
    });
    let admin = admin(&world);
    create_snapshot(&admin, &image(), "monday", None)
        .await
        .unwrap();
    let cloned = clone_image(&admin, &image(), &Shown::Newest, &named("copy"))
        .await
        .unwrap();
    assert_eq!((cloned.version, cloned.source_version), (1, 3));
    delete(&admin, &image(), true).await.unwrap();
    world.objects.clear_script();
    let newest = world.newest().await;
    assert_eq!((newest.version, newest.pins.len()), (version(5), 1));
    assert_eq!(newest.state, ImageState::Tombstone);
    assert_kept(&world, &named("copy")).await;
}

#[tokio::test(start_paused = true)]
async fn a_pinned_snapshot_is_deleted_with_force_and_the_pin_stays() {
    let world = World::new();
    let admin = admin(&world);
    clean_image(&world).await;
    create_snapshot(&admin, &image(), "monday", Some(version(2)))
        .await
        .unwrap();
    let monday = Shown::Snapshot("monday".to_owned());
    let reader = ReaderLife::begin("reader-1", 1, &*world.entropy);
    let pinned = pin_version(&admin, &image(), &monday, &reader)
        .await
        .unwrap();
    assert_eq!(pinned.manifest.version, version(2));
    clone_image(&admin, &image(), &monday, &named("copy"))
        .await
        .unwrap();
    let error = delete_snapshot(&admin, &image(), "monday", false)
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("reader reader-1.") && text.contains("clone copy"),
        "{text}"
    );
    let deleted = delete_snapshot(&admin, &image(), "monday", true)
        .await
        .unwrap();
    assert_eq!(deleted.pinned_by.len(), 2);
    world.expire().await;
    assert_kept(&world, &named("copy")).await;
    let shown = pins(&admin, &image(), None).await.unwrap();
    assert_eq!(shown.pins.len(), 2);

    let unknown = release_reader(&admin, &image(), "copy", None).await;
    assert!(matches!(unknown, Err(AdminError::NoSuchReader { .. })));
    let after = release_reader(&admin, &image(), "reader-1", None)
        .await
        .unwrap();
    assert_eq!((after.pins.len(), after.released), (1, true));
}

/// A life has one pin for each thing that it serves, and publishes it whenever it takes it.
#[tokio::test(start_paused = true)]
async fn a_life_has_one_pin_for_a_thing() {
    let world = World::new();
    let admin = admin(&world);
    clean_image(&world).await;
    let reader = ReaderLife::begin("reader-1", 1, &*world.entropy);
    let pin = async |number| {
        let shown = Shown::Version(version(number));
        pin_version(&admin, &image(), &shown, &reader).await
    };
    pin(2).await.unwrap();
    let first = world.newest().await;
    pin(2).await.unwrap();
    let again = world.newest().await;
    assert_eq!(again.version, first.version.next(), "published anew");
    assert_ne!(again.others.last(), first.others.last(), "a fresh mark");
    assert_eq!(again.pins, first.pins);
    pin(3).await.unwrap();
    let pinned: Vec<_> = world
        .newest()
        .await
        .pins
        .into_iter()
        .map(|it| it.pinned)
        .collect();
    assert_eq!(pinned, [2, 3].map(|it| Pinned::Version(version(it))));
    release_reader(&admin, &image(), &format!("{reader}:version:2"), None)
        .await
        .unwrap();
    world.expire().await;
    pin(3).await.unwrap();
    assert!(matches!(pin(2).await, Err(AdminError::VersionGone { .. })));
    assert!(matches!(pin(99).await, Err(AdminError::VersionGone { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_rollback_is_a_new_version_with_the_old_content() {
    let world = World::new();
    let admin = admin(&world);
    clean_image(&world).await;
    let before = world.newest().await;
    let old = world.manifests.load(&image(), version(2)).await.unwrap();
    let done = roll_back(&admin, &image(), &Shown::Version(version(2)))
        .await
        .unwrap();
    assert_eq!(
        (done.to_version, done.version, done.undo_version),
        (2, 5, 4)
    );
    let rolled = world.newest().await;
    assert_eq!(rolled.segments, old.segments);
    assert_eq!(rolled.lsn, Lsn(3), "above every LSN that was known");
    assert!(rolled.tenure.epoch > before.tenure.epoch);
    assert_eq!(rolled.state, ImageState::Clean);
    let retired: Vec<_> = rolled.retired.iter().map(|retired| &retired.name).collect();
    assert_eq!(retired, [&before.segments[1].name], "what it replaced");
    assert_eq!(rolled.next_segment, before.next_segment);

    // Undone by the same means.
    let undone = roll_back(&admin, &image(), &Shown::Version(version(4)))
        .await
        .unwrap();
    assert_eq!(undone.version, 6);
    let newest = world.newest().await;
    assert_eq!((newest.segments, newest.lsn), (before.segments, Lsn(4)));
    world.expire().await;
    let gone = roll_back(&admin, &image(), &Shown::Version(version(2))).await;
    assert!(matches!(gone, Err(AdminError::VersionGone { .. })));
}

/// The buffer store of the last server holds nothing that is not published, so it opens the image
/// again; one that holds more is of another history.
#[tokio::test(start_paused = true)]
async fn buffer_stores_after_a_rollback() {
    let world = World::new();
    let admin = admin(&world);
    let node = MemoryBufferStores::new();
    let mut server = Server::of(&world.opens(&node, &request()).await.unwrap());
    server.checkpoint(&world).await;
    let refused = roll_back(&admin, &image(), &Shown::Version(version(1))).await;
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("host-1, process 7"), "{text}");
    leave(&world, &mut server).await;
    roll_back(&admin, &image(), &Shown::Version(version(1)))
        .await
        .unwrap();
    let opened = world.opens(&node, &request()).await.unwrap();
    assert_eq!(
        (opened.last_lsn, opened.manifest.segments.len()),
        (Lsn(2), 0)
    );
}

#[tokio::test(start_paused = true)]
async fn an_active_server_is_fenced_only_by_force() {
    let world = World::new();
    let admin = admin(&world);
    let mut server = world.first_server().await;
    server.checkpoint(&world).await;
    create_snapshot(&admin, &image(), "monday", None)
        .await
        .unwrap();
    let refused = delete(&admin, &image(), false).await.unwrap_err();
    assert!(refused.to_string().contains("--force"), "{refused}");
    let deleted = delete(&admin, &image(), true).await.unwrap();
    assert_eq!(deleted.fenced.as_deref(), Some("host-1, process 7"));
    assert_eq!(deleted.snapshots, ["monday"]);
    let late = server.compose_checkpoint();
    let outcome = server.publish(&world, &late).await.unwrap();
    assert!(matches!(outcome, Outcome::Fenced(_)));
    let again = delete(&admin, &image(), true).await;
    assert!(matches!(again, Err(AdminError::Deleted { .. })));
    assert!(versions(&admin, &image(), 10).await.is_err());
    let opened = world
        .opens(&MemoryBufferStores::new(), &request())
        .await
        .unwrap();
    assert!(opened.created);
    assert!(opened.manifest.tenure.epoch > server.tenure.epoch);
}

#[tokio::test(start_paused = true)]
async fn growth_of_a_clean_image() {
    let world = World::new();
    let admin = admin(&world);
    let mut server = clean_image(&world).await;
    let grown = resize(&admin, &image(), 2 * GIB).await.unwrap();
    assert_eq!((grown.from_bytes, grown.size_bytes), (GIB, 2 * GIB));
    let same = world.newest().await.version;
    resize(&admin, &image(), 2 * GIB).await.unwrap();
    assert_eq!(world.newest().await.version, same, "nothing to publish");
    let smaller = resize(&admin, &image(), GIB).await;
    assert!(matches!(smaller, Err(AdminError::Shrink { .. })));
    let odd = resize(&admin, &image(), 2 * GIB + 1).await;
    assert!(matches!(odd, Err(AdminError::InvalidSize { .. })));
    // A server that comes back in the same tenure does not take the size back.
    let back = server
        .compose(|own| own.state = ImageState::Active)
        .unwrap();
    let outcome = server.publish(&world, &back).await.unwrap();
    assert!(matches!(outcome, Outcome::Fenced(_)));
}

#[tokio::test(start_paused = true)]
async fn versions_are_listed_with_their_names() {
    let world = World::new();
    let admin = admin(&world);
    clean_image(&world).await;
    create_snapshot(&admin, &image(), "monday", Some(version(2)))
        .await
        .unwrap();
    let report = versions(&admin, &image(), 2).await.unwrap();
    let numbers: Vec<_> = report.versions.iter().map(|one| one.version).collect();
    assert_eq!((numbers, report.more), (vec![5, 4, 2], 2));
    assert_eq!(report.versions[2].snapshots, ["monday"]);
    world.expire().await;
    let report = versions(&admin, &image(), 10).await.unwrap();
    let numbers: Vec<_> = report.versions.iter().map(|one| one.version).collect();
    assert_eq!((numbers, report.more), (vec![6, 2], 0));
}

#[tokio::test(start_paused = true)]
async fn a_clone_of_a_clone_is_pinned_in_the_grandparent() {
    let world = World::new();
    let admin = admin(&world);
    clean_image(&world).await;
    let (middle, last) = (named("middle"), named("last"));
    clone_image(&admin, &image(), &Shown::Newest, &middle)
        .await
        .unwrap();
    let cloned = clone_image(&admin, &middle, &Shown::Newest, &last)
        .await
        .unwrap();
    assert_eq!(cloned.pinned_in, ["middle", "disk0"]);
    // Whoever goes, and in whatever order: the last one's pin stands by itself.
    delete(&admin, &image(), false).await.unwrap();
    delete(&admin, &middle, false).await.unwrap();
    let tombstone = world.newest().await;
    let holders: Vec<_> = tombstone.pins.iter().map(|pin| &pin.holder).collect();
    assert!(matches!(&holders[1], PinHolder::Clone { target, .. } if *target == last));
    assert_kept(&world, &last).await;
    // A clone of it, of an image that is only a tombstone any more.
    let fourth = clone_image(&admin, &last, &Shown::Newest, &named("fourth"))
        .await
        .unwrap();
    assert_eq!(fourth.pinned_in, ["last", "disk0"]);
    assert_kept(&world, &named("fourth")).await;
}

#[tokio::test(start_paused = true)]
async fn a_clone_takes_the_name_of_a_deleted_image() {
    let world = World::new();
    let admin = admin(&world);
    clean_image(&world).await;
    let (copy, reader) = (named("copy"), named("reader"));
    clone_image(&admin, &image(), &Shown::Newest, &copy)
        .await
        .unwrap();
    clone_image(&admin, &copy, &Shown::Newest, &reader)
        .await
        .unwrap();
    let taken = clone_image(&admin, &image(), &Shown::Newest, &copy).await;
    assert!(matches!(taken, Err(AdminError::TargetExists { .. })));
    let itself = clone_image(&admin, &copy, &Shown::Newest, &copy).await;
    assert!(matches!(itself, Err(AdminError::SameName { .. })));
    delete(&admin, &copy, false).await.unwrap();
    let tombstone = newest_of(&world, &copy).await.unwrap();
    clone_image(&admin, &image(), &Shown::Newest, &copy)
        .await
        .unwrap();
    let again = newest_of(&world, &copy).await.unwrap();
    assert_eq!(again.version, tombstone.version.next());
    assert!(again.tenure.epoch > tombstone.tenure.epoch);
    assert_ne!(again.incarnation, tombstone.incarnation);
    assert_eq!(again.pins, tombstone.pins, "the pins of `reader` go on");
    assert_kept(&world, &reader).await;
}

/// The tombstone that a collector puts under the clone's name before it lets go of the pins.
async fn abandon(world: &World, image: &ImageId) {
    let base = newest_of(world, image).await;
    let tenure = crate::protocol::next_tenure(base.as_ref(), &*world.entropy);
    let mut body = crate::format::manifest::example_manifest();
    body.image = image.clone();
    body.version = base.map_or(Version(1), |base| base.version.next());
    body.tenure = tenure;
    let id = crate::ids::PublicationId(world.entropy.u128());
    let mut body = crate::protocol::compose_tombstone(&body, tenure, id, body.published_at);
    body.version = Version(1);
    body.oldest_retained = Version(1);
    body.state = ImageState::Abandoned;
    body.pins.clear();
    body.others = vec![id];
    world
        .publish_unhindered(&body, PublishedBy::Other(id))
        .await;
}

/// A cloner sleeps between its pins and its creation; the collector concluded that it never comes,
/// and released the pins.
#[tokio::test(start_paused = true)]
async fn a_cloner_that_slept_creates_nothing() {
    let world = World::new();
    clean_image(&world).await;
    let admin = admin(&world);
    let copy = named("copy");
    let mut creates = 0;
    let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
    let mut receiver = Some(receiver);
    world.objects.set_script(move |operation| {
        creates += usize::from(operation.kind == OperationKind::Create);
        match (creates, receiver.is_some()) {
            (2, true) => {
                let receiver = receiver.take().unwrap();
                Verdict::Delay(Box::pin(async move { receiver.await.unwrap() }))
            }
            _ => Verdict::Serve,
        }
    });
    let (source, shown) = (image(), Shown::Newest);
    let mut cloning = Box::pin(clone_image(&admin, &source, &shown, &copy));
    assert!(
        (&mut cloning).now_or_never().is_none(),
        "it is about to create"
    );
    abandon(&world, &copy).await;
    sender.send(()).unwrap();
    let error = cloning.await.unwrap_err();
    assert!(matches!(error, AdminError::TargetTaken { .. }), "{error}");
    assert_eq!(
        newest_of(&world, &copy).await.unwrap().state,
        ImageState::Abandoned
    );
    clone_image(&admin, &image(), &Shown::Newest, &copy)
        .await
        .unwrap();
}

/// The source's version is expired between the look and the pin: no clone, not a broken one.
#[tokio::test(start_paused = true)]
async fn a_clone_of_what_expires_meanwhile_fails() {
    let world = World::new();
    clean_image(&world).await;
    let admin = admin(&world);
    let creating = world.stall(OperationKind::Create);
    let (source, shown, copy) = (image(), Shown::Version(version(2)), named("copy"));
    let mut cloning = Box::pin(clone_image(&admin, &source, &shown, &copy));
    assert!(
        (&mut cloning).now_or_never().is_none(),
        "it is about to pin"
    );
    world.expire().await;
    creating.send(()).unwrap();
    let error = cloning.await.unwrap_err();
    assert!(matches!(error, AdminError::VersionGone { .. }), "{error}");
    assert!(newest_of(&world, &copy).await.is_none());
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// The process dies before the call.
    Before,
    /// The process dies after the call, before its reply.
    After,
}

/// Kills `work` at call number `at`, counted from 0; `true` if it got that far.
async fn cut_off<T>(world: &World, at: u64, cut: Cut, work: impl Future<Output = T>) -> bool {
    let first = world.objects.operations().len() as u64;
    world.objects.set_script(move |operation| {
        if operation.number < first + at {
            return Verdict::Serve;
        }
        match cut {
            Cut::After if operation.number == first + at => Verdict::HangAfter,
            _ => Verdict::Hang,
        }
    });
    let died = work.now_or_never().is_none();
    world.objects.clear_script();
    died
}

/// Dies at each call in turn; whatever is there is whole, and doing it again works.
#[tokio::test(start_paused = true)]
async fn a_clone_cut_off_anywhere_is_whole_or_not_there() {
    for cut in [Cut::Before, Cut::After] {
        for at in 0.. {
            let world = World::new();
            clean_image(&world).await;
            let admin = admin(&world);
            let (middle, last) = (named("middle"), named("last"));
            clone_image(&admin, &image(), &Shown::Newest, &middle)
                .await
                .unwrap();
            let (newest, source) = (Shown::Newest, middle.clone());
            let cloning = clone_image(&admin, &source, &newest, &last);
            let died = cut_off(&world, at, cut, cloning).await;
            assert_kept(&world, &last).await;
            match clone_image(&admin, &middle, &newest, &last).await {
                Ok(_) | Err(AdminError::TargetExists { .. }) => {}
                Err(error) => panic!("{cut:?} {at}: {error}"),
            }
            delete(&admin, &image(), false).await.unwrap();
            delete(&admin, &middle, false).await.unwrap();
            assert_kept(&world, &last).await;
            if !died {
                assert!(at > 10, "a clone of a clone takes {at} calls");
                break;
            }
        }
    }
}

/// Rollback, deletion and growth: one publication each, which happened or did not.
#[tokio::test(start_paused = true)]
async fn what_is_one_publication_happened_or_did_not() {
    for cut in [Cut::Before, Cut::After] {
        for at in 0.. {
            let world = World::new();
            clean_image(&world).await;
            let admin = admin(&world);
            let (source, to) = (image(), Shown::Version(version(2)));
            let mut died = cut_off(&world, at, cut, roll_back(&admin, &source, &to)).await;
            let rolled = world.newest().await;
            assert_eq!(rolled.segments.len() == 1, rolled.version == version(5));
            roll_back(&admin, &source, &to).await.unwrap();
            died |= cut_off(&world, at, cut, resize(&admin, &source, 2 * GIB)).await;
            resize(&admin, &source, 2 * GIB).await.unwrap();
            assert_kept(&world, &source).await;
            died |= cut_off(&world, at, cut, delete(&admin, &source, false)).await;
            match delete(&admin, &source, false).await {
                Ok(_) | Err(AdminError::Deleted { .. }) => {}
                Err(error) => panic!("{cut:?} {at}: {error}"),
            }
            assert_eq!(world.newest().await.state, ImageState::Tombstone);
            if !died {
                break;
            }
        }
    }
}

/// What cannot be reached is said, with what to do.
#[tokio::test(start_paused = true)]
async fn an_unknown_fate_is_said() {
    let world = World::new();
    clean_image(&world).await;
    let patience = crate::store::Patience::For(std::time::Duration::from_secs(5));
    let manifests = world.manifests.with_patience(patience);
    let admin = Admin {
        manifests: &manifests,
        ..admin(&world)
    };
    world.objects.set_script(|operation| match operation.kind {
        OperationKind::Create => Verdict::Fail(StoreError::Unavailable {
            reason: "down".to_owned(),
        }),
        _ => Verdict::Serve,
    });
    let error = create_snapshot(&admin, &image(), "monday", None)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("Run the same command again"),
        "{error}"
    );
}
