//! A buffer that is full, generations that pile up.

use std::sync::Arc;
use std::time::Duration;

use super::world::{PAGE, World, config, page, read_all, write};
use crate::engine::{Acknowledge, EngineConfig, EngineError};
use crate::env::memory::Verdict;
use crate::env::memory::testing::TestClock;

#[tokio::test(start_paused = true)]
async fn a_full_buffer_is_checkpointed_before_its_time() {
    let limited = EngineConfig {
        buffer_limit_bytes: 256 << 10,
        ..config()
    };
    let machine = World::new().machine(1);
    let disk = machine.try_open(limited).await.expect("it opens").attach();
    let many = futures_util::future::join_all((0..300).map(|number| write(&disk, number, 1)));
    // The next checkpoint by time is an hour away.
    tokio::time::timeout(Duration::from_secs(60), many)
        .await
        .expect("the object store takes everything");
    assert_eq!(read_all(&disk, 0..300).await, [1; 300]);
}

#[tokio::test(start_paused = true)]
async fn generations_that_pile_up_are_all_dropped() {
    let world = World::new();
    let machine = world.machine(1);
    let small = EngineConfig {
        checkpoint_bytes: 16 << 10,
        ..config()
    };
    let disk = machine.try_open(small).await.expect("it opens").attach();
    write(&disk, 0, 1).await;
    disk.image().checkpoint().await.expect("a checkpoint");
    world.objects.set_script(|_| Verdict::unavailable());
    let clock = Arc::new(TestClock::start());
    let slow = Duration::from_secs(20);
    machine.buffers.set_delays(clock, Duration::ZERO, slow);
    for number in 0..40 {
        write(&disk, number, 3).await;
    }
    let piled = disk.image().status().await.expect("it is open");
    assert!(piled.sealed_generations >= 4, "{piled:?}");
    world.objects.clear_script();
    disk.image().checkpoint().await.expect("it drains");
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let drained = disk.image().status().await.expect("it is open");
    assert_eq!(drained.failure, None);
    assert_eq!(drained.buffer_disk_bytes, 0, "every generation was dropped");
    assert_eq!(read_all(&disk, 0..40).await, [3; 40]);
}

#[tokio::test(start_paused = true)]
async fn a_lock_request_that_was_given_up_never_gets_the_lock() {
    let disk = World::new().machine(1).open().await;
    let holder = disk.begin().await.expect("a transaction");
    holder.lock().await.expect("the lock is free");
    let waiting = disk.begin().await.expect("a transaction");
    let given_up = tokio::time::timeout(Duration::from_secs(1), waiting.lock()).await;
    assert!(given_up.is_err());
    holder
        .commit(Acknowledge::Buffered)
        .await
        .expect("it commits");
    let written = tokio::time::timeout(Duration::from_secs(1), write(&disk, 0, 1)).await;
    written.expect("nobody holds the lock");
    // What was given up can be asked for again.
    waiting.lock().await.expect("nothing was read");
    waiting
        .commit(Acknowledge::Buffered)
        .await
        .expect("it commits");
}

#[tokio::test(start_paused = true)]
async fn a_lock_holder_that_waits_for_room_is_broken_and_nobody_hangs() {
    let world = World::new();
    let limited = EngineConfig {
        buffer_limit_bytes: 64 << 10,
        ..config()
    };
    let machine = world.machine(1);
    let disk = machine.try_open(limited).await.expect("it opens").attach();
    world.objects.set_script(|_| Verdict::unavailable());
    let holder = disk.begin().await.expect("a transaction");
    let late = disk.begin().await.expect("a transaction");
    for number in 0..16 {
        write(&disk, number, 1).await;
    }
    holder.lock().await.expect("the lock is free");
    holder.write(0, page(2)).await.expect("a write");
    late.write(PAGE as u64, page(3)).await.expect("a write");
    let plain = disk.clone();
    let plain = tokio::spawn(async move { write(&plain, 20, 4).await });
    let late = tokio::spawn(async move { late.commit(Acknowledge::Buffered).await });
    let held = tokio::spawn(async move { holder.commit(Acknowledge::Buffered).await });
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert!(held.is_finished(), "its lock was broken");
    assert!(matches!(
        held.await.expect("no panic"),
        Err(EngineError::Aborted { .. })
    ));
    assert_eq!(read_all(&disk, 0..2).await, [1, 1]);
    world.objects.clear_script();
    let rest = async { (plain.await, late.await) };
    let rest = tokio::time::timeout(Duration::from_secs(120), rest).await;
    let (plain, late) = rest.expect("there is room again");
    plain.expect("no panic");
    assert_eq!(late.expect("no panic"), Ok(()));
    assert_eq!(read_all(&disk, 0..2).await, [1, 3]);
}

/// Whoever gives up gives room back that others, and it itself, take again.
#[tokio::test(start_paused = true)]
async fn writes_that_were_given_up_do_not_pile_up_behind_a_lock() {
    let disk = World::new().machine(1).open().await;
    let holder = disk.begin().await.expect("a transaction");
    holder.lock().await.expect("the lock is free");
    let large: bytes::Bytes = vec![7; 64 * PAGE].into();
    let waiting = disk.write(0, large.clone(), Acknowledge::Buffered);
    let mut waiting = std::pin::pin!(waiting);
    let moment = Duration::from_millis(1);
    assert!(
        tokio::time::timeout(moment, &mut waiting).await.is_err(),
        "the image is locked"
    );
    for _ in 0..200 {
        let write = disk.write(0, large.clone(), Acknowledge::Buffered);
        assert!(tokio::time::timeout(moment, write).await.is_err());
    }
    let stalled = disk.image().status().await.expect("it is open").stalled;
    assert!(stalled <= 20, "{stalled} requests wait");
    holder
        .commit(Acknowledge::Buffered)
        .await
        .expect("it has the lock");
    assert_eq!(waiting.await, Ok(()), "somebody waits for this one");
    assert_eq!(read_all(&disk, 0..1).await, [7]);
}
