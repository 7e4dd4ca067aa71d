//! Clones, pins and tombstones (docs/protocol.md §5): the counterexamples of the model `clone`, one
//! for each rule. The model's images S, T and U are `source`, `copy` and `last`.

use super::stage::*;
use crate::admin::AdminError;
use crate::env::OperationKind::Create;
use crate::format::manifest::ImageState;
use crate::reachability::referenced_images;

/// The source holds 1 in its first page.
async fn source(stage: &Stage) {
    stage.actor(1).make("source", 1).await;
}

/// The source is empty again, and forgets that it ever was something else: what it held is there
/// only for pins.
async fn forget_source(stage: &Stage) {
    let first = stage.versions("source")[0];
    let operator = stage.actor(20);
    let emptied = operator.roll_back("source", first).await;
    emptied.expect("it is retained");
    // In the second pass pins of pins are gone.
    operator.collect_all("source").await;
    operator.collect_all("source").await;
}

/// A server overwrites everything in `copy`, until that shares nothing any more but its history.
async fn rewrite_copy(stage: &Stage, byte: u8) {
    stage.actor(21).rewrite("copy", byte).await;
    // Whoever opens it next lets go of what was retired.
    assert_eq!(stage.actor(22).first_page("copy").await, byte);
    let newest = stage.newest("copy");
    let own = referenced_images(&newest)
        .into_iter()
        .all(|image| *image == named("copy"));
    assert!(own && newest.retired.is_empty(), "{newest:?}");
}

fn has_pins(stage: &Stage, of: &str) -> bool {
    !stage.newest(of).pins.is_empty()
}

/// §5.2. `copy` is deleted while `last` is made of it: pinned in `copy`, not yet in `source`. What
/// the tombstone pins for `last` is of `source`, so `copy` still shares with it.
#[tokio::test(start_paused = true)]
async fn chain_a_tombstones_pins_share() {
    let stage = Stage::new();
    source(&stage).await;
    let (admin, cloner) = (stage.actor(2), stage.actor(3));
    admin.clone_as("source", "copy").await.expect("a clone");

    let mut root_pin = cloner.hold(Create, "images/source/manifests/");
    let cloning = cloner.start(async |it| it.clone_as("copy", "last").await);
    root_pin.reached().await;
    assert!(has_pins(&stage, "copy"));
    admin.delete("copy").await;
    forget_source(&stage).await;
    root_pin.release();
    let cloned = cloning.await.expect("no panic");
    stage.check_nothing_needed_is_missing();
    cloned.expect("what it is made of is still pinned");
    assert_eq!(stage.actor(4).first_page("last").await, 1);
}

/// §5.3. A tombstone keeps the pins: `last` needs what `copy` wrote itself.
#[tokio::test(start_paused = true)]
async fn keep_a_tombstone_keeps_the_pins() {
    let stage = Stage::new();
    source(&stage).await;
    let admin = stage.actor(2);
    admin.clone_as("source", "copy").await.expect("a clone");
    rewrite_copy(&stage, 2).await;
    admin.clone_as("copy", "last").await.expect("a clone");
    admin.delete("copy").await;
    assert_eq!(stage.newest("copy").state, ImageState::Tombstone);
    stage.actor(3).collect("copy").await;
    stage.check_nothing_needed_is_missing();
    assert_eq!(stage.actor(4).first_page("last").await, 2);
}

/// §5.1. While the cloner sleeps, somebody makes an image of the target's name, and the collector
/// frees the name of its first version. The cloner creates that: it has not made a clone.
#[tokio::test(start_paused = true)]
async fn recheck_a_clone_that_was_created_may_not_be_the_newest() {
    let stage = Stage::new();
    source(&stage).await;
    let (cloner, other) = (stage.actor(2), stage.actor(3));
    let mut create = cloner.hold(Create, "images/copy/manifests/");
    let cloning = cloner.start(async |it| it.clone_as("source", "copy").await);
    create.reached().await;
    other.make("copy", 9).await;
    stage.actor(4).collect_all("copy").await;
    assert!(!stage.versions("copy").contains(&1), "the name is free");
    create.release();
    let cloned = cloning.await.expect("no panic");
    assert!(stage.versions("copy").contains(&1), "it was created");
    assert!(
        matches!(cloned, Err(AdminError::TargetTaken { .. })),
        "{cloned:?}"
    );
    stage.check_nothing_needed_is_missing();
    assert_eq!(stage.actor(5).first_page("copy").await, 9);
}

/// §5.2 (c). Another image lives under the target's name: the cloner that sleeps will never make
/// it, and what is pinned for it goes.
#[tokio::test(start_paused = true)]
async fn occupied_a_name_held_by_another_lets_go() {
    let stage = Stage::new();
    source(&stage).await;
    let (cloner, other) = (stage.actor(2), stage.actor(3));
    let mut create = cloner.hold(Create, "images/copy/manifests/");
    let cloning = cloner.start(async |it| it.clone_as("source", "copy").await);
    create.reached().await;
    assert!(has_pins(&stage, "source"));
    other.make("copy", 9).await;
    forget_source(&stage).await;
    assert!(!has_pins(&stage, "source"));
    assert!(stage.objects_of("source").is_empty(), "nobody needs them");
    create.release();
    let cloned = cloning.await.expect("no panic");
    assert!(
        matches!(cloned, Err(AdminError::TargetTaken { .. })),
        "{cloned:?}"
    );
    stage.check_nothing_needed_is_missing();
    assert_eq!(stage.actor(4).first_page("copy").await, 9);
}

/// §5.2 (b). The newest version of `copy` shares nothing, but earlier ones that it retains do, and
/// may be gone back to.
#[tokio::test(start_paused = true)]
async fn retained_versions_share_too() {
    let stage = Stage::new();
    source(&stage).await;
    let admin = stage.actor(2);
    admin.clone_as("source", "copy").await.expect("a clone");
    let first = stage.newest("copy").version.0;
    rewrite_copy(&stage, 2).await;
    forget_source(&stage).await;
    stage.check_nothing_needed_is_missing();
    let back = admin.roll_back("copy", first).await;
    back.expect("it is retained");
    stage.check_nothing_needed_is_missing();
    assert_eq!(stage.actor(3).first_page("copy").await, 1);
}

/// §5.1. `last` has nothing of `copy`'s own, so `copy` lets its pin go, and then `source` that of
/// `copy`, which is deleted: only a pin of `last` in `source` itself keeps what it needs.
#[tokio::test(start_paused = true)]
async fn rootpin_a_clones_clone_is_pinned_at_the_root() {
    let stage = Stage::new();
    source(&stage).await;
    let admin = stage.actor(2);
    admin.clone_as("source", "copy").await.expect("a clone");
    admin.clone_as("copy", "last").await.expect("a clone");
    admin.delete("copy").await;
    stage.actor(3).collect("copy").await;
    assert!(!has_pins(&stage, "copy"), "nothing of it is shared");
    forget_source(&stage).await;
    stage.check_nothing_needed_is_missing();
    assert_eq!(stage.newest("source").pins.len(), 1, "that of last");
    assert_eq!(stage.actor(4).first_page("last").await, 1);
}

/// §5.3. The name of a deleted image is used again: its pins go on in the new one.
#[tokio::test(start_paused = true)]
async fn carry_a_new_life_keeps_the_pins() {
    let stage = Stage::new();
    source(&stage).await;
    let admin = stage.actor(2);
    admin.clone_as("source", "copy").await.expect("a clone");
    rewrite_copy(&stage, 2).await;
    admin.clone_as("copy", "last").await.expect("a clone");
    admin.delete("copy").await;
    stage.actor(3).make("copy", 9).await;
    stage.actor(4).collect_all("copy").await;
    stage.check_nothing_needed_is_missing();
    assert_eq!(stage.actor(5).first_page("last").await, 2);
    assert_eq!(stage.actor(6).first_page("copy").await, 9);
}

/// §5.2 (d). The collector saw no `copy`, and slept before it took the name. Meanwhile `copy` was
/// made, served and forgot its first version, so that the tombstone can be created; it is not the
/// newest, and the pin stays.
#[tokio::test(start_paused = true)]
async fn abrecheck_an_abandoned_name_must_be_the_newest() {
    let stage = Stage::new();
    source(&stage).await;
    let (cloner, collector) = (stage.actor(2), stage.actor(3));
    let mut create = cloner.hold(Create, "images/copy/manifests/");
    let cloning = cloner.start(async |it| it.clone_as("source", "copy").await);
    create.reached().await;
    let mut tombstone = collector.hold(Create, "images/copy/manifests/");
    let collecting = collector.start(async |it| it.collect("source").await);
    tombstone.reached().await;
    create.release();
    cloning.await.expect("no panic").expect("a clone");
    assert_eq!(stage.actor(4).first_page("copy").await, 1);
    stage.actor(5).collect_all("copy").await;
    assert!(!stage.versions("copy").contains(&1), "the name is free");
    tombstone.release();
    collecting.await.expect("no panic");
    assert_eq!(stage.version("copy", 1).state, ImageState::Abandoned);
    forget_source(&stage).await;
    stage.check_nothing_needed_is_missing();
    assert!(has_pins(&stage, "source"));
    assert_eq!(stage.actor(6).first_page("copy").await, 1);
}
