//! Takeover, adopt, show and list against a memory store.

mod history;

use futures_util::FutureExt;

use super::{AdminError, TakeoverOutcome, adopt, list, show, takeover};
use crate::env::memory::{Crash, MemoryBufferStores, Verdict};
use crate::env::{BufferStores, OperationKind};
use crate::format::manifest::ImageState;
use crate::format::object_name::manifest_key;
use crate::ids::{ImageId, Lsn};
use crate::protocol::tests::world::{Server, World, commit_page, image, request, version};
use crate::protocol::{Outcome, RefusalReason};

async fn take_over(world: &World) -> Result<TakeoverOutcome, AdminError> {
    takeover(&world.manifests, &*world.clock, &*world.entropy, &image()).await
}

async fn leave(world: &World, server: &mut Server) {
    let clean = server.compose(|own| own.state = ImageState::Clean).unwrap();
    let outcome = server.publish(world, &clean).await.unwrap();
    assert_eq!(outcome, Outcome::Counted(clean));
}

/// A server on `node` with one commit in a checkpoint and one after it, killed.
async fn killed_server(world: &World, node: &MemoryBufferStores) -> Server {
    let mut recovered = node.open(&image()).await.unwrap();
    let opened = world.opens_with(&mut recovered, &request()).await.unwrap();
    let mut server = Server::of(&opened);
    commit_page(&recovered, 1).await;
    server.checkpoint(world).await;
    commit_page(&recovered, 2).await;
    node.crash(Crash::ProcessKill, &*world.entropy);
    server
}

#[tokio::test(start_paused = true)]
async fn a_takeover_leaves_the_image_clean_and_on_record() {
    let world = World::new();
    let mut server = world.first_server().await;
    server.checkpoint(&world).await;
    let Ok(TakeoverOutcome::TakenOver(report)) = take_over(&world).await else {
        panic!("taken over");
    };
    assert_eq!((report.state, report.version, report.lsn), ("clean", 3, 1));
    assert_eq!(
        report.takeovers[0].from_tenure,
        server.tenure.id.to_string()
    );
    assert_eq!(report.takeovers[0].at_lsn, 1);
    assert_eq!(report.epoch, server.tenure.epoch.0 + 1);

    let late = server.compose_checkpoint();
    let outcome = server.publish(&world, &late).await.unwrap();
    assert!(matches!(outcome, Outcome::Fenced(_)));
    world
        .opens(&MemoryBufferStores::new(), &request())
        .await
        .unwrap();
}

/// Run again, or after a clean close, it finds nothing to take.
#[tokio::test(start_paused = true)]
async fn there_is_nothing_to_take_from_nobody() {
    let world = World::new();
    let missing = take_over(&world).await;
    assert!(matches!(missing, Err(AdminError::NoSuchImage { .. })));
    let mut server = world.first_server().await;
    leave(&world, &mut server).await;
    let outcome = take_over(&world).await;
    assert!(matches!(outcome, Ok(TakeoverOutcome::WasClean(_))));
    assert_eq!(world.newest().await.version, version(2));
}

/// The server publishes between the takeover's reading and its creating: less is lost.
#[tokio::test(start_paused = true)]
async fn a_takeover_composes_again_onto_a_last_checkpoint() {
    let world = World::new();
    let mut server = world.first_server().await;
    let body = server.compose_checkpoint();
    let creating = world.stall(OperationKind::Create);
    let mut taking = Box::pin(take_over(&world));
    assert!((&mut taking).now_or_never().is_none());
    server.publish(&world, &body).await.unwrap();
    creating.send(()).unwrap();
    let Ok(TakeoverOutcome::TakenOver(report)) = taking.await else {
        panic!("taken over");
    };
    assert_eq!((report.version, report.takeovers[0].at_lsn), (3, 1));
}

/// Somebody opens the image between the takeover's create and its re-check: it happened, once, and
/// the successor is left alone.
#[tokio::test(start_paused = true)]
async fn a_takeover_is_not_repeated_against_its_successor() {
    let world = World::new();
    world.first_server().await;
    let mut lists = 0;
    let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
    let mut receiver = Some(receiver);
    world.objects.set_script(move |operation| {
        lists += usize::from(operation.kind == OperationKind::List);
        match (lists, &mut receiver) {
            (2, receiver) if receiver.is_some() => {
                let receiver = receiver.take().unwrap();
                Verdict::Delay(Box::pin(async move { receiver.await.unwrap() }))
            }
            _ => Verdict::Serve,
        }
    });
    let mut taking = Box::pin(take_over(&world));
    assert!(
        (&mut taking).now_or_never().is_none(),
        "it is about to re-check"
    );
    let successor = world.opens(&MemoryBufferStores::new(), &request()).await;
    let successor = successor.unwrap().manifest;
    sender.send(()).unwrap();
    let outcome = taking.await;
    assert!(
        matches!(outcome, Ok(TakeoverOutcome::TakenOver(_))),
        "{outcome:?}"
    );
    assert_eq!(world.newest().await, successor);
}

/// The server that the operator meant closed clean and another one opened meanwhile.
#[tokio::test(start_paused = true)]
async fn a_takeover_does_not_depose_another_than_it_saw() {
    let world = World::new();
    let mut server = world.first_server().await;
    let creating = world.stall(OperationKind::Create);
    let mut taking = Box::pin(take_over(&world));
    assert!((&mut taking).now_or_never().is_none());
    leave(&world, &mut server).await;
    let successor = world.opens(&MemoryBufferStores::new(), &request()).await;
    creating.send(()).unwrap();
    let error = taking.await.unwrap_err();
    assert!(matches!(error, AdminError::OwnerChanged { .. }), "{error}");
    assert!(error.to_string().contains("mvps image show disk0"));
    assert_eq!(world.newest().await, successor.unwrap().manifest);
}

#[tokio::test(start_paused = true)]
async fn a_buffer_store_that_was_taken_over_is_adopted() {
    let world = World::new();
    let node = MemoryBufferStores::new();
    killed_server(&world, &node).await;
    take_over(&world).await.unwrap();

    let adopted = adopt(&world.opener(), &node, &image()).await.unwrap();
    assert_eq!(
        (adopted.version, adopted.checkpoint_lsn, adopted.buffer_lsn),
        (4, 1, 2)
    );
    assert!(!adopted.was_active);
    let again = adopt(&world.opener(), &node, &image()).await.unwrap();
    assert!(again.was_active);

    let mut recovered = node.open(&image()).await.unwrap();
    let opened = world.opens_with(&mut recovered, &request()).await.unwrap();
    assert_eq!((opened.last_lsn, opened.manifest.lsn), (Lsn(2), Lsn(1)));
    let records = recovered.generations.iter().map(|g| g.records.len());
    assert_eq!(records.sum::<usize>(), 2, "everything is still there");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_adopted() {
    let world = World::new();
    let node = MemoryBufferStores::new();
    let elsewhere = MemoryBufferStores::new();
    let adopting = async |node: &MemoryBufferStores| adopt(&world.opener(), node, &image()).await;
    let error = adopting(&node).await.unwrap_err();
    assert!(matches!(error, AdminError::NoBufferStore { .. }), "{error}");
    node.lose(&image());

    killed_server(&world, &node).await;
    take_over(&world).await.unwrap();
    // Another server has the image.
    let successor = world.opens(&elsewhere, &request()).await.unwrap();
    let error = adopting(&node).await.unwrap_err();
    assert!(matches!(error, AdminError::Active { .. }), "{error}");
    // It left without a commit: nothing is in the way.
    let before = node.copy(&image()).unwrap();
    let mut successor = Server::of(&successor);
    leave(&world, &mut successor).await;
    adopting(&node).await.unwrap();
    // Had it committed, the buffer store would be of another history.
    take_over(&world).await.unwrap();
    let mut committer = Server::of(
        &world
            .opens(&MemoryBufferStores::new(), &request())
            .await
            .unwrap(),
    );
    committer.checkpoint(&world).await;
    leave(&world, &mut committer).await;
    node.restore(&image(), &before);
    let error = adopting(&node).await.unwrap_err();
    assert!(matches!(error, AdminError::OtherHistory { .. }), "{error}");
    let mut recovered = node.open(&image()).await.unwrap();
    match world.opens_with(&mut recovered, &request()).await {
        Err(crate::protocol::OpeningError::Refused(refusal)) => {
            assert_eq!(refusal.reason, RefusalReason::OtherHistory);
            assert!(!refusal.adopt, "{refusal}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn show_and_list() {
    let world = World::new();
    let missing = show(&world.manifests, &image()).await;
    assert!(matches!(missing, Err(AdminError::NoSuchImage { .. })));
    assert_eq!(list(&world.manifests).await.unwrap(), []);

    let mut server = world.first_server().await;
    server.checkpoint(&world).await;
    world.snapshot("monday").await;
    let report = show(&world.manifests, &image()).await.unwrap();
    assert_eq!(
        (report.state, report.owner.as_str()),
        ("active", "host-1, process 7")
    );
    assert_eq!(
        (report.segments, report.stored_bytes, report.version),
        (1, 8192, 3)
    );
    assert_eq!(report.snapshots[0].name, "monday");
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["size_bytes"], 1 << 30);

    // A damaged image does not hide the others.
    let damaged = ImageId::parse("aaa").unwrap();
    let key = manifest_key(&damaged, version(1));
    world.objects.poke(&key, bytes::Bytes::from_static(b"?"));
    let rows = list(&world.manifests).await.unwrap();
    assert_eq!((rows.len(), rows[0].image.as_str()), (2, "aaa"));
    assert!(rows[0].problem.as_ref().unwrap().contains(&key));
    assert_eq!(rows[1].report.as_ref(), Some(&report));
}
