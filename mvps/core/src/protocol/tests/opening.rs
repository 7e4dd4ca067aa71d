//! Opening: crashes, collisions, late landings, and buffer stores that do not belong.

use futures_util::FutureExt;

use super::world::{GIB, Server, World, commit_page, image, request, version};
use crate::env::memory::{Crash, MemoryBufferStores, Verdict};
use crate::env::{BufferStores, Clock, OperationKind, Recovered};
use crate::format::buffer_metadata::BufferMetadata;
use crate::format::manifest::{ImageState, Manifest};
use crate::format::object_name::{manifest_key, parse_manifest_key};
use crate::ids::{Generation, Lsn};
use crate::protocol::{
    OPEN_ATTEMPTS_MAX, OpeningError, OpeningRequest, RefusalReason, compose_open, compose_takeover,
    next_tenure, own_publication, recovered_metadata,
};

/// What the node's buffer store knows of itself, after its process was killed.
async fn metadata_of(world: &World, node: &MemoryBufferStores) -> BufferMetadata {
    let recovered = reopen(world, node).await;
    recovered_metadata(&recovered, &image(), "", &*world.entropy).unwrap()
}

async fn reopen(world: &World, node: &MemoryBufferStores) -> Recovered {
    node.crash(Crash::ProcessKill, &*world.entropy);
    node.open(&image()).await.unwrap()
}

fn check_refused<T: std::fmt::Debug>(result: Result<T, OpeningError>, reason: RefusalReason) {
    match result {
        Err(OpeningError::Refused(refusal)) => assert_eq!(refusal.reason, reason),
        other => panic!("{other:?}"),
    }
}

/// The body of the only create that `world` sees while `opening` goes on, which never lands.
async fn opening_that_dies(world: &World, node: &MemoryBufferStores) {
    let _never = world.stall(OperationKind::Create);
    let mut recovered = reopen(world, node).await;
    let mut opening = Box::pin(world.opens_with(&mut recovered, &request()));
    assert!(
        (&mut opening).now_or_never().is_none(),
        "it is stuck in the create"
    );
    drop(opening);
    world.objects.clear_script();
}

#[tokio::test(start_paused = true)]
async fn the_first_opening_creates_the_image() {
    let world = World::new();
    let node = MemoryBufferStores::new();
    let opened = world.opens(&node, &request()).await.unwrap();
    assert!(opened.created);
    assert_eq!(
        (opened.manifest.version, opened.manifest.size_bytes),
        (version(1), GIB)
    );
    assert_eq!((opened.last_lsn, opened.covered), (Lsn(0), vec![]));
    let metadata = metadata_of(&world, &node).await;
    assert_eq!(metadata, opened.metadata);
    assert_eq!(metadata.confirmed, Some(opened.manifest.tenure));
    assert_eq!(metadata.pending, []);
    assert_eq!(metadata.published, Some(own_publication(&opened.manifest)));
}

/// A restart on the same buffer store is a new tenure, which fences the earlier process.
#[tokio::test(start_paused = true)]
async fn a_restart_on_the_same_buffer_store_is_a_new_tenure() {
    let world = World::new();
    let node = MemoryBufferStores::new();
    let mut recovered = node.open(&image()).await.unwrap();
    let first = world.opens_with(&mut recovered, &request()).await.unwrap();
    commit_page(&recovered, 1).await;
    let mut alive = Server::of(&first);

    let mut again = reopen(&world, &node).await;
    let second = world.opens_with(&mut again, &request()).await.unwrap();
    assert_eq!(
        second.manifest.tenure.epoch,
        first.manifest.tenure.epoch.next()
    );
    assert!(!second.created);
    assert_eq!((second.last_lsn, second.covered), (Lsn(1), vec![]));
    let late = alive.compose_checkpoint();
    let outcome = alive.publish(&world, &late).await.unwrap();
    assert_eq!(*outcome.newest(), second.manifest);
}

/// The process died between publishing its checkpoint and dropping the generation.
#[tokio::test(start_paused = true)]
async fn generations_in_the_manifest_are_named_for_dropping() {
    let world = World::new();
    let node = MemoryBufferStores::new();
    let mut recovered = node.open(&image()).await.unwrap();
    let opened = world.opens_with(&mut recovered, &request()).await.unwrap();
    let mut server = Server::of(&opened);
    commit_page(&recovered, 1).await;
    let (sealed, _) = recovered.store.seal().await.unwrap();
    recovered.store.sync().await.unwrap();
    server.checkpoint(&world).await;
    commit_page(&recovered, 2).await;

    let mut again = reopen(&world, &node).await;
    let opened = world.opens_with(&mut again, &request()).await.unwrap();
    assert_eq!(opened.covered, [sealed]);
    assert_eq!((opened.manifest.lsn, opened.last_lsn), (Lsn(1), Lsn(2)));

    // With nothing after the checkpoint, the active generation is covered too.
    let mut server = Server::of(&opened);
    server.checkpoint(&world).await;
    let mut again = reopen(&world, &node).await;
    let all: Vec<Generation> = again.generations.iter().map(|g| g.generation).collect();
    let opened = world.opens_with(&mut again, &request()).await.unwrap();
    assert_eq!(opened.covered, all);
}

/// Crash after the open manifest was sent, before it was confirmed: it never landed, it landed
/// before the next opening read the newest, or it lands in the middle of the next opening.
#[tokio::test(start_paused = true)]
async fn an_opening_that_died_leaves_a_pending_tenure() {
    let world = World::new();
    let node = MemoryBufferStores::new();
    let first = world.opens(&node, &request()).await.unwrap();
    commit_page(&reopen(&world, &node).await, 1).await;

    opening_that_dies(&world, &node).await;
    let pending = metadata_of(&world, &node).await.pending;
    assert_eq!(pending.len(), 1);
    assert_eq!(world.newest().await, first.manifest);

    // It lands after all: the buffer store finds its pending tenure in the manifest.
    let at = world.clock.wall();
    let zombie = compose_open(&first.manifest, pending[0], "host-1", 0, at);
    assert!(world.land(&zombie).await);
    let second = world
        .opens_with(&mut reopen(&world, &node).await, &request())
        .await;
    let second = second.unwrap();
    assert_eq!(second.manifest.version, version(3));
    assert_eq!(second.metadata.pending, []);

    // The next one lands while the opening after it is between reading and creating.
    opening_that_dies(&world, &node).await;
    let pending = metadata_of(&world, &node).await.pending;
    let zombie = compose_open(&second.manifest, pending[0], "host-1", 0, at);
    let creating = world.stall(OperationKind::Create);
    let mut recovered = reopen(&world, &node).await;
    let mut opening = Box::pin(world.opens_with(&mut recovered, &request()));
    assert!((&mut opening).now_or_never().is_none());
    assert!(world.land(&zombie).await);
    creating.send(()).unwrap();
    let third = opening.await.unwrap();
    assert_eq!(third.manifest.version, version(5));
    assert_eq!(third.metadata.pending, []);
    assert_eq!(third.last_lsn, Lsn(1));
}

/// Two servers open a clean image at once and collide on the version: one gets in, the other is
/// refused, and its buffer store can still be opened elsewhere because it holds nothing.
#[tokio::test(start_paused = true)]
async fn two_openers_collide_on_a_version() {
    let world = World::new();
    let mut server = world.first_server().await;
    let clean = server.compose(|own| own.state = ImageState::Clean).unwrap();
    server.publish(&world, &clean).await.unwrap();

    let (one, other) = (MemoryBufferStores::new(), MemoryBufferStores::new());
    let mut recovered = one.open(&image()).await.unwrap();
    let creating = world.stall(OperationKind::Create);
    let mut late = Box::pin(world.opens_with(&mut recovered, &request()));
    assert!((&mut late).now_or_never().is_none());
    let winner = world.opens(&other, &request()).await.unwrap();
    creating.send(()).unwrap();
    check_refused(late.await, RefusalReason::OtherActive);
    assert_eq!(world.newest().await, winner.manifest);

    let metadata = metadata_of(&world, &one).await;
    assert_eq!((metadata.confirmed, metadata.pending.len()), (None, 1));
    let mut winner = Server::of(&winner);
    let clean = winner.compose(|own| own.state = ImageState::Clean).unwrap();
    winner.publish(&world, &clean).await.unwrap();
    let mut recovered = reopen(&world, &one).await;
    world.opens_with(&mut recovered, &request()).await.unwrap();
}

/// The opener's create succeeds under a freed name: it is not the active writer.
#[tokio::test(start_paused = true)]
async fn an_open_manifest_under_a_freed_name_does_not_count() {
    let world = World::new();
    let node = MemoryBufferStores::new();
    world.opens(&node, &request()).await.unwrap();
    let creating = world.stall(OperationKind::Create);
    let mut recovered = reopen(&world, &node).await;
    let mut opening = Box::pin(world.opens_with(&mut recovered, &request()));
    assert!((&mut opening).now_or_never().is_none());
    world.snapshot("monday").await;
    world.expire().await;
    world.delete_forgotten_manifests().await;
    creating.send(()).unwrap();
    let opened = opening.await.unwrap();
    let zombie_key = manifest_key(&image(), version(2));
    assert!(world.objects.keys().contains(&zombie_key), "it was created");
    assert_eq!(opened.manifest.version, version(4));
    assert_eq!(opened.manifest, world.newest().await);
}

/// A takeover while a server is the active writer, and what becomes of its buffer store.
#[tokio::test(start_paused = true)]
async fn a_buffer_store_that_was_taken_over_is_refused() {
    let world = World::new();
    let node = MemoryBufferStores::new();
    let mut recovered = node.open(&image()).await.unwrap();
    let opened = world.opens_with(&mut recovered, &request()).await.unwrap();
    commit_page(&recovered, 1).await;
    let tenure = next_tenure(Some(&opened.manifest), &*world.entropy);
    let body = compose_takeover(&opened.manifest, tenure, world.clock.wall());
    assert!(world.land(&body).await);
    let mut again = reopen(&world, &node).await;
    check_refused(
        world.opens_with(&mut again, &request()).await,
        RefusalReason::OtherHistory,
    );
    assert!(!again.generations[0].records.is_empty(), "it is untouched");
    // Another one opens, as the image is clean; then the first is refused as well.
    let other = MemoryBufferStores::new();
    world.opens(&other, &request()).await.unwrap();
    let mut again = reopen(&world, &node).await;
    check_refused(
        world.opens_with(&mut again, &request()).await,
        RefusalReason::OtherActive,
    );
}

#[tokio::test(start_paused = true)]
async fn an_old_copy_of_the_buffer_store_is_refused() {
    let world = World::new();
    let node = MemoryBufferStores::new();
    let mut recovered = node.open(&image()).await.unwrap();
    let opened = world.opens_with(&mut recovered, &request()).await.unwrap();
    let old_copy = node.copy(&image()).unwrap();
    commit_page(&recovered, 1).await;
    Server::of(&opened).checkpoint(&world).await;
    node.restore(&image(), &old_copy);
    let mut recovered = node.open(&image()).await.unwrap();
    let reason = RefusalReason::RolledBack { buffer: Lsn(0) };
    check_refused(world.opens_with(&mut recovered, &request()).await, reason);
}

/// Manifests deleted by hand: not silently made anew.
#[tokio::test(start_paused = true)]
async fn a_vanished_image_is_refused() {
    let world = World::new();
    let node = MemoryBufferStores::new();
    world.opens(&node, &request()).await.unwrap();
    world.objects.remove(&manifest_key(&image(), version(1)));
    let mut recovered = reopen(&world, &node).await;
    check_refused(
        world.opens_with(&mut recovered, &request()).await,
        RefusalReason::Vanished,
    );
    assert_eq!(world.objects.keys(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn an_image_is_made_again_under_its_tombstone() {
    let world = World::new();
    let mut server = world.first_server().await;
    let last = server.checkpoint(&world).await;
    let tombstone = Manifest {
        version: last.version.next(),
        tenure: next_tenure(Some(&last), &*world.entropy),
        state: ImageState::Tombstone,
        oldest_retained: last.version.next(),
        segments: Vec::new(),
        tail: Vec::new(),
        ..last.clone()
    };
    assert!(world.land(&tombstone).await);
    let opened = world.opens(&MemoryBufferStores::new(), &request()).await;
    let opened = opened.unwrap();
    assert!(opened.created);
    assert_ne!(opened.manifest.incarnation, last.incarnation);
    assert_eq!(opened.manifest.version, version(4));
    assert_eq!(
        opened.last_lsn, last.lsn,
        "it continues above every known LSN"
    );
}

#[tokio::test(start_paused = true)]
async fn an_opening_grows_the_image() {
    let world = World::new();
    let node = MemoryBufferStores::new();
    world.opens(&node, &request()).await.unwrap();
    let larger = OpeningRequest {
        image_size_bytes: Some(2 * GIB),
        ..request()
    };
    let mut recovered = reopen(&world, &node).await;
    let opened = world.opens_with(&mut recovered, &larger).await.unwrap();
    assert_eq!(opened.manifest.size_bytes, 2 * GIB);
}

/// The object store goes away at every single request of an opening, with the request applied or
/// not: the opening waits and gets in.
#[tokio::test(start_paused = true)]
async fn an_outage_anywhere_in_an_opening_is_waited_out() {
    for failing in 0..4 {
        for applied in [false, true] {
            let world = World::new();
            let node = MemoryBufferStores::new();
            let mut calls = 0;
            world.objects.set_script(move |_| {
                calls += 1;
                match (calls - 1 == failing, applied) {
                    (false, _) => Verdict::Serve,
                    (true, false) => Verdict::unavailable(),
                    (true, true) => Verdict::reply_lost(),
                }
            });
            let opened = world.opens(&node, &request()).await.unwrap();
            assert_eq!(opened.manifest.version, version(1), "{failing} {applied}");
            assert_eq!(opened.manifest, world.newest().await);
        }
    }
}

/// Two servers that take the image from each other for ever are told so; every tenure that was
/// tried stays pending, also when the same recovered buffer store is opened with again.
#[tokio::test(start_paused = true)]
async fn endless_collisions_end_in_an_error() {
    let world = World::new();
    let node = MemoryBufferStores::new();
    let first = world.opens(&node, &request()).await.unwrap().manifest;
    let mut recovered = reopen(&world, &node).await;
    // Whatever this opening creates, somebody else has the name already.
    let objects = world.objects.clone();
    world.objects.set_script(move |operation| {
        if operation.kind == OperationKind::Create {
            let (_, version) = parse_manifest_key(&operation.key).unwrap();
            let usurper = Manifest {
                version,
                ..first.clone()
            };
            objects.poke(&operation.key, usurper.encode());
        }
        Verdict::Serve
    });
    for calls in [1, 2] {
        let contended = world.opens_with(&mut recovered, &request()).await;
        assert!(
            matches!(contended, Err(OpeningError::Contended)),
            "{contended:?}"
        );
        let metadata = recovered_metadata(&recovered, &image(), "", &*world.entropy);
        assert_eq!(metadata.unwrap().pending.len(), calls * OPEN_ATTEMPTS_MAX);
    }
    world.objects.clear_script();
    let opened = world.opens_with(&mut recovered, &request()).await.unwrap();
    assert_eq!(opened.metadata.pending, []);
    assert_eq!(metadata_of(&world, &node).await, opened.metadata);
}
