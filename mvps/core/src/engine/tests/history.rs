//! Snapshots, clones and rollbacks with real content, and with everything deleted that nothing
//! protects.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::world::{FLUSHED, Machine, World, image, page, read, read_all, settle, write};
use crate::admin::{Admin, clone_image, create_snapshot, delete, roll_back};
use crate::collector::expiry::ExpiryPolicy;
use crate::collector::{CollectionPolicy, Collector, Silent};
use crate::engine::{Acknowledge, Durability, EngineError};
use crate::env::OperationKind;
use crate::env::memory::{BufferFault, Crash, Verdict};
use crate::format::object_name::{ObjectName, manifest_key};
use crate::ids::{ImageId, Version};
use crate::protocol::ManifestStore;
use crate::reachability::{ManifestFate, ObjectFate, Reachable, is_tombstone};
use crate::token::Shown;

fn named(name: &str) -> ImageId {
    ImageId::parse(name).expect("a valid name")
}

/// An operator at `machine`.
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

    async fn snapshot(&self, name: &str) -> Version {
        let made = create_snapshot(&self.admin(), &image(), name, None).await;
        Version(made.expect("a snapshot").version)
    }

    async fn clone_as(&self, source: &ImageId, shown: &Shown, target: &str) -> ImageId {
        let target = named(target);
        let cloned = clone_image(&self.admin(), source, shown, &target).await;
        cloned.expect("a clone");
        target
    }

    /// Deletes whatever the rules allow to be deleted, of all images.
    async fn collect(&self, world: &World) -> usize {
        let mut deleted = 0;
        for image in self.manifests.list_images().await.expect("a listing") {
            let newest = self.manifests.newest(&image).await.expect("readable");
            let newest = newest.expect("it has one");
            let mut reachable = Reachable::of(&newest);
            let unread: Vec<Version> = reachable.unread().collect();
            for version in unread {
                let retained = self.manifests.load(&image, version).await;
                reachable.take_in(&retained.expect("a retained version"));
            }
            for key in world.objects.keys() {
                if let Ok(name) = ObjectName::parse(&key)
                    && reachable.object_fate(&name) == ObjectFate::Garbage
                {
                    world.objects.remove(&key);
                    deleted += 1;
                }
            }
            let versions = self.manifests.list_versions(&image).await;
            for version in versions.expect("a listing") {
                let forgotten = reachable.manifest_fate(version) == ManifestFate::Forgotten;
                let manifest = self.manifests.load(&image, version).await;
                if forgotten && !is_tombstone(&manifest.expect("readable")) {
                    world.objects.remove(&manifest_key(&image, version));
                }
            }
        }
        deleted
    }
}

#[tokio::test(start_paused = true)]
async fn an_open_image_is_rolled_back_under_its_clients() {
    let world = World::new();
    let machine = world.machine(1);
    let disk = machine.open().await;
    write(&disk, 0, 1).await;
    let monday = disk.image().checkpoint().await.expect("a checkpoint");
    write(&disk, 0, 2).await;
    write(&disk, 1, 2).await;
    let tuesday = disk.image().checkpoint().await.expect("a checkpoint");
    write(&disk, 2, 3).await;
    let transaction = disk.begin().await.expect("it begins");
    transaction.write(0, page(9)).await.expect("a write");
    let before = disk.image().view();

    let done = disk.image().roll_back(monday).await.expect("a rollback");
    assert_eq!(done.undo_version, tuesday);
    assert_eq!(read_all(&disk, 0..4).await, [1, 0, 0, 0]);
    assert_eq!(
        before.read(0, 4096).await.expect("a read").into_bytes(),
        page(2)
    );
    drop(before);
    let aborted = transaction.commit(Acknowledge::Buffered).await;
    assert!(
        matches!(aborted, Err(EngineError::Aborted { .. })),
        "{aborted:?}"
    );
    let status = disk.image().status().await.expect("it is open");
    assert_eq!((status.lsn, status.published_lsn), (done.lsn, done.lsn));
    assert_eq!((status.sealed_generations, status.buffered_bytes), (0, 0));

    disk.write(4096, page(4), FLUSHED).await.expect("a write");
    machine.crash(Crash::PowerCut).await;
    let disk = machine.open().await;
    assert_eq!(read_all(&disk, 0..4).await, [1, 4, 0, 0]);

    // It is undone up to what was published.
    disk.image().roll_back(tuesday).await.expect("a rollback");
    assert_eq!(read_all(&disk, 0..4).await, [2, 2, 0, 0]);
    write(&disk, 3, 5).await;
    disk.image().close().await.expect("it closes");
    let other = world.machine(2).open().await;
    assert_eq!(read_all(&other, 0..4).await, [2, 2, 0, 5]);
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_gone_disturbs_nobody() {
    let world = World::new();
    let machine = world.machine(1);
    let disk = machine.open().await;
    write(&disk, 0, 1).await;
    let transaction = disk.begin().await.expect("it begins");
    let gone = disk.image().roll_back(Version(77)).await;
    assert!(matches!(gone, Err(EngineError::Invalid { .. })), "{gone:?}");
    transaction.write(0, page(2)).await.expect("a write");
    transaction.commit(FLUSHED).await.expect("it commits");
    assert_eq!(read(&disk, 0).await, 2);
}

/// Flushes and writes that arrive while a rollback waits for the object store take effect after
/// it; the tenure check does not take the server's own new tenure for somebody else's.
#[tokio::test(start_paused = true)]
async fn what_arrives_during_a_rollback_comes_after_it() {
    let world = World::new();
    let machine = world.machine(1);
    let disk = machine.open().await;
    write(&disk, 0, 1).await;
    let monday = disk.image().checkpoint().await.expect("a checkpoint");
    write(&disk, 0, 2).await;
    // Its reply is lost for a minute; the new tenure is there already.
    let mut creates = 0;
    world.objects.set_script(move |operation| {
        creates += usize::from(operation.kind == OperationKind::Create);
        match (operation.kind, creates) {
            (OperationKind::Create, 1..=8) => Verdict::reply_lost(),
            _ => Verdict::Serve,
        }
    });
    let image = disk.image().clone();
    let rolling = tokio::spawn(async move { image.roll_back(monday).await });
    settle().await;
    let (written, flushed, rolled) = tokio::join!(
        disk.write(4096, page(3), Acknowledge::Buffered),
        disk.flush(Durability::Local),
        rolling,
    );
    rolled.expect("it runs").expect("a rollback");
    written.expect("a write");
    flushed.expect("a flush");
    assert_eq!(read_all(&disk, 0..2).await, [1, 3]);
    tokio::time::sleep(Duration::from_secs(60)).await;
    disk.write(8192, page(4), FLUSHED)
        .await
        .expect("still the active writer");
    disk.image().close().await.expect("it closes");
    let other = world.machine(2).open().await;
    assert_eq!(read_all(&other, 0..3).await, [1, 3, 4]);
}

/// The checkpoint under way is abandoned, not waited for.
#[tokio::test(start_paused = true)]
async fn a_rollback_does_not_wait_for_an_upload() {
    let world = World::new();
    let machine = world.machine(1);
    let disk = machine.open().await;
    write(&disk, 0, 1).await;
    let monday = disk.image().checkpoint().await.expect("a checkpoint");
    write(&disk, 0, 2).await;
    world.objects.set_script(|operation| {
        if operation.key.ends_with(".segment") && operation.kind != OperationKind::GetRange {
            Verdict::Hang
        } else {
            Verdict::Serve
        }
    });
    let image = disk.image().clone();
    let checkpoint = tokio::spawn(async move { image.checkpoint().await });
    settle().await;
    let rolled = tokio::time::timeout(Duration::from_secs(5), disk.image().roll_back(monday));
    rolled.await.expect("in time").expect("a rollback");
    let refused = checkpoint.await.expect("it runs");
    assert!(
        matches!(refused, Err(EngineError::Aborted { .. })),
        "{refused:?}"
    );
    world.objects.clear_script();
    assert_eq!(read(&disk, 0).await, 1);
    write(&disk, 1, 7).await;
    disk.image().checkpoint().await.expect("a checkpoint");
}

/// A crash at every call to the object store, before and after it: the image is before or after.
#[tokio::test(start_paused = true)]
async fn a_rollback_cut_off_anywhere_happened_or_did_not() {
    for after in [false, true] {
        for at in 0.. {
            let world = World::new();
            let machine = world.machine(1);
            let disk = machine.open().await;
            write(&disk, 0, 1).await;
            let monday = disk.image().checkpoint().await.expect("a checkpoint");
            write(&disk, 1, 2).await;
            disk.image().checkpoint().await.expect("a checkpoint");
            disk.write(8192, page(3), FLUSHED).await.expect("a write");
            let first = world.objects.operations().len() as u64;
            world.objects.set_script(move |operation| {
                if operation.number < first + at {
                    Verdict::Serve
                } else if after && operation.number == first + at {
                    Verdict::HangAfter
                } else {
                    Verdict::Hang
                }
            });
            let image = disk.image().clone();
            let rolling = tokio::spawn(async move { image.roll_back(monday).await });
            settle().await;
            let finished = rolling.is_finished();
            drop(disk);
            machine.crash(Crash::PowerCut).await;
            world.objects.clear_script();
            let disk = machine.open().await;
            let content = read_all(&disk, 0..3).await;
            let (was, is) = ([1, 2, 3], [1, 0, 0]);
            assert!(content == was || content == is, "{after} {at}: {content:?}");
            assert!(
                !finished || content == is,
                "{after} {at}: it was acknowledged"
            );
            write(&disk, 5, 5).await;
            disk.image().close().await.expect("it closes");
            if finished {
                assert!(at >= 4, "{at} calls");
                break;
            }
        }
    }
}

/// A write that waits for its durability when a rollback comes is not refused before that happened:
/// if the server dies first, it is still there.
#[tokio::test(start_paused = true)]
async fn nothing_is_taken_back_before_the_rollback_is_published() {
    for published in [false, true] {
        let world = World::new();
        let machine = world.machine(1);
        let disk = machine.open().await;
        write(&disk, 0, 1).await;
        let monday = disk.image().checkpoint().await.expect("a checkpoint");
        world.hang_uploads();
        let writer = disk.image().attach();
        let stored = Acknowledge::Durable(Durability::ObjectStore);
        let writing = tokio::spawn(async move { writer.write(4096, page(2), stored).await });
        settle().await;
        assert_eq!(read(&disk, 1).await, 2, "it is committed");
        let image = disk.image().clone();
        let rolling = tokio::spawn(async move { image.roll_back(monday).await });
        settle().await;
        assert!(
            !writing.is_finished(),
            "nobody knows yet what becomes of it"
        );
        world.objects.clear_script();
        if published {
            rolling.await.expect("it runs").expect("a rollback");
            let refused = writing.await.expect("it runs");
            let is_gone = matches!(refused, Err(EngineError::Aborted { .. }));
            assert!(is_gone, "{refused:?}");
            assert_eq!(read_all(&disk, 0..2).await, [1, 0]);
        } else {
            drop(disk);
            machine.crash(Crash::ProcessKill).await;
            let disk = machine.open().await;
            assert_eq!(read_all(&disk, 0..2).await, [1, 2]);
        }
    }
}

/// A rollback that is published and cannot be carried out fails the image: what is sealed belongs
/// to the history before it, and is not published any more.
#[tokio::test(start_paused = true)]
async fn a_rollback_that_cannot_seal_fails_the_image() {
    let world = World::new();
    let machine = world.machine(1);
    let disk = machine.open().await;
    write(&disk, 0, 1).await;
    let monday = disk.image().checkpoint().await.expect("a checkpoint");
    write(&disk, 0, 2).await;
    write(&disk, 1, 2).await;
    world.hang_uploads();
    let image = disk.image().clone();
    let checkpoint = tokio::spawn(async move { image.checkpoint().await });
    settle().await;
    world.objects.clear_script();
    machine
        .buffers
        .script(&super::world::image(), BufferFault::SealFails);
    let failed = disk.image().roll_back(monday).await;
    let is_poisoned = matches!(failed, Err(EngineError::Poisoned { .. }));
    assert!(is_poisoned, "{failed:?}");
    checkpoint
        .await
        .expect("it runs")
        .expect_err("it was abandoned");
    let flushed = disk.flush(Durability::Local).await;
    let is_poisoned = matches!(flushed, Err(EngineError::Poisoned { .. }));
    assert!(is_poisoned, "{flushed:?}");
    // Long enough for a checkpoint by time.
    tokio::time::sleep(Duration::from_secs(7200)).await;
    let manifests = ManifestStore::new(machine.host.store.clone());
    let newest = manifests.newest(&super::world::image()).await;
    let newest = newest.expect("it can be read").expect("it exists");
    assert_eq!(
        newest.version,
        monday.next(),
        "only the rollback came after it"
    );
    drop(disk);
    machine.crash(Crash::ProcessKill).await;
    let disk = machine.open().await;
    assert_eq!(read_all(&disk, 0..2).await, [1, 0]);
}

#[tokio::test(start_paused = true)]
async fn another_server_fences_a_rollback() {
    let world = World::new();
    let machine = world.machine(1);
    let disk = machine.open().await;
    write(&disk, 0, 1).await;
    let monday = disk.image().checkpoint().await.expect("a checkpoint");
    write(&disk, 0, 2).await;
    disk.image().checkpoint().await.expect("a checkpoint");
    super::durability::takeover(&world.machine(2)).await;
    let fenced = disk.image().roll_back(monday).await;
    assert!(
        matches!(fenced, Err(EngineError::Fenced { .. })),
        "{fenced:?}"
    );
    let other = world.machine(3).open().await;
    assert_eq!(read(&other, 0).await, 2);
}

/// A clone reads what its source held, diverges, and needs neither the source nor what it gave up.
#[tokio::test(start_paused = true)]
async fn clones_diverge_and_outlive_their_source() {
    let world = World::new();
    let machine = world.machine(1);
    let operator = Operator::at(&machine);
    let disk = machine.open().await;
    for number in 0..40 {
        write(&disk, number, number as u8 + 1).await;
        // Enough checkpoints for a map compaction, so that map objects are shared too.
        disk.image().checkpoint().await.expect("a checkpoint");
    }
    operator.snapshot("monday").await;
    write(&disk, 0, 200).await;
    disk.image().checkpoint().await.expect("a checkpoint");
    let monday = Shown::Snapshot("monday".to_owned());
    let copy = operator.clone_as(&image(), &monday, "copy").await;
    let mut expected: Vec<u8> = (1..=40).collect();

    let other = world.machine(2);
    let cloned = other.open_named(&copy).await;
    assert_eq!(read_all(&cloned, 0..40).await, expected);
    assert_eq!(read(&disk, 0).await, 200);
    for number in (0..40).step_by(2) {
        write(&cloned, number, 99).await;
        cloned.image().checkpoint().await.expect("a checkpoint");
        expected[number as usize] = 99;
    }
    assert_eq!(read(&disk, 2).await, 3, "the source does not see it");
    let second = operator.clone_as(&copy, &Shown::Newest, "second").await;
    disk.image().close().await.expect("it closes");
    drop(disk);
    delete(&operator.admin(), &image(), false)
        .await
        .expect("deleted");
    operator.collect(&world).await;
    cloned.image().close().await.expect("it closes");
    drop(cloned);
    let cloned = world.machine(3).open_named(&copy).await;
    assert_eq!(read_all(&cloned, 0..40).await, expected);
    cloned.image().close().await.expect("it closes");
    drop(cloned);
    delete(&operator.admin(), &copy, false)
        .await
        .expect("deleted");
    operator.collect(&world).await;
    let cloned = world.machine(4).open_named(&second).await;
    assert_eq!(read_all(&cloned, 0..40).await, expected);
}

/// Write A, snapshot, write B, roll back, read A; without an active writer.
#[tokio::test(start_paused = true)]
async fn a_closed_image_is_rolled_back() {
    let world = World::new();
    let machine = world.machine(1);
    let operator = Operator::at(&machine);
    let disk = machine.open().await;
    write(&disk, 0, 1).await;
    disk.image().checkpoint().await.expect("a checkpoint");
    operator.snapshot("monday").await;
    write(&disk, 0, 2).await;
    write(&disk, 1, 2).await;
    disk.image().close().await.expect("it closes");
    drop(disk);
    let monday = Shown::Snapshot("monday".to_owned());
    let done = roll_back(&operator.admin(), &image(), &monday)
        .await
        .expect("rolled back");
    operator.collect(&world).await;
    let disk = machine.open().await;
    assert_eq!(read_all(&disk, 0..2).await, [1, 0]);
    disk.image().close().await.expect("it closes");
    drop(disk);
    let undo = Shown::Version(Version(done.undo_version));
    roll_back(&operator.admin(), &image(), &undo)
        .await
        .expect("undone");
    operator.collect(&world).await;
    let disk = machine.open().await;
    assert_eq!(read_all(&disk, 0..2).await, [2, 2]);
}

/// A pass of the collector that forgets whatever it may.
async fn collect_for_real(machine: &Machine) {
    let policy = CollectionPolicy {
        expiry: ExpiryPolicy {
            inactive: Duration::ZERO,
            states_min: 1,
        },
        dry_run: false,
        deletes_max: None,
        abandon_after: Duration::from_secs(15),
    };
    let environment = &machine.host.environment;
    let collector = Collector::new(
        machine.host.store.clone(),
        environment.clock.clone(),
        environment.entropy.clone(),
        policy,
        Arc::new(Silent),
    );
    let report = collector.collect(None).await.expect("a listing");
    assert!(report.all_went_well(), "{report:?}");
}

fn objects(world: &World) -> BTreeSet<String> {
    let keys = world.objects.keys().into_iter();
    keys.filter(|key| ObjectName::parse(key).is_ok()).collect()
}

/// The source, a clone in the middle and another one are deleted: what is left is exactly what the
/// last one needs. When that has rewritten everything, nothing of the source is left.
#[tokio::test(start_paused = true)]
async fn the_collector_leaves_what_the_last_clone_needs() {
    let world = World::new();
    let machine = world.machine(1);
    let operator = Operator::at(&machine);
    let disk = machine.open().await;
    for number in 0..20 {
        write(&disk, number, number as u8 + 1).await;
        disk.image().checkpoint().await.expect("a checkpoint");
    }
    let middle = operator.clone_as(&image(), &Shown::Newest, "middle").await;
    let other = operator.clone_as(&image(), &Shown::Newest, "other").await;
    let last = operator.clone_as(&middle, &Shown::Newest, "last").await;
    write(&disk, 0, 100).await;
    disk.image().close().await.expect("it closes");
    drop(disk);
    for gone in [&image(), &middle, &other] {
        delete(&operator.admin(), gone, false)
            .await
            .expect("deleted");
    }
    // A pin in one image may wait for one in another.
    for _ in 0..3 {
        collect_for_real(&machine).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    let newest = operator.manifests.newest(&last).await.expect("readable");
    let newest = newest.expect("it exists");
    let needed = crate::reachability::referenced_objects(&newest);
    let needed: BTreeSet<String> = needed.iter().map(|name| name.key()).collect();
    assert_eq!(objects(&world), needed);
    let disk = machine.open_named(&last).await;
    let expected: Vec<u8> = (1..=20).collect();
    assert_eq!(read_all(&disk, 0..20).await, expected);

    for _ in 0..20 {
        for number in 0..20 {
            write(&disk, number, 7).await;
        }
        disk.image().checkpoint().await.expect("a checkpoint");
    }
    disk.image().close().await.expect("it closes");
    drop(disk);
    for _ in 0..3 {
        collect_for_real(&machine).await;
    }
    let of_last = |key: &String| key.starts_with("images/last/");
    let left = objects(&world);
    assert!(left.iter().all(of_last), "{left:?}");
    let disk = machine.open_named(&last).await;
    assert_eq!(read_all(&disk, 0..20).await, [7; 20]);
}

/// A version that expires while it is opened to be rolled back to is gone, not damaged, and nothing
/// happened.
#[tokio::test(start_paused = true)]
async fn a_version_that_expires_while_it_is_opened_is_gone() {
    let world = World::new();
    let machine = world.machine(1);
    let disk = machine.open().await;
    write(&disk, 0, 1).await;
    let monday = disk.image().checkpoint().await.expect("a checkpoint");
    for round in 0..40 {
        write(&disk, 0, round + 2).await;
        disk.image().checkpoint().await.expect("a checkpoint");
    }
    disk.image().close().await.expect("it closes");
    drop(disk);
    let server = world.machine(2);
    let disk = server.open().await;

    let (meet, met) = tokio::sync::oneshot::channel();
    let (go_on, goes_on) = tokio::sync::oneshot::channel::<()>();
    let mut once = Some((meet, goes_on));
    let versions = manifest_key(&image(), monday);
    let mut opened = false;
    world.objects.set_script(move |operation| {
        opened |= operation.key == versions;
        let reads_map = operation.kind == OperationKind::GetRange
            || operation.kind == OperationKind::Get && operation.key != versions;
        match once.take_if(|_| opened && reads_map) {
            None => Verdict::Serve,
            Some((meet, goes_on)) => {
                meet.send(()).expect("the test waits");
                Verdict::Delay(Box::pin(async move { goes_on.await.expect("it goes on") }))
            }
        }
    });
    let image_task = disk.image().clone();
    let rolling_back = tokio::spawn(async move { image_task.roll_back(monday).await });
    met.await.expect("it opens the map");
    for _ in 0..3 {
        collect_for_real(&machine).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    go_on.send(()).expect("it waits");
    let refused = rolling_back.await.expect("no panic");
    assert!(
        matches!(refused, Err(EngineError::Invalid { .. })),
        "{refused:?}"
    );
    assert_eq!(read(&disk, 0).await, 41);
    write(&disk, 0, 77).await;
    disk.image().checkpoint().await.expect("a checkpoint");
    assert_eq!(read(&disk, 0).await, 77);
}
