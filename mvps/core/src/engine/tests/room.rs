//! A disk without room: backpressure, not a failure (D10).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::world::{FLUSHED, World, config, page, read_all, settle, write};
use crate::engine::{
    Acknowledge, Attachment, BufferLimit, DiskLimits, Durability, EngineConfig, EngineError, Image,
    MemoryShares,
};
use crate::env::memory::{DiskFault, MemoryFiles, Verdict};
use crate::env::{Files, OperationKind, RECORD_MAX_BYTES};
use crate::ids::ImageId;

/// More than any wait for a timer, less than any for a checkpoint by time.
const LONG: Duration = Duration::from_secs(60);

async fn open(world: &World, files: &MemoryFiles) -> Image {
    let small = EngineConfig {
        checkpoint_bytes: 256 << 10,
        ..config()
    };
    let machine = world.machine_on(1, files);
    machine.try_open(small).await.expect("it opens")
}

/// Writes pages, one at a time, and says how far it came when it waited for `LONG`.
async fn fill(disk: &Attachment, pages: u64) -> u64 {
    for number in 0..pages {
        let written = tokio::time::timeout(LONG, write(disk, number, 7)).await;
        if written.is_err() {
            return number;
        }
    }
    pages
}

/// Nothing more fits on the disk.
fn fill_up(files: &MemoryFiles) {
    files.set_capacity(None);
    let space = files.space().expect("memory has room");
    files.set_capacity(Some(space.total_bytes - space.free_bytes));
}

async fn assert_healthy(disk: &Attachment) {
    let status = disk.image().status().await.expect("it is open");
    assert_eq!((status.failure, status.held_up), (None, None));
}

#[tokio::test(start_paused = true)]
async fn writes_wait_for_room_and_checkpoints_make_it() {
    let (world, files) = (World::new(), MemoryFiles::new());
    let disk = open(&world, &files).await.attach();
    write(&disk, 0, 1).await;
    disk.image().checkpoint().await.expect("a checkpoint");
    files.set_capacity(Some(3 << 20));
    world.objects.set_script(|_| Verdict::unavailable());
    let written = fill(&disk, 2000).await;
    assert!((200..2000).contains(&written), "{written} pages");
    let status = disk.image().status().await.expect("it is open");
    let held_up = status.held_up.expect("writes wait");
    assert_eq!(held_up.by, BufferLimit::Disk);
    assert!(held_up.held >= LONG / 2, "{held_up:?}");
    assert_eq!(read_all(&disk, 0..4).await, [7; 4], "reads go on");
    let flushed = tokio::time::timeout(LONG, disk.flush(Durability::Local)).await;
    assert_eq!(flushed, Ok(Ok(())), "what was acknowledged is flushed");
    world.objects.clear_script();
    assert_eq!(fill(&disk, 2000).await, 2000, "there is room again");
    disk.image().checkpoint().await.expect("everything drains");
    assert_eq!(read_all(&disk, 0..2000).await, [7; 2000]);
    assert_healthy(&disk).await;
}

#[tokio::test(start_paused = true)]
async fn a_strangers_file_fills_the_disk_and_goes_away() {
    let (world, files) = (World::new(), MemoryFiles::new());
    let disk = open(&world, &files).await.attach();
    write(&disk, 0, 1).await;
    let transaction = disk.begin().await.expect("a transaction");
    transaction.write(4096, page(3)).await.expect("a write");
    files.set_capacity(Some(0));
    let (first, second) = (disk.clone(), disk.clone());
    let mut waiting = vec![tokio::spawn(async move { write(&first, 0, 2).await })];
    settle().await;
    let locked = disk.begin().await.expect("a transaction");
    let locking = tokio::spawn(async move {
        locked.lock().await.expect("nobody else holds it");
        locked.commit(Acknowledge::Buffered).await
    });
    waiting.push(tokio::spawn(async move { write(&second, 5, 5).await }));
    let committing = tokio::spawn(async move { transaction.commit(FLUSHED).await });
    tokio::time::sleep(LONG / 4).await;
    assert!(waiting.iter().all(|it| !it.is_finished()) && !committing.is_finished());
    assert_eq!(
        read_all(&disk, 0..2).await,
        [1, 0],
        "not before there is room"
    );
    files.set_capacity(None);
    for write in waiting {
        write.await.expect("it is written");
    }
    assert_eq!(committing.await.expect("no panic"), Ok(()));
    assert_eq!(locking.await.expect("no panic"), Ok(()));
    assert_eq!(read_all(&disk, 0..6).await, [2, 3, 0, 0, 0, 5]);
    assert_healthy(&disk).await;
}

#[tokio::test(start_paused = true)]
async fn a_revoked_write_that_waits_for_room_never_takes_effect() {
    let (world, files) = (World::new(), MemoryFiles::new());
    let disk = open(&world, &files).await.attach();
    write(&disk, 0, 1).await;
    files.set_capacity(Some(0));
    let (old, other) = (disk.clone(), disk.image().attach());
    let old = tokio::spawn(async move { old.write(0, page(2), Acknowledge::Buffered).await });
    let other = tokio::spawn(async move { write(&other, 1, 3).await });
    settle().await;
    disk.revoke().await;
    assert!(
        old.await.expect("no panic").is_err(),
        "it is refused at once"
    );
    files.set_capacity(None);
    other.await.expect("it is written");
    let disk = disk.image().attach();
    assert_eq!(read_all(&disk, 0..2).await, [1, 3]);
}

/// The commit of the only transaction waits; who begins meanwhile does not see it.
#[tokio::test(start_paused = true)]
async fn who_begins_while_a_commit_waits_for_room_conflicts_with_it() {
    let (world, files) = (World::new(), MemoryFiles::new());
    let disk = open(&world, &files).await.attach();
    write(&disk, 0, 1).await;
    let first = disk.begin().await.expect("a transaction");
    first.read(0, 4096).await.expect("a read");
    first.write(0, page(2)).await.expect("a write");
    files.set_capacity(Some(0));
    let first = tokio::spawn(async move { first.commit(Acknowledge::Buffered).await });
    settle().await;
    let second = disk.begin().await.expect("a transaction");
    let seen = second.read(0, 4096).await.expect("a read");
    assert_eq!(seen.into_bytes()[0], 1);
    second.write(0, page(3)).await.expect("a write");
    let second = tokio::spawn(async move { second.commit(Acknowledge::Buffered).await });
    settle().await;
    files.set_capacity(None);
    assert_eq!(first.await.expect("no panic"), Ok(()));
    assert_eq!(second.await.expect("no panic"), Err(EngineError::Conflict));
    assert_eq!(read_all(&disk, 0..1).await, [2]);
}

/// A checkpoint makes the room, and moves what a partial write of a transaction needs.
#[tokio::test(start_paused = true)]
async fn a_patch_of_a_transaction_waits_for_room_through_a_checkpoint() {
    let (world, files) = (World::new(), MemoryFiles::new());
    let disk = open(&world, &files).await.attach();
    for number in 0..30 {
        write(&disk, number, 7).await;
    }
    disk.image().checkpoint().await.expect("a checkpoint");
    // The next generation's file is made by then.
    for number in 10..30 {
        write(&disk, number, 8).await;
    }
    fill_up(&files);
    for (page, old) in [(3_u64, 7_u8), (12, 8)] {
        let transaction = disk.begin().await.expect("a transaction");
        let patch = bytes::Bytes::from_static(&[9; 512]);
        let written = transaction.write(page * 4096 + 512, patch).await;
        written.expect("a write");
        let committing =
            tokio::spawn(async move { transaction.commit(Acknowledge::Buffered).await });
        let committed = tokio::time::timeout(LONG, committing).await;
        let committed = committed.expect("a checkpoint makes room");
        assert_eq!(committed.expect("no panic"), Ok(()), "page {page}");
        let read = disk.read(page * 4096, 4096).await.expect("a read");
        let read = read.into_bytes();
        assert_eq!((read[0], read[512], read[1024]), (old, 9, old));
        for number in 13..30 {
            files.set_capacity(None);
            write(&disk, number, 8).await;
        }
        settle().await;
        fill_up(&files);
    }
    files.set_capacity(None);
    assert_healthy(&disk).await;
}

#[tokio::test(start_paused = true)]
async fn closing_refuses_what_waits_for_room() {
    let (world, files) = (World::new(), MemoryFiles::new());
    let disk = open(&world, &files).await.attach();
    write(&disk, 0, 1).await;
    files.set_capacity(Some(0));
    let waiting = disk.clone();
    let waiting =
        tokio::spawn(async move { waiting.write(0, page(2), Acknowledge::Buffered).await });
    settle().await;
    let image = disk.image().clone();
    drop(disk);
    let closing = tokio::spawn(async move { image.close().await });
    assert_eq!(waiting.await.expect("no panic"), Err(EngineError::Closed));
    files.set_capacity(None);
    assert_eq!(closing.await.expect("no panic"), Ok(()));
    let disk = open(&world, &files).await.attach();
    assert_eq!(read_all(&disk, 0..1).await, [1]);
}

/// The next generation cannot be made for want of a descriptor, or of room, and is made later.
#[tokio::test(start_paused = true)]
async fn a_seal_waits_for_room_and_for_descriptors() {
    for fault in [DiskFault::OpenFails, DiskFault::DiskFull] {
        let (world, files) = (World::new(), MemoryFiles::new());
        let disk = open(&world, &files).await.attach();
        write(&disk, 0, 1).await;
        for _ in 0..3 {
            files.script(fault);
        }
        disk.image().checkpoint().await.expect("a checkpoint");
        write(&disk, 1, 2).await;
        assert_eq!(read_all(&disk, 0..2).await, [1, 2]);
        assert_healthy(&disk).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_image_opens_on_a_full_disk() {
    let (world, files) = (World::new(), MemoryFiles::new());
    let disk = open(&world, &files).await.attach();
    disk.write(0, page(1), FLUSHED)
        .await
        .expect("it is flushed");
    drop(disk);
    settle().await;
    files.set_capacity(Some(0));
    files.crash(
        crate::env::memory::Crash::PowerCut,
        &*world.machine(2).entropy,
    );
    let disk = tokio::time::timeout(LONG, open(&world, &files)).await;
    let disk = disk.expect("nothing of it needs room").attach();
    assert_eq!(read_all(&disk, 0..1).await, [1]);
    files.set_capacity(None);
    write(&disk, 1, 2).await;
    assert_healthy(&disk).await;
}

/// Two images on one disk, the object store away: which limit stops them, and how much is free then.
async fn stopped_by(limits: DiskLimits, memory: MemoryShares) -> (BufferLimit, u64) {
    let (world, files) = (World::new(), MemoryFiles::new());
    let mut machine = world.machine_on(1, &files);
    machine.host = machine.host.with_disk_limits(limits).with_memory(memory);
    let named = |name: &str| ImageId::parse(name).expect("a valid name");
    let mut disks = Vec::new();
    for name in ["one", "two"] {
        let image = machine.try_open_named(&named(name), config()).await;
        disks.push(image.expect("it opens").attach());
    }
    files.set_capacity(Some(8 << 20));
    let met = Arc::new(AtomicBool::new(false));
    let strikes = Arc::clone(&met);
    files.watch(move |_, _| strikes.store(true, Ordering::Relaxed));
    world.objects.set_script(|_| Verdict::unavailable());
    let (one, two) = tokio::join!(fill(&disks[0], 4000), fill(&disks[1], 4000));
    assert!(one < 4000 && two < 4000, "{one} and {two} pages");
    assert!(!met.load(Ordering::Relaxed), "nobody met a full disk");
    let status = disks[0].image().status().await.expect("it is open");
    let by = status.held_up.expect("writes wait").by;
    let space = files.space().expect("memory has room");
    world.objects.clear_script();
    let (one, two) = tokio::join!(fill(&disks[0], 1000), fill(&disks[1], 1000));
    assert_eq!((one, two), (1000, 1000), "there is room again");
    assert_healthy(&disks[0]).await;
    (by, space.free_bytes)
}

#[tokio::test(start_paused = true)]
async fn what_must_stay_free_stays_free() {
    let limits = DiskLimits {
        floor_bytes: 2 << 20,
        ..DiskLimits::default()
    };
    let (by, free) = stopped_by(limits, MemoryShares::default()).await;
    assert_eq!(by, BufferLimit::FreeSpace);
    assert!((1 << 20..3 << 20).contains(&free), "{free} bytes are free");
}

#[tokio::test(start_paused = true)]
async fn all_images_share_one_limit() {
    let limits = DiskLimits {
        total_bytes: 3 << 20,
        ..DiskLimits::default()
    };
    let (by, free) = stopped_by(limits, MemoryShares::default()).await;
    assert_eq!(by, BufferLimit::Total);
    assert!((4 << 20..6 << 20).contains(&free), "{free} bytes are free");
}

/// Room for the indexes of some 300 records.
fn little_memory() -> MemoryShares {
    MemoryShares {
        index_bytes: 50_000,
        ..MemoryShares::default()
    }
}

#[tokio::test(start_paused = true)]
async fn all_images_share_the_memory_for_indexes() {
    let (by, free) = stopped_by(DiskLimits::default(), little_memory()).await;
    assert_eq!(by, BufferLimit::Memory);
    assert!(free > 4 << 20, "{free} bytes are free");
}

/// What a transaction reads of generations that were dropped is in memory until it ends.
#[tokio::test(start_paused = true)]
async fn a_transaction_that_holds_the_memory_for_indexes_is_aborted() {
    let (world, files) = (World::new(), MemoryFiles::new());
    let mut machine = world.machine_on(1, &files);
    machine.host = machine.host.with_memory(little_memory());
    let disk = machine.try_open(config()).await.expect("it opens").attach();
    assert_eq!(fill(&disk, 150).await, 150);
    let reads = disk.begin().await.expect("it begins");
    assert_eq!(fill(&disk, 1000).await, 1000, "writes go on");
    let read = reads.read(0, 4096).await;
    assert!(
        matches!(&read, Err(EngineError::Aborted { .. })),
        "{read:?}"
    );
    assert_healthy(&disk).await;
}

/// Those that waited are composed together and committed in groups: each group takes room from those
/// behind it.
#[tokio::test(start_paused = true)]
async fn who_waits_behind_a_group_that_takes_the_last_room_waits_on() {
    // What 32 pages of one group fill: the records are counted, not their content.
    const GROUP: u64 = (RECORD_MAX_BYTES / 4096) as u64;
    let (world, files) = (World::new(), MemoryFiles::new());
    let mut machine = world.machine_on(1, &files);
    machine.host = machine.host.with_memory(MemoryShares {
        index_bytes: GROUP * 168,
        ..MemoryShares::default()
    });
    let disk = machine.try_open(config()).await.expect("it opens").attach();
    world.objects.set_script(|_| Verdict::unavailable());
    assert_eq!(fill(&disk, 100).await, GROUP, "there is no more room");
    let writes = (0..3 * GROUP).map(|number| {
        let disk = disk.clone();
        tokio::spawn(async move { write(&disk, number, 9).await })
    });
    let writes: Vec<_> = writes.collect();
    settle().await;
    // One checkpoint lands, and is seen.
    let mut has_landed = false;
    world.objects.set_script(move |operation| {
        let is_create = operation.kind == OperationKind::Create;
        let is_upload = is_create || operation.kind == OperationKind::Put;
        let verdict = match has_landed && is_upload {
            true => Verdict::unavailable(),
            false => Verdict::Serve,
        };
        has_landed |= is_create;
        verdict
    });
    tokio::time::sleep(LONG).await;
    let status = disk.image().status().await.expect("it is open");
    assert_eq!([status.published_lsn.0, status.lsn.0], [GROUP, 2 * GROUP]);
    world.objects.clear_script();
    for write in writes {
        write.await.expect("it is written");
    }
    assert_healthy(&disk).await;
}
