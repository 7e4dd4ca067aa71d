//! Servers of published versions (docs/protocol.md §4.7): a release of an earlier life that comes
//! late, and two servers with one stable id, because a folder was copied.

use super::stage::*;
use crate::admin::{self, ReaderLife};
use crate::env::OperationKind::Create;
use crate::env::memory::SeededEntropy;
use crate::format::manifest::PinHolder;
use crate::session::{OpenImage, ServedImage};

/// A life of the server `host` in the line `line`.
fn life(line: u64, number: u64) -> ReaderLife {
    ReaderLife::begin("host", line, &SeededEntropy::new(number))
}

/// An image whose first page was 1 in the version that is returned, and is 2 now. Collected before
/// anybody pins it, that version would be gone.
async fn image_of_two_versions(stage: &Stage) -> u64 {
    let first = stage.actor(1).make("disk0", 1).await;
    stage.actor(2).rewrite("disk0", 2).await;
    first
}

/// Everything that nobody needs is gone, and `served` reads well.
async fn check_kept(stage: &Stage, served: &ServedImage) {
    // In the second pass what was retired is gone, too.
    stage.actor(30).first_page("disk0").await;
    stage.actor(31).collect_all("disk0").await;
    stage.actor(31).collect_all("disk0").await;
    stage.check_nothing_needed_is_missing();
    assert_eq!(read_version(served).await, 1);
}

fn pins(stage: &Stage) -> Vec<String> {
    let pins = stage.newest("disk0").pins.into_iter();
    pins.map(|pin| match pin.holder {
        PinHolder::Reader(name) => name,
        PinHolder::Clone { target, .. } => panic!("{target} is no clone"),
    })
    .collect()
}

/// The release is on its way when its server dies. The next life reads the same by then.
#[tokio::test(start_paused = true)]
async fn a_late_release_of_an_earlier_life_does_not_count() {
    let stage = Stage::new();
    let first = image_of_two_versions(&stage).await;
    let (earlier, later) = (stage.actor(3), stage.actor(4));

    let served = earlier.serve("disk0", first, life(1, 1)).await;
    let mut create = earlier.hold(Create, MANIFESTS);
    let closing = earlier.start(async move |_| served.close().await);
    create.reached().await;
    let served = later.serve("disk0", first, life(1, 2)).await;
    create.release();
    // The earlier life's process may live on as far as the store is concerned, or not.
    let _ = closing.await.expect("no panic");

    check_kept(&stage, &served).await;
    served.close().await.expect("released");
    assert!(pins(&stage).is_empty());
}

/// One of the two stops; what the other reads stays.
#[tokio::test(start_paused = true)]
async fn a_copied_folders_server_has_a_pin_of_its_own() {
    let stage = Stage::new();
    let first = image_of_two_versions(&stage).await;
    let one = stage.actor(3).serve("disk0", first, life(1, 1)).await;
    let other = stage.actor(4).serve("disk0", first, life(2, 2)).await;
    assert_eq!(pins(&stage).len(), 2);
    one.close().await.expect("released");
    check_kept(&stage, &other).await;
}

/// A server that died leaves its pins to the next life of its line. Those of the same stable id that
/// are of another line stay, until an operator says that they are dead.
#[tokio::test(start_paused = true)]
async fn a_life_takes_away_the_pins_that_it_has_outlived() {
    let stage = Stage::new();
    let first = image_of_two_versions(&stage).await;
    let second = stage.newest("disk0").version.0;
    let (dead, twin, present) = (life(1, 1), life(2, 2), life(1, 3));
    for version in [first, second] {
        stage.actor(3).serve("disk0", version, dead.clone()).await;
    }
    let read_by_twin = stage.actor(4).serve("disk0", first, twin.clone()).await;
    let served = stage.actor(5).serve("disk0", first, present.clone()).await;
    let of = |life: &ReaderLife| format!("{life}:version:{first}");
    assert_eq!(pins(&stage), [of(&twin), of(&present)]);
    check_kept(&stage, &read_by_twin).await;
    check_kept(&stage, &served).await;

    let operator = stage.actor(6);
    let shown = admin::pins(&operator.admin(), &named("disk0"), Some(&present)).await;
    let shown = shown.expect("shown").pins.into_iter();
    let shown: Vec<_> = shown.map(|pin| (pin.life, pin.life_is)).collect();
    let expected = [
        (Some(twin.to_string()), None),
        (Some(present.to_string()), Some("present")),
    ];
    assert_eq!(shown, expected);
    let release = async |id: &str| {
        let admin = operator.admin();
        admin::release_reader(&admin, &named("disk0"), id, Some(&present)).await
    };
    release("host").await.expect("released");
    assert_eq!(pins(&stage), [of(&present)]);
    release("host")
        .await
        .expect_err("the present life is spared");
    release(&present.to_string()).await.expect("it was named");
    assert!(pins(&stage).is_empty());
}
