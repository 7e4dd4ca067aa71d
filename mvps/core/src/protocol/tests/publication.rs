//! Publication with everybody else in between.

use futures_util::FutureExt;

use super::world::{Server, World, append_segment, collectable, image, request, segment, version};
use crate::env::memory::{MemoryBufferStores, Verdict as Reply};
use crate::env::{Clock, OperationKind, StoreError};
use crate::format::manifest::{ImageState, Manifest};
use crate::format::object_name::manifest_key;
use crate::ids::Tenure;
use crate::protocol::{
    Outcome, PublishError, PublishedBy, RuleBroken, Verdict, compose_open, compose_takeover, judge,
    next_tenure, publish,
};

/// The manifest by which somebody else becomes the active writer on the newest.
async fn become_active(world: &World) -> Server {
    let base = world.newest().await;
    let tenure = next_tenure(Some(&base), &*world.entropy);
    let body = compose_open(&base, tenure, "host-2", 0, world.clock.wall());
    world.publish_unhindered(&body, PublishedBy::Server).await;
    Server::active(&body)
}

/// Model: `--break recheck`. The create succeeds, because the collector freed the name; the newest
/// manifest knows nothing of it.
#[tokio::test(start_paused = true)]
async fn recheck_a_created_manifest_may_still_not_count() {
    let world = World::new();
    let mut server = world.first_server().await;
    let late = server.compose_checkpoint();
    world.snapshot("monday").await;
    world.expire().await;
    world.delete_forgotten_manifests().await;
    assert_eq!(late.version, version(2), "the snapshot had this name");

    let outcome = server.publish(&world, &late).await.unwrap();
    let key = manifest_key(&image(), late.version);
    assert!(world.objects.keys().contains(&key), "it was created");
    let newest = world.newest().await;
    assert_eq!(outcome, Outcome::Merge(newest.clone()));
    assert_eq!(newest.version, version(3));

    let merged = server.checkpoint(&world).await;
    assert_eq!((merged.version, merged.lsn), (version(4), late.lsn));
    assert_eq!(merged.publication, late.publication.next());
}

/// Model: `--break adopt`. An opener that slept creates its manifest under a freed name and finds a
/// newer manifest of the same epoch *number*: the number proves nothing.
#[tokio::test(start_paused = true)]
async fn adopt_an_equal_epoch_number_is_not_descent() {
    let world = World::new();
    let base = world.first_server().await.base;
    let sleeper = next_tenure(Some(&base), &*world.entropy);
    let late = compose_open(&base, sleeper, "host-2", 0, world.clock.wall());
    world.snapshot("monday").await;
    let other = become_active(&world).await;
    assert_eq!(other.tenure.epoch, sleeper.epoch);
    world.expire().await;
    world.delete_forgotten_manifests().await;

    let outcome = publish(&world.manifests, &late, PublishedBy::Server).await;
    let newest = world.newest().await;
    assert_eq!(outcome, Ok(Outcome::Fenced(newest.clone())));
    assert_eq!(newest.tenure, other.tenure);

    // The same with a forged tenure id: what the rule would say if numbers were identity.
    let same_id = Manifest {
        tenure: Tenure {
            id: sleeper.id,
            ..newest.tenure
        },
        ..newest
    };
    assert_eq!(
        judge(&same_id, &late, PublishedBy::Server),
        Verdict::Counted
    );
}

/// Model: `--break epoch`. A fenced server that merged onto its successor's manifest would
/// reference objects that the successor's collector may have deleted.
#[tokio::test(start_paused = true)]
async fn epoch_a_fenced_server_composes_nothing() {
    let world = World::new();
    let mut fenced = world.first_server().await;
    let late = fenced.compose_checkpoint();
    let mut successor = become_active(&world).await;

    let outcome = fenced.publish(&world, &late).await.unwrap();
    assert_eq!(outcome, Outcome::Fenced(successor.base.clone()));
    assert!(collectable(&successor.base, &late.segments[0].name));

    // It does not get around that by composing onto the newest,
    let refused = fenced.compose(|_| ()).unwrap_err();
    assert!(
        matches!(refused, RuleBroken::OtherTenure { .. }),
        "{refused}"
    );
    // and the successor does not pick up what the fenced server uploaded.
    let picked_up = successor.compose(|own| own.segments.extend(late.segments));
    assert!(matches!(picked_up, Err(RuleBroken::Unprotected { .. })));
}

/// Model: `--break watermark`. A watermark above an upload in flight lets the collector delete it.
#[tokio::test(start_paused = true)]
async fn watermark_an_upload_below_it_is_never_referenced_later() {
    let world = World::new();
    let mut server = world.first_server().await;
    let base = server.base.clone();
    // Numbers 0 and 1 are uploaded; only 0 is published, with a watermark that passes both.
    let reckless = server.compose(|own| {
        append_segment(own, &base, 0);
        own.watermark.0 = 2;
    });
    let outcome = server.publish(&world, &reckless.unwrap()).await.unwrap();
    assert!(collectable(outcome.newest(), &segment(&base, 1, 1).name));
    let base = server.base.clone();
    let too_late = server.compose(|own| append_segment(own, &base, 1));
    assert!(
        matches!(too_late, Err(RuleBroken::Unprotected { .. })),
        "{too_late:?}"
    );
    // The next number is free to use.
    server.compose(|own| append_segment(own, &base, 2)).unwrap();

    // An upload that overtakes another is published above the watermark.
    let overtaking = server.compose(|own| {
        append_segment(own, &base, 3);
        own.watermark.0 = 2;
    });
    let outcome = server.publish(&world, &overtaking.unwrap()).await.unwrap();
    assert!(!collectable(outcome.newest(), &segment(&base, 2, 2).name));
    let base = server.base.clone();
    server.compose(|own| append_segment(own, &base, 2)).unwrap();
}

/// Model: `--break merge`. A writer that kept its own idea of the oldest retained version would
/// retain versions again whose objects are being deleted.
#[tokio::test(start_paused = true)]
async fn merge_takes_what_others_published() {
    let world = World::new();
    let mut server = world.first_server().await;
    server.checkpoint(&world).await;
    let late = server.compose_checkpoint();
    world.snapshot("monday").await;
    world.expire().await;
    assert_eq!(late.oldest_retained, version(1));

    let outcome = server.publish(&world, &late).await.unwrap();
    assert!(matches!(outcome, Outcome::Merge(_)), "{outcome:?}");
    let merged = server.checkpoint(&world).await;
    assert_eq!(merged.oldest_retained, version(4));
    assert_eq!(merged.snapshots[0].name, "monday");
    assert_eq!(merged.others.len(), 2);
    assert_eq!(merged.segments, late.segments);
}

/// A snapshot lands on the writer's publication before the writer looked: it counted all the same,
/// and the next publication keeps the snapshot.
#[tokio::test(start_paused = true)]
async fn built_upon_before_the_recheck() {
    let world = World::new();
    let mut server = world.first_server().await;
    let body = server.compose_checkpoint();
    let recheck = world.stall(OperationKind::List);
    let mut publishing = Box::pin(server.publish(&world, &body));
    assert!((&mut publishing).now_or_never().is_none());

    world.snapshot("monday").await;
    recheck.send(()).unwrap();
    let outcome = publishing.await.unwrap();
    let newest = world.newest().await;
    assert_eq!(outcome, Outcome::Counted(newest.clone()));
    assert_eq!((newest.version, newest.lsn), (version(3), body.lsn));
    let next = server.checkpoint(&world).await;
    assert_eq!(next.snapshots.len(), 1);
}

/// The writer is faster than the admin: the admin composes again, under its own id.
#[tokio::test(start_paused = true)]
async fn an_admin_gives_way() {
    let world = World::new();
    let mut server = world.first_server().await;
    let (late, publisher) = world.compose_snapshot("monday").await;
    server.checkpoint(&world).await;
    let outcome = publish(&world.manifests, &late, publisher).await.unwrap();
    assert_eq!(outcome, Outcome::Merge(world.newest().await));
    world.snapshot("monday").await;
}

/// The reply of a create is lost, and retries of it find the name taken: by the body itself, by
/// one built on it, or by nobody because the collector freed it meanwhile.
#[tokio::test(start_paused = true)]
async fn a_lost_reply_is_resolved() {
    let world = World::new();
    let mut server = world.first_server().await;
    world.objects.set_verdicts([Reply::reply_lost()]);
    server.checkpoint(&world).await;

    // Given up on after the reply was lost; built upon and forgotten; then tried again.
    let body = server.compose_checkpoint();
    assert!(world.land(&body).await);
    world.snapshot("monday").await;
    world.expire().await;
    world.delete_forgotten_manifests().await;
    let outcome = server.publish(&world, &body).await.unwrap();
    assert_eq!(outcome, Outcome::Counted(world.newest().await));
}

/// The create lands after its writer was fenced: never as the newest.
#[tokio::test(start_paused = true)]
async fn a_zombie_lands_beneath() {
    let world = World::new();
    let mut fenced = world.first_server().await;
    fenced.checkpoint(&world).await;
    let zombie = fenced.compose_checkpoint();
    let mut successor = become_active(&world).await;
    assert!(!world.land(&zombie).await, "the name is taken");
    let newest = successor.checkpoint(&world).await;
    world.expire().await;
    world.delete_forgotten_manifests().await;
    assert!(world.land(&zombie).await, "the name is free");
    assert_eq!(world.newest().await.tenure, successor.tenure);
    assert_eq!(world.newest().await.segments, newest.segments);
    assert!(matches!(
        fenced.publish(&world, &zombie).await,
        Ok(Outcome::Fenced(_))
    ));
}

/// A takeover fences the active writer, at its next publication, whether or not anybody became
/// the active writer afterwards.
#[tokio::test(start_paused = true)]
async fn a_takeover_fences() {
    let world = World::new();
    let mut server = world.first_server().await;
    server.checkpoint(&world).await;
    let tenure = next_tenure(Some(&server.base), &*world.entropy);
    let takeover = compose_takeover(&server.base, tenure, world.clock.wall());
    world
        .publish_unhindered(&takeover, PublishedBy::Server)
        .await;
    let body = server.compose_checkpoint();
    let outcome = server.publish(&world, &body).await.unwrap();
    assert_eq!(outcome, Outcome::Fenced(takeover));
}

/// The server publishes clean, and active again when a client comes, within one tenure.
#[tokio::test(start_paused = true)]
async fn a_server_leaves_and_comes_back() {
    let world = World::new();
    let mut server = world.first_server().await;
    server.checkpoint(&world).await;
    let clean = server.compose(|own| own.state = ImageState::Clean).unwrap();
    server.publish(&world, &clean).await.unwrap();
    assert_eq!(world.newest().await.state, ImageState::Clean);
    let back = server
        .compose(|own| own.state = ImageState::Active)
        .unwrap();
    assert_eq!(
        server.publish(&world, &back).await,
        Ok(Outcome::Counted(back))
    );
    // Or somebody else was faster.
    let clean = server.compose(|own| own.state = ImageState::Clean).unwrap();
    server.publish(&world, &clean).await.unwrap();
    let node = MemoryBufferStores::new();
    let other = world.opens(&node, &request()).await.unwrap();
    let late = Server::active(&clean)
        .compose(|own| own.state = ImageState::Active)
        .unwrap();
    let outcome = publish(&world.manifests, &late, PublishedBy::Server).await;
    assert_eq!(outcome, Ok(Outcome::Fenced(other.manifest)));
}

/// An error leaves the fate open, and the same body resolves it.
#[tokio::test(start_paused = true)]
async fn an_unknown_fate_is_an_error_and_resolves_with_the_same_body() {
    let world = World::new();
    let mut server = world.first_server().await;
    let body = server.compose_checkpoint();
    let denied = || StoreError::Denied {
        reason: "scripted".to_owned(),
    };
    world.objects.set_verdicts([Reply::LoseReply(denied())]);
    let error = server.publish(&world, &body).await.unwrap_err();
    assert!(matches!(error, PublishError::Create { .. }), "{error}");
    world
        .objects
        .set_verdicts([Reply::Serve, Reply::Fail(denied())]);
    let error = server.publish(&world, &body).await.unwrap_err();
    assert!(matches!(error, PublishError::Recheck { .. }), "{error}");
    assert_eq!(
        server.publish(&world, &body).await,
        Ok(Outcome::Counted(body))
    );
}

/// A store whose listing does not show what was created cannot be used.
#[tokio::test(start_paused = true)]
async fn a_stale_listing_is_an_error() {
    let world = World::new();
    let mut server = world.first_server().await;
    let body = server.compose_checkpoint();
    let recheck = world.stall(OperationKind::List);
    let mut publishing = Box::pin(server.publish(&world, &body));
    assert!((&mut publishing).now_or_never().is_none());
    world.objects.remove(&manifest_key(&image(), body.version));
    recheck.send(()).unwrap();
    let error = publishing.await.unwrap_err();
    let version = body.version;
    assert_eq!(error, PublishError::NotListed { version });
}

/// The newest manifest is forgotten between its listing and its reading: list again.
#[tokio::test(start_paused = true)]
async fn the_newest_may_vanish_while_it_is_read() {
    let world = World::new();
    let mut server = world.first_server().await;
    let reading = world.stall(OperationKind::Get);
    let (manifests, image) = (world.manifests.clone(), image());
    let mut newest = Box::pin(manifests.newest(&image));
    assert!((&mut newest).now_or_never().is_none());
    server.checkpoint(&world).await;
    world.expire().await;
    world.delete_forgotten_manifests().await;
    reading.send(()).unwrap();
    assert_eq!(newest.await, Ok(Some(world.newest().await)));
}

/// What cannot be read is never taken for absent.
#[tokio::test(start_paused = true)]
async fn a_damaged_newest_manifest_is_an_error() {
    use crate::protocol::ManifestError;
    let world = World::new();
    let mut server = world.first_server().await;
    server.checkpoint(&world).await;
    let key = manifest_key(&image(), version(2));
    world.objects.poke(&key, bytes::Bytes::from_static(b"MVma"));
    let read = world.manifests.newest(&image()).await;
    assert!(
        matches!(read, Err(ManifestError::Corrupt { .. })),
        "{read:?}"
    );
    assert_eq!(
        world.manifests.list_versions(&image()).await,
        Ok(vec![version(2), version(1)])
    );
}
