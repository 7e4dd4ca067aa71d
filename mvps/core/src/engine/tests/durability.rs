//! D1–D5: what is read, what survives.

use bytes::Bytes;

use super::world::{FLUSHED, PAGE, World, config, page, read, read_all, settle, write};
use crate::engine::{Acknowledge, Durability, EngineConfig, EngineError};
use crate::env::memory::{BufferFault, Crash, Verdict};

#[tokio::test(start_paused = true)]
async fn an_acknowledged_write_is_read_on_every_connection() {
    let machine = World::new().machine(1);
    let one = machine.open().await;
    let other = one.image().attach();
    write(&one, 3, 7).await;
    assert_eq!(read(&other, 3).await, 7);
    assert_eq!(read(&other, 4).await, 0);
}

#[tokio::test(start_paused = true)]
async fn unaligned_writes_touch_exactly_their_bytes() {
    let machine = World::new().machine(1);
    let disk = machine.open().await;
    for (checkpointed, base) in [(false, 0_u64), (true, 100)] {
        let start = base * PAGE as u64;
        write(&disk, base, 1).await;
        write(&disk, base + 1, 2).await;
        write(&disk, base + 2, 3).await;
        if checkpointed {
            disk.image().checkpoint().await.expect("a checkpoint");
        }
        let data = Bytes::from(vec![9; PAGE + 20]);
        disk.write(start + 4000, data, Acknowledge::Buffered)
            .await
            .expect("a write");
        let got = disk
            .read(start, 3 * PAGE as u32)
            .await
            .expect("a read")
            .into_bytes();
        let mut expected = [vec![1; PAGE], vec![2; PAGE], vec![3; PAGE]].concat();
        expected[4000..4000 + PAGE + 20].fill(9);
        assert_eq!(got, expected, "checkpointed: {checkpointed}");
    }
}

#[tokio::test(start_paused = true)]
async fn patches_of_one_page_in_flight_together_all_take_effect() {
    let machine = World::new().machine(1);
    let disk = machine.open().await;
    write(&disk, 0, 1).await;
    disk.image().checkpoint().await.expect("a checkpoint");
    let writes = (0..64_u64).map(|index| {
        let data = Bytes::from(vec![index as u8 + 10; 64]);
        disk.write(index * 64, data, Acknowledge::Buffered)
    });
    for outcome in futures_util::future::join_all(writes).await {
        outcome.expect("a write");
    }
    let got = disk
        .read(0, PAGE as u32)
        .await
        .expect("a read")
        .into_bytes();
    let expected: Vec<u8> = (0..PAGE).map(|byte| (byte / 64) as u8 + 10).collect();
    assert_eq!(got, expected);
}

#[tokio::test(start_paused = true)]
async fn trim_frees_whole_pages_and_zeroes_are_exact_wherever_the_pages_are() {
    let machine = World::new().machine(1);
    let disk = machine.open().await;
    for checkpointed in [false, true] {
        for number in 0..8 {
            write(&disk, number, 5).await;
        }
        if checkpointed {
            disk.image().checkpoint().await.expect("a checkpoint");
        }
        let size = PAGE as u64;
        disk.trim(size - 1, 2 * size + 2, Acknowledge::Buffered)
            .await
            .expect("a trim");
        assert_eq!(read_all(&disk, 0..4).await, [5, 0, 0, 5]);
        disk.write_zeroes(4 * size + 1, size, Acknowledge::Buffered)
            .await
            .expect("zeroes");
        let got = disk
            .read(4 * size, 2 * PAGE as u32)
            .await
            .expect("a read")
            .into_bytes();
        assert_eq!((got[0], got[1], got[PAGE], got[PAGE + 1]), (5, 0, 0, 5));
        disk.image().checkpoint().await.expect("a checkpoint");
        assert_eq!(read_all(&disk, 0..4).await, [5, 0, 0, 5]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_kill_loses_nothing_acknowledged() {
    let machine = World::new().machine(1);
    let disk = machine.open().await;
    write(&disk, 1, 1).await;
    disk.image().checkpoint().await.expect("a checkpoint");
    write(&disk, 2, 2).await;
    write(&disk, 1, 3).await;
    disk.trim(3 * PAGE as u64, PAGE as u64, Acknowledge::Buffered)
        .await
        .expect("a trim");
    drop(disk);
    machine.crash(Crash::ProcessKill).await;
    let disk = machine.open().await;
    assert_eq!(read_all(&disk, 0..4).await, [0, 3, 2, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_keeps_a_prefix_with_everything_flushed() {
    for seed in 0..20 {
        let machine = World::new().machine(seed);
        let disk = machine.open().await;
        for number in 0..10 {
            write(&disk, number, 1).await;
        }
        disk.flush(Durability::Local).await.expect("a flush");
        for number in 10..20 {
            write(&disk, number, 1).await;
        }
        drop(disk);
        machine.crash(Crash::PowerCut).await;
        let disk = machine.open().await;
        let content = read_all(&disk, 0..20).await;
        let kept = content.iter().take_while(|byte| **byte == 1).count();
        assert!(kept >= 10, "{content:?}");
        assert!(content[kept..].iter().all(|byte| *byte == 0), "{content:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_forced_write_is_durable_alone() {
    for seed in 0..20 {
        let machine = World::new().machine(seed);
        let disk = machine.open().await;
        write(&disk, 0, 1).await;
        disk.write(PAGE as u64, page(2), FLUSHED)
            .await
            .expect("a forced write");
        drop(disk);
        machine.crash(Crash::PowerCut).await;
        let disk = machine.open().await;
        assert_eq!(read_all(&disk, 0..2).await, [1, 2]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_clean_image_opens_with_any_empty_buffer() {
    let world = World::new();
    let first = world.machine(1);
    let disk = first.open().await;
    for number in 0..200 {
        write(&disk, number, number as u8).await;
    }
    disk.image().close().await.expect("it closes");
    assert_eq!(
        disk.flush(Durability::Local).await,
        Err(EngineError::Closed)
    );
    let disk = world.machine(2).open().await;
    for number in 0..200 {
        assert_eq!(read(&disk, number).await, number as u8);
    }
}

#[tokio::test(start_paused = true)]
async fn flushed_to_the_object_store_survives_the_machine() {
    let world = World::new();
    let disk = world.machine(1).open().await;
    write(&disk, 0, 1).await;
    let durable = Acknowledge::Durable(Durability::ObjectStore);
    disk.write(PAGE as u64, page(2), durable)
        .await
        .expect("a forced write");
    write(&disk, 2, 3).await;
    drop(disk);
    let second = world.machine(2);
    let refused = second
        .try_open(config())
        .await
        .err()
        .expect("the other server may have data");
    assert!(
        refused.to_string().contains("mvps image takeover disk0"),
        "{refused}"
    );
    takeover(&second).await;
    let disk = second.open().await;
    assert_eq!(read_all(&disk, 0..3).await, [1, 2, 0]);
}

pub(super) async fn takeover(machine: &super::world::Machine) {
    let environment = &machine.host.environment;
    let manifests = crate::protocol::ManifestStore::new(machine.host.store.clone());
    crate::admin::takeover(
        &manifests,
        &*environment.clock,
        &*environment.entropy,
        &super::world::image(),
    )
    .await
    .expect("the takeover is published");
}

#[tokio::test(start_paused = true)]
async fn a_failed_sync_stops_writes_and_not_reads() {
    let machine = World::new().machine(1);
    let disk = machine.open().await;
    write(&disk, 0, 1).await;
    machine
        .buffers
        .script(&super::world::image(), BufferFault::SyncFails);
    let failed = disk.flush(Durability::Local).await;
    assert!(
        matches!(failed, Err(EngineError::Poisoned { .. })),
        "{failed:?}"
    );
    let failed = disk.write(0, page(2), Acknowledge::Buffered).await;
    assert!(
        matches!(failed, Err(EngineError::Poisoned { .. })),
        "{failed:?}"
    );
    assert_eq!(read(&disk, 0).await, 1);
}

#[tokio::test(start_paused = true)]
async fn writes_wait_at_the_buffer_limit_and_go_on_when_there_is_room() {
    let world = World::new();
    let machine = world.machine(1);
    let limited = EngineConfig {
        buffer_limit_bytes: 256 << 10,
        ..config()
    };
    let disk = machine.try_open(limited).await.expect("it opens").attach();
    world.objects.set_script(|_| Verdict::unavailable());
    let many = futures_util::future::join_all((0..100).map(|number| write(&disk, number, 1)));
    let waited = tokio::time::timeout(std::time::Duration::from_secs(60), many).await;
    assert!(waited.is_err(), "the buffer has room for about sixty pages");
    assert_eq!(read(&disk, 0).await, 1);
    world.objects.clear_script();
    disk.image()
        .checkpoint()
        .await
        .expect("a checkpoint makes room");
    settle().await;
    write(&disk, 200, 2).await;
    assert_eq!(read(&disk, 200).await, 2);
}
