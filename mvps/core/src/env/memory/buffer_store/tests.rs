use super::*;
use crate::env::conformance;
use crate::env::memory::SeededEntropy;
use crate::env::{BufferRecord, RecordHeader};
use crate::ids::{Lsn, PageNumber};

fn seeded(seed: u64) -> SeededEntropy {
    SeededEntropy::new(seed)
}

fn image() -> ImageId {
    ImageId::parse("disk").unwrap()
}

fn batch(lsn: u64) -> BufferBatch {
    let at = RecordRef {
        first: PageNumber(lsn),
        lsn: Lsn(lsn),
    };
    BufferBatch {
        last_lsn: Lsn(lsn),
        records: vec![BufferRecord {
            at,
            run: PageRun::Data(Bytes::from(vec![lsn as u8; 4096])),
        }],
    }
}

async fn open(stores: &MemoryBufferStores) -> Recovered {
    stores.open(&image()).await.unwrap()
}

/// LSNs over all generations, in order.
fn lsns(recovered: &Recovered) -> Vec<u64> {
    let records = recovered.generations.iter().flat_map(|g| &g.records);
    let mut lsns: Vec<u64> = records.map(|r| r.at.lsn.0).collect();
    lsns.sort_unstable();
    lsns
}

#[tokio::test]
async fn conforms() {
    let stores = MemoryBufferStores::new();
    conformance::check_buffer_stores(&|| Arc::new(stores.clone())).await;
}

#[tokio::test]
async fn a_power_cut_leaves_a_prefix_with_everything_synced() {
    let mut outcomes = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let stores = MemoryBufferStores::new();
        let recovered = open(&stores).await;
        for lsn in 1..=10 {
            recovered.store.commit(batch(lsn)).await.unwrap();
            if lsn == 4 {
                recovered.store.sync().await.unwrap();
            }
            if lsn == 3 || lsn == 7 {
                recovered.store.seal().await.unwrap();
            }
        }
        stores.crash(Crash::PowerCut, &seeded(seed));
        let found = lsns(&open(&stores).await);
        let expected: Vec<u64> = (1..=found.len() as u64).collect();
        assert_eq!(found, expected, "seed {seed}");
        outcomes.insert(found.len());
    }
    assert_eq!(
        outcomes.into_iter().collect::<Vec<_>>(),
        [4, 5, 6, 7, 8, 9, 10]
    );
}

#[tokio::test]
async fn a_process_kill_loses_nothing_but_what_was_unsynced_stays_so() {
    let stores = MemoryBufferStores::new();
    let recovered = open(&stores).await;
    recovered.store.commit(batch(1)).await.unwrap();
    stores.crash(Crash::ProcessKill, &seeded(0));
    let recovered = open(&stores).await;
    assert_eq!(lsns(&recovered), [1]);
    assert_eq!(stores.unsynced(&image()), 1);
    recovered.store.sync().await.unwrap();
    assert_eq!(stores.unsynced(&image()), 0);
}

#[tokio::test]
async fn stores_and_handles_of_before_a_crash_are_dead() {
    let stores = MemoryBufferStores::new();
    let old = open(&stores).await;
    old.store.commit(batch(1)).await.unwrap();
    stores.crash(Crash::ProcessKill, &seeded(0));
    let new = open(&stores).await;
    let commit = old.store.commit(batch(2)).await;
    assert!(
        matches!(commit, Err(BufferError::Poisoned { .. })),
        "{commit:?}"
    );
    let read = old.generations[0]
        .handle
        .read(batch(1).records[0].at, 0..4096);
    assert!(
        matches!(read, Err(BufferError::Poisoned { .. })),
        "{read:?}"
    );
    drop(old);
    let again = stores.open(&image()).await.err();
    assert!(
        matches!(again, Some(BufferError::Locked { .. })),
        "{again:?}"
    );
    new.store.commit(batch(2)).await.unwrap();
}

#[tokio::test]
async fn an_unsynced_drop_may_come_back_whole() {
    let mut outcomes = std::collections::BTreeSet::new();
    for seed in 0..50 {
        let stores = MemoryBufferStores::new();
        let recovered = open(&stores).await;
        recovered.store.commit(batch(1)).await.unwrap();
        let (sealed, _) = recovered.store.seal().await.unwrap();
        recovered.store.sync().await.unwrap();
        recovered.store.drop_generation(sealed).await.unwrap();
        stores.crash(Crash::PowerCut, &seeded(seed));
        outcomes.insert(lsns(&open(&stores).await));
    }
    assert_eq!(outcomes.into_iter().collect::<Vec<_>>(), [vec![], vec![1]]);
}

#[tokio::test]
async fn scripted_failures_poison_and_reads_go_on() {
    for fault in [BufferFault::WriteFails, BufferFault::SyncFails] {
        let stores = MemoryBufferStores::new();
        let recovered = open(&stores).await;
        let store = &recovered.store;
        store.commit(batch(1)).await.unwrap();
        stores.script(&image(), fault);
        let failed = match fault {
            BufferFault::SyncFails => store.sync().await,
            _ => store.commit(batch(2)).await,
        };
        assert!(
            matches!(failed, Err(BufferError::Poisoned { .. })),
            "{fault:?} gave {failed:?}"
        );
        let later = store.commit(batch(3)).await;
        assert!(
            matches!(later, Err(BufferError::Poisoned { .. })),
            "{later:?}"
        );
        let later = store.sync().await;
        assert!(
            matches!(later, Err(BufferError::Poisoned { .. })),
            "{later:?}"
        );
        let handle = &recovered.generations[0].handle;
        assert_eq!(handle.read(batch(1).records[0].at, 0..4096).unwrap()[0], 1);
        stores.crash(Crash::PowerCut, &seeded(1));
        assert!(
            lsns(&open(&stores).await).len() <= 1,
            "nothing failed was applied"
        );
    }
}

#[tokio::test]
async fn a_full_disk_takes_the_same_batch_once_there_is_room() {
    let stores = MemoryBufferStores::new();
    let recovered = open(&stores).await;
    stores.script(&image(), BufferFault::DiskFull);
    let full = recovered.store.commit(batch(1)).await;
    assert!(matches!(full, Err(BufferError::Full { .. })), "{full:?}");
    recovered.store.commit(batch(1)).await.unwrap();
    recovered.store.sync().await.unwrap();
}

#[tokio::test]
async fn reading_fails_once_and_rot_stays() {
    let stores = MemoryBufferStores::new();
    let recovered = open(&stores).await;
    recovered.store.commit(batch(1)).await.unwrap();
    let handle = &recovered.generations[0].handle;
    let at = batch(1).records[0].at;
    stores.script(&image(), BufferFault::ReadFails);
    assert!(matches!(
        handle.read(at, 0..4096),
        Err(BufferError::Io { .. })
    ));
    handle.read(at, 0..4096).unwrap();
    assert_eq!(stores.rot(&image(), &seeded(3)), Some((Generation(1), at)));
    for _ in 0..2 {
        let read = handle.read(at, 0..4096);
        assert!(matches!(read, Err(BufferError::Corrupt { .. })), "{read:?}");
    }
}

#[tokio::test]
async fn stores_can_be_lost_rolled_back_and_swapped() {
    let stores = MemoryBufferStores::new();
    let recovered = open(&stores).await;
    recovered.store.commit(batch(1)).await.unwrap();
    let copy = stores.copy(&image()).unwrap();
    recovered.store.commit(batch(2)).await.unwrap();
    stores.restore(&image(), &copy);
    assert_eq!(lsns(&open(&stores).await), [1]);

    let other = ImageId::parse("other").unwrap();
    stores.swap(&image(), &other);
    assert!(lsns(&open(&stores).await).is_empty());
    let swapped = stores.open(&other).await.unwrap();
    assert_eq!(
        swapped.generations[0].records[0].header,
        RecordHeader::Data { bytes: 4096 }
    );

    stores.damage(&other);
    stores.crash(Crash::ProcessKill, &seeded(0));
    let damaged = stores.open(&other).await.err();
    assert!(
        matches!(damaged, Some(BufferError::Corrupt { .. })),
        "{damaged:?}"
    );
    stores.lose(&other);
    assert!(lsns(&stores.open(&other).await.unwrap()).is_empty());
}
