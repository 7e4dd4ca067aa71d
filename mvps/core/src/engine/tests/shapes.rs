//! Images and requests of unusual shape: one page, no data, everything at once.

use std::time::Duration;

use bytes::Bytes;

use super::world::{Machine, PAGE, World, config, image, page, read, read_all, write};
use crate::engine::{Acknowledge, Attachment, Durability, EngineConfig, open};
use crate::env::memory::{Crash, Verdict};
use crate::env::{OperationKind, StoreError};
use crate::ids::PageSize;
use crate::protocol::{Intent, OpeningRequest};

async fn open_shaped(machine: &Machine, bits: u32, size_bytes: u64) -> Attachment {
    let request = OpeningRequest {
        image: image(),
        page_size: PageSize::from_bits(bits as u8).expect("it is in range"),
        image_size_bytes: Some(size_bytes),
        intent: Intent::CreateOrGrow,
    };
    let opened = open(&machine.host, &request, config()).await;
    opened.expect("the image opens").attach()
}

#[tokio::test(start_paused = true)]
async fn an_image_of_one_large_page() {
    let world = World::new();
    let size = 1_u64 << 16;
    let disk = open_shaped(&world.machine(1), 16, size).await;
    let durable = Acknowledge::Durable(Durability::ObjectStore);
    disk.write(65_535, Bytes::from_static(b"x"), durable)
        .await
        .expect("a write");
    disk.write(1, Bytes::from_static(b"yz"), Acknowledge::Buffered)
        .await
        .expect("a patch of a stored page");
    disk.trim(0, size - 1, durable)
        .await
        .expect("no whole page");
    assert!(
        disk.write(65_535, Bytes::from_static(b"xx"), durable)
            .await
            .is_err()
    );
    assert!(disk.read(65_536, 1).await.is_err());
    disk.image().close().await.expect("it closes");
    let disk = open_shaped(&world.machine(2), 16, size).await;
    let content = disk.read(0, 1 << 16).await.expect("a read").into_bytes();
    let mut expected = vec![0; 1 << 16];
    expected[65_535] = b'x';
    expected[1..3].copy_from_slice(b"yz");
    assert_eq!(content, expected);
    disk.trim(0, size, durable).await.expect("a trim");
    disk.image().close().await.expect("it closes");
    let disk = open_shaped(&world.machine(3), 16, size).await;
    let content = disk.read(0, 1 << 16).await.expect("a read").into_bytes();
    assert!(content.iter().all(|byte| *byte == 0));
}

#[tokio::test(start_paused = true)]
async fn the_largest_image_is_trimmed_and_zeroed_as_one() {
    let world = World::new();
    let size = (i64::MAX as u64) & !0xffff;
    let disk = open_shaped(&world.machine(1), 12, size).await;
    let durable = Acknowledge::Durable(Durability::ObjectStore);
    let last = size - PAGE as u64;
    for offset in [0, 1 << 40, last] {
        disk.write(offset, page(1), durable).await.expect("a write");
    }
    disk.trim(1, last, durable).await.expect("a trim");
    let first = |at: u64| {
        let disk = disk.clone();
        async move { disk.read(at, 1).await.expect("a read").into_bytes()[0] }
    };
    assert_eq!(
        (first(0).await, first(1 << 40).await, first(last).await),
        (1, 0, 1)
    );
    let transaction = disk.begin().await.expect("a transaction");
    transaction.write_zeroes(0, size).await.expect("zeroes");
    transaction.commit(durable).await.expect("no conflict");
    disk.image().close().await.expect("it closes");
    let disk = open_shaped(&world.machine(2), 12, size).await;
    for offset in [0, 1 << 40, last] {
        let content = disk.read(offset, PAGE as u32).await.expect("a read");
        assert!(content.into_bytes().iter().all(|byte| *byte == 0));
    }
}

#[tokio::test(start_paused = true)]
async fn checkpoints_without_data() {
    let world = World::new();
    let machine = world.machine(1);
    let disk = machine.open().await;
    // Nothing but a hole, before anything was written, and after.
    for round in 0..40_u64 {
        if round % 3 == 1 {
            write(&disk, round % 7, 4).await;
        } else if round % 3 == 2 {
            disk.write(0, Bytes::from(vec![0; 64 * PAGE]), Acknowledge::Buffered)
                .await
                .expect("pages of zeroes");
        } else {
            disk.trim(0, 64 * PAGE as u64, Acknowledge::Buffered)
                .await
                .expect("a trim");
        }
        disk.image().checkpoint().await.expect("a checkpoint");
        let expected = if round % 3 == 1 { 4 } else { 0 };
        assert_eq!(read(&disk, round % 7).await, expected);
    }
    drop(disk);
    machine.crash(Crash::PowerCut).await;
    let disk = machine.open().await;
    assert_eq!(read_all(&disk, 0..8).await, [0; 8]);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_checkpoint_of_nothing() {
    let world = World::new();
    let machine = world.machine(1);
    let mut disk = machine.open().await;
    for round in 0..6 {
        if round % 2 == 1 {
            write(&disk, 0, round).await;
            disk.image().checkpoint().await.expect("a checkpoint");
        }
        if round == 4 {
            // Its commits come back from the buffer store.
            write(&disk, 1, round).await;
        }
        if round % 3 == 2 {
            disk.image().close().await.expect("it closes");
        }
        drop(disk);
        machine.crash(Crash::ProcessKill).await;
        disk = machine.open().await;
        for _ in 0..2 {
            let nothing = async {
                disk.flush(Durability::ObjectStore).await.expect("a flush");
                disk.image().checkpoint().await.expect("a checkpoint");
                // Neither of these changes anything.
                let durable = Acknowledge::Durable(Durability::ObjectStore);
                disk.write(5, Bytes::new(), durable).await.expect("a write");
                disk.trim(5, 90, durable).await.expect("a trim");
            };
            let waited = tokio::time::timeout(Duration::from_secs(60), nothing).await;
            waited.expect("nothing to wait for");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn growth_and_checkpoints_and_refusals_mix() {
    let world = World::new();
    let machine = world.machine(1);
    let small = EngineConfig {
        checkpoint_bytes: 32 << 10,
        ..config()
    };
    let disk = machine.try_open(small).await.expect("it opens").attach();
    let mut failing = 0_u64;
    world.objects.set_script(move |operation| {
        failing += 1;
        let denied = StoreError::Denied {
            reason: "scripted".to_owned(),
        };
        // Without a period that could meet the same request every time.
        match (failing * failing / 7 + failing) % 11 {
            0 if operation.kind != OperationKind::List => Verdict::Fail(denied),
            2 => Verdict::reply_lost(),
            3 => Verdict::unavailable(),
            _ => Verdict::Serve,
        }
    });
    let grown = disk.image().clone();
    let growing = tokio::spawn(async move {
        for step in 2..12 {
            grown.grow(step * super::world::IMAGE_BYTES).await?;
        }
        Ok::<_, crate::engine::EngineError>(())
    });
    for round in 1..20_u8 {
        for number in 0..20 {
            write(&disk, number * 7 % 50, round).await;
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    disk.flush(Durability::ObjectStore)
        .await
        .expect("it drains");
    growing.await.expect("no panic").expect("it grew");
    let expected = read_all(&disk, 0..50).await;
    world.objects.clear_script();
    drop(disk);
    machine.crash(Crash::PowerCut).await;
    let disk = machine.open().await;
    assert_eq!(disk.image().size_bytes(), 11 * super::world::IMAGE_BYTES);
    assert_eq!(read_all(&disk, 0..50).await, expected);
}
