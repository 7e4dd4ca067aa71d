//! A server that dies at every single call to object storage while it cleans and compacts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::cleaning::{Model, collect, eager, newest, open_eager, rest, status};
use super::world::{World, settle, write};
use crate::engine::{Acknowledge, Attachment};
use crate::env::EntropyExt;
use crate::env::memory::{Crash, SeededEntropy, Verdict};

/// How the call at which the server dies ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Last {
    /// The store never saw it.
    Lost,
    /// It took effect, and nobody was told.
    Landed,
}

/// Every call from number `calls` on hangs, the first of them perhaps after it took effect.
fn die_at(world: &World, calls: u64, last: Last) -> Arc<AtomicU64> {
    let seen = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&seen);
    world.objects.set_script(move |_| {
        let number = counter.fetch_add(1, Ordering::Relaxed);
        match number.cmp(&calls) {
            std::cmp::Ordering::Less => Verdict::Serve,
            std::cmp::Ordering::Equal if last == Last::Landed => Verdict::HangAfter,
            _ => Verdict::Hang,
        }
    });
    seen
}

/// Commits of which each is acknowledged before the next, and checkpoints nobody waits for.
async fn work(disk: &Attachment, model: &mut Model, seed: u64) {
    let entropy = SeededEntropy::new(seed);
    for round in 1..9_u8 {
        for _ in 0..12 {
            let number = entropy.below(48);
            model.write(disk, [number], round * 10).await;
        }
        if round % 3 == 0 {
            let first = entropy.below(40);
            model.trim(disk, first, 8).await;
        }
        let image = disk.image().clone();
        tokio::spawn(async move { image.checkpoint().await });
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_every_call_loses_nothing() {
    let mut worlds = 0;
    for last in [Last::Lost, Last::Landed] {
        for calls in 0.. {
            let world = World::new();
            let machine = world.machine(calls);
            let disk = open_eager(&machine).await;
            let mut model = Model::new();
            let seen = die_at(&world, calls, last);
            work(&disk, &mut model, calls % 5).await;
            drop(disk);
            let finished = seen.load(Ordering::Relaxed) <= calls;
            machine.crash(Crash::ProcessKill).await;
            world.objects.clear_script();
            let disk = open_eager(&machine).await;
            model.check(&disk).await;
            // The next tenure cleans on, and a collector takes what the crash left.
            for round in 0..4 {
                model.write(&disk, [round, 60 + round], 200).await;
                disk.image().checkpoint().await.expect("a checkpoint");
                rest(&disk).await;
                collect(&world.objects, &newest(&machine).await).await;
                model.check(&disk).await;
            }
            disk.image().close().await.expect("it closes");
            model.check(&open_eager(&world.machine(1000)).await).await;
            worlds += 1;
            if finished {
                break;
            }
        }
    }
    assert!(worlds > 40, "{worlds} worlds");
}

#[tokio::test(start_paused = true)]
async fn random_commits_trims_and_collections_beside_cleaning() {
    for seed in 0..6 {
        let world = World::new();
        let mut machine = world.machine(seed);
        let mut disk = open_eager(&machine).await;
        let mut model = Model::new();
        let entropy = SeededEntropy::new(seed);
        let mut copied_bytes = 0;
        for step in 0..400_u64 {
            let byte = (step % 250 + 1) as u8;
            match entropy.below(20) {
                0..=12 => {
                    let number = entropy.below(90);
                    write(&disk, number, byte).await;
                    model.0[number as usize] = byte;
                }
                13 => {
                    let first = entropy.below(80);
                    model.trim(&disk, first, entropy.below(10)).await;
                }
                14 => {
                    let data = bytes::Bytes::from(vec![byte; 10 << 12]);
                    let first = entropy.below(80);
                    disk.write(first << 12, data, Acknowledge::Buffered)
                        .await
                        .expect("a write");
                    model.0[first as usize..first as usize + 10].fill(byte);
                }
                15..=17 => {
                    let image = disk.image().clone();
                    tokio::spawn(async move { image.checkpoint().await });
                    settle().await;
                }
                18 => collect(&world.objects, &newest(&machine).await).await,
                _ => {
                    copied_bytes += status(&disk).await.space.copied_bytes;
                    match entropy.below(3) {
                        0 => machine.crash(Crash::ProcessKill).await,
                        _ => disk.image().close().await.expect("it closes"),
                    }
                    if entropy.below(4) == 0 && disk.image().status().await.is_none() {
                        machine = world.machine(seed * 1000 + step);
                    }
                    let opened = machine.try_open(eager()).await;
                    disk = match opened {
                        Ok(image) => image.attach(),
                        Err(_) => continue,
                    };
                }
            }
            if step % 10 == 0 {
                model.check(&disk).await;
            }
        }
        rest(&disk).await;
        model.check(&disk).await;
        copied_bytes += status(&disk).await.space.copied_bytes;
        assert!(copied_bytes > 0, "seed {seed}: nothing was cleaned");
    }
}
