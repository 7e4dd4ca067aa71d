//! The tenure check against the store.

use super::world::{World, image, version};
use crate::env::memory::Verdict;
use crate::env::{Clock, OperationKind};
use crate::format::object_name::manifest_key;
use crate::protocol::{
    CheckOutcome, PublishedBy, TENURE_CHECK_PATIENCE, TenureFinding, check_tenure,
    compose_takeover, next_tenure,
};

#[tokio::test(start_paused = true)]
async fn one_listing_confirms() {
    let world = World::new();
    let server = world.first_server().await;
    let before = world.objects.operations().len();
    let found = check_tenure(&world.manifests, &image(), server.tenure, version(1)).await;
    assert_eq!(found, TenureFinding::Active);
    let requests = &world.objects.operations()[before..];
    assert_eq!(requests.len(), 1, "{requests:?}");
    assert_eq!(requests[0].kind, OperationKind::List);
}

#[tokio::test(start_paused = true)]
async fn others_publications_do_not_depose() {
    let world = World::new();
    let server = world.first_server().await;
    world.snapshot("monday").await;
    let found = check_tenure(&world.manifests, &image(), server.tenure, version(1)).await;
    let newest = Box::new(world.newest().await);
    assert_eq!(found, TenureFinding::ActiveWith(newest));
    assert_eq!(found.outcome(), CheckOutcome::Active);
}

#[tokio::test(start_paused = true)]
async fn a_takeover_deposes() {
    let world = World::new();
    let server = world.first_server().await;
    let tenure = next_tenure(Some(&server.base), &*world.entropy);
    let body = compose_takeover(&server.base, tenure, world.clock.wall());
    world.publish_unhindered(&body, PublishedBy::Server).await;
    let found = check_tenure(&world.manifests, &image(), server.tenure, version(1)).await;
    assert_eq!(found, TenureFinding::Superseded(Box::new(body)));
}

#[tokio::test(start_paused = true)]
async fn what_is_gone_or_unreadable_confirms_nothing() {
    let world = World::new();
    let server = world.first_server().await;
    world.snapshot("monday").await;
    let check = || check_tenure(&world.manifests, &IMAGE, server.tenure, version(1));
    static IMAGE: std::sync::LazyLock<crate::ids::ImageId> = std::sync::LazyLock::new(image);
    let key = manifest_key(&image(), version(2));
    world.objects.poke(&key, bytes::Bytes::new());
    let found = check().await;
    assert!(matches!(found, TenureFinding::Unreadable(_)), "{found:?}");
    assert_eq!(found.outcome(), CheckOutcome::Superseded);

    world.objects.remove(&key);
    world.objects.remove(&manifest_key(&image(), version(1)));
    assert_eq!(check().await, TenureFinding::Vanished);
}

/// A bit that flips on the way must not cost a server its tenure.
#[tokio::test(start_paused = true)]
async fn a_manifest_that_was_damaged_on_the_way_is_read_again() {
    let world = World::new();
    let server = world.first_server().await;
    world.snapshot("monday").await;
    let key = manifest_key(&image(), version(2));
    let body = world.objects.peek(&key).unwrap();
    let mut damaged = body.to_vec();
    damaged[20] ^= 1;
    let damaged = bytes::Bytes::from(damaged);
    let mut answers = vec![body];
    answers.extend(std::iter::repeat_n(damaged, 5));
    let objects = std::sync::Arc::downgrade(&world.objects);
    world.objects.set_script(move |operation| {
        if operation.kind == OperationKind::Get
            && let Some(answer) = answers.pop()
        {
            objects.upgrade().unwrap().poke(&key, answer);
        }
        Verdict::Serve
    });
    let found = check_tenure(&world.manifests, &image(), server.tenure, version(1)).await;
    assert_eq!(found.outcome(), CheckOutcome::Active, "{found:?}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_store_costs_the_patience_and_no_more() {
    let world = World::new();
    let server = world.first_server().await;
    world.objects.set_script(|_| Verdict::Hang);
    let before = world.clock.now();
    let found = check_tenure(&world.manifests, &image(), server.tenure, version(1)).await;
    assert!(matches!(found, TenureFinding::Unreachable(_)), "{found:?}");
    assert_eq!(found.outcome(), CheckOutcome::Unreachable);
    assert_eq!(world.clock.now().since(before), TENURE_CHECK_PATIENCE);
}
