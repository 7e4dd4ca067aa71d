//! Closing, and who still waits then.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::world::{PAGE, World, config, page, read, settle, write};
use crate::engine::{Acknowledge, Durability, EngineError};
use crate::env::memory::testing::TestClock;
use crate::env::memory::{BufferFault, Verdict};

const SLOW: Duration = Duration::from_millis(300);

#[tokio::test(start_paused = true)]
async fn a_closed_image_has_let_go_of_its_buffer_store() {
    let world = World::new();
    let machine = world.machine(1);
    let clock = Arc::new(TestClock::start());
    machine.buffers.set_delays(clock, Duration::ZERO, SLOW);
    for round in 1..4 {
        let disk = machine.open().await;
        write(&disk, 0, round).await;
        // The sync of this flush is still under way when the image begins to close.
        let flushing = disk.clone();
        let flush = tokio::spawn(async move { flushing.flush(Durability::Local).await });
        settle().await;
        disk.image().close().await.expect("it closes");
        flush.await.expect("no panic").expect("it was synced");
        // The generation of the last checkpoint is dropped in the background: nothing may hold the
        // store's lock any more once `close` has returned.
        let again = machine.try_open(config()).await;
        let disk = again.expect("the buffer store is free").attach();
        assert_eq!(read(&disk, 0).await, round);
        disk.image().close().await.expect("it closes");
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_hangs_when_an_image_closes() {
    let world = World::new();
    let machine = world.machine(1);
    let disk = machine.open().await;
    write(&disk, 0, 1).await;
    let holder = disk.begin().await.expect("a transaction");
    holder.lock().await.expect("the lock is free");
    let waiting: Vec<_> = (0..4)
        .map(|number| {
            let disk = disk.clone();
            tokio::spawn(async move {
                match number {
                    0 => disk.write(0, page(2), Acknowledge::Buffered).await,
                    1 => disk.begin().await.expect("a transaction").lock().await,
                    2 => {
                        let durable = Acknowledge::Durable(Durability::ObjectStore);
                        disk.write(0, page(3), durable).await
                    }
                    _ => disk.trim(0, PAGE as u64, Acknowledge::Buffered).await,
                }
            })
        })
        .collect();
    settle().await;
    disk.image().close().await.expect("it closes");
    for task in waiting {
        assert_eq!(task.await.expect("no panic"), Err(EngineError::Closed));
    }
    assert!(holder.commit(Acknowledge::Buffered).await.is_err());
    let disk = machine.open().await;
    assert_eq!(read(&disk, 0).await, 1);
}

#[tokio::test(start_paused = true)]
async fn nobody_hangs_when_a_sync_fails_during_an_outage() {
    let world = World::new();
    let machine = world.machine(1);
    let disk = machine.open().await;
    write(&disk, 0, 1).await;
    disk.image().checkpoint().await.expect("a checkpoint");
    world.objects.set_script(|_| Verdict::unavailable());
    write(&disk, 1, 1).await;
    let image = disk.image().clone();
    let checkpoint = tokio::spawn(async move { image.checkpoint().await.map(drop) });
    let image = disk.image().clone();
    let grow = tokio::spawn(async move { image.grow(1 << 30).await });
    let stored = disk.clone();
    let stored = tokio::spawn(async move { stored.flush(Durability::ObjectStore).await });
    let patching = disk.clone();
    let patch = tokio::spawn(async move {
        let bytes = Bytes::from_static(b"patch");
        patching.write(3, bytes, Acknowledge::Buffered).await
    });
    settle().await;
    machine
        .buffers
        .script(&super::world::image(), BufferFault::SyncFails);
    assert!(disk.flush(Durability::Local).await.is_err());
    for task in [checkpoint, grow, stored] {
        let outcome = tokio::time::timeout(Duration::from_secs(1), task).await;
        let outcome = outcome.expect("told at once").expect("no panic");
        assert!(
            matches!(outcome, Err(EngineError::Poisoned { .. })),
            "{outcome:?}"
        );
    }
    // What needs the object store waits for it, alone.
    settle().await;
    assert!(!patch.is_finished());
    assert_eq!(read(&disk, 1).await, 1);
    world.objects.clear_script();
    assert!(patch.await.expect("no panic").is_err());
    assert!(disk.image().close().await.is_err());
}
