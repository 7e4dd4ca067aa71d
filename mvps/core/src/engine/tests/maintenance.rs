//! Checkpoints, growth, outages, and what an idle image costs.

use std::time::Duration;

use super::world::{IMAGE_BYTES, PAGE, World, config, read, read_all, settle, write};
use crate::engine::{Acknowledge, Durability, EngineConfig};
use crate::env::memory::{Crash, Verdict};

#[tokio::test(start_paused = true)]
async fn an_idle_image_sends_nothing() {
    let world = World::new();
    let quick = EngineConfig {
        checkpoint_interval: Duration::from_secs(10),
        ..config()
    };
    let disk = world
        .machine(1)
        .try_open(quick)
        .await
        .expect("it opens")
        .attach();
    write(&disk, 0, 1).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let status = disk.image().status().await.expect("it is open");
    assert_eq!(
        status.published_lsn, status.lsn,
        "the interval's checkpoint was made"
    );
    let before = world.objects.operations().len();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(read(&disk, 5).await, 0);
    assert_eq!(world.objects.operations().len(), before);
}

#[tokio::test(start_paused = true)]
async fn many_checkpoints_and_reopenings_read_back() {
    let world = World::new();
    let machine = world.machine(1);
    let mut expected = vec![0_u8; 64];
    let mut disk = machine.open().await;
    for round in 0..60_u64 {
        for step in 0..5 {
            let number = (round * 7 + step * 13) % 64;
            let byte = (round % 250) as u8 + 1;
            if (round + step) % 6 == 0 {
                let offset = number * PAGE as u64;
                disk.trim(offset, PAGE as u64, Acknowledge::Buffered)
                    .await
                    .expect("a trim");
                expected[number as usize] = 0;
            } else {
                write(&disk, number, byte).await;
                expected[number as usize] = byte;
            }
        }
        match round % 5 {
            0 | 1 => drop(disk.image().checkpoint().await.expect("a checkpoint")),
            2 => {
                drop(disk);
                machine.crash(Crash::ProcessKill).await;
                disk = machine.open().await;
            }
            3 => {
                disk.image().close().await.expect("it closes");
                drop(disk);
                disk = machine.open().await;
            }
            _ => {}
        }
        assert_eq!(read_all(&disk, 0..64).await, expected, "round {round}");
    }
    disk.image().close().await.expect("it closes");
    let other = world.machine(2).open().await;
    assert_eq!(read_all(&other, 0..64).await, expected);
}

#[tokio::test(start_paused = true)]
async fn growth_is_published_before_it_is_seen() {
    let world = World::new();
    let disk = world.machine(1).open().await;
    let image = disk.image();
    image.grow(2 * IMAGE_BYTES).await.expect("it grows");
    assert_eq!(image.size_bytes(), 2 * IMAGE_BYTES);
    image
        .grow(IMAGE_BYTES)
        .await
        .expect("smaller changes nothing");
    assert_eq!(image.size_bytes(), 2 * IMAGE_BYTES);
    let last = 2 * IMAGE_BYTES / PAGE as u64 - 1;
    write(&disk, last, 3).await;
    assert!(image.grow(1).await.is_err());
    disk.image().close().await.expect("it closes");
    let disk = world.machine(2).open().await;
    assert_eq!(read(&disk, last).await, 3);
}

#[tokio::test(start_paused = true)]
async fn an_outage_stops_neither_writes_nor_buffered_reads_and_drains_afterwards() {
    let world = World::new();
    let disk = world.machine(1).open().await;
    write(&disk, 0, 1).await;
    disk.image().checkpoint().await.expect("a checkpoint");
    world.objects.set_script(|_| Verdict::unavailable());
    for number in 1..50 {
        write(&disk, number, 2).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    disk.flush(Durability::Local).await.expect("a flush");
    assert_eq!(read_all(&disk, 1..50).await, [2; 49]);
    let image = disk.image().clone();
    let checkpoint = tokio::spawn(async move { image.checkpoint().await });
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert!(!checkpoint.is_finished(), "it waits");
    world.objects.clear_script();
    checkpoint.await.expect("no panic").expect("it drains");
    settle().await;
    assert_eq!(read_all(&disk, 0..3).await, [1, 2, 2]);
}

#[tokio::test(start_paused = true)]
async fn generations_are_sealed_by_size() {
    let world = World::new();
    let small = EngineConfig {
        checkpoint_bytes: 64 << 10,
        ..config()
    };
    let disk = world
        .machine(1)
        .try_open(small)
        .await
        .expect("it opens")
        .attach();
    for number in 0..200 {
        write(&disk, number, 1).await;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let status = disk.image().status().await.expect("it is open");
    assert_eq!(status.sealed_generations, 0);
    assert!(status.published_lsn.0 > 180, "{status:?}");
    assert_eq!(read_all(&disk, 0..200).await, [1; 200]);
}
