//! D2 and isolation: transactions are atomic, serializable by page, and the lock has one holder.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::world::{PAGE, World, config, page, read, read_all, write};
use crate::engine::transaction_budget::TransactionBudget;
use crate::engine::{Acknowledge, Attachment, EngineConfig, EngineError, Transaction};
use crate::env::OperationKind;
use crate::env::memory::{Crash, Verdict};

async fn set(transaction: &Transaction, number: u64, byte: u8) {
    transaction
        .write(number * PAGE as u64, page(byte))
        .await
        .expect("a write");
}

async fn get(transaction: &Transaction, number: u64) -> u8 {
    let content = transaction
        .read(number * PAGE as u64, PAGE as u32)
        .await
        .expect("a read");
    content.into_bytes()[0]
}

async fn begin(disk: &Attachment) -> Transaction {
    disk.begin().await.expect("a transaction")
}

async fn commit(transaction: Transaction) -> Result<(), EngineError> {
    transaction.commit(Acknowledge::Buffered).await
}

#[tokio::test(start_paused = true)]
async fn a_transaction_reads_its_snapshot_and_its_own_writes() {
    let disk = World::new().machine(1).open().await;
    write(&disk, 0, 1).await;
    let transaction = begin(&disk).await;
    write(&disk, 0, 2).await;
    set(&transaction, 1, 9).await;
    assert_eq!(
        (get(&transaction, 0).await, get(&transaction, 1).await),
        (1, 9)
    );
    assert_eq!(read_all(&disk, 0..2).await, [2, 0]);
    drop(transaction);
    assert_eq!(read_all(&disk, 0..2).await, [2, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_read_page_that_changed_is_a_conflict_even_across_a_checkpoint() {
    for checkpoint in [false, true] {
        for trimmed in [false, true] {
            let disk = World::new().machine(1).open().await;
            write(&disk, 0, 1).await;
            let transaction = begin(&disk).await;
            get(&transaction, 0).await;
            set(&transaction, 1, 1).await;
            if trimmed {
                disk.trim(0, PAGE as u64, Acknowledge::Buffered)
                    .await
                    .expect("a trim");
            } else {
                write(&disk, 0, 2).await;
            }
            if checkpoint {
                disk.image().checkpoint().await.expect("a checkpoint");
            }
            assert_eq!(commit(transaction).await, Err(EngineError::Conflict));
            assert_eq!(read(&disk, 1).await, 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn blind_writes_do_not_conflict_and_a_partial_write_reads_its_page() {
    let disk = World::new().machine(1).open().await;
    let blind = begin(&disk).await;
    set(&blind, 0, 5).await;
    let partial = begin(&disk).await;
    partial
        .write(PAGE as u64 + 10, page(6).slice(..10))
        .await
        .expect("a write");
    write(&disk, 0, 1).await;
    write(&disk, 1, 1).await;
    assert_eq!(commit(blind).await, Ok(()));
    assert_eq!(commit(partial).await, Err(EngineError::Conflict));
    assert_eq!(read_all(&disk, 0..2).await, [5, 1]);
}

#[tokio::test(start_paused = true)]
async fn of_two_that_read_and_write_the_same_page_one_commits() {
    let disk = World::new().machine(1).open().await;
    let (one, other) = (begin(&disk).await, begin(&disk).await);
    for transaction in [&one, &other] {
        let value = get(transaction, 0).await;
        set(transaction, 0, value + 1).await;
    }
    let outcomes = futures_util::future::join(commit(one), commit(other)).await;
    assert_eq!(outcomes, (Ok(()), Err(EngineError::Conflict)));
    assert_eq!(read(&disk, 0).await, 1);
}

#[tokio::test(start_paused = true)]
async fn the_lock_makes_others_wait_and_the_commit_certain() {
    let disk = World::new().machine(1).open().await;
    let transaction = begin(&disk).await;
    get(&transaction, 1).await;
    write(&disk, 0, 1).await;
    transaction.lock().await.expect("the lock is free");
    // Page 0 changed before the lock, after the transaction began: it continues from there.
    assert_eq!(get(&transaction, 0).await, 1);
    set(&transaction, 0, 2).await;
    let other = disk.image().attach();
    let (committed, ()) = tokio::join!(
        async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(read(&disk, 0).await, 1, "the other write waits");
            commit(transaction).await
        },
        write(&other, 0, 3),
    );
    assert_eq!(committed, Ok(()));
    assert_eq!(read(&disk, 0).await, 3);
}

#[tokio::test(start_paused = true)]
async fn locks_are_granted_in_order_and_a_lock_held_too_long_is_broken() {
    let quick = EngineConfig {
        lock_held_max: Duration::from_secs(5),
        ..config()
    };
    let disk = World::new()
        .machine(1)
        .try_open(quick)
        .await
        .expect("it opens")
        .attach();
    let (first, second) = (begin(&disk).await, begin(&disk).await);
    first.lock().await.expect("the lock is free");
    second
        .lock()
        .await
        .expect("the lock is broken after five seconds");
    assert!(matches!(
        commit(first).await,
        Err(EngineError::Aborted { .. })
    ));
    set(&second, 0, 2).await;
    assert_eq!(commit(second).await, Ok(()));
    assert_eq!(read(&disk, 0).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_lock_after_a_conflict_is_refused() {
    let disk = World::new().machine(1).open().await;
    let transaction = begin(&disk).await;
    get(&transaction, 0).await;
    write(&disk, 0, 1).await;
    assert_eq!(transaction.lock().await, Err(EngineError::Conflict));
    drop(transaction);
    write(&disk, 0, 2).await;
}

#[tokio::test(start_paused = true)]
async fn dropping_the_holder_frees_the_lock() {
    let disk = World::new().machine(1).open().await;
    let transaction = begin(&disk).await;
    transaction.lock().await.expect("the lock is free");
    drop(transaction);
    write(&disk, 0, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_transaction_has_limits() {
    let small = EngineConfig {
        transaction_bytes_max: 2 * PAGE as u64,
        transactions_max: 1,
        transaction_age_max: Duration::from_secs(10),
        ..config()
    };
    let disk = World::new()
        .machine(1)
        .try_open(small)
        .await
        .expect("it opens")
        .attach();
    let transaction = begin(&disk).await;
    assert!(matches!(
        disk.begin().await.err(),
        Some(EngineError::TransactionTooLarge { .. })
    ));
    set(&transaction, 0, 1).await;
    set(&transaction, 1, 1).await;
    let refused = transaction.write(2 * PAGE as u64, page(1)).await;
    assert!(matches!(
        refused,
        Err(EngineError::TransactionTooLarge { .. })
    ));
    tokio::time::sleep(Duration::from_secs(11)).await;
    let aborted = transaction.read(0, PAGE as u32).await;
    assert!(
        matches!(aborted, Err(EngineError::Aborted { .. })),
        "{aborted:?}"
    );
    assert!(matches!(
        commit(transaction).await,
        Err(EngineError::Aborted { .. })
    ));
    assert_eq!(read(&disk, 0).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_crash_keeps_a_transaction_whole_or_not_at_all() {
    for seed in 0..30 {
        let machine = World::new().machine(seed);
        let disk = machine.open().await;
        for round in 1..=5 {
            let transaction = begin(&disk).await;
            for number in 0..10 {
                set(&transaction, number, round).await;
            }
            commit(transaction).await.expect("no conflict");
        }
        drop(disk);
        machine.crash(Crash::PowerCut).await;
        let disk = machine.open().await;
        let content = read_all(&disk, 0..10).await;
        assert!(
            content.iter().all(|byte| *byte == content[0]),
            "{content:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_revoked_connection_takes_effect() {
    let disk = World::new().machine(1).open().await;
    let old = disk.image().attach();
    let transaction = begin(&old).await;
    transaction.lock().await.expect("the lock is free");
    set(&transaction, 0, 1).await;
    old.revoke().await;
    // The lock went with the connection.
    write(&disk, 1, 1).await;
    let late = old.write(0, page(9), Acknowledge::Buffered).await;
    assert!(matches!(late, Err(EngineError::Aborted { .. })), "{late:?}");
    assert!(commit(transaction).await.is_err());
    assert_eq!(read_all(&disk, 0..2).await, [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn who_holds_the_lock_may_ask_for_it_again() {
    let disk = World::new().machine(1).open().await;
    let holder = begin(&disk).await;
    set(&holder, 0, 1).await;
    holder.lock().await.expect("nobody has it");
    let other = begin(&disk).await;
    let waiting = tokio::spawn(async move {
        let locked = other.lock().await;
        drop(other);
        locked
    });
    super::world::settle().await;
    let again = tokio::time::timeout(Duration::from_secs(1), holder.lock()).await;
    assert_eq!(again, Ok(Ok(())), "it would wait for itself");
    assert_eq!(get(&holder, 0).await, 1);
    commit(holder).await.expect("a commit under the lock");
    assert_eq!(waiting.await.expect("no panic"), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn what_open_transactions_write_together_is_limited() {
    let mut machine = World::new().machine(1);
    machine.host.transaction_budget =
        TransactionBudget::with_limits(3 * PAGE as u64, 4 * PAGE as u64);
    let disk = machine.open().await;
    let (one, two) = (begin(&disk).await, begin(&disk).await);
    set(&one, 0, 1).await;
    set(&one, 1, 1).await;
    set(&two, 2, 2).await;
    let refused = two.write(3 * PAGE as u64, page(2)).await;
    assert!(matches!(
        refused,
        Err(EngineError::TransactionTooLarge { .. })
    ));
    // The refusal took nothing away, and whoever ends gives back what it had.
    drop(one);
    set(&two, 3, 2).await;
    commit(two).await.expect("within the limit");
    let three = begin(&disk).await;
    for number in 0..3 {
        set(&three, number, 3).await;
    }
    commit(three).await.expect("within the limit");
    assert_eq!(read_all(&disk, 0..4).await, [3, 3, 3, 2]);
}

/// Its client may never ask for anything again.
#[tokio::test(start_paused = true)]
async fn an_aborted_transaction_gives_its_room_back_at_once() {
    let mut machine = World::new().machine(1);
    machine.host.transaction_budget =
        TransactionBudget::with_limits(3 * PAGE as u64, 4 * PAGE as u64);
    let disk = machine.open().await;
    let old = begin(&disk).await;
    set(&old, 0, 1).await;
    set(&old, 1, 1).await;
    let new = begin(&disk).await;
    let two = vec![2; 2 * PAGE];
    let written = new.write(0, two.clone().into()).await;
    assert!(matches!(
        written,
        Err(EngineError::TransactionTooLarge { .. })
    ));
    drop(new);
    tokio::time::sleep(config().transaction_age_max).await;
    let new = begin(&disk).await;
    new.write(0, two.into()).await.expect("there is room");
    assert!(matches!(
        commit(old).await,
        Err(EngineError::Aborted { .. })
    ));
    commit(new).await.expect("a commit");
    assert_eq!(read_all(&disk, 0..2).await, [2, 2]);
}

/// It would keep what was written in memory, uncounted.
#[tokio::test(start_paused = true)]
async fn a_read_under_way_keeps_the_room_of_its_aborted_transaction() {
    let world = World::new();
    let disk = world.machine(1).open().await;
    write(&disk, 5, 5).await;
    disk.image().close().await.expect("it closes");
    let mut machine = world.machine(2);
    machine.host.transaction_budget =
        TransactionBudget::with_limits(2 * PAGE as u64, 2 * PAGE as u64);
    let disk = machine.open().await;
    let old = Arc::new(begin(&disk).await);
    set(&old, 0, 1).await;
    world.objects.set_script(|operation| match operation.kind {
        OperationKind::GetRange => Verdict::Hang,
        _ => Verdict::Serve,
    });
    let reader = Arc::clone(&old);
    let read = tokio::spawn(async move { reader.read(0, 6 * PAGE as u32).await });
    tokio::time::sleep(config().transaction_age_max).await;
    let new = begin(&disk).await;
    set(&new, 1, 2).await;
    let more = new.write(2 * PAGE as u64, page(2)).await;
    assert!(matches!(more, Err(EngineError::TransactionTooLarge { .. })));
    assert!(!read.is_finished());
    read.abort();
    let _ = read.await;
    set(&new, 2, 2).await;
}

/// What a client wrote at once, until nothing of it is kept.
struct Payload(Vec<u8>, Arc<AtomicBool>);

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Payload {
    fn drop(&mut self) {
        self.1.store(true, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_a_large_write_does_not_keep_the_rest_in_memory() {
    let disk = World::new().machine(1).open().await;
    for kept_pages in [1_u64, 60] {
        let is_gone = Arc::new(AtomicBool::new(false));
        let payload = Payload(vec![7; 64 * PAGE], Arc::clone(&is_gone));
        let transaction = begin(&disk).await;
        let write = transaction.write(0, Bytes::from_owner(payload));
        write.await.expect("a write");
        let rest = (64 - kept_pages) * PAGE as u64;
        transaction.trim(0, rest).await.expect("a trim");
        commit(transaction).await.expect("a commit");
        assert_eq!(read_all(&disk, 0..1).await, [0]);
        assert_eq!(read_all(&disk, 63..64).await, [7]);
        // What is nearly all of it is not copied.
        assert_eq!(is_gone.load(Ordering::SeqCst), kept_pages == 1);
    }
}
