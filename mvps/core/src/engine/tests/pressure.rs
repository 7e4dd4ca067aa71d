//! A buffer that is full, generations that pile up.

use std::sync::Arc;
use std::time::Duration;

use super::world::{World, config, read_all, write};
use crate::engine::EngineConfig;
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
async fn a_generation_is_not_dropped_while_it_is_being_spilled() {
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
