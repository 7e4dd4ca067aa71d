//! D6: two servers never both publish, and the fenced one finds out.

use std::time::Duration;

use super::durability::takeover;
use super::world::{FLUSHED, World, config, page, read, write};
use crate::engine::{Acknowledge, Durability, EngineError};
use crate::env::memory::{Crash, Verdict};
use crate::env::{OperationKind, StoreError};
use crate::format::object_name::ObjectName;

#[tokio::test(start_paused = true)]
async fn a_fenced_server_is_fenced_and_nothing_of_it_is_seen() {
    let world = World::new();
    let (first, second) = (world.machine(1), world.machine(2));
    let old = first.open().await;
    write(&old, 0, 1).await;
    old.image().checkpoint().await.expect("a checkpoint");
    write(&old, 0, 2).await;
    takeover(&second).await;
    let new = second.open().await;
    assert_eq!(read(&new, 0).await, 1);
    // Its tenure was confirmed less than ten seconds ago; after that it asks.
    tokio::time::sleep(Duration::from_secs(11)).await;
    let fenced = old.write(0, page(3), Acknowledge::Buffered).await;
    assert!(
        matches!(fenced, Err(EngineError::Fenced { .. })),
        "{fenced:?}"
    );
    let fenced = old.flush(Durability::Local).await;
    assert!(
        matches!(fenced, Err(EngineError::Fenced { .. })),
        "{fenced:?}"
    );
    assert!(matches!(
        old.image().checkpoint().await,
        Err(EngineError::Fenced { .. })
    ));
    write(&new, 1, 7).await;
    new.image().checkpoint().await.expect("a checkpoint");
    assert_eq!(read(&new, 0).await, 1);
    // Its buffer store is refused when it comes back.
    drop(old);
    first.crash(crate::env::memory::Crash::ProcessKill).await;
    let refused = first
        .try_open(config())
        .await
        .err()
        .expect("not its history");
    assert!(refused.to_string().contains("takeover"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_of_a_fenced_server_fences_it_at_once() {
    let world = World::new();
    let (first, second) = (world.machine(1), world.machine(2));
    let old = first.open().await;
    write(&old, 0, 2).await;
    takeover(&second).await;
    assert!(matches!(
        old.image().checkpoint().await,
        Err(EngineError::Fenced { .. })
    ));
    assert!(matches!(
        old.image().close().await,
        Err(EngineError::Fenced { .. })
    ));
    let new = second.open().await;
    assert_eq!(read(&new, 0).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_restart_on_the_same_buffer_needs_no_takeover() {
    let world = World::new();
    let first = world.machine(1);
    let disk = first.open().await;
    write(&disk, 0, 1).await;
    for round in 2..6 {
        drop(disk_of(&first, round).await);
    }
    let disk = disk_of(&first, 6).await;
    assert_eq!(read(&disk, 0).await, 6);
}

async fn disk_of(machine: &super::world::Machine, byte: u8) -> crate::engine::Attachment {
    machine.crash(crate::env::memory::Crash::ProcessKill).await;
    let disk = machine.open().await;
    write(&disk, 0, byte).await;
    disk
}

/// The active writer may let go of what a fenced one still reads, before that has noticed.
#[tokio::test(start_paused = true)]
async fn a_fenced_server_whose_objects_are_gone_says_that_it_is_fenced() {
    for reads in [true, false] {
        let world = World::new();
        let (first, second) = (world.machine(1), world.machine(2));
        let old = first.open().await;
        write(&old, 0, 1).await;
        old.image().checkpoint().await.expect("a checkpoint");
        // Nothing of it is in memory any more.
        first.crash(Crash::ProcessKill).await;
        let old = first.open().await;
        takeover(&second).await;
        let new = second.open().await;
        write(&new, 0, 2).await;
        new.image().checkpoint().await.expect("a checkpoint");
        for key in world.objects.keys() {
            if ObjectName::parse(&key).is_ok_and(|name| name.epoch.0 == 1) {
                world.objects.remove(&key);
            }
        }
        let fenced = if reads {
            old.read(0, 512).await.map(drop)
        } else {
            let half = page(3).slice(..512);
            old.write(0, half, Acknowledge::Buffered).await
        };
        assert!(
            matches!(fenced, Err(EngineError::Fenced { .. })),
            "{fenced:?}"
        );
        let fenced = old.flush(Durability::Local).await;
        assert!(
            matches!(fenced, Err(EngineError::Fenced { .. })),
            "{fenced:?}"
        );
        assert_eq!(read(&new, 0).await, 2);
    }
}

/// Who is the active writer is told what is wrong with the store, and goes on.
#[tokio::test(start_paused = true)]
async fn a_lost_object_fences_nobody() {
    let world = World::new();
    let machine = world.machine(1);
    let disk = machine.open().await;
    write(&disk, 0, 1).await;
    disk.image().checkpoint().await.expect("a checkpoint");
    machine.crash(Crash::ProcessKill).await;
    let disk = machine.open().await;
    for key in world.objects.keys() {
        if ObjectName::parse(&key).is_ok() {
            world.objects.remove(&key);
        }
    }
    let lost = disk.read(0, 512).await.map(drop);
    assert!(
        matches!(lost, Err(EngineError::Unreadable { .. })),
        "{lost:?}"
    );
    disk.write(4096, page(2), FLUSHED).await.expect("a write");
    assert_eq!(read(&disk, 1).await, 2);
}

/// A checkpoint that the store refuses is not tried again and again by who is fenced.
#[tokio::test(start_paused = true)]
async fn a_fenced_server_whose_checkpoint_is_refused_says_that_it_is_fenced() {
    let world = World::new();
    let (first, second) = (world.machine(1), world.machine(2));
    let old = first.open().await;
    write(&old, 0, 2).await;
    takeover(&second).await;
    world.objects.set_script(|operation| match operation.kind {
        OperationKind::Put => Verdict::Fail(StoreError::Denied {
            reason: "no".to_owned(),
        }),
        _ => Verdict::Serve,
    });
    let limit = Duration::from_secs(5);
    let refused = tokio::time::timeout(limit, old.image().checkpoint()).await;
    assert!(
        matches!(refused, Ok(Err(EngineError::Fenced { .. }))),
        "{refused:?}"
    );
}
