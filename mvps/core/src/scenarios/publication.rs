//! Publication, fencing, expiry and collection of one image (docs/protocol.md §§3 and 4): the
//! counterexamples of the model `publish_gc`, one for each rule.

use super::stage::*;
use crate::admin::AdminError;
use crate::engine::EngineError;
use crate::env::OperationKind::{Create, Delete, List};

/// §3.2. The opener's create succeeds, because the collector freed the name of the snapshot that
/// was in its way; the newest manifest knows nothing of it.
#[tokio::test(start_paused = true)]
async fn recheck_a_create_that_succeeded_proves_nothing() {
    let stage = Stage::new();
    stage.actor(1).make("disk0", 1).await;
    let (server, admin, collector) = (stage.actor(2), stage.actor(3), stage.actor(4));
    let late = stage.newest("disk0").version.0 + 1;

    let mut create = server.hold(Create, MANIFESTS);
    let opening = server.start(async |it| it.try_open("disk0").await);
    create.reached().await;
    admin.snapshot("disk0", "monday").await;
    assert_eq!(stage.newest("disk0").version.0, late, "it has the name");
    collector.collect_all("disk0").await;
    assert!(!stage.versions("disk0").contains(&late), "the name is free");
    create.release();

    let disk = opening.await.expect("no panic").expect("it opens").attach();
    write(&disk, 1, 7).await;
    checkpoint(&disk).await;
    let newest = stage.newest("disk0");
    assert_eq!(newest.snapshots.len(), 1, "it builds upon what others did");
    close(disk).await;
    stage.check_nothing_needed_is_missing();
    let disk = stage.actor(5).open("disk0").await;
    assert_eq!([read(&disk, 0).await, read(&disk, 1).await], [1, 7]);
}

/// §1, §3.2. An opener that slept finds a newest manifest with the number of its own epoch: that of
/// somebody else, who drew the same number.
#[tokio::test(start_paused = true)]
async fn adopt_an_epochs_number_is_not_its_identity() {
    let stage = Stage::new();
    stage.actor(1).make("disk0", 1).await;
    let (sleeper, other) = (stage.actor(2), stage.actor(3));
    let (admin, collector) = (stage.actor(4), stage.actor(5));

    let mut create = sleeper.hold(Create, MANIFESTS);
    let opening = sleeper.start(async |it| it.try_open("disk0").await);
    create.reached().await;
    let late = stage.newest("disk0").version.0 + 1;
    admin.snapshot("disk0", "monday").await;
    let disk = other.open("disk0").await;
    write(&disk, 0, 2).await;
    collector.collect_all("disk0").await;
    assert!(!stage.versions("disk0").contains(&late), "the name is free");
    create.release();

    let opened = opening.await.expect("no panic");
    assert!(stage.versions("disk0").contains(&late), "it was created");
    assert!(opened.is_err(), "somebody else is the active writer");
    checkpoint(&disk).await;
    close(disk).await;
    stage.check_nothing_needed_is_missing();
    assert_eq!(stage.actor(6).first_page("disk0").await, 2);
}

/// An image whose newest manifest is empty again, and retains the version (which is returned) in
/// which its first page was written.
async fn emptied(stage: &Stage) -> u64 {
    let written = stage.actor(1).make("disk0", 1).await;
    let first = stage.versions("disk0")[0];
    let emptied = stage.actor(2).roll_back("disk0", first).await;
    emptied.expect("it is retained");
    written
}

/// §4.2. While the collector deletes what it forgot, an operator goes back to it: refused, because
/// it was published before that it is forgotten.
#[tokio::test(start_paused = true)]
async fn expiry_is_published_before_it_is_executed() {
    let stage = Stage::new();
    let written = emptied(&stage).await;
    let (admin, collector) = (stage.actor(3), stage.actor(4));
    let mut delete = collector.hold(Delete, OBJECTS);
    let collecting = collector.start(async |it| it.collect_all("disk0").await);
    delete.reached().await;
    let back = admin.roll_back("disk0", written).await;
    delete.release();
    collecting.await.expect("no panic");
    stage.check_nothing_needed_is_missing();
    assert!(
        matches!(back, Err(AdminError::VersionGone { .. })),
        "{back:?}"
    );
    assert!(stage.objects_of("disk0").is_empty(), "it was deleted");
}

/// The same, and the operator is faster than the publication: the collector goes on from there.
#[tokio::test(start_paused = true)]
async fn expiry_that_comes_too_late_forgets_nothing_that_came_back() {
    let stage = Stage::new();
    let written = emptied(&stage).await;
    let (admin, collector) = (stage.actor(3), stage.actor(4));
    let mut create = collector.hold(Create, MANIFESTS);
    let collecting = collector.start(async |it| it.collect_all("disk0").await);
    create.reached().await;
    let back = admin.roll_back("disk0", written).await;
    back.expect("it is still retained");
    create.release();
    collecting.await.expect("no panic");
    stage.check_nothing_needed_is_missing();
    assert_eq!(stage.actor(5).first_page("disk0").await, 1);
}

/// §4.1. The collector read the newest manifest before the server published what it has uploaded,
/// and lists and deletes after it.
#[tokio::test(start_paused = true)]
async fn watermark_what_is_uploaded_and_unpublished_stays() {
    let stage = Stage::new();
    let (server, collector) = (stage.actor(1), stage.actor(2));
    let disk = server.open("disk0").await;
    write(&disk, 0, 1).await;
    checkpoint(&disk).await;
    write(&disk, 1, 2).await;
    let mut create = server.hold(Create, MANIFESTS);
    let image = disk.image().clone();
    let publishing = tokio::spawn(async move { image.checkpoint().await });
    create.reached().await;
    let uploaded = stage.objects_of("disk0");
    assert_eq!(uploaded.len(), 2, "{uploaded:?}");

    let mut list = collector.hold(List, OBJECTS);
    let collecting = collector.start(async |it| it.collect("disk0").await);
    list.reached().await;
    create.release();
    let published = publishing.await.expect("no panic");
    published.expect("a checkpoint");
    list.release();
    collecting.await.expect("no panic");
    stage.check_nothing_needed_is_missing();
    assert!(stage.objects_of("disk0").is_superset(&uploaded));
}

/// §1, §3.2. A fenced server has uploaded, and is told that the name of its next version is taken.
/// If it went on from its successor's manifest, the successor's collector would delete what it
/// publishes.
#[tokio::test(start_paused = true)]
async fn epoch_a_fenced_server_publishes_nothing_more() {
    let stage = Stage::new();
    let (fenced, successor) = (stage.actor(1), stage.actor(2));
    let (admin, collector) = (stage.actor(3), stage.actor(4));
    let disk = fenced.open("disk0").await;
    write(&disk, 0, 1).await;
    checkpoint(&disk).await;
    write(&disk, 0, 2).await;
    let mut create = fenced.hold(Create, MANIFESTS);
    let image = disk.image().clone();
    let publishing = tokio::spawn(async move { image.checkpoint().await });
    create.reached().await;
    admin.take_over("disk0").await;
    let theirs = successor.open("disk0").await;

    let mut list = collector.hold(List, OBJECTS);
    let collecting = collector.start(async |it| it.collect("disk0").await);
    list.reached().await;
    create.release();
    let published = publishing.await.expect("no panic");
    list.release();
    let report = collecting.await.expect("no panic");
    stage.check_nothing_needed_is_missing();
    assert!(
        matches!(published, Err(EngineError::Fenced { .. })),
        "{published:?}"
    );
    assert_eq!(report.images[0].objects_deleted, 1, "what it uploaded");
    assert_eq!(read(&theirs, 0).await, 1);
    write(&theirs, 1, 3).await;
    checkpoint(&theirs).await;
    stage.check_nothing_needed_is_missing();
}

/// §3.2, §3.4. The collector's expiry takes the name of the server's next version. A server that
/// merged onto it, but kept its own idea of what is retained, would retain again what is being
/// deleted.
#[tokio::test(start_paused = true)]
async fn merge_takes_what_others_changed() {
    let stage = Stage::new();
    let (server, collector) = (stage.actor(1), stage.actor(2));
    let disk = server.open("disk0").await;
    let empty = stage.newest("disk0").version;
    write(&disk, 0, 1).await;
    checkpoint(&disk).await;
    let forgotten = stage.objects_of("disk0");
    disk.image().roll_back(empty).await.expect("a rollback");
    // These publications let go of what the rollback replaced.
    for byte in [1, 2] {
        write(&disk, 1, byte).await;
        checkpoint(&disk).await;
    }
    write(&disk, 2, 3).await;
    let mut create = server.hold(Create, MANIFESTS);
    let image = disk.image().clone();
    let publishing = tokio::spawn(async move { image.checkpoint().await });
    create.reached().await;

    let mut delete = collector.hold(Delete, OBJECTS);
    let collecting = collector.start(async |it| it.collect_all("disk0").await);
    delete.reached().await;
    let oldest = stage.newest("disk0").oldest_retained;
    create.release();
    let published = publishing.await.expect("no panic");
    published.expect("it merges, and publishes");
    delete.release();
    collecting.await.expect("no panic");
    stage.check_nothing_needed_is_missing();
    assert!(stage.objects_of("disk0").is_disjoint(&forgotten));
    assert_eq!(stage.newest("disk0").oldest_retained, oldest);
    assert_eq!([read(&disk, 0).await, read(&disk, 2).await], [0, 3]);
}
